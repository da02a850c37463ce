"""Ping at both ends: what ping(8) says, and how many echo requests the target's network namespace counted.

An answer alone proves little: whoever pings 127.0.0.1, or an address that is also its own, answers itself.
"""

from __future__ import annotations

import re
from pathlib import Path

from labkit.checks import Check
from labkit.core import run
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.kernel.netns import NamespaceError, inside
from labkit.model.lab import Lab
from labkit.records import Record

#: What a ping comes from or goes to: what it is called, and its network namespace (None: the machine's own).
Place = tuple[str, str | None]


class Echo(Record):
    """Echo requests from ``source`` to ``target`` at ``address``: how many were sent, answered, and counted in the
    target's namespace; ``fastest`` in milliseconds, None without an answer; ``said`` is ping's own reason when there
    was no answer ('' when it gave none)."""

    source: str
    target: str
    address: str
    sent: int
    answered: int
    counted: int
    fastest: float | None
    said: str

    @property
    def path(self) -> str:
        """Who pings whom."""
        return f"{self.source} → {self.target}"

    @property
    def arrives(self) -> bool:
        """Whether it was answered, and the target counted it."""
        return self.answered > 0 and self.counted > 0

    @property
    def words(self) -> str:
        """What came of it, in words."""
        said = self.said or "no answer"
        first = said if self.fastest is None else f"answered in {self.fastest:.3f} ms"
        return f"{first}; {self.target} counted {self.counted} of {self.sent} requests"


class Pings(Record):
    """Round-trip times in milliseconds, by 'from → to', and what was counted at both ends."""

    milliseconds: dict[str, float]
    echoes: tuple[Echo, ...]


@action("network.ping")
def ping(lab: Lab) -> Outcome[Pings]:
    """Pings each replica from the host, and the bridge from each replica's namespace.

    Returns a :class:`~labkit.core.result.Result` whose value is :class:`Pings`, with two checks for each replica
    and the table ``pings``.

    >>> network.ping(lab).value.milliseconds["host → site1-1"]
    0.047
    """
    seen = both_ways(lab)
    times = {item.path: item.fastest for item in seen if item.fastest is not None}
    return Outcome(
        value=Pings(milliseconds=times, echoes=seen),
        subject=lab.bridge,
        summary=f"{sum(item.arrives for item in seen)} of {counted(len(seen), 'ping')}, both ways, answered "
        "by whom they were meant for.",
        checks=checks(lab, seen),
        tables=(table(seen),),
    )


def ask(source: Place, target: Place, address: str, *, count: int = 2, wait: float = 1.0) -> Echo:
    """Pings ``address`` from one namespace and counts the requests in the other.

    ``wait``: seconds for each answer, at least 0.01. A namespace that does not exist is no error: nothing is sent
    or counted in it.
    """
    before = _requests(target[1])
    words = ["ping", "-n", "-c", str(count), "-i", "0.05", "-W", f"{wait:g}", address]
    done = run.run(words, netns=source[1], ok=range(256), timeout=10 + count * wait)
    answered, fastest, said = parse(done.stdout, done.stderr)
    return Echo(
        source=source[0],
        target=target[0],
        address=address,
        sent=count,
        answered=answered,
        counted=min(count, _requests(target[1]) - before),  # others may ping the host meanwhile
        fastest=fastest,
        said=said,
    )


def parse(stdout: str, stderr: str) -> tuple[int, float | None, str]:
    """How many answers ping(8) got, the fastest in milliseconds, and why there was none. Pure."""
    received = re.search(r"(\d+) received", stdout)
    fastest = re.search(r"^rtt .* = ([\d.]+)/", stdout, re.M)
    refusal = re.search(r"^From \S+ icmp_seq=\d+ (.+)$", stdout, re.M)
    last = stderr.strip().rpartition("\n")[2].removeprefix("ping: ").removeprefix("connect: ")
    return (
        int(received[1]) if received else 0,
        float(fastest[1]) if fastest else None,
        "" if fastest else refusal[1] if refusal else last,
    )


def echo_requests(snmp: str) -> int:
    """The echo requests that a namespace has received, of /proc/net/snmp (RFC 4293, icmpInEchos). Pure."""
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Icmp: "))
    return int(dict(zip(names, values, strict=True))["InEchos"])


def both_ways(lab: Lab, *, count: int = 2, wait: float = 1.0) -> tuple[Echo, ...]:
    """For each replica a ping from the host, and one from its namespace to the bridge, in that order.

    They run one after the other: what is counted at an end is then this ping's alone.
    """
    seen = []
    here, bridge = ("host", lab.netns), ("bridge", lab.netns)
    for replica in lab.farm:
        there = (replica.name, replica.netns)
        seen.append(ask(here, there, str(replica.address), count=count, wait=wait))
        seen.append(ask(there, bridge, str(lab.gateway.ip), count=count, wait=wait))
    return tuple(seen)


def checks(lab: Lab, seen: tuple[Echo, ...]) -> tuple[Check, ...]:
    """Two for each replica: ``network.ping.NAME.out`` from the host, and ``….back``. Pure."""
    found = []
    for replica, out, back in zip(lab.farm, seen[::2], seen[1::2], strict=True):
        for way, item, netns in (("out", out, lab.netns), ("back", back, replica.netns)):
            again = f"{f'ip netns exec {netns} ' if netns else ''}ping -c 2 {item.address}"
            rows = ("R10", "E3") if way == "out" else ("R10",)
            found.append(check(f"network.ping.{replica.name}.{way}", item, again, rows))
    return tuple(found)


def check(name: str, seen: Echo, again: str, rows: tuple[str, ...] = ("R10",)) -> Check:
    """Whether the requests were answered by the host that they were meant for. Pure."""
    return Check(
        name=name,
        expected=f"{seen.path}: an answer from {seen.address}, where the requests are counted",
        seen=seen.words,
        holds=seen.arrives,
        rows=rows,
        again=again,
    )


def table(seen: tuple[Echo, ...]) -> Table:
    """The pings, a row each."""
    rows: list[dict[str, Cell]] = [
        {
            "path": item.path,
            "address": item.address,
            "time": item.fastest,
            "sent": item.sent,
            "answered": item.answered,
            "counted there": item.counted,
        }
        for item in seen
    ]
    return Table.of("pings", "Ping, both ways", rows, units={"time": "ms"})


def _requests(netns: str | None) -> int:
    try:
        return echo_requests(inside(netns, Path("/proc/thread-self/net/snmp").read_text))
    except NamespaceError:
        return 0
