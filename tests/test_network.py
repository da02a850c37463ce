"""The bridge and the links in namespaces of the test's own, and what is put right after a hand was in them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyroute2 import netns as namespaces

from labkit import Lab
from labkit.checks import failed
from labkit.core.journal import Journal, lock
from labkit.errors import StateError
from labkit.farm import network
from labkit.farm.network import host, isolation, links, topology
from labkit.kernel.netns import inside, within
from tests.conftest import lab_maker, open_place
from tests.netlink import netlink
from tests.test_host import add_link

Damage = Callable[[Lab], None]
#: rtnetlink(7): NUD_INCOMPLETE, an address that has been asked for and not found yet.
INCOMPLETE = 1


@pytest.fixture
def small(make_lab: Callable[..., Lab]) -> Lab:
    """A lab of one site on two replicas; nothing is made yet."""
    return make_lab(sites=["red"])


@pytest.fixture
def wired(small: Lab) -> Lab:
    """That lab with its network, and without a container."""
    network.connect(small)
    return small


@pytest.fixture(scope="module")
def standing() -> Iterator[Lab]:
    """Such a lab for the tests that leave its network as they found it."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make(sites=["red"])
        network.connect(lab)
        yield lab


def indexes(lab: Lab) -> dict[str, int]:
    """The interfaces of the host's side by name: a new interface has a new index."""
    with netlink(lab.netns) as ipr:
        return {link.get_attr("IFLA_IFNAME"): link["index"] for link in ipr.get_links()}


def change(netns: str | None, name: str, **settings: object) -> None:
    """Sets an interface by hand."""
    with netlink(netns) as ipr:
        ipr.link("set", index=ipr.link_lookup(ifname=name)[0], **settings)


def delete_link(lab: Lab) -> None:
    """`ip link del` on the first replica's link."""
    with netlink(lab.netns) as ipr:
        ipr.link("del", index=ipr.link_lookup(ifname=lab.farm[0].link)[0])


def delete_bridge(lab: Lab) -> None:
    """`ip link del` on the bridge."""
    with netlink(lab.netns) as ipr:
        ipr.link("del", index=ipr.link_lookup(ifname=lab.bridge)[0])


def flush(netns: str | None, name: str) -> None:
    """`ip address flush`."""
    with netlink(netns) as ipr:
        ipr.flush_addr(index=ipr.link_lookup(ifname=name)[0])


def delete_default(lab: Lab) -> None:
    """`ip route del default` in the first replica's namespace."""
    with netlink(lab.farm[0].netns) as ipr:
        ipr.route("del", dst="default", gateway=str(lab.gateway.ip))


def delete_namespace(lab: Lab) -> None:
    """`ip netns del` on the first replica's."""
    namespaces.remove(lab.farm[0].netns)


def unmove(lab: Lab) -> None:
    """As a labkit leaves it that was killed between making a pair and moving its peer away."""
    delete_link(lab)
    with netlink(lab.netns) as ipr:
        ipr.link("add", ifname=lab.farm[0].link, kind="veth", peer={"ifname": "p3c000b"})


DAMAGES: dict[str, Damage] = {
    "peer not moved": unmove,
    "link deleted": delete_link,
    "address in the container removed": lambda lab: flush(lab.farm[0].netns, "eth0"),
    "address of the bridge removed": lambda lab: flush(lab.netns, lab.bridge),
    "bridge down": lambda lab: change(lab.netns, lab.bridge, state="down"),
    "link down": lambda lab: change(lab.netns, lab.farm[0].link, state="down"),
    "link out of the bridge": lambda lab: change(lab.netns, lab.farm[0].link, master=0),
    "eth0 down": lambda lab: change(lab.farm[0].netns, "eth0", state="down"),
    "default route deleted": delete_default,
    "namespace deleted": delete_namespace,
}


@pytest.mark.root
def test_bridge_and_links_are_as_described(small: Lab) -> None:
    """From nothing at all: names, addresses, MAC addresses, no port besides, and all in the journal."""
    before = {path.name for path in Path("/run/netns").iterdir()}
    result = network.connect(small)
    assert result.changed
    assert failed(result.checks) == ()
    seen = result.value
    assert (seen.up, seen.addresses) == (True, ("10.60.0.1/24",))
    assert seen.ports == tuple(sorted(replica.link for replica in small.farm))
    assert [(port.replica, port.peer, port.addresses, port.mac) for port in seen.links] == [
        ("red-1", "eth0", ("10.60.0.11/24",), small.farm[0].mac),
        ("red-2", "eth0", ("10.60.0.21/24",), small.farm[1].mac),
    ]
    assert len(result.table("links").rows) == 2
    made = {path.name for path in Path("/run/netns").iterdir()} - before
    mine = {name for name in made if name.startswith(small.name)}
    entries = Journal.of(small).standing()
    assert mine == {entry.what["name"] for entry in entries if entry.kind == "netns"}
    named = {entry.what["name"] for entry in entries if entry.kind == "link"}
    assert named == {small.bridge, *(replica.link for replica in small.farm)}


@pytest.mark.root
def test_second_run_changes_nothing(standing: Lab) -> None:
    """The same interfaces, and a journal that has not grown."""
    before, journal = indexes(standing), standing.journal_file.read_bytes()
    result = network.connect(standing)
    assert result.changed is False
    assert result.holds
    assert indexes(standing) == before
    assert standing.journal_file.read_bytes() == journal


@pytest.mark.root
def test_pings_are_answered_both_ways(standing: Lab) -> None:
    """Two for each replica, each with the time that it took and the row that it answers."""
    result = network.ping(standing)
    assert failed(result.checks) == ()
    assert {check.name for check in result.checks} == {
        f"network.ping.{name}.{way}" for name in ("red-1", "red-2") for way in ("out", "back")
    }
    assert all("R10" in check.rows for check in result.checks)
    assert len(result.value.milliseconds) == 4
    assert min(result.value.milliseconds.values()) > 0


@pytest.mark.root
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_a_hand_broke_is_told_and_put_right(standing: Lab, damage: Damage) -> None:
    """Just that: the second replica's link and the bridge are the same interfaces as before."""
    before = indexes(standing)
    damage(standing)
    assert failed(topology.checks(standing, links.observe(standing)))
    result = network.connect(standing)
    assert result.changed
    assert failed(result.checks) == ()
    assert (
        isolation.probed(standing).uncounted == ()
    )  # nor does the other one ask an address that the bridge had before
    assert network.ping(standing).holds
    after = indexes(standing)
    assert {name for name in before if after.get(name) != before[name]} <= {standing.farm[0].link}
    assert network.connect(standing).changed is False


@pytest.mark.root
def test_a_deleted_bridge_is_made_anew_around_the_links(wired: Lab) -> None:
    """The links themselves are the same interfaces as before."""
    before = indexes(wired)
    delete_bridge(wired)
    assert not links.observe(wired).up
    assert network.connect(wired).holds
    after = indexes(wired)
    assert {name for name in before if after.get(name) != before[name]} == {wired.bridge}
    assert network.ping(wired).holds


@pytest.mark.root
@pytest.mark.parametrize("which", ["bridge", "link"])
def test_a_foreign_interface_of_the_name_is_refused(small: Lab, which: str) -> None:
    """It keeps its index and its address, and does not get into the journal."""
    host.up(small)
    name = small.bridge if which == "bridge" else small.farm[1].link
    index = add_link(small.netns, name, "192.168.77.1/24")
    with pytest.raises(StateError, match="labkit did not make it") as caught:
        network.connect(small)
    assert caught.value.value == f"interface {name}"
    assert indexes(small)[name] == index
    with netlink(small.netns) as ipr:
        (address,) = ipr.get_addr(family=2, index=index)
        assert address.get_attr("IFA_ADDRESS") == "192.168.77.1"
        assert ipr.get_links(index)[0].get_attr("IFLA_MASTER") is None
    assert not Journal.of(small).owns("link", name=name, netns=small.host.netns)


@pytest.mark.root
def test_a_foreign_port_of_the_bridge_is_told(wired: Lab) -> None:
    """It is left where it is: the check names it."""
    add_link(wired.netns, "eth9", "192.168.77.1/24")
    change(wired.netns, "eth9", master=indexes(wired)[wired.bridge])
    result = network.connect(wired)
    assert [check.name for check in failed(result.checks)] == ["network.ports"]
    assert "eth9" in failed(result.checks)[0].seen
    assert "eth9" in result.value.ports


def unanswered(lab: Lab) -> None:
    """A request to the first replica, which the host goes on asking for: its address has no answer."""
    with socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex((str(lab.farm[0].address), 80)) == errno.EINPROGRESS


def asked(lab: Lab) -> int:
    """The error number of a request to the first replica: refused where nothing serves there."""
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex((str(lab.farm[0].address), 80))


def patient(lab: Lab) -> None:
    """The host asks for an address again only after a minute."""
    Path(f"/proc/sys/net/ipv4/neigh/{lab.bridge}/retrans_time_ms").write_text("60000")


@pytest.mark.root
@pytest.mark.parametrize(
    "damage", [delete_link, DAMAGES["eth0 down"]], ids=["link deleted", "eth0 down"]
)
def test_a_request_that_failed_does_not_fail_the_next_one(wired: Lab, damage: Damage) -> None:
    """The host asked for the address while the link was gone; it asks anew when the link is back."""
    damage(wired)
    within(wired.netns, links.forget_neighbours, {wired.farm[0].address})
    inside(wired.netns, patient, wired)
    inside(wired.netns, unanswered, wired)
    with netlink(wired.netns) as ipr:
        (entry,) = ipr.get_neighbours(dst=str(wired.farm[0].address))
        assert entry["state"] == INCOMPLETE
    assert network.connect(wired).changed
    assert inside(wired.netns, asked, wired) == errno.ECONNREFUSED


@pytest.mark.root
def test_what_the_host_remembers_of_the_others_stays(wired: Lab) -> None:
    """Only the mended replica is forgotten; forgetting what nobody remembers is content."""
    assert network.ping(wired).holds
    DAMAGES["eth0 down"](wired)
    with lock(wired.run_dir, "farm"):
        assert links.wire(wired)  # whose check of isolation does not ask the host meanwhile
    with netlink(wired.netns) as ipr:
        known = {entry.get_attr("NDA_DST") for entry in ipr.get_neighbours(family=2)}
        assert known & {"10.60.0.11", "10.60.0.21"} == {"10.60.0.21"}
    assert within(wired.netns, links.forget_neighbours, {wired.farm[0].address}) == 0
    assert within(wired.netns, links.forget_neighbours, {wired.farm[1].address}) == 1


@pytest.mark.root
def test_an_answer_from_somebody_else_does_not_hold(wired: Lab) -> None:
    """The host gets the replica's address itself: its ping is answered, and never leaves it."""
    with netlink(wired.netns) as ipr:
        ipr.addr("add", index=1, address=str(wired.farm[0].address), prefixlen=32)
    found = {check.name: check for check in network.ping(wired).checks}
    assert found["network.ping.red-1.out"].seen.startswith("answered in ")
    assert found["network.ping.red-1.out"].seen.endswith("red-1 counted 0 of 2 requests")
    assert not found["network.ping.red-1.out"].holds
    assert found["network.ping.red-2.out"].holds


@pytest.mark.root
def test_swapped_links_are_told(wired: Lab) -> None:
    """Each eth0 is there with its address, at the end of the other one's link."""
    first, second = wired.farm
    with netlink(wired.netns) as ipr:
        a, b = (ipr.link_lookup(ifname=replica.link)[0] for replica in (first, second))
        ipr.link("set", index=a, state="down")
        ipr.link("set", index=b, state="down")
        ipr.link("set", index=a, ifname="between")
        ipr.link("set", index=b, ifname=first.link)
        ipr.link("set", index=a, ifname=second.link)
        ipr.link("set", index=a, state="up")
        ipr.link("set", index=b, state="up")
    found = {check.name for check in failed(topology.checks(wired, links.observe(wired)))}
    assert found == {"network.peers"}


@pytest.mark.root
def test_looking_at_a_network_that_is_not_there_makes_nothing(small: Lab) -> None:
    """The checks fail, and no namespace comes into being."""
    seen = links.observe(small)
    assert (seen.up, seen.ports, seen.links) == (False, (), ())
    assert not network.ping(small).holds
    assert not Path("/run/netns", small.host.netns).exists()
