"""Ending notebooks that run: first as Ctrl-C would, so that they end what they have started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from labkit.core.journal import Entry
from labkit.kernel.proc import PARENT, STARTED, lives, stat

#: How long a notebook may take to end by itself, and then how long papermill may, in seconds.
PATIENCE = 10.0
LAST_PATIENCE = 3.0


@dataclass(frozen=True)
class Process:
    """A process: its parent, when it was started (clock ticks since boot), its command line.

    Number and start together are nobody else's, however soon the number is used again.
    """

    pid: int
    parent: int
    started: int
    words: tuple[str, ...]


def processes() -> dict[int, Process]:
    """All processes of the machine by number (proc(5): stat and cmdline)."""
    found = (_process(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {process.pid: process for process in found if process}


def below(pid: int, table: Mapping[int, Process]) -> list[Process]:
    """The children of a process, their children and so on; parents first."""
    found: list[Process] = []
    level = [pid]
    while level:
        children = [process for process in table.values() if process.parent in level]
        found += children
        level = [process.pid for process in children]
    return found


def end_notebooks(mark: str, spared: Iterable[str] = ()) -> int:
    """Ends the papermills with the path ``mark`` (of a folder of the lab's own) in an argument;
    returns how many there were.

    Their kernels get SIGINT, which ends the running cell and the programs that it waits for; a
    papermill that is still there after that gets SIGTERM, and what then remains SIGKILL, except
    daemons (processes with an argument that ends in one of ``spared``): those are the journal's.
    """
    table = processes()
    papermills = [p for p in table.values() if "papermill" in p.words and _has(p, mark)]
    family = [process for papermill in papermills for process in below(papermill.pid, table)]
    for papermill in papermills:
        kernels = [process for process in family if process.parent == papermill.pid]
        _signal(kernels, signal.SIGINT)
        if not kernels:
            _signal([papermill], signal.SIGTERM)
    _wait(papermills, PATIENCE)
    _signal(papermills, signal.SIGTERM)
    _wait(papermills, LAST_PATIENCE)
    daemons = tuple(spared)
    rest = [p for p in family if not any(word.endswith(daemons) for word in p.words if daemons)]
    _signal([*papermills, *rest], signal.SIGKILL)
    return len(papermills)


def markers(entries: Iterable[Entry]) -> tuple[str, ...]:
    """What marks the daemons among a journal's entries: the configuration file in their command line."""
    return tuple(e.what["marker"] for e in entries if e.kind == "daemon" and "marker" in e.what)


def _process(pid: int) -> Process | None:
    try:
        fields = stat(pid)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    return Process(pid, int(fields[PARENT]), int(fields[STARTED]), tuple(words))


def _has(process: Process, mark: str) -> bool:
    return any(mark in word for word in process.words)


def _signal(listed: Iterable[Process], sig: signal.Signals) -> None:
    for process in listed:
        if lives(process.pid, process.started):
            with suppress(ProcessLookupError):
                os.kill(process.pid, sig)


def _wait(listed: Iterable[Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(lives(p.pid, p.started) for p in listed) and time.monotonic() < deadline:
        time.sleep(0.05)
