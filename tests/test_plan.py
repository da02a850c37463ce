"""What differs between two states of a farm, and the steps from one to the other: no machine is touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def changed(resources: Sequence[Resource], thing: str, /, **facts: str) -> list[Resource]:
    """The same with other facts of one resource; '_' in a fact's name stands for a space."""
    given = {key.replace("_", " "): value for key, value in facts.items()}
    found = [
        item.model_copy(update={"facts": {**item.facts, **given}}) if item.id == thing else item
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


Harm = Callable[[list[Resource]], list[Resource]]


@pytest.mark.parametrize(
    ("harm", "expected", "why"),
    [
        (
            lambda s: changed(s, "container red-1", process="stopped"),
            ["restart container red-1"],
            "process: wanted running, seen stopped",
        ),
        (
            lambda s: without(s, "container red-1"),
            ["create container red-1"],
            "it is missing",
        ),
        (
            lambda s: changed(s, "container red-1", namespace="another one"),
            ["restart container red-1"],
            "namespace: wanted lab-red-1, seen another one",
        ),
        (
            lambda s: changed(s, "container red-1", made_of="0"),
            ["replace container red-1"],
            "made of: wanted 1, seen 0",
        ),
        (
            lambda s: changed(s, "container red-1", file="0"),
            ["change container red-1"],
            "file: wanted 1, seen 0",
        ),
        (
            lambda s: changed(s, "root red-1", mounted="no"),
            ["replace root red-1", "replace container red-1"],
            "mounted: wanted yes, seen no",
        ),
        (lambda s: without(s, "link red-1"), ["create link red-1"], "it is missing"),
        (
            lambda s: changed(s, "link red-1", addresses="none"),
            ["change link red-1"],
            "addresses: wanted 10.60.0.11/24, seen none",
        ),
        (
            lambda s: changed(s, "bridge br-lab", state="down"),
            ["change bridge br-lab"],
            "state: wanted up, seen down",
        ),
        (
            lambda s: changed(s, "namespace lab-red-1", name="none, but process 7 is in it"),
            ["change namespace lab-red-1"],
            "name: wanted lab-red-1, seen none, but process 7 is in it",
        ),
        (
            lambda s: changed(s, "balancer balancer.lab.test", process="not running"),
            ["restart balancer balancer.lab.test"],
            "process: wanted running, seen not running",
        ),
        (
            lambda s: changed(
                s, "balancer balancer.lab.test", workers="withdrawn: red-1 (Init Stop)"
            ),
            ["change balancer balancer.lab.test"],
            "workers: wanted in service, seen withdrawn: red-1 (Init Stop)",
        ),
        (
            lambda s: changed(s, "names lab.test", served="not this zone"),
            ["change names lab.test"],
            "served: wanted this zone, seen not this zone",
        ),
        (
            lambda s: changed(s, "keys lab", host="missing"),
            [
                "change keys lab",
                *(f"replace root {name}" for name in ("red-1", "red-2", "blue-1", "blue-2")),
                *(f"replace container {name}" for name in ("red-1", "red-2", "blue-1", "blue-2")),
            ],
            "host: wanted sound, seen missing",
        ),
        (
            lambda s: changed(s, "image red", layout="1 blob missing or damaged"),
            ["change image red"],
            "layout: wanted whole, seen 1 blob missing or damaged",
        ),
    ],
)
def test_drift_asks_for_its_own_mend_alone(harm: Harm, expected: list[str], why: str) -> None:
    """The first step's reason is the fact that was seen to differ."""
    state = state_of(lab_of())
    plan = difference(state, harm(state))
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
    bare = [
        item.model_copy(update={"facts": {"process": "running"}})
        if item.id == "container red-1"
        else item
        for item in state
    ]
    assert difference(state, bare).empty


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
    """Steps that do the same for the same reason share one, with the first and the last name."""
    lab = lab_of(replicas=20)
    plan = difference(state_of(lab), [])
    (table,) = plans.tables(lab, plan)
    objects = [row[1] for row in table.rows]
    assert "container red-1 … blue-20 (40)" in objects
    assert len(objects) == len(set(objects)) == 12
    assert plans.summary(plan) == "169 steps: 169 to create; 0 of 169 resources stay."


def test_an_empty_plan_says_so() -> None:
    """In a sentence, without a table."""
    lab = lab_of()
    plan = difference(state_of(lab), state_of(lab))
    assert plans.tables(lab, plan) == ()
    assert plans.summary(plan).startswith("Nothing to do: 25 resources")


def test_each_kind_has_a_check_that_names_what_differs() -> None:
    """With what was seen; the others hold."""
    lab, state = lab_of(), state_of(lab_of())
    plan = difference(state, changed(state, "link blue-1", bridge="none"))
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


def test_the_inner_end_of_a_link_in_an_unnamed_namespace_is_not_judged() -> None:
    """Nobody could look at it."""
    port = PORT.model_copy(update={"peer": "", "addresses": (), "gateway": ""})
    (link,) = plans.observed_links(seen_of(port), ["lab-red-1"], unnamed=["red-1"])
    facts = {
        "made by": "this lab",
        "bridge": "br-lab",
        "state": "up",
        "addresses on the host": "none",
    }
    assert link.facts == facts


def test_an_interface_that_labkit_did_not_make_is_told_so() -> None:
    """Whatever it is like: making the farm then refuses its name."""
    (link,) = plans.observed_links(seen_of(PORT), [])
    (bridge,) = plans.observed_bridge(seen_of(PORT), ["lab-red-1"])
    assert (link.facts["made by"], bridge.facts["made by"]) == ("somebody else", "somebody else")


def test_a_link_without_an_end_on_the_host_is_none() -> None:
    """And so is a bridge of which nothing was seen."""
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
