"""Control groups: as found on the machine, and those of a running container."""

from __future__ import annotations

from pathlib import Path

from labkit.checks import Check, equal
from labkit.farm import container, trial
from labkit.journal import lock
from labkit.lab import Lab
from labkit.result import Outcome, Record, Table, action


class Groups(Record):
    """Control groups: the hierarchies mounted ('cgroup2' or a v1 controller) and a container's own."""

    layout: str
    hierarchies: tuple[str, ...]
    own: tuple[str, ...]
    memory: str
    processes: str


@action("container.cgroups")
def found(lab: Lab) -> Outcome[Groups]:
    """The control groups as found on this machine, and those of a running container."""
    item = trial.spec(lab, "trial-cgroup", "sleep", "300")
    with lock(lab.run_dir, "farm"), trial.prepared(lab, item):
        container.create(lab, item.name)
        container.begin(lab, item.name)
        pid = container.states(lab)[item.name].pid
        own = Path(f"/proc/{pid}/cgroup").read_text().split()
        memory, processes = _limit(item.cgroup, "memory"), _limit(item.cgroup, "pids")
    hierarchies = mounted_groups(Path("/proc/self/mountinfo").read_text())
    value = Groups(
        layout=layout(hierarchies), hierarchies=hierarchies, own=tuple(own),
        memory=memory, processes=processes,
    )  # fmt: skip
    return Outcome(
        value=value,
        subject=item.name,
        summary=f"Control groups are mounted ({value.layout}); the container has its own in each.",
        checks=(
            Check(name="container.cgroups", expected="control groups are mounted",
                  seen=", ".join(hierarchies) or "none: install cgroupfs-mount and run it",
                  holds=bool(hierarchies), rows=("I3",), again="grep cgroup /proc/mounts"),
            equal("container.memory", item.memory, int(memory), rows=("I3",),
                  again="cat /sys/fs/cgroup/…/memory.limit_in_bytes"),
            equal("container.pids", item.pids, int(processes), rows=("I3",),
                  again="cat /sys/fs/cgroup/…/pids.max"),
        ),
        tables=(Table.of("cgroups", "The container's control groups (/proc/PID/cgroup)",
                         [{"group": line} for line in own]),),
    )  # fmt: skip


def mounted_groups(mountinfo: str) -> tuple[str, ...]:
    """The control group hierarchies in mountinfo (proc(5)): 'cgroup2', or the v1 controllers."""
    found = []
    for line in mountinfo.splitlines():
        kind, _, options = line.partition(" - ")[2].split(" ", 2)
        if kind == "cgroup2":
            found.append("cgroup2")
        elif kind == "cgroup":
            found += [o for o in options.split(",") if o not in ("rw", "ro", "xattr")]
    return tuple(dict.fromkeys(found))


def layout(hierarchies: tuple[str, ...]) -> str:
    """v1, v2 or hybrid (both), as cgroups(7) names them; 'none' when nothing is mounted."""
    if not hierarchies:
        return "none"
    if "cgroup2" not in hierarchies:
        return "v1"
    return "v2" if len(hierarchies) == 1 else "hybrid"


def _limit(group: str, controller: str) -> str:
    """The limit in force, as the kernel shows it (v1 or v2)."""
    names = {"memory": ("memory.limit_in_bytes", "memory.max"), "pids": ("pids.max", "pids.max")}
    first, second = names[controller]
    path = Path("/sys/fs/cgroup", controller, group.lstrip("/"), first)
    if not path.exists():
        path = Path("/sys/fs/cgroup", group.lstrip("/"), second)
    return path.read_text().strip()
