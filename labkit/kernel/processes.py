"""Processes as /proc shows them (proc(5))."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

#: Fields of /proc/pid/stat after the program's name: the state, the terminal, the time of the start.
STATE, TERMINAL, STARTED = 0, 4, 19
#: How often a process is looked at that has no command line yet.
BEGINNING = 50


def lives(pid: int, started: int) -> bool:
    """Whether a process of that number runs which was started then (in ticks since the boot)."""
    try:
        fields = _stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(fields[STARTED]) == started and fields[STATE] not in ("Z", "X")


def marked(marker: str) -> tuple[int, ...]:
    """The processes that were given the path ``marker`` with an option, and have no terminal; parents
    first. An editor in which somebody looks at that file is none of them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_marked(int(entry.name), marker):
            found.append(int(entry.name))
    return tuple(sorted(found))


def is_marked(pid: int, marker: str) -> bool:
    """Whether that process is one of them."""
    try:
        words = _command_line(pid).decode(errors="replace").split("\0")
        given = any(
            word.endswith(f"={marker}") or (before.startswith("-") and word == marker)
            for before, word in itertools.pairwise(words)
        )
        return given and int(_stat(pid)[TERMINAL]) == 0
    except OSError:
        return False


def _command_line(pid: int) -> bytes:
    """What the process was called with. For a moment after execve(2) has begun it has none yet: it is
    looked at again. A kernel's thread and a zombie, which have no program either, stay without."""
    path = Path(f"/proc/{pid}/cmdline")
    for _ in range(BEGINNING):
        if found := path.read_bytes():
            return found
        Path(f"/proc/{pid}/exe").readlink()
        time.sleep(0.002)
    return b""


def _stat(pid: int) -> list[str]:
    """The fields from the third on: the second, the program's name, may hold any character."""
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - looked at for many, again and again
        return file.read().rpartition(")")[2].split()
