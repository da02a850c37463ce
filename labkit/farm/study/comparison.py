"""Root file systems side by side: what each weighs, on disk and as a layer, beside the Docker base image's.

Of what kinds of files they are, and the way down from the largest to the smallest, step by step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import pandas

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.result import Outcome, Result, action
from labkit.core.tables import Cell, Table
from labkit.display import human_bytes
from labkit.farm import rootfs
from labkit.farm.images import store
from labkit.farm.images.store import umoci
from labkit.farm.rootfs import packages, variants
from labkit.farm.rootfs.buildplan import Rootfs, key_of, program_version
from labkit.farm.rootfs.cache_entries import scratch
from labkit.farm.rootfs.contents import KINDS, Contents
from labkit.farm.rootfs.variants import Variant
from labkit.farm.study.evidence import collected
from labkit.farm.study.sizes import Change, changes, file_frame, sums
from labkit.model.lab import Lab
from labkit.records import Record

#: At least and at most so many are built side by side: one more than there are processors, as one of
#: them often waits for the mirror.
WORKERS = (3, 4)
#: What the others are measured against: the Docker base image's root file system.
YARDSTICK = "docker"
#: The way down, from variant to variant; what each step leaves out is computed from their files. Up to
#: ``essential`` there is no server in them, from ``web`` on there is one.
LADDER = (
    "debootstrap", "minbase", "essential", "web", "web-slim", "smallest-openssh", "smallest",
)  # fmt: skip


#: A kind of file is a step from this share of the first root file system on, a single package from the
#: second; smaller ones are summed up.
KIND, PACKAGE = 1 / 150, 1 / 40
#: So many packages together are called by their names.
FEW = 2
#: What the first step takes away.
DOWNLOADS = "downloads and indices"
#: What packs it.
PROGRAMS = ("umoci", "tar", "zstd")


#: What a variant may take: bytes on its disk, and as a layer (gzip), 0 for any.
LIMITS: Mapping[str, tuple[int, int]] = {
    "web": (150_000_000, 0), "web-slim": (60_000_000, 0), "smallest": (12_000_000, 5_000_000),
}  # fmt: skip


class Compressed(Record):
    """The bytes of one layer with all of a root file system: gzip as umoci packs it, zstd as tar(1) and
    zstd(1) do at its own level; ``key`` changes with those programs."""

    key: str
    gzip: int
    zstd: int


class WaterfallBar(Record):
    """One step of the way down: the bytes it adds, and the size ``after`` it; a ``whole`` one is a root file
    system, and its ``size`` is all of it."""

    name: str
    whole: bool
    size: int
    after: int


class Measured(Record):
    """One root file system: its build, what it takes on its disk (bytes), and as a compressed layer
    if that was asked."""

    rootfs: Rootfs
    disk: int
    layer: Compressed | None


class Comparison(Record):
    """Root file systems of one suite, and the steps from the first of the ladder to its last."""

    suite: str
    variants: tuple[Measured, ...]
    steps: tuple[WaterfallBar, ...] = ()

    def of(self, name: str) -> Rootfs | None:
        """The one of that variant, if it was compared."""
        found = (item.rootfs for item in self.variants)
        return next((item for item in found if item.variant == name), None)


@action("rootfs.compare")
def compare(
    lab: Lab, names: Sequence[str] = (), *, registry: str = "", layers: bool = True
) -> Outcome[Comparison]:
    """Builds the variants that the cache does not have, and measures all of them side by side.

    All of them from nothing take some minutes.

    :param names: variants (:data:`labkit.farm.rootfs.variants.VARIANTS`); all of them when empty.
    :param registry: where Docker's images come from, instead of Docker's own registry.
    :param layers: whether to weigh each also as a compressed layer of an image.
    :returns: sizes in bytes, as value and as tables ``variants``, ``kinds`` and ``waterfall``.
    :raises LabkitError: as :func:`labkit.farm.rootfs.build` does.

    >>> study.compare(lab, ("essential", "web")).frames["variants"]
    """
    chosen = tuple(variants.named(name) for name in names or variants.VARIANTS)
    ordered = in_order(chosen, own=variants.of_lab(lab).name)

    def weighed(variant: Variant) -> tuple[Result[Rootfs], Compressed | None]:
        built = rootfs.build(lab, variant.name, registry=registry)  # the next is built meanwhile
        return built, compressed(lab, built.value) if layers else None

    made = run.spread(weighed, ordered, workers=workers())
    of = dict(zip(ordered, made, strict=True))
    results, packed = zip(*(of[variant] for variant in chosen), strict=True)
    found = tuple(result.value for result in results)
    contents = {item.variant: Contents.read(item.variant, item.path) for item in found}
    chain = [contents[name] for name in LADDER if name in contents]
    left = {item.variant: item.cleaned for item in found}
    value = Comparison(
        suite=found[0].suite,
        variants=tuple(
            Measured(rootfs=item, disk=contents[item.variant].weight.disk, layer=weight)
            for item, weight in zip(found, packed, strict=True)
        ),
        steps=way_down(chain, left=left[chain[0].name]) if chain else (),
    )
    return Outcome(
        value=value,
        subject=value.suite,
        changed=any(result.changed for result in results),
        summary=_summary(value),
        checks=(
            *checks(value),
            *(_still(item, contents[item.variant]) for item in found),
            *(check for result in results for check in result.checks),
        ),
        tables=(variant_table(value), kind_table(contents), waterfall_table(value.steps)),
    )


def workers() -> int:
    """How many builds keep this machine's processors busy."""
    return max(WORKERS[0], min((os.cpu_count() or 1) + 1, WORKERS[1]))


def in_order(chosen: Sequence[Variant], *, own: str = "") -> list[Variant]:
    """The variants that others are made from first, so that no build waits for one that has not begun.

    The farm's ``own`` comes last: another stage builds it meanwhile.
    """
    sources = {variant.after for variant in chosen}
    return sorted(chosen, key=lambda v: (v.name == own, _depth(v), v.name not in sources))


def _depth(variant: Variant) -> int:
    return 1 + _depth(variants.named(variant.after)) if variant.after else 0


def variant_table(value: Comparison) -> Table:
    """One row a variant, the heaviest first."""
    docker = value.of(YARDSTICK)
    rows: list[dict[str, Cell]] = [
        {
            "variant": one.variant,
            "tool": one.tool,
            "packages": one.packages,
            "size": one.bytes,
            "on disk": item.disk,
            **({"gzip": item.layer.gzip, "zstd": item.layer.zstd} if item.layer else {}),
            "as the tool left it": one.bytes + one.cleaned,
            "build": one.seconds,
            "size / docker": round(one.bytes / docker.bytes, 2) if docker else None,
            "what it is": variants.named(one.variant).about,
            "origin": one.origin,
        }
        for item in sorted(value.variants, key=lambda item: -item.rootfs.bytes)
        for one in (item.rootfs,)
    ]
    sizes = ("size", "on disk", "gzip", "zstd", "as the tool left it")
    units = {**dict.fromkeys(sizes, "bytes"), "build": "s"}
    title = (
        f"Root file systems of {value.suite}: apparent size without downloads and indices, disk space, "
        "size as a compressed layer of an image if it was packed; build time as it was measured then, "
        "perhaps with another build beside it"
    )
    return Table.of("variants", title, rows, units=units)


def kind_table(contents: Mapping[str, Contents]) -> Table:
    """One row a kind of file, one column a root file system; every column adds up to its size."""
    order = sorted(contents.values(), key=lambda item: -item.weight.size)
    found = {item.name: sums(file_frame(item), "kind")["size"] for item in order}
    sizes = pandas.DataFrame(found, index=KINDS).dropna(how="all").fillna(0).astype(int)
    largest = sizes.max(axis=1).sort_values(ascending=False, kind="stable")
    rows = sizes.loc[largest.index].reset_index(names="kind").to_dict("records")
    title = "What kind of files they consist of: apparent size"
    return Table.of("kinds", title, rows, units=dict.fromkeys(found, "bytes"))


def checks(value: Comparison) -> tuple[Check, ...]:
    """The comparisons that the assignment asks for, of those that were measured."""
    pairs = (
        ("rootfs.reduced", "essential", "debootstrap", ("I2",)),
        ("rootfs.docker-smaller", "docker", "debootstrap", ("R2", "R3")),
        ("rootfs.slim-smaller", "docker-slim", "docker", ("R3",)),
        ("rootfs.base-smaller", "essential", "docker", ("R3",)),
        ("rootfs.serving-smaller", "smallest", "docker-slim", ("R3",)),
    )
    found = ((name, value.of(a), value.of(b), rows) for name, a, b, rows in pairs)
    return (
        *(_smaller(name, a, b, rows) for name, a, b, rows in found if a and b),
        *(_within(item, *LIMITS[item.rootfs.variant]) for item in value.variants
          if item.rootfs.variant in LIMITS),
    )  # fmt: skip


def _smaller(name: str, less: Rootfs, more: Rootfs, rows: tuple[str, ...]) -> Check:
    share = 100 * (1 - less.bytes / more.bytes)
    return Check(
        name=name,
        expected=f"{less.variant} ({less.origin}) is smaller than {more.variant} ({more.origin})",
        seen=f"{human_bytes(less.bytes)} against {human_bytes(more.bytes)}: {share:.0f} % less",
        holds=less.bytes < more.bytes,
        rows=rows,
        again=f"du -sb {less.path} {more.path}",
    )


def _within(item: Measured, most: int, most_layer: int) -> Check:
    layer = item.layer.gzip if item.layer else 0
    both = f", {human_bytes(most_layer)} as a layer" if most_layer else ""
    return Check(
        name=f"rootfs.limit.{item.rootfs.variant}",
        expected=f"at most {human_bytes(most)} on its disk{both}",
        seen=f"{human_bytes(item.disk)} on its disk, {human_bytes(layer)} as a layer",
        holds=item.disk <= most and (not most_layer or 0 < layer <= most_layer),
        rows=("I2", "R3"),
        again=f"du --summarize --block-size=1 {item.rootfs.path}",
    )


def _still(item: Rootfs, contents: Contents) -> Check:
    """What was measured when it was built is what all its files weigh now."""
    return equal(
        f"rootfs.whole.{item.variant}",
        f"its files weigh {item.bytes} bytes, as when it was built",
        f"its files weigh {contents.weight.size} bytes, as when it was built",
        rows=("I2",),
        again=f"du --summarize --bytes {item.path}",
    )


def _summary(value: Comparison) -> str:
    ordered = sorted((item.rootfs for item in value.variants), key=lambda item: item.bytes)
    weights = [f"{item.variant} {human_bytes(item.bytes)}" for item in ordered]
    return f"Root file systems of {value.suite}: {packages.naming(weights, len(weights))}."


# -- the way down -----------------------------------------------------------------------------------


def way_down(chain: Sequence[Contents], *, left: int = 0) -> tuple[WaterfallBar, ...]:
    """From the first to the last of ``chain``; the steps between two of them add up exactly.

    ``left`` are the bytes of downloads that the first one's tool had left in it.
    """
    first = chain[0].weight.size
    found: list[WaterfallBar] = []
    if left:
        name = f"{chain[0].name}, as built"
        found += [
            WaterfallBar(name=name, whole=True, size=first + left, after=first + left),
            WaterfallBar(name=DOWNLOADS, whole=False, size=-left, after=first),
        ]
    found.append(_whole(chain[0]))
    for before, after in pairwise(chain):
        level = before.weight.size
        for name, size in _parts(changes(before, after), first + left):
            level += size
            found.append(WaterfallBar(name=name, whole=False, size=size, after=level))
        found.append(_whole(after))
    return tuple(found)


def waterfall_table(found: Sequence[WaterfallBar]) -> Table:
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


def _whole(contents: Contents) -> WaterfallBar:
    size = contents.weight.size
    return WaterfallBar(name=contents.name, whole=True, size=size, after=size)


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


# -- a layer's weight -------------------------------------------------------------------------------


def compressed(lab: Lab, built: Rootfs) -> Compressed:
    """The weights of a root file system in the cache as a layer, measured once and kept beside it."""
    versions = [f"{name} {program_version(name)}" for name in PROGRAMS]
    key = key_of("layer", built.key, *versions)
    measure = partial(_measure_layer, lab, built.path, key)
    return collected(lab, built.path.parent, key, Compressed, measure)


def _measure_layer(lab: Lab, root: Path, key: str) -> Compressed:
    run.require(*PROGRAMS)
    with scratch(lab, lab.cache_dir / "rootfs" / f".{key}.part") as work:
        layout, packed = work / "layout", work / "layer.tar.zst"
        umoci("init", "--layout", layout)
        umoci("new", "--image", f"{layout}:whole")
        umoci("insert", "--image", f"{layout}:whole", root, "/")
        words = ("--create", "--zstd", "--sort=name", "--numeric-owner")
        run.run(["tar", *words, f"--file={packed}", f"--directory={root}", "."], timeout=600)
        return Compressed(key=key, gzip=_layer_size(layout), zstd=packed.stat().st_size)


def _layer_size(layout: Path) -> int:
    """The bytes of a layout's only layer."""
    (digest,) = store.tag(layout, "whole").layers
    return store.blobs(layout)[digest]
