"""All processes of the machine, of which any may end while it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def pids() -> Iterator[int]:
    """Their numbers. What is below /proc/pid is only ever read, never asked for first: of a process that has
    just ended, stat(2) may answer ESRCH, on which pathlib's glob() and exists() stumble."""
    yield from (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def texts(name: str) -> Iterator[tuple[int, str]]:
    """A file of each process (proc(5): cmdline, environ, cgroup); those that have ended meanwhile are left out."""
    for pid in pids():
        with suppress(OSError):
            yield pid, Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")


def command_lines(word: str) -> dict[int, list[str]]:
    """The words of the command lines that have ``word`` in one of them, by process."""
    found = {pid: text.split("\0")[:-1] for pid, text in texts("cmdline")}
    return {pid: words for pid, words in found.items() if any(word in item for item in words)}
