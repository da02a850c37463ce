"""How requests spread over replicas: what measurements say of it, in sentences and tables. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.farm.traffic.load import Sent
from labkit.farm.traffic.measure import Measurement
from labkit.records import Record


class Case(Record):
    """One case of a comparison: the method, the weights in the replicas' order, what it gave."""

    lbmethod: str
    weights: tuple[int, ...]
    measurement: Measurement

    @property
    def name(self) -> str:
        """``byrequests 3:1``."""
        return f"{self.lbmethod} {':'.join(str(weight) for weight in self.weights)}"


class Comparison(Record):
    """The cases of a comparison on one site."""

    site: str
    cases: tuple[Case, ...]


class Survey(Record):
    """A measurement of each site, in the Lab's order."""

    measurements: tuple[Measurement, ...]


def surveyed(value: Survey) -> str:
    """The sites' measurements in a sentence; a site with one replica is named."""
    found = value.measurements
    tested = [one.fit for one in found if one.fit.freedom]
    alone = [one.target for one in found if len(one.shares) == 1]
    parts = [
        f"{sum(one.failed for one in found)} failed",
        *([f"smallest chi-square {min(tested, key=lambda fit: fit.p).told}"] if tested else []),
        *([f"nothing to divide, with one replica: {', '.join(alone)}"] if alone else []),
    ]
    requests = sum(one.requests for one in found)
    return f"{requests:,} requests to {counted(len(found), 'site')}: {'; '.join(parts)}."


def compared(value: Comparison) -> str:
    """Each case's numbers of requests, in the replicas' order, in a sentence."""
    parts = (
        f"{case.name} gave {':'.join(str(part.observed) for part in case.measurement.shares)}"
        for case in value.cases
    )
    alone = all(len(case.weights) == 1 for case in value.cases)
    only = " has one replica, which no method or weight changes" if alone else ""
    return f"{value.site}{only}: {'; '.join(parts)}."


def shares_table(*values: Measurement) -> Table:
    """One row a replica: observed and expected requests, and the chi-square p of its site."""
    rows: list[dict[str, Cell]] = [
        {
            "target": value.target,
            "replica": part.replica,
            "weight": part.weight,
            "observed": part.observed,
            "expected": round(part.expected, 1),
            "p": round(value.fit.p, 4) if value.fit.freedom else None,
        }
        for value in values
        for part in value.shares
    ]
    return Table.of("shares", "Requests observed and expected", rows)


def requests_table(label: str, sent: Sequence[Sent]) -> Table:
    """One row a request, in the order of their numbers."""
    rows: Iterator[dict[str, Cell]] = (
        {
            "site": label,
            "replica": item.replica,
            "status": item.status,
            "start": item.start,
            "took": item.seconds,
            "error": item.error,
        }
        for item in sent
    )
    units = {"start": "s", "took": "s"}
    return Table.of(f"requests-{label}", f"Requests to {label}", rows, units=units)


def cases_table(value: Comparison) -> Table:
    """One row a case and replica."""
    rows: list[dict[str, Cell]] = [
        {
            "method": case.lbmethod,
            "weights": ":".join(str(weight) for weight in case.weights),
            "replica": part.replica,
            "observed": part.observed,
            "expected": round(part.expected, 1),
            "p": round(case.measurement.fit.p, 4) if case.measurement.fit.freedom else None,
            "rate": case.measurement.rate,
            "median": case.measurement.median,
        }
        for case in value.cases
        for part in case.measurement.shares
    ]
    units = {"rate": "requests/s", "median": "s"}
    return Table.of(f"compare-{value.site}", "Methods and weights compared", rows, units=units)
