"""Replicas of a real farm end, restart, stand still and are cut off while somebody else's clients ask."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.farm import traffic
from labkit.farm.traffic import failover
from tests import visitors
from tests.visitors import EVENTS, WAYS, Found
from tests.whole_farm import standing


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """Two sites on two replicas each; every test leaves it as it was."""
    with standing() as lab:
        yield lab


@pytest.mark.root
@pytest.mark.parametrize("name", EVENTS)
def test_no_visitor_loses_a_get_or_a_head(farm: Lab, tmp_path: Path, name: str) -> None:
    """By curl, wrk and raw sockets, which follow nothing and repeat nothing; a POST is executed once at most."""
    found = Found()
    with ThreadPoolExecutor(1) as pool, visitors.visiting(farm, "red", found) as trace:
        heavy = pool.submit(visitors.wrk, farm, "red", 4, tmp_path / "count.lua", 8)
        time.sleep(0.7)
        EVENTS[name](farm, farm.replica("red-2"))
        visitors.serving(farm, "red")
        found.update(heavy.result())
    assert found.lost() == {}
    assert found.safe() > 500
    posts = {what.split()[-1] for what in found if what.startswith("POST")}
    assert posts <= {"200", "502", "503", "504"}
    executed = visitors.executed(farm, "red", trace)
    assert (executed["doubled"], executed["turned"]) == (0, 0)
    assert executed["POSTs"] > 0


@pytest.mark.root
@pytest.mark.parametrize(("method", "kept"), WAYS)
def test_a_kill_is_told_for_each_kind_of_client(farm: Lab, method: str, kept: bool) -> None:
    """The page to every GET and HEAD; to each POST the page, or the balancer's error."""
    result = failover.kill(farm, "red-2", 8, method=method, kept=kept)
    assert failed(result.checks) == ()
    value = result.value
    assert (value.method, value.redirected, value.cut, value.turned) == (
        method,
        0,
        0,
        value.again if method == "HEAD" else 0,
    )
    checked = {check.name.rpartition(".")[2] for check in result.checks}
    assert checked == ({"refused", "once"} if method == "POST" else {"served"}) | {"out", "back"}
    assert failed(traffic.survey(farm, 100, 4).checks) == ()
