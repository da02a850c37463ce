"""The limits of a container: one table, from which config.json, the checks in the kernel and the reports are made.

runC translates ``linux.resources`` for the version of control groups that the machine has. A kernel can only limit
what it counts, and with version 1 runC refuses any other limit: :func:`counted` says what it counts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from labkit.display import human_bytes
from labkit.kernel import cgroups

#: Microseconds in which a container may use up its share of the processors: the kernel's default.
PERIOD = 100_000
#: Each container's weight for processor time: the kernel's default for a group in version 1 (100 in version 2).
SHARES = 1024
Counted = Literal["swap", "processors"]
#: The files of limits that not every kernel has with version 1, below the controller's folder.
OPTIONAL: Mapping[Counted, str] = {
    "swap": "memory/memory.memsw.limit_in_bytes",
    "processors": "cpu/cpu.cfs_quota_us",
}


@dataclass(frozen=True)
class Limit:
    """A limit that a control group sets.

    ``name`` is the field of a container's Spec; ``subject`` the row in the comparison of defaults; ``check`` the name
    of the check that the kernel has it; ``files`` the controller's files in version 1 and 2 (Linux, admin-guide/cgroup-v1 and cgroup-v2.rst); ``resource`` makes the
    controller's part of ``linux.resources`` from a value; ``words`` says such a part in words.
    """

    name: str
    subject: str
    check: str
    controller: str
    files: tuple[str, str]
    default: float
    resource: Callable[[Any, Collection[Counted]], dict[str, Any]]
    words: Callable[[Mapping[str, Any]], str]


def _memory(value: int, kernel: Collection[Counted]) -> dict[str, Any]:
    return {"limit": value, **({"swap": value} if "swap" in kernel else {})}


def _memory_words(part: Mapping[str, Any]) -> str:
    swap = " with swap space" if part.get("swap") == part["limit"] else ""
    return f"{human_bytes(part['limit'])}{swap}"


def _processors(value: float, kernel: Collection[Counted]) -> dict[str, Any]:
    quota = {"quota": int(value * PERIOD), "period": PERIOD} if "processors" in kernel else {}
    return {"shares": SHARES, **quota}


def _processors_words(part: Mapping[str, Any]) -> str:
    quota = part.get("quota")
    return f"{quota / part['period']:g}" if quota else "a weight like any other"


#: Memory in bytes (with swap space, where the kernel counts it), processes and threads, processors.
LIMITS = (
    Limit(
        "memory", "memory", "container.memory", "memory", ("memory.limit_in_bytes", "memory.max"), 256 * 2**20,
        _memory, _memory_words,
    ),
    Limit(
        "pids", "processes", "container.pids", "pids", ("pids.max", "pids.max"), 256,
        lambda value, _: {"limit": value}, lambda part: str(part["limit"]),
    ),
    Limit(
        "processors", "processors", "container.time", "cpu", ("cpu.cfs_quota_us", "cpu.max"), 1.0,
        _processors, _processors_words,
    ),
)  # fmt: skip
#: Limits of each process: open files, and bytes of a file that it writes (getrlimit(2)).
FILES, SIZE = 4096, 64 * 2**20


@functools.cache
def counted(base: Path = cgroups.BASE) -> frozenset[Counted]:
    """What this machine's kernel counts besides memory and processes.

    In version 2 both: runC itself leaves out a swap limit that the kernel does not know.
    """
    if (base / "cgroup.controllers").exists():
        return frozenset(OPTIONAL)
    return frozenset(name for name, file in OPTIONAL.items() if (base / file).exists())


def resources(
    image: Mapping[str, Any], *, kernel: Collection[Counted], **values: float
) -> dict[str, Any]:
    """``linux.resources``: the image's with a value for each of :data:`LIMITS`. Pure."""
    return {**image, **{i.controller: i.resource(values[i.name], kernel) for i in LIMITS}}


def in_kernel(limit: Limit, resources: Mapping[str, Any]) -> int | None:
    """The number that the kernel shows for a limit, None for one that it does not count. Pure."""
    part = resources[limit.controller]
    number: int | None = part.get("limit", part.get("quota"))
    return number


def in_words(resources: Mapping[str, Any]) -> dict[str, str]:
    """The limits of ``linux.resources`` in words, by subject. Pure."""
    return {item.subject: item.words(resources.get(item.controller, {})) for item in LIMITS}


def rlimits(files: int, size: int) -> list[dict[str, Any]]:
    """``process.rlimits``: open files, the bytes of a written file, and no core dumps. Pure."""
    values = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": size, "RLIMIT_NOFILE": files}
    return [{"type": name, "hard": value, "soft": value} for name, value in values.items()]
