"""Files written whole or not at all, and given to the person who called sudo."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from labkit import reading
from labkit.errors import StateError

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
    """The same of a text that :func:`proven` reads: its hash stands above it."""
    write_atomically(path, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def proven(path: Path) -> str | None:
    """The text that was written there by :func:`write_proven`; None when there is none, or, which is told,
    another one."""
    found = text_of(path)
    if found is None:
        return None
    digest, _, text = found.partition("\n")
    if digest == hashlib.sha256(text.encode()).hexdigest():
        return text
    log.warning("%s is damaged, and made again", path)
    return None


def beside(path: Path) -> Path:
    """A name in the same folder for what is not whole yet: its own for each process and each thread."""
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
    """No folder is there, and it was there whole until it was not: it is put aside first, so that nobody takes
    what a killed call has left of it for all of it. The next call removes that, too.

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
    """What root owns in ``folder`` belongs to the person who called sudo, if the folder's place is theirs.

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
