"""Tries whether a file system and /dev allow builds and containers, in the place where they will work; leaves nothing."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labkit.core import run
from labkit.core.files import existing
from labkit.core.journal import Journal
from labkit.core.undo import remove_folder
from labkit.errors import CommandError, MachineError
from labkit.model.lab import Lab

#: The devices that runC gives each container from the machine's /dev (runC, libcontainer/specconv), and that
#: packages' scripts expect: major and minor number (Linux, admin-guide/devices.rst).
DEVICES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0),
}  # fmt: skip
#: Runs a shell that lies in the folder, with the machine's libraries: it opens a device file there.
TRY = 'mount --bind /usr "$0/usr" && exec chroot "$0" /shell -c ": >/null"'
#: The options of a mount (mount(8)) that forbid that.
OPTIONS = {os.ST_NOEXEC: "noexec", os.ST_NODEV: "nodev"}

_ONE = threading.Lock()


def builds(lab: Lab) -> None:
    """Raises :class:`MachineError` unless builds work below the lab's state and cache folders (:func:`programs`)."""
    for place in (lab.state_dir, lab.cache_dir):
        with folder(lab, place) as own:
            programs(own)


def programs(place: Path) -> None:
    """Returns when a build can work below a folder: a program that lies there runs in a chroot, and opens a
    device file that lies there. Tried in a new folder, which is gone afterwards; else :class:`MachineError`."""
    own = place / ".shell"
    try:
        (own / "usr").mkdir(parents=True)
        for name in ("bin", "lib", "lib32", "lib64"):
            (own / name).symlink_to(f"usr/{name}")
        shutil.copy("/bin/sh", own / "shell")
        os.mknod(own / "null", stat.S_IFCHR | 0o666, os.makedev(*DEVICES["null"]))
        run.run(["unshare", "--mount", "--", "sh", "-c", TRY, own])
    except (CommandError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        there = existing(place)  # somebody may take the lab down meanwhile
        flags = os.statvfs(there).f_flag
        top = next(folder for folder in (there, *there.parents) if folder.is_mount())
        options = [f"the mount option {word}" for flag, word in OPTIONS.items() if flags & flag]
        said = error.reason if isinstance(error, CommandError) else str(error.strerror)
        raise MachineError(
            f"{top}, where {place.parent} is",
            "programs or device files of a root file system do not work there: "
            f"{' and '.join(options) or said}",
            "set state and cache in lab.toml to folders on a file system that is mounted without nodev and "
            "noexec; in a container, give the container the rights to mount, to chroot and to make devices",
            f"findmnt {top}",
            code="machine.no-builds",
        ) from None
    finally:
        shutil.rmtree(own, ignore_errors=True)


def devices(folder: Path = Path("/dev")) -> None:
    """Returns when each device that runC gives to containers is the kernel's, and anybody may open it; else
    :class:`MachineError`."""
    for name, number in DEVICES.items():
        path = folder / name
        if wrong := _wrong(path, number):
            major, minor = number
            raise MachineError(
                str(path),
                f"{wrong}: programs in containers cannot use it",
                f"rm -rf {path}; mknod -m 666 {path} c {major} {minor}",
                f"ls -l {path}",
                code="machine.device",
            )


def _wrong(path: Path, number: tuple[int, int]) -> str:
    """The fault of a device file; '' for none."""
    try:
        seen = path.stat()
        if not stat.S_ISCHR(seen.st_mode):
            return "is not a device"
        if (os.major(seen.st_rdev), os.minor(seen.st_rdev)) != number:
            return "is another device"
        if seen.st_mode & 0o666 != 0o666:
            return f"has the mode {stat.S_IMODE(seen.st_mode):o}, not 666"
        if os.statvfs(path).f_flag & os.ST_NODEV:
            return "is on a file system that is mounted nodev"
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    return ""


@contextmanager
def folder(lab: Lab, place: Path | None = None) -> Iterator[Path]:
    """An empty folder in ``place`` (None: in the lab's state folder), one of the lab's own folders, while
    the block runs; it is in the journal meanwhile, so that who is killed leaves nothing that is not found.

    A folder above it that was not there before is not there afterwards.
    """
    with _ONE:  # another thread would remove this one's folders
        journal = Journal.of(lab)
        above = (place or lab.state_dir, lab.state_dir)
        new = [path for top in above for path in (top, *top.parents) if not path.exists()]
        made = above[0] / f".try-{secrets.token_hex(3)}"
        try:
            journal.intend("folder", path=str(made))
            made.mkdir(parents=True)
            yield made
        finally:
            if journal.path.exists():
                remove_folder(lab, path=str(made))
                journal.forget("folder", path=str(made))
                journal.clear()
            for path in new:
                with suppress(OSError):  # another process has made something in it meanwhile
                    path.rmdir()
