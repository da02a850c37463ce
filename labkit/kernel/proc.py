"""What /proc tells of processes and of mounts (proc(5))."""

from __future__ import annotations

import itertools
import os
import re
import select
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

#: Fields of /proc/pid/stat after the program's name: state, parent, terminal, the kernel's flags, time of the start.
STATE, PARENT, TERMINAL, FLAGS, STARTED = 0, 1, 4, 6, 19
#: The flag of a process that is ending and never runs its program again (linux/sched.h, PF_EXITING).
EXITING = 0x4
#: How often a process is looked at that has no command line yet.
BEGINNING = 50


def lives(pid: int, started: int | None = None) -> bool:
    """Whether a process of that number runs, which was started then (in ticks since the boot).

    A zombie has ended. So has a process that is ending: a container's first one waits in that state until
    someone reaps the others of its pid namespace, and a PID 1 that does not reap never does
    (pid_namespaces(7); a Docker container's PID 1 often is one).
    """
    try:
        fields = stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return runs(fields) and started in (None, int(fields[STARTED]))


def stat(pid: int) -> list[str]:
    """The fields of /proc/pid/stat from the third on: the second, the program's name, may hold any character."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - looked at for many, again and again
        return file.read().rpartition(")")[2].split()


def runs(fields: Sequence[str]) -> bool:
    """Whether these are the fields, from the third on, of a process that runs. Pure."""
    return fields[STATE] not in ("Z", "X") and not int(fields[FLAGS]) & EXITING


def namespace(pid: int, kind: str) -> int | None:
    """The inode that identifies a namespace of a process (namespaces(7): ``kind`` is net, pid, user, ...); None
    of one that has ended: Linux refuses that of a zombie (EACCES), and finds none of one that is gone."""
    try:
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino  # noqa: PTH116 - a magic link: no path
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def ended(pid: int, timeout: float) -> bool:
    """Whether a child ends within so many seconds; its end is seen at once (pidfd_open(2)). subprocess looks
    again and again, at last each 50 ms: as long as a container needs to start."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def marked(marker: str) -> tuple[int, ...]:
    """The processes that were given the path ``marker`` with an option, and have no terminal; parents first. A
    person's editor of that file is left out."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - names alone
    return tuple(sorted(pid for pid in pids if is_marked(pid, marker)))


def is_marked(pid: int, marker: str) -> bool:
    """Whether :func:`marked` finds that process."""
    try:
        line = _command_line(pid)
        if marker.encode() not in line:  # most, and there are hundreds
            return False
        words = line.decode(errors="replace").split("\0")
        given = any(
            word.endswith(f"={marker}") or (before.startswith("-") and word == marker)
            for before, word in itertools.pairwise(words)
        )
        return given and int(stat(pid)[TERMINAL]) == 0
    except OSError:
        return False


def _command_line(pid: int) -> bytes:
    """What the process was called with. For a moment after execve(2) has begun it has none yet: it is
    looked at again. A kernel's thread and a zombie, which have no program either, stay without."""
    for _ in range(BEGINNING):
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:  # noqa: PTH123 - looked at for many
            if found := file.read():
                return found
        os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115
        time.sleep(0.002)
    return b""


class Mount(NamedTuple):
    """One mount: its number and its parent's; which folder of the file system is at which place; its options;
    the file system's kind and own options."""

    number: str
    parent: str
    root: str
    place: str
    options: tuple[str, ...]
    kind: str
    special: tuple[str, ...]


def mountinfo(pid: int | str = "self") -> str:
    """The text of a process's mountinfo; names that are not UTF-8 are kept."""
    path = Path(f"/proc/{pid}/mountinfo")
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def mounts(mountinfo: str) -> tuple[Mount, ...]:
    """The mounts in a text of :func:`mountinfo`. Pure.

    Only spaces divide the fields, and only newlines the lines: a folder's name may have Unicode's other blanks in it.
    """
    return tuple(_mount(line) for line in mountinfo.split("\n") if line)


def plain(text: str) -> str:
    """A field with its octal escapes (``\\040`` is a space) undone. Pure."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _mount(line: str) -> Mount:
    fields, _, rest = line.partition(" - ")
    number, parent, _, root, place, options, *_ = fields.split(" ")
    kind, _, special = rest.split(" ", 2)
    return Mount(
        number, parent, plain(root), plain(place),
        tuple(options.split(",")), kind, tuple(special.split(",")),
    )  # fmt: skip
