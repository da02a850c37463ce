"""Entries of the cache: built whole or not at all, and removed when no lab uses them.

A build happens in a folder beside its place and is renamed when it is whole. A killed build leaves files in that folder
and nothing else; the next build of the same thing removes them. An entry is used while a lab holds it
(:mod:`labkit.core.cache`), while it is mounted or open, and while it is being built: its lock is held. ``collect``
removes each unused entry under its lock, and renames it first, so that no reader finds half of it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from labkit import reading
from labkit.core import cache, files, probes, undo
from labkit.core.files import existing
from labkit.core.journal import Journal, lock, not_root
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted, human_bytes
from labkit.errors import BuildError, CommandError, LockError
from labkit.farm.rootfs import packages
from labkit.farm.rootfs.contents import scan
from labkit.kernel import proc
from labkit.model.lab import Lab
from labkit.records import Record

R = TypeVar("R", bound=Record)
log = logging.getLogger("labkit.gc")

#: How long one build waits for another of the same thing (seconds).
PATIENCE = 3600.0


#: With less than this left (bytes) a failure is taken for that of a full disk.
NEARLY_FULL = 4_000_000


#: The name of a folder that is being made, or that is being removed.
PART = re.compile(r"\.(?P<name>.+?)(\.[0-9a-f]+)*\.part")


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


def made_once(
    lab: Lab, place: Path, use: str, find: Callable[[], R | None], make: Callable[[], R]
) -> tuple[R, bool]:
    """Returns the record of the entry at ``place``, and whether it had to be made; the lab holds it as its ``use``.

    Two labkits that ask for the same entry at a time make it once.
    """
    with lock(lab.cache_dir / "locks", place.name, wait=PATIENCE):
        cache.hold(lab, use, place)
        kept = find()
        return kept or make(), kept is None


def recorded(place: Path, kind: type[R], **found: Path) -> R | None:
    """The record of an undamaged entry, which is in a file of the record's name (``rootfs.json``); otherwise None.

    :param found: values of the record that say where it was found.
    """
    if cache.whole(place):
        with suppress(OSError, ValueError):  # removed since
            text = reading.content(place / f"{kind.__name__.lower()}.json")
            return kind.model_validate_json(text).model_copy(update=found)
    return None


def write_record(work: Path, value: Record) -> None:
    """Writes the record of an entry that is being made; :func:`recorded` reads it."""
    name = f"{type(value).__name__.lower()}.json"
    files.write_atomically(work / name, value.model_dump_json(indent=1))


def discard(lab: Lab, folder: Path) -> None:
    """Removes a folder of the lab's own, if it is there."""
    undo.remove_folder(lab, path=str(folder))


@contextmanager
def scratch(lab: Lab, folder: Path) -> Iterator[Path]:
    """An empty folder that is removed after the block; the journal has it, should labkit be killed."""
    discard(lab, folder)
    journal = Journal.of(lab)
    journal.intend("folder", path=str(folder))
    try:
        folder.mkdir(parents=True)
        yield folder
    finally:
        discard(lab, folder)
        journal.forget("folder", path=str(folder))


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


def size(root: Path) -> int:
    """What the files and folders of a folder weigh in bytes: apparent size, hard links once, as
    ``du -sb`` counts (later ones than coreutils 9.1 leave out the folders themselves)."""
    return sum(file.size for file in scan(root))


def _failed(lab: Lab, folder: Path, *, what: str, error: CommandError | OSError) -> BuildError:
    reason, remedy, again = (
        str(error),
        "look at it with the command below, then run this again",
        f"ls -la {folder}",
    )
    if full := _is_full(error, folder):
        reason = f"the disk of {folder} is full; incomplete files were removed"
        remedy, again = files.disk_full_remedy(lab, folder), f"df -h {folder}"
    elif isinstance(error, CommandError):
        passes = "the lines above come from that program; after a network fault, try again"
        reason, again = f"{error.value}: {error.reason}", error.again
        remedy = error.remedy or passes
    return BuildError(
        what, reason, remedy, again, code="build.disk-full" if full else "build.failed"
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


#: The folders of a cache in which each folder is one thing, and how the lock of each is called.
KINDS: dict[str, Callable[[str], str]] = {
    "rootfs": lambda name: name,
    "images": lambda name: name,
    "lists": lambda name: name,
    "unpacked": lambda name: f"unpacked-{name}",
    "mediawiki": lambda _: "mediawiki",
}


class Thing(Record):
    """Something in the cache that nobody uses: its kind, place, why it is there, and the bytes on the disk
    that its removal frees."""

    kind: str
    path: Path
    why: str
    bytes: int


class Collected(Record):
    """What was removed (``dry``: what would be), what is used, and the bytes of both."""

    dry: bool
    removed: tuple[Thing, ...]
    used: dict[str, str]
    bytes: int


@action("cache.collect")
def collect(lab: Lab, *, dry: bool = False) -> Outcome[Collected]:
    """Removes from the cache what no lab of the machine uses; with ``dry`` only lists it."""
    if not os.access(lab.cache_dir if lab.cache_dir.exists() else "/", os.W_OK):
        raise not_root(str(lab.cache_dir))
    used = users(lab)
    removed = tuple(_removed(lab, used, dry=dry))
    value = Collected(
        dry=dry,
        removed=removed,
        used={str(path): ", ".join(names) for path, names in sorted(used.items())},
        bytes=sum(thing.bytes for thing in removed),
    )
    return Outcome(
        value=value,
        subject=str(lab.cache_dir),
        changed=bool(removed) and not dry,
        summary=_summary(value),
        tables=(_table(value),),
    )


def users(lab: Lab) -> dict[Path, tuple[str, ...]]:
    """The folders of the cache that are used, each by whom."""
    beside = [path for path in lab.state_dir.parent.glob("[!.]*") if path.is_dir()]
    found = dict(cache.held(lab.cache_dir, *beside))
    for path in open_places(lab.cache_dir):
        found[path] = (*found.get(path, ()), "mounted or open")
    newest = _newest(lab.cache_dir / "mediawiki")
    for path in (lab.cache_dir / "mediawiki").glob("[!.]*"):
        if path == newest or _named(path.name, beside):
            found[path] = (*found.get(path, ()), "the wiki")
    return found


def open_places(shared: Path) -> frozenset[Path]:
    """The folders of a cache that are part of a mount in any namespace, or that a process works in."""
    pattern = re.compile(re.escape(str(shared)) + r"/([a-z]+)/([^/:,\s\\]+)")
    texts = {text for process in Path("/proc").glob("[0-9]*") for text in _seen(process)}
    pairs = {pair for text in texts for pair in pattern.findall(text)}
    return frozenset(shared / kind / name for kind, name in pairs)


def _seen(process: Path) -> Iterator[str]:
    """What a process sees mounted, and where it is."""
    with suppress(OSError):
        yield proc.plain(proc.mountinfo(process.name))
    for name in ("cwd", "root", "exe"):
        with suppress(OSError):
            yield str((process / name).readlink())


def _newest(folder: Path) -> Path | None:
    return max(folder.glob("[!.]*"), key=cache.sealed, default=None)


def _named(version: str, states: Iterable[Path]) -> bool:
    """Whether a lab's wiki notes that it was made for this version."""
    files = (path for state in states for path in (state / "wiki").glob("*.json"))
    return any(version in path.read_text(encoding="utf-8", errors="replace") for path in files)


def _removed(lab: Lab, used: Collection[Path], *, dry: bool) -> Iterator[Thing]:
    for kind, named in KINDS.items():
        for path in sorted(set((lab.cache_dir / kind).glob("*")).difference(used)):
            part = PART.fullmatch(path.name)
            why = "a build that was killed left it" if part else "no lab uses it"
            thing = Thing(kind=kind, path=path, why=why, bytes=freed(path))
            name = named(part["name"] if part else path.name)
            if _gone(lab, path, name, dry=dry):
                yield thing
    for path in sorted((lab.cache_dir / "labs").glob("*")):
        if not path.is_dir():
            yield Thing(kind="labs", path=path, why="that lab's state is gone", bytes=0)
            if not dry:
                path.unlink()
    yield from _downloads(lab, used, dry=dry)


def _gone(lab: Lab, path: Path, name: str, *, dry: bool) -> bool:
    """Removes a folder unless somebody builds it, or has begun to use it; says whether it did."""
    aside = path if path.name.endswith(".part") else path.with_name(f".{path.name}.part")
    try:
        with lock(lab.cache_dir / "locks", name, wait=0):
            if path in cache.held(lab.cache_dir):  # what is mounted is held before it is
                return False
            if not dry:
                if aside != path:
                    shutil.rmtree(aside, ignore_errors=True)
                    path.rename(aside)
                shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
            return True
    except LockError:
        log.info("%s is being built", path)
        return False


def freed(path: Path) -> int:
    """The bytes on the disk that the removal of a file or a folder frees: a file that has another name
    elsewhere stays."""
    seen: dict[tuple[int, int], list[int]] = {}
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        status = file.lstat()
        links = status.st_nlink if not file.is_dir() or file.is_symlink() else 1
        found = seen.setdefault((status.st_dev, status.st_ino), [links, 0, status.st_blocks * 512])
        found[1] += 1
    return sum(size for links, names, size in seen.values() if names >= links)


def _downloads(lab: Lab, used: Collection[Path], *, dry: bool) -> Iterator[Thing]:
    """Downloaded packages that no used root file system has, and what downloads that were killed left."""
    kept = _kept_packages(path for path in used if path.parent.name in ("rootfs", "unpacked"))
    for path in sorted(file for file in (lab.cache_dir / "debian").rglob("*") if file.is_file()):
        why = ""
        if PART.fullmatch(path.name):
            writer = path.name.rsplit(".", 3)[1]  # .NAME.PID.RANDOM.part
            if not Path("/proc", writer).exists():
                why = "a download that was killed left it"
        elif not kept:
            why = "no root file system is used"
        elif path.name.partition("@")[0] not in kept:
            why = "no root file system that is used has this package"
        if why:
            yield Thing(kind="downloads", path=path, why=why, bytes=freed(path))
            if not dry:
                path.unlink(missing_ok=True)


def _kept_packages(places: Iterable[Path]) -> frozenset[str]:
    """The names of the package files that root file systems were made from."""
    found = set()
    for place in places:
        with suppress(Exception):  # one that is damaged keeps nothing
            for item in packages.read(place / "rootfs"):
                found.add(file_name(item.name, item.version, item.architecture))
    return frozenset(found)


def file_name(name: str, version: str, architecture: str) -> str:
    """How a package's file is called on a mirror: without its epoch (deb-version(7)). Pure."""
    return f"{name}_{version.partition(':')[2] or version}_{architecture}.deb"


def _summary(value: Collected) -> str:
    does = "would be" if value.dry else "were"
    return (
        f"{counted(len(value.removed), 'thing')} that no lab uses {does} removed: {human_bytes(value.bytes)}; "
        f"{len(value.used)} are used."
    )


def _table(value: Collected) -> Table:
    """One row a kind and a reason, and one for each folder."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for thing in value.removed:
        name = "(files)" if thing.kind == "downloads" else thing.path.name
        groups.setdefault((thing.kind, name, thing.why), []).append(thing.bytes)
    rows: list[dict[str, Cell]] = [
        {"kind": kind, "name": name, "things": len(sizes), "bytes": sum(sizes), "why": why}
        for (kind, name, why), sizes in groups.items()
    ]
    title = "What no lab uses" if value.dry else "What no lab used, and is gone"
    columns = ("kind", "name", "things", "bytes", "why")
    return Table.of("collected", title, rows, units={"bytes": "bytes"}, columns=columns)
