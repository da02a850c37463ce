"""A container's first process as the kernel shows it (proc(5)): its command, variables, open streams."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from labkit import cancellation
from labkit.errors import FarmError
from labkit.kernel import processes
from labkit.records import Record

#: How long runC may take between its own end and the start of the container's program, in seconds.
PATIENCE = 5.0
#: What runC is called in the container until it becomes the container's program.
INIT = ("runc", "init")
#: Major numbers of terminals: consoles and serial lines, /dev/tty and /dev/console, and
#: pseudo-terminals (Linux, Documentation/admin-guide/devices.txt).
TERMINALS = frozenset((4, 5, *range(136, 144)))


class Process(Record):
    """A process: ``streams`` names what its standard input, output and error are ('' for a closed
    one); ``terminals`` are those of them that are a terminal; ``control`` whether it has a
    controlling terminal."""

    pid: int
    command: tuple[str, ...]
    environment: dict[str, str]
    streams: tuple[str, str, str]
    terminals: tuple[str, ...]
    control: bool

    @property
    def held(self) -> str:
        """Its terminals in words."""
        if not (self.terminals or self.control):
            return "no terminal"
        return f"terminal {', '.join(dict.fromkeys(self.terminals)) or '(controlling)'}"


def first(pid: int) -> Process:
    """The container's first process, once it is the program that the container is for.

    Raises :class:`FarmError` when it has ended, or is still runC after :data:`PATIENCE` seconds.
    """
    try:
        command = _command(pid)
        streams = [_stream(pid, number) for number in range(3)]
        return Process(
            pid=pid,
            command=command,
            environment=variables(_read(pid, "environ")),
            streams=(streams[0][0], streams[1][0], streams[2][0]),
            terminals=tuple(name for name, terminal in streams if terminal),
            control=controlled(_read(pid, "stat").decode(errors="replace")),
        )
    except (FileNotFoundError, ProcessLookupError):
        raise FarmError(
            f"process {pid}",
            "has ended",
            "its container's output says why",
            f"ps -fp {pid}",
            code="farm.process-ended",
        ) from None


def words(text: bytes) -> tuple[str, ...]:
    """The words of /proc/pid/cmdline. Pure."""
    return tuple(text.decode(errors="replace").split("\0")[:-1])


def variables(text: bytes) -> dict[str, str]:
    """The variables of /proc/pid/environ. Pure."""
    pairs = (item.partition("=") for item in text.decode(errors="replace").split("\0") if item)
    return {name: value for name, _, value in pairs}


def controlled(text: str) -> bool:
    """Whether /proc/pid/stat has a controlling terminal (field 7, tty_nr). Pure."""
    return int(text.rpartition(")")[2].split()[processes.TERMINAL]) != 0


def _command(pid: int) -> tuple[str, ...]:
    """The command line of a process that is its own program; while that is being loaded, it has none."""
    deadline = time.monotonic() + PATIENCE
    while not (command := words(_read(pid, "cmdline"))) or command[:2] == INIT:
        if not processes.lives(pid):
            raise ProcessLookupError(pid)
        if time.monotonic() > deadline:
            raise FarmError(
                f"process {pid}",
                "does not become the container's program",
                "",
                f"ps -fp {pid}",
                code="farm.process-stuck",
            )
        cancellation.pause(0.002)
    return command


def _read(pid: int, name: str) -> bytes:
    return Path("/proc", str(pid), name).read_bytes()


def _stream(pid: int, number: int) -> tuple[str, bool]:
    """What a file descriptor is open on, and whether that is a terminal."""
    path = f"/proc/{pid}/fd/{number}"
    try:
        name, seen = os.readlink(path), os.stat(path)  # noqa: PTH115, PTH116 - a magic link: no path
    except FileNotFoundError:
        if not Path("/proc", str(pid), "fd").is_dir():
            raise
        return "", False
    return name, stat.S_ISCHR(seen.st_mode) and os.major(seen.st_rdev) in TERMINALS
