"""What a replica can reach, tried from within: what the lab needs, and nothing else of the host, of the other
replicas, of what is beyond the host."""

from __future__ import annotations

import errno
import json
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import network_removal, run, undo
from labkit.core.journal import Journal
from labkit.doctor import machine
from labkit.errors import StateError
from labkit.farm import network
from labkit.farm.containers import runc
from labkit.farm.network import firewall, isolation, pings
from labkit.farm.reconcile import up, upkeep
from labkit.farm.services import dns
from labkit.kernel import calls
from labkit.kernel import netns as namespaces
from labkit.kernel.netns import inside
from tests.netlink import netlink
from tests.whole_farm import standing as whole_farm

#: The host's address in a network that is none of the lab's, and a neighbour there (RFC 5737, TEST-NET-2).
HERE, THERE = "198.51.100.1", "198.51.100.2"
#: How long silence is waited for, in seconds.
SILENCE = 0.4
#: What becomes of a connection or a datagram that goes nowhere.
REFUSED = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EACCES, errno.EAGAIN, errno.ETIMEDOUT}


@contextmanager
def beyond(lab: Lab) -> Iterator[None]:
    """The host's side sends packets on, and has a neighbour in a network that is none of the lab's."""
    far = f"{lab.name}-far"
    namespaces.create([far])
    try:
        run.run(
            ["ip", "link", "add", "out0", "type", "veth", "peer", "eth0", "netns", far],
            netns=lab.netns,
        )
        for netns, name, address in ((lab.netns, "out0", HERE), (far, "eth0", THERE)):
            run.run(["ip", "address", "add", f"{address}/24", "dev", name], netns=netns)
            run.run(["ip", "link", "set", name, "up"], netns=netns)
        run.run(["ip", "route", "add", "default", "via", HERE], netns=far)
        inside(lab.netns, forward)
        yield
    finally:
        namespaces.remove(far)


def forward() -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """Two sites on two replicas each, all up, and a network beyond; every test leaves it whole."""
    with whole_farm() as lab, beyond(lab):
        upkeep.apply(lab)
        yield lab


@contextmanager
def listening(
    netns: str | None, kind: socket.SocketKind = socket.SOCK_STREAM, port: int = 0
) -> Iterator[socket.socket]:
    """Somebody listens on all addresses of a namespace, at a port of their own, or at this one."""

    def made() -> socket.socket:
        found = socket.socket(socket.AF_INET, kind)
        found.bind(("0.0.0.0", port))  # noqa: S104 - in a namespace of the test's own
        if kind == socket.SOCK_STREAM:
            found.listen()
        return found

    with inside(netns, made) as server:
        server.settimeout(SILENCE)
        yield server


def connecting(address: str, port: int, source: str = "") -> int:
    """The error number that a connection gets, 0 when it is made."""
    with socket.socket() as client:
        client.settimeout(SILENCE)
        if source:
            client.bind((source, 0))
        return client.connect_ex((address, port))


class Try(NamedTuple):
    """An attempt: from which namespace (a replica, or far beyond), to whom, and the counter that counts it."""

    name: str
    source: Callable[[Lab], str]
    target: Callable[[Lab], tuple[str | None, str]]
    counter: str


def far(lab: Lab) -> str:
    return f"{lab.name}-far"


def first(lab: Lab) -> str:
    return lab.farm[0].netns


TRIES = [
    Try("the bridge's address", first, lambda lab: (lab.netns, str(lab.gateway.ip)), "host"),
    Try("another address of the host", first, lambda lab: (lab.netns, HERE), "host"),
    Try("another replica", first, lambda lab: (lab.farm[1].netns, str(lab.farm[1].address)), "between"),
    Try("beyond the host", first, lambda lab: (far(lab), THERE), "outwards"),
    Try("from beyond the host", far, lambda lab: (first(lab), str(lab.farm[0].address)), "inwards"),
]  # fmt: skip


@contextmanager
def opened(lab: Lab) -> Iterator[None]:
    """The lab's tables are gone while the block runs: what then succeeds is refused by them alone."""
    network_removal.remove_tables(lab, name=network_removal.table_name(lab), netns=lab.host.netns)
    try:
        yield
    finally:
        upkeep.apply(lab)


@pytest.mark.root
@pytest.mark.parametrize("attempt", TRIES, ids=lambda item: item.name)
def test_who_listens_is_reached_without_the_tables_and_not_with_them(
    farm: Lab, attempt: Try
) -> None:
    """By TCP and UDP, on any port; each packet that is refused is counted for what it was."""
    (place, address), source = attempt.target(farm), attempt.source(farm)

    def send(port: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", (address, port))

    with listening(place) as server, listening(place, socket.SOCK_DGRAM) as datagrams:
        port, other = server.getsockname()[1], datagrams.getsockname()[1]
        with opened(farm):
            assert inside(source, connecting, address, port) == 0
            server.accept()[0].close()
            inside(source, send, other)
            assert datagrams.recv(1) == b"x"
        before = firewall.counts(farm)[attempt.counter]
        assert inside(source, connecting, address, port) in REFUSED
        after = firewall.counts(farm)[attempt.counter]
        inside(source, send, other)
        with pytest.raises(TimeoutError):
            server.accept()
        with pytest.raises(TimeoutError):
            datagrams.recv(1)
        assert firewall.counts(farm)[attempt.counter] > after > before


@pytest.mark.root
def test_the_labs_own_servers_are_out_of_a_container_s_reach(farm: Lab) -> None:
    """The balancer's port, the wiki's, and a replica's own site by the balancer: from a program in a container."""
    for port in (farm.proxy.port, farm.wiki.port, 22):
        shell = f"exec 3<>/dev/tcp/{farm.gateway.ip}/{port}"
        words = runc.command(farm, "exec", farm.farm[0].name, "bash", "-c", shell)
        assert "Connection refused" in run.run(words, ok=(1,)).stderr


@pytest.mark.root
def test_names_are_answered_in_a_container(farm: Lab) -> None:
    """By the lab's own name server, by UDP and TCP, and by what /etc/resolv.conf says there, which the server's user can
    read."""
    import dns.message
    import dns.query

    question = dns.message.make_query(farm.host_name("red"), "A")
    for ask in (dns.query.udp, dns.query.tcp):
        answer = inside(first(farm), ask, question, str(farm.gateway.ip), 2.0)
        assert str(farm.gateway.ip) in str(answer.answer)
    words = ("exec", "--user", "33:33", "red-1", "getent", "hosts", "blue")
    said = run.run(runc.command(farm, *words)).stdout.split()
    assert said == [str(farm.gateway.ip), farm.host_name("blue")]


#: A packet filter of the machine's own that lets in what the host asked for, and no more.
CLOSED = """
table ip filter {
    chain INPUT {
        type filter hook input priority 0; policy drop;
        ct state established,related accept
        iif "lo" accept
    }
    chain FORWARD {
        type filter hook forward priority 0; policy drop;
    }
}
"""


@pytest.mark.root
def test_a_machine_that_lets_no_questions_in_is_told_and_what_it_says_helps(farm: Lab) -> None:
    """The host's side is answered, no replica is: the check in it names the chain, and a rule that mends it."""
    assert failed(dns.checks(farm)) == ()
    run.run(["nft", "-f", "-"], stdin=CLOSED, netns=farm.netns)
    try:
        closed = failed(dns.checks(farm))
        assert [check.name for check in closed] == [f"dns.inside.{item.name}" for item in farm.farm]
        said, _, remedy = closed[0].seen.partition("; to let it in: ")
        assert "chain INPUT of table ip filter, policy drop" in said
        assert said.partition("; ")[2] in machine.firewall(farm)
        run.run(["sh", "-c", remedy])
        assert failed(dns.checks(farm)) == ()
    finally:
        run.run(["nft", "delete", "table", "ip", "filter"], netns=farm.netns)


@pytest.mark.root
def test_what_the_lab_needs_is_as_before(farm: Lab) -> None:
    """Replicas answer the host and the balancer; pings both ways, and between replicas."""
    assert failed(up.replica_checks(farm)) == ()
    assert network.ping(farm).holds
    (one, other) = farm.farm[:2]
    there = (other.name, other.netns)
    assert pings.ask((one.name, one.netns), there, str(other.address), count=1).arrives


@pytest.mark.root
def test_answers_begin_no_connection(farm: Lab) -> None:
    """A connection from the port that a replica answers from is refused as any other."""

    def from_port_80(port: int) -> int:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            client.settimeout(SILENCE)
            client.bind(("0.0.0.0", 22))  # noqa: S104 - nothing listens there, and it is the source
            return client.connect_ex((str(farm.gateway.ip), port))

    with listening(farm.netns) as server:
        assert inside(first(farm), from_port_80, server.getsockname()[1]) in REFUSED


#: What else may be in a packet filter that bridges send to (br_netfilter): Docker's rules, and ufw's.
DOCKER = """
table ip filter {
    chain DOCKER-USER { }
    chain FORWARD {
        type filter hook forward priority 0; policy drop;
        jump DOCKER-USER
        ct state established,related accept
        iifname "docker0" accept
    }
}
table ip nat {
    chain POSTROUTING {
        type nat hook postrouting priority srcnat;
        ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
    }
}
"""
UFW = (
    CLOSED
    + """
table ip filter {
    chain ufw-user-forward { accept; }
    chain FORWARD { jump ufw-user-forward; }
}
"""
)


@contextmanager
def model(lab: Lab, steps: Sequence[str]) -> Iterator[None]:
    """A bridge and two ports that are called as the lab's, with the lab's rules; everything in the order of the steps."""
    one, other = lab.farm[:2]
    host, ends = lab.host.netns, {one.netns: one, other.netns: other}
    namespaces.create([host, *ends])
    try:
        for step in filter(None, steps):
            if step == "bridge":
                run.run(["ip", "link", "add", lab.bridge, "type", "bridge"], netns=host)
                run.run(["ip", "link", "set", lab.bridge, "up"], netns=host)
                run.run(["ip", "address", "add", str(lab.gateway), "dev", lab.bridge], netns=host)
            elif step.startswith("bridge-nf"):
                inside(
                    host,
                    Path("/proc/sys/net/bridge", "bridge-nf-call-iptables").write_text,
                    step[-1],
                )
            else:
                run.run(["nft", "-f", "-"], stdin=step, netns=host)
        for netns, end in ends.items():
            peer = ["peer", "eth0", "address", end.mac, "netns", netns]
            run.run(
                ["ip", "link", "add", end.link, "master", lab.bridge, "type", "veth", *peer],
                netns=host,
            )
            run.run(["ip", "link", "set", end.link, "up"], netns=host)
            run.run(["ip", "address", "add", f"{end.address}/24", "dev", "eth0"], netns=netns)
            run.run(["ip", "link", "set", "eth0", "up"], netns=netns)
            run.run(["ip", "route", "add", "default", "via", str(lab.gateway.ip)], netns=netns)
        yield
    finally:
        for name in (host, *ends):
            namespaces.remove(name)


@pytest.mark.root
@pytest.mark.parametrize("others", ["", DOCKER, UFW], ids=["nobody", "Docker", "ufw"])
@pytest.mark.parametrize("called", [0, 1], ids=["alone", "br_netfilter"])
@pytest.mark.parametrize("order", list(permutations(("table", "bridge", "others"))), ids=" ".join)
def test_replicas_are_kept_apart_whatever_was_there_first(
    tmp_path: Path, order: tuple[str, ...], called: int, others: str
) -> None:
    """The kernel hands a bridge's packets to the host's packet filter by a hook of its own, which begins with the
    first bridge: it takes them from the chains that are registered at its own priority before it."""
    lab = of_two()
    table = firewall.script(network_removal.table_name(lab), firewall.rules_of(lab))
    given = {"table": table, "bridge": "bridge", "others": others}
    with model(lab, [*(given[step] for step in order), f"bridge-nf-call-iptables={called}"]):
        one, other = lab.farm[:2]
        with listening(other.netns, port=80) as server:
            assert inside(one.netns, connecting, str(other.address), 80) in REFUSED
            assert isolation.probed(lab).holds
            with pytest.raises(TimeoutError):
                server.accept()


@pytest.mark.root
def test_what_arrives_all_the_same_is_told() -> None:
    """The rules' text is right, and the order of registration makes them void: only trying it shows that."""
    lab = of_two()
    table = firewall.script(network_removal.table_name(lab), firewall.rules_of(lab)).replace(
        "priority -200", "priority 0"
    )
    steps = [table, "bridge", "bridge-nf-call-iptables=1"]
    with model(lab, steps), listening(lab.farm[1].netns, port=80):
        trial = isolation.probed(lab)
    # one is answered by who listens, the other by the kernel of who does not
    assert trial.reached == (
        "red-1 reaches red-2, 10.60.0.21:80",
        "red-2 reaches red-1, 10.60.0.11:80",
    )
    assert trial.uncounted == ("0 of 6 packets to another replica refused",)


def of_two() -> Lab:
    """A lab of two replicas, in a namespace of its own."""
    name = f"t{secrets.token_hex(2)}"
    return Lab.of({"name": name, "sites": ["red"], "host": {"netns": name}})


@contextmanager
def disguised(lab: Lab, *words: str) -> Iterator[None]:
    """The first replica's end has been changed by who had every right within it; it is put right afterwards."""
    run.run(["ip", *words], netns=first(lab))
    try:
        yield
    finally:
        upkeep.apply(lab)


@pytest.mark.root
@pytest.mark.parametrize(
    "words",
    [
        ("address", "add", "10.60.0.99/24", "dev", "eth0"),
        ("address", "add", "10.60.0.12/24", "dev", "eth0"),
        ("link", "set", "eth0", "address", "02:00:00:00:00:01"),
        ("link", "set", "eth0", "address", "MAC of another"),
    ],
    ids=["nobody's address", "another's address", "nobody's MAC", "another's MAC"],
)
def test_who_is_not_as_it_was_made_is_not_heard(farm: Lab, words: tuple[str, ...]) -> None:
    """What it sends under another name is dropped at its port, and counted; the others stay reachable."""
    assert str(farm.farm[2].address) == "10.60.0.12"
    given = [farm.farm[2].mac if word == "MAC of another" else word for word in words]
    source = words[2].partition("/")[0] if words[0] == "address" else ""
    before = firewall.counts(farm)["spoofed"]
    with disguised(farm, *given):
        assert inside(first(farm), connecting, str(farm.gateway.ip), 53, source) in REFUSED
        assert firewall.counts(farm)["spoofed"] > before
        found = {check.name for check in failed(up.replica_checks(farm))}
        assert found <= {f"farm.replica.{farm.farm[0].name}"}
    assert inside(first(farm), connecting, str(farm.gateway.ip), 53) == 0


@pytest.mark.root
def test_a_description_that_is_lost_is_told_and_made_again(farm: Lab) -> None:
    """It is known by the journal that the tables are the lab's."""
    (farm.run_dir / "isolation" / "tables.json").unlink()
    (step,) = upkeep.plan(farm).value.steps
    assert (step.kind, step.action) == ("firewall", "change")
    assert "the file that describes them is gone" in step.why
    assert upkeep.apply(farm).holds
    assert upkeep.plan(farm).value.empty


# -- the machine's own namespace, and others' tables ----------------------------------------------


def on_a_machine(function: Callable[[], None]) -> None:
    """Calls it in a thread whose network namespace, a new one, is the machine's own for it."""

    def entered() -> None:
        calls.unshare(calls.CLONE_NEWNET)
        with netlink(None) as ipr:
            ipr.link("set", index=1, state="up")
        function()

    namespaces.alone(entered)


def stand() -> dict[str, set[str]]:
    """The tables of the calling thread's namespace by family."""
    listed = json.loads(run.run(["nft", "-j", "list", "tables"]).stdout)["nftables"]
    found: dict[str, set[str]] = {}
    for table in (item["table"] for item in listed if "table" in item):
        found.setdefault(table["family"], set()).add(table["name"])
    return found


@pytest.mark.root
def test_in_the_machine_s_own_namespace_others_tables_stay(make_lab: Callable[..., Lab]) -> None:
    """The lab's tables judge nothing but its bridge, and alone go with it; a second run changes nothing."""
    lab = make_lab(sites=["red"], netns="")

    def tried() -> None:
        run.run(
            [
                "nft",
                "add table inet filter; add chain inet filter input { type filter hook input priority 0; }",
            ]
        )
        before = stand()
        result = network.connect(lab)
        assert failed(result.checks) == ()
        assert stand() == {
            "inet": {"filter", network_removal.table_name(lab)},
            "bridge": {network_removal.table_name(lab)},
        }
        assert network.connect(lab).changed is False
        with listening(None) as server:
            port = server.getsockname()[1]
            assert connecting("127.0.0.1", port) == 0
            assert inside(first(lab), connecting, str(lab.gateway.ip), port) in REFUSED
        assert undo.unmake_all(lab)[1] == ()
        assert stand() == before

    on_a_machine(tried)


@pytest.mark.root
def test_two_labs_on_one_machine_are_kept_apart(make_lab: Callable[..., Lab]) -> None:
    """Neither reaches the other's replicas, nor its host's address; each goes without the other."""
    one = make_lab(sites=["red"], netns="")
    two = make_lab(sites=["red"], netns="", subnet="10.61.0.0/24")

    def tried() -> None:
        forward()
        assert network.connect(one).holds
        assert network.connect(two).holds
        with ExitStack() as stack:
            stack.enter_context(listening(first(two), port=80))
            host = stack.enter_context(listening(None)).getsockname()[1]
            assert connecting(str(two.farm[0].address), 80) == 0
            assert inside(first(one), connecting, str(two.farm[0].address), 80) in REFUSED
            assert inside(first(one), connecting, str(two.gateway.ip), host) in REFUSED
        assert undo.unmake_all(one)[1] == ()
        assert stand() == {
            "inet": {network_removal.table_name(two)},
            "bridge": {network_removal.table_name(two)},
        }
        assert failed([isolation.check(two)]) == ()
        assert undo.unmake_all(two)[1] == ()
        assert stand() == {}

    on_a_machine(tried)


@pytest.mark.root
@pytest.mark.parametrize("family", network_removal.FAMILIES)
def test_a_table_of_the_name_that_is_not_the_lab_s_is_refused(
    make_lab: Callable[..., Lab], family: str
) -> None:
    """Nothing is made, neither is it touched nor in the journal."""
    lab = make_lab(sites=["red"], netns="")

    def tried() -> None:
        run.run(
            [
                "nft",
                f"add table {family} {network_removal.table_name(lab)}; add chain {family} {network_removal.table_name(lab)} own",
            ]
        )
        with pytest.raises(StateError, match="labkit did not make it"):
            network.connect(lab)
        with netlink(None) as ipr:
            assert ipr.link_lookup(ifname=lab.bridge) == []
        assert not [entry for entry in Journal.of(lab).standing() if entry.kind == "table"]
        assert undo.unmake_all(lab)[1] == ()
        assert (
            "chain own"
            in run.run(["nft", "list", "table", family, network_removal.table_name(lab)]).stdout
        )

    on_a_machine(tried)


@pytest.mark.root
def test_a_kernel_without_nftables_is_told_and_no_failure(
    make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network stands without; the check says that nobody is kept from anything, and nothing is tried again."""
    monkeypatch.setattr(network_removal, "tables_there", lambda netns: None)
    lab = make_lab(sites=["red"])
    result = network.connect(lab)
    assert result.holds
    (check,) = (item for item in result.checks if item.name == "network.isolation")
    assert check.seen == "nobody is kept from anything: this kernel has no nftables"
    assert not [step for step in upkeep.plan(lab).value.steps if step.kind == "firewall"]
    assert network.connect(lab).changed is False


# -- without root -----------------------------------------------------------------------------------


def test_the_rules_name_the_lab_s_bridge_and_ports_alone() -> None:
    """Each chain's first rule lets pass what is nobody's in the farm."""
    lab = Lab.of({"name": "shop", "sites": ["red"]})
    text = firewall.script("labkit-shop", firewall.rules_of(lab))
    assert text.count("chain ") == 5
    assert text.count("iifname != @ports accept") == 2
    assert 'iifname != "br-shop" accept' in text
    assert '"shop-red-1" . 02:12:cf:b1:f9:75 . 10.60.0.11' in text


def test_while_one_farm_becomes_another_both_are_allowed() -> None:
    """Each address at its own port, and both of the host's; none twice."""
    old, new = (
        Lab.of({"sites": ["red"]}),
        Lab.of({"sites": ["red"], "network": {"subnet": "10.61.0.0/24"}}),
    )
    found = firewall.both(firewall.rules_of(old), firewall.rules_of(new))
    assert found.gateways == ("10.60.0.1", "10.61.0.1")
    assert [(end.link, end.address) for end in found.ends] == [
        ("lab-red-1", "10.60.0.11"), ("lab-red-2", "10.60.0.21"),
        ("lab-red-1", "10.61.0.11"), ("lab-red-2", "10.61.0.21"),
    ]  # fmt: skip
    assert firewall.both(found, found) == found


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ("a\nb\nc", ""),
        ("a\nc", "`b` is gone"),
        ("a\nb\nc\nx", "`x` is new"),
        ("a", "`b` is gone; `c` is gone"),
        ("", "`a` is gone; `b` is gone; 1 more"),
        ("b\na\nc", "`b` is in another place"),
    ],
)
def test_what_a_hand_did_to_a_table_is_told(seen: str, told: str) -> None:
    """The lines that are gone or new, a few of them; or the first that is elsewhere."""
    assert firewall.compared("a\nb\nc", seen) == told


@pytest.mark.parametrize(
    ("chain", "found"),
    [
        ({"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}, True),
        ({"family": "inet", "table": "firewalld", "name": "in", "hook": "input", "policy": "accept"}, True),
        ({"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}, False),
        ({"family": "ip6", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}, False),
        ({"family": "inet", "table": "labkit-a", "name": "to_the_host", "hook": "input", "policy": "accept"}, False),
        ({"family": "ip", "table": "filter", "name": "ufw-user-input"}, False),
    ],
)  # fmt: skip
def test_who_judges_what_comes_to_the_host_is_read(chain: dict[str, str], found: bool) -> None:
    """The machine's own chains at the kernel's hook for it, whatever they are called."""
    listed = json.dumps({"nftables": [{"metainfo": {}}, {"chain": chain}]})
    assert bool(firewall.input_chains(listed, "labkit-a")) is found
    assert firewall.input_chains("", "labkit-a") == []


def test_the_file_of_an_earlier_version_is_read() -> None:
    """It has fields that are no longer kept, and may lack the listings."""
    rules = firewall.rules_of(Lab.of({"sites": ["red"]}))
    old = {"namespace": 1, "generation": 7, "rules": rules.model_dump(), "listed": {}}
    assert firewall.Tables.model_validate_json(json.dumps(old)) == firewall.Tables(
        rules=rules, listed={}
    )
