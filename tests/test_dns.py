"""The lab's name server, and programs that resolve by it."""

from __future__ import annotations

import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from dns import message, rcode, rrset

from labkit import Lab
from labkit.checks import failed
from labkit.core import daemon, run, undo
from labkit.errors import ConfigError, FarmError
from labkit.farm.containers import lab_namespaces
from labkit.farm.network.host import require_address
from labkit.farm.services import dns, dns_server
from tests import killing
from tests.host_side import give_address


@pytest.fixture
def addressed(lab: Lab) -> Lab:
    """A lab whose host side has the bridge's address, and nothing else yet."""
    return give_address(lab)


def test_zone_names_balancer_sites_and_replicas() -> None:
    """The sites' names lead to the balancer, each replica's to its own address. dnsmasq reads them as lines of hosts,
    again while it runs: by the mark, which changes with them, it is known that it has."""
    lab = Lab.load(None, lab_name="shop", sites=["red", "blue"], replicas=1)
    names = {item.name: str(item.address) for item in dns_server.names(lab)}
    assert names == {
        "balancer.shop.test": "10.60.0.1",
        "ns.shop.test": "10.60.0.1",
        "red.shop.test": "10.60.0.1",
        "blue.shop.test": "10.60.0.1",
        "red-1.shop.test": "10.60.0.11",
        "blue-1.shop.test": "10.60.0.12",
    }
    lines = dns_server.hosts(lab).splitlines()
    assert lines[:-1] == [f"{address} {name}" for name, address in names.items()]
    assert lines[-1] == f"10.60.0.1 {dns_server.mark(lab)}"
    assert dns_server.mark(lab) != dns_server.mark(Lab.of({**lab.model_dump(), "replicas": 2}))


def test_configuration_is_of_the_lab_alone() -> None:
    """dnsmasq listens on one address, reads nothing of the machine's and drops root."""
    lab = Lab.load(None, domain="my.test", subnet="10.61.0.0/24", run="/run/x")
    assert set(dns_server.config(lab).splitlines()) >= {
        "listen-address=10.61.0.1", "bind-interfaces", "no-resolv", "no-hosts", "user=nobody",
        "auth-zone=my.test,10.61.0.0/24", "auth-server=ns.my.test,10.61.0.1",
        "addn-hosts=/run/x/lab/dns/hosts", "pid-file=/run/x/lab/dns/dnsmasq.pid",
    }  # fmt: skip


@pytest.mark.parametrize("netns", ["", "box"])
def test_program_is_started_with_the_lab_as_its_resolver(netns: str) -> None:
    """The arguments of a program stay arguments: no shell reads them. The script has the same words, each quoted."""
    lab = Lab.load(None, netns=netns, run="/run/x")
    argv = dns_server.resolving(lab, ["echo", "$(id); a b"])
    entered = ["nsenter", "--net=/run/netns/box", "--"] if netns else []
    assert argv[: len(entered) + 3] == [*entered, "unshare", "--mount", "--"]
    assert argv[-3:] == ["/run/x/lab/dns/resolv.conf", "echo", "$(id); a b"]
    [text] = [text for path, text, _ in dns_server.files(lab) if path.name == "with-dns"]
    words = shlex.split(text.splitlines()[-1])
    assert words == ["exec", *dns_server.resolving(lab, []), "$@"]


@pytest.mark.root
def test_server_says_what_the_lab_says(addressed: Lab) -> None:
    """Every name, every reverse record, what does not exist and what lies outside; as nobody, and once."""
    result = dns.up(addressed)
    assert result.changed
    assert failed(result.checks) == ()
    names = {check.name for check in result.checks}
    assert {"dns.name.site1", "dns.reverse.site3-2", "dns.outside", "dns.libc"} <= names
    assert dns.address(addressed, "site2-1") == addressed.replica("site2-1").address
    assert dns.query(addressed, str(addressed.gateway.ip), "PTR").values == (
        addressed.host_name("balancer"),
    )
    with pytest.raises(FarmError, match="NXDOMAIN"):
        dns.address(addressed, "site9")
    pid = daemon.pid(dns_server.server(addressed))
    assert Path(f"/proc/{pid}").stat().st_uid != 0
    assert dns.up(addressed).changed is False
    assert daemon.pid(dns_server.server(addressed)) == pid


@pytest.mark.root
def test_a_replacement_that_was_cut_off_is_gone_on_with(addressed: Lab) -> None:
    """Wherever it was killed, the next up brings the new zone: whoever runs was started with the
    configuration that is in its place."""
    other = Lab.of({**addressed.model_dump(), "dns": {"domain": "other.test"}})

    def recorded() -> list[str]:
        stroke = killing.Recorded()
        killing.install(stroke)
        dns.up(other)
        return stroke.points

    dns.up(addressed)
    points = killing.apart(recorded).said
    first = next(n for n, point in enumerate(points, 1) if "dnsmasq.candidate" in point)
    last = points.index("after journal: daemon")
    wanted = dns_server.wanted(other)
    for number in range(first, last, 2):
        dns.up(addressed)
        ended = killing.apart(partial(killed, other, number))
        assert ended.status == -9, points[number - 1]
        seen = dns_server.observed(other) or {}
        assert seen["process"] != "running" or seen["configuration"] != wanted["configuration"]
        dns.up(other)
        assert dns.query(other, "site1").status == "NOERROR", points[number - 1]


def killed(lab: Lab, number: int) -> None:
    """In a process of its own: the name server is brought up, until that point."""
    killing.install(killing.Cut(number))
    dns.up(lab)


@pytest.mark.root
def test_a_server_that_hears_nothing_is_replaced(
    addressed: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that it is told to read anew are of no use to it."""
    monkeypatch.setattr(undo, "PATIENCE", 0.1)
    dns.up(addressed)
    stopped = daemon.pid(dns_server.server(addressed))
    daemon.send(dns_server.server(addressed), signal.SIGSTOP)
    assert dns.up(addressed).changed
    assert dns.query(addressed, "site1").status == "NOERROR"
    assert daemon.pid(dns_server.server(addressed)) != stopped


@pytest.mark.root
def test_another_zone_is_served_after_the_next_up(addressed: Lab) -> None:
    """A further replica is named by the running server, whose process stays, and so does every other name; also when
    labkit was killed after it wrote the names: the server itself says what it serves. Another domain replaces it."""
    dns.up(addressed)
    before = daemon.pid(dns_server.server(addressed))
    more = Lab.of({**addressed.model_dump(), "replicas": 3})
    result = dns.up(more)
    assert result.changed
    assert result.holds
    assert dns.query(more, "site1-3").values == ("10.60.0.31",)
    (dns_server.folder(addressed) / "hosts").write_text(dns_server.hosts(addressed))
    assert (dns_server.observed(addressed) or {})["served"] == "not this zone"
    assert dns.up(addressed).changed
    assert dns.query(addressed, "site1-3").status == "NXDOMAIN"
    assert daemon.pid(dns_server.server(addressed)) == before
    other = Lab.of({**addressed.model_dump(), "dns": {"domain": "other.test"}})
    result = dns.up(other)
    assert result.changed
    assert result.holds
    assert dns.query(other, addressed.host_name("site1")).status == "REFUSED"


@pytest.mark.root
def test_an_edited_file_is_mended_and_a_refused_one_is_not_taken(
    addressed: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the server's files it is; the facts say that something is wrong, and then not. A configuration that
    dnsmasq refuses never takes the running one's place."""
    dns.up(addressed)
    for name in ("hosts", "resolv.conf", "with-dns", "dnsmasq.conf"):
        file = dns_server.folder(addressed) / name
        before = file.read_text()
        file.write_text(f"{before}# edited\n")
        assert dns_server.observed(addressed) != dns_server.wanted(addressed), name
        assert dns.up(addressed).changed
        assert file.read_text() == before
        assert dns_server.observed(addressed) == dns_server.wanted(addressed), name
    kept = {
        path: path.read_text()
        for path in dns_server.folder(addressed).iterdir()
        if path.suffix != ".log"
    }
    other = Lab.of({**addressed.model_dump(), "replicas": 3})
    monkeypatch.setattr(dns_server, "config", lambda _: "no-such-option\n")
    with pytest.raises(FarmError, match="refuses this configuration"):
        dns.up(other)
    assert {path: path.read_text() for path in kept} == kept
    assert dns.query(addressed, "site1").status == "NOERROR"


@pytest.mark.root
def test_server_moves_with_the_hosts_namespace(
    addressed: Lab, make_lab: Callable[..., Lab]
) -> None:
    """A lab whose host side was put into another namespace has its name server there."""
    dns.up(addressed)
    other = give_address(make_lab())
    moved = Lab.of({**addressed.model_dump(), "host": {"netns": other.netns}})
    result = dns.up(moved)
    assert result.changed
    assert result.holds
    with pytest.raises(FarmError, match="does not answer"):
        dns.query(addressed, "site1")


@pytest.mark.root
def test_down_ends_the_server_and_removes_its_files(addressed: Lab) -> None:
    """Afterwards nobody answers, and a second down has nothing to do."""
    dns.up(addressed)
    assert dns.down(addressed).changed
    assert dns.down(addressed).changed is False
    assert list(dns_server.folder(addressed).glob("*")) == []
    with pytest.raises(FarmError, match="does not answer"):
        dns.query(addressed, "site1")
    assert [check.name for check in dns.checks(addressed)] == ["dns.server"]


@pytest.mark.root
def test_without_the_bridge_nothing_is_started(lab: Lab) -> None:
    """A missing address is told as such, before anything is written."""
    lab_namespaces.create_namespace(lab, lab.host.netns)
    with pytest.raises(FarmError, match="on no interface"):
        dns.up(lab)
    assert not dns_server.folder(lab).exists()
    with pytest.raises(FarmError):
        require_address(lab)


@pytest.mark.parametrize(("name", "kind"), [("site1", "NO-SUCH-TYPE"), ("a..b", "A")])
def test_what_is_no_question_is_refused(name: str, kind: str) -> None:
    """A record type or a name that cannot be asked for is the caller's mistake."""
    with pytest.raises(ConfigError, match="is not a question"):
        dns.query(Lab.of({}), name, kind)


@pytest.mark.root
def test_program_resolves_by_the_lab_and_etc_stays(addressed: Lab) -> None:
    """A program of the machine finds a replica by its short name; nobody else's resolver changes."""
    before = Path("/etc/resolv.conf").read_bytes()
    dns.up(addressed)
    done = run.run([str(dns_server.with_dns(addressed)), "getent", "hosts", "site1-2"])
    assert done.stdout.split() == [
        str(addressed.replica("site1-2").address),
        addressed.host_name("site1-2"),
    ]
    assert Path("/etc/resolv.conf").read_bytes() == before


@pytest.mark.root
def test_large_farm_in_an_odd_subnet_is_named_whole(make_lab: Callable[..., Lab]) -> None:
    """400 replicas in a subnet whose length is no multiple of 8 have both records each."""
    lab = give_address(make_lab(replicas=200, subnet="10.60.0.0/19", sites=["a", "b"]))
    assert failed(dns.up(lab).checks) == ()


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A UDP socket that stands for a name server on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr(dns_server, "PORT", server.getsockname()[1])
        yield server


def replies(question: bytes) -> dict[str, tuple[bytes, str]]:
    """What a server may send, and why a program gets no address by it ('': it gets one)."""
    asked = message.from_wire(question)
    good, none = message.make_response(asked), message.make_response(asked)
    good.answer.append(rrset.from_text(asked.question[0].name, 60, "IN", "A", "10.60.0.1"))
    none.set_rcode(rcode.NXDOMAIN)
    return {
        "an address": (good.to_wire(), ""),
        "no such name": (none.to_wire(), "the answer has no address"),
        "no message": (b"hello", "no answer"),
        "another question's": (bytes(2) + good.to_wire()[2:], "no answer"),
    }


@pytest.mark.parametrize("case", ["an address", "no such name", "no message", "another question's"])
def test_whatever_a_name_server_answers_is_told(loopback: socket.socket, case: str) -> None:
    """An answer, a refusal, and what is no answer to the question."""
    expected = ""

    def serve() -> None:
        nonlocal expected
        question, client = loopback.recvfrom(512)
        reply, expected = replies(question)[case]
        loopback.sendto(reply, client)

    thread = threading.Thread(target=serve)
    thread.start()
    said = dns_server.unresolved(None, "127.0.0.1", "site1.lab.test", patience=5.0)
    thread.join()
    assert said == expected


def test_a_closed_port_refuses_at_once_and_a_silent_one_in_time(loopback: socket.socket) -> None:
    """Nobody waits for a server that is not there."""
    began = time.monotonic()
    assert dns_server.unresolved(None, "127.0.0.1", "a.test", patience=0.2) == "no answer"
    loopback.close()
    said = dns_server.unresolved(None, "127.0.0.1", "a.test", patience=5.0)
    assert said == "Connection refused"
    assert time.monotonic() - began < 3.0
