"""The files of a root file system, in one pass: path, form and weight, each byte once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

Form = Literal["file", "folder", "link", "device"]


class File(NamedTuple):
    """One name in a root file system (a plain tuple: there are thousands of them).

    ``path`` begins with ``/``, the root itself; ``size`` is the apparent size and ``disk`` what the
    file takes on its disk, in bytes, as du(1) counts both: a file with holes takes less than
    its size, and of several names of one file (hard links) all but the first weigh nothing.
    ``target`` is where a symbolic link points to, as it is written in it.
    """

    path: str
    form: Form
    size: int
    disk: int
    executable: bool = False
    target: str = ""


def scan(*roots: Path) -> tuple[File, ...]:
    """The files below ``roots``, by path; of a name in several of them the first root's counts.

    Several roots are an image's layers, the topmost first, none of which removes a file.
    """
    found: dict[str, tuple[os.stat_result, str]] = {}
    for root in reversed(roots):
        found["/"] = (root.lstat(), "")
        found.update(_below(str(root), ""))
    seen: set[tuple[int, int]] = set()
    return tuple(_file(path, *found[path], seen) for path in sorted(found))


def _below(folder: str, prefix: str) -> Iterator[tuple[str, tuple[os.stat_result, str]]]:
    """Path below the root -> what stat(2) says, and a link's target."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{prefix}/{entry.name}"
            target = str(Path(entry.path).readlink()) if entry.is_symlink() else ""
            yield path, (entry.stat(follow_symlinks=False), target)
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, path)


def _file(path: str, status: os.stat_result, target: str, seen: set[tuple[int, int]]) -> File:
    form = _form(status.st_mode)
    size, disk = status.st_size, status.st_blocks * 512  # st_blocks: inode(7)
    if status.st_nlink > 1 and form != "folder":
        inode = (status.st_dev, status.st_ino)
        if inode in seen:
            size = disk = 0
        seen.add(inode)
    executable = form == "file" and bool(status.st_mode & 0o111)
    return File(path, form, size, disk, executable, target)


def _form(mode: int) -> Form:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "device"
