"""Network namespaces, links, addresses, routes and neighbours, checked against what other programs see."""

from __future__ import annotations

import errno
import json
import secrets
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import netns as other

from labkit.core import run
from labkit.kernel import calls, netns
from labkit.kernel.links import Link, Neighbour, Netlink, Request, Route, address, is_gone

OWN, INNER = IPv4Interface("10.7.0.1/24"), IPv4Interface("10.7.0.2/24")


def settle(own: Netlink) -> None:
    """Loopback up."""
    own.do(own.ipr.link("set", index=1, state="up"))


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    """Two namespaces of the test's own."""
    names = (f"t{secrets.token_hex(3)}", f"t{secrets.token_hex(3)}")
    netns.create(names, settle)
    yield names
    for name in names:
        netns.remove(name)


def connect(first: str, second: str) -> None:
    """A bridge with an address in the first namespace, and a pair from there into the second."""

    def outer(own: Netlink) -> None:
        own.do(own.ipr.link("add", ifname="br0", kind="bridge", state="up"))
        index = own.links()["br0"].index
        peer = {"ifname": "eth0", "address": "02:60:0a:07:00:02", "net_ns_fd": second}
        own.do(
            own.ipr.addr("add", **address(index, OWN)),
            own.ipr.link("add", ifname="v0", kind="veth", state="up", master=index, group=77, peer=peer),
        )  # fmt: skip

    def inner(own: Netlink) -> None:
        index = own.links()["eth0"].index
        own.do(
            own.ipr.addr("add", **address(index, INNER)),
            own.ipr.link("set", index=index, state="up"),
            own.ipr.route("add", dst="default", gateway=str(OWN.ip)),
        )

    netns.within(first, outer)
    netns.within(second, inner)


def ip(netns: str, *words: str) -> Any:
    """What ip(8) tells of a namespace."""
    return json.loads(run.run(["ip", "-json", "-n", netns, *words]).stdout)


def test_options_that_the_kernel_would_cut_are_refused(tmp_path: Path) -> None:
    """mount(2) takes one page of them, and says nothing of the rest."""
    with pytest.raises(OSError, match="do not fit into a page"):
        calls.mount("overlay", tmp_path, "overlay", options="x" * 4096)


@pytest.mark.root
def test_a_namespace_is_seen_by_others_and_stands_until_it_is_removed(
    pair: tuple[str, str],
) -> None:
    """Its name is in /run/netns, settled; a name that is taken is an error; removing twice is none."""
    assert set(pair) <= set(other.listnetns())
    assert [netns.stands(name) for name in pair] == [True, True]
    assert "UP" in ip(pair[0], "link", "show", "lo")[0]["flags"]
    inode = netns.path(pair[0]).stat().st_ino
    with pytest.raises(FileExistsError):
        netns.create([pair[0]])
    assert netns.path(pair[0]).stat().st_ino == inode
    for _ in range(2):
        netns.remove(pair[0])
        assert not netns.stands(pair[0])
    assert pair[0] not in other.listnetns()


@pytest.mark.root
def test_the_callers_stay_where_they_are(pair: tuple[str, str]) -> None:
    """Only threads of their own go into a namespace, and new ones are made in such a thread."""
    here = Path("/proc/thread-self/ns/net").stat().st_ino
    inside = netns.alone(lambda: (netns.enter(pair[0]), Path("/proc/thread-self/ns/net").stat())[1])
    assert inside.st_ino == netns.path(pair[0]).stat().st_ino != here
    assert Path("/proc/thread-self/ns/net").stat().st_ino == here


@pytest.mark.root
def test_a_name_without_a_namespace_is_told_and_removed() -> None:
    """As a process leaves it that was killed between the file and the mount on it."""
    name = f"t{secrets.token_hex(3)}"
    netns.FOLDER.mkdir(exist_ok=True)
    netns.path(name).touch()
    assert not netns.stands(name)
    netns.remove(name)
    assert not netns.path(name).exists()


@pytest.mark.root
def test_links_are_made_as_asked_and_read_as_others_read_them(pair: tuple[str, str]) -> None:
    """Bridge, port, group, the peer's name and address; a link and its peer name each other's index."""
    connect(*pair)
    outer, inner = netns.within(pair[0], Netlink.links), netns.within(pair[1], Netlink.links)
    for name, ours in ((pair[0], outer), (pair[1], inner)):
        theirs = {link["ifname"]: link for link in ip(name, "link")}
        assert set(ours) == set(theirs)
        for link in ours.values():
            seen = theirs[link.name]
            assert (link.index, link.mac, link.up) == (seen["ifindex"], seen["address"], "UP" in seen["flags"])  # fmt: skip
    assert theirs["eth0"]["address"] == "02:60:0a:07:00:02"
    assert isinstance(outer["v0"], Link)
    assert (outer["v0"].master, outer["v0"].group, outer["v0"].carrier) == (outer["br0"].index, 77, True)  # fmt: skip
    assert (outer["v0"].peer, inner["eth0"].peer) == (inner["eth0"].index, outer["v0"].index)


@pytest.mark.root
def test_addresses_and_routes_are_read_as_they_were_asked_for(pair: tuple[str, str]) -> None:
    """With their prefix lengths, broadcast addresses and gateways; a new namespace has no table of routes."""
    assert netns.within(pair[1], lambda own: (own.routes(), own.link("eth0"))) == ((), None)
    connect(*pair)

    def entered(own: Netlink) -> tuple[Any, Any]:
        own.do(own.ipr.route("add", dst="10.8.0.0/16", type="unreachable", priority=99))
        index = own.links()["eth0"].index
        assert (own.link("eth0"), own.addresses(index)) == (own.links()["eth0"], {index: (INNER,)})
        return own.addresses(), own.routes()

    addresses, routes = netns.within(pair[1], entered)
    (link,) = ip(pair[1], "address", "show", "eth0")
    assert addresses[link["ifindex"]] == (INNER,)
    assert link["addr_info"][0]["broadcast"] == "10.7.0.255"
    assert set(routes) == {
        Route(1, IPv4Network("0.0.0.0/0"), link["ifindex"], OWN.ip, 0),
        Route(1, OWN.network, link["ifindex"], None, 0),
        Route(7, IPv4Network("10.8.0.0/16"), 0, None, 99),
    }


@pytest.mark.root
def test_a_group_of_links_goes_at_once_with_its_peers(pair: tuple[str, str]) -> None:
    """Others stay; a group without links is an error of its own kind."""
    connect(*pair)
    cut = [netns.within(pair[0], lambda own: own.try_all([own.ipr.link("del", group=77)])[0]) for _ in range(2)]  # fmt: skip
    assert cut[0] is None
    assert is_gone(cut[1])
    assert set(netns.within(pair[0], Netlink.links)) == {"lo", "br0"}
    assert set(netns.within(pair[1], Netlink.links)) == {"lo"}


@pytest.mark.root
def test_each_request_has_its_own_answer(pair: tuple[str, str]) -> None:
    """More than are under way at once: each refusal has the kernel's words, and what follows it is done."""

    def bridge(own: Netlink, name: str) -> Request:
        return own.ipr.link("add", ifname=name, kind="bridge", state="up")

    def entered(own: Netlink) -> list[OSError | None]:
        wrong = [own.ipr.link("set", index=9999, state="up") for _ in range(440)]
        return own.try_all([bridge(own, "b0"), bridge(own, "b1"), *wrong, bridge(own, "b0"), bridge(own, "b2")])  # fmt: skip

    found = netns.within(pair[0], entered)
    assert [error.errno if error else 0 for error in found] == [
        0, 0, *([errno.ENODEV] * 440), errno.EEXIST, 0,
    ]  # fmt: skip
    assert {"b0", "b1", "b2"} <= set(netns.within(pair[0], Netlink.links))
    with pytest.raises(FileExistsError):
        netns.within(
            pair[0], lambda own: own.do(bridge(own, "b3"), bridge(own, "b0"), bridge(own, "b4"))
        )
    assert {"b3", "b4"} <= set(netns.within(pair[0], Netlink.links))


@pytest.mark.root
def test_a_neighbour_that_was_asked_for_is_seen_and_forgotten(pair: tuple[str, str]) -> None:
    """By its address and its link."""
    connect(*pair)
    run.run(["ping", "-c", "1", "-W", "1", "10.7.0.2"], netns=pair[0])

    def entered(own: Netlink) -> tuple[Neighbour, ...]:
        found = [item for item in own.neighbours() if not item.lasting]
        own.do(*(own.ipr.neigh("del", ifindex=n.link, dst=str(n.address)) for n in found))
        return (*found, *(item for item in own.neighbours() if not item.lasting))

    index = netns.within(pair[0], Netlink.links)["br0"].index
    assert netns.within(pair[0], entered) == (Neighbour(index, IPv4Address("10.7.0.2"), False),)


#: In a fresh Python: threads that ask the kernel their first questions at once.
MEETING = """
import threading
from concurrent.futures import ThreadPoolExecutor
from labkit.kernel.links import Netlink
door = threading.Barrier(4)
def look(_):
    door.wait()
    with Netlink() as own:
        return sorted(own.links())[0]
with ThreadPoolExecutor(4) as pool:
    print(set(pool.map(look, range(4))))
"""


@pytest.mark.root
def test_threads_may_ask_their_first_questions_at_once() -> None:
    """pyroute2's modules import each other: two threads that begin with it at once do not disturb each other."""
    for _ in range(3):
        done = run.run([sys.executable, "-c", MEETING], ok=range(256))
        assert done.status == 0, done.stderr
