"""The program that shrinks a root file system: ``python -m labkit.farm.shrinking --help``.

It is a program of its own so that it is sealed off and ends with labkit.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from labkit.farm.assembly import fetching, unpacking
from labkit.farm.assembly.selection import Selection
from labkit.farm.shrinking import rules, writing
from labkit.farm.shrinking.ladder import LADDER
from labkit.farm.shrinking.tree import Tree

#: What is not unpacked of packages that are added.
UNREAD = Selection(
    left_out=("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/initramfs-tools/*"),
    kept=("/usr/share/doc/*/copyright",),
)


def main() -> None:
    """Makes the target, a missing folder, of the root file system ``before``, which is not changed."""
    given = parser().parse_args()
    tree, target = Tree.read(given.before), given.target
    names = tuple(filter(None, given.include.split(",")))
    sources = given.sources.read_text(encoding="utf-8")
    if given.added_only:
        shutil.move(_added(tree, names, target.with_name("fetched"), sources), target)
        shutil.rmtree(target.with_name("fetched"))
        return
    whole = tree
    if names:
        added = Tree.read(_added(tree, names, target.with_name("fetched"), sources))
        whole = added.having(tree.items, tree)
    for step in LADDER[given.variant]:
        print(f"leaving out: {step.name}", flush=True)
        tree = rules.apply(tree, step, whole)
    target.mkdir()
    writing.write(tree, target)
    shutil.rmtree(target.with_name("fetched"), ignore_errors=True)


def _added(tree: Tree, names: tuple[str, ...], folder: Path, sources: str) -> Path:
    """A folder with these packages, and what they need besides what the tree has."""
    folder.mkdir()
    files = fetching.fetch(sources, names, folder / "apt", tree.entries[0])
    root = folder / "root"
    root.mkdir()
    unpacking.unpack(files, root, UNREAD, configured=True)
    return root


def parser() -> argparse.ArgumentParser:
    """The program's arguments; :func:`labkit.farm.debian.commands.steps` gives them."""
    made = argparse.ArgumentParser(prog="labkit.farm.shrinking", description=__doc__)
    made.add_argument("--variant", choices=LADDER, required=True)
    made.add_argument("--sources", type=Path, required=True, help="a file like sources.list(5)")
    made.add_argument("--include", default="", help="packages that steps add, with commas between")
    made.add_argument("--added-only", action="store_true", help="unpack those alone, as the target")
    made.add_argument("before", type=Path)
    made.add_argument("target", type=Path)
    return made


if __name__ == "__main__":
    main()
