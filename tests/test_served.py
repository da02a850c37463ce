"""What replicas serve, compared: from answers alone, and from a farm that stands."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.farm.reconcile import up
from labkit.farm.services import served
from labkit.farm.services.fetch import Reply
from labkit.farm.services.served import Served


def answer(lab: Lab, name: str, *, title: str = "", extra: str = "", header: str = "") -> Served:
    """The comparison's view of a page that the replica could have sent."""
    replica = lab.replica(name)
    title = title or lab.title(lab.site(replica.site))
    body = f"<title>{title}</title>{replica.name} {replica.address} {lab.host_name(name)}{extra}"
    reply = Reply(
        status=200, replica=header or name, cookie="", configuration="", lab="", body=body,
        seconds=0.0,
    )  # fmt: skip
    return served.served(replica, reply, lab)


@pytest.fixture
def plain() -> Lab:
    """Two sites on two replicas each; nothing of it is made."""
    return Lab.of({"sites": [{"name": "red"}, {"name": "blue"}]})


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({}, []),
        ({"extra": "!"}, ["site.page.red", "site.told-apart"]),
        ({"title": "Site 2: blue"}, ["site.page.red"]),
        ({"header": "red-1"}, ["site.page.red"]),
        ({"header": "blue-1"}, ["site.page.red"]),
    ],
)
def test_a_replica_that_serves_something_else_is_named(
    plain: Lab, changed: dict[str, str], failing: list[str]
) -> None:
    """Own name and address may differ within a site; page, title and the header's truth may not."""
    seen = [
        answer(plain, item.name, **(changed if item.name == "red-2" else {})) for item in plain.farm
    ]
    assert [check.name for check in failed(served.checks(plain, seen))] == failing


def test_sites_with_one_page_are_not_told_apart(plain: Lab) -> None:
    """Replicas that all serve the same page fail the comparison between sites, also one that is no page."""
    seen = [answer(plain, item.name, title="Site 1: red") for item in plain.farm]
    assert "site.told-apart" in [check.name for check in failed(served.checks(plain, seen))]
    broken = Reply(
        status=500, replica="", cookie="", configuration="", lab="", body="broken", seconds=0.0
    )
    assert served.served(plain.replica("red-1"), broken, plain).title == ""


@pytest.mark.root
def test_a_farm_serves_a_page_a_site(make_lab: Callable[..., Lab]) -> None:
    """On a farm that stands, every check holds and each replica names itself."""
    lab = make_lab(sites=["red", "blue"])
    up.replicas(lab)
    result = served.compare(lab)
    assert not failed(result.checks)
    assert [item.header for item in result.value] == [item.name for item in lab.farm]
    assert not result.changed
