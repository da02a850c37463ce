"""Control groups of the lab's own, as they lie below /sys/fs/cgroup: version 1, 2, or both (cgroups(7))."""

from __future__ import annotations

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
    for top in folders(path):
        for file in top.rglob("cgroup.procs"):
            with suppress(OSError):  # a group that has just gone, or one of threads
                found.update(int(word) for word in file.read_text().split())
    return frozenset(found)


def end(path: str) -> None:
    """No process is left in a group (SIGKILL), and the group is gone."""
    deadline = time.monotonic() + PATIENCE
    while pids := processes(path):
        if time.monotonic() > deadline:
            raise LabkitError(
                path, f"its processes do not end, not even by SIGKILL: {sorted(pids)}", "",
                f"systemd-cgls {path}",
            )  # fmt: skip
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    remove(path)


def remove(path: str) -> None:
    """The (empty) group is gone from every hierarchy, those below it first."""
    for top in folders(path):
        for folder in sorted(top.rglob("*"), key=lambda p: len(p.parts), reverse=True):
            if folder.is_dir():
                _rmdir(folder)
        _rmdir(top)


def _rmdir(folder: Path) -> None:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabkitError(
            str(folder),
            f"the cgroup cannot be removed: {error.strerror}",
            "end what runs in it, then call it again",
            f"cat {folder}/cgroup.procs",
        ) from None
