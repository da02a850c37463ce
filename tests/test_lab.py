"""The configuration: what may be said, how a wrong word is answered, what is derived."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import Lab
from labkit.errors import ConfigError, StateError
from labkit.model.addresses import LENGTH, block_width, ifname
from labkit.model.config import PARAMETERS, find_file
from labkit.model.parameters import parameters

#: Of each kind that the catalogue (test_catalogue.py) does not try by the command.
BAD_VALUES = [
    pytest.param({"sites": [{"name": "a", "titel": ""}]}, "did you mean 'title'", id="site's key"),
    pytest.param({"sites": [{"name": "a", "replicas": 0}]}, "equal to 1", id="no replicas of one"),
    pytest.param({"replicas": True}, "valid integer", id="truth for a number"),
    pytest.param({"network": 5}, "network = 5", id="number for a section"),
    pytest.param({"sites": ["a\n"]}, "not a DNS label", id="line break"),
    pytest.param({"network": {"subnet": "10.60.0.1/32"}}, "use a /27", id="one address"),
    pytest.param({"network": {"subnet": "fd00::/64"}}, "network.subnet", id="IPv6"),
    pytest.param({"rootfs": {"packages": ["-y"]}}, "pattern", id="package like an option"),
    pytest.param({"traffic": {"seconds": float("inf")}}, "less than or equal to 60", id="for ever"),
    pytest.param({"state": "/"}, "below /", id="the root as state"),
    pytest.param({"cache": 5}, "not the absolute path", id="number for a path"),
    pytest.param({"outputs": ""}, "at least 1 character", id="no outputs"),
]


@pytest.mark.parametrize(("values", "said"), BAD_VALUES)
def test_a_wrong_value_is_refused_with_its_key_and_its_reason(
    values: dict[str, Any], said: str
) -> None:
    """Nothing is made of a wrong description; the error names the key, the reason and a remedy."""
    with pytest.raises(ConfigError) as caught:
        Lab.of(values, "lab.toml")
    assert said in str(caught.value)
    assert "lab.toml" in caught.value.value
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"name = '\xff'", "not valid TOML"), (b"outputs = 5", "outputs = 5"), (None, "no such file")],
)
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, text: bytes | None, said: str) -> None:
    """The error names the file and what is wrong in it; the defaults do not stand in for it."""
    file = tmp_path / "lab.toml"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        Lab.load(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """What exists and cannot be read is an error of the state, with the system's reason."""
    with pytest.raises(StateError, match="Is a directory"):
        Lab.load(tmp_path)


def test_a_parameter_goes_before_the_file_and_none_does_not(tmp_path: Path) -> None:
    """A parameter overrides lab.toml, lab.toml the defaults; None leaves the file's value."""
    file = tmp_path / "lab.toml"
    file.write_text("replicas = 3\n[network]\nsubnet = '10.61.0.0/24'\n")
    lab = Lab.load(file, replicas=4, subnet=None, sticky=True)
    assert (lab.replicas, lab.network.subnet, lab.proxy.sticky) == (4, "10.61.0.0/24", True)


def test_a_wrong_section_is_not_hidden_by_a_parameter(tmp_path: Path) -> None:
    """A parameter for a key of a section that is no section leaves the error."""
    file = tmp_path / "lab.toml"
    file.write_text("network = 5\n")
    with pytest.raises(ConfigError, match="network = 5"):
        Lab.load(file, subnet="10.61.0.0/24")


def keys(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The dotted names of all that is no section."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from keys(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def test_every_parameter_leads_to_a_key_and_every_key_has_one() -> None:
    """Each flat name stands for a key of its own, and no key can be said in lab.toml alone."""
    assert sorted(PARAMETERS.values()) == sorted(keys(Lab().model_dump()))


def test_outputs_stand_beside_the_file(tmp_path: Path) -> None:
    """A relative outputs folder is relative to lab.toml, wherever labkit is called from."""
    file = tmp_path / "lab.toml"
    file.write_text("outputs = 'out'\n")
    assert Lab.load(file).output_dir == tmp_path / "out" / "lab"


def test_the_file_is_found_from_a_folder_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's folder is below the project's: the project's lab.toml counts there too."""
    (tmp_path / "lab.toml").write_text("name = 'mine'\n")
    inner = tmp_path / "notebooks" / "x"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert find_file("lab.toml") == tmp_path / "lab.toml"
    assert Lab.load().name == "mine"


def test_a_notebook_gives_its_variables() -> None:
    """The names of parameters are taken, all others left alone."""
    lab = Lab.from_parameters({"replicas": 3, "lab_name": "n", "other": object(), "In": []})
    assert (lab.replicas, lab.name) == (3, "n")


def test_a_misspelt_injected_parameter_is_refused() -> None:
    """Papermill only warns of a name that the notebook does not declare; here it is an error."""
    cells = ["replicas: int | None = None", "# Parameters\nreplcas = 3\n"]
    with pytest.raises(ConfigError, match="did you mean 'replicas'"):
        Lab.from_parameters({"In": cells, "replcas": 3})


#: A parameters cell as the notebooks have it.
CELL = (
    "replicas: Optional[int] = None\nrequests: Optional[int] = 50\nweights: Optional[list] = None"
)
#: What a notebook of before has in that place, and one that only IPython understands.
SETUP, MAGIC = "lab = Lab.from_parameters(globals())", "%matplotlib inline"


@pytest.mark.parametrize(
    ("executed", "namespace", "found"),
    [
        ([CELL], {"replicas": 3, "requests": 50}, {"replicas": 3, "requests": 50}),
        ([CELL, "import requests"], {"replicas": 3, "requests": ast}, {"replicas": 3, "requests": 50}),
        (["replicas: int = 2", "import requests"], {"replicas": 2, "requests": ast}, {"replicas": 2}),
        (["replicas: int = 2", "from functools import cache"], {"replicas": 2, "cache": print}, {"replicas": 2}),
        (["replicas: int = 2", "requests = 3"], {"replicas": 2, "requests": 3}, {"replicas": 2}),
        (["replicas: int = 2\nproxy_port = 81"], {"replicas": 2, "proxy_port": 81}, {"replicas": 2, "proxy_port": 81}),
        (["replica: int = 3\nreplicas: int = 2", "replicas: int = 4", MAGIC, SETUP], {"replicas": 4}, {"replicas": 4}),
        ([CELL, "# Parameters\nreplicas = 5", "replicas = 6"], {"replicas": 6, "requests": 50}, {"replicas": 6, "requests": 50}),
        (["# Parameters\nreplicas = 5"], {"replicas": 5, "requests": 9}, {"replicas": 5}),
        (["replicas = 5", MAGIC, SETUP], {"replicas": 5, "cache": print, "run": ast}, {"replicas": 5}),
        ([CELL.replace("50", "5 * len('ab')"), "import requests"], {"requests": ast}, {"replicas": None, "requests": ast}),
    ],
)  # fmt: skip
def test_parameters_are_what_their_cell_declares(
    executed: list[str], namespace: dict[str, object], found: dict[str, object]
) -> None:
    """Other cells' names are none, whatever they import; without such a cell, what has a value counts."""
    assert parameters(["", *executed], namespace, PARAMETERS) == found


@pytest.mark.parametrize(
    ("executed", "name"),
    [
        ([CELL + "\nreplica = 3"], "replica"),
        ([CELL + "\nreplica: int = 3"], "replica"),
        ([CELL, "replicas: int = 2\nproxyport = 81"], "proxyport"),
        ([CELL, "# Parameters\nreplica = 3"], "replica"),
        (["# Parameters\nreplica = 3"], "replica"),
    ],
)
def test_a_misspelt_parameter_is_refused_with_the_nearest(executed: list[str], name: str) -> None:
    """In the parameters cell itself, where Python says nothing of it, as in papermill's."""
    near = {"replica": "replicas", "proxyport": "proxy_port"}[name]
    with pytest.raises(ConfigError, match=rf"'{name}': is not .*(?s:.*)did you mean '{near}'"):
        parameters(["", *executed], {name: 3}, PARAMETERS)


def test_the_addresses_of_the_default_lab() -> None:
    """The bridge has the first address; a replica's tells its number and its site's place."""
    lab = Lab()
    assert str(lab.gateway) == "10.60.0.1/24"
    assert {r.name: str(r.address) for r in lab.farm} == {
        "site1-1": "10.60.0.11", "site1-2": "10.60.0.21",
        "site2-1": "10.60.0.12", "site2-2": "10.60.0.22",
        "site3-1": "10.60.0.13", "site3-2": "10.60.0.23",
    }  # fmt: skip


@settings(deadline=None)
@given(
    sites=st.integers(1, 30),
    replicas=st.integers(1, 60),
    names=st.sampled_from([("lab", "s"), ("laboratory", "s"), ("virtualisation", "department")]),
)
def test_derived_names_and_addresses_are_distinct(
    sites: int, replicas: int, names: tuple[str, str]
) -> None:
    """Whatever the size and the names: nobody shares an address, a link, a namespace or a MAC address with
    anybody."""
    name, site = names
    values = {"name": name, "sites": [f"{site}{n}" for n in range(sites)], "replicas": replicas}
    lab = Lab.of({**values, "network": {"subnet": "10.0.0.0/16"}})
    for attribute in ("name", "address", "link", "netns", "mac"):
        found = [getattr(replica, attribute) for replica in lab.farm]
        assert len(set(found)) == sites * replicas
    assert all(lab.subnet[1] < r.address < lab.subnet.broadcast_address for r in lab.farm)
    assert all(len(replica.link) <= LENGTH for replica in lab.farm)


@settings(deadline=None)
@given(sites=st.integers(1, 12), replicas=st.integers(1, 12))
def test_growing_moves_nobody(sites: int, replicas: int) -> None:
    """A further replica, or a further site within the same width, leaves every address as it was."""
    names = [f"s{n}" for n in range(sites + 1)]
    network = {"network": {"subnet": "10.0.0.0/16"}}
    before = Lab.of({"sites": names[:-1], "replicas": replicas, **network})
    after = Lab.of({"sites": names, "replicas": replicas + 1, **network})
    if block_width(sites) == block_width(sites + 1):
        now: dict[str, IPv4Address] = {r.name: r.address for r in after.farm}
        assert all(now[r.name] == r.address for r in before.farm)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("br", "lab"), "br-lab"),
        (("lab", "site1-1"), "lab-site1-1"),
        (("a" * 15,), "a" * 15),
        (("a" * 16,), "aaaaaaa-"),
    ],
)
def test_an_interface_name_fits(parts: tuple[str, ...], name: str) -> None:
    """A name that the kernel would refuse ends in a hash of the whole name instead."""
    assert ifname(*parts)[:8] == name[:8]
    assert len(ifname(*parts)) <= LENGTH
    assert (ifname(*parts) == "-".join(parts)) is (len("-".join(parts)) <= LENGTH)
    assert ifname("laboratory", "site1-1") != ifname("laboratory", "site1-2")


def test_two_labs_share_nothing_but_the_cache() -> None:
    """Another name gives other folders and another bridge."""
    one, two = Lab(name="one"), Lab(name="two")
    for attribute in ("state_dir", "run_dir", "output_dir", "bridge", "domain", "journal_file"):
        assert getattr(one, attribute) != getattr(two, attribute)
    assert one.cache_dir == two.cache_dir


def test_an_unknown_site_or_replica_names_the_nearest() -> None:
    """A name that the lab does not have is answered with the one that was meant."""
    with pytest.raises(ConfigError, match="did you mean 'site2'"):
        Lab().replicas_of("site22")
    with pytest.raises(ConfigError, match="did you mean 'site2-1'"):
        Lab().replica("site21")


def test_a_lab_has_a_round_trip_through_json() -> None:
    """What is written of a lab is read as the same lab."""
    lab = Lab.of({"sites": [{"name": "a", "weights": [1, 3]}, {"name": "b"}]})
    assert Lab.model_validate_json(lab.model_dump_json()) == lab
