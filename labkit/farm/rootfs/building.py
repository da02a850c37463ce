"""Building into the cache: whole or not at all, and sealed off from the machine.

A build happens in a folder beside its place and is renamed when it is whole. The programs that it
starts run in mount and process namespaces of their own (unshare(1)) and die when labkit does
(setpriv(1), ``--pdeathsig``): a build that is killed, by whatever signal, leaves files in its
own folder and nothing else, and the next build of the same thing removes them.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from labkit.core import cache, files, probes, undo
from labkit.core.files import existing
from labkit.core.journal import Journal, not_root
from labkit.display import human_bytes
from labkit.errors import BuildError, CommandError
from labkit.farm.rootfs.gateway import NOWHERE, Way
from labkit.farm.rootfs.scan import scan
from labkit.kernel import calls
from labkit.kernel.netns import alone
from labkit.model.lab import Lab

T = TypeVar("T")

log = logging.getLogger("labkit.build")

#: How long one build waits for another of the same thing (seconds).
PATIENCE = 3600.0
#: With less than this left (bytes) a failure is taken for that of a full disk.
NEARLY_FULL = 4_000_000
#: How many times the bytes of a build have to be free in memory for it to happen there: two builds run
#: side by side, and others want memory too.
ROOMY = 4
#: What the tools leave of the machine and of the installation itself, emptied or removed.
CACHES = ("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*_*")
TRACES = ("etc/resolv.conf", "etc/hostname", "etc/machine-id", "var/log/bootstrap.log")


def sealed(
    argv: Sequence[str | Path], *, root: Path | None = None, way: Way = NOWHERE
) -> list[str]:
    """The argument list that runs ``argv`` sealed off, with ``root`` as its root folder.

    :param way: the way to the mirror (:func:`labkit.farm.rootfs.gateway.gateway`), and then to nothing
        else; without one the network is the machine's.
    """
    return [
        *way.words,
        "setpriv",
        "--pdeathsig=KILL",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        *([f"--root={root}"] if root else []),
        "--mount-proc",
        "--",
        *(str(word) for word in argv),
    ]


@contextmanager
def building(lab: Lab, place: Path, *, what: str, space: int = 0) -> Iterator[Path]:
    """Yields an empty folder that becomes ``place``, sealed, when the block ends well, and is removed otherwise.

    The caller holds the lock of the place. What stood there is replaced. New files have ordinary modes
    meanwhile, whatever the user's umask is; nobody but root enters the folder itself.

    :param what: how an error names the thing.
    :param space: bytes that must be free before anything is made.
    :raises MachineError: programs or devices do not work on the file system.
    :raises BuildError: the disk is too full, or a program of the block failed.
    """
    part = place.with_name(f".{place.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
    except PermissionError:
        raise not_root(str(part.parent)) from None
    discard(lab, part)
    try:
        require_space(lab, part.parent, what=what, space=space)
    except FileNotFoundError as error:  # another labkit has just taken the lab down
        raise _failed(lab, part.parent, what=what, error=error) from None
    Journal.of(lab).intend("folder", path=str(part))
    try:
        with files.usual_umask():
            part.mkdir(mode=0o700)  # there are set-uid programs in a root file system
            probes.programs(part)
            yield part
            cache.seal(part)
        discard(lab, place)
        part.rename(place)
    except (CommandError, OSError) as error:
        raise _failed(lab, part.parent, what=what, error=error) from error
    finally:
        discard(lab, part)
        Journal.of(lab).forget("folder", path=str(part))


def discard(lab: Lab, folder: Path) -> None:
    """Removes a folder of the lab's own, if it is there."""
    undo.remove_folder(lab, path=str(folder))


def require_space(lab: Lab, folder: Path, *, what: str, space: int) -> None:
    """Returns when a folder's disk has that many bytes free; the folder need not be there yet.

    :param what: how the :class:`BuildError` names what is to be made there.
    """
    there = existing(folder)
    free = shutil.disk_usage(there).free
    if free < space:
        raise BuildError(
            what,
            f"needs {human_bytes(space)} while it is made, and {folder} has {human_bytes(free)} free",
            files.disk_full_remedy(lab, folder),
            f"df -h {there}",
            code="build.no-space",
        )


def in_memory(work: Path, space: int, function: Callable[[Path], T]) -> T:
    """``function(folder)``, with a folder in memory where the machine has plenty of it, else ``work``.

    Installing packages writes each file several times and waits for the disk each time. The folder
    is mounted in a namespace of the calling thread alone: nobody else sees it, and it ends with it.
    """
    if _memory() < ROOMY * space:
        return function(work)
    folder = work / "memory"

    def inside() -> T:
        calls.unshare(calls.CLONE_NEWNS)
        calls.mount("none", Path("/"), flags=calls.MS_REC | calls.MS_PRIVATE)
        calls.mount("labkit", folder, "tmpfs", options="mode=755")
        try:
            return function(folder)
        finally:
            calls.unmount(folder, calls.MNT_DETACH)

    folder.mkdir()
    done = alone(inside)
    folder.rmdir()
    return done


def tidy(root: Path) -> int:
    """Downloads and indices are gone, and the files that describe the building machine are empty;
    returns how many bytes that was."""
    removed = 0
    for pattern in CACHES:
        for path in root.glob(pattern):
            removed += path.lstat().st_size
            path.unlink()
    for name in TRACES:
        path = root / name
        if path.is_symlink() or path.exists():
            removed += path.lstat().st_size
            path.unlink()
            path.touch(mode=0o644)
    return removed


def size(root: Path) -> int:
    """What the files and folders of a folder weigh in bytes: apparent size, hard links once, as
    ``du -sb`` counts (later ones than coreutils 9.1 leave out the folders themselves)."""
    return sum(file.size for file in scan(root))


def _memory() -> int:
    """The bytes of memory that programs may still take (proc(5), /proc/meminfo)."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.M)
    return int(found[1]) * 1024 if found else 0


def _failed(lab: Lab, folder: Path, *, what: str, error: CommandError | OSError) -> BuildError:
    if _is_full(error, folder):
        return BuildError(
            what,
            f"the disk of {folder} is full; what was half made has been removed",
            files.disk_full_remedy(lab, folder),
            f"df -h {folder}",
            code="build.disk-full",
        )
    if isinstance(error, CommandError):
        return BuildError(
            what,
            f"{error.value}: {error.reason}",
            error.remedy
            or "the lines above come from that program; a network fault passes: try again",
            error.again,
            code="build.failed",
        )
    return BuildError(
        what,
        str(error),
        "see what is there, then call it again",
        f"ls -la {folder}",
        code="build.failed",
    )


def _is_full(error: CommandError | OSError, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    said = error.reason if isinstance(error, CommandError) else ""
    try:
        left = shutil.disk_usage(folder).free
    except FileNotFoundError:  # somebody took the folder away while it was built in
        return False
    return "No space left on device" in said or left < NEARLY_FULL
