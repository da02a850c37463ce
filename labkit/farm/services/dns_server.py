"""The lab's name server: its zone, dnsmasq's configuration, its state, and questions to it.

Names and addresses are in a file that dnsmasq reads again on SIGHUP, so that a further replica or
site interrupts no question; only another address, domain or subnet needs a restart.

A program that is to resolve by the lab's server is started in a mount namespace in which the lab's ``resolv.conf``
lies over ``/etc/resolv.conf``; the mount ends with the program (mount_namespaces(7)), and /etc stays unchanged.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import signal
import socket
from collections.abc import Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core import daemon, run, undo
from labkit.core.daemon import Daemon
from labkit.core.files import text_of, write_atomically
from labkit.core.journal import Journal
from labkit.display import counted
from labkit.errors import ConfigError, FarmError
from labkit.farm.network.host import again, require_address, whereabouts
from labkit.kernel.netns import inside
from labkit.model.lab import Lab, resolv_conf
from labkit.model.resources import fingerprint
from labkit.records import Record

if TYPE_CHECKING:
    from dns.message import Message

#: The port of RFC 1035, section 4.2.
PORT = 53
#: The facts that need a new process when they differ; the others are files that are read again.
RESTART = ("process", "address", "configuration")
#: The one fixed shell text: its words are positional arguments, never part of it.
_OVERLAID = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


class Answer(Record):
    """What the server said: ``status`` is the response code's name (NOERROR, NXDOMAIN, REFUSED),
    ``values`` the records' data as text."""

    name: str
    status: str
    values: tuple[str, ...]
    authoritative: bool


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


def folder(lab: Lab) -> Path:
    """The folder of the name server's files."""
    return lab.run_dir / "dns"


def hosts_file(lab: Lab) -> Path:
    """The file with the zone's names, which dnsmasq reads."""
    return folder(lab) / "hosts"


def names(lab: Lab) -> tuple[Name, ...]:
    """The zone's names; the first name of an address is the one of its reverse record."""
    here = ["balancer", "ns", *(site.name for site in lab.sites)]
    return (
        *(Name(name=lab.host_name(label), address=lab.gateway.ip) for label in here),
        *(Name(name=lab.host_name(item.name), address=item.address) for item in lab.farm),
    )


def config(lab: Lab) -> str:
    """dnsmasq's configuration without the names, which it reads again without a restart."""
    server = lab.gateway.ip
    return f"""\
# The name server of lab {lab.name}: it answers for {lab.domain} and asks nobody.
listen-address={server}
bind-interfaces
no-resolv
no-hosts
user=nobody
group=nogroup
pid-file={folder(lab) / "dnsmasq.pid"}
log-facility={folder(lab) / "dnsmasq.log"}
auth-server={lab.host_name("ns")},{server}
auth-zone={lab.domain},{lab.subnet}
auth-ttl=60
addn-hosts={hosts_file(lab)}
"""


def hosts(lab: Lab) -> str:
    """The zone's names as hosts(5), which dnsmasq reads again on SIGHUP; the last line is the :func:`mark`."""
    return f"{_lines(lab)}{lab.gateway.ip} {mark(lab)}\n"


def mark(lab: Lab) -> str:
    """A name with the hash of all names in it: the server that knows it serves exactly this zone."""
    return lab.host_name(f"labkit-zone-{hashlib.sha256(_lines(lab).encode()).hexdigest()[:12]}")


def _lines(lab: Lab) -> str:
    return "".join(f"{item.address} {item.name}\n" for item in names(lab))


def resolving(lab: Lab, argv: Sequence[str], *, unshare: Sequence[str] = ()) -> list[str]:
    """The argument list that runs ``argv`` on the host's side with the lab's names.

    ``unshare`` are further options of unshare(1): more namespaces for the program.
    """
    overlaid = ["sh", "-c", _OVERLAID, str(folder(lab) / "resolv.conf"), *argv]
    return run.inside(["unshare", "--mount", *unshare, "--", *overlaid], lab.netns)


def with_dns(lab: Lab) -> Path:
    """The script that runs any program with the lab's names: ``with-dns getent hosts site1.lab.test``."""
    return folder(lab) / "with-dns"


def files(lab: Lab) -> tuple[tuple[Path, str, int], ...]:
    """Path, text and mode of the files for programs that resolve by the lab's server."""
    script = f'#!/bin/sh\nexec {shlex.join(resolving(lab, ()))} "$@"\n'
    return (
        (folder(lab) / "resolv.conf", resolv_conf(lab), 0o644),
        (with_dns(lab), script, 0o755),
    )


def server(lab: Lab) -> Daemon:
    """How the lab's dnsmasq is started."""
    place = folder(lab)
    file = place / "dnsmasq.conf"
    return Daemon(
        name="dnsmasq",
        argv=("dnsmasq", f"--conf-file={file}"),
        config=file,
        pidfile=place / "dnsmasq.pid",
        log=place / "dnsmasq.log",
        netns=lab.netns,
    )


def wanted(lab: Lab) -> dict[str, str]:
    """The facts of a server that is as the Lab says, by name. Pure."""
    text = config(lab)
    return {
        "process": "running",
        "address": _address(text),
        "configuration": fingerprint(text),
        "zone": _zone(hosts(lab)),
        "served": "this zone",
        "resolver": fingerprint(*(text for _, text, _ in files(lab))),
    }


def observed(lab: Lab) -> dict[str, str] | None:
    """The same facts as they are now; None when there is neither a server nor its files."""
    instance = server(lab)
    running, text = daemon.pid(instance), text_of(instance.config)
    if running is None and text is None:
        return None
    process = whereabouts(lab, running)
    served = process == "running" and knows(lab, mark(lab))
    return {
        "process": process,
        "address": _address(text or ""),
        "configuration": fingerprint(text or ""),
        "zone": _zone(text_of(hosts_file(lab)) or ""),
        "served": "this zone" if served else "not this zone",
        "resolver": fingerprint(*(text_of(path) or "" for path, _, _ in files(lab))),
    }


def converge(lab: Lab) -> bool:
    """Makes the server answer for the lab's zone as it is now; returns whether anything had to change.

    The caller holds the lab's ``farm`` lock.
    """
    run.require("dnsmasq", "ss")
    asked, state = wanted(lab), observed(lab) or {}
    if state == asked:
        return False
    if any(state.get(fact) != asked[fact] for fact in RESTART):
        _restart(lab)
    elif any(state[fact] != asked[fact] for fact in ("zone", "served")):
        _write_names(lab)
        daemon.send(server(lab), signal.SIGHUP)
        try:
            daemon.wait(server(lab), lambda: _problem(lab), 5.0)
        except FarmError:  # it hears nothing, or was started with another configuration
            _restart(lab)
    for path, text, mode in files(lab):
        if text_of(path) != text:
            write_atomically(path, text, mode=mode)
    return True


def _restart(lab: Lab) -> None:
    instance = server(lab)
    require_address(lab)
    daemon.require_free(
        PORT,
        netns=lab.netns,
        address=str(lab.gateway.ip),
        key="the name server's port",
        own=undo.daemon_pids(str(instance.config)),
    )
    Journal.of(lab).intend("folder", path=str(folder(lab)))
    test = ("dnsmasq", "--test", "--conf-file={}")
    daemon.install(
        lab,
        instance,
        config(lab),
        test,
        lambda: _problem(lab),
        accepted=lambda: _write_names(lab),
    )


def _write_names(lab: Lab) -> None:
    """Writes the zone's names into their file, which dnsmasq reads as nobody."""
    file = hosts_file(lab)
    write_atomically(file, hosts(lab))
    file.chmod(0o644)
    file.parent.chmod(0o755)


def _zone(text: str) -> str:
    """A zone's file in a few words. Pure."""
    return f"{counted(len(text.splitlines()), 'name')} ({fingerprint(text)})"


def _address(text: str) -> str:
    """The address on which a configuration listens, 'none' when it names none. Pure."""
    found = re.search(r"^listen-address=(.*)$", text, re.MULTILINE)
    return found[1] if found else "none"


def _problem(lab: Lab) -> str | None:
    """What is wrong with the server's answers about its zone; None when nothing is."""
    try:
        return difference(lab)
    except FarmError as error:
        return error.reason


def difference(lab: Lab) -> str | None:
    """How the answers at the lab's address differ from the Lab's zone, None when they do not.

    Raises :class:`FarmError` when no server answers.
    """
    answer = ask(lab, [(lab.domain, "SOA")], patience=0.5)[0]
    if not (answer.authoritative and answer.values):
        return f"it answers {answer.status}"
    return None if knows(lab, mark(lab)) else "it serves other names than the lab's"


def ask(
    lab: Lab,
    questions: Iterable[tuple[str, str]],
    *,
    tcp: bool = False,
    patience: float = 2.0,
    server: str = "",
) -> list[Answer]:
    """The answers to (name, record type) questions, in their order, asked from the host's side; ``server`` is the
    address of another server than the lab's own.

    Raises :class:`FarmError` when one is not answered within ``patience`` seconds, and
    :class:`ConfigError` for a name or a type that DNS does not have.
    """
    address = server or str(lab.gateway.ip)
    messages = [_message(name, kind) for name, kind in questions]
    try:
        return inside(lab.netns, _exchange, address, messages, patience, tcp=tcp)
    except OSError as error:
        raise FarmError(
            f"the name server of {lab.domain} at {address}",
            f"does not answer: {error.strerror or error}",
            "start it: `./lab run 06-balancer`",
            again(lab, "ss -lntup"),
            code="farm.names-silent",
        ) from None


def knows(lab: Lab, name: str, *, patience: float = 0.5) -> bool:
    """Whether the server has an address for a name, asked from the host's side; False without an answer."""
    return not unresolved(lab.netns, str(lab.gateway.ip), name, patience=patience)


def unresolved(netns: str | None, server: str, name: str, *, patience: float) -> str:
    """Why a program in a network namespace gets no address for a name from a server; '' when it gets one."""
    try:
        (answer,) = inside(netns, _exchange, server, [_message(name, "A")], patience)
    except OSError as error:
        return error.strerror or "no answer"
    except FarmError as error:
        return error.reason
    return "" if answer.status == "NOERROR" and answer.values else "the answer has no address"


def _message(name: str, kind: str) -> Message:
    import dns.exception  # dnspython: a tenth of a second
    import dns.message
    import dns.reversename

    try:
        asked = dns.reversename.from_address(str(IPv4Address(name))) if kind == "PTR" else name
    except AddressValueError:
        asked = name
    try:
        return dns.message.make_query(asked, kind)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise ConfigError(
            f"{name} {kind}",
            f"is not a question to a name server: {error}",
            "name and type",
            code="config.question",
        ) from None


def _exchange(
    server: str, messages: list[Message], patience: float, *, tcp: bool = False
) -> list[Answer]:
    """Asks in the calling thread's network namespace; whatever goes wrong is an :class:`OSError`."""
    import dns.exception
    import dns.query

    try:
        if tcp:
            return [_answer(dns.query.tcp(item, server, patience, PORT)) for item in messages]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.connect((server, PORT))  # a port without a server refuses at once
            replies = [dns.query.udp(m, server, patience, PORT, sock=channel) for m in messages]
            return [_answer(reply) for reply in replies]
    except dns.exception.Timeout:
        raise TimeoutError("timed out") from None
    except (dns.exception.DNSException, EOFError) as error:
        raise OSError(str(error)) from None


def _answer(reply: Message) -> Answer:
    import dns.flags
    import dns.rcode

    question = reply.question[0]
    return Answer(
        name=question.name.to_text(omit_final_dot=True),
        status=dns.rcode.to_text(reply.rcode()),
        values=tuple(
            item.to_text().rstrip(".")
            for rrset in reply.answer
            if rrset.rdtype == question.rdtype
            for item in rrset
        ),
        authoritative=bool(reply.flags & dns.flags.AA),
    )
