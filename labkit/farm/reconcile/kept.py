"""Verifies by their hashes what a lab keeps on the disk to build and serve from: packages, root file systems, images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from labkit.checks import Check
from labkit.core import cache
from labkit.core.files import proven
from labkit.display import counted
from labkit.farm.images import builder
from labkit.farm.rootfs.repository import PackageCache
from labkit.model.lab import Lab

#: A function from a file or a folder to the paths of its damaged files.
Damage = Callable[[Path], list[str]]


def checks(lab: Lab) -> tuple[Check, ...]:
    """Whether each file is as it was made: the cache's that the lab uses, and those that replicas stand on.

    All of it is read, also files that were already read in this boot. The action that uses a damaged file next
    makes it again.
    """
    held = sorted({link.resolve() for link in (lab.state_dir / "uses").glob("*") if link.exists()})
    image = [builder.place(lab)] if builder.place(lab).exists() else []
    pool = sorted(PackageCache.of(lab).pool.glob("[!.]*"))
    results = [path for folder in held for item in cache.added(folder) for path in _files(item)]
    return (
        *(_check(f"kept.{path.parent.name}.{path.name}", [path], _folder) for path in held),
        *(_check("kept.images", [path], _folder) for path in image),
        _check("kept.layers", _sealed(lab, "unpacked", "layers"), _folder),
        _check("kept.configurations", _sealed(lab, "configurations"), _folder),
        _check("kept.packages", pool, _package),
        _check("kept.results", results, _result),
    )


def _check(name: str, paths: list[Path], look: Damage) -> Check:
    wrong = [line for path in paths for line in look(path)]
    return Check(
        name=name,
        expected="each file is as it was made",
        seen=f"damaged: {cache.some_names(wrong)}"
        if wrong
        else f"{counted(len(paths), 'item')} as made",
        holds=not wrong,
    )


def _folder(path: Path) -> list[str]:
    return [f"{path}/{name}" for name in cache.damage(path, anew=True)]


def _sealed(lab: Lab, *names: str) -> list[Path]:
    """The sealed folders in folders of the lab's state."""
    places = (lab.state_dir / name for name in names)
    return sorted(path for place in places for path in place.glob("[!.]*") if path.is_dir())


def _package(path: Path) -> list[str]:
    return [] if cache.digest(path) == path.name.rpartition("@")[2] else [str(path)]


def _result(path: Path) -> list[str]:
    return [str(path)] if proven(path) is None else []


def _files(path: Path) -> Iterator[Path]:
    yield from sorted(path.iterdir()) if path.is_dir() else (path,)
