"""A load on a site, measured: who served how much, held against weights and every log.

Every request carries a trace, so that each request of the client is found again in the balancer's log
and in the replicas' logs.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy
import pandas

from labkit import cancellation, reading
from labkit.checks import Check, equal
from labkit.core import accesslog
from labkit.core.tables import Table
from labkit.display import counted, curl
from labkit.errors import ConfigError
from labkit.farm.containers import written
from labkit.farm.services import balancer, balancer_config, balancer_server, fetch
from labkit.farm.services.dns_server import with_dns
from labkit.farm.traffic import load
from labkit.model import sites
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: A distribution fits when chance alone would deviate at least as much in one of a thousand runs.
LEVEL = 0.001
#: A request's number, at the end of its trace.
NUMBER = re.compile(r"[0-9]{1,9}")
#: How long a line may take from the answer to its log, in seconds.
PATIENCE = 5.0
#: The most requests and threads of one measurement (lab.toml's traffic.requests and .concurrency).
MOST_REQUESTS, MOST_THREADS = 100_000, 64


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
    def text(self) -> str:
        """``p = 0.732``, or that there was nothing to test."""
        return f"p = {self.p:.3f}" if self.freedom else "nothing to test"


class Measurement(Record):
    """What a load on a site gave; times in seconds, ``rate`` in requests a second."""

    target: str
    address: str
    lbmethod: str
    trace: str
    requests: int
    concurrency: int
    failed: int
    seconds: float
    rate: float
    median: float
    p95: float
    shares: tuple[Share, ...]
    fit: Fit

    @property
    def p(self) -> float | None:
        """The chi-square p of the shares, as tables have it; None where there was nothing to test."""
        return round(self.fit.p, 4) if self.fit.freedom else None


class Log(NamedTuple):
    """A log's lines of a measurement: request number -> replica; the number of lines that cannot be read (they are
    forged), by the fault in them; and the replicas whose log has no space left."""

    served: Mapping[int, str]
    bad: Counter[str]
    full: tuple[str, ...] = ()


def measure(
    lab: Lab, site: str, requests: int | None = None, concurrency: int | None = None
) -> tuple[Measurement, pandas.DataFrame, tuple[Check, ...]]:
    """The measurement of a load, its requests (:func:`labkit.farm.traffic.load.frame`), and the checks of answers
    and logs.

    :param requests: how many; default: the Lab's ``traffic.requests``.
    :param concurrency: how many at a time; default: the Lab's ``traffic.concurrency``.
    :raises FarmError: the name server or the site do not answer at all.
    :raises ConfigError: a number is out of range.
    """
    total, threads = _numbers(lab, requests, concurrency)
    there = fetch.target(lab, site)
    fetch.reach(lab, there)  # raises when nothing answers; the load itself only counts
    even(lab)
    for replica in lab.replicas_of(site):
        written.empty_large_logs(lab, replica.name)
    one = load.Load(lab, there, secrets.token_hex(6), concurrency=threads, requests=total)
    requests = load.frame(one.run())
    value = measured(lab, one, requests)
    return value, requests, checks(lab, value, requests)


def even(lab: Lab) -> None:
    """Makes the balancer begin its counts anew, unless a replica is withdrawn.

    Apache's ``bytraffic`` and ``bybusyness`` make up for what was before: after an outage, or a load that kept
    a replica busier than its weight says, one replica gets every request until the counts are even.
    """
    if lab.proxy.lbmethod != "byrequests" and not balancer_server.withdrawn(lab):
        balancer_server.reset_counts(lab)


def _numbers(lab: Lab, requests: int | None, concurrency: int | None) -> tuple[int, int]:
    total = lab.traffic.requests if requests is None else requests
    threads = lab.traffic.concurrency if concurrency is None else concurrency
    for name, value, most in (
        ("requests", total, MOST_REQUESTS),
        ("concurrency", threads, MOST_THREADS),
    ):
        if not 1 <= value <= most:
            raise ConfigError(
                f"{name} = {value}",
                f"is not between 1 and {most}",
                "correct it",
                code="config.number",
            )
    return total, min(threads, total)


def measured(lab: Lab, one: load.Load, requests: pandas.DataFrame) -> Measurement:
    """The measurement of a load that has ended, from its requests."""
    took = requests.loc[~requests["failed"], "took"]
    seconds = float((requests["start"] + requests["took"]).max())
    parts = shares(lab.replicas_of(one.target.label), requests)
    return Measurement(
        target=one.target.label,
        address=str(one.target.address),
        lbmethod=lab.proxy.lbmethod,
        trace=one.trace,
        requests=len(requests),
        concurrency=one.concurrency,
        failed=len(requests) - len(took),
        seconds=round(seconds, 6),
        rate=round(len(took) / seconds, 1),
        median=quantile(took, 0.5),
        p95=quantile(took, 0.95),
        shares=parts,
        fit=fit(parts),
    )


def shared(lab: Lab) -> str:
    """The site on which the division of requests is shown: the first that has several replicas; where
    none has, the first."""
    names = [site.name for site in lab.sites]
    return next((name for name in names if len(lab.replicas_of(name)) > 1), names[0])


def shares(replicas: Sequence[Replica], requests: pandas.DataFrame) -> tuple[Share, ...]:
    """The shares of the answered requests."""
    parts = pandas.DataFrame({"weight": {item.name: item.weight for item in replicas}})
    served = requests.loc[~requests["failed"], "replica"].value_counts()
    parts["observed"] = served.reindex(parts.index, fill_value=0)
    parts["expected"] = parts["observed"].sum() * parts["weight"] / parts["weight"].sum()
    return tuple(Share(**row) for row in parts.reset_index(names="replica").to_dict("records"))


def fit(parts: Sequence[Share]) -> Fit:
    """The test of the shares (scipy.stats.chisquare)."""
    if len(parts) < 2 or not any(part.observed for part in parts):
        return Fit(statistic=0.0, freedom=0, p=1.0 if len(parts) == 1 else 0.0)
    from scipy.stats import chisquare

    found = chisquare([part.observed for part in parts], [part.expected for part in parts])
    return Fit(statistic=float(found.statistic), freedom=len(parts) - 1, p=float(found.pvalue))


def quantile(seconds: Sequence[float] | pandas.Series, part: float) -> float:
    """The smallest of the values that at least ``part`` (0 to 1) of them do not exceed; 0 of none."""
    return float(numpy.quantile(seconds, part, method="inverted_cdf")) if len(seconds) else 0.0


def checks(lab: Lab, value: Measurement, requests: pandas.DataFrame) -> tuple[Check, ...]:
    """Whether all requests were answered, their shares fit, and each log has the same requests."""
    name = f"traffic.{value.target}"
    client = requests.set_index("number")["replica"].replace("", "-").to_dict()
    again = f"{with_dns(lab)} {curl(lab.url(value.target), options='-si')}"
    answered = equal(
        f"{name}.answered", value.requests, value.requests - value.failed, rows=("E5",), again=again
    )
    replicas = lab.replicas_of(value.target)
    files = [written.log(lab, item.name, "access") for item in replicas]
    served = _settled(lambda: _replica_log(lab, replicas, value.trace), client)
    grep = accesslog.count(value.trace, *files)
    direct = agreement(f"{name}.replica-logs", client, served, grep)
    passed = _settled(lambda: _balancer_log(lab, value.trace), client)
    grep = accesslog.count(value.trace, balancer_config.logs(lab) / "access.log")
    through = agreement(f"{name}.proxy-log", client, passed, grep)
    return (answered, _distribution(name, value, again), through, direct)


def _distribution(name: str, value: Measurement, again: str) -> Check:
    """Whether each replica's part of the requests is what it should be."""
    seen = ", ".join(f"{part.replica} {part.observed}" for part in value.shares)
    expected, holds = expectation(value)
    return Check(
        name=f"{name}.distribution",
        expected=expected,
        seen=f"{seen} ({value.fit.text})" if len(value.shares) > 1 else seen,
        holds=holds,
        rows=("E5",),
        again=again,
    )


def expectation(value: Measurement) -> tuple[str, bool]:
    """What is expected of the shares, and whether it is so: that they fit the weights.

    The method ``bybusyness`` follows the load instead: Apache sends a request to the worker with
    the fewest unfinished ones, whatever its weight, which decides only between equally busy ones
    (mod_lbmethod_bybusyness). So of it no more is expected than that each replica serves, once there
    are as many requests as the weights add up to. ``bytraffic`` counts a request when it has ended, so
    that those under way at a time may all be one replica's. A site's only replica has to serve all
    requests, about which no test of chance says more.
    """
    if len(value.shares) == 1:
        (only,) = value.shares
        return f"{only.replica} {value.requests}, as the only one", only.observed == value.requests
    if value.lbmethod == "bybusyness":
        enough = value.requests >= sum(part.weight for part in value.shares)
        return "each replica serves", all(part.observed for part in value.shares) or not enough
    wanted = ", ".join(f"{part.replica} {part.expected:.0f}" for part in value.shares)
    fits = f"{wanted} (chi-square p ≥ {LEVEL}"
    if value.lbmethod == "bytraffic":
        off = max(abs(part.observed - part.expected) for part in value.shares)
        allowed = f"off by at most {value.concurrency}, those under way at a time"
        return f"{fits}, or {allowed})", value.fit.fits or off <= value.concurrency
    return f"{fits})", value.fit.fits


def agreement(name: str, client: Mapping[int, str], log: Log, again: str) -> Check:
    """Whether a log has the client's requests, each served by the same replica, and nothing else of them."""
    numbers = client.keys() | log.served.keys()
    differing = sum(client.get(number) != log.served.get(number) for number in numbers)
    seen = counts(log.served.values())
    if differing:
        why = f" ({', '.join(log.full)}: no room for more lines)" if log.full else ""
        seen = f"{seen}; {counted(differing, 'request', 'differ')}{why}"
    if log.bad:
        lines = counted(log.bad.total(), "line", "are")
        seen = f"{seen}; {lines} no requests: {reading.told(log.bad)}"
    return Check(
        name=name,
        expected=counts(client.values()),
        seen=seen,
        holds=not differing and not log.bad,
        rows=("E5",),
        again=again,
    )


def counts(replicas: Iterable[str]) -> str:
    """Requests of each replica, in words: ``site1-1 300, site1-2 300``."""
    found = Counter(replicas)
    return ", ".join(f"{name} {found[name]}" for name in sorted(found)) or "no request"


def numbered(lines: Iterable[tuple[str, str]], trace: str) -> Iterator[tuple[int, str]]:
    """The request's number and the second part of each of a log's lines (trace, anything) that is of this load."""
    for marked, what in lines:
        head, _, number = marked.rpartition("-")
        if head == trace and NUMBER.fullmatch(number):
            yield int(number), what


def by_number(lines: Iterable[tuple[str, str]], trace: str) -> dict[int, str]:
    """Request number -> replica, of the (trace, replica) pairs of a log's lines."""
    return dict(numbered(lines, trace))


def _balancer_log(lab: Lab, trace: str) -> Log:
    lines, bad = balancer.log(lab, trace)
    return Log(by_number(((line.trace, line.replica) for line in lines), trace), bad)


def _replica_log(lab: Lab, replicas: Sequence[Replica], trace: str) -> Log:
    """What the replicas' logs have of a measurement, together."""
    served, bad = dict[int, str](), Counter[str]()
    for item in replicas:
        lines, wrong = sites.parse_log(written.lines(written.log(lab, item.name, "access"), trace))
        served |= by_number(((line.trace, item.name) for line in lines), trace)
        bad += wrong
    return Log(
        served, bad, tuple(item.name for item in replicas if written.is_full(lab, item.name))
    )


def _settled(read: Callable[[], Log], client: Mapping[int, str]) -> Log:
    """A log once it agrees with the client; as it is after :data:`PATIENCE` otherwise.

    A server writes its line after it has sent the answer, so the last ones may come late.
    """
    deadline = time.monotonic() + PATIENCE
    while (found := read()).served != client and time.monotonic() < deadline:
        cancellation.pause(0.05)
    return found


def shares_table(*values: Measurement) -> Table:
    """One row a replica: observed and expected requests, and the chi-square p of its site."""
    rows = [
        {
            **part.model_dump(),
            "target": value.target,
            "expected": round(part.expected, 1),
            "p": value.p,
        }
        for value in values
        for part in value.shares
    ]
    columns = ("target", "replica", "weight", "observed", "expected", "p")
    return Table.of("shares", "Requests observed and expected", rows, columns=columns)


def requests_table(site: str, requests: pandas.DataFrame) -> Table:
    """One row a request, in the order of their numbers."""
    return Table.of(
        f"requests-{site}",
        f"Requests to {site}",
        requests.assign(site=site),
        columns=("site", "replica", "status", "start", "took", "error"),
        units={"start": "s", "took": "s"},
    )
