"""Questions to the lab's name server, asked from the host's side or a replica's."""

from __future__ import annotations

import secrets
import socket
import struct
import time
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING

from labkit.errors import ConfigError, FarmError
from labkit.farm.network import host
from labkit.farm.network.netns import inside
from labkit.model.lab import Lab
from labkit.records import Record

if TYPE_CHECKING:
    from dns.message import Message


class Answer(Record):
    """What the server said: ``status`` is the response code's name (NOERROR, NXDOMAIN, REFUSED),
    ``values`` the records' data as text, ``seconds`` from question to answer."""

    name: str
    kind: str
    status: str
    values: tuple[str, ...]
    authoritative: bool
    seconds: float


def ask(
    lab: Lab, questions: Iterable[tuple[str, str]], *, tcp: bool = False, patience: float = 2.0
) -> list[Answer]:
    """The answers to (name, record type) questions, in their order, over one socket.

    Raises :class:`FarmError` when one is not answered within ``patience`` seconds, and
    :class:`ConfigError` when a name or a type is none.
    """
    messages = [_message(name, kind) for name, kind in questions]
    try:
        return inside(lab.netns, _exchange, str(lab.gateway.ip), messages, tcp, patience)
    except OSError as error:
        raise FarmError(
            f"the name server of {lab.domain} at {lab.gateway.ip}",
            f"does not answer: {error.strerror or error}",
            "start it: `./lab run 06-balancer`",
            host.again(lab, "ss -lntup"),
            code="farm.names-silent",
        ) from None


def knows(lab: Lab, name: str, *, patience: float = 0.5) -> bool:
    """Whether the server has an address for a name, asked from the host's side; False without an answer."""
    return not unresolved(lab.netns, str(lab.gateway.ip), name, patience=patience)


def unresolved(netns: str | None, server: str, name: str, *, patience: float) -> str:
    """Why a program in a network namespace gets no address for a name from a server; '' when it gets one.

    One question, without dnspython, whose import takes longer than all of a look at the farm.
    """
    number = secrets.token_bytes(2)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    asked = number + struct.pack("!5H", 0, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)
    try:
        reply = inside(netns, _once, server, asked, patience)
    except OSError as error:
        return error.strerror or "no answer"
    except FarmError as error:
        return error.reason
    fits = reply[:2] == number and reply[3] & 0xF == 0 and int.from_bytes(reply[6:8]) > 0
    return "" if fits else "the answer has no address"


def _once(server: str, asked: bytes, patience: float) -> bytes:
    """The reply to a message of RFC 1035, section 4.1 (at least its header)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(patience)
        channel.connect((server, 53))
        channel.send(asked)
        reply = channel.recv(512)
    if len(reply) < 12:
        raise OSError("an answer that is none came")
    return reply


def _message(name: str, kind: str) -> Message:
    import dns.exception
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


def _exchange(server: str, messages: list[Message], tcp: bool, patience: float) -> list[Answer]:
    """Asks over a connected socket, so that a port without a server is refused at once."""
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as channel:
        channel.settimeout(patience)
        channel.connect((server, 53))
        return [_ask(channel, message, tcp) for message in messages]


def _ask(channel: socket.socket, message: Message, tcp: bool) -> Answer:
    import dns.flags
    import dns.message
    import dns.rcode

    started = time.monotonic()
    wire = message.to_wire(prepend_length=tcp)
    channel.sendall(wire)
    reply = dns.message.from_wire(_receive(channel, tcp))
    if not message.is_response(reply):
        raise OSError("an answer to another question came")
    question = message.question[0]
    return Answer(
        name=question.name.to_text(omit_final_dot=True),
        kind=question.rdtype.name,
        status=dns.rcode.to_text(reply.rcode()),
        values=tuple(
            item.to_text().rstrip(".")
            for rrset in reply.answer
            if rrset.rdtype == question.rdtype
            for item in rrset
        ),
        authoritative=bool(reply.flags & dns.flags.AA),
        seconds=round(time.monotonic() - started, 6),
    )


def _receive(channel: socket.socket, tcp: bool) -> bytes:
    if not tcp:
        return channel.recv(65535)
    size = int.from_bytes(_exactly(channel, 2))
    return _exactly(channel, size)


def _exactly(channel: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = channel.recv(size - len(received))
        if not part:
            raise OSError("the server closed the connection")
        received += part
    return received
