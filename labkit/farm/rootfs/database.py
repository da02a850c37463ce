"""What dpkg and its companions know of the files of a root file system. The parsers are pure.

Read are dpkg's file lists, its diversions and alternatives (dpkg(1), dpkg-divert(1),
update-alternatives(1)), and the files that ucf(1) keeps for packages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from labkit.farm.rootfs import packages
from labkit.farm.rootfs.packages import Package

#: dpkg's own folder below a root folder.
DPKG = "var/lib/dpkg"
#: A package's scripts beside its file list; ``.triggers`` names the files that wake one.
SCRIPTS = ("preinst", "postinst", "config", "triggers")
#: Where packages write down what systemd-tmpfiles(8), which their scripts start, is to make.
TMPFILES = PurePosixPath("/usr/lib/tmpfiles.d")


class Diversion(NamedTuple):
    """A file of every package but ``package`` is at ``away`` instead of ``path``."""

    path: str
    away: str
    package: str


class Database(NamedTuple):
    """What is known of the files, with paths as the packages write them.

    ``lists``: package -> its files and folders. ``alternatives``: the links that
    update-alternatives made. ``kept``: file -> the package for which ucf keeps it. ``scripts``:
    package -> the text of its maintainer scripts. ``wanted``: path -> the package that has
    systemd-tmpfiles make it.
    """

    packages: tuple[Package, ...]
    lists: Mapping[str, tuple[str, ...]]
    diversions: tuple[Diversion, ...]
    alternatives: frozenset[str]
    kept: Mapping[str, str]
    scripts: Mapping[str, str]
    wanted: Mapping[str, str]


def read(root: Path) -> Database:
    """The database of the root file system; raises StateError where dpkg has none."""
    info = root / DPKG / "info"
    lists: dict[str, tuple[str, ...]] = {}
    for path in sorted(info.glob("*.list")):
        name = package_of(path.name)
        lists[name] = (*lists.get(name, ()), *parse_list(_text(path)))
    scripts: dict[str, str] = {}
    for ending in SCRIPTS:
        for path in sorted(info.glob(f"*.{ending}")):
            name = package_of(path.name)
            scripts[name] = scripts.get(name, "") + _text(path)
    return Database(
        packages=packages.read(root),
        lists=lists,
        diversions=parse_diversions(_text(root / DPKG / "diversions")),
        alternatives=frozenset(
            link
            for path in sorted((root / DPKG / "alternatives").glob("*"))
            for link in parse_alternative(path.name, _text(path))
        ),
        kept=parse_registry(_text(root / "var/lib/ucf/registry")),
        scripts=scripts,
        wanted={
            wanted: name
            for name, paths in lists.items()
            for path in paths
            if PurePosixPath(path).parent == TMPFILES
            for wanted in parse_tmpfiles(_text(root / path[1:]))
        },
    )


def package_of(name: str) -> str:
    """The package of a file in dpkg's folder ``info``: ``libc6:amd64.list`` is libc6's."""
    return PurePosixPath(name).stem.partition(":")[0]


def parse_list(text: str) -> tuple[str, ...]:
    """The absolute paths of a file list; the root folder is in each as ``/.``."""
    return tuple("/" if line == "/." else line for line in text.splitlines() if line)


def parse_diversions(text: str) -> tuple[Diversion, ...]:
    """Three lines a diversion; the package is ``:`` for one that the administrator made."""
    lines = text.splitlines()
    return tuple(map(Diversion, lines[0::3], lines[1::3], lines[2::3]))


def parse_alternative(name: str, text: str) -> tuple[str, ...]:
    """The links of one alternative and of those that follow it, also the ones in /etc/alternatives.

    The file: a state, the link, then (name, link) for each follower up to an empty line.
    """
    head = text.split("\n\n", maxsplit=1)[0].splitlines()[1:]
    return (*head[0::2], *(f"/etc/alternatives/{item}" for item in (name, *head[1::2])))


def parse_registry(text: str) -> dict[str, str]:
    """ucf's registry: ``package path`` a line."""
    rows = (line.split(maxsplit=1) for line in text.splitlines())
    return {row[1]: row[0] for row in rows if len(row) == 2}


def parse_tmpfiles(text: str) -> tuple[str, ...]:
    """The paths of a file for systemd-tmpfiles (tmpfiles.d(5)): the second word of each line."""
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return tuple(row[1] for row in rows if len(row) > 1)


def resolver(links: Mapping[str, str]) -> Callable[[str], str]:
    """A function from a path to where that name really lies, given all symbolic links (path -> target).

    Folders that are links are followed (``/bin/sh`` lies at ``/usr/bin/sh``), the last
    part of the path is not. The caller may follow that itself: ``/usr/bin/sh`` -> ``dash``.
    """
    known: dict[str, str] = {"/": "/"}

    def folder(path: str) -> str:
        if path not in known:
            known[path] = path  # a circle of links ends here
            place = name(path)
            target = links.get(place)
            known[path] = place if target is None else folder(joined(place, target))
        return known[path]

    def name(path: str) -> str:
        if path == "/":
            return path
        above, _, last = path.rpartition("/")
        return f"{folder(above or '/').rstrip('/')}/{last}"

    return name


def joined(link: str, target: str) -> str:
    """The absolute path that a link at ``link`` points to, without ``.`` and ``..``."""
    parts: list[str] = [] if target.startswith("/") else link.split("/")[1:-1]
    for part in target.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def listed(database: Database, real: Callable[[str], str]) -> dict[str, tuple[str, ...]]:
    """Where each file and folder of a package really lies -> the packages that list it, by name."""
    found: dict[str, list[str]] = {}
    for package, path in _claims(database):
        owners = found.setdefault(real(path), [])
        if package not in owners:
            owners.append(package)
    return {path: tuple(sorted(owners)) for path, owners in found.items()}


def _claims(database: Database) -> Iterator[tuple[str, str]]:
    """(package, path) for each line of the file lists, a diverted file at its other place."""
    away = {item.path: item for item in database.diversions}
    for package, paths in database.lists.items():
        for path in _unique(paths):
            item = away.get(path)
            yield package, item.away if item and item.package != package else path


def _unique(paths: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys(paths)


def _text(path: Path) -> str:
    """A file's text; '' where there is none."""
    if not path.is_file():
        return ""
    return path.read_text(encoding="utf-8", errors="replace")
