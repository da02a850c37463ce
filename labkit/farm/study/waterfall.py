"""The way down from one root file system to the next, step by step: each step computed from the files
of the two neighbours. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from labkit.core.tables import Cell, Table
from labkit.farm.rootfs.account import Contents
from labkit.farm.study.difference import Change, changes
from labkit.records import Record

#: A kind of file has a step of its own from this share of the first root file system on, a single
#: package from the second; what is less is summed up.
KIND, PACKAGE = 1 / 150, 1 / 40
#: So many packages together are called by their names.
FEW = 2
#: What the first step takes away.
DOWNLOADS = "downloads and indices"


class Step(Record):
    """One step: by how many bytes, and what is left ``after`` it; a ``whole`` one is a root file
    system as it stands, and its ``size`` is all of it."""

    name: str
    whole: bool
    size: int
    after: int


def steps(chain: Sequence[Contents], *, left: int = 0) -> tuple[Step, ...]:
    """From the first to the last of ``chain``; the steps between two of them add up exactly.

    ``left`` are the bytes of downloads that the first one's tool had left in it.
    """
    first = chain[0].weight.size
    found: list[Step] = []
    if left:
        name = f"{chain[0].name}, as built"
        found += [
            Step(name=name, whole=True, size=first + left, after=first + left),
            Step(name=DOWNLOADS, whole=False, size=-left, after=first),
        ]
    found.append(_whole(chain[0]))
    for before, after in pairwise(chain):
        level = before.weight.size
        for name, size in _parts(changes(before, after), first + left):
            level += size
            found.append(Step(name=name, whole=False, size=size, after=level))
        found.append(_whole(after))
    return tuple(found)


def table(found: Sequence[Step]) -> Table:
    """One row a step, from the top down."""
    rows: list[dict[str, Cell]] = [
        {
            "step": step.name,
            "a root file system": step.whole,
            "more or less": 0 if step.whole else step.size,
            "size": step.after,
        }
        for step in found
    ]
    title = "The way down: what each step takes away, computed from the files of its two neighbours"
    return Table.of("waterfall", title, rows, units={"more or less": "bytes", "size": "bytes"})


def _whole(contents: Contents) -> Step:
    size = contents.weight.size
    return Step(name=contents.name, whole=True, size=size, after=size)


def _parts(found: Sequence[Change], scale: int) -> Iterator[tuple[str, int]]:
    """(name, bytes) of the steps between two: packages added, packages removed, kinds, the rest."""
    for cause in ("package added", "package removed"):
        yield from _packages([change for change in found if change.cause == cause], scale)
    others = [c for c in found if c.cause not in ("package added", "package removed")]
    kinds = [c for c in others if abs(c.size) >= scale * KIND]
    for change in kinds:
        yield f"{change.what} {change.cause}", change.size
    if rest := sum(c.size for c in others) - sum(c.size for c in kinds):
        yield "all else", rest


def _packages(found: Sequence[Change], scale: int) -> Iterator[tuple[str, int]]:
    """(name, bytes) of the packages that weigh enough, and of the others together."""
    named = [change for change in found if abs(change.size) >= scale * PACKAGE]
    for change in named:
        yield f"package {change.what}", change.size
    rest = found[len(named) :]  # the weightiest come first
    if rest:
        few = f"package{'s'[: len(rest) > 1]} {', '.join(change.what for change in rest)}"
        many = f"{len(rest)} {'other ' if named else ''}packages"
        yield few if len(rest) <= FEW else many, sum(change.size for change in rest)
