"""A socket of the kernel's network configuration (netlink(7), rtnetlink(7)), whose messages pyroute2 writes and reads.

Requests are sent many at a time and answered one by one: a farm's links cost one system call, not one each,
and a socket costs nothing but itself. (pyroute2's own sockets each start an event loop, and each one that
goes into a namespace a process; its batches do not say which of their requests failed.)
:mod:`labkit.kernel.requests` makes the requests, :mod:`labkit.kernel.seen` what is read from the answers.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import Any

#: linux/netlink.h: flags of a request, types of an answer.
REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE = 2, 3
#: linux/netlink.h: flag of the answers to a dump that something changed under.
INTERRUPTED = 0x10
#: linux/netlink.h: options of a socket: an error has its words, a dump is filtered.
SOL_NETLINK, EXT_ACK, STRICT = 270, 11, 12
#: sys/socket.h: a receive buffer that only root may have (SO_RCVBUFFORCE).
BUFFER_OPTION, BUFFER = 33, 4 << 20
#: Requests that are sent at once: their answers have to fit into the buffer.
AT_ONCE = 200

#: A message as pyroute2 reads it: fields by their names, ``get_attr`` for attributes.
Message = Any


@dataclass(frozen=True)
class Request:
    """A request: its type and flags (rtnetlink(7)), its header's fields and its attributes, by pyroute2's names."""

    kind: int
    flags: int = 0
    fields: Mapping[str, int] = field(default_factory=dict)
    attributes: Sequence[tuple[str, Any]] = ()


class Netlink:
    """A socket in the network namespace that the calling thread is in; it stays in that one."""

    def __init__(self) -> None:
        self._marshal = _marshal()()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        for option in (EXT_ACK, STRICT):
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

    def dump(self, request: Request) -> list[Message]:
        """The answers as pyroute2 reads them; asked again when something changed meanwhile."""
        while True:
            found, whole = self._collect(self._send([request], DUMP))
            if whole:
                return found

    def _try(self, requests: Sequence[Request]) -> list[OSError | None]:
        first = self._send(requests, ACK)
        answers: dict[int, OSError | None] = {}
        while len(answers) < len(requests):
            for message in self._receive():
                number = message["header"]["sequence_number"]
                if message["header"]["type"] == ERROR and 0 <= number - first < len(requests):
                    answers[number] = _error(message)
        return [answers[first + place] for place in range(len(requests))]

    def _collect(self, number: int) -> tuple[list[Message], bool]:
        found: list[Message] = []
        whole = True
        while True:
            for message in self._receive():
                header = message["header"]
                if header["sequence_number"] != number:
                    continue
                whole = whole and not header["flags"] & INTERRUPTED
                if header["type"] == ERROR and (error := _error(message)) is not None:
                    raise error
                if header["type"] in (DONE, ERROR):
                    return found, whole
                found.append(message)

    def _send(self, requests: Sequence[Request], flags: int) -> int:
        """The number of the first of them."""
        first = self._sequence + 1
        self._sequence += len(requests)
        self._socket.send(b"".join(written(requests, flags=flags | REQUEST, first=first)))
        return first

    def _receive(self) -> Iterator[Message]:
        return iter(self._marshal.parse(self._socket.recv(1 << 17)))


def written(requests: Iterable[Request], *, flags: int, first: int) -> Iterator[bytes]:
    """The requests as the kernel takes them, numbered from ``first``. Pure."""
    kinds = _marshal().msg_map
    for number, request in enumerate(requests, first):
        message = kinds[request.kind]()
        for name, value in request.fields.items():
            message[name] = value
        message["attrs"] = list(request.attributes)
        message["header"]["type"] = request.kind
        message["header"]["flags"] = request.flags | flags
        message["header"]["sequence_number"] = number
        message.encode()
        yield bytes(message.data)


@cache
def _marshal() -> Any:
    """pyroute2's reader of rtnetlink's messages, which also knows each type's class."""
    from pyroute2.netlink.rtnl.marshal import MarshalRtnl

    return MarshalRtnl


def _error(message: Message) -> OSError | None:
    """What an answer says, None when it was done."""
    error = message["header"]["error"]
    return None if error is None else OSError(*error.args)


def is_gone(error: OSError | None) -> bool:
    """Whether the kernel says that what was to be removed is not there."""
    return error is not None and error.errno in (errno.ENODEV, errno.ENOENT, errno.ESRCH)
