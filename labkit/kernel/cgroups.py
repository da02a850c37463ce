"""Control groups (cgroups(7)), version 1, 2 or both: lists and kills their processes, and removes the groups."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from labkit.errors import LabkitError, MachineError
from labkit.kernel import proc

#: Where the hierarchies are mounted.
BASE = Path("/sys/fs/cgroup")
#: How long killed processes may take to be gone, in seconds.
PATIENCE = 5.0


def require() -> str:
    """The layout of the mounted cgroups; :class:`MachineError` when there are none, or read-only."""
    layout, writable = mounted(proc.mountinfo())
    if not layout:
        raise MachineError(
            "cgroups",
            "are not mounted: runc cannot start a container",
            "start the machine with systemd, or install Debian's package cgroupfs-mount and run "
            "cgroupfs-mount (as root); `ip netns exec` hides them: use nsenter --net=/run/netns/NAME",
            "grep cgroup /proc/mounts",
            code="machine.no-cgroups",
        )
    if not writable:
        raise MachineError(
            "cgroups",
            "are mounted read-only: runc cannot make one for a container",
            "mount them writable; in a container, start that container with writable cgroups",
            "grep cgroup /proc/mounts",
            code="machine.cgroups-read-only",
        )
    return layout


def mounted(mountinfo: str) -> tuple[str, bool]:
    """The layout of the cgroups in mountinfo ('' for none), and whether any hierarchy is writable. Pure."""
    found = [mount for mount in proc.mounts(mountinfo) if mount.kind.startswith("cgroup")]
    kinds = {mount.kind for mount in found}
    layout = {
        frozenset(): "",
        frozenset({"cgroup2"}): "version 2",
        frozenset({"cgroup"}): "version 1",
    }.get(frozenset(kinds), "hybrid: version 1 with version 2 beside it")
    return layout, any("rw" in mount.options and "rw" in mount.special for mount in found)


def folders(path: str) -> tuple[Path, ...]:
    """The group of that path in each hierarchy that has it."""
    try:
        roots = [str(BASE), *(item.path for item in os.scandir(BASE) if item.is_dir())]
    except FileNotFoundError:
        return ()
    places = (f"{root}/{path.lstrip('/')}" for root in roots)
    return tuple(Path(place) for place in places if os.path.isdir(place))  # noqa: PTH112 - many


def processes(path: str) -> frozenset[int]:
    """The processes in a group and in those below it."""
    return _listed(_below(path))


def _listed(folders: Iterable[str]) -> frozenset[int]:
    found: set[int] = set()
    for folder in folders:
        with suppress(OSError), open(f"{folder}/cgroup.procs", encoding="utf-8") as file:  # noqa: PTH123 - many
            found.update(map(int, file.read().split()))
    # A group may just have gone, or be of threads. 0 is a process of another process namespace: it has no number
    # here, and to signal 0 would end the caller's own group.
    return frozenset(found - {0})


def kill(path: str) -> frozenset[int]:
    """Sends SIGKILL to every process in a group and in those below it; returns them."""
    return _kill(processes(path))


def kill_most(path: str) -> frozenset[int]:
    """Sends SIGKILL to the processes that a group has in the first hierarchy; returns them. :func:`end` finds the
    others, which somebody has moved."""
    return _kill(_listed(map(str, folders(path)[:1])))


def _kill(found: frozenset[int]) -> frozenset[int]:
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def end(path: str) -> None:
    """Ends all processes in a group (SIGKILL), and removes the group."""
    deadline, pause = time.monotonic() + PATIENCE, 0.001
    while pids := kill(path):
        if time.monotonic() > deadline:
            raise LabkitError(
                path, f"its processes do not end, not even after SIGKILL: {sorted(pids)}", "",
                f"systemd-cgls {path}", code="machine.process-stays",
            )  # fmt: skip
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
        if pause > 0.01:
            _thaw(path)
    remove(path)


def _thaw(path: str) -> None:
    """Lets paused processes go on: until then they do not end."""
    for folder in _below(path):
        for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with suppress(OSError), open(f"{folder}/{name}", "r+", encoding="utf-8") as file:  # noqa: PTH123 - many
                file.write(word)


def remove(path: str) -> None:
    """Removes an empty group from every hierarchy, those below it first."""
    for folder in _below(path):
        _rmdir(Path(folder))


def _below(path: str) -> list[str]:
    """The group of that path in each hierarchy, and those below it, the deepest first.

    A folder has as many links as folders are in it, and two: most groups need not be listed.
    """
    found: list[str] = []
    for top in folders(path):
        if top.stat().st_nlink > 2:
            found += [folder for folder, _, _ in os.walk(top, topdown=False)]
        else:
            found.append(str(top))
    return found


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
            ending = error.errno == errno.EBUSY and not (folder / "cgroup.procs").read_text(
                encoding="utf-8"
            )
            if not ending or time.monotonic() > deadline:
                raise _refused(folder, error) from None
        time.sleep(0.001)


def _refused(folder: Path, error: OSError) -> LabkitError:
    return LabkitError(
        str(folder),
        f"the cgroup cannot be removed: {error.strerror}",
        "end the processes in it, then run this again",
        f"cat {folder}/cgroup.procs",
        code="machine.cgroup-stays",
    )
