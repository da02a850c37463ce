"""A name server for one name, on the loopback of a trial container's network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from labkit.farm.network.netns import inside
from labkit.farm.study import given
from labkit.farm.study.stand import Stand

#: RFC 1035, section 4.1: the header's length, and the numbers of type A and class IN.
HEADER, A, IN = 12, 1, 1


@contextmanager
def answering(stand: Stand) -> Iterator[None]:
    """The container's own resolver finds a server at 127.0.0.1 that knows the trial's name."""
    channel = inside(stand.replica.netns, _bound)
    known = {given.host_name(stand.lab, "dns"): given.NAMES["dns"]}
    thread = threading.Thread(target=_serve, args=(channel, known), daemon=True)
    thread.start()
    try:
        yield
    finally:
        channel.sendto(b"", channel.getsockname())
        thread.join()
        channel.close()


def reply(question: bytes, known: dict[str, str]) -> bytes:
    """The answer to a question: the address, none of another type, or that there is no such name. Pure."""
    name, end = _name(question)
    kind = int.from_bytes(question[end : end + 2])
    there, found = name in known, name in known and kind == A
    flags = (0x8400 | question[2] << 8 & 0x0100 | (0 if there else 3)).to_bytes(2)
    counts = b"\0\1" + int(found).to_bytes(2) + b"\0\0\0\0"
    record = b"\xc0\x0c" + A.to_bytes(2) + IN.to_bytes(2) + (60).to_bytes(4) + b"\0\4"
    answer = record + IPv4Address(known[name]).packed if found else b""
    return question[:2] + flags + counts + question[HEADER : end + 4] + answer


def _name(question: bytes) -> tuple[str, int]:
    """The name that is asked for, and where it ends."""
    labels, place = [], HEADER
    while length := question[place]:
        labels.append(question[place + 1 : place + 1 + length].decode("ascii", "replace"))
        place += length + 1
    return ".".join(labels).lower(), place + 1


def _bound() -> socket.socket:
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    channel.bind(("127.0.0.1", 53))
    return channel


def _serve(channel: socket.socket, known: dict[str, str]) -> None:
    """Answers until the socket hears from itself."""
    while True:
        question, asker = channel.recvfrom(512)
        if asker == channel.getsockname():
            return
        channel.sendto(reply(question, known), asker)
