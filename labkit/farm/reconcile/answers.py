"""Whether many servers answer, each asked once and all at the same time, by one thread.

A connection and an HTTP/1.0 request each: the answer's head says who has answered. It is for looking at a
farm; what a page holds is :mod:`labkit.farm.services.fetch`'s to say.
"""

from __future__ import annotations

import errno
import os
import re
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

#: Connections that are open at once.
AT_ONCE = 64
#: What a head may be long (bytes) until it counts as none.
LONGEST = 65536
#: The first line of an answer; str.isdigit takes other signs for digits than int does.
STATUS = re.compile(r"HTTP/\S* ([0-9]{3})(?: |$)")


@dataclass(frozen=True)
class Head:
    """The head of an answer: the status, the headers by their names in small letters; or ``fault``, why
    there is none ('' when there is one)."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    fault: str = ""


def heads(
    addresses: Sequence[tuple[IPv4Address, int]], hosts: Sequence[str], *, patience: float = 2.0
) -> list[Head]:
    """What each address and port answers to a request for ``/`` of the host of the same place, seen from
    the calling thread's network namespace; ``patience``: seconds until no answer is one."""
    found: list[Head] = []
    for start in range(0, len(addresses), AT_ONCE):
        end = start + AT_ONCE
        found += _Round(addresses[start:end], hosts[start:end]).ended(patience)
    return found


def read_head(data: bytes) -> Head:
    """The head of an HTTP answer (RFC 9112, section 2). Pure."""
    lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    status = STATUS.match(lines[0])
    if not status:
        return Head(fault="no HTTP" if data else "it closed the connection")
    pairs = (line.partition(":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return Head(status=int(status[1]), headers=headers)


class _Round:
    """Connections that are open at the same time."""

    def __init__(self, addresses: Sequence[tuple[IPv4Address, int]], hosts: Sequence[str]) -> None:
        self.selector = selectors.DefaultSelector()
        self.heads: list[Head | None] = [None] * len(addresses)
        self.read = [b""] * len(addresses)
        self.hosts = hosts
        for place, (address, port) in enumerate(addresses):
            self._begin(place, str(address), port)

    def ended(self, patience: float) -> list[Head]:
        """What came of each, at most ``patience`` seconds later."""
        deadline = time.monotonic() + patience
        while self.selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in self.selector.select(left):
                self._go_on(key)
        for key in list(self.selector.get_map().values()):
            self._end(key, Head(fault="timed out"))
        self.selector.close()
        return [head or Head(fault="timed out") for head in self.heads]

    def _begin(self, place: int, address: str, port: int) -> None:
        channel = socket.socket()
        channel.setblocking(False)
        error = channel.connect_ex((address, port))
        if error in (0, errno.EINPROGRESS):
            self.selector.register(channel, selectors.EVENT_WRITE, place)
        else:
            channel.close()
            self.heads[place] = Head(fault=os.strerror(error))

    def _go_on(self, key: selectors.SelectorKey) -> None:
        channel, place = key.fileobj, key.data
        assert isinstance(channel, socket.socket)  # noqa: S101 - what was registered
        try:
            if key.events == selectors.EVENT_WRITE:
                _connected(channel)
                channel.send(_request(self.hosts[place]))
                self.selector.modify(channel, selectors.EVENT_READ, place)
                return
            data = channel.recv(1 << 16)
        except OSError as error:
            self._end(key, Head(fault=error.strerror or str(error)))
            return
        self.read[place] += data
        whole = b"\r\n\r\n" in self.read[place] or len(self.read[place]) > LONGEST
        if whole or not data:
            self._end(key, read_head(self.read[place]))

    def _end(self, key: selectors.SelectorKey, head: Head) -> None:
        channel = key.fileobj
        assert isinstance(channel, socket.socket)  # noqa: S101 - what was registered
        self.selector.unregister(channel)
        channel.close()
        self.heads[key.data] = head


def _connected(channel: socket.socket) -> None:
    error = channel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _request(host: str) -> bytes:
    return f"GET / HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
