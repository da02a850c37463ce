"""Whether what labkit keeps in a folder is what it once put there, byte by byte.

A folder is sealed when it is whole: a list in it has the mode, owner, size and hash of each file. It is held
against that list when it is first used in a boot, and again when a file's times, as stat(2) tells them, are
not those of that moment; looking at those takes a hundredth of reading the files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from labkit import reading
from labkit.core.files import text_of, write_atomically
from labkit.core.journal import boot_id
from labkit.display import counted

log = logging.getLogger("labkit.cache")

#: The list of the files, and when it was last held against them.
SEAL, HELD = ".sealed", ".held"
#: What a folder without a list of its files has for damage.
UNSEALED = f"{SEAL} (missing or damaged)"
#: So many names of damaged files are told.
NAMED = 3
#: A file's mode, owner and group, and its size and hash, or where a link leads.
Mark = list[object]


def seal(folder: Path) -> None:
    """Everything that is in a folder now is what has to be in it from now on.

    What is put beside it later, directly into the folder, is not covered.
    """
    (folder / SEAL).unlink(missing_ok=True)
    tops = sorted(item.name for item in folder.iterdir() if item.name != HELD)
    marks = _marks(folder, dict(_walk(folder, tops)))
    write_atomically(folder / SEAL, f"{json.dumps(tops)}\n{json.dumps(marks)}\n")
    _hold(folder, tops)


def beside(folder: Path) -> tuple[Path, ...]:
    """What was put into a sealed folder after it was sealed."""
    return tuple(
        item
        for item in sorted(folder.iterdir())
        if item.name not in (SEAL, HELD, *_sealed(folder)[0])
    )


def sealed(folder: Path) -> str:
    """When a folder was sealed, '' for one that is not: another text for what was made again."""
    try:
        return str((folder / SEAL).stat().st_mtime_ns)
    except OSError:
        return ""


def damage(folder: Path, *, anew: bool = False) -> tuple[str, ...]:
    """The files of a sealed folder that are not as they were sealed: changed, missing, or added.

    :param anew: all of them are read, also those that were already read in this boot.
    :raises FileNotFoundError: there is no such folder.
    """
    folder.stat()
    tops, listed = _sealed(folder)
    if tops and not anew and text_of(folder / HELD) == _stamp(folder, tops):
        return ()
    try:
        wanted: dict[str, Any] = dict(reading.parsed(listed))
    except (ValueError, TypeError):
        return (UNSEALED,)
    held = _stamp(
        folder, tops
    )  # before the files are read: what is written meanwhile counts as new
    found = _marks(folder, dict(_walk(folder, tops)))
    wrong = sorted(
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    )
    with suppress(OSError):  # somebody who may only read
        if wrong:
            (folder / HELD).unlink()
        else:
            write_atomically(folder / HELD, held)
    return tuple(wrong)


def whole(folder: Path) -> bool:
    """Whether a folder is there as it was sealed; a damaged one is told, by its files' names."""
    try:
        wrong = damage(folder)
    except FileNotFoundError:
        return False
    if wrong:
        log.warning("%s is damaged, and made again: %s", folder, told(wrong))
    return not wrong


def fault(folders: Iterable[Path]) -> str:
    """What is wrong with sealed folders, in words, '' when nothing is."""
    for folder in folders:
        try:
            wrong = damage(folder)
        except FileNotFoundError:
            return f"{folder} is missing"
        if wrong:
            return f"damaged: {told(f'{folder}/{name}' for name in wrong)}"
    return ""


def told(names: Iterable[str]) -> str:
    """Damaged files in a few words."""
    every = [*names]
    more = len(every) - NAMED
    said = ", ".join(every[:NAMED])
    return f"{said} and {counted(more, 'more file')}" if more > 0 else said


def _sealed(folder: Path) -> tuple[tuple[str, ...], str]:
    """The names of what lay directly in a folder when it was sealed, and the list of all files as JSON; nothing where
    that is not known."""
    tops, _, listed = (text_of(folder / SEAL) or "").partition("\n")
    try:
        return tuple(str(name) for name in reading.parsed(tops)), listed
    except (ValueError, TypeError):
        return (), ""


def _hold(folder: Path, tops: Sequence[str]) -> None:
    with suppress(OSError):
        write_atomically(folder / HELD, _stamp(folder, tops))


def _stamp(folder: Path, tops: Iterable[str]) -> str:
    """Another text in each boot, and whenever a file was written: nobody can set the time of its last change (ctime)
    back, as that of its content (mtime)."""
    listed = (folder / SEAL).stat()
    lines = [
        f"{name} {seen.st_ino} {seen.st_size} {seen.st_ctime_ns}"
        for name, seen in _walk(folder, tops)
        if not stat.S_ISDIR(seen.st_mode)
    ]
    text = "\n".join([boot_id(), f"{listed.st_ino} {listed.st_ctime_ns}", *sorted(lines)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _walk(folder: Path, tops: Iterable[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Everything in these parts of a folder, by its path below the folder; links are not followed."""
    waiting = []
    for name in tops:
        with suppress(FileNotFoundError):
            seen = os.lstat(folder / name)
            yield name, seen
            if stat.S_ISDIR(seen.st_mode):
                waiting.append(name)
    while waiting:
        place = waiting.pop()
        with os.scandir(folder / place) as items:
            for item in items:
                name, seen = f"{place}/{item.name}", item.stat(follow_symlinks=False)
                yield name, seen
                if stat.S_ISDIR(seen.st_mode):
                    waiting.append(name)


def _marks(folder: Path, seen: dict[str, os.stat_result]) -> dict[str, Mark]:
    """What the list has of each of these; the files are read side by side."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        contents = pool.map(lambda item: _content(folder, *item), seen.items())
        return {
            name: [s.st_mode, s.st_uid, s.st_gid, *content]
            for (name, s), content in zip(seen.items(), contents, strict=True)
        }


def _content(folder: Path, name: str, seen: os.stat_result) -> tuple[object, ...]:
    path = folder / name
    if stat.S_ISLNK(seen.st_mode):
        return (str(path.readlink()),)
    if not stat.S_ISREG(seen.st_mode):
        return (seen.st_rdev,)
    try:
        return (seen.st_size, digest(path))
    except OSError as error:  # removed since, or on a disk that does not give it back
        return (seen.st_size, str(error))


def digest(path: Path) -> str:
    """The hash of a file's content (SHA-256)."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
