"""Who served how much: counts of requests held against weights, and against the logs. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from labkit import reading
from labkit.checks import Check
from labkit.display import counted
from labkit.farm.traffic.load import Sent
from labkit.model.lab import Replica
from labkit.records import Record

#: A distribution fits when chance alone would deviate at least as much in one of a thousand runs.
LEVEL = 0.001
#: A request's number, at the end of its trace.
NUMBER = re.compile(r"[0-9]{1,9}")


class Share(Record):
    """One replica's part of a measurement: requests observed, and expected from the weights."""

    replica: str
    weight: int
    observed: int
    expected: float


class Fit(Record):
    """Pearson's chi-square test of the shares: statistic, degrees of freedom, p-value.

    ``p`` is the probability of a deviation at least as large if each request chose its replica
    by the weights at random; with one replica there is nothing to test and it is 1.
    """

    statistic: float
    freedom: int
    p: float

    @property
    def fits(self) -> bool:
        """Whether the shares agree with the weights."""
        return self.p >= LEVEL

    @property
    def told(self) -> str:
        """``p = 0.732``, or that there was nothing to test."""
        return f"p = {self.p:.3f}" if self.freedom else "nothing to test"


def shares(replicas: Sequence[Replica], sent: Iterable[Sent]) -> tuple[Share, ...]:
    """The shares of the answered requests."""
    seen = Counter(item.replica for item in sent if not item.failed)
    answered = sum(seen[item.name] for item in replicas)
    weights = sum(item.weight for item in replicas)
    return tuple(
        Share(
            replica=item.name,
            weight=item.weight,
            observed=seen[item.name],
            expected=answered * item.weight / weights,
        )
        for item in replicas
    )


def fit(parts: Sequence[Share]) -> Fit:
    """The test of the shares (scipy.stats.chisquare)."""
    if len(parts) < 2 or not any(part.observed for part in parts):
        return Fit(statistic=0.0, freedom=0, p=1.0 if len(parts) == 1 else 0.0)
    from scipy.stats import chisquare

    found = chisquare([part.observed for part in parts], [part.expected for part in parts])
    return Fit(statistic=float(found.statistic), freedom=len(parts) - 1, p=float(found.pvalue))


def by_client(sent: Iterable[Sent]) -> dict[int, str]:
    """Request number -> the replica that answered, as the client saw it ('-' for none)."""
    return {item.number: item.replica or "-" for item in sent}


def by_log(lines: Iterable[tuple[str, str]], trace: str) -> dict[int, str]:
    """Request number -> replica, of the (trace, replica) pairs of a log's lines."""
    found = {}
    for marked, replica in lines:
        head, _, number = marked.rpartition("-")
        if head == trace and NUMBER.fullmatch(number):
            found[int(number)] = replica
    return found


class Log(NamedTuple):
    """What a log has of a measurement: request number -> replica; and the lines of it that are no requests, by
    what is wrong with them: nobody's but who forged them; and the replicas that may write no more."""

    served: Mapping[int, str]
    bad: Counter[str]
    full: tuple[str, ...] = ()


def agreement(name: str, client: Mapping[int, str], log: Log, again: str) -> Check:
    """Whether a log has the client's requests, each served by the same replica, and nothing else of them."""
    numbers = client.keys() | log.served.keys()
    differing = sum(client.get(number) != log.served.get(number) for number in numbers)
    seen = told(log.served.values())
    if differing:
        why = f" ({', '.join(log.full)}: no room for more lines)" if log.full else ""
        seen = f"{seen}; {counted(differing, 'request', 'differ')}{why}"
    if log.bad:
        lines = counted(log.bad.total(), "line", "are")
        seen = f"{seen}; {lines} no requests: {reading.told(log.bad)}"
    return Check(
        name=name,
        expected=told(client.values()),
        seen=seen,
        holds=not differing and not log.bad,
        rows=("E5",),
        again=again,
    )


def told(replicas: Iterable[str]) -> str:
    """Counts in words: ``site1-1 300, site1-2 300``."""
    found = Counter(replicas)
    return ", ".join(f"{name} {found[name]}" for name in sorted(found)) or "no request"


def quantile(seconds: Iterable[float], part: float) -> float:
    """The smallest of the values that at least ``part`` (0 to 1) of them do not exceed; 0 of none."""
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0.0
