"""What makes one root file system larger than another: every byte of the difference has a cause. Pure.

A file that only one of them has is there, or not, because of its package, where only one of them
has that package; else because files of its kind were left out, or added. A file that both have
and that differs is so because of its package's version, or by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from labkit.core.tables import Cell, Table
from labkit.farm.rootfs.account import Contents, Weight
from labkit.farm.rootfs.files import File
from labkit.records import Record

Cause = Literal[
    "package removed", "package added", "package changed", "left out", "added", "changed"
]


class Change(Record):
    """A cause and what it concerns, a package or a kind of file; ``files`` counts those that differ,
    ``size`` and ``disk`` are bytes more (or less, then negative) in the second root file system."""

    cause: Cause
    what: str
    files: int
    size: int
    disk: int


class Version(Record):
    """A package in two root file systems: version ('' where it is not) and weight in each (bytes)."""

    name: str
    before: str
    after: str
    size_before: int
    size_after: int


def changes(before: Contents, after: Contents) -> tuple[Change, ...]:
    """The causes of the difference, the weightiest first; their sizes add up to it exactly."""
    sums: dict[tuple[Cause, str], list[int]] = {}
    old = {file.path: file for file in before.files}
    new = {file.path: file for file in after.files}
    versions = _versions(before), _versions(after)
    for path in old.keys() | new.keys():
        one, other = old.get(path), new.get(path)
        size, disk = _more(one, other)
        if one and other and not (size or disk):
            continue
        have = before if one else after
        package, kind = have.owners[path].package, have.kinds[path]
        cause = _cause(one, other, package, versions)
        total = sums.setdefault(
            (cause, package if cause.startswith("package") else kind), [0, 0, 0]
        )
        for place, count in enumerate((1, size, disk)):
            total[place] += count
    found = (
        Change(cause=cause, what=what, files=files, size=size, disk=disk)
        for (cause, what), (files, size, disk) in sums.items()
    )
    return tuple(sorted(found, key=lambda item: (-abs(item.size), item.cause, item.what)))


def versions(before: Contents, after: Contents) -> tuple[Version, ...]:
    """The packages that only one of them has, or that each has in another version; by name."""
    old, new = _versions(before), _versions(after)
    weights = before.by_package(), after.by_package()
    return tuple(
        Version(
            name=name,
            before=old.get(name, ""),
            after=new.get(name, ""),
            size_before=weights[0][name].size if name in weights[0] else 0,
            size_after=weights[1][name].size if name in weights[1] else 0,
        )
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def cause_table(before: Contents, after: Contents, found: Sequence[Change]) -> Table:
    """One row a cause; the first and the last row are the two sizes, and the rows between add up."""
    rows = [_row(f"{before.name}, whole", "", before.weight)]
    for change in found:
        sums = Weight(files=change.files, size=change.size, disk=change.disk)
        rows.append(_row(change.cause, change.what, sums))
    rows.append(_row(f"{after.name}, whole", "", after.weight))
    title = f"From {before.name} to {after.name}: what makes the difference"
    return Table.of("causes", title, rows, units={"size": "bytes", "on disk": "bytes"})


def version_table(before: Contents, after: Contents, found: Sequence[Version]) -> Table:
    """One row a package that is not the same in both, the heaviest first."""
    rows: list[dict[str, Cell]] = [
        {
            "package": item.name,
            before.name: item.before or "–",
            after.name: item.after or "–",
            "size before": item.size_before,
            "size after": item.size_after,
        }
        for item in sorted(found, key=lambda item: -max(item.size_before, item.size_after))
    ]
    title = f"Packages of {before.name} and {after.name} that are not the same"
    units = {"size before": "bytes", "size after": "bytes"}
    return Table.of("versions", title, rows, units=units)


def _cause(
    one: File | None,
    other: File | None,
    package: str,
    versions: tuple[Mapping[str, str], Mapping[str, str]],
) -> Cause:
    old, new = versions
    if one and not other and package in old and package not in new:
        return "package removed"
    if other and not one and package in new and package not in old:
        return "package added"
    if package in old and package in new and old[package] != new[package]:
        return "package changed"
    if one and other:
        return "changed"
    return "left out" if one else "added"


def _more(one: File | None, other: File | None) -> tuple[int, int]:
    """How much more the second weighs than the first: size and disk."""
    nothing = File("", "file", 0, 0)
    before, after = one or nothing, other or nothing
    return after.size - before.size, after.disk - before.disk


def _versions(contents: Contents) -> dict[str, str]:
    return {package.name: package.version for package in contents.packages}


def _row(cause: str, what: str, weight: Weight) -> dict[str, Cell]:
    return {
        "cause": cause,
        "what": what,
        "files": weight.files,
        "size": weight.size,
        "on disk": weight.disk,
    }
