"""What runC answers to the questions of stage 03, on real containers."""

from __future__ import annotations

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import run
from labkit.farm.containers import bundle, confinement, container, lifecycle, runc
from labkit.farm.containers.bundle import Spec
from labkit.farm.containers.lifecycle import Modes, Start

MIXED = """\
30 23 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
31 23 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 23 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 23 0:29 / /tmp rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("mountinfo", "names", "layout"),
    [
        ("", (), "none"),
        (MIXED.splitlines()[0], ("memory",), "v1"),
        (MIXED.splitlines()[2], ("cgroup2",), "v2"),
        (MIXED, ("memory", "cpu", "cpuacct", "cgroup2"), "hybrid"),
    ],
)
def test_hierarchies_are_those_that_are_mounted(
    mountinfo: str, names: tuple[str, ...], layout: str
) -> None:
    """The v1 controllers and cgroup2, not mounts of other kinds; each combination has its usual name."""
    found = lifecycle.hierarchies(mountinfo)
    assert tuple(found) == names
    assert lifecycle.layout(found) == layout


@pytest.mark.parametrize(
    ("own", "mountinfo", "limit", "group", "file"),
    [
        ("3:pids:/x\n2:cpu,memory:/lab/b\n0::/c", MIXED, "memory", "/lab/b",
         "/sys/fs/cgroup/memory/lab/b/memory.limit_in_bytes"),
        ("2:cpu,cpuacct:/lab/b\n0::/c", MIXED, "processors", "/lab/b",
         "/sys/fs/cgroup/cpu/lab/b/cpu.cfs_quota_us"),
        ("2:cpu:/lab/b\n0::/lab/c", MIXED, "pids", "/lab/c", "/sys/fs/cgroup/unified/lab/c/pids.max"),
        # not mounted; no hierarchy at all
        ("3:pids:/lab/a", MIXED, "pids", "/lab/a", "/sys/fs/cgroup/lab/a/pids.max"),
        ("2:cpu:/lab", "", "memory", "", "/sys/fs/cgroup/memory.max"),
        # in a control group namespace, /proc may count from another group than the mount begins at
        ("4:memory:/../../lab/a", MIXED.replace("/ /sys", "/../.. /sys"), "memory", "/lab/a",
         "/sys/fs/cgroup/memory/lab/a/memory.limit_in_bytes"),
        ("0::/docker/1/lab/a", "1 2 0:32 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "memory",
         "/lab/a", "/sys/fs/cgroup/lab/a/memory.max"),
    ],
)  # fmt: skip
def test_a_limit_is_where_its_hierarchy_is_mounted(
    own: str, mountinfo: str, limit: str, group: str, file: str
) -> None:
    """In the controller's own hierarchy of version 1, else in version 2's."""
    (item,) = (item for item in bundle.LIMITS if item.name == limit)
    found = lifecycle.place(own, lifecycle.hierarchies(mountinfo), item)
    assert (found[0], str(found[1])) == (group, file)


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
    assert confinement.checks(lab) == ()
    assert list(lab.run_dir.glob("*.socket")) == []


@pytest.mark.root
def test_fewer_instances_than_asked_for_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three ends at once: two wait."""
    made = lifecycle.trial

    def short(lab: Lab, name: str, *args: str) -> Spec:
        return made(lab, name, *(("true",) if name == "wait-2" else args))

    monkeypatch.setattr(lifecycle, "trial", short)
    begin = container.begin

    def begun(lab: Lab, name: str) -> run.Done:
        done = begin(lab, name)
        if name == "wait-2":
            container.wait(lab, name)
        return done

    monkeypatch.setattr(container, "begin", begun)
    found = lifecycle.instances(lab, 3, 1)
    assert found.checks[0].seen == "2 running: sleep 60"
    assert [check.holds for check in found.checks] == [False, False]
    assert set(found.value.pids) == {"wait-1", "wait-3"}
