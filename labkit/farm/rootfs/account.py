"""Weighs a root file system: bytes by package, kind, section and priority, and why each package is there.

Each table adds up to the whole. A package is there because it was asked for, because the building program takes its
kind without being asked (essential ones always, some priorities), or because one of those needs it: then the shortest
chain of dependencies says which. Packages that only a recommendation brings in are named so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from labkit.core.tables import Cell, Table
from labkit.farm.rootfs import owners, packages, variants
from labkit.farm.rootfs.files import File, kinds, scan
from labkit.farm.rootfs.owners import MEANING, Owner
from labkit.farm.rootfs.packages import STATUS, Package
from labkit.farm.rootfs.variants import Variant
from labkit.records import Record

T = TypeVar("T")


UNITS = {"size": "bytes", "on disk": "bytes"}
#: The share of a root file system from which on a package's files of one kind have a row.
PART = 1 / 2000
Ground = Literal["asked for", "essential", "required", "important", "recommended", "nobody"]
#: What mmdebstrap's hook for a merged /usr installs, also where nothing depends on it (trixie).
MERGED = "usr-is-merged"


class Weight(Record):
    """How many files, their apparent size and what they take on their disk (bytes)."""

    files: int
    size: int
    disk: int

    @classmethod
    def of(cls, files: Iterable[File]) -> Weight:
        """The sum of some files."""
        listed = list(files)
        return cls(
            files=len(listed),
            size=sum(file.size for file in listed),
            disk=sum(file.disk for file in listed),
        )


@dataclass(frozen=True)
class Contents:
    """The files of a root file system, each with its owner and its kind (by path), and its packages."""

    name: str
    files: tuple[File, ...]
    owners: Mapping[str, Owner]
    kinds: Mapping[str, str]
    packages: tuple[Package, ...]

    @property
    def weight(self) -> Weight:
        """The sum of all files, as du(1) counts a folder."""
        return Weight.of(self.files)

    def by(self, key: Callable[[File], T]) -> dict[T, Weight]:
        """The sums of the files that have the same key, the heaviest first."""
        groups: dict[T, list[File]] = {}
        for file in self.files:
            groups.setdefault(key(file), []).append(file)
        sums = {group: Weight.of(files) for group, files in groups.items()}
        return dict(sorted(sums.items(), key=lambda item: -item[1].size))

    def by_kind(self) -> dict[str, Weight]:
        """What the files of each kind weigh (:data:`labkit.farm.rootfs.files.KINDS`)."""
        return self.by(lambda file: self.kinds[file.path])

    def by_package(self) -> dict[str, Weight]:
        """What each package weighs: its files, its links, what its scripts made, and dpkg's notes on
        it; '' for what is owed to no package."""
        return self.by(lambda file: self.owners[file.path].package)


def read(name: str, *roots: Path) -> Contents:
    """The contents of a root file system; of an image's layers ``roots``, the topmost first.

    dpkg's database is that of the first root that has one; raises StateError when none has. What
    lies in the layers above that one was written by who built the image.
    """
    files = scan(*roots)
    place = next((n for n, root in enumerate(roots) if (root / STATUS).is_file()), 0)
    known = owners.read(roots[place])
    above = {f.path for root in roots[:place] for f in scan(root) if f.form != "folder"}
    return Contents(
        name=name,
        files=files,
        owners=owners.attribute(files, known) | dict.fromkeys(above, Owner("builder")),
        kinds=kinds(files),
        packages=known.packages,
    )


# -- tables, each of which adds up to the whole ----------------------------------------------------


def owner_table(contents: Contents) -> Table:
    """One row for each way in which files belong to somebody."""
    sums = contents.by(lambda file: contents.owners[file.path].how)
    rows = [_row({"whose": MEANING[how]}, weight) for how, weight in sums.items()]
    return _table("owners", f"{contents.name}: whose the files are", rows)


def kind_table(contents: Contents) -> Table:
    """One row a kind of file."""
    rows = [_row({"kind": kind}, weight) for kind, weight in contents.by_kind().items()]
    return _table("kinds", f"{contents.name}: what kind of files they are", rows)


def section_table(contents: Contents) -> Table:
    """One row a section of Debian's archive."""
    return _group_table(contents, "sections", "section", lambda package: package.section)


def priority_table(contents: Contents) -> Table:
    """One row a priority."""
    return _group_table(contents, "priorities", "priority", lambda package: package.priority)


def package_table(contents: Contents, given: Asked) -> Table:
    """One row a package, the heaviest first, with why it is there; the last row is nobody's."""
    why = reasons(contents.packages, given)
    sums = contents.by_package()
    mostly = _mostly(contents)
    rows: list[dict[str, Cell]] = [
        {
            "package": package.name,
            "section": package.section,
            "priority": package.priority,
            **_weight_cells(sums.get(package.name, NOTHING)),
            "mostly": mostly.get(package.name, ""),
            "why it is there": why[package.name].text,
            "what it is": package.description,
        }
        for package in contents.packages
    ]
    known = {package.name for package in contents.packages}
    rest = Weight.of(f for f in contents.files if contents.owners[f.path].package not in known)
    rows.sort(key=lambda row: -int(row["size"] or 0))
    rows.append(_row({"package": "(no package)"}, rest))
    return _table(
        "packages", f"{contents.name}: what each package weighs, and why it is there", rows
    )


def part_table(contents: Contents) -> Table:
    """One row a kind of file and a package; of each kind the packages with too little are one row."""
    limit = contents.weight.size * PART
    sums = contents.by(lambda f: (contents.kinds[f.path], contents.owners[f.path].package))
    names = {
        key: (key[1] or "(no package)") if sums[key].size >= limit else "(others)" for key in sums
    }
    merged = contents.by(lambda f: _named(f, contents, names))
    rows = [_row({"kind": kind, "package": name}, w) for (kind, name), w in merged.items()]
    return _table("parts", f"{contents.name}: whose files of each kind are", rows)


def _named(file: File, contents: Contents, names: Mapping[tuple[str, str], str]) -> tuple[str, str]:
    kind = contents.kinds[file.path]
    return kind, names[kind, contents.owners[file.path].package]


NOTHING = Weight(files=0, size=0, disk=0)


def _mostly(contents: Contents) -> dict[str, str]:
    """The kind that most bytes of a package are of."""
    found: dict[str, str] = {}
    sums = contents.by(lambda f: (contents.owners[f.path].package, contents.kinds[f.path]))
    for package, kind in sums:  # the heaviest first
        found.setdefault(package, kind)
    return found


def _group_table(
    contents: Contents, name: str, heading: str, key: Callable[[Package], str]
) -> Table:
    groups = {package.name: key(package) for package in contents.packages}
    counts: dict[str, int] = {}
    for group in groups.values():
        counts[group] = counts.get(group, 0) + 1
    sums = contents.by(lambda f: groups.get(contents.owners[f.path].package, "(no package)"))
    rows = [
        _row({heading: group, "packages": counts.get(group, 0)}, weight)
        for group, weight in sums.items()
    ]
    return _table(name, f"{contents.name}: by {heading} of the packages", rows)


def _row(first: Mapping[str, Cell], weight: Weight) -> dict[str, Cell]:
    return {**first, **_weight_cells(weight)}


def _weight_cells(weight: Weight) -> dict[str, Cell]:
    return {"files": weight.files, "size": weight.size, "on disk": weight.disk}


def _table(name: str, title: str, rows: list[dict[str, Cell]]) -> Table:
    return Table.of(name, title, rows, units=UNITS)


class Asked(Record):
    """What a root file system was made from: the packages by name, the ones that count most first,
    and the priorities that were taken whole."""

    packages: tuple[str, ...] = ()
    priorities: tuple[Literal["required", "important"], ...] = ("required",)


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


MINBASE = Asked(packages=("apt",))


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
        word = {"required": "priority required", "important": "priority important"}
        ground = word.get(self.ground, self.ground)
        if self.ground == "recommended":
            return f"recommended: {' → '.join(self.path)}"
        return f"{ground}: {' → '.join(self.path)}" if len(self.path) > 1 else ground


def asked(variant: Variant, extra: Sequence[str] = ()) -> Asked:
    """What the program of a variant takes, and ``extra``, for which it was asked."""
    taken = TAKEN.get((variant.tool, variant.mode), MINBASE)
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
