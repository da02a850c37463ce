"""Throughput and latency with wrk: straight at one replica, and at its site through the balancer."""

from __future__ import annotations

import re

import pandas

from labkit.checks import Check
from labkit.core import run
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted
from labkit.errors import FarmError, excerpt
from labkit.farm.services import dns_server, fetch
from labkit.model.lab import Lab
from labkit.records import Record

__all__ = ["compare"]

#: wrk's threads and connections: two cores, and what the planning's figures were measured with.
THREADS, CONNECTIONS = 2, 32
#: The part of the requests that may end in an error: apache2 ends idle processes, and with them
#: connections that were kept, in whose last moment a request may be on its way.
ERRORS = 0.001
#: A number of errors in wrk's report: of sockets, by their kind, and of replies.
ERROR = r"\b(?:connect|read|write|timeout|3xx responses:) (\d+)"
#: The percentiles that ``wrk --latency`` writes.
PERCENTILES = (50, 75, 90, 99)


def __dir__() -> list[str]:
    return __all__


class Throughput(Record):
    """What wrk measured on one target; latencies in seconds, ``rate`` in requests a second.

    ``errors`` counts replies other than 2xx and 3xx, and connections that failed or timed out.
    """

    target: str
    direct: bool
    connections: int
    seconds: float
    requests: int
    rate: float
    p50: float
    p75: float
    p90: float
    p99: float
    errors: int


class Comparison(Record):
    """A replica asked directly, and its site through the balancer."""

    direct: Throughput
    balanced: Throughput

    @property
    def ratio(self) -> float:
        """The balanced throughput as a part of the direct one."""
        return self.balanced.rate / self.direct.rate if self.direct.rate else 0.0


@action("bench.compare")
def compare(lab: Lab, site: str, connections: int = CONNECTIONS) -> Outcome[Comparison]:
    """Requests a second and latencies of a site, directly at its first replica and balanced.

    Each of the two runs lasts the Lab's ``traffic.seconds`` (whole seconds, at least one), with
    connections that are kept. Raises :class:`FarmError` when a target does not answer.
    """
    first = lab.replicas_of(site)[0]
    value = Comparison(
        direct=measure(lab, first.name, connections), balanced=measure(lab, site, connections)
    )
    return Outcome(
        value=value,
        subject=site,
        summary=(
            f"{first.name} alone answers {value.direct.rate:,.0f} requests/s, {site} through the "
            f"balancer {value.balanced.rate:,.0f} requests/s ({value.ratio:.0%}); medians "
            f"{value.direct.p50 * 1000:.2f} and {value.balanced.p50 * 1000:.2f} ms."
        ),
        checks=tuple(_check(lab, item) for item in (value.direct, value.balanced)),
        tables=(table(value),),
    )


def measure(lab: Lab, label: str, connections: int = CONNECTIONS) -> Throughput:
    """wrk's measurement of a site (through the balancer) or of a replica (directly)."""
    there = fetch.target(lab, label)
    fetch.reach(lab, there)
    seconds = max(1, round(lab.traffic.seconds))
    done = run.run(command(there, seconds, connections), netns=lab.netns, timeout=seconds + 30)
    direct = label in {item.name for item in lab.farm}
    return parse(done.stdout, target=label, direct=direct, connections=connections)


def command(there: fetch.Target, seconds: int, connections: int) -> list[str]:
    """wrk's argument list; the address is given, so that no resolver of the machine is asked."""
    return [
        "wrk",
        "--threads", str(min(THREADS, connections)),
        "--connections", str(connections),
        "--duration", f"{seconds}s",
        "--latency",
        "--header", f"Host: {there.host}",
        f"http://{there.address}:{there.port}/",
    ]  # fmt: skip


def parse(text: str, *, target: str, direct: bool, connections: int) -> Throughput:
    """The figures of wrk's report (``wrk --latency``); :class:`FarmError` when it is none."""
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m|h),", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    latencies = dict(re.findall(r"^\s+(\d+)%\s+([\d.]+(?:us|ms|s|m|h))$", text, re.MULTILINE))
    if not total or not rate or any(str(part) not in latencies for part in PERCENTILES):
        raise FarmError(
            f"wrk on {target}",
            f"its report cannot be read: {excerpt(text)!r}",
            code="farm.wrk",
        )
    return Throughput(
        target=target,
        direct=direct,
        connections=connections,
        seconds=_seconds(total[2] + total[3]),
        requests=int(total[1]),
        rate=float(rate[1]),
        errors=sum(map(int, re.findall(ERROR, text))),
        **{f"p{part}": _seconds(latencies[str(part)]) for part in PERCENTILES},
    )


def _seconds(text: str) -> float:
    """``1.23ms`` as 0.00123."""
    return float(pandas.Timedelta(text).total_seconds())


def _check(lab: Lab, value: Throughput) -> Check:
    return Check(
        name=f"bench.{value.target}",
        expected="requests answered, at most one in a thousand with an error",
        seen=f"{value.requests} answered, {counted(value.errors, 'error')}",
        holds=value.requests > 0 and value.errors <= value.requests * ERRORS,
        rows=("E5",),
        again=(
            f"{dns_server.with_dns(lab)} wrk --threads {THREADS} --connections {value.connections} "
            f"--duration 4s --latency {lab.url(value.target)}"
        ),
    )


def table(value: Comparison) -> Table:
    rows = [
        {**item.model_dump(), "path": "direct" if item.direct else "balanced"}
        for item in (value.direct, value.balanced)
    ]
    percentiles = [f"p{part}" for part in PERCENTILES]
    return Table.of(
        f"bench-{value.balanced.target}",
        "Throughput and latency, direct and through the balancer",
        rows,
        columns=["target", "path", "rate", *percentiles, "requests", "errors"],
        units={"rate": "requests/s", **dict.fromkeys(percentiles, "s")},
    )
