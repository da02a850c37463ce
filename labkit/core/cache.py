"""The cache that all labs of the machine share: which lab uses which folder, and whether a folder is undamaged.

A folder is sealed when it is complete: a list in it has the mode, owner, size and hash of each file. It is checked
against that list when it is first used in a boot, and again when a file's times, as stat(2) tells them, have changed
since; reading the times takes a hundredth of reading the files.

A lab's state folder has a link for each folder that it uses (``uses/rootfs-minbase``); the cache has a link to each
such state folder. A lab that was taken down, or whose state is gone, uses nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from labkit import reading
from labkit.core.files import beside, text_of, write_atomically
from labkit.core.journal import Journal, boot_id
from labkit.display import counted
from labkit.model.lab import Lab

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
    """Lists everything in a folder, so that later changes are noticed.

    Files that are put directly into the folder later are not covered.
    """
    (folder / SEAL).unlink(missing_ok=True)
    tops = sorted(item.name for item in folder.iterdir() if item.name != HELD)
    marks = _marks(folder, dict(_walk(folder, tops)))
    write_atomically(folder / SEAL, f"{json.dumps(tops)}\n{json.dumps(marks)}\n")
    with suppress(OSError):
        write_atomically(folder / HELD, _stamp(folder, tops))


def added(folder: Path) -> tuple[Path, ...]:
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
    """Whether a folder is as it was sealed; the names of damaged files are logged."""
    try:
        wrong = damage(folder)
    except FileNotFoundError:
        return False
    if wrong:
        log.warning("%s is damaged, and made again: %s", folder, some_names(wrong))
    return not wrong


def fault(folders: Iterable[Path]) -> str:
    """What is wrong with sealed folders, in words; '' for nothing."""
    for folder in folders:
        try:
            wrong = damage(folder)
        except FileNotFoundError:
            return f"{folder} is missing"
        if wrong:
            return f"damaged: {some_names(f'{folder}/{name}' for name in wrong)}"
    return ""


def some_names(names: Iterable[str]) -> str:
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


def _stamp(folder: Path, tops: Iterable[str]) -> str:
    """A text that differs in each boot, and whenever a file was written: programs can set back a file's mtime, and not its
    ctime."""
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


def hold(lab: Lab, what: str, place: Path) -> None:
    """Notes that the lab uses ``place``, a folder in the cache, as its ``what``, and no longer the folder before."""
    folder = lab.state_dir / "uses"
    if _leads(folder / what, place) and _leads(_known(lab), lab.state_dir):
        return
    Journal.of(lab).intend("folder", path=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    _known(lab).parent.mkdir(parents=True, exist_ok=True)
    _link(_known(lab), lab.state_dir)
    _link(folder / what, place)


def held(cache: Path, *labs: Path) -> dict[Path, tuple[str, ...]]:
    """The folders of a cache that are in use, each with the names of the labs that use it.

    :param labs: state folders to look into, beside those that the cache knows of.
    """
    known = [path.readlink() for path in (cache / "labs").glob("*") if path.is_symlink()]
    found: dict[Path, tuple[str, ...]] = {}
    for state in sorted({*known, *labs}):
        for link in (state / "uses").glob("*"):
            with suppress(OSError):
                place = link.readlink()
                found[place] = (*found.get(place, ()), state.name)
    return found


def _known(lab: Lab) -> Path:
    name = hashlib.sha256(os.fsencode(lab.state_dir)).hexdigest()[:12]
    return lab.cache_dir / "labs" / f"{lab.name}-{name}"


def _leads(link: Path, place: Path) -> bool:
    try:
        return link.readlink() == place
    except OSError:
        return False


def _link(link: Path, place: Path) -> None:
    """Makes a link whole or not at all, also over one that leads elsewhere."""
    with suppress(FileExistsError):
        link.symlink_to(place)
    if not _leads(link, place):
        part = beside(link)
        part.symlink_to(place)
        part.replace(link)
