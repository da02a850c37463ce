"""Explains the size of root file systems: whose each byte is, of what kind, and why each package is
there; and what makes the difference between any two."""

from __future__ import annotations

from pathlib import Path

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.result import Outcome, action
from labkit.display import counted, human_bytes
from labkit.farm.images import actions as image
from labkit.farm.images import siteimages
from labkit.farm.rootfs import account, variants
from labkit.farm.rootfs import actions as rootfs
from labkit.farm.rootfs.account import Asked, Contents, Weight, asked
from labkit.farm.study import difference as causes
from labkit.farm.study.difference import Change, Version
from labkit.model.lab import Lab, unknown
from labkit.records import Record

#: How a tag of the lab's image is named where a variant may have the same name: ``image:web``.
IMAGE = "image:"


class Explained(Record):
    """The sums of a root file system: all of it, its folders alone, and what belongs to nobody."""

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
    """Every byte of a root file system has an owner and a kind, and every package a reason.

    :param name: a variant (:data:`labkit.farm.rootfs.variants.VARIANTS`), or a tag of the lab's image
        (``base``, ``web``, a site), which ``image:`` before it tells apart from a variant.
    :raises ConfigError: neither a variant nor a tag has that name.
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
    """Every byte by which two root file systems differ has a cause; names as for :func:`explain`."""
    one, other = named(lab, before), named(lab, after)
    found, packages = causes.changes(one, other), causes.versions(one, other)
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
        tables=(
            causes.cause_table(one, other, found),
            causes.version_table(one, other, packages),
        ),
    )


def find(lab: Lab, name: str) -> Place:
    """The root file system of that name, built if it is not there yet."""
    if name in variants.VARIANTS:
        chosen = variants.named(name)
        given = asked(chosen, lab.rootfs.packages)
        return Place(name=name, roots=(rootfs.build(lab, name).value.path,), asked=given)
    tag = name.removeprefix(IMAGE)
    tags = (*siteimages.COMMON, *(site.name for site in lab.sites))
    if tag not in tags:
        raise unknown(name, {*variants.VARIANTS, *tags}, "a root file system or a tag of the image")
    base = asked(variants.of_lab(lab), lab.rootfs.packages)
    more = variants.PACKAGES if tag != "base" else ()
    given = base.model_copy(update={"packages": (*more, *base.packages)})
    return Place(name=name, roots=image.unpacked(lab, tag).lower, asked=given)


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
    size, disk = _du("--bytes", root), _du("--block-size=1", root)
    whole = value.whole
    likely = ((whole.size, whole.disk), (whole.size - value.folders.size, whole.disk))
    return Check(
        name=f"rootfs.explained.{value.name}",
        expected=f"the sums of all owners are what du counts: {size} bytes, {disk} on disk",
        seen=f"{whole.size} bytes, {value.folders.size} of them in folders; {whole.disk} on disk",
        holds=(size, disk) in likely,
        rows=("I2",),
        again=f"du --summarize --bytes {root}",
    )


def _du(how: str, root: Path) -> int:
    return int(run.run(["du", "--summarize", how, root]).stdout.split()[0])


def named(lab: Lab, name: str) -> Contents:
    """The contents of the root file system of that name; see :func:`find`."""
    place = find(lab, name)
    return account.read(place.name, *place.roots)
