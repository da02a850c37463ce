"""Explains the size of a root file system, and the difference between two: every byte has an owner or a cause.

A package is there because it was asked for, because the building program takes its kind without being asked (essential
ones always, some priorities), or because one of those needs it: then the shortest chain of dependencies says which.
Packages that only a recommendation brings in are named so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy
import pandas

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted, human_bytes
from labkit.farm import images, rootfs
from labkit.farm.images import builder
from labkit.farm.rootfs import packages, variants
from labkit.farm.rootfs.contents import MEANING, Contents, Weight
from labkit.farm.rootfs.packages import Package
from labkit.farm.rootfs.variants import Variant
from labkit.model.config import unknown
from labkit.model.lab import Lab
from labkit.records import Record

UNITS = {"size": "bytes", "on disk": "bytes"}
#: The share of a root file system from which on a package's files of one kind have a row.
PART = 1 / 2000
Ground = Literal["asked for", "essential", "required", "important", "recommended", "nobody"]
#: What mmdebstrap's hook for a merged /usr installs, also where nothing depends on it (trixie).
MERGED = "usr-is-merged"
#: How a tag of the lab's image is named where a variant may have the same name: ``image:web``.
IMAGE = "image:"
#: A file's or a group's weight: number of files, apparent size, space on the disk (bytes).
WEIGHT = ["files", "size", "on disk"]
#: Whose the files are that no installed package owns.
NO_PACKAGE = "(no package)"


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


class Asked(Record):
    """What a root file system was made from: the packages by name, the ones that count most first,
    and the priorities that were taken whole."""

    packages: tuple[str, ...] = ()
    priorities: tuple[Literal["required", "important"], ...] = ("required",)


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
    contents = Contents.read(place.name, *place.roots)
    value = Explained(
        name=place.name,
        packages=len(contents.packages),
        whole=contents.weight,
        folders=Weight.of(file for file in contents.files if file.form == "folder"),
        nobody=Weight.of(f for f in contents.files if contents.owners[f.path].how == "nobody"),
    )
    return Outcome(
        value=value,
        subject=place.name,
        summary=_summary(value),
        checks=() if len(place.roots) > 1 else (_counted(value, place.roots[0]),),
        tables=tables(contents, place.asked),
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
    return Contents.read(place.name, *place.roots)


# -- tables, each of which adds up to the whole ------------------------------------------------------


def file_frame(contents: Contents) -> pandas.DataFrame:
    """One row a file: its path, its kind, how it came to be there (``how``), the package that it is owed to, and its
    weight, of which ``files`` is 1."""
    return pandas.DataFrame(
        ((f.path, contents.kinds[f.path], *contents.owners[f.path], 1, f.size, f.disk)
         for f in contents.files),
        columns=["path", "kind", "how", "package", *WEIGHT],
    )  # fmt: skip


def sums(files: pandas.DataFrame, by: Any) -> pandas.DataFrame:
    """What the files weigh that have the same value in a column (or in several), the heaviest first."""
    groups = files.groupby(by, sort=False)[WEIGHT].sum()
    return groups.sort_values("size", ascending=False, kind="stable")


def tables(contents: Contents, given: Asked) -> tuple[Table, ...]:
    """What owners, kinds of files, sections and priorities of Debian's archive, packages, and the packages' parts weigh."""
    files, why = file_frame(contents), reasons(contents.packages, given)
    rows = pandas.DataFrame(
        [(one.name, one.section, one.priority, why[one.name].text, one.description)
         for one in contents.packages],
        columns=["package", "section", "priority", "why it is there", "what it is"],
    ).set_index("package")  # fmt: skip
    named = files["package"].replace("", NO_PACKAGE)
    parts = files.groupby(["kind", "package"])["size"].transform("sum")
    named = named.where(parts >= files["size"].sum() * PART, "(others)")
    heading = "what each package weighs, and why it is there"
    found = {
        "owners": ("whose the files are", sums(files, files["how"].map(MEANING).rename("whose"))),
        "kinds": ("what kind of files they are", sums(files, "kind")),
        "sections": ("by section of the packages", _grouped(files, rows["section"])),
        "priorities": ("by priority of the packages", _grouped(files, rows["priority"])),
        "packages": (heading, _packages(files, rows)),
        "parts": ("whose files of each kind are", sums(files, [files["kind"], named])),
    }
    return tuple(
        Table.of(name, f"{contents.name}: {title}", frame, units=UNITS)
        for name, (title, frame) in found.items()
    )


def _grouped(files: pandas.DataFrame, of: pandas.Series) -> pandas.DataFrame:
    """The sums by what packages have in a column, and the number of these packages."""
    found = sums(files, files["package"].map(of.get).fillna(NO_PACKAGE).rename(of.name))
    found.insert(0, "packages", of.value_counts().reindex(found.index, fill_value=0))
    return found


def _packages(files: pandas.DataFrame, rows: pandas.DataFrame) -> pandas.DataFrame:
    """The packages' rows, the heaviest first, with their weights and the kind that most bytes of each are of; the last
    row is nobody's."""
    kinds = sums(files, ["package", "kind"]).reset_index().drop_duplicates("package")
    mostly = kinds.set_index("package")["kind"].reindex(rows.index, fill_value="")
    owner = files["package"].where(files["package"].isin(rows.index), NO_PACKAGE)
    weights = sums(files, owner).reindex([*rows.index, NO_PACKAGE], fill_value=0)
    order = weights[:-1].sort_values("size", ascending=False, kind="stable").index
    found = rows.assign(mostly=mostly).join(weights, how="right").loc[[*order, NO_PACKAGE]]
    columns = ["section", "priority", *WEIGHT, "mostly", "why it is there", "what it is"]
    return found[columns].rename_axis("package")


# -- why a package is there --------------------------------------------------------------------------


#: What a program's variant takes without being asked (debootstrap's scripts/debian-common; VARIANTS
#: in mmdebstrap(1); labkit's own tool); essential packages are always taken.
TAKEN: Mapping[tuple[str, str], Asked] = {
    ("debootstrap", ""): Asked(priorities=("required", "important")),
    ("mmdebstrap", "essential"): Asked(packages=("apt", MERGED), priorities=()),
    ("mmdebstrap", "minbase"): Asked(packages=("apt", MERGED)),
    ("dpkg", ""): Asked(packages=(*variants.PACKAGES, "apt"), priorities=()),
    ("dpkg", "shrunk"): Asked(
        packages=("apache2", "apache2-bin", *variants.SSH, "busybox"), priorities=()
    ),
}


class Why(Record):
    """Why a package is there: the ground on which the first of ``path`` is there, and the packages
    by which that one needs it, itself last."""

    ground: Ground
    path: tuple[str, ...]

    @property
    def text(self) -> str:
        """In words: ``essential: bash → libtinfo6``."""
        if self.ground == "nobody":
            return "nobody needs it any more"
        priority = self.ground in ("required", "important")
        ground = f"priority {self.ground}" if priority else self.ground
        return f"{ground}: {' → '.join(self.path)}" if len(self.path) > 1 else ground


def asked(variant: Variant, extra: Sequence[str] = ()) -> Asked:
    """What the program of a variant takes, and ``extra``, for which it was asked."""
    taken = TAKEN.get((variant.tool, variant.mode), Asked(packages=("apt",)))
    return Asked(packages=(*extra, *taken.packages), priorities=taken.priorities)


def reasons(listed: Sequence[Package], given: Asked) -> dict[str, Why]:
    """The reason of each package, by its name."""
    by_name = {package.name: package for package in listed}
    names = packages.providers(listed)

    def needs(name: str) -> list[str]:
        return [n for group in by_name[name].depends for n in packages.satisfying(group, names)]

    def wishes(name: str) -> list[str]:
        return [n for group in by_name[name].recommends for n in packages.satisfying(group, names)]

    found: dict[str, Why] = {}
    for package in listed:
        if ground := _own_ground(package, given):
            found[package.name] = Why(ground=ground, path=(package.name,))
    _follow(found, [name for name in given.packages if name in by_name], needs)
    for ground in ("essential", "required", "important"):
        _follow(found, [name for name, why in found.items() if why.ground == ground], needs)
    _recommended(found, needs, wishes)
    nobody = {name: Why(ground="nobody", path=(name,)) for name in by_name if name not in found}
    return found | nobody


def _own_ground(package: Package, given: Asked) -> Ground | None:
    if package.name in given.packages:
        return "asked for"
    if package.essential:
        return "essential"
    return next((word for word in given.priorities if word == package.priority), None)


def _follow(
    found: dict[str, Why], sources: Sequence[str], needs: Callable[[str], list[str]]
) -> None:
    """Adds what ``sources`` need and has no reason yet, nearest first, each by a shortest path."""
    waiting = list(sources)
    seen = {name: found[name] for name in waiting}
    for name in waiting:  # which grows as it is walked
        for other in needs(name):
            if other not in seen:
                why = seen[name]
                seen[other] = Why(ground=why.ground, path=(*why.path, other))
                waiting.append(other)
    for name, why in seen.items():
        found.setdefault(name, why)


def _recommended(
    found: dict[str, Why],
    needs: Callable[[str], list[str]],
    wishes: Callable[[str], list[str]],
) -> None:
    """Adds what packages with a reason recommend, and what that needs in turn."""
    while True:
        wished = {other: name for name in sorted(found) for other in wishes(name)}
        new = {other: name for other, name in wished.items() if other not in found}
        if not new:
            return
        for other, name in new.items():
            found[other] = Why(ground="recommended", path=(name, other))
        _follow(found, list(new), needs)


# -- what makes the difference -----------------------------------------------------------------------


def changes(before: Contents, after: Contents) -> tuple[Change, ...]:
    """The causes of the difference, the weightiest first; their sizes add up to it exactly."""
    files = file_frame(before).merge(
        file_frame(after), how="outer", on="path", suffixes=("", " after")
    )
    old, new = files["files"].notna(), files["files after"].notna()
    for column in ("size", "on disk"):
        more = files[f"{column} after"].fillna(0) - files[column].fillna(0)
        files[column] = more.astype(int)
    package, kind = (files[name].where(old, files[f"{name} after"]) for name in ("package", "kind"))
    was, now = (package.map(_versions(contents).get).fillna("") for contents in (before, after))
    causes = (
        ("package removed", (was != "") & (now == "") & ~new),
        ("package added", (was == "") & (now != "") & ~old),
        ("package changed", (was != "") & (now != "") & (was != now)),
        ("changed", old & new),
        ("left out", old),
    )
    names, conditions = zip(*causes, strict=True)
    files["cause"] = numpy.select(conditions, names, "added")
    files["what"] = package.where(files["cause"].str.startswith("package"), kind)
    files = files[~(old & new) | (files["size"] != 0) | (files["on disk"] != 0)].assign(files=1)
    found = files.groupby(["cause", "what"])[WEIGHT].sum().reset_index()
    found = found.iloc[found["size"].abs().sort_values(ascending=False, kind="stable").index]
    return tuple(
        Change(cause=cause, what=what, files=count, size=size, disk=disk)
        for cause, what, count, size, disk in found.itertuples(index=False)
    )


def versions(before: Contents, after: Contents) -> tuple[Version, ...]:
    """The packages that only one of them has, or that each has in another version; by name."""
    known = {"before": _versions(before), "after": _versions(after)}
    found = pandas.DataFrame(known, dtype=object).fillna("")
    found = found[found["before"] != found["after"]].sort_index()
    for column, contents in (("size_before", before), ("size_after", after)):
        sizes = sums(file_frame(contents), "package")["size"]
        found[column] = sizes.reindex(found.index, fill_value=0)
    return tuple(Version(**row) for row in found.reset_index(names="name").to_dict("records"))


def cause_table(before: Contents, after: Contents, found: Sequence[Change]) -> Table:
    """One row a cause; the first and the last row are the two sizes, and the rows between add up."""
    rows: list[tuple[str, str, Weight | Change]] = [
        (f"{before.name}, whole", "", before.weight),
        *((change.cause, change.what, change) for change in found),
        (f"{after.name}, whole", "", after.weight),
    ]
    frame = pandas.DataFrame(
        [(cause, what, item.files, item.size, item.disk) for cause, what, item in rows],
        columns=["cause", "what", *WEIGHT],
    )
    title = f"From {before.name} to {after.name}: what makes the difference"
    return Table.of("causes", title, frame, units=UNITS)


def version_table(before: Contents, after: Contents, found: Sequence[Version]) -> Table:
    """One row a package that is not the same in both, the heaviest first."""
    columns = ["package", before.name, after.name, "size before", "size after"]
    rows = [tuple(item.model_dump().values()) for item in found]
    frame = pandas.DataFrame(rows, columns=columns).replace({before.name: "", after.name: ""}, "–")
    heaviest = frame[["size before", "size after"]].max(axis=1)
    frame = frame.loc[heaviest.sort_values(ascending=False, kind="stable").index]
    title = f"Packages of {before.name} and {after.name} that are not the same"
    units = {"size before": "bytes", "size after": "bytes"}
    return Table.of("versions", title, frame, units=units)


def _versions(contents: Contents) -> dict[str, str]:
    return {package.name: package.version for package in contents.packages}
