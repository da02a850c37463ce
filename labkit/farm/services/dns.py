"""The lab's name server: brought up, asked, checked, and ended.

It is a dnsmasq that is authoritative for the lab's zone and for nothing else. It listens on the bridge's
address alone, reads neither /etc/hosts nor /etc/resolv.conf, asks no other server and refuses every
question outside its zone (dnsmasq(8), "authoritative mode").
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address

from labkit.checks import Check, equal
from labkit.core import daemon, run
from labkit.core.files import text_of
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted
from labkit.errors import ConfigError, FarmError, LabkitError, typed
from labkit.farm.containers import runc
from labkit.farm.network import firewall
from labkit.farm.network.firewall import NAMES
from labkit.farm.services.dns_server import (
    PORT,
    Answer,
    Zone,
    ask,
    converge,
    folder,
    names,
    resolving,
    server,
    unresolved,
    with_dns,
)
from labkit.model.config import LABEL
from labkit.model.lab import Lab, Replica

__all__ = ["address", "checks", "down", "query", "up"]

#: The assignment's row that the checks of this module answer.
ROWS = ("E5",)
#: A name for which the lab's server is not responsible (RFC 2606).
OUTSIDE = "example.org"


def __dir__() -> list[str]:
    return __all__


@action("dns.up")
def up(lab: Lab) -> Outcome[Zone]:
    """Makes the name server answer for the lab's zone, with the names and addresses of the Lab.

    A running server reads changed names and goes on; it is replaced only for another configuration,
    which dnsmasq has accepted. The table ``names`` has one row a name. Raises :class:`MachineError`
    naming the process that has the port, :class:`FarmError` when the bridge has no address or the
    server does not come up.

    Example: ``dns.up(lab).value.names``
    """
    with lock(lab.run_dir, "farm"):
        changed = converge(lab)
    zone = Zone(domain=lab.domain, server=lab.gateway.ip, port=PORT, names=names(lab))
    rows = [{"name": item.name, "address": str(item.address)} for item in zone.names]
    return Outcome(
        value=zone,
        subject=lab.domain,
        changed=changed,
        summary=f"{zone.server} answers for {zone.domain}: {counted(len(zone.names), 'name')}.",
        checks=checks(lab),
        tables=(Table.of("names", f"The zone {zone.domain}", rows),),
    )


@action("dns.down")
def down(lab: Lab) -> Outcome[str]:
    """Ends the lab's name server and removes its files."""
    with lock(lab.run_dir, "farm"):
        ran = daemon.stop(lab, server(lab))
        for file in sorted(folder(lab).glob("*")):
            file.unlink()
    said = "was ended" if ran else "did not run"
    return Outcome(
        value=lab.domain, subject=lab.domain, changed=ran, summary=f"The name server {said}."
    )


def query(lab: Lab, name: str, kind: str = "A") -> Answer:
    """Asks the lab's name server one question, from the host's side, and returns its answer.

    :param name: a name; without a dot, one of the lab's zone. For PTR also an address.
    :param kind: a record type (A, AAAA, PTR, SOA, NS …).
    :returns: the answer; for a name that does not exist, one with the status NXDOMAIN.
    :raises FarmError: no answer comes.
    :raises ConfigError: DNS has no such name or type.

    Example: ``dns.query(lab, "site1").values`` is ``("10.60.0.1",)``.
    """
    return ask(lab, [(lab.host_name(name) if "." not in name else name, kind)])[0]


def address(lab: Lab, label: str) -> IPv4Address:
    """Asks the lab's name server for the address of a site or a replica; :class:`FarmError` if it gives none."""
    if not LABEL.fullmatch(label):
        raise ConfigError(
            repr(label), "is not a DNS label", "name a site or a replica", code="config.label"
        )
    answer = query(lab, label)
    if not answer.values:
        raise FarmError(
            lab.host_name(label),
            f"the lab's name server knows no address for it ({answer.status})",
            "bring the name server up to date: `./lab run 06-balancer`",
            _again(lab, lab.host_name(label)),
            code="farm.no-name",
        )
    return IPv4Address(answer.values[0])


def checks(lab: Lab) -> tuple[Check, ...]:
    """Checks that the name server answers with the Lab's names and addresses, and with nothing else."""
    zone = names(lab)
    labels = {lab.gateway.ip: "balancer", **{item.address: item.name for item in lab.farm}}
    try:
        forward = ask(lab, [(item.name, "A") for item in zone])
        reverse = ask(lab, [(str(address), "PTR") for address in labels])
        unknown, outside = ask(lab, [(lab.host_name("no-such"), "A"), (OUTSIDE, "A")])
        (tcp,) = ask(lab, [(lab.domain, "NS")], tcp=True)
    except FarmError as error:
        expected = f"answers for {lab.domain}"
        return (equal("dns.server", expected, error.reason, rows=ROWS, again=error.again),)
    return (
        *(
            _record(
                lab, f"name.{item.name.removesuffix(f'.{lab.domain}')}", str(item.address), answer
            )
            for item, answer in zip(zone, forward, strict=True)
        ),
        *(
            _record(lab, f"reverse.{label}", lab.host_name(label), answer, str(address))
            for (address, label), answer in zip(labels.items(), reverse, strict=True)
        ),
        _record(lab, "tcp", lab.host_name("ns"), tcp),
        _check(lab, "unknown", "NXDOMAIN", unknown.status, unknown.name),
        _check(lab, "outside", "REFUSED", outside.status, outside.name),
        _libc(lab),
        *_replicas(lab),
    )


def _check(lab: Lab, name: str, expected: str, seen: str, asked: str) -> Check:
    return equal(f"dns.{name}", expected, seen, rows=ROWS, again=_again(lab, asked))


def _record(lab: Lab, name: str, expected: str, answer: Answer, asked: str = "") -> Check:
    """Whether an authoritative answer has the expected record; ``asked`` is what a person asks for, if not its name."""
    seen = ", ".join(answer.values) or answer.status
    seen = seen if answer.authoritative else f"{seen} (not authoritative)"
    return _check(lab, name, expected, seen, asked or answer.name)


def _libc(lab: Lab) -> Check:
    """Whether a program of the machine, which knows nothing of labkit, resolves the first site's name."""
    name = lab.host_name(lab.sites[0].name)
    try:
        done = run.run(resolving(lab, ["getent", "ahostsv4", name]), ok=(0, 2), timeout=20)
        seen = done.stdout.split()[0] if done.stdout else "no address"
    except LabkitError as error:
        seen = error.reason
    return _check(lab, "libc", str(lab.gateway.ip), seen, name)


def _replicas(lab: Lab) -> Iterator[Check]:
    """Whether each running replica's resolver finds the first site, and a program in the first replica does.

    The question is asked in the replica's network namespace: the machine's packet filter may refuse a
    replica what it allows the host's side. One program is enough, as its start takes a while.
    """
    states = runc.states(lab)
    running = [item for item in lab.farm if item.name in states and states[item.name].pid]
    name = lab.host_name(lab.sites[0].name)
    problems = run.spread(partial(_unresolved, lab, name), running, workers=16)
    blame = firewall.blame(lab, NAMES) if any(problems) else ""
    expected = f"{name} is found by the server in its resolv.conf"
    for replica, problem in zip(running, problems, strict=True):
        words = runc.command(lab, "exec", replica.name, "getent", "ahostsv4", name)
        said = f"{problem}; {blame}" if problem and blame else problem
        if replica == running[0] and not problem:
            done = run.run(words, ok=range(256), timeout=20)
            absent = "executable file not found" in done.stderr
            if not absent and not done.stdout.startswith(f"{lab.gateway.ip} "):
                output = " ".join((done.stdout + done.stderr).split())
                said = f"getent: {output or 'no address'}"
        again = typed([str(word) for word in words])
        yield equal(
            f"dns.inside.{replica.name}", expected, said or expected, rows=ROWS, again=again
        )


def _unresolved(lab: Lab, name: str, replica: Replica) -> str:
    """Why the replica's resolver does not find a name; '' when it does."""
    text = text_of(runc.bundle(lab, replica.name) / "rootfs/etc/resolv.conf") or ""
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
    if not servers:
        return "its resolv.conf names no server"
    said = unresolved(replica.netns, servers[0], name, patience=1.0)
    return f"{servers[0]} was asked: {said}" if said else ""


def _again(lab: Lab, asked: str) -> str:
    return f"{with_dns(lab)} getent hosts {asked}"
