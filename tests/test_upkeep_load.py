"""Requests run through the balancer while the farm is changed: none of them fails, and who is not concerned
is not touched."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

from labkit import Lab
from labkit.farm.containers import runc
from labkit.farm.reconcile import upkeep
from labkit.farm.services import fetch
from labkit.farm.services.fetch import Target
from labkit.kernel.netns import enter
from labkit.report import status
from tests.visitors import ENOUGH, loaded
from tests.waiting import until
from tests.whole_farm import standing as whole_farm


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """Two sites on two replicas each; every test leaves it so."""
    with whole_farm() as lab:
        upkeep.apply(lab)
        yield lab


def with_values(lab: Lab, **values: Any) -> Lab:
    return Lab.of({**lab.model_dump(), **values}).recalled()


def kept(lab: Lab, before: dict[str, runc.State]) -> set[str]:
    """The containers that are the same processes as before."""
    after = runc.states(lab)
    return {
        name for name, state in before.items() if name in after and after[name].pid == state.pid
    }


ALL = {"red-1", "red-2", "blue-1", "blue-2"}
BLUE = {"blue-1", "blue-2"}
CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "weight": ({"sites": [{"name": "red", "weights": (3, 1)}, "blue"]}, ALL),
    "method": ({"proxy": {"lbmethod": "bybusyness"}}, ALL),
    "replica": ({"replicas": 3}, ALL),
    "site": ({"sites": ["red", "blue", "green"]}, ALL),
    "page": ({"sites": [{"name": "red", "colour": "#123456"}, "blue"]}, BLUE),
    "fewer": ({"replicas": 1}, {"red-1", "blue-1"}),
}


@pytest.mark.root
@pytest.mark.parametrize("name", CHANGES)
def test_no_request_fails_during_a_change_and_the_way_back(farm: Lab, name: str) -> None:
    """The containers that the change does not concern keep their processes, there and back."""
    values, same = CHANGES[name]
    changed, before = with_values(farm, **values), runc.states(farm)
    with loaded(farm):
        assert upkeep.apply(changed).holds
        assert kept(farm, before) == same
        there = runc.states(farm)
        assert upkeep.apply(farm).holds
    assert kept(farm, there) >= same & set(there)
    broken = {check.name for check in status.checks(farm).checks if not check.holds}
    assert {name for name in broken if not name.startswith("wiki")} == set()


@pytest.mark.root
def test_the_only_replica_of_a_site_is_replaced_without_a_failed_request(farm: Lab) -> None:
    """A second one stands in for it meanwhile, and is gone afterwards."""
    one = with_values(farm, replicas=1)
    assert upkeep.apply(one).holds
    before = runc.states(one)
    page = with_values(one, sites=[{"name": "red", "title": "Another title"}, "blue"])
    with loaded(one, ["red"]):
        assert upkeep.apply(page).holds
    assert kept(one, before) == {"blue-1"}
    assert runc.states(one).keys() == {"red-1", "blue-1"}
    assert upkeep.apply(farm).holds


class Mover:
    """A client of a balancer that moves: it asks at the new place and, when nobody answers, at the old."""

    def __init__(self, lab: Lab, places: Sequence[Target]) -> None:
        self.lab = lab
        self.places = places
        self.statuses: list[int] = []
        self.errors: list[str] = []
        self.over = Event()

    def run(self) -> None:
        """Asks until it is over."""
        enter(self.lab.netns)
        while not self.over.is_set():
            self._ask()
            time.sleep(0.002)

    def _ask(self) -> None:
        for place in self.places:
            try:
                self.statuses.append(fetch.get(place).status)
                return
            except fetch.ERRORS as error:
                said = f"{place.address}:{place.port} {fetch.reason(error)}"
        self.errors.append(said)


@contextmanager
def moving(lab: Lab, other: Lab) -> Iterator[Mover]:
    """Clients ask at both places while the block runs; each request was answered at one of them."""
    mover = Mover(lab, [fetch.front(other, "red"), fetch.front(lab, "red")])
    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(mover.run) for _ in range(2)]
        try:
            until(lambda: len(mover.statuses) > ENOUGH)
            yield mover
            sent = len(mover.statuses)
            until(lambda: len(mover.statuses) > sent + ENOUGH)
        finally:
            mover.over.set()
        for item in work:
            item.result()
    assert (mover.errors, set(mover.statuses)) == ([], {200})


@pytest.mark.root
@pytest.mark.parametrize(
    "values",
    [{"proxy": {"port": 8080}}, {"network": {"subnet": "10.61.0.0/24"}}],
    ids=["port", "subnet"],
)
def test_a_balancer_that_moves_is_always_to_be_found(farm: Lab, values: dict[str, Any]) -> None:
    """At the new place or at the old one. No container is another process, unless the subnet is another one: the
    replicas find the name server by its address."""
    moved, before = with_values(farm, **values), runc.states(farm)
    with moving(farm, moved):
        assert upkeep.apply(moved).holds
    assert upkeep.plan(moved).value.empty
    with moving(moved, farm):
        assert upkeep.apply(farm).holds
    assert kept(farm, before) == (set() if "network" in values else ALL)
    broken = {check.name for check in status.checks(farm).checks if not check.holds}
    assert {name for name in broken if not name.startswith("wiki")} == set()
