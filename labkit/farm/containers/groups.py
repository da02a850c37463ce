"""Control groups: as found on the machine, and those of a running container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import human_bytes
from labkit.farm.containers import container, limits, trial
from labkit.farm.containers.bundle import Spec
from labkit.kernel import mounts
from labkit.model.lab import Lab
from labkit.records import Record

#: The controllers whose limits are looked at, with the file of a limit in cgroup v1 and in v2
#: (Linux, Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst).
LIMITS = {
    "memory": ("memory.limit_in_bytes", "memory.max"),
    "pids": ("pids.max", "pids.max"),
    "cpu": ("cpu.cfs_quota_us", "cpu.max"),
}


class Groups(Record):
    """Control groups: the hierarchies mounted ('cgroup2' or a v1 controller), a container's own
    groups, and its limits as the kernel has them ('' when it shows none): bytes, processes, and
    microseconds of processor time in each :data:`labkit.farm.containers.limits.PERIOD`."""

    layout: str
    hierarchies: tuple[str, ...]
    own: tuple[str, ...]
    memory: str
    processes: str
    time: str = ""


@action("container.cgroups")
def found(lab: Lab) -> Outcome[Groups]:
    """The control groups as found on this machine, and those of a running container."""
    item = trial.spec(lab, "trial-cgroup", "sleep", "300")
    mounted = mounts.read()
    with lock(lab.run_dir, "farm"), trial.prepared(lab, item):
        container.create(lab, item.name)
        container.begin(lab, item.name)
        pid = container.states(lab)[item.name].pid
        own = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
        files = [_limit_file(own, mounted, controller) for controller in LIMITS]
        memory, processes, time = (
            file.read_text(encoding="utf-8").split()[0] if file.exists() else "" for file in files
        )
    hierarchies = mounted_groups(mounted)
    value = Groups(
        layout=layout(hierarchies), hierarchies=hierarchies, own=tuple(own.split()),
        memory=memory, processes=processes, time=time,
    )  # fmt: skip
    joined = {seen(own, mounted, controller)[1] for controller in LIMITS}
    return Outcome(
        value=value,
        subject=item.name,
        summary=f"Control groups are mounted ({value.layout}); the container's limits in them: "
        f"{human_bytes(int(memory)) if memory.isdigit() else 'all'} of memory, "
        f"{processes or 'any number of'} processes, {_share(time)}.",
        checks=(
            Check(name="container.cgroups", expected="control groups are mounted",
                  seen=", ".join(hierarchies) or "none: install cgroupfs-mount and run it",
                  holds=bool(hierarchies), rows=("I3",), again="grep cgroup /proc/mounts"),
            equal("container.cgroup", item.cgroup, ", ".join(sorted(joined)), rows=("I3",),
                  again="cat /proc/PID/cgroup"),
            equal("container.memory", str(item.memory), memory, rows=("I3",),
                  again=f"cat {files[0]}"),
            equal("container.pids", str(item.pids), processes, rows=("I3",),
                  again=f"cat {files[1]}"),
            *_time(item, time, files[2]),
        ),
        tables=(Table.of("cgroups", "The container's control groups (/proc/PID/cgroup)",
                         [{"group": line} for line in value.own]),),
    )  # fmt: skip


def _time(item: Spec, time: str, file: Path) -> Iterator[Check]:
    """Whether the limit of processor time is the kernel's, where that has one."""
    if "processors" in item.kernel:
        wanted = int(item.processors * limits.PERIOD)
        yield equal("container.time", str(wanted), time, rows=("I3",), again=f"cat {file}")


def _share(time: str) -> str:
    """A limit of processor time in words. Pure."""
    if not time.isdigit():
        return "all processor time"
    return f"{int(time) / limits.PERIOD:g} s of processor time a second"


def group(own: str, controller: str) -> tuple[str, str]:
    """The hierarchy ('cgroup2' or the v1 controller) that has a process' group of a controller, and
    that group, of the lines of /proc/pid/cgroup (cgroups(7)); both '' without one. Pure."""
    lines = [line.split(":", 2) for line in own.splitlines()]
    for _, controllers, path in lines:
        if controller in controllers.split(","):
            return controller, path
    return next((("cgroup2", path) for _, names, path in lines if not names), ("", ""))


def mounted_at(mountinfo: str, hierarchy: str) -> tuple[str, str]:
    """Where a hierarchy is mounted, and which of its groups is seen there, as this process names it; ('', '/')
    for nowhere (proc(5), /proc/pid/mountinfo). Pure."""
    for mount in mounts.parse(mountinfo):
        names = ("cgroup2",) if mount.kind == "cgroup2" else mount.special
        if mount.kind in ("cgroup", "cgroup2") and hierarchy in names:
            return mount.place, mount.root
    return "", "/"


def mounted_groups(mountinfo: str) -> tuple[str, ...]:
    """The control group hierarchies in mountinfo (proc(5)): 'cgroup2', or the v1 controllers."""
    found = []
    for mount in mounts.parse(mountinfo):
        if mount.kind == "cgroup2":
            found.append("cgroup2")
        elif mount.kind == "cgroup":
            found += [o for o in mount.special if o not in ("rw", "ro", "xattr")]
    return tuple(dict.fromkeys(found))


def layout(hierarchies: tuple[str, ...]) -> str:
    """v1, v2 or hybrid (both), as cgroups(7) names them; 'none' when nothing is mounted."""
    if not hierarchies:
        return "none"
    if "cgroup2" not in hierarchies:
        return "v1"
    return "v2" if len(hierarchies) == 1 else "hybrid"


def _limit_file(own: str, mountinfo: str, controller: str) -> Path:
    """The file in which the kernel shows the limit that holds for the container."""
    hierarchy, path = seen(own, mountinfo, controller)
    name = LIMITS[controller][hierarchy == "cgroup2"]
    return Path(mounted_at(mountinfo, hierarchy)[0] or "/sys/fs/cgroup", path.lstrip("/"), name)


def seen(own: str, mountinfo: str, controller: str) -> tuple[str, str]:
    """The same as :func:`group`, with the path below where the hierarchy is mounted: in a control group
    namespace that may begin above the groups that /proc counts from."""
    hierarchy, path = group(own, controller)
    return hierarchy, path.removeprefix(mounted_at(mountinfo, hierarchy)[1].rstrip("/"))
