"""Explains the size of a root file system, and the difference between two: every byte has an owner or a cause."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted, human_bytes
from labkit.farm import images, rootfs
from labkit.farm.images import builder
from labkit.farm.rootfs import account, variants
from labkit.farm.rootfs.account import Asked, Contents, Weight, asked
from labkit.farm.rootfs.files import File
from labkit.model.config import unknown
from labkit.model.lab import Lab
from labkit.records import Record

#: How a tag of the lab's image is named where a variant may have the same name: ``image:web``.
IMAGE = "image:"
#: Stands for a file that one of two root file systems does not have.
NO_FILE = File("", "file", 0, 0)


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


class Explained(Record):
    """The sums of a root file system: all files, its folders alone, and the files without an owner."""

    name: str
    packages: int
    whole: Weight
    folders: Weight
    nobody: Weight


class Difference(Record):
    """Two root file systems: their sizes (bytes), what makes the difference, the packages that differ."""

    before: str
    after: str
    size_before: int
    size_after: int
    changes: tuple[Change, ...]
    packages: tuple[Version, ...]


class Place(Record):
    """Where a root file system lies (layers: the topmost first), and what it was made from."""

    name: str
    roots: tuple[Path, ...]
    asked: Asked


@action("rootfs.explain")
def explain(lab: Lab, name: str = "debootstrap") -> Outcome[Explained]:
    """Gives every byte of a root file system an owner and a kind, and every package a reason.

    :param name: a variant (:data:`labkit.farm.rootfs.variants.VARIANTS`), or a tag of the lab's image
        (``base``, ``web``, a site), which ``image:`` before it tells apart from a variant.
    :returns: the sums, and tables ``owners``, ``kinds``, ``sections``, ``priorities``, ``packages`` and ``parts``,
        each of which adds up to the whole (bytes).
    :raises ConfigError: neither a variant nor a tag has that name.

    >>> study.explain(lab, "web").frames["packages"]
    """
    place = find(lab, name)
    contents = account.read(place.name, *place.roots)
    owned = contents.by(lambda file: contents.owners[file.path].how)
    value = Explained(
        name=place.name,
        packages=len(contents.packages),
        whole=contents.weight,
        folders=Weight.of(file for file in contents.files if file.form == "folder"),
        nobody=owned.get("nobody", account.NOTHING),
    )
    return Outcome(
        value=value,
        subject=place.name,
        summary=_summary(value),
        checks=() if len(place.roots) > 1 else (_counted(value, place.roots[0]),),
        tables=(
            account.owner_table(contents),
            account.kind_table(contents),
            account.section_table(contents),
            account.priority_table(contents),
            account.package_table(contents, place.asked),
            account.part_table(contents),
        ),
    )


@action("rootfs.difference")
def difference(lab: Lab, before: str, after: str) -> Outcome[Difference]:
    """Gives every byte by which two root file systems differ a cause.

    :param before: the first, by a name as for :func:`explain`.
    :param after: the second.
    :returns: the causes and the packages that differ, as value and as tables ``causes`` and ``versions`` (bytes).
    :raises ConfigError: neither a variant nor a tag has one of the names.

    >>> study.difference(lab, "image:base", "image:web").frames["causes"]
    """
    one, other = named(lab, before), named(lab, after)
    found, packages = changes(one, other), versions(one, other)
    value = Difference(
        before=one.name,
        after=other.name,
        size_before=one.weight.size,
        size_after=other.weight.size,
        changes=found,
        packages=packages,
    )
    return Outcome(
        value=value,
        subject=f"{one.name} to {other.name}",
        summary=_told(value),
        checks=(
            equal(
                f"rootfs.difference.{one.name}-{other.name}",
                f"the causes add up to {value.size_after - value.size_before} bytes",
                f"the causes add up to {sum(change.size for change in found)} bytes",
                rows=("R3",),
            ),
        ),
        tables=(cause_table(one, other, found), version_table(one, other, packages)),
    )


def find(lab: Lab, name: str) -> Place:
    """The root file system of that name, built if it is not there yet."""
    if name in variants.VARIANTS:
        chosen = variants.named(name)
        given = asked(chosen, lab.rootfs.packages)
        return Place(name=name, roots=(rootfs.build(lab, name).value.path,), asked=given)
    tag = name.removeprefix(IMAGE)
    tags = (*builder.COMMON, *(site.name for site in lab.sites))
    if tag not in tags:
        raise unknown(name, {*variants.VARIANTS, *tags}, "a root file system or a tag of the image")
    base = asked(variants.of_lab(lab), lab.rootfs.packages)
    more = variants.PACKAGES if tag != "base" else ()
    given = base.model_copy(update={"packages": (*more, *base.packages)})
    return Place(name=name, roots=images.unpacked(lab, tag).lower, asked=given)


def _summary(value: Explained) -> str:
    whole, nobody = value.whole, value.nobody
    left = (
        f"{human_bytes(nobody.size)} in {counted(nobody.files, 'file')} of nobody's"
        if nobody.files
        else "none belongs to nobody"
    )
    return (
        f"{value.name}: {whole.files:,} files and folders, {human_bytes(whole.size)}, "
        f"{human_bytes(whole.disk)} on disk, in {value.packages} packages; {left}."
    )


def _told(value: Difference) -> str:
    more = value.size_after - value.size_before
    removed = sum(not item.after for item in value.packages)
    added = sum(not item.before for item in value.packages)
    changed = len(value.packages) - removed - added
    return (
        f"{value.after} is {human_bytes(abs(more))} {'larger' if more > 0 else 'smaller'} than "
        f"{value.before}: {added} packages more, {removed} fewer, {changed} in another version."
    )


def _counted(value: Explained, root: Path) -> Check:
    """du(1)'s own count: later ones than coreutils 9.1 leave the size of folders themselves out."""
    size, disk = (
        int(run.run(["du", "--summarize", unit, root]).stdout.split()[0])
        for unit in ("--bytes", "--block-size=1")
    )
    whole, folders = value.whole, value.folders.size
    return Check(
        name=f"rootfs.explained.{value.name}",
        expected=f"the sums of all owners are what du counts: {size} bytes, {disk} on disk",
        seen=f"{whole.size} bytes, {folders} of them in folders; {whole.disk} on disk",
        holds=disk == whole.disk and size in (whole.size, whole.size - folders),
        rows=("I2",),
        again=f"du --summarize --bytes {root}",
    )


def named(lab: Lab, name: str) -> Contents:
    """The contents of the root file system of that name; see :func:`find`."""
    place = find(lab, name)
    return account.read(place.name, *place.roots)


# -- what makes the difference -----------------------------------------------------------------------


def changes(before: Contents, after: Contents) -> tuple[Change, ...]:
    """The causes of the difference, the weightiest first; their sizes add up to it exactly."""
    versions = _versions(before), _versions(after)
    old, new = ({file.path: file for file in contents.files} for contents in (before, after))
    groups: dict[tuple[Cause, str], list[tuple[int, int]]] = {}
    for path in old.keys() | new.keys():
        one, other = old.get(path, NO_FILE), new.get(path, NO_FILE)
        more = other.size - one.size, other.disk - one.disk
        if path in old and path in new and not any(more):
            continue
        have = before if path in old else after
        package, kind = have.owners[path].package, have.kinds[path]
        cause = _cause(path in old, path in new, *(known.get(package) for known in versions))
        what = package if cause.startswith("package") else kind
        groups.setdefault((cause, what), []).append(more)
    found = []
    for (cause, what), parts in groups.items():
        size, disk = map(sum, zip(*parts, strict=True))
        found.append(Change(cause=cause, what=what, files=len(parts), size=size, disk=disk))
    return tuple(sorted(found, key=lambda item: (-abs(item.size), item.cause, item.what)))


def _cause(old: bool, new: bool, before: str | None, after: str | None) -> Cause:
    """The cause of the difference in a file that is in the old, the new, or both root file systems; ``before`` and
    ``after`` are its package's versions there, None for a package that is not installed."""
    if before and not after and not new:
        return "package removed"
    if after and not before and not old:
        return "package added"
    if before and after and before != after:
        return "package changed"
    if old and new:
        return "changed"
    return "left out" if old else "added"


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
    rows += [_row(change.cause, change.what, change) for change in found]
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


def _versions(contents: Contents) -> dict[str, str]:
    return {package.name: package.version for package in contents.packages}


def _row(cause: str, what: str, sums: Weight | Change) -> dict[str, Cell]:
    weight: dict[str, Cell] = {"files": sums.files, "size": sums.size, "on disk": sums.disk}
    return {"cause": cause, "what": what, **weight}
