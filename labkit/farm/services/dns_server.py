"""The lab's dnsmasq: its state, the least that brings it to the Lab's configuration, and questions to it.

Names and addresses are in a file that dnsmasq reads again on SIGHUP, so that a further replica or
site interrupts no question; only another address, domain or subnet needs a restart.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING

from labkit.core import daemon, run, undo
from labkit.core.daemon import Daemon
from labkit.core.files import put, text_of, write_atomically
from labkit.core.journal import Journal
from labkit.display import counted
from labkit.errors import ConfigError, FarmError
from labkit.farm.network.host import again, require_address, whereabouts
from labkit.farm.network.netns import inside
from labkit.farm.services import dns_config
from labkit.model.lab import Lab
from labkit.model.resources import fingerprint
from labkit.records import Record

if TYPE_CHECKING:
    from dns.message import Message

#: The port of RFC 1035, section 4.2.
PORT = 53
#: The facts that need a new process when they differ; the others are files that are read again.
RESTART = ("process", "address", "configuration")


class Answer(Record):
    """What the server said: ``status`` is the response code's name (NOERROR, NXDOMAIN, REFUSED),
    ``values`` the records' data as text."""

    name: str
    status: str
    values: tuple[str, ...]
    authoritative: bool


def server(lab: Lab) -> Daemon:
    """How the lab's dnsmasq is started."""
    folder = dns_config.folder(lab)
    file = folder / "dnsmasq.conf"
    return Daemon(
        name="dnsmasq",
        argv=("dnsmasq", f"--conf-file={file}"),
        config=file,
        pidfile=folder / "dnsmasq.pid",
        log=folder / "dnsmasq.log",
        netns=lab.netns,
    )


def wanted(lab: Lab) -> dict[str, str]:
    """The facts of a server that is as the Lab says, by name. Pure."""
    text = dns_config.config(lab)
    return {
        "process": "running",
        "address": _address(text),
        "configuration": fingerprint(text),
        "zone": _zone(dns_config.hosts(lab)),
        "served": "this zone",
        "resolver": fingerprint(*(text for _, text, _ in dns_config.files(lab))),
    }


def observed(lab: Lab) -> dict[str, str] | None:
    """The same facts as they are now; None when there is neither a server nor its files."""
    instance = server(lab)
    running, text = daemon.pid(instance), text_of(instance.config)
    if running is None and text is None:
        return None
    process = whereabouts(lab, running)
    served = process == "running" and knows(lab, dns_config.mark(lab))
    return {
        "process": process,
        "address": _address(text or ""),
        "configuration": fingerprint(text or ""),
        "zone": _zone(text_of(dns_config.hosts_file(lab)) or ""),
        "served": "this zone" if served else "not this zone",
        "resolver": fingerprint(*(text_of(path) or "" for path, _, _ in dns_config.files(lab))),
    }


def converge(lab: Lab) -> bool:
    """Makes the server answer for the lab's zone as it is now; returns whether anything had to change.

    The caller holds the lab's ``farm`` lock.
    """
    run.require("dnsmasq", "ss")
    asked, state = wanted(lab), observed(lab) or {}
    if state == asked:
        return False
    instance = server(lab)
    if any(state.get(fact) != asked[fact] for fact in RESTART):
        _restart(lab, instance)
    elif any(state[fact] != asked[fact] for fact in ("zone", "served")):
        _reload(lab, instance)
    for path, text, mode in dns_config.files(lab):
        if text_of(path) != text:
            write_atomically(path, text, mode=mode)
    return True


def _reload(lab: Lab, instance: Daemon) -> None:
    _write_names(lab)
    daemon.send(instance, signal.SIGHUP)
    try:
        daemon.wait(instance, lambda: _problem(lab), 5.0)
    except FarmError:  # it hears nothing, or was started with another configuration
        _restart(lab, instance)


def _restart(lab: Lab, instance: Daemon) -> None:
    require_address(lab)
    daemon.require_free(
        PORT,
        netns=lab.netns,
        address=str(lab.gateway.ip),
        key="the name server's port",
        own=undo.daemon_pids(str(instance.config)),
    )
    Journal.of(lab).intend("folder", path=str(instance.config.parent))
    candidate = daemon.accepted(
        instance,
        dns_config.config(lab),
        lambda file: ("dnsmasq", "--test", f"--conf-file={file}"),
        "name server",
    )
    _write_names(lab)
    daemon.stop(lab, instance)
    put(
        candidate, instance.config
    )  # a running process has read this file, wherever this is cut off
    daemon.start(lab, instance, lambda: _problem(lab))


def _write_names(lab: Lab) -> None:
    """Writes the zone's names into their file, which dnsmasq reads as nobody."""
    file = dns_config.hosts_file(lab)
    write_atomically(file, dns_config.hosts(lab))
    file.chmod(0o644)
    file.parent.chmod(0o755)


def _zone(text: str) -> str:
    """A zone's file in a few words. Pure."""
    return f"{counted(len(text.splitlines()), 'name')} ({fingerprint(text)})"


def _address(text: str) -> str:
    """The address on which a configuration listens, 'none' when it names none. Pure."""
    pairs = (line.partition("=") for line in text.splitlines())
    return next((value for key, _, value in pairs if key == "listen-address"), "none")


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
    return None if knows(lab, dns_config.mark(lab)) else "it serves other names than the lab's"


def ask(
    lab: Lab, questions: Iterable[tuple[str, str]], *, tcp: bool = False, patience: float = 2.0
) -> list[Answer]:
    """The server's answers to (name, record type) questions, in their order, asked from the host's side.

    Raises :class:`FarmError` when one is not answered within ``patience`` seconds, and
    :class:`ConfigError` for a name or a type that DNS does not have.
    """
    messages = [_message(name, kind) for name, kind in questions]
    try:
        return inside(lab.netns, _exchange, str(lab.gateway.ip), messages, patience, tcp=tcp)
    except OSError as error:
        raise FarmError(
            f"the name server of {lab.domain} at {lab.gateway.ip}",
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
            f"{name} {kind}", f"is no question: {error}", "name and type", code="config.question"
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
