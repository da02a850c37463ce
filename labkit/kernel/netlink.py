"""A socket of the kernel's network configuration (netlink(7), rtnetlink(7)), whose messages pyroute2 writes and reads (:mod:`labkit.kernel.messages`).

Requests are sent many at a time, and those that fail are answered one by one: a farm's links cost one system call, not one each,
and a socket costs nothing but itself. (pyroute2's own sockets each start an event loop, and each one that
goes into a namespace a process; its batches do not say which of their requests failed.)
:mod:`labkit.kernel.requests` makes the requests, :mod:`labkit.kernel.seen` what is read from the answers.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from labkit.kernel import messages
from labkit.kernel.messages import Message, Request

#: linux/netlink.h: flags of a request, types of an answer.
REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE = 2, 3
#: linux/netlink.h: flag of the answers to a dump that something changed under.
INTERRUPTED = 0x10
#: linux/netlink.h: options of a socket: an error has its words, a dump is filtered.
SOL_NETLINK, EXT_ACK, STRICT = 270, 11, 12
#: sys/socket.h: a receive buffer that only root may have (SO_RCVBUFFORCE).
BUFFER_OPTION, BUFFER = 33, 4 << 20
#: Bytes that are received at once: as many as the kernel puts into one part of a dump, and more.
RECEIVED = 1 << 17
#: Requests that are sent at once: their answers have to fit into the buffer.
AT_ONCE = 200


class Netlink:
    """A socket in the network namespace that the calling thread is in; it stays in that one."""

    def __init__(self) -> None:
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
            found, whole = self._collect(request, self._send([request], DUMP))
            if whole:
                return found

    def _try(self, requests: Sequence[Request]) -> list[OSError | None]:
        """The kernel answers in the requests' order, and of itself those that fail: with the answer to the last
        one, which alone is asked for, all are done."""
        first = self._send(requests, ACK)
        answers: list[OSError | None] = [None] * len(requests)
        answered = False
        while not answered:
            data = self._socket.recv(RECEIVED)
            for kind, _, number, start, end in messages.parts(data):
                if kind == ERROR and 0 <= number - first < len(requests):
                    answers[number - first] = messages.error(data[start:end])
                    answered = answered or number - first == len(requests) - 1
        return answers

    def _collect(self, request: Request, asked: int) -> tuple[list[Message], bool]:
        found: list[Message] = []
        kinds = messages.kinds(answered(request.kind), request.wanted)
        whole = True
        while True:
            data = self._socket.recv(RECEIVED)
            for kind, flags, number, start, end in messages.parts(data):
                if number != asked:
                    continue
                whole = whole and not flags & INTERRUPTED
                if kind == ERROR and (error := messages.error(data[start:end])) is not None:
                    raise error
                if kind in (DONE, ERROR):
                    return found, whole
                found.append(messages.read(data[start:end], kinds))

    def _send(self, requests: Sequence[Request], flags: int) -> int:
        """Sends them all at once, the last with these flags; the number of the first."""
        first = self._sequence + 1
        self._sequence += len(requests)
        asked = messages.written(requests[:-1], flags=REQUEST, first=first)
        last = messages.written(requests[-1:], flags=REQUEST | flags, first=self._sequence)
        self._socket.send(b"".join((*asked, *last)))
        return first


def answered(kind: int) -> int:
    """The type of the answers to a type of request: to RTM_GET…, RTM_NEW… (linux/rtnetlink.h)."""
    return kind & ~3


def is_gone(error: OSError | None) -> bool:
    """Whether the kernel says that what was to be removed is not there."""
    return error is not None and error.errno in (errno.ENODEV, errno.ENOENT, errno.ESRCH)
