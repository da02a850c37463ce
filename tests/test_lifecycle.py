"""What runC answers to the questions of stage 03, on real containers."""

from __future__ import annotations

import pytest

from labkit import Lab
from labkit.farm import cgroups, container, lifecycle

MIXED = """\
30 23 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
31 23 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 23 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 23 0:29 / /tmp rw - tmpfs tmpfs rw
"""


def test_mounted_groups_names_controllers() -> None:
    """The v1 controllers and cgroup2 are named, mounts of other kinds are not."""
    assert cgroups.mounted_groups(MIXED) == ("memory", "cpu", "cpuacct", "cgroup2")


@pytest.mark.parametrize(
    ("hierarchies", "name"),
    [((), "none"), (("memory",), "v1"), (("cgroup2",), "v2"), (("memory", "cgroup2"), "hybrid")],
)
def test_layout_has_a_name(hierarchies: tuple[str, ...], name: str) -> None:
    """Each combination of hierarchies has its usual name."""
    assert cgroups.layout(hierarchies) == name


@pytest.mark.root
def test_configuration_gives_every_change_a_reason(lab: Lab) -> None:
    """The changes from the image's config.json each have a reason, and a diff shows them."""
    found = lifecycle.configuration(lab)
    assert found.holds
    assert {"process.terminal", "process.args", "process.capabilities.bounding"} & {
        change.key for change in found.value.changes
    }
    assert all(change.reason for change in found.value.changes)
    assert found.value.diff.startswith("--- config.json of the image")


@pytest.mark.root
@pytest.mark.parametrize(
    "ask",
    [lifecycle.modes, lifecycle.instances, lifecycle.listing, lifecycle.pathless, cgroups.found],
)
def test_trials_answer_and_leave_no_container(ask, lab: Lab) -> None:  # type: ignore[no-untyped-def]
    """Each question is answered as the assignment says, and its containers are gone afterwards."""
    found = ask(lab)
    assert found.holds, [check for check in found.checks if not check.holds]
    assert container.states(lab) == {}


@pytest.mark.root
def test_instances_are_containers_of_their_own(lab: Lab) -> None:
    """As many process namespaces as containers: not several processes in one."""
    found = lifecycle.instances(lab, 3, 1).value
    assert len(set(found.namespaces.values())) == len(set(found.pids.values())) == 3
