"""Writes files whole or not at all, with usual modes, gives them to the person who called sudo, and explains full disks."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labkit import reading
from labkit.display import human_bytes
from labkit.errors import LabkitError, MachineError, StateError, excerpt, of_system
from labkit.model.lab import Lab

log = logging.getLogger("labkit.cache")


def write_atomically(path: Path, data: str | bytes, *, mode: int = 0o644) -> None:
    """Writes a file whole or not at all: beside its place first, then renamed over it.

    Raises :class:`StateError` when a folder stands there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = beside(path)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        put(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_proven(path: Path, text: str) -> None:
    """Writes a text below its hash, for :func:`proven`."""
    write_atomically(path, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def proven(path: Path) -> str | None:
    """The text that :func:`write_proven` wrote; None without one, and (with a line in the log) for a damaged one."""
    found = text_of(path)
    if found is None:
        return None
    digest, _, text = found.partition("\n")
    if digest == hashlib.sha256(text.encode()).hexdigest():
        return text
    log.warning("%s is damaged, and made again", path)
    return None


def beside(path: Path) -> Path:
    """A name in the same folder for an unfinished file, different in each process and thread."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}.part")


def put(part: Path, path: Path) -> None:
    """Renames a file over another one; raises :class:`StateError` when a folder stands there."""
    try:
        part.replace(path)
    except IsADirectoryError:
        raise folder_in_place(path) from None


def folder_in_place(path: Path) -> StateError:
    """The error for a folder that stands where labkit keeps a file."""
    return StateError(
        str(path),
        "is a folder where labkit keeps a file",
        "move it away",
        f"ls -la {path}",
        code="state.folder-in-place",
    )


def remove_whole(folder: Path) -> None:
    """Removes a folder. It is renamed first, so that what a killed call leaves is not taken for the whole folder; the
    next call removes that, too.

    Where a disk is too full for another name it is removed in its place.
    """
    aside = folder.with_name(f".{folder.name}.gone")
    while folder.exists() or aside.exists():
        with suppress(FileNotFoundError):  # somebody beside this call removes it too
            if aside.exists():
                shutil.rmtree(aside)
            try:
                folder.replace(aside)
            except FileNotFoundError:
                continue
            except OSError:
                shutil.rmtree(folder)


def existing(path: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def text_of(path: Path) -> str | None:
    """The text of a file (UTF-8); None when nothing there can be read as one, or it is too large."""
    try:
        return reading.text(path)
    except (OSError, ValueError):
        return None


def hand_back(folder: Path) -> None:
    """Gives the files of root in ``folder`` to the person who called sudo, if the folder above is theirs.

    Links are not followed; a file with several names stays as it is. Nothing happens without sudo.
    """
    owner, group = (int(os.environ.get(name, "0")) for name in ("SUDO_UID", "SUDO_GID"))
    if os.geteuid() or not owner or not folder.is_dir() or folder.parent.stat().st_uid != owner:
        return
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            seen = path.lstat()
            if seen.st_uid == 0 and (seen.st_nlink == 1 or stat.S_ISDIR(seen.st_mode)):
                os.chown(path, owner, group, follow_symlinks=False)


#: The umask that labkit sets while it writes files (umask(2)): new files are writable for their owner alone.
ORDINARY = 0o022


class _Mask:
    """The umask of the process while blocks run that set it, side by side or nested."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.own = ORDINARY

    def enter(self) -> None:
        with self.lock:
            if self.users == 0:
                self.own = os.umask(ORDINARY)
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                os.umask(self.own)


_mask = _Mask()


@contextmanager
def usual_umask() -> Iterator[None]:
    """While the block runs, new files of this process and of the programs that it starts have their
    ordinary modes, whatever its user's mask is; files that are made with a mode of their own keep it."""
    _mask.enter()
    try:
        yield
    finally:
        _mask.leave()


#: Error numbers of a full disk, and of a used-up quota.
FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: Exception) -> bool:
    """Whether something failed because a disk is full. Pure."""
    if isinstance(error, LabkitError):
        return "no space left on device" in str(error).lower()
    return isinstance(error, OSError) and error.errno in FULL


def folder_key(lab: Lab, place: Path) -> str:
    """The key of lab.toml that has the folder in which a place is; '' when it is in none of the lab's. Pure."""
    folders = {
        "state": Path(lab.state),
        "cache": lab.cache_dir,
        "run": Path(lab.run),
        "outputs": Path(lab.outputs),
    }
    held = {key: folder for key, folder in folders.items() if place.is_relative_to(folder)}
    return max(held, key=lambda key: len(held[key].parts), default="")


def disk_full_remedy(lab: Lab, place: Path, first: str = "free space") -> str:
    """The remedy for a full disk: ``first``, or another place for the lab's folder on it. Pure."""
    key = folder_key(lab, place)
    return f"{first}, or set `{key}` to a folder on a larger disk" if key else first


def explain_disk_full(error: Exception, lab: Lab) -> Exception:
    """Returns the error; for a full disk, one that names the lab's folder on it, the folder's key, and a remedy."""
    if not is_full(error) or getattr(error, "code", "") == "build.disk-full":
        return error
    if isinstance(error, LabkitError) and error.code.endswith("disk-full"):
        place, reason, known = Path(error.value), error.reason, error
    else:
        place = _place(error, lab)
        known = of_system(OSError(errno.ENOSPC, "No space left on device"), str(place))
        left = human_bytes(shutil.disk_usage(existing(place)).free)
        what = excerpt(str(error).partition("\n")[0])
        reason = f"its disk is full ({left} left): {what}"
    if not folder_key(lab, place):
        return error
    return MachineError(
        str(place),
        reason,
        f"{disk_full_remedy(lab, place, known.remedy.partition(';')[0])}; then run it again",
        f"df -h {existing(place)}",
        code=known.code,
    )


def _place(error: Exception, lab: Lab) -> Path:
    """The lab's full folder: the one that the error names, else the one with the least free space."""
    named = getattr(error, "filename", None)
    if isinstance(named, str) and folder_key(lab, Path(named)):
        return existing(Path(named))
    folders = (lab.state_dir, lab.run_dir, lab.cache_dir, lab.output_dir)
    return min(folders, key=lambda folder: shutil.disk_usage(existing(folder)).free)
