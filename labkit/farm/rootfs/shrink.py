"""The program that shrinks a root file system: ``python -m labkit.farm.rootfs.shrink --help``.

It is a program of its own so that it is sealed off and ends with labkit.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from labkit.farm.rootfs import step_rules, unpacking, writing
from labkit.farm.rootfs.ladder import LADDER
from labkit.farm.rootfs.selection import Selection
from labkit.farm.rootfs.tree import Tree

#: What is not unpacked of packages that are added.
UNREAD = Selection(
    left_out=("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/initramfs-tools/*"),
    kept=("/usr/share/doc/*/copyright",),
)


def main() -> None:
    """Makes the target, a missing folder, of the root file system ``before``, which is not changed."""
    given = parser().parse_args()
    tree, target = Tree.read(given.before), given.target
    files = unpacking.files(given.packages)
    if given.added_only:
        _unpack(files, target)
        return
    whole = tree
    if files:
        added = target.with_name("added")
        _unpack(files, added)
        whole = Tree.read(added).having(tree.items, tree)
    for step in LADDER[given.variant]:
        print(f"leaving out: {step.name}", flush=True)
        tree = step_rules.apply(tree, step, whole)
    target.mkdir()
    writing.write(tree, target)
    shutil.rmtree(target.with_name("added"), ignore_errors=True)


def _unpack(files: Sequence[Path], folder: Path) -> None:
    """The folder, a missing one, has these packages: those that steps add, and what they need besides the tree's."""
    folder.mkdir()
    unpacking.unpack(files, folder, UNREAD, configured=True)


def parser() -> argparse.ArgumentParser:
    """The program's arguments; :func:`labkit.farm.rootfs.commands.steps` gives them."""
    made = argparse.ArgumentParser(prog="labkit.farm.rootfs.shrink", description=__doc__)
    made.add_argument("--variant", choices=LADDER, required=True)
    made.add_argument("--packages", type=Path, required=True, help="names their files, one a line")
    made.add_argument(
        "--include", default="", help="packages that steps add: told for the recipe alone"
    )
    made.add_argument("--added-only", action="store_true", help="unpack those alone, as the target")
    made.add_argument("before", type=Path)
    made.add_argument("target", type=Path)
    return made


if __name__ == "__main__":
    main()
