"""Figures of the root file systems: their packages, and the variants side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.display import human_bytes
from labkit.errors import ConfigError
from labkit.lab import Lab
from labkit.report.figures import style
from labkit.result import Cell, Figure, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MB = 1_000_000
#: The variants that are Docker's, and what the figure calls them.
DOCKER = {"docker": "Docker's base image", "docker-slim": "Docker's slim image"}


def package_sizes(lab: Lab, result: Result[Any], *, most: int = 20) -> Figure:
    """The largest packages of a root file system as bars; ``result`` has a table ``packages``.

    With a table ``unneeded`` beside it, the packages that serving pages does not need are hatched.
    """
    rows = table_rows(result, "packages")[:most]
    names = {table.name for table in result.tables}
    spare = (
        {str(row["name"]) for row in table_rows(result, "unneeded")}
        if "unneeded" in names
        else set()
    )
    known = len(table_rows(result, "packages"))
    sizes = [float(row["installed"] or 0) / MB for row in rows]
    with style.axes(0.9 + 0.27 * len(rows)) as (figure, axes):
        for place, (row, size) in enumerate(zip(rows, sizes, strict=True)):
            free = row["name"] in spare
            axes.barh(place, size, **(SPARE if free else KEPT))
            axes.text(size, place, f" {size:.1f}", va="center", fontsize=9)
        axes.set_yticks(range(len(rows)), [str(row["name"]) for row in rows], color=style.INK)
        axes.invert_yaxis()
        axes.set_xlabel("installed size (MB)")
        axes.set_title(f"The {len(rows)} largest of {known} packages of {result.subject}")
        axes.grid(axis="x")
        axes.margins(x=0.08, y=0.02)
        if spare:
            _key(axes)
        marked = [str(row["name"]) for row in rows if row["name"] in spare]
        listed = ", ".join(
            f"{row['name']} {size:.1f} MB" for row, size in zip(rows, sizes, strict=True)
        )
        also = f" Not needed to serve pages: {', '.join(marked)}." if marked else ""
        return style.save(
            lab,
            figure,
            name=f"packages-{result.subject}",
            alt=f"Horizontal bars, the largest packages of {result.subject}: {listed}.{also}",
            caption=f"The largest packages of the root file system {result.subject}"
            + ("; hatched: not needed to serve pages." if spare else "."),
        )


def variant_sizes(lab: Lab, result: Result[Any]) -> Figure:
    """The variants side by side, Docker's marked, with what the tools leave of downloads.

    ``result`` is :func:`labkit.farm.rootfs.compare`'s.
    """
    rows = table_rows(result, "variants")
    with style.axes(1.3 + 0.62 * len(rows)) as (figure, axes):
        for place, row in enumerate(rows):
            _variant_bar(axes, place, row)
        axes.set_yticks(range(len(rows)), [_variant_label(row) for row in rows], color=style.INK)
        axes.invert_yaxis()
        axes.set_xlabel("apparent size (MB)")
        axes.set_title(f"Root file systems of {result.subject}", pad=26)
        axes.grid(axis="x")
        axes.set_xlim(0, max(float(row["as the tool left it"] or 0) for row in rows) / MB * 1.3)
        _docker_lines(axes, rows)
        _variant_key(axes)
        listed = "; ".join(
            f"{row['variant']} {human_bytes(float(row['size'] or 0))} in {row['packages']} packages"
            for row in rows
        )
        return style.save(
            lab,
            figure,
            name="variants",
            alt=f"Horizontal bars, the size of each root file system: {listed}.",
            caption="Root file systems side by side; dashed: Docker's base image and its slim one. "
            "Hatched: downloaded packages and indices that the tool left and labkit removed.",
        )


# -- drawing ---------------------------------------------------------------------------------

KEPT: Mapping[str, Any] = {"color": style.BLUE, "height": 0.7}
SPARE: Mapping[str, Any] = {
    "facecolor": "white",
    "edgecolor": style.ORANGE,
    "hatch": "////",
    "linewidth": 1.0,
    "height": 0.7,
}


def table_rows(result: Result[Any], name: str) -> list[dict[str, Cell]]:
    """A table's rows by column; raises :class:`ConfigError` when the result has no such table."""
    try:
        table = result.table(name)
    except KeyError as error:
        raise ConfigError(f"the result of {result.action}", f"has no table {error}") from None
    heads = [column.name for column in table.columns]
    return [dict(zip(heads, row, strict=True)) for row in table.rows]


def _key(axes: Axes) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=style.BLUE, label="needed by apache2 or sshd"),
        Patch(facecolor="white", edgecolor=style.ORANGE, hatch="////", label="not needed to serve"),
    ]
    axes.legend(handles=handles, loc="lower right")


def _variant_bar(axes: Axes, place: int, row: Mapping[str, Cell]) -> None:
    size = float(row["size"] or 0) / MB
    left = float(row["as the tool left it"] or 0) / MB
    colour = style.ORANGE if row["variant"] in DOCKER else style.BLUE
    axes.barh(place, size, height=0.62, color=colour)
    if left - size > 1:
        axes.barh(
            place, left - size, left=size, height=0.62,
            facecolor="white", edgecolor=style.GREY, hatch="....", linewidth=0.8,
        )  # fmt: skip
    axes.text(
        size - 2, place, f"{size:.0f} MB", ha="right", va="center", color="white", fontsize=10
    )
    axes.text(
        max(left, size) + 3, place, f"{row['packages']} packages", va="center", fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5}, zorder=4,
    )  # fmt: skip


def _variant_label(row: Mapping[str, Cell]) -> str:
    name = str(row["variant"])
    return f"{name}\n({DOCKER[name]})" if name in DOCKER else f"{name}\n(by {row['tool']})"


def _docker_lines(axes: Axes, rows: Sequence[Mapping[str, Cell]]) -> None:
    """A line down from each of Docker's, so that the others can be held against it."""
    for row in rows:
        if row["variant"] in DOCKER:
            size = float(row["size"] or 0) / MB
            axes.axvline(size, color=style.INK, linestyle="--", linewidth=1, zorder=3)
            axes.text(
                size, -0.62, f"{row['variant']}", ha="center", va="bottom", fontsize=9,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0}, zorder=4,
            )  # fmt: skip


def _variant_key(axes: Axes) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=style.BLUE, label="built for the farm or for comparison"),
        Patch(color=style.ORANGE, label="Docker's way"),
        Patch(
            facecolor="white",
            edgecolor=style.GREY,
            hatch="....",
            label="downloads and indices, removed",
        ),
    ]
    axes.legend(handles=handles, loc="lower right")
