"""Figures of the traffic: drawn from results alone, and told in words as well."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pandas
import pytest

from labkit import Lab, Table
from labkit.cluster.swarm import changes
from labkit.cluster.swarm.changes import Experiment
from labkit.core.result import Figure, Result, picture
from labkit.farm.services.browser import Page, Visits
from labkit.farm.traffic import bench, distribution, failover, measurements
from labkit.farm.traffic.bench import Comparison as Speeds
from labkit.farm.traffic.bench import Throughput
from labkit.farm.traffic.distribution import Case, Comparison, Survey
from labkit.farm.traffic.load import Sent, frame
from labkit.farm.traffic.measurements import Measurement
from labkit.report import figures
from labkit.report.figures import screenshots, traffic

T = TypeVar("T")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab that is only described, with a folder for its outputs."""
    return Lab.of({"outputs": str(tmp_path), "sites": ["red", {"name": "blue", "weights": (3, 1)}]})


def result(value: T, *tables: Table) -> Result[T]:
    """A result as an action would have returned it."""
    return Result(
        action="test", subject="test", summary="A test.", changed=False, value=value,
        tables=tables, run="r", started=datetime(2026, 1, 1, tzinfo=UTC), seconds=0.0,
    )  # fmt: skip


def measurement(lab: Lab, site: str, *observed: int, lbmethod: str = "byrequests") -> Measurement:
    """A measurement in which the site's replicas served these numbers of requests."""
    sent = [
        Sent(number=0, replica=item.name, status=200, start=0.0, took=0.01)
        for item, count in zip(lab.replicas_of(site), observed, strict=True)
        for _ in range(count)
    ]
    parts = measurements.shares(lab.replicas_of(site), frame(sent))
    return Measurement(
        target=site, address="10.60.0.1", lbmethod=lbmethod, trace="t", requests=sum(observed),
        concurrency=8, failed=0, seconds=1.0, rate=100.0, median=0.01, p95=0.02,
        shares=parts, fit=measurements.fit(parts),
    )  # fmt: skip


def surveyed(*found: Measurement) -> Result[Survey]:
    """A survey's result with its table of shares."""
    return result(Survey(measurements=found), measurements.shares_table(*found))


def compared(site: str, *cases: Case) -> Result[Comparison]:
    """A comparison's result with its table."""
    return result(Comparison(site=site, cases=cases), distribution.cases_table(site, cases))


def drawn(lab: Lab, figure: Figure) -> None:
    """Both files are there, the PNG 8 inches wide at 150 dots an inch."""
    png = picture(lab, figure.png).read_bytes()
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20]) == 1200
    assert picture(lab, figure.svg).read_text().startswith("<?xml")


def test_distribution_tells_observed_and_expected(lab: Lab) -> None:
    """The alternative text has each replica's count and what the weights let expect."""
    found = measurement(lab, "red", 52, 48), measurement(lab, "blue", 75, 25)
    figure = figures.distribution(lab, surveyed(*found))
    assert "red-1 52 (50), red-2 48 (50)" in figure.alt
    assert "blue-1 75 (75), blue-2 25 (25), p = 1.000" in figure.alt
    drawn(lab, figure)


def test_methods_tells_each_case(lab: Lab) -> None:
    """One bar a case, named by method and weights; the figure is named after the site."""
    cases = tuple(
        Case(lbmethod=method, weights=(3, 1), measurement=measurement(lab, "blue", *observed))
        for method, observed in (("byrequests", (75, 25)), ("bybusyness", (60, 40)))
    )
    figure = figures.methods(lab, compared("blue", *cases))
    assert figure.name == "methods-blue"
    assert "byrequests 3:1 gave blue-1 75 (75), blue-2 25 (25)" in figure.alt
    assert "bybusyness 3:1 gave blue-1 60 (75), blue-2 40 (25)" in figure.alt
    drawn(lab, figure)


def load(lost: int) -> pandas.DataFrame:
    """Two seconds of a load; ``lost`` requests fail when red-2 is killed after half a second."""
    sent = [
        Sent(
            number=number,
            replica="" if failed else f"red-{1 + alive}",
            status=502 if failed else 200,
            start=number / 100,
            took=0.005,
        )
        for number in range(200)
        for alive in (number % 2 and not 50 <= number < 150,)
        for failed in (50 <= number < 50 + lost,)
    ]
    return failover.with_logs(frame(sent), again=[60])


@pytest.mark.parametrize(
    ("lost", "drained", "back"), [(0, True, 1.5), (3, False, 1.5), (0, False, None)]
)
def test_failover_tells_moments_and_failures(
    lab: Lab, lost: int, drained: bool, back: float | None
) -> None:
    """Each moment that was seen is told, with the numbers of failed and repeated requests."""
    sent = load(lost)
    moments = (0.5, 0.52, 1.2, back)
    value = failover.evaluated(lab, lab.replica("red-2"), sent, moments, drained=drained)
    table = failover.timeline(lab, value, sent)
    assert [column.name for column in table.columns] == [
        "time", "red-1", "red-2", "again", "failed", "slowest",
    ]  # fmt: skip
    assert sum(int(row[4] or 0) for row in table.rows) == lost
    figure = figures.failover(lab, result(value, table))
    assert f"{'drained' if drained else 'killed'} at 0.50 s, left out at 0.52 s" in figure.alt
    assert ("serving again at 1.50 s" in figure.alt) is (back is not None)
    assert f"{lost} of 200 requests failed, 1 sent again" in figure.alt
    drawn(lab, figure)


def test_outage_of_an_only_replica_is_drawn_as_one(lab: Lab) -> None:
    """Without another replica the alternative text says so, and the failed requests are bars."""
    single = Lab.of({"sites": ["red"], "replicas": 1, "outputs": lab.outputs})
    sent = [
        Sent(number=n, replica="red-1", status=503 if 50 <= n < 150 else 200, start=n / 100, took=0.01)
        for n in range(200)
    ]  # fmt: skip
    requests = failover.with_logs(frame(sent))
    value = failover.evaluated(
        single, single.replica("red-1"), requests, (0.5, 0.6, 1.2, 1.5), drained=False
    )
    figure = figures.failover(single, result(value, failover.timeline(single, value, requests)))
    assert figure.alt.startswith("red-1 is the only replica of red. ")
    assert "100 of 200 requests failed" in figure.alt
    assert "its only replica" in figure.caption
    drawn(lab, figure)


def test_many_replicas_are_one_bar_beside_the_stopped_one() -> None:
    """More replicas than colours tell apart are added up; the stopped one keeps its own column."""
    many = Lab.of({"sites": ["red"], "replicas": 9})
    replicas = many.replicas_of("red")
    sent = [Sent(number=n, replica=item.name, status=200, start=0.0, took=0.01)
            for n, item in enumerate(replicas)]  # fmt: skip
    requests = failover.with_logs(frame(sent))
    value = failover.evaluated(many, replicas[-1], requests, (0.0, 0.0, 0.0, 0.0), drained=False)
    table = failover.timeline(many, value, requests)
    (row,) = traffic.grouped(table.frame(), value.replica).to_dict("records")
    assert row == {"time": 0.0, "the other 8 replicas": 8, "red-9": 1, "again": 0, "failed": 0,
                   "slowest": 0.01}  # fmt: skip


def changed(lab: Lab, *, lost: bool, failed: int) -> Result[Experiment]:
    """An experiment on a swarm: a hundred requests a second, of which so many failed when the node went away."""
    sent = pandas.concat(
        frame(
            Sent(number=n, replica=f"{site.name}-{1 + n % 2}", status=0 if 1500 <= n < 1500 + failed else 200, start=n / 100, took=0.005)
            for n in range(4050)
        ).assign(site=site.name)
        for site in lab.sites
    )  # fmt: skip
    moments = {
        "update": (2.0, 10.0),
        "away": (15.0, 22.5),
        "return": (30.0, 38.0),
        "noticed": (18.0, 18.0),
    }
    value = changes.evaluated(sent, moments, asked="m1", gone="m2", lost=lost)
    found = result(value, *changes.tables(lab, value, sent))
    return found.model_copy(update={"summary": changes.summary(value), "checks": tuple(changes.verdict(value, ""))})  # fmt: skip


@pytest.mark.parametrize(("lost", "failed"), [(True, 0), (False, 7)])
def test_a_swarm_that_changes_tells_its_phases_and_failures(
    lab: Lab, lost: bool, failed: int
) -> None:
    """Each request belongs to the phase in which it began; what was drained is never called lost."""
    found = changed(lab, lost=lost, failed=failed)
    value = found.value
    assert [(p.name, p.requests, p.failed, p.seconds) for p in value.phases] == [
        ("before", 400, 0, 2.0), ("update", 2600, 0, 8.0), ("away", 3000, 2 * failed, 7.5), ("return", 2100, 0, 8.0),
    ]  # fmt: skip
    assert value.noticed == 3.0
    assert {c.name for c in found.checks if not c.holds} == (
        {"engine.away.served"} if failed else set()
    )
    assert len(found.frames["failed"]) == 2 * failed
    figure = figures.swarm(lab, found)
    said = "m2 lost" if lost else "m2 drained"
    assert f"{said} at 15 s, replicas back after 7.5 s" in figure.alt
    assert f"Of 4,000 requests to red, {failed} failed" in figure.alt
    assert ("lost" in f"{figure.alt} {found.summary} {found.checks}") is lost
    drawn(lab, figure)


@pytest.mark.parametrize(
    ("sites", "replicas", "width", "lines"),
    [
        (1, 1, 12, [[0.0]]),
        (3, 2, 12, [[0.0, 2.5, 5.0]]),
        (10, 3, 12, [[0.0, 3.5, 7.0], [0.0, 3.5, 7.0], [0.0, 3.5, 7.0], [0.0]]),
        (10, 1, 12, [[1.5 * place for place in range(8)], [0.0, 1.5]]),
        (2, 30, 12, [[0.0], [0.0], [0.0], [0.0], [0.0], [0.0]]),
    ],
)
def test_distribution_goes_on_in_a_new_line(
    sites: int, replicas: int, width: int, lines: list[list[float]]
) -> None:
    """No line has more bars than stay legible, and a site that fits into one is not divided."""
    names = [f"site{number}" for number in range(1, sites + 1)]
    many = Lab.of({"sites": names, "replicas": replicas, "network": {"subnet": "10.60.0.0/16"}})
    found = [measurement(many, name, *[5] * replicas) for name in names]
    arranged = traffic.arrange(measurements.shares_table(*found).frame(), width)
    firsts = arranged.drop_duplicates(["line", "target"])
    assert [[*line["place"]] for _, line in firsts.groupby("line")] == lines
    assert [*arranged["replica"]] == [replica.name for replica in many.farm]


@pytest.mark.parametrize(("sites", "replicas"), [(1, 1), (10, 3), (45, 1), (1, 16)])
def test_every_size_of_farm_has_its_figures(lab: Lab, sites: int, replicas: int) -> None:
    """From one replica to many, all are drawn and told, without a warning of the layout's."""
    names = [f"site{number}" for number in range(1, sites + 1)]
    farm = Lab.of({"sites": names, "replicas": replicas, "outputs": lab.outputs, "network": {"subnet": "10.60.0.0/16"}})  # fmt: skip
    found = tuple(measurement(farm, name, *[5] * replicas) for name in names)
    figure = figures.distribution(farm, surveyed(*found))
    assert all(f"{replica.name} 5 (5)" in figure.alt for replica in farm.farm)
    assert ("nothing to divide" in figure.caption) is (replicas == 1)
    drawn(farm, figure)
    case = Case(lbmethod="byrequests", weights=(1,) * replicas, measurement=found[0])
    drawn(farm, figures.methods(farm, compared("site1", case)))


def speed(target: str, direct: bool, rate: float) -> Throughput:
    """A measurement of wrk's with latencies of 1 to 4 ms."""
    return Throughput(
        target=target, direct=direct, connections=32, seconds=4.0, requests=int(4 * rate),
        rate=rate, p50=0.001, p75=0.002, p90=0.003, p99=0.004, errors=0,
    )  # fmt: skip


def test_throughput_tells_both_ways(lab: Lab) -> None:
    """Rate and percentiles, directly and balanced."""
    value = Speeds(direct=speed("red-1", True, 2000), balanced=speed("red", False, 1000.4))
    figure = figures.throughput(lab, result(value, bench.table(value)))
    assert "direct (red-1) 2,000 requests/s, 50 % within 1.00 ms" in figure.alt
    assert "balanced (red) 1,000 requests/s" in figure.alt
    drawn(lab, figure)


def test_pages_stand_side_by_side(lab: Lab) -> None:
    """A page that was not reached has its place, and the text says why it is empty."""
    one = Page(
        name="red", url="http://red.lab.test/", status=200, title="Site 1", heading="Site 1",
        marks={"replica": "red-1"}, screenshot="figures/throughput-red.png", seconds=0.1,
    )  # fmt: skip
    test_throughput_tells_both_ways(lab)  # draws a picture that can stand for a screenshot
    other = one.model_copy(update={"url": "http://no.lab.test/", "status": 0, "error": "refused"})
    figure = figures.pages(lab, result(Visits(browser="Chromium 1", pages=(one, other))))
    assert "http://red.lab.test/: Site 1, served by red-1" in figure.alt
    assert "http://no.lab.test/: not reached (refused)" in figure.alt
    drawn(lab, figure)


@pytest.mark.parametrize(
    ("sites", "replicas", "places"),
    [
        (3, 1, [(0, 0), (0, 1), (0, 2)]),
        (3, 2, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]),
        (5, 2, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1)]),
        (1, 6, [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]),
    ],
)
def test_pages_of_one_site_stand_together(
    sites: int, replicas: int, places: list[tuple[int, int]]
) -> None:
    """A column a site or, of more than four, a line a site; never more than four beside each other."""
    farm = Lab.of({"sites": [f"s{number}" for number in range(sites)], "replicas": replicas})
    shown = [
        Page(name="x", url=farm.url(replica.name), status=200, title="", heading="", marks={},
             screenshot="", seconds=0.0)
        for replica in farm.farm
    ]  # fmt: skip
    assert screenshots.arrange(farm, shown) == places
