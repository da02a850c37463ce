"""What the lab's zone holds, how dnsmasq is told, and whether the server says the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.files import text_of
from labkit.errors import FarmError, LabkitError, typed
from labkit.farm.containers import runc
from labkit.farm.network import firewall
from labkit.farm.network.firewall_rules import NAMES
from labkit.farm.services import resolver
from labkit.farm.services.question import Answer, ask, unresolved
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: The assignment's row that the checks of this module answer.
ROWS = ("E5",)
#: A name for which the lab's server is not responsible (RFC 2606).
OUTSIDE = "example.org"


class Name(Record):
    """A name of the zone and its address."""

    name: str
    address: IPv4Address


class Zone(Record):
    """A zone, the server that answers for it, and its names; each address has a reverse record."""

    domain: str
    server: IPv4Address
    port: int
    names: tuple[Name, ...]


def names(lab: Lab) -> tuple[Name, ...]:
    """The zone's names: the balancer's first, which is the one that its address stands for."""
    here = ["balancer", "ns", *(site.name for site in lab.sites)]
    return (
        *(Name(name=lab.host_name(label), address=lab.gateway.ip) for label in here),
        *(Name(name=lab.host_name(item.name), address=item.address) for item in lab.farm),
    )


def config(lab: Lab) -> str:
    """dnsmasq's configuration: all but the names, which it reads anew without a restart. Pure."""
    folder, server = resolver.folder(lab), lab.gateway.ip
    return f"""\
# The name server of lab {lab.name}: it answers for {lab.domain} and asks nobody.
listen-address={server}
bind-interfaces
no-resolv
no-hosts
user=nobody
group=nogroup
pid-file={folder / "dnsmasq.pid"}
log-facility={folder / "dnsmasq.log"}
auth-server={lab.host_name("ns")},{server}
auth-zone={lab.domain},{lab.subnet}
auth-ttl=60
addn-hosts={folder / "hosts"}
"""


def hosts(lab: Lab) -> str:
    """The zone's names as hosts(5), which dnsmasq reads again on SIGHUP; an address' first name is that
    of its reverse record. The last line is the zone's :func:`mark`. Pure."""
    lines = "".join(f"{item.address} {item.name}\n" for item in names(lab))
    return f"{lines}{lab.gateway.ip} {mark(lab)}\n"


def mark(lab: Lab) -> str:
    """A name that the server knows when it serves exactly this zone: it has the names' hash in it."""
    text = "".join(f"{item.address} {item.name}\n" for item in names(lab))
    return lab.host_name(f"labkit-zone-{hashlib.sha256(text.encode()).hexdigest()[:12]}")


def checks(lab: Lab) -> tuple[Check, ...]:
    """Whether the server says of each name and address what the Lab says, by asking it."""
    try:
        forward = ask(lab, [(item.name, "A") for item in names(lab)])
        reverse = ask(lab, [(str(address), "PTR") for address in _reverse(lab)])
        unknown, outside = ask(lab, [(lab.host_name("no-such"), "A"), (OUTSIDE, "A")])
        # One question a connection: dnsmasq 2.90 closes its first one after the first answer.
        (tcp,) = ask(lab, [(lab.domain, "NS")], tcp=True)
    except FarmError as error:
        return (_down(lab, error),)
    return (
        *(
            _holds(lab, f"dns.name.{_label(lab, item)}", str(item.address), answer)
            for item, answer in zip(names(lab), forward, strict=True)
        ),
        *(
            _holds(lab, f"dns.reverse.{label}", lab.host_name(label), answer)
            for label, answer in zip(_reverse(lab).values(), reverse, strict=True)
        ),
        _holds(lab, "dns.tcp", lab.host_name("ns"), tcp),
        _status(lab, "dns.unknown", "NXDOMAIN", unknown),
        _status(lab, "dns.outside", "REFUSED", outside),
        _libc(lab),
        *_inner(lab),
    )


def _inner(lab: Lab) -> Iterator[Check]:
    """Whether each running replica's own resolver finds the first site: asked in its network namespace, for
    the machine's packet filter may refuse a replica what it allows the host's side; and by a program in it."""
    states = runc.states(lab)
    running = [item for item in lab.farm if item.name in states and states[item.name].pid]
    name = lab.host_name(lab.sites[0].name)
    problems = run.spread(partial(_problem, lab, name), running, workers=16)
    blame = firewall.blame(lab, NAMES) if any(problems) else ""
    expected = f"{name} is found by the server in its resolv.conf"
    for replica, problem in zip(running, problems, strict=True):
        words = runc.command(lab, "exec", replica.name, "getent", "ahostsv4", name)
        said = f"{problem}; {blame}" if problem and blame else problem
        if replica == running[0] and not problem:  # one program is enough: its start takes a while
            said = _program(lab, words)
        yield Check(
            name=f"dns.inside.{replica.name}", expected=expected, seen=said or expected, holds=not said,
            rows=ROWS, again=typed([str(word) for word in words]),
        )  # fmt: skip


def _problem(lab: Lab, name: str, replica: Replica) -> str:
    """Why the replica's resolver does not find a name; '' when it does."""
    text = text_of(runc.bundle(lab, replica.name) / "rootfs/etc/resolv.conf") or ""
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
    if not servers:
        return "its resolv.conf names no server"
    said = unresolved(replica.netns, servers[0], name, patience=1.0)
    return f"{servers[0]} was asked: {said}" if said else ""


def _program(lab: Lab, words: Sequence[str | Path]) -> str:
    """What getent in a container says instead of the address; '' when it is right, or not in the image."""
    done = run.run(words, ok=range(256), timeout=20)
    if "executable file not found" in done.stderr or done.stdout.startswith(f"{lab.gateway.ip} "):
        return ""
    return f"getent: {' '.join((done.stdout + done.stderr).split()) or 'no address'}"


def _reverse(lab: Lab) -> dict[IPv4Address, str]:
    """Each address of the zone and the label of its reverse record."""
    return {lab.gateway.ip: "balancer", **{item.address: item.name for item in lab.farm}}


def _label(lab: Lab, item: Name) -> str:
    return item.name.removesuffix(f".{lab.domain}")


def _again(lab: Lab, asked: str) -> str:
    return f"{resolver.with_dns(lab)} getent hosts {asked}"


def _holds(lab: Lab, name: str, expected: str, answer: Answer) -> Check:
    seen = ", ".join(answer.values) or answer.status
    asked = answer.name if answer.kind != "PTR" else _address(answer.name)
    said = seen if answer.authoritative else f"{seen} (not authoritative)"
    return equal(name, expected, said, rows=ROWS, again=_again(lab, asked))


def _address(reverse_name: str) -> str:
    """``10.60.0.11`` of ``11.0.60.10.in-addr.arpa``."""
    return ".".join(reversed(reverse_name.split(".")[:4]))


def _status(lab: Lab, name: str, expected: str, answer: Answer) -> Check:
    return equal(name, expected, answer.status, rows=ROWS, again=_again(lab, answer.name))


def _libc(lab: Lab) -> Check:
    """A program of the machine, which knows nothing of labkit, resolves the first site's name."""
    name = lab.host_name(lab.sites[0].name)
    try:
        done = run.run(resolver.command(lab, ["getent", "ahostsv4", name]), ok=(0, 2), timeout=20)
        seen = done.stdout.split()[0] if done.stdout else "no address"
    except LabkitError as error:
        seen = error.reason
    return equal("dns.libc", str(lab.gateway.ip), seen, rows=ROWS, again=_again(lab, name))


def _down(lab: Lab, error: FarmError) -> Check:
    return Check(
        name="dns.server",
        expected=f"answers for {lab.domain}",
        seen=error.reason,
        holds=False,
        rows=ROWS,
        again=error.again,
    )
