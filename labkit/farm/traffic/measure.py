"""A load on a site or a replica, measured, and held against what every log says of it.

Every request carries a trace of its own, so that what the client saw can be found again, request
by request, in the balancer's log and in the replicas' own logs.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from labkit import cancellation
from labkit.checks import Check, equal
from labkit.core import accesslog
from labkit.display import curl
from labkit.errors import ConfigError
from labkit.farm.containers import container, written
from labkit.farm.reconcile import rolling
from labkit.farm.services import fetch, proxy, resolver, workers
from labkit.farm.traffic import counts
from labkit.farm.traffic.counts import Fit, Log, Share
from labkit.farm.traffic.load import Load, Sent
from labkit.model import sites
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: How long a line may take from the answer to its log, in seconds.
PATIENCE = 5.0
#: The most requests and threads of one measurement (lab.toml's traffic.requests and .concurrency).
MOST_REQUESTS, MOST_THREADS = 100_000, 64


class Measurement(Record):
    """What a load on a site (or a replica) gave; times in seconds, ``rate`` in requests a second."""

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


def measure(
    lab: Lab, label: str, requests: int | None = None, concurrency: int | None = None
) -> tuple[Measurement, tuple[Sent, ...], tuple[Check, ...]]:
    """The measurement of a load, its requests one by one, and the checks of answers and logs.

    Raises :class:`FarmError` when the name server or the target do not answer at all, and
    :class:`ConfigError` for a number out of range.
    """
    total, threads = _numbers(lab, requests, concurrency)
    there = fetch.target(lab, label)
    fetch.reach(lab, there)  # raises when nobody is there; the load itself only counts
    if not _is_replica(lab, label):
        even(lab)
    for replica in replicas_of(lab, label):
        written.empty_large_logs(lab, replica.name)
    load = Load(lab, there, secrets.token_hex(6), concurrency=threads, requests=total)
    sent = load.run()
    value = _measurement(lab, load, sent)
    return value, sent, checks(lab, value, sent)


def even(lab: Lab) -> None:
    """The balancer begins its counts anew, unless a replica is withdrawn.

    Apache's ``bytraffic`` and ``bybusyness`` make up for what was before: after an outage, or a load that kept
    a replica busier than its weight says, one replica gets every request until the counts are even.
    """
    if lab.proxy.lbmethod != "byrequests" and not workers.withdrawn(lab):
        rolling.begun_anew(lab)


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


def _measurement(lab: Lab, load: Load, sent: tuple[Sent, ...]) -> Measurement:
    good = [item.seconds for item in sent if not item.failed]
    seconds = max((item.start + item.seconds for item in sent), default=0.0)
    parts = counts.shares(replicas_of(lab, load.target.label), sent)
    return Measurement(
        target=load.target.label,
        address=str(load.target.address),
        lbmethod="" if _is_replica(lab, load.target.label) else lab.proxy.lbmethod,
        trace=load.trace,
        requests=len(sent),
        concurrency=load.concurrency,
        failed=sum(item.failed for item in sent),
        seconds=round(seconds, 6),
        rate=round(len(good) / seconds, 1) if seconds else 0.0,
        median=counts.quantile(good, 0.5),
        p95=counts.quantile(good, 0.95),
        shares=parts,
        fit=counts.fit(parts),
    )


def replicas_of(lab: Lab, label: str) -> tuple[Replica, ...]:
    """The replicas behind a label: a site's, or the one that it names."""
    return (lab.replica(label),) if _is_replica(lab, label) else lab.replicas_of(label)


def shared(lab: Lab) -> str:
    """The site on which the division of requests is shown: the first that has several replicas; where
    none has, the first."""
    names = [site.name for site in lab.sites]
    return next((name for name in names if len(lab.replicas_of(name)) > 1), names[0])


def _is_replica(lab: Lab, label: str) -> bool:
    return label in {item.name for item in lab.farm}


def checks(lab: Lab, value: Measurement, sent: Sequence[Sent]) -> tuple[Check, ...]:
    """Whether all requests were answered, their shares fit, and each log has the same requests."""
    name = f"traffic.{value.target}"
    client = counts.by_client(sent)
    again = f"{resolver.with_dns(lab)} {curl(lab.url(value.target), options='-si')}"
    answered = equal(
        f"{name}.answered", value.requests, value.requests - value.failed, rows=("E5",), again=again
    )
    served = _settled(lambda: replica_log(lab, value), client)
    own = counts.agreement(f"{name}.replica-logs", client, served, _grep(lab, value, own=True))
    if _is_replica(lab, value.target):
        return (answered, own)
    passed = _settled(lambda: proxy_log(lab, value), client)
    through = counts.agreement(f"{name}.proxy-log", client, passed, _grep(lab, value, own=False))
    return (answered, _distribution(name, value, again), through, own)


def _distribution(name: str, value: Measurement, again: str) -> Check:
    """Whether each replica's part of the requests is what it should be."""
    seen = ", ".join(f"{part.replica} {part.observed}" for part in value.shares)
    expected, holds = expectation(value)
    return Check(
        name=f"{name}.distribution",
        expected=expected,
        seen=f"{seen} ({value.fit.told})" if len(value.shares) > 1 else seen,
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
    fits = f"{wanted} (chi-square p ≥ {counts.LEVEL}"
    if value.lbmethod == "bytraffic":
        off = max(abs(part.observed - part.expected) for part in value.shares)
        allowed = f"off by at most {value.concurrency}, those under way at a time"
        return f"{fits}, or {allowed})", value.fit.fits or off <= value.concurrency
    return f"{fits})", value.fit.fits


def proxy_log(lab: Lab, value: Measurement) -> Log:
    """What the balancer's log has of it."""
    lines, bad = proxy.log(lab, value.trace)
    return Log(counts.by_log(((line.trace, line.replica) for line in lines), value.trace), bad)


def replica_log(lab: Lab, value: Measurement) -> Log:
    """What the replicas' own logs have of it."""
    replicas = replicas_of(lab, value.target)
    full = tuple(item.name for item in replicas if written.is_full(lab, item.name))
    found = Log({}, Counter(), full)
    for item in replicas:
        own, bad = sites.parse_log(written.lines(container.access_log(lab, item), value.trace))
        served = counts.by_log(((line.trace, item.name) for line in own), value.trace)
        found = Log({**found.served, **served}, found.bad + bad, full)
    return found


def _settled(read: Callable[[], Log], client: Mapping[int, str]) -> Log:
    """A log once it agrees with the client; as it is after :data:`PATIENCE` otherwise.

    A server writes its line after it has sent the answer, so the last ones may come late.
    """
    deadline = time.monotonic() + PATIENCE
    while (found := read()).served != client and time.monotonic() < deadline:
        cancellation.pause(0.05)
    return found


def _grep(lab: Lab, value: Measurement, *, own: bool) -> str:
    files = (
        [container.access_log(lab, item) for item in replicas_of(lab, value.target)]
        if own
        else [proxy.logs(lab) / "access.log"]
    )
    return accesslog.count(value.trace, *files)
