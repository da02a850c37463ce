"""What runC answers to the questions of stage 03, on real containers."""

from __future__ import annotations

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.farm.containers import container, lifecycle, runc, trial
from labkit.farm.containers.bundle import Spec
from labkit.farm.containers.lifecycle import Modes, Start

MIXED = """\
30 23 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
31 23 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 23 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 23 0:29 / /tmp rw - tmpfs tmpfs rw
"""


def test_mounted_groups_names_controllers() -> None:
    """The v1 controllers and cgroup2 are named, mounts of other kinds are not."""
    assert lifecycle.mounted_groups(MIXED) == ("memory", "cpu", "cpuacct", "cgroup2")


@pytest.mark.parametrize(
    ("hierarchies", "name"),
    [((), "none"), (("memory",), "v1"), (("cgroup2",), "v2"), (("memory", "cgroup2"), "hybrid")],
)
def test_layout_has_a_name(hierarchies: tuple[str, ...], name: str) -> None:
    """Each combination of hierarchies has its usual name."""
    assert lifecycle.layout(hierarchies) == name


OWN = """\
3:pids:/lab/a
2:cpu,memory:/lab/b
0::/lab/c
"""


@pytest.mark.parametrize(
    ("controller", "wanted"),
    [("memory", ("memory", "/lab/b")), ("pids", ("pids", "/lab/a")), ("io", ("cgroup2", "/lab/c"))],
)
def test_group_of_a_controller(controller: str, wanted: tuple[str, str]) -> None:
    """In its own v1 hierarchy, else in cgroup2."""
    assert lifecycle.group(OWN, controller) == wanted


def test_no_group_without_a_hierarchy() -> None:
    """Where the controller is in none, and there is no cgroup2."""
    assert lifecycle.group("2:cpu:/lab\n", "memory") == ("", "")


@pytest.mark.parametrize(
    ("hierarchy", "wanted"),
    [
        ("memory", "/sys/fs/cgroup/memory"),
        ("cpuacct", "/sys/fs/cgroup/cpu"),
        ("cgroup2", "/sys/fs/cgroup/unified"),
        ("pids", ""),
    ],
)
def test_hierarchies_are_where_they_are_mounted(hierarchy: str, wanted: str) -> None:
    """By mountinfo, nowhere else."""
    assert lifecycle.mounted_at(MIXED, hierarchy)[0] == wanted


@pytest.mark.parametrize(
    ("path", "mounted"),
    [("/lab/a", "/"), ("/../../lab/a", "/../.."), ("/docker/1/lab/a", "/docker/1")],
)
def test_a_group_is_named_from_where_its_hierarchy_is_mounted(path: str, mounted: str) -> None:
    """In a control group namespace /proc may count from another group."""
    line = f"1 2 0:32 {mounted} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    assert lifecycle.seen_group(f"4:memory:{path}\n", line, "memory") == ("memory", "/lab/a")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ""),
        ("one\ntwo\n\n", "two"),
        ('time="now" level=error msg="exec: \\"sleep\\": not found"\n', 'exec: "sleep": not found'),
    ],
)
def test_last_line_is_what_runc_has_to_say(text: str, wanted: str) -> None:
    """Without time and level."""
    assert lifecycle.last_line(text) == wanted


def start(**changes: object) -> Start:
    """A container that was started detached."""
    sound = {"seconds": 0.1, "exit": 0, "status": "running", "terminal": "no terminal", "said": ""}
    return Start.model_validate({**sound, **changes})


def modes(**changes: Start) -> Modes:
    """What the four ways to start a container should come to."""
    sound = {
        "foreground": start(seconds=1.1, status="gone", terminal=""),
        "detached": start(),
        "refused": start(exit=1, status="gone", terminal="", said="cannot allocate tty"),
        "taken": start(terminal="terminal /dev/pts/0"),
    }
    return Modes(**{**sound, **changes})


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, []),
        ({"foreground": start(seconds=0.2, exit=1)}, ["foreground"]),
        ({"foreground": start(seconds=1.2, exit=1)}, ["foreground"]),
        ({"detached": start(status="stopped", terminal="")}, ["detached", "detached-terminal"]),
        ({"detached": start(terminal="terminal /dev/pts/4")}, ["detached-terminal"]),
        ({"refused": start()}, ["terminal-refused"]),
        ({"refused": start(exit=1, said="no such bundle")}, ["terminal-refused"]),
        ({"taken": start()}, ["terminal-taken"]),
        ({"taken": start(exit=1, status="gone", terminal="")}, ["terminal-taken"]),
    ],
)
def test_another_answer_of_runc_s_is_told(changes: dict[str, Start], fails: list[str]) -> None:
    """By the check of the way that went otherwise, and by no other."""
    found = failed(lifecycle.mode_checks(modes(**changes)))
    assert [check.name for check in found] == [f"container.{name}" for name in fails]


@pytest.mark.root
@pytest.mark.parametrize(
    "ask",
    [
        lifecycle.start_modes,
        lifecycle.instances,
        lifecycle.listing,
        lifecycle.without_path,
        lifecycle.control_groups,
    ],
)
def test_trials_answer_and_leave_no_container(ask, lab: Lab) -> None:  # type: ignore[no-untyped-def]
    """Each question is answered as the assignment says, and its containers are gone afterwards."""
    found = ask(lab)
    assert found.holds, [check for check in found.checks if not check.holds]
    assert runc.states(lab) == {}


@pytest.mark.root
def test_instances_are_containers_of_their_own(lab: Lab) -> None:
    """As many process namespaces as containers: not several processes in one."""
    found = lifecycle.instances(lab, 3, 1).value
    assert len(set(found.namespaces.values())) == len(set(found.pids.values())) == 3


@pytest.mark.root
def test_a_terminal_is_held_by_who_took_it_alone(lab: Lab) -> None:
    """runC refuses to detach with a terminal that nobody takes; taken, the process holds it."""
    found = lifecycle.start_modes(lab).value
    assert (found.detached.status, found.detached.terminal) == ("running", "no terminal")
    assert (found.refused.status, found.refused.terminal) == ("gone", "")
    assert found.taken.terminal == "terminal /dev/pts/0"
    assert list(lab.run_dir.glob("*.socket")) == []


@pytest.mark.root
def test_fewer_instances_than_asked_for_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three ends at once: two wait."""
    made = trial.spec

    def short(lab: Lab, name: str, *args: str) -> Spec:
        return made(lab, name, *(("true",) if name == "wait-2" else args))

    monkeypatch.setattr(trial, "spec", short)
    begin = container.begin

    def begun(lab: Lab, name: str) -> None:
        begin(lab, name)
        if name == "wait-2":
            container.wait(lab, name)

    monkeypatch.setattr(container, "begin", begun)
    found = lifecycle.instances(lab, 3, 1)
    assert found.checks[0].seen == "2 running: sleep 60"
    assert [check.holds for check in found.checks] == [False, False]
    assert set(found.value.pids) == {"wait-1", "wait-3"}
