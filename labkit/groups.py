"""Control groups of the lab's own, as they lie below /sys/fs/cgroup: version 1, 2, or both (cgroups(7))."""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from labkit.errors import LabkitError

#: Where the hierarchies are mounted.
BASE = Path("/sys/fs/cgroup")
#: How long killed processes may take to be gone, in seconds.
PATIENCE = 5.0


def folders(path: str) -> tuple[Path, ...]:
    """The group of that path in each hierarchy that has it."""
    if not BASE.is_dir():
        return ()
    roots = (BASE, *(item for item in BASE.iterdir() if item.is_dir()))
    return tuple(root / path.lstrip("/") for root in roots if (root / path.lstrip("/")).is_dir())


def processes(path: str) -> frozenset[int]:
    """The processes in a group and in those below it."""
    found: set[int] = set()
    for folder in _below(path):
        with suppress(OSError):  # a group that has just gone, or one of threads
            found.update(map(int, (folder / "cgroup.procs").read_text().split()))
    return frozenset(found)


def kill(path: str) -> frozenset[int]:
    """SIGKILL to every process in a group and in those below it; returns whom."""
    found = processes(path)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def end(path: str) -> None:
    """No process is left in a group (SIGKILL), and the group is gone."""
    deadline, pause = time.monotonic() + PATIENCE, 0.001
    while pids := kill(path):
        if time.monotonic() > deadline:
            raise LabkitError(
                path, f"its processes do not end, not even by SIGKILL: {sorted(pids)}", "",
                f"systemd-cgls {path}",
            )  # fmt: skip
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    remove(path)


def remove(path: str) -> None:
    """The (empty) group is gone from every hierarchy, those below it first."""
    for folder in _below(path):
        _rmdir(folder)


def _below(path: str) -> list[Path]:
    """The group of that path in each hierarchy, and those below it, the deepest first."""
    return [Path(folder) for top in folders(path) for folder, _, _ in os.walk(top, topdown=False)]


def _rmdir(folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # a process that has just ended is in its group for a moment yet
            ending = error.errno == errno.EBUSY and not (folder / "cgroup.procs").read_text()
            if not ending or time.monotonic() > deadline:
                raise _refused(folder, error) from None
        time.sleep(0.001)


def _refused(folder: Path, error: OSError) -> LabkitError:
    return LabkitError(
        str(folder),
        f"the cgroup cannot be removed: {error.strerror}",
        "end what runs in it, then call it again",
        f"cat {folder}/cgroup.procs",
    )
