"""A root file system as a plan: its files with the packages that they are owed to, before any is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from labkit.farm.rootfs import account, owners
from labkit.farm.rootfs.account import Weight
from labkit.farm.rootfs.files import File
from labkit.farm.rootfs.packages import STATUS, Package

#: Where packages' documentation is, and dpkg's notes on their files (name, architecture, kind).
DOCUMENTATION = "/usr/share/doc/"
INFO = re.compile(r"/var/lib/dpkg/info/(([^/:]+)(:[^/.]+)?)\.(list|md5sums)")
#: Links are followed at most so often.
HOPS = 8


class Item(NamedTuple):
    """One file or folder: where its content comes from (None for a new link), the package that it is owed to
    ('' for none), and its text where that was changed."""

    file: File
    source: Path | None
    package: str = ""
    text: str | None = None


class Tree:
    """The files of a root file system by path; never changed, always made anew."""

    def __init__(
        self, items: Mapping[str, Item], packages: tuple[Package, ...], entries: tuple[str, ...]
    ) -> None:
        """``entries`` are dpkg's lists of packages, one for each root file system of which files are here."""
        self.items = dict(sorted(items.items()))
        self.packages = packages
        self.entries = entries

    @classmethod
    def read(cls, root: Path) -> Tree:
        """The root file system in a folder."""
        contents = account.read(root.name, root)
        items = {
            file.path: Item(file, root / file.path[1:], contents.owners[file.path].package)
            for file in contents.files
        }
        return cls(items, contents.packages, ((root / STATUS).read_text(encoding="utf-8"),))

    @property
    def weight(self) -> Weight:
        """The sum of all files, as du(1) counts a folder."""
        return Weight.of(item.file for item in self.items.values())

    def without(self, paths: Collection[str]) -> Tree:
        """The same without these paths, without links that then lead nowhere, and without what lay in a
        folder that is gone."""
        gone = set(paths)
        while True:
            left = {p: i for p, i in self.items.items() if p not in gone and not _inside(p, gone)}
            tree = Tree(left, self.packages, self.entries)
            new = {p for p, i in left.items() if i.file.form == "link" and self._was(p, tree)}
            if not new:
                return tree
            gone |= new

    def having(self, items: Mapping[str, Item], source: Tree | None = None) -> Tree:
        """The same with these files, which replace those of the same path; ``source`` is the tree from
        which they are, when its packages are new here."""
        more, entries = (source.packages, source.entries) if source else ((), ())
        known = {package.name: package for package in (*more, *self.packages)}
        listed = tuple(known[name] for name in sorted(known))
        texts = tuple(dict.fromkeys((*self.entries, *entries)))
        return Tree({**self.items, **items}, listed, texts)

    def alive(self) -> frozenset[str]:
        """The packages that have a program, a library or data in the tree."""
        return frozenset(
            item.package
            for path, item in self.items.items()
            if item.package
            and item.file.form == "file"
            and path.startswith("/usr/")
            and not path.startswith(DOCUMENTATION)
        )

    def left(self) -> frozenset[str]:
        """The packages of which a file is left, other than dpkg's own notes."""
        return frozenset(
            item.package
            for path, item in self.items.items()
            if item.package and item.file.form != "folder" and not INFO.fullmatch(path)
        )

    def place(self, path: str) -> str | None:
        """Where the file really is that is called by ``path``, links followed; None when there is none."""
        for _ in range(HOPS):
            real = self.real(path)
            item = self.items.get(real)
            if item is None:
                return None
            if not item.file.target:
                return real
            path = owners.joined(real, item.file.target)
        return None

    def data(self, path: str) -> bytes:
        """The content of the file that is really at ``path``; nothing for a folder."""
        item = self.items[path]
        if item.text is not None:
            return item.text.encode()
        return item.source.read_bytes() if item.source and item.file.form == "file" else b""

    def _was(self, path: str, other: Tree) -> bool:
        """Whether a link led somewhere here and leads nowhere in ``other``."""
        return other.place(path) is None and self.place(path) is not None

    @cached_property
    def real(self) -> Callable[[str], str]:
        """A function from a path to where that name really lies (:func:`database.resolver`)."""
        links = {path: item.file.target for path, item in self.items.items() if item.file.target}
        return owners.resolver(links)


def _inside(path: str, folders: Collection[str]) -> bool:
    """Whether one of the folders above a path is among them."""
    above = path
    while above := above.rpartition("/")[0]:
        if above in folders:
            return True
    return False
