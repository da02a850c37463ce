"""What becomes of an image's runtime configuration: as values, without a container."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from labkit import Lab
from labkit.farm.containers import bundle, container
from labkit.farm.containers.bundle import Mount, Spec

#: The parts of umoci's runtime configuration that matter here.
IMAGE: dict[str, Any] = {
    "hostname": "umoci-default",
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "process": {
        "args": ["sh"],
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", "MODE=a=b"],
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"ambient": ["CAP_KILL"], "bounding": ["CAP_KILL"]},
    },
    "root": {"path": "rootfs"},
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "network"}],
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
    },
}


def spec(**changes: Any) -> Spec:
    """A small container's description."""
    given: dict[str, Any] = {
        "name": "red-1",
        "args": ("apache2",),
        "environment": {"WHO": "red-1"},
        "cgroup": "/labkit-x/red-1",
        "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
        "kernel": frozenset(("swap", "processors")),
    }
    return Spec(**{**given, **changes})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hostname", "red-1"),
        ("process.args", ["apache2"]),
        ("process.terminal", False),
        ("process.noNewPrivileges", True),
        ("process.capabilities", {"bounding": [], "effective": [], "permitted": []}),
        (
            "process.rlimits",
            [
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
                {"type": "RLIMIT_FSIZE", "hard": 64 * 2**20, "soft": 64 * 2**20},
                {"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096},
            ],
        ),
        ("linux.cgroupsPath", "/labkit-x/red-1"),
        ("linux.namespaces", [{"type": "pid"}, {"type": "network"}, {"type": "cgroup"}]),
        ("linux.sysctl", {"net.ipv4.ip_unprivileged_port_start": "0"}),
        ("linux.resources.memory", {"limit": 256 * 2**20, "swap": 256 * 2**20}),
        ("linux.resources.pids", {"limit": 256}),
        ("linux.resources.cpu", {"shares": 1024, "quota": 100_000, "period": 100_000}),
        ("linux.resources.devices", [{"allow": False, "access": "rwm"}]),
        ("root", {"path": "rootfs", "readonly": True}),
    ],
)
def test_configuration_says_what_the_spec_says(path: str, value: object) -> None:
    """Each part of config.json; what the spec does not speak of is the image's own."""
    found: Any = bundle.configure(IMAGE, spec())
    for name in path.split("."):
        found = found[name]
    assert found == value


@pytest.mark.parametrize(
    ("own", "given", "wanted"),
    [
        ([], {"A": "1"}, ["A=1"]),
        (["PATH=/bin", "A=0"], {"A": "1"}, ["PATH=/bin", "A=1"]),
        (["A=x=y"], {}, ["A=x=y"]),
        (["A="], {"B": ""}, ["A=", "B="]),
        (["A=1", "A=2"], {}, ["A=2"]),
    ],
)
def test_environment_is_the_image_s_with_the_given_laid_over(
    own: list[str], given: dict[str, str], wanted: list[str]
) -> None:
    """Each variable once, in the image's order, the last word counts."""
    assert bundle.environment(own, given) == wanted


def test_mounts_are_added_to_the_image_s() -> None:
    """A folder of the host's and one in memory, behind /proc and its like; the image's own value stays as it was, as
    all replicas of a site are configured from it."""
    image = copy.deepcopy(IMAGE)
    log = Mount(destination="/var/log/a", kind="bind", source="/srv/log", options=("bind", "rw"))
    made = bundle.configure(IMAGE, spec(mounts=(log, container.memory_mount("/run/a", 33))))
    assert [item["destination"] for item in made["mounts"]] == ["/proc", "/var/log/a", "/run/a"]
    assert made["mounts"][1] == {
        "destination": "/var/log/a",
        "type": "bind",
        "source": "/srv/log",
        "options": ["bind", "rw"],
    }
    assert {"uid=33", "gid=33", "nodev", "nosuid", "noexec"} <= set(made["mounts"][2]["options"])
    assert image == IMAGE
    made = bundle.configure(IMAGE, spec(netns="x-red-1"))
    named = {"type": "network", "path": "/run/netns/x-red-1"}
    assert made["linux"]["namespaces"] == [{"type": "pid"}, named, {"type": "cgroup"}]


def test_every_change_has_its_own_reason() -> None:
    """A replica's real description changes nothing for which labkit has no reason."""
    lab = Lab.load(None, sites=["red"])
    made = bundle.configure(IMAGE, container.replica_spec(lab, lab.farm[0]))
    found = bundle.changes(IMAGE, made)
    assert [item.key for item in found if not item.reason] == []
    assert made["process"]["user"] == {"uid": 33, "gid": 33}
    assert made["process"]["capabilities"] == {"bounding": [], "effective": [], "permitted": []}
    assert made["linux"]["cgroupsPath"] == f"/labkit-{lab.name}/red-1"
    assert {"process.terminal", "process.args", "hostname"} <= {item.key for item in found}


def test_changes_are_those_values_that_differ() -> None:
    """Key, both values as JSON, and what is absent or removed by its name."""
    assert bundle.changes(IMAGE, IMAGE) == ()
    found = bundle.changes({"a": {"b": 1, "c": 2}, "z": 0}, {"a": {"b": 1, "c": [3]}, "n": "x"})
    assert [(item.key, item.before, item.after) for item in found] == [
        ("a.c", "2", "[3]"),
        ("n", "(absent)", '"x"'),
        ("z", "0", "(removed)"),
    ]


@pytest.mark.parametrize(
    ("changes", "part", "keys"),
    [
        (
            {"mounts": (container.memory_mount("/run/a", 33),)},
            "mounts",
            ["mounts[/proc]", "mounts[/run/a]"],
        ),
        ({}, "process.env", ["process.env[WHO]"]),
        ({"environment": {"MODE": "a=c"}}, "process.env", ["process.env[MODE]"]),
        (
            {"netns": "x-red-1"},
            "linux.namespaces",
            ["linux.namespaces[cgroup]", "linux.namespaces[network]"],
        ),
        ({}, "linux.namespaces", ["linux.namespaces[cgroup]"]),
    ],
)
def test_items_that_have_names_are_told_one_by_one(
    changes: dict[str, Any], part: str, keys: list[str]
) -> None:
    """One more mount, variable or other namespace is one change, by its name."""
    made = bundle.configure(IMAGE, spec(**changes))
    found = [item.key for item in bundle.changes(IMAGE, made) if item.key.startswith(part)]
    assert found == keys


def test_diff_is_a_unified_diff_of_the_two_files() -> None:
    """Headed by both names; what it removes and adds are exactly the lines of the two texts."""
    made = bundle.configure(IMAGE, spec())
    lines = bundle.diff(IMAGE, made).splitlines()
    assert lines[:2] == ["--- config.json of the image", "+++ config.json of the container"]
    assert lines[2].startswith("@@ -")
    assert '-    "terminal": true,' in lines
    assert '+    "terminal": false,' in lines
    assert json.loads(bundle.text(made)) == made
    before = set(bundle.text(IMAGE).splitlines())
    assert all(line[1:] in before for line in lines[2:] if line[0] in "- ")


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("process.args", "process.args"),
        ("linux.resources.memory.limit", "linux.resources"),
        ("mounts[/run/apache2]", "mounts"),
        ("process.environment", None),
        ("rootless", None),
    ],
)
def test_reason_is_that_of_the_part(key: str, known: str | None) -> None:
    """A part's reason counts for what is in it, not for a name that only begins alike."""
    assert bundle.reason(key) == (bundle.REASONS[known] if known else "")
