"""A socket of the kernel's network configuration (netlink(7), rtnetlink(7)), and how its messages are read.

Requests are sent many at a time and answered one by one: a farm's links cost one system call, not one each.
:mod:`labkit.kernel.requests` makes the requests, :mod:`labkit.kernel.seen` what is read from the answers.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

#: netlink(7): struct nlmsghdr (length, type, flags, sequence, port), struct nlattr (length, type).
HEADER, ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
#: linux/netlink.h: flags of a request, types of an answer.
REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE = 2, 3
#: linux/netlink.h: flags of an answer: a dump that something changed under; an error with its attributes,
#: without the request that it answers.
INTERRUPTED, CAPPED, EXPLAINED = 0x10, 0x100, 0x200
#: linux/netlink.h: options of a socket, and the attribute with an error's words.
SOL_NETLINK, EXT_ACK, CAP_ACK, STRICT, WORDS = 270, 11, 10, 12, 1
#: sys/socket.h: a receive buffer that only root may have (SO_RCVBUFFORCE).
BUFFER_OPTION, BUFFER = 33, 4 << 20
#: Requests that are sent at once: their answers have to fit into the buffer.
AT_ONCE = 200


@dataclass(frozen=True)
class Request:
    """A request: its type and flags (rtnetlink(7)), and what follows the header."""

    kind: int
    flags: int
    body: bytes


Attributes = dict[int, bytes]


class Netlink:
    """A socket in the network namespace that the calling thread is in; it stays in that one."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        for option in (EXT_ACK, CAP_ACK, STRICT):
            with suppress(OSError):  # an older kernel's answers are longer
                self._socket.setsockopt(SOL_NETLINK, option, 1)
        with suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, BUFFER_OPTION, BUFFER)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def ask(self, request: Request) -> None:
        """Does one thing; raises :class:`OSError` as the kernel says it."""
        (error,) = self.try_all([request])
        if error is not None:
            raise error

    def try_all(self, requests: Sequence[Request]) -> list[OSError | None]:
        """Does one thing after the other, whatever becomes of those before; the errors, in their order."""
        found: list[OSError | None] = []
        for start in range(0, len(requests), AT_ONCE):
            found += self._try(requests[start : start + AT_ONCE])
        return found

    def dump(self, request: Request) -> list[bytes]:
        """What follows the header of each answer; asked again when something changed meanwhile."""
        while True:
            first = self._send([Request(request.kind, request.flags | DUMP, request.body)])
            found, whole = self._collect(first)
            if whole:
                return found

    def _try(self, requests: Sequence[Request]) -> list[OSError | None]:
        first = self._send([Request(r.kind, r.flags | ACK, r.body) for r in requests])
        answers: dict[int, OSError | None] = {}
        while len(answers) < len(requests):
            for kind, flags, number, body in self._receive():
                if kind == ERROR and 0 <= number - first < len(requests):
                    answers[number] = _error(flags, body)
        return [answers[first + place] for place in range(len(requests))]

    def _collect(self, number: int) -> tuple[list[bytes], bool]:
        found: list[bytes] = []
        whole = True
        while True:
            for kind, flags, answered, body in self._receive():
                if answered != number:
                    continue
                whole = whole and not flags & INTERRUPTED
                if kind == ERROR and (error := _error(flags, body)) is not None:
                    raise error
                if kind in (DONE, ERROR):
                    return found, whole
                found.append(body)

    def _send(self, requests: Sequence[Request]) -> int:
        """The number of the first of them."""
        first = self._sequence + 1
        self._sequence += len(requests)
        parts = []
        for number, item in enumerate(requests, first):
            length = HEADER.size + len(item.body)
            parts.append(HEADER.pack(length, item.kind, item.flags | REQUEST, number, 0))
            parts.append(item.body)
        self._socket.send(b"".join(parts))
        return first

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(1 << 17)
        place = 0
        while place < len(data):
            length, kind, flags, number, _ = HEADER.unpack_from(data, place)
            yield kind, flags, number, data[place + HEADER.size : place + length]
            place += _aligned(length)


def attribute(kind: int, value: bytes | int | str) -> bytes:
    """An attribute: a number has 32 bits, a text ends with a NUL. Pure."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def attributes(data: bytes) -> Attributes:
    """The attributes by their types, without the types' own flags; the last of a type counts. Pure."""
    found: Attributes = {}
    place = 0
    while place + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, place)
        if length < ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[place + ATTRIBUTE.size : place + length]
        place += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _error(flags: int, body: bytes) -> OSError | None:
    """What an answer says: struct nlmsgerr has the error's number below zero, 0 for none."""
    (number,) = struct.unpack_from("=i", body)
    if not number:
        return None
    words = b""
    if flags & EXPLAINED and flags & CAPPED:
        words = attributes(body[4 + HEADER.size :]).get(WORDS, b"").rstrip(b"\0")
    said = f"{os.strerror(-number)}{f': {words.decode()}' if words else ''}"
    return OSError(-number, said)


def is_gone(error: OSError | None) -> bool:
    """Whether the kernel says that what was to be removed is not there."""
    return error is not None and error.errno in (errno.ENODEV, errno.ENOENT, errno.ESRCH)
