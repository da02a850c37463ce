"""What differs between two states of a farm, and the steps from one to the other: no machine is touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from labkit import Lab
from labkit.farm.containers.runc import State
from labkit.farm.network.topology import Port, Topology
from labkit.farm.reconcile import plan as plans
from labkit.farm.reconcile.plan import Plan, difference, page_facts, wanted
from labkit.model.resources import FARM, KINDS, Known, Resource, of_kinds

BASE: dict[str, Any] = {"sites": ["red", "blue"], "host": {"netns": "box"}}


def lab_of(**values: Any) -> Lab:
    return Lab.of({**BASE, **values})


def state_of(lab: Lab, made: str = "1") -> list[Resource]:
    """The machine on which a lab was made: everything as it is wanted, roots and containers from ``made``."""
    names = [replica.name for replica in lab.farm]
    known = Known(
        suite="bookworm",
        **{key: dict.fromkeys(names, made) for key in ("roots", "configurations", "files")},
    )
    return list(wanted(lab, known))


def steps_between(before: Sequence[Resource], after: Sequence[Resource]) -> list[str]:
    return [f"{step.action} {step.id}" for step in difference(after, before).steps]


def without(resources: Sequence[Resource], *ids: str) -> list[Resource]:
    assert set(ids) <= {item.id for item in resources}
    return [item for item in resources if item.id not in ids]


def changed(resources: Sequence[Resource], thing: str, facts: dict[str, str]) -> list[Resource]:
    """The same with other facts of one resource."""
    found = [
        item.model_copy(update={"facts": {**item.facts, **facts}}) if item.id == thing else item
        for item in resources
    ]
    assert found != list(resources)
    return found


@pytest.mark.parametrize("sites, replicas", [(3, 2), (10, 3), (30, 4)])
def test_a_farm_of_any_size_is_planned_from_nothing(sites: int, replicas: int) -> None:
    """By configuration alone: each thing once, after those that it needs; a second plan is empty."""
    names = [f"s{number}" for number in range(1, sites + 1)]
    lab = lab_of(sites=names, replicas=replicas, network={"subnet": "10.60.0.0/22"})
    state = state_of(lab)
    plan = difference(state, [])
    count = sites * replicas
    assert {step.action for step in plan.steps} == {"create"}
    assert len(plan.steps) == plan.resources == 7 + sites + 4 * count
    place = {step.id: number for number, step in enumerate(plan.steps)}
    assert len(place) == len(plan.steps)
    assert all(place[need] < place[item.id] for item in state for need in item.needs)
    assert difference(state, state).empty


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"sites": [{"name": "red", "weights": (3, 1)}, "blue"]}, ["change balancer balancer.lab.test"]),
        ({"proxy": {"port": 8080}}, ["change balancer balancer.lab.test"]),
        ({"proxy": {"lbmethod": "bybusyness"}}, ["change balancer balancer.lab.test"]),
        ({"proxy": {"sticky": True}}, ["change balancer balancer.lab.test"]),
        (
            {"sites": [{"name": "red", "colour": "#123456"}, "blue"]},
            [
                "change image red",
                "replace root red-1", "replace root red-2",
                "replace container red-1", "replace container red-2",
            ],
        ),
        (
            {"sites": ["red", {"name": "blue", "replicas": 3}]},
            [
                "change firewall labkit-lab",
                "create namespace lab-blue-3", "create link blue-3", "create root blue-3",
                "create container blue-3", "change names lab.test", "change balancer balancer.lab.test",
            ],
        ),
        (
            {"sites": ["red", "blue", {"name": "green", "replicas": 1}]},
            [
                "change firewall labkit-lab", "create image green", "create namespace lab-green-1", "create link green-1",
                "create root green-1", "create container green-1",
                "change names lab.test", "change balancer balancer.lab.test",
            ],
        ),
        (
            {"sites": ["red", {"name": "blue", "replicas": 1}]},
            [
                "change firewall labkit-lab",
                "change names lab.test", "change balancer balancer.lab.test",
                "remove container blue-2", "remove root blue-2", "remove link blue-2",
                "remove namespace lab-blue-2",
            ],
        ),
        (
            {"network": {"subnet": "10.61.0.0/24"}},
            [
                "create route 10.61.0.0/24", "change firewall labkit-lab", "change bridge br-lab",
                "change link red-1", "change link red-2", "change link blue-1", "change link blue-2",
                "restart names lab.test", "change balancer balancer.lab.test",
                "remove route 10.60.0.0/24",
            ],
        ),
    ],
    ids=[
        "nothing", "weight", "port", "method", "sticky", "colour", "replica", "site", "fewer", "subnet",
    ],
)  # fmt: skip
def test_only_what_depends_on_a_change_is_touched(
    values: dict[str, Any], expected: list[str]
) -> None:
    """One key of lab.toml at a time; whatever is not named stays as it is."""
    assert steps_between(state_of(lab_of()), state_of(lab_of(**values))) == expected


ALL = ("red-1", "red-2", "blue-1", "blue-2")


@pytest.mark.parametrize(
    ("thing", "facts", "expected", "why"),
    [
        ("container red-1", {}, ["create container red-1"], "it is missing"),
        ("container red-1", {"process": "stopped"}, ["restart container red-1"], "process: wanted running, seen stopped"),
        ("container red-1", {"namespace": "another one"}, ["restart container red-1"], "namespace: wanted lab-red-1, seen another one"),
        ("container red-1", {"made of": "0"}, ["replace container red-1"], "made of: wanted 1, seen 0"),
        ("container red-1", {"file": "0"}, ["change container red-1"], "file: wanted 1, seen 0"),
        ("root red-1", {"mounted": "no"}, ["replace root red-1", "replace container red-1"], "mounted: wanted yes, seen no"),
        ("link red-1", {"addresses": "none"}, ["change link red-1"], "addresses: wanted 10.60.0.11/24, seen none"),
        ("namespace lab-red-1", {"name": "none, but process 7 is in it"}, ["change namespace lab-red-1"], "name: wanted lab-red-1, seen none, but process 7 is in it"),
        ("balancer balancer.lab.test", {"process": "not running"}, ["restart balancer balancer.lab.test"], "process: wanted running, seen not running"),
        ("balancer balancer.lab.test", {"workers": "withdrawn: red-1"}, ["change balancer balancer.lab.test"], "workers: wanted in service, seen withdrawn: red-1"),
        ("names lab.test", {"served": "not this zone"}, ["change names lab.test"], "served: wanted this zone, seen not this zone"),
        ("keys lab", {"host": "missing"}, ["change keys lab", *(f"replace {kind} {name}" for kind in ("root", "container") for name in ALL)], "host: wanted sound, seen missing"),
        ("image red", {"layout": "1 blob missing"}, ["change image red"], "layout: wanted whole, seen 1 blob missing"),
    ],
)  # fmt: skip
def test_drift_asks_for_its_own_mend_alone(
    thing: str, facts: dict[str, str], expected: list[str], why: str
) -> None:
    """A resource that is missing or has other facts; the first step's reason is the fact that differs."""
    state = state_of(lab_of())
    plan = difference(state, changed(state, thing, facts) if facts else without(state, thing))
    assert [f"{step.action} {step.id}" for step in plan.steps] == expected
    assert plan.steps[0].why == why


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (
            {"sites": [{"name": "red", "weights": (3, 1)}, "blue"]},
            "site red: wanted red-1 ×3, red-2 ×1 byrequests, seen red-1 ×1, red-2 ×1 byrequests",
        ),
        ({"proxy": {"port": 81}}, "listens: wanted 10.60.0.1:81, seen 10.60.0.1:80"),
        ({"sites": ["red"]}, "sites: wanted red, seen blue, red"),
    ],
)
def test_reasons_are_told_in_words_where_there_are_some(values: dict[str, Any], why: str) -> None:
    """Of the balancer: who serves, how much, and where; not the fingerprints that differ besides."""
    plan = difference(state_of(lab_of(**values)), state_of(lab_of()))
    (step,) = (step for step in plan.steps if step.kind == "balancer")
    assert step.why == why
    assert {reason.fact for reason in step.reasons} >= {"configuration", "served"}


def test_what_could_not_be_looked_at_is_no_difference() -> None:
    """A fact that is missing on the seen side, such as the namespace of a process that is none."""
    state = state_of(lab_of())
    bare = Resource(kind="container", name="red-1", facts={"process": "running"})
    assert difference(state, [*without(state, "container red-1"), bare]).empty


def test_steps_tell_what_depends_on_them() -> None:
    """All of it, near and far: the balancer needs a container, which needs its namespace."""
    state = state_of(lab_of())
    (step,) = difference(state, without(state, "namespace lab-red-1")).steps
    assert step.dependents == ("link red-1", "container red-1", "balancer balancer.lab.test")


def test_parts_of_a_farm_are_planned_by_themselves() -> None:
    """The replicas, without the two servers in front of them."""
    state = state_of(lab_of())
    plan = difference(of_kinds(state, FARM), [])
    assert {step.kind for step in plan.steps} == set(FARM)
    assert set(KINDS) - set(FARM) == {"names", "balancer"}


def test_a_plan_of_many_alike_is_told_in_few_rows() -> None:
    """Steps that do the same for the same reason share one, with the first and the last name; an empty plan has no table."""
    lab = lab_of(replicas=20)
    plan = difference(state_of(lab), [])
    (table,) = plans.tables(lab, plan)
    objects = [row[1] for row in table.rows]
    assert "container red-1 … blue-20 (40)" in objects
    assert len(objects) == len(set(objects)) == 12
    assert plans.summary(plan) == "169 steps: 169 to create; 0 of 169 resources stay."
    nothing = difference(state_of(lab), state_of(lab))
    assert plans.tables(lab, nothing) == ()
    assert plans.summary(nothing) == "Nothing to do: 169 resources are as the lab says."


def test_each_kind_has_a_check_that_names_what_differs() -> None:
    """With what was seen; the others hold."""
    lab, state = lab_of(), state_of(lab_of())
    plan = difference(state, changed(state, "link blue-1", {"bridge": "none"}))
    found = {check.name: check for check in plans.checks(lab, plan)}
    assert set(found) == {f"converged.{kind}" for kind in KINDS}
    assert [name for name, check in found.items() if not check.holds] == ["converged.link"]
    assert found["converged.link"].seen == "blue-1: bridge: wanted br-lab, seen none"


def test_a_plan_survives_json() -> None:
    """A record of what was done is read back as it was."""
    plan = difference(state_of(lab_of()), [])
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


PORT = Port(
    replica="red-1", link="lab-red-1", bridge="br-lab", up=True, peer="eth0",
    addresses=("10.60.0.11/24",), mac="02:12:cf:b1:f9:75", gateway="10.60.0.1",
)  # fmt: skip


def seen_of(port: Port) -> Topology:
    return Topology(
        bridge="br-lab", up=True, addresses=("10.60.0.1/24",), ports=(port.link,), links=(port,)
    )


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ({}, {}),
        ({"bridge": ""}, {"bridge": "none"}),
        ({"up": False}, {"state": "down"}),
        ({"peer": ""}, {"end": "none"}),
        ({"addresses": ()}, {"addresses": "none"}),
        (
            {"addresses": ("10.60.0.11/24", "10.1.0.1/8")},
            {"addresses": "10.1.0.1/8, 10.60.0.11/24"},
        ),
        ({"gateway": ""}, {"gateway": "none"}),
        ({"mac": "02:00:00:00:00:01"}, {"MAC address": "02:00:00:00:00:01"}),
    ],
)
def test_links_are_seen_with_the_facts_that_are_wanted(
    values: dict[str, Any], facts: dict[str, str]
) -> None:
    """A sound one has exactly the wanted facts, a broken one differs in its own."""
    (link,) = plans.observed_links(seen_of(PORT.model_copy(update=values)), ["lab-red-1"])
    asked = next(item for item in wanted(lab_of()) if item.id == "link red-1")
    assert link.facts == {**asked.facts, **facts}


def test_links_are_seen_as_far_as_they_can_be() -> None:
    """The inner end in a namespace without its name is not judged; what labkit did not make is told so; without an end
    on the host there is no link, and so with a bridge of which nothing was seen."""
    port = PORT.model_copy(update={"peer": "", "addresses": (), "gateway": ""})
    (link,) = plans.observed_links(seen_of(port), ["lab-red-1"], unnamed=["red-1"])
    assert set(link.facts) == {"made by", "bridge", "state", "addresses on the host"}
    (link,) = plans.observed_links(seen_of(PORT), [])
    (bridge,) = plans.observed_bridge(seen_of(PORT), ["lab-red-1"])
    assert (link.facts["made by"], bridge.facts["made by"]) == ("somebody else", "somebody else")
    assert list(plans.observed_links(seen_of(PORT.model_copy(update={"link": ""})), [])) == []
    gone = Topology(bridge="br-lab", up=False, addresses=(), ports=(), links=())
    assert list(plans.observed_bridge(gone, [])) == []


@pytest.mark.parametrize(
    ("state", "config", "facts"),
    [
        (None, None, None),
        (None, "text", {"process": "none"}),
        (State(id="a", pid=0, status="stopped", bundle=""), "text", {"process": "stopped"}),
        (
            State(id="a", pid=7, status="running", bundle="", made_of="0a"),
            "text",
            {"process": "running", "namespace": "n", "made of": "0a"},
        ),
        (
            State(id="a", pid=7, status="running", bundle=""),
            None,
            {"process": "running", "namespace": "n", "made of": "none"},
        ),
    ],
)
def test_containers_are_seen_as_runc_and_their_bundles_show_them(
    state: State | None, config: str | None, facts: dict[str, str] | None
) -> None:
    """Of one that does not run only that is said."""
    found = [item.facts for item in plans.observed_container("a", state, config, namespace="n")]
    bare = [{key: value for key, value in item.items() if key != "file"} for item in found]
    assert bare == ([] if facts is None else [facts])


def test_a_page_is_told_by_title_and_colour() -> None:
    """What a person would say of it; and fingerprints of the rest."""
    lab = lab_of()
    from labkit.model import sites as site

    files = site.files(lab, lab.sites[0])
    facts = page_facts(files[site.PAGE], files[site.CONFIGURATION])
    assert (facts["title"], facts["colour"]) == ("Site 1: red", "#0072B2")
    assert page_facts("", "")["title"] == "none"
