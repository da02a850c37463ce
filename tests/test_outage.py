"""What clients noticed of a stopped replica: as values, sentences and checks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.farm.traffic import failover
from labkit.farm.traffic.failover import Failover, Moments
from labkit.farm.traffic.load import Sent, frame

#: Stopped, left out, started again, back: in seconds of the load.
MOMENTS: Moments = (1.0, 1.1, 2.0, 3.0)


def sent(start: float, status: int = 200, method: str = "GET") -> Sent:
    """A request that took 10 ms; its number is its start in milliseconds."""
    return Sent(round(1000 * start), "", status, start, took=0.01, method=method)


def seen(
    *requests: Sent,
    replicas: int = 1,
    drained: bool = False,
    moments: Moments = MOMENTS,
    again: Sequence[int] = (),
) -> Failover:
    """A stop of the last replica of a site with so many, under these requests and 100 good ones."""
    lab = Lab.of({"replicas": replicas})
    good = [sent(place / 25) for place in range(100)]
    replica = lab.replicas_of("site1")[-1]
    known = failover.with_logs(frame([*good, *requests]), again)
    return failover.evaluated(lab, replica, known, moments, drained=drained)


def failing(value: Failover) -> set[str]:
    """The last words of the names of the checks that fail."""
    found = failed(failover.checks(Lab.of({"replicas": value.others + 1}), value))
    return {check.name.rpartition(".")[2] for check in found}


@pytest.mark.parametrize(
    ("requests", "fails"),
    [
        ((sent(1.0, 503), sent(2.9, 503)), set()),
        ((sent(1.0, 503), sent(3.4, 503)), set()),
        ((), {"outage"}),
        ((sent(0.5, 503), sent(2.0, 503)), {"outage"}),
        ((sent(2.0, 503), sent(3.6, 503)), {"outage"}),
        ((sent(1.0, 503), sent(1.0, 502), sent(1.0, 504)), set()),
        ((sent(1.0, 503), sent(1.0, 0)), {"refused"}),
        ((sent(1.0, 503), sent(1.0, 302)), {"refused"}),
    ],
    ids=["within", "just after", "none", "before", "after", "all errors", "cut", "redirected"],
)
def test_outage_of_an_only_replica(requests: tuple[Sent, ...], fails: set[str]) -> None:
    """Requests fail from the stop to the return and at no other time, each by an error of the balancer's."""
    assert failing(seen(*requests)) == fails


def test_drained_only_replica_cuts_no_request() -> None:
    """After a warning each request that fails was refused."""
    assert failing(seen(sent(1.0, 503), drained=True)) == set()
    assert failing(seen(sent(1.0, 503), sent(1.0, 0), drained=True)) == {"refused"}


@pytest.mark.parametrize("status", [0, 302, 502, 503])
@pytest.mark.parametrize("drained", [False, True])
def test_others_take_over(status: int, drained: bool) -> None:
    """With a second replica no request may fail, in whatever way."""
    assert failing(seen(replicas=2, drained=drained)) == set()
    value = seen(sent(1.0, status), replicas=2, drained=drained)
    assert failing(value) == {"served"}
    assert (value.failed, value.cut, value.redirected) == (1, status == 0, status == 302)


@pytest.mark.parametrize(
    ("status", "again", "logged", "fails"),
    [
        (200, (), ("POST",), set()),
        (502, (), (), set()),
        (0, (), (), {"refused"}),
        (302, (), (), {"refused"}),
        (200, (1000,), (), {"once"}),
        (200, (), ("POST", "POST"), {"once"}),
        (200, (), ("GET",), {"once"}),
    ],
)
def test_a_post_is_executed_once_or_answered_with_an_error(
    status: int, again: tuple[int, ...], logged: tuple[str, ...], fails: set[str]
) -> None:
    """It may be lost with its replica, and is not sent to another one, nor by another method."""
    posts = [sent(place / 25, method="POST") for place in range(100)]
    posts[25] = posts[25]._replace(status=status)
    executed = [(posts[25].number, method) for method in logged]
    requests = failover.with_logs(frame(posts), again, executed)
    lab = Lab.of({"replicas": 2})
    value = failover.evaluated(lab, lab.replicas_of("site1")[-1], requests, MOMENTS, drained=False)
    assert failing(value) == fails


def test_what_the_balancer_did_not_notice_fails() -> None:
    """A stop or a return that was not seen in time is a failed check each."""
    blind: Moments = (1.0, None, 2.0, None)
    assert failing(seen(replicas=2, moments=blind)) == {"out", "back"}
    assert failing(seen(sent(1.5, 503), moments=blind)) == {"out", "back", "outage"}


def test_summary_says_whether_anybody_could_take_over() -> None:
    """A sentence with the measured numbers; of an only replica, that there was no failover."""
    alone = failover.summary(seen(sent(1.0, 503), sent(2.5, 503)))
    assert "nobody could take over" in alone
    assert "2 failed in an outage of 1.50 s" in alone
    both = failover.summary(seen(sent(1.001), replicas=2, again=[1001]))
    assert both.startswith(
        "site1-2 was killed under 101 requests: 0 failed (0 redirected, 0 cut off), 1 sent again"
    )
