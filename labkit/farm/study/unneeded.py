"""Which packages of a root file system a web server's container does not need, and why they are there.

Nothing here is a list of names. Needed are the packages of which a replica, doing its job, opens a
file, and what these and the servers' own packages depend on; the rest is not. Each package has the
reason for which it is in the root file system, and what came of leaving it out of the farm's image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from labkit.checks import Check
from labkit.core import run
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted, human_bytes
from labkit.farm.images import actions as images
from labkit.farm.rootfs import account, packages, variants
from labkit.farm.rootfs import actions as rootfs
from labkit.farm.rootfs.account import Contents, Weight
from labkit.farm.rootfs.packages import Package
from labkit.farm.rootfs.reasons import Why, asked, reasons
from labkit.farm.study import removal
from labkit.farm.study.removal import PROGRAMS, Evidence, Trial
from labkit.model.lab import Lab
from labkit.records import Record

Use = Literal["opened", "idle", "unneeded"]

#: What each use means, as a table says it.
MEANING: Mapping[Use, str] = {
    "unneeded": "neither opened nor depended on",
    "idle": "depended on, but never opened",
    "opened": "opened by a running replica",
}
#: What a trial says of a package that was never there.
ABSENT = "not in the farm's image, which answers"


class Unneeded(Record):
    """The packages of a variant by their use, and what they weigh in it (bytes): ``packages`` are not
    needed, ``idle`` needed by Debian's dependencies alone, ``needed`` opened by a replica."""

    variant: str
    packages: tuple[str, ...]
    idle: tuple[str, ...]
    needed: tuple[str, ...]
    bytes: int
    idle_bytes: int
    total: int
    evidence: Evidence


@action("rootfs.unneeded")
def find(lab: Lab, variant: str = "debootstrap") -> Outcome[Unneeded]:
    """Names the packages of a root file system that a replica does not need, each with its weight,
    the reason for which it is there, and what came of leaving it out of the farm's image.

    Builds the root file system and the images if need be; the first time on an image a dozen
    containers are tried, four at a time.
    """
    built = rootfs.build(lab, variant)
    unpacked = images.unpacked(lab, lab.sites[0].name)
    found = removal.evidence(lab)
    contents = account.read(built.value.variant, built.value.path)
    uses = classify(contents.packages, found)
    value = _value(contents, uses, found)
    why = reasons(contents.packages, asked(variants.named(value.variant), lab.rootfs.packages))
    web = account.read("image", *unpacked.lower)
    return Outcome(
        value=value,
        subject=value.variant,
        summary=_summary(value),
        changed=built.changed,
        checks=(
            separable(value, built.value.path),
            linked(web, unpacked.lower[-1], found.needed),
            _answers(found),
        ),
        tables=(
            package_table(contents, uses, why, found),
            ground_table(contents, uses, why),
            trial_table(found),
        ),
    )


def classify(listed: Sequence[Package], found: Evidence) -> dict[str, Use]:
    """The use of each package, by name. Depended on is also what a smaller image does without."""
    needed = packages.closure(listed, found.needed)
    uses: dict[str, Use] = {}
    for package in listed:
        if package.name in found.opened:
            uses[package.name] = "opened"
        else:
            uses[package.name] = "idle" if package.name in needed else "unneeded"
    return uses


def package_table(
    contents: Contents, uses: Mapping[str, Use], why: Mapping[str, Why], found: Evidence
) -> Table:
    """One row a package, those that are not needed first, the heaviest of each use before the others."""
    weights = contents.by_package()
    here = {*found.needed, *found.spare}
    rows: list[dict[str, Cell]] = [
        {
            "package": package.name,
            "size": _size(package.name, weights),
            "use": MEANING[uses[package.name]],
            "why it is there": why[package.name].text,
            "left out of the farm's image": found.told(package.name)
            or ("" if package.name in here else ABSENT),
            "what it is": package.description,
            "section": package.section,
        }
        for package in contents.packages
    ]
    order = tuple(MEANING)
    rows.sort(key=lambda row: (order.index(uses[str(row["package"])]), -int(row["size"] or 0)))
    title = f"The packages of {contents.name}: what a container that serves does without"
    return Table.of("unneeded", title, rows, units={"size": "bytes"})


def ground_table(contents: Contents, uses: Mapping[str, Use], why: Mapping[str, Why]) -> Table:
    """One row a use and a ground: how many packages, what they weigh; the last row is no package's."""
    weights = contents.by_package()
    groups: dict[tuple[Use, str], list[str]] = {}
    for name, use in uses.items():
        groups.setdefault((use, why[name].ground), []).append(name)
    rows: list[dict[str, Cell]] = [
        {
            "use": MEANING[use],
            "it, or what needs it, is": ground,
            "packages": len(names),
            "size": sum(_size(name, weights) for name in names),
            "such as": packages.naming(sorted(names, key=lambda n: -_size(n, weights)), 4),
        }
        for (use, ground), names in groups.items()
    ]
    order = tuple(MEANING.values())
    rows.sort(key=lambda row: (order.index(str(row["use"])), -int(row["size"] or 0)))
    rest = contents.weight.size - sum(int(row["size"] or 0) for row in rows)
    rows.append({"use": "(no package)", "packages": 0, "size": rest})
    title = f"What {contents.name} consists of, by use"
    return Table.of("uses", title, rows, units={"size": "bytes"})


def trial_table(found: Evidence) -> Table:
    """One row a trial: what was left out of the farm's image, and whether it still did its job."""
    whole = Trial(packages=(), files=0, size=0, served=found.whole)
    rows: list[dict[str, Cell]] = [
        {
            "left out": _which(item, found),
            "packages": len(item.packages),
            "files": item.files,
            "size": item.size,
            "page": item.served.web,
            "after a reload": item.served.reload,
            "ssh session": item.served.ssh,
        }
        for item in (whole, *found.trials)
    ]
    title = (
        f"The farm's image of {human_bytes(found.size)}, of which a replica opens "
        f"{counted(len(found.whole.opened), 'file')} with {human_bytes(found.opened_size)}: packages left out"
    )
    return Table.of("trials", title, rows, units={"size": "bytes"})


def _which(item: Trial, found: Evidence) -> str:
    """The packages of a trial, as its row is called."""
    known = {
        frozenset(): "nothing",
        frozenset((*found.idle, *found.spare)): "all that are never opened",
        frozenset(found.spare): f"all that are {MEANING['unneeded']}",
    }
    return known.get(frozenset(item.packages)) or packages.naming(item.packages, 3)


def _value(contents: Contents, uses: Mapping[str, Use], found: Evidence) -> Unneeded:
    weights = contents.by_package()
    of = {use: tuple(sorted(n for n, own in uses.items() if own == use)) for use in MEANING}
    sums = {use: sum(_size(n, weights) for n in names) for use, names in of.items()}
    return Unneeded(
        variant=contents.name,
        packages=of["unneeded"],
        idle=of["idle"],
        needed=of["opened"],
        bytes=sums["unneeded"],
        idle_bytes=sums["idle"],
        total=contents.weight.size,
        evidence=found,
    )


def _summary(value: Unneeded) -> str:
    found = value.evidence
    count = len(value.packages) + len(value.idle) + len(value.needed)
    every = found.without(*found.idle, *found.spare)
    tried = (
        f" Without {counted(len(every.packages), 'package')} ({human_bytes(every.size)} of "
        f"{human_bytes(found.size)}) of the farm's image: {every.served.told}."
        if every
        else ""
    )
    return (
        f"Of the {counted(count, 'package')} of {value.variant} a running replica opens files of "
        f"{len(value.needed)}; {len(value.packages)} ({human_bytes(value.bytes)} of "
        f"{human_bytes(value.total)}) are neither opened nor depended on, {len(value.idle)} "
        f"({human_bytes(value.idle_bytes)}) depended on, but never opened.{tried}"
    )


def separable(value: Unneeded, path: Path) -> Check:
    """dpkg's own answer, which removes nothing: does a needed package depend on one that goes?"""
    drop = ["dpkg", f"--root={path}", "--simulate", "--force-remove-essential", "--force-remove-protected", "--remove"]  # fmt: skip
    said = run.run([*drop, *value.packages], ok=(0, 1)) if value.packages else None
    drawn = re.findall(r"prevent removal of ([^\s:]+)", said.stderr) if said else []
    kept = len(value.needed) + len(value.idle)
    return Check(
        name=f"rootfs.unneeded.{value.variant}",
        expected="no needed package depends on one that is called unneeded",
        seen=f"needed after all: {packages.naming(sorted(drawn))}" if drawn else
        f"none of the {kept} needed depends on one of the {len(value.packages)} others",
        holds=not drawn and (said is None or not said.status),
        rows=("R4",),
        again=" ".join([*drop, *value.packages[:1]]),
    )  # fmt: skip


def linked(web: Contents, root: Path, needed: Sequence[str]) -> Check:
    """The dynamic linker's own answer, without ldd(1), its script: whose libraries do the servers load?"""
    loader = next(path.relative_to(root) for path in sorted(root.glob("lib*/ld*.so.*")))
    ask = ["chroot", str(root), f"/{loader}", "--list"]
    loading = [path for path in (*PROGRAMS, *modules(root)) if path in web.owners]
    owners = {PurePosixPath(file.path).name: web.owners[file.path].package for file in web.files}
    said = "".join(run.run([*ask, path]).stdout for path in loading)
    loaded = {owners.get(name, name) for name in parse_ldd(said)}
    stray = sorted(loaded - set(needed))
    return Check(
        name="rootfs.unneeded.libraries",
        expected="apache2, its modules and the ssh server load libraries of needed packages only",
        seen=f"of {', '.join(stray)} too"
        if stray
        else f"of {counted(len(loaded), 'package')}, all needed",
        holds=not stray and bool(loaded),
        rows=("R4",),
        again=" ".join([*ask, loading[0]]),
    )


def _answers(found: Evidence) -> Check:
    """The proof: the farm's image without what nothing asks for."""
    tried = found.without(*found.spare)
    return Check(
        name="rootfs.unneeded.left-out",
        expected=f"without {counted(len(found.spare), 'package')} of the farm's image that nothing asks for, "
        "apache2 and ssh answer",
        seen=tried.served.told if tried else "there are none",
        holds=found.whole.fine and (tried is None or tried.served.fine),
        rows=("R4",),
        again="./lab run 02-rootfs",
    )


def modules(root: Path) -> list[str]:
    """The files of the apache2 modules that are turned on in a root file system."""
    texts = (
        path.read_text(encoding="utf-8")
        for path in sorted((root / "etc/apache2/mods-enabled").glob("*.load"))
    )
    return [path for text in texts for path in re.findall(r"^LoadModule\s+\S+\s+(\S+)", text, re.M)]


def parse_ldd(text: str) -> set[str]:
    """The file names of the libraries in the dynamic linker's output, which is ldd(1)'s."""
    return {PurePosixPath(path).name for path in re.findall(r"(/\S+) \(0x", text)}


def _size(name: str, weights: Mapping[str, Weight]) -> int:
    return weights[name].size if name in weights else 0
