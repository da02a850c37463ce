"""A tree written into a folder: its files copied, dpkg's database as the rest is."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from labkit.farm.rootfs.tree import INFO, Item, Tree

DPKG = "/var/lib/dpkg/"
STATUS = f"{DPKG}status"
#: A paragraph's list of configuration files, and its lines.
CONFFILES = re.compile(r"^Conffiles:\n((?: .*\n?)*)", re.MULTILINE)


def write(tree: Tree, target: Path, *, linked: bool = False) -> Tree:
    """The tree stands in ``target``, an empty folder; returns it as it was written.

    ``linked`` files are further names of those that they are made from: for a folder that nobody writes into.

    dpkg's database has the packages that are left something of, and of these the files that are left: so
    the list of packages is true, and ``dpkg --verify`` finds every file as Debian made it.
    """
    whole = described(tree)
    newest = max(_time(item) for item in whole.items.values())
    names: dict[tuple[int, int], str] = {}
    for path, item in whole.items.items():
        _put(item, f"{target}{path}", newest, names if not linked else None)
    for path, item in reversed(whole.items.items()):
        if item.file.form == "folder" and item.source:
            shutil.copystat(item.source, f"{target}{path}")
    return whole


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
    if STATUS in tree.items:
        texts[STATUS] = _status(tree, remaining)
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
    form, source = item.file.form, item.source
    if item.text is not None or source is None:
        _new(item, target, newest)
        return
    status = source.lstat()
    inode = (status.st_dev, status.st_ino)
    if form == "folder":
        Path(target).mkdir(exist_ok=True)
    elif form == "device":
        os.mknod(target, status.st_mode, status.st_rdev)
    elif names is None or inode in names:
        os.link(names[inode] if names else source, target, follow_symlinks=False)
        return
    else:
        names[inode] = target
        shutil.copy2(source, target, follow_symlinks=False)
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if form != "link":
        Path(target).chmod(status.st_mode & 0o7777)


def _new(item: Item, target: str, newest: float) -> None:
    """A link, or a file with another text, as old as the newest file."""
    if item.text is None:
        Path(target).symlink_to(item.file.target)
    else:
        Path(target).write_text(item.text, encoding="utf-8")
        if item.source:
            status = item.source.stat()
            os.chown(target, status.st_uid, status.st_gid)
            Path(target).chmod(status.st_mode & 0o7777)
    os.utime(target, (newest, newest), follow_symlinks=False)


def _time(item: Item) -> float:
    return item.source.lstat().st_mtime if item.source and item.file.form == "file" else 0.0
