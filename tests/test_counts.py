"""Counting requests: shares against weights, the client against the logs, and wrk's reports."""

from __future__ import annotations

from collections import Counter

import pandas
import pytest

from labkit import Lab
from labkit.errors import FarmError
from labkit.farm.services.fetch import Target
from labkit.farm.traffic import bench, measurements
from labkit.farm.traffic.load import Sent, frame
from labkit.farm.traffic.measurements import Log, Share


def requests(*replicas: str) -> pandas.DataFrame:
    """Requests that these replicas answered, in this order; '' is one that nobody answered."""
    return frame(
        Sent(number=n, replica=name, status=200 if name else 503, start=n / 10, took=0.01)
        for n, name in enumerate(replicas)
    )


def share(observed: int, expected: float) -> Share:
    return Share(replica=f"a-{observed}", weight=1, observed=observed, expected=expected)


def test_shares_expect_the_answered_requests_by_weight() -> None:
    """A request that failed is nobody's; the rest divides as the weights do."""
    lab = Lab.of({"sites": [{"name": "a", "weights": [3, 1]}]})
    found = measurements.shares(lab.farm, requests("a-1", "a-2", "", "a-2", "a-1"))
    assert [(part.replica, part.observed, part.expected) for part in found] == [
        ("a-1", 2, 3.0),
        ("a-2", 2, 1.0),
    ]


@pytest.mark.parametrize(
    ("parts", "statistic", "p", "fits"),
    [
        ([share(300, 300), share(300, 300)], 0.0, 1.0, True),
        ([share(320, 300), share(280, 300)], 2.667, 0.102, True),
        ([share(360, 300), share(240, 300)], 24.0, 0.0, False),
        ([share(10, 20), share(20, 20), share(30, 20)], 10.0, 0.007, True),
        ([share(7, 7)], 0.0, 1.0, True),
        ([share(0, 0), share(0, 0)], 0.0, 0.0, False),
    ],
)
def test_fit_is_pearsons(parts: list[Share], statistic: float, p: float, fits: bool) -> None:
    """The statistic is the sum of (observed - expected)^2 / expected; no answer at all fits nothing."""
    found = measurements.fit(parts)
    assert (round(found.statistic, 3), round(found.p, 3), found.fits) == (statistic, p, fits)
    assert found.freedom == (len(parts) - 1 if any(part.observed for part in parts) else 0)


@pytest.mark.parametrize(
    ("log", "holds"),
    [
        ({0: "a-1", 1: "a-2", 2: "-"}, True),
        ({0: "a-2", 1: "a-1", 2: "-"}, False),  # the counts are the same, the requests are not
        ({0: "a-1", 1: "a-2"}, False),
        ({0: "a-1", 1: "a-2", 2: "-", 3: "a-1"}, False),
        ({}, False),
    ],
)
def test_agreement_is_request_by_request(log: dict[int, str], holds: bool) -> None:
    """A log agrees when it has the client's requests, each with the client's replica."""
    client = {0: "a-1", 1: "a-2", 2: "-"}
    assert measurements.agreement("x", client, Log(log, Counter()), "").holds is holds


def test_log_lines_of_other_measurements_do_not_count() -> None:
    """Only a line with this trace and a number is one of this measurement's requests."""
    lines = [("ab-0", "a-1"), ("cd-1", "a-1"), ("ab-x", "a-1"), ("-", "a-1"), ("ab-12", "-")]
    assert measurements.by_number(lines, "ab") == {0: "a-1", 12: "-"}


@pytest.mark.parametrize(
    ("values", "part", "found"),
    [([], 0.5, 0.0), ([3.0], 0.5, 3.0), ([1, 2, 3, 4], 0.5, 2), (range(1, 101), 0.95, 95)],
)
def test_quantile_is_a_value_that_was_seen(values: list[float], part: float, found: float) -> None:
    """The nearest rank, not an interpolation."""
    assert measurements.quantile(values, part) == found


REPORT = """Running 4s test @ http://10.60.0.1:80/
  2 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     6.74ms    5.37ms  83.53ms   84.68%
    Req/Sec     2.53k   827.14     4.79k    63.33%
  Latency Distribution
     50%  950.00us
     75%    7.88ms
     90%   12.73ms
     99%    1.20s
  15268 requests in 3.04s, 23.30MB read
{errors}Requests/sec:   5015.40
Transfer/sec:      7.65MB
"""


@pytest.mark.parametrize(
    ("errors", "count"),
    [
        ("", 0),
        ("  Socket errors: connect 1, read 20, write 0, timeout 3\n", 24),
        ("  Non-2xx or 3xx responses: 7\n", 7),
        (
            "  Socket errors: connect 0, read 1, write 0, timeout 0\n"
            "  Non-2xx or 3xx responses: 7\n",
            8,
        ),
    ],
)
def test_wrks_report_is_read_in_seconds(errors: str, count: int) -> None:
    """Latencies of any unit become seconds; whatever was no good answer is an error."""
    found = bench.parse(REPORT.format(errors=errors), target="a", direct=False, connections=32)
    assert (found.p50, found.p75, found.p90, found.p99) == (0.00095, 0.00788, 0.01273, 1.2)
    assert (found.requests, found.seconds, found.rate) == (15268, 3.04, 5015.4)
    assert found.errors == count


@pytest.mark.parametrize("text", ["", "unable to connect to 10.60.0.1:80 Connection refused\n"])
def test_what_is_no_report_of_wrks_is_an_error(text: str) -> None:
    """The error quotes what wrk said."""
    with pytest.raises(FarmError, match="cannot be read"):
        bench.parse(text, target="a", direct=True, connections=1)


def test_wrk_asks_by_address_and_name() -> None:
    """The address is known; the site's name goes into the Host header."""
    there = Target.model_validate(
        {"label": "a", "host": "a.lab.test", "address": "10.60.0.1", "port": 8080}
    )
    argv = bench.command(there, 4, 1)
    assert argv[-1] == "http://10.60.0.1:8080/"
    assert "Host: a.lab.test" in argv
    assert argv[argv.index("--threads") + 1] == "1"  # never more threads than connections
