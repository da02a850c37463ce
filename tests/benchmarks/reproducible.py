"""Each variant of a root file system built twice from nothing, and held against itself; by hand, as root:

    .venv/bin/python -m tests.benchmarks.reproducible [VARIANT...]

Each build has a cache of its own, so it fetches, unpacks and configures everything itself. What is compared
is every path's kind, mode, owner, content, links, extended attributes and time.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path

from labkit.farm import rootfs
from labkit.farm.rootfs.variants import VARIANTS
from tests.conftest import lab_maker, open_place

Tree = dict[str, tuple[object, ...]]


def tree(root: Path) -> Tree:
    """What a root file system consists of, path by path."""
    return {str(path.relative_to(root)): _seen(path) for path in (root, *root.rglob("*"))}


def _seen(path: Path) -> tuple[object, ...]:
    found = path.lstat()
    kind = found.st_mode
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return (
        kind, found.st_uid, found.st_gid, found.st_rdev, found.st_mtime_ns,
        0 if stat.S_ISDIR(kind) else found.st_nlink,
        path.read_bytes() if stat.S_ISREG(kind) else str(path.readlink()) if stat.S_ISLNK(kind) else "",
        [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names],
    )  # fmt: skip


def build(variant: str) -> tuple[Tree, float]:
    """The variant, built with a cache of its own, and how long that took (seconds)."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        value = rootfs.build(make(cache=str(folder / "cache")), variant).value
        return tree(value.path), value.seconds


def main() -> None:
    """A line for each variant; ends with status 1 when one differs."""
    differ = 0
    for variant in sys.argv[1:] or VARIANTS:
        (one, first), (other, second) = build(variant), build(variant)
        paths = sorted(p for p in one.keys() | other.keys() if one.get(p) != other.get(p))
        differ += bool(paths)
        digest = hashlib.sha256(repr(sorted(one.items())).encode()).hexdigest()[:12]
        said = f"{len(paths)} paths differ: {' '.join(paths[:5])}" if paths else "the same"
        print(
            f"{variant:17} {first:6.1f} s {second:6.1f} s {len(one):6} paths  {digest}  {said}",
            flush=True,
        )
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
