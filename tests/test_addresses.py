"""Which address a replica has: a plain one, and the same while others come and go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit import Lab
from labkit.farm.containers import runc
from labkit.farm.reconcile import upkeep
from labkit.model.addresses import allot, numbered, remembered
from labkit.report import status
from tests.test_standing import nothing

THREE = {"a-1": 11, "b-1": 12, "c-1": 13}
NINE = {f"s{n}-1": 10 + n for n in range(1, 10)}


@pytest.mark.parametrize(
    ("sites", "size", "kept", "taken", "expected"),
    [
        ({"a": 2, "b": 2}, 256, {}, (), {"a-1": 11, "a-2": 21, "b-1": 12, "b-2": 22}),
        ({"a": 1, "c": 1}, 256, THREE, (), {"a-1": 11, "c-1": 13}),
        ({"c": 1, "a": 1, "b": 1}, 256, THREE, (), {"c-1": 13, "a-1": 11, "b-1": 12}),
        ({"a": 1, "d": 1, "c": 1}, 256, THREE, (12,), {"a-1": 11, "d-1": 14, "c-1": 13}),
        ({"a": 1, "d": 1, "c": 1}, 256, THREE, (), {"a-1": 11, "d-1": 12, "c-1": 13}),
        ({"a": 2, "c": 1}, 256, THREE, (), {"a-1": 11, "a-2": 21, "c-1": 13}),
        ({f"s{n}": 1 for n in range(1, 11)}, 256, NINE, (), {**NINE, "s10-1": 30}),
        ({"a": 1, "b": 1}, 256, {"a-1": 12, "b-1": 12}, (), {"a-1": 12, "b-1": 11}),
        ({"a": 1, "b": 1}, 16, {"a-1": 99, "b-1": 1}, (), {"a-1": 11, "b-1": 12}),
        ({"a": 1}, 16, {}, range(16), {"a-1": 11}),
        ({"a": 1}, 16, {}, (*range(8), *range(9, 16)), {"a-1": 8}),
    ],
    ids=[
        "new", "middle removed", "another order", "one for another", "another later", "replica added",
        "nine to ten", "kept twice", "kept of a larger subnet", "none is free", "one is free",
    ],
)  # fmt: skip
def test_a_number_is_kept_and_a_new_one_is_plain(
    sites: dict[str, int],
    size: int,
    kept: dict[str, int],
    taken: tuple[int, ...],
    expected: dict[str, int],
) -> None:
    """A farm, what is remembered, the numbers of hosts that have just gone: the numbers of the farm."""
    places = {name: (place, count) for place, (name, count) in enumerate(sites.items(), 1)}
    assert allot(places, size, kept, taken) == expected


@pytest.mark.parametrize(
    ("names", "kept", "expected"),
    [
        (["a", "b"], {}, [1, 2]),
        (["a", "c"], {"a": 1, "b": 2, "c": 3}, [1, 3]),
        (["c", "d", "a"], {"a": 1, "c": 3}, [3, 2, 1]),
        (["a", "d", "c"], {"a": 1, "b": 2, "c": 3}, [1, 4, 3]),
        (["a", "b"], {"a": 2, "b": 2}, [1, 3]),
        (["a", "b"], {"a": -1}, [1, 2]),
    ],
    ids=["new", "middle removed", "another order", "one for another", "edited", "no number"],
)
def test_a_site_s_number_stays(names: list[str], kept: dict[str, int], expected: list[int]) -> None:
    """It is on its page and in its colour: whoever comes or goes before it changes neither."""
    assert numbered(names, kept) == dict(zip(names, expected, strict=True))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"hosts": 5}', '{"hosts": {"a-1": "x"}}'])
def test_a_damaged_memory_is_none(tmp_path: Path, text: str) -> None:
    """The addresses are the plain ones then."""
    (tmp_path / "hosts.json").write_text(text)
    assert dict(remembered(tmp_path / "hosts.json").hosts) == {}
    assert dict(remembered(tmp_path / "none").hosts) == {}


def processes(lab: Lab) -> dict[str, tuple[int, str]]:
    """Each replica's first process, and its address."""
    states = runc.states(lab)
    return {item.name: (states[item.name].pid, str(item.address)) for item in lab.farm}


def changed(lab: Lab, sites: list[str]) -> Lab:
    """The lab with other sites, as it is read from a changed lab.toml."""
    return Lab.of({**lab.model_dump(), "sites": sites}).recalled()


@pytest.mark.root
def test_sites_that_come_and_go_touch_nobody_else(make_lab: Callable[..., Lab]) -> None:
    """From nine sites to ten, without one in the middle, with another in its place: processes and addresses
    of the others stay, and after down they are plain again."""
    names = [f"s{n}" for n in range(1, 10)]
    lab = make_lab(sites=names, replicas=1)
    assert upkeep.apply(lab).holds
    before = processes(lab)
    assert [address for _, address in before.values()] == [f"10.60.0.{n}" for n in range(11, 20)]
    ten = changed(lab, [*names, "s10"])
    assert upkeep.apply(ten).holds
    assert {name: processes(ten)[name] for name in before} == before
    fewer = changed(lab, [name for name in [*names, "s10"] if name != "s5"])
    assert upkeep.apply(fewer).holds
    now = processes(fewer)
    assert {name: now[name] for name in before if name != "s5-1"} == {
        name: seen for name, seen in before.items() if name != "s5-1"
    }
    other = changed(lab, ["new", *(name for name in names if name != "s5")])
    assert upkeep.apply(other).holds
    assert {name: now[name] for name in now if name != "s10-1"} == {
        name: seen for name, seen in processes(other).items() if name != "new-1"
    }
    assert processes(other)["new-1"][1] == "10.60.0.15"
    assert upkeep.plan(other).value.empty
    assert set(json.loads(lab.addresses_file.read_text())["hosts"]) == {r.name for r in other.farm}
    assert status.down(other).holds
    assert not lab.addresses_file.exists()
    assert nothing(lab)
