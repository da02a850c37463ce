"""Root file systems side by side: what each weighs beside the Docker base image's, and why."""

from __future__ import annotations

from collections.abc import Sequence

from labkit import run
from labkit.checks import Check
from labkit.display import human_bytes
from labkit.farm import packages, rootfs, variants
from labkit.farm.rootfs import Rootfs
from labkit.lab import Lab
from labkit.result import Cell, Outcome, Record, Table, action

#: At most so many are built side by side: each keeps a processor and the disk busy.
WORKERS = 2
#: What the others are measured against: the Docker base image's root file system.
YARDSTICK = "docker"
#: The way down from what debootstrap leaves: variant, and what it leaves out of the one above.
STAIRS = (
    ("debootstrap", "downloaded packages and indices"),
    ("minbase", "packages of priority important"),
    ("docker-slim", "documentation, manuals, translations"),
    ("essential", "packages that are not essential"),
)


class Comparison(Record):
    """Root file systems of one suite."""

    suite: str
    variants: tuple[Rootfs, ...]

    def of(self, name: str) -> Rootfs | None:
        """The one of that variant, if it was compared."""
        return next((item for item in self.variants if item.variant == name), None)


@action("rootfs.compare")
def compare(lab: Lab, names: Sequence[str] = (), *, registry: str = "") -> Outcome[Comparison]:
    """Every named variant (none named: all) stands in the cache and is measured beside the others.

    What is missing is built, two at a time; all of them from nothing take some minutes. Errors
    are those of :func:`labkit.farm.rootfs.build`.
    """
    chosen = tuple(variants.named(name) for name in names or variants.VARIANTS)
    results = run.spread(
        lambda variant: rootfs.build(lab, variant.name, registry=registry),
        chosen,
        workers=WORKERS,
    )
    found = tuple(result.value for result in results)
    value = Comparison(suite=found[0].suite, variants=found)
    return Outcome(
        value=value,
        subject=value.suite,
        changed=any(result.changed for result in results),
        summary=_summary(value),
        checks=(*checks(value), *(check for result in results for check in result.checks)),
        tables=(variant_table(value), stair_table(value)),
    )


def variant_table(value: Comparison) -> Table:
    """One row a variant, the heaviest first."""
    docker = value.of(YARDSTICK)
    rows: list[dict[str, Cell]] = [
        {
            "variant": item.variant,
            "tool": item.tool,
            "packages": item.packages,
            "size": item.bytes,
            "as the tool left it": item.bytes + item.cleaned,
            "build": item.seconds,
            "size / docker": round(item.bytes / docker.bytes, 2) if docker else None,
            "what it is": variants.named(item.variant).about,
            "origin": item.origin,
        }
        for item in sorted(value.variants, key=lambda item: -item.bytes)
    ]
    units = {"size": "bytes", "as the tool left it": "bytes", "build": "s"}
    title = (
        f"Root file systems of {value.suite}: apparent size without downloads and indices; build time "
        "as it was measured then, perhaps with another build beside it"
    )
    return Table.of("variants", title, rows, units=units)


def stair_table(value: Comparison) -> Table:
    """From what debootstrap leaves down to the farm's base, and what each step takes away."""
    first = value.of("debootstrap")
    rows: list[dict[str, Cell]] = []
    above = first.bytes + first.cleaned if first else 0
    if first:
        rows.append(_stair("as debootstrap leaves it", "nothing", above, above, first.packages))
    for name, less in STAIRS if first else ():
        if item := value.of(name):
            rows.append(_stair(name, less, item.bytes, above, item.packages))
            above = item.bytes
    return Table.of(
        "stairs",
        "How far it can be reduced",
        rows,
        units={"size": "bytes", "less by": "bytes"},
        columns=("root file system", "left out", "less by", "size", "packages"),
    )


def checks(value: Comparison) -> tuple[Check, ...]:
    """The comparisons that the assignment asks for, of those that were measured."""
    pairs = (
        ("rootfs.reduced", "essential", "debootstrap", ("I2",)),
        ("rootfs.docker-smaller", "docker", "debootstrap", ("R2", "R3")),
        ("rootfs.slim-smaller", "docker-slim", "docker", ("R3",)),
        ("rootfs.base-smaller", "essential", "docker", ("R3",)),
    )
    found = ((name, value.of(a), value.of(b), rows) for name, a, b, rows in pairs)
    return tuple(_smaller(name, a, b, rows) for name, a, b, rows in found if a and b)


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


def _stair(name: str, less: str, size: int, above: int, count: int) -> dict[str, Cell]:
    return {
        "root file system": name,
        "left out": less,
        "less by": above - size,
        "size": size,
        "packages": count,
    }


def _summary(value: Comparison) -> str:
    ordered = sorted(value.variants, key=lambda item: item.bytes)
    weights = [f"{item.variant} {human_bytes(item.bytes)}" for item in ordered]
    return f"Root file systems of {value.suite}: {packages.naming(weights, len(weights))}."
