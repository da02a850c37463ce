"""What a container may use up, as OCI ``linux.resources`` and ``process.rlimits`` say it.

runC translates the former for the version of the control groups that the machine has: a weight of processor
time for version 2, memory and swap apart. What a machine's kernel does not count, it cannot limit, and runC
refuses such a limit in version 1: :func:`counted` tells what it counts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from labkit.kernel import cgroups

#: In how long a container may have used up its share of the processors (microseconds): the kernel's default.
PERIOD = 100_000
#: Each container's weight for processor time: the kernel's default for a group in version 1 (100 in version 2).
SHARES = 1024
Counted = Literal["swap", "processors"]
#: The file of a limit in version 1, below the folder of the controller.
FILES: Mapping[Counted, tuple[str, str]] = {
    "swap": ("memory", "memory.memsw.limit_in_bytes"),
    "processors": ("cpu", "cpu.cfs_quota_us"),
}


@functools.cache
def counted(base: Path = cgroups.BASE) -> frozenset[Counted]:
    """What this machine's kernel counts of swap space and of processor time, beside what it always counts.

    In version 2 both: runC itself passes over a swap limit that the kernel does not know.
    """
    if (base / "cgroup.controllers").exists():
        return frozenset(FILES)
    return frozenset(name for name, (part, file) in FILES.items() if (base / part / file).exists())


def resources(
    own: Mapping[str, Any],
    *,
    memory: int,
    pids: int,
    processors: float,
    kernel: frozenset[Counted],
) -> dict[str, Any]:
    """``linux.resources``: memory in bytes (swap space included, where the kernel counts it), processes and
    threads, and as many processors' time at most. Pure."""
    swap = {"swap": memory} if "swap" in kernel else {}
    quota = {"quota": int(processors * PERIOD), "period": PERIOD} if "processors" in kernel else {}
    return {
        **own,
        "memory": {"limit": memory, **swap},
        "pids": {"limit": pids},
        "cpu": {"shares": SHARES, **quota},
    }


def rlimits(files: int, size: int) -> list[dict[str, Any]]:
    """``process.rlimits``: open files, the bytes of a file that is written, and no memory dumps of a process
    that dies (getrlimit(2)). Pure."""
    values = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": size, "RLIMIT_NOFILE": files}
    return [{"type": name, "hard": value, "soft": value} for name, value in values.items()]
