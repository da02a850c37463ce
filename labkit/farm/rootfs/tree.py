"""A root file system as a tree of files and their packages, changed in memory and then written."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from labkit.farm.rootfs.contents import Contents, File, Weight, joined, resolver
from labkit.farm.rootfs.packages import STATUS, Package

#: Where packages' documentation is, and dpkg's notes on their files (name, architecture, kind).
DOCUMENTATION = "/usr/share/doc/"
INFO = re.compile(r"/var/lib/dpkg/info/(([^/:]+)(:[^/.]+)?)\.(list|md5sums)")
DPKG = "/var/lib/dpkg/"
STATUS_FILE = f"{DPKG}status"
#: A paragraph's list of configuration files, and its lines.
CONFFILES = re.compile(r"^Conffiles:\n((?: .*\n?)*)", re.MULTILINE)
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
        contents = Contents.read(root.name, root)
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
            path = joined(real, item.file.target)
        return None

    def data(self, path: str) -> bytes:
        """The content of the file that is really at ``path``; nothing for a folder."""
        item = self.items[path]
        if item.text is not None:
            return item.text.encode()
        return item.source.read_bytes() if item.source and item.file.form == "file" else b""

    def write(self, target: Path, *, linked: bool = False) -> Tree:
        """Writes the tree into ``target``, an empty folder; returns it as it was written.

        ``linked`` files are further names of those that they are made from: for a folder that nobody writes into.

        dpkg's database has the packages that are left something of, and of these the files that are left: so
        the list of packages is true, and ``dpkg --verify`` finds every file as Debian made it.
        """
        whole = described(self)
        newest = max(_time(item) for item in whole.items.values())
        names: dict[tuple[int, int], str] = {}
        for path, item in whole.items.items():
            _put(item, f"{target}{path}", newest, names if not linked else None)
        for path, item in reversed(whole.items.items()):
            if item.file.form == "folder" and item.source:
                shutil.copystat(item.source, f"{target}{path}")
        return whole

    def _was(self, path: str, other: Tree) -> bool:
        """Whether a link led somewhere here and leads nowhere in ``other``."""
        return other.place(path) is None and self.place(path) is not None

    @cached_property
    def real(self) -> Callable[[str], str]:
        """A function from a path to where that name really lies (:func:`resolver`)."""
        links = {path: item.file.target for path, item in self.items.items() if item.file.target}
        return resolver(links)


def _inside(path: str, folders: Collection[str]) -> bool:
    """Whether one of the folders above a path is among them."""
    above = path
    while above := above.rpartition("/")[0]:
        if above in folders:
            return True
    return False


# -- writing -----------------------------------------------------------------------------------------


def described(tree: Tree) -> Tree:
    """The tree with dpkg's database of what is in it."""
    remaining = tree.left()
    tree = _adopted(tree, remaining)
    texts = {
        path: _noted(path, tree, found[2], found[4])
        for path, item in tree.items.items()
        if (found := INFO.fullmatch(path)) and item.file.form == "file" and found[2] in remaining
    }
    listed = {path for path in tree.items if INFO.fullmatch(path)}
    if STATUS_FILE in tree.items:
        texts[STATUS_FILE] = _status(tree, remaining)
    fewer = tree.without(listed - texts.keys())
    return fewer.having({path: _with_text(tree.items[path], text) for path, text in texts.items()})


def _adopted(tree: Tree, names: frozenset[str]) -> Tree:
    """Folders of packages that are gone are owed to the first package that has something in them."""
    heirs: dict[str, Item] = {}
    for path, item in tree.items.items():
        above = path
        while item.package in names and (above := above.rpartition("/")[0]):
            folder = tree.items[above]
            if folder.package and folder.package not in names:
                heirs.setdefault(above, folder._replace(package=item.package))
    return tree.having(heirs)


def _noted(path: str, tree: Tree, package: str, kind: str) -> str:
    """One of dpkg's files on a package: of the list of its files, those that its scripts made are part, too,
    as nobody else would know of them once the scripts are gone."""
    text = shortened(tree.data(path).decode("utf-8", "replace"), tree, kind)
    if kind != "list":
        return text
    known = {tree.real(line) for line in text.splitlines()}
    made = (p for p, i in tree.items.items() if i.package == package and p not in known)
    return text + "".join(f"{p}\n" for p in made if not p.startswith(DPKG))


def shortened(text: str, tree: Tree, kind: str) -> str:
    """A package's list of files, or of their MD5 sums, with those that are there."""
    kept = []
    for line in text.splitlines():
        path = line if kind == "list" else f"/{line.partition('  ')[2]}"
        real = tree.real("/" if path == "/." else path)
        if real in tree.items and tree.items[real].text is None:
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def _status(tree: Tree, names: Iterable[str]) -> str:
    """dpkg's list of packages, with those names and the configuration files that are there."""
    paragraphs = []
    for text in re.split(r"\n\n+", "\n\n".join(tree.entries)):
        found = re.search(r"^Package: (\S+)$", text, re.MULTILINE)
        if found and found[1] in names:
            paragraphs.append(CONFFILES.sub(lambda m: _conffiles(m[1], tree), f"{text}\n"))
    return "\n".join(paragraphs)


def _conffiles(lines: str, tree: Tree) -> str:
    kept = [line for line in lines.splitlines() if tree.real(line.split()[0]) in tree.items]
    return "Conffiles:\n" + "".join(f"{line}\n" for line in kept) if kept else ""


def _with_text(item: Item, text: str) -> Item:
    return item._replace(text=text, file=item.file._replace(size=len(text.encode())))


def _put(item: Item, target: str, newest: float, names: dict[tuple[int, int], str] | None) -> None:
    """Writes one file; a new link and a file with another text are as old as the newest file."""
    form, source = item.file.form, item.source
    status = source.lstat() if source else None
    inode = (status.st_dev, status.st_ino) if status else (0, 0)
    if item.text is not None:
        Path(target).write_text(item.text, encoding="utf-8")
    elif source is None or status is None:
        Path(target).symlink_to(item.file.target)
    elif form == "folder":
        Path(target).mkdir(exist_ok=True)
    elif form == "device":
        os.mknod(target, status.st_mode, status.st_rdev)
    elif names is None or inode in names:
        os.link(names[inode] if names else source, target, follow_symlinks=False)
        return
    else:
        names[inode] = target
        shutil.copy2(source, target, follow_symlinks=False)
    if status:
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
        if form != "link":
            Path(target).chmod(status.st_mode & 0o7777)
    if item.text is not None or source is None:
        os.utime(target, (newest, newest), follow_symlinks=False)


def _time(item: Item) -> float:
    return item.source.lstat().st_mtime if item.source and item.file.form == "file" else 0.0
