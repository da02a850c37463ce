"""Whose each file of a root file system is. Pure.

The first of these that is so: a package lists it; ucf or update-alternatives keeps it for a
package; it is the package tools' own state; a package's scripts are known to make it
(:mod:`labkit.farm.rootfs.owner_rules`), or it is a link to a package's file, as scripts set them, or
the scripts of exactly one package name it; the program that built the root file system is known
to write it; a package has systemd-tmpfiles make it. What is left belongs to nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from labkit.farm.rootfs import database, owner_rules
from labkit.farm.rootfs.database import Database
from labkit.farm.rootfs.files import File

How = Literal["package", "alternative", "script", "state", "shared", "builder", "nobody"]

#: What each way to own a file means, as a table says it.
MEANING: Mapping[How, str] = {
    "package": "files of a package, as dpkg lists them",
    "alternative": "links of update-alternatives",
    "script": "made by a package's maintainer scripts",
    "state": "state of dpkg, apt and debconf",
    "shared": "folders that several packages list",
    "builder": "written by the program that built it",
    "nobody": "nobody's",
}


class Owner(NamedTuple):
    """How a file came to be there, and the package that it is owed to ('' where it is to none)."""

    how: How
    package: str = ""


NOBODY = Owner("nobody")
#: dpkg's files of one package.
INFO = re.compile(r"/var/lib/dpkg/info/([^/:]+)(?::[^/.]+)?\.[a-z0-9]+")
#: How many links are followed before they are taken for a circle.
HOPS = 8


def attribute(files: Iterable[File], known: Database) -> dict[str, Owner]:
    """The owner of each file, by its path."""
    here = {file.path: file for file in files}
    real = database.resolver({path: file.target for path, file in here.items() if file.target})
    finder = _Finder(
        here=here,
        real=real,
        listed=database.listed(known, real),
        alternatives=frozenset(map(real, known.alternatives)),
        kept={real(path): package for path, package in known.kept.items()},
        installed=frozenset(package.name for package in known.packages),
        named=_named(known),
        wanted={real(path): package for path, package in known.wanted.items()},
    )
    return {path: finder.owner(path) for path in here}


class _Finder(NamedTuple):
    """What the owners are found with, by real paths."""

    here: Mapping[str, File]
    real: Callable[[str], str]
    listed: Mapping[str, tuple[str, ...]]
    alternatives: frozenset[str]
    kept: Mapping[str, str]
    installed: frozenset[str]
    named: Callable[[str], str]
    wanted: Mapping[str, str]

    def owner(self, path: str, hops: int = 0) -> Owner:
        lists = self.listed.get(path, ())
        if lists:
            return (
                Owner("shared")
                if len(lists) > 1 and self._joins(path)
                else Owner("package", lists[0])
            )
        if path in self.kept:
            return Owner("script", self.kept[path])
        if path in self.alternatives:
            return Owner("alternative", self._target(path, hops))
        if info := INFO.fullmatch(path):
            return Owner("state", info[1] if info[1] in self.installed else "")
        return self._unlisted(path, hops)

    def _unlisted(self, path: str, hops: int) -> Owner:
        if owner_rules.is_state(path):
            return Owner("state")
        if package := self._maker(path, hops):
            return Owner("script", package)
        if owner_rules.is_built(path):
            return Owner("builder")
        return Owner("script", self.wanted[path]) if path in self.wanted else NOBODY

    def _maker(self, path: str, hops: int) -> str:
        """The package whose scripts made a file that no package lists, '' for none."""
        if hops > HOPS:
            return ""
        made_from = (
            self.owner(self.real(item), hops + 1).package for item in owner_rules.sources(path)
        )
        return (
            owner_rules.maker(path, self.installed)
            or next(filter(None, made_from), "")
            or self._target(path, hops)
            or self.named(path)
        )

    def _target(self, path: str, hops: int) -> str:
        """The package of what a link points to; also when that is gone, as dpkg still lists it."""
        file = self.here.get(path)
        if file is None or not file.target or hops > HOPS:
            return ""
        return self.owner(self.real(database.joined(path, file.target)), hops + 1).package

    def _joins(self, path: str) -> bool:
        """Whether it is a folder, or a link where packages list one (``/bin``)."""
        file = self.here.get(path)
        return file is None or file.form in ("folder", "link")


def _named(known: Database) -> Callable[[str], str]:
    """A function from a path to the one package whose scripts name it; '' where none or several do."""
    names: dict[str, set[str]] = {}
    for package, text in known.scripts.items():
        for path in re.findall(r"/[\w.+/-]+\w", text):
            names.setdefault(path, set()).add(package)

    def find(path: str) -> str:
        packages = names.get(path, set())
        return next(iter(packages)) if len(packages) == 1 else ""

    return find
