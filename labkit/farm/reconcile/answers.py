"""Whether replicas answer for themselves: all asked at the same time, by one thread, and the wait until they do.

A connection and an HTTP/1.0 request each: the answer's head names the replica. A page is read by
:mod:`labkit.farm.services.fetch`.
"""

from __future__ import annotations

import errno
import os
import re
import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address

from labkit import cancellation
from labkit.errors import FarmError
from labkit.farm.containers import container, runc, written
from labkit.farm.network.host import again
from labkit.kernel.netns import inside
from labkit.model.lab import Lab, Replica
from labkit.model.sites import REPLICA_HEADER

#: How long a started replica may take until it answers, in seconds.
PATIENCE = 15.0
#: How long a replica that is up and connected may be silent until it counts as hung, in seconds.
GRACE = 5.0
#: What connect(2) says when the host's own rules or routes keep a request from its way.
UNREACHABLE = tuple(
    os.strerror(number)
    for number in (errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENETUNREACH, errno.EADDRNOTAVAIL)
)
#: The longest name of an answering server that is told.
NAME = 100
#: Connections that are open at once.
AT_ONCE = 64
#: The longest head of an answer that is read, in bytes.
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


def persistent(lab: Lab, farm: Sequence[Replica], *, grace: float) -> dict[str, Head]:
    """The replicas' answers, by name. A replica that has not answered, or has refused its connection, is asked again
    for ``grace`` seconds; whatever comes back is an answer."""
    deadline, pause = time.monotonic() + grace, 0.01
    waiting, found = list(farm), dict[str, Head]()
    while waiting and (left := deadline - time.monotonic()) > 0:
        found |= _ask(lab, waiting, patience=left)
        waiting = [replica for replica in waiting if found[replica.name].fault]
        if waiting:
            cancellation.pause(min(pause, left))
            pause = min(2 * pause, 0.2)
    return found


def problems(lab: Lab, farm: Sequence[Replica]) -> dict[str, str | None]:
    """What is wrong with the replicas' answers at their own addresses, by name: None for a replica that
    answers HTTP 200 under its name."""
    return {name: problem_of(name, head) for name, head in _ask(lab, farm).items()}


def problem(lab: Lab, replica: Replica) -> str | None:
    """What is wrong with one replica's answer; None when it is HTTP 200 under its name."""
    return problems(lab, [replica])[replica.name]


def wait(lab: Lab, farm: Sequence[Replica]) -> None:
    """Waits until the replicas answer; a first process that died is the error, with its own words."""
    deadline, pause = time.monotonic() + PATIENCE, 0.002
    waiting = list(farm)
    while faults := {name: text for name, text in problems(lab, waiting).items() if text}:
        waiting = [replica for replica in waiting if replica.name in faults]
        for replica in waiting:
            state = runc.state(lab, replica.name)
            if state is None or state.status == "stopped":
                raise container.death(lab, replica.name)
        if time.monotonic() > deadline:
            raise _error(lab, waiting[0], faults[waiting[0].name])
        cancellation.pause(pause)
        pause = min(2 * pause, 0.05)


def _ask(lab: Lab, farm: Sequence[Replica], *, patience: float = 2.0) -> dict[str, Head]:
    if not farm:
        return {}
    addresses = [(replica.address, 80) for replica in farm]
    hosts = [lab.host_name(replica.name) for replica in farm]
    found = inside(lab.netns, partial(heads, patience=patience), addresses, hosts)
    return {replica.name: head for replica, head in zip(farm, found, strict=True)}


def problem_of(name: str, head: Head) -> str | None:
    """What is wrong with an answer of the replica of that name; None for HTTP 200 under its name. Pure."""
    if head.fault:
        return f"no answer: {head.fault}"
    who = head.headers.get(REPLICA_HEADER.lower(), "")[:NAME]
    if head.status != 200 or who != name:
        return f"answered HTTP {head.status} as {who or 'nobody'}"
    return None


def _error(lab: Lab, replica: Replica, reason: str) -> FarmError:
    if reason.endswith(UNREACHABLE):
        return FarmError(
            f"replica {replica.name}",
            f"{reason} after {PATIENCE:g} s: the host has no way to {replica.address}",
            "remove the rule or the route that keeps it from there",
            again(lab, f"ip route get {replica.address}"),
            code="farm.replica-unreachable",
        )
    return FarmError(
        f"replica {replica.name}",
        f"{reason} after {PATIENCE:g} s",
        "its logs say why",
        f"tail {written.console(lab, replica.name)} {written.folder(lab, replica.name)}/log/*",
        code="farm.replica-silent",
    )


def heads(
    addresses: Sequence[tuple[IPv4Address, int]], hosts: Sequence[str], *, patience: float = 2.0
) -> list[Head]:
    """The heads of the answers to a request for ``/``, from the calling thread's network namespace.

    :param addresses: the servers' addresses and ports.
    :param hosts: for each of them, the host that the request names.
    :param patience: seconds until a missing answer is a fault.
    """
    found: list[Head] = []
    for start in range(0, len(addresses), AT_ONCE):
        end = start + AT_ONCE
        found += _heads_at_once(addresses[start:end], hosts[start:end], patience)
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


def _heads_at_once(
    addresses: Sequence[tuple[IPv4Address, int]], hosts: Sequence[str], patience: float
) -> list[Head]:
    """The same over connections that are all open at the same time."""
    found = [Head(fault="timed out")] * len(addresses)
    received = [b""] * len(addresses)
    deadline = time.monotonic() + patience
    with selectors.DefaultSelector() as selector, ExitStack() as opened:
        for place, (address, port) in enumerate(addresses):
            channel = opened.enter_context(socket.socket())
            channel.setblocking(False)
            error = channel.connect_ex((str(address), port))
            if error in (0, errno.EINPROGRESS):
                selector.register(channel, selectors.EVENT_WRITE, (channel, place))
            else:
                found[place] = Head(fault=os.strerror(error))
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                channel, place = key.data
                try:
                    if key.events == selectors.EVENT_WRITE:
                        _request(channel, hosts[place])
                        selector.modify(channel, selectors.EVENT_READ, key.data)
                        continue
                    data = channel.recv(1 << 16)
                    received[place] += data
                    if data and not _is_whole(received[place]):
                        continue
                    found[place] = read_head(received[place])
                except OSError as error:
                    found[place] = Head(fault=error.strerror or str(error))
                selector.unregister(channel)
                channel.close()
    return found


def _request(channel: socket.socket, host: str) -> None:
    """Sends the request over a connection, or raises why it could not be made."""
    if error := channel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(error, os.strerror(error))
    channel.send(f"GET / HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())


def _is_whole(data: bytes) -> bool:
    return b"\r\n\r\n" in data or len(data) > LONGEST
