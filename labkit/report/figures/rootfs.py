"""Figures of the root file systems side by side, and of the way down from one to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.core.result import Figure, Result
from labkit.core.tables import Cell
from labkit.display import human_bytes
from labkit.errors import ConfigError
from labkit.model.lab import Lab
from labkit.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MB = 1_000_000
#: The variants that are Docker's, and what the figures call them.
DOCKER = {"docker": "Docker's base image", "docker-slim": "Docker's slim image"}
#: What the waterfall says of some root file systems, beside their sizes.
NOTES = {
    "essential": "the farm's base, no server yet",
    "web": "with apache2 and sshd",
    "web-slim": "without package tools",
    "smallest-openssh": "with busybox, and what is loaded",
    "smallest": "with dropbear for OpenSSH",
}
#: The colours of kinds of files, the style's own in tints on which dark letters are legible; the
#: last is for all kinds that have none.
TINTS = ("#8fc1e3", "#f0b183", "#8fd0b5", "#ecc3d8", "#f3d489", "#c9e5f7", "#f6f0a0", "#d9dee5")
#: Marks on those tints that are alike to some eyes, in the same order.
HATCHES = ("", "", "", "////", "....", "\\\\\\\\", "xxxx", "")
#: A layer's bars: gzip, zstd.
LAYERS = {"gzip": "#3d4852", "zstd": "#8a949e"}
#: How wide a letter of a label within a bar is, as a share of the longest bar.
LETTER = 0.0115


def waterfall(lab: Lab, result: Result[Any], *, name: str = "waterfall") -> Figure:
    """The way down from the largest root file system, step by step, with Docker's as lines.

    ``result`` is :func:`labkit.farm.study.compare`'s; the steps are of its table ``waterfall``.
    """
    rows = table_rows(result, "waterfall")
    highest = max(float(row["size"] or 0) for row in rows) / MB
    with style.axes(1.1 + 0.3 * len(rows)) as (figure, axes):
        level = 0.0
        for place, row in enumerate(rows):
            _step(axes, place, row, level)
            level = float(row["size"] or 0) / MB
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 1.16 * highest)
        axes.set_yticks(range(len(rows)), [_step_label(row) for row in rows], color=style.INK)
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if row["a root file system"] else "normal")
        axes.set_xlabel("apparent size (MB)")
        axes.set_title(
            f"From {human_bytes(float(rows[0]['size'] or 0))} to "
            f"{human_bytes(float(rows[-1]['size'] or 0))}: what makes the difference",
            pad=24,
        )
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        _docker_lines(axes, table_rows(result, "variants"))
        return style.save(
            lab,
            figure,
            name=name,
            alt=f"A waterfall of sizes: {_told(rows)}.",
            caption="The way down, step by step. Blue: a root file system as it stands; orange: what "
            "the next one does not have (green: has besides), computed from the files of both"
            f"{_told_lines(table_rows(result, 'variants'))}.",
        )


def variant_sizes(lab: Lab, result: Result[Any], *, name: str = "variants") -> Figure:
    """The variants side by side: the kinds of their files, and each as a compressed layer if it was packed.

    ``result`` is :func:`labkit.farm.study.compare`'s, with tables ``variants`` and ``kinds``.
    """
    rows = table_rows(result, "variants")
    kinds = table_rows(result, "kinds")
    widest = max(float(row["on disk"] or 0) for row in rows) / MB
    packed = "gzip" in rows[0]
    with style.axes(1.6 + (0.78 if packed else 0.6) * len(rows)) as (figure, axes):
        axes.set_xlim(0, 1.3 * widest)
        for place, row in enumerate(rows):
            _variant(axes, place, row, _shares(kinds, str(row["variant"])))
        axes.set_yticks(range(len(rows)), [_variant_label(row) for row in rows], color=style.INK)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xlabel("MB")
        shown = "files, and compressed layer" if packed else "what kinds of files they are"
        axes.set_title(f"Root file systems of {result.subject}: {shown}")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        _variant_key(axes, list(_shares(kinds, str(rows[0]["variant"]))), LAYERS if packed else {})
        listed = "; ".join(
            f"{row['variant']} {human_bytes(float(row['size'] or 0))} in {row['packages']} packages, "
            f"{human_bytes(float(row['on disk'] or 0))} on disk{_told_layer(row) if packed else ''}"
            for row in rows
        )
        return style.save(
            lab,
            figure,
            name=name,
            alt=f"Horizontal bars, the size of each root file system by kind of file: {listed}.",
            caption="Root file systems side by side: the apparent size of their files by kind (the mark: "
            f"what they take on the disk){', and below it the same as one compressed layer of an image' if packed else ''}.",
        )


def table_rows(result: Result[Any], name: str) -> list[dict[str, Cell]]:
    """A table's rows by column; raises :class:`ConfigError` when the result has no such table."""
    try:
        table = result.table(name)
    except KeyError as error:
        raise ConfigError(
            f"the result of {result.action}", f"has no table {error}", code="config.table"
        ) from None
    heads = [column.name for column in table.columns]
    return [dict(zip(heads, row, strict=True)) for row in table.rows]


# -- the waterfall -----------------------------------------------------------------------------------


def _step(axes: Axes, place: int, row: Mapping[str, Cell], level: float) -> None:
    """A root file system's bar from nothing on, or a step's from the level before it."""
    after, more = float(row["size"] or 0) / MB, float(row["more or less"] or 0) / MB
    if row["a root file system"]:
        axes.barh(place, after, height=0.66, color=style.BLUE)
        note = NOTES.get(str(row["step"]))
        text = f"{after:.1f}   {note}" if note else f"{after:.1f}"
    else:
        colour = style.GREEN if more > 0 else style.ORANGE
        axes.barh(place, abs(more), left=min(level, after), height=0.5, color=colour)
        text = f"{more:+.1f}".replace("-", "−")
        axes.plot([level, level], [place - 0.75, place - 0.25], color=style.GREY, linewidth=0.8)
    end = after if row["a root file system"] else max(level, after)
    axes.annotate(
        text, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=9,
        fontweight="bold" if row["a root file system"] else "normal",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8}, zorder=4,
    )  # fmt: skip


def _step_label(row: Mapping[str, Cell]) -> str:
    name = str(row["step"])
    return name if row["a root file system"] else f"{name}  "


def _docker_lines(axes: Axes, rows: Sequence[Mapping[str, Cell]]) -> None:
    """A line down from each of Docker's, so that the others can be held against it."""
    sizes = {str(row["variant"]): float(row["size"] or 0) / MB for row in rows}
    lines = sorted((size, name) for name, size in sizes.items() if name in DOCKER)
    for place, (size, name) in enumerate(lines):
        axes.axvline(size, color=style.INK, linestyle="--", linewidth=1, zorder=3)
        side = ("right", -4) if place == 0 and len(lines) > 1 else ("left", 4)
        axes.annotate(
            f"{name} {size:.1f}", (size, -0.72), (side[1], 0), textcoords="offset points",
            ha=side[0], va="bottom", fontsize=9, annotation_clip=False,
        )  # fmt: skip


def _told_lines(rows: Sequence[Mapping[str, Cell]]) -> str:
    shown = [words for name, words in DOCKER.items() if any(row["variant"] == name for row in rows)]
    return f"; dashed: {' and '.join(shown)}" if shown else ""


def _told(rows: Sequence[Mapping[str, Cell]]) -> str:
    parts = []
    for row in rows:
        more, after = float(row["more or less"] or 0), float(row["size"] or 0)
        sign = "less" if more < 0 else "more"
        size = human_bytes(after if row["a root file system"] else abs(more))
        parts.append(f"{row['step']} {size}{'' if row['a root file system'] else ' ' + sign}")
    return "; ".join(parts)


# -- side by side ------------------------------------------------------------------------------------


def _shares(kinds: Sequence[Mapping[str, Cell]], variant: str) -> dict[str, float]:
    """The sizes of a variant's kinds (MB): the largest ones of all variants, and the rest."""
    sizes = {str(row["kind"]): float(row[variant] or 0) / MB for row in kinds}
    named = list(sizes)[: len(TINTS) - 1]
    rest = sum(size for name, size in sizes.items() if name not in named)
    return {**{name: sizes[name] for name in named}, "all else": rest}


def _variant(axes: Axes, place: int, row: Mapping[str, Cell], shares: Mapping[str, float]) -> None:
    """The files by kind with the space that they take on the disk, and the two layers below."""
    left, widest = 0.0, axes.get_xlim()[1]
    middle = place - 0.12 if "gzip" in row else place
    for (name, size), colour, hatch in zip(shares.items(), TINTS, HATCHES, strict=True):
        axes.barh(
            middle, size, left=left, height=0.4, color=colour, edgecolor=style.GREY,
            linewidth=0, hatch=hatch,
        )  # fmt: skip
        axes.barh(
            middle, size, left=left, height=0.4, facecolor="none", edgecolor="white", linewidth=0.8
        )  # fmt: skip
        if size > LETTER * widest * len(name):
            axes.text(
                left + size / 2, middle, name, ha="center", va="center", fontsize=8,
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0},
            )  # fmt: skip
        left += size
    disk = float(row["on disk"] or 0) / MB
    axes.plot([disk, disk], [middle - 0.2, middle + 0.2], color=style.INK, linewidth=1.6)
    axes.annotate(
        f"{left:.1f}", (disk, middle), (5, 0), textcoords="offset points", va="center",
        fontsize=9, fontweight="bold",
    )  # fmt: skip
    axes.annotate(
        f"on disk {disk:.1f}", (disk, middle), (38, 0), textcoords="offset points",
        va="center", fontsize=8,
    )  # fmt: skip
    for step, (name, colour) in enumerate(LAYERS.items() if "gzip" in row else ()):
        size = float(row[name] or 0) / MB
        height = place + 0.16 + 0.14 * step
        axes.barh(height, size, height=0.12, color=colour)
        axes.text(size + 1.5, height, f"{name} {size:.1f}", va="center", fontsize=7.5)


def _variant_label(row: Mapping[str, Cell]) -> str:
    name = str(row["variant"])
    return f"{name}\n({DOCKER[name]})" if name in DOCKER else f"{name}\n(by {row['tool']})"


def _told_layer(row: Mapping[str, Cell]) -> str:
    gzip, zstd = (human_bytes(float(row[name] or 0)) for name in LAYERS)
    return f", as a layer {gzip} (gzip) or {zstd} (zstd)"


def _variant_key(axes: Axes, names: Sequence[str], layers: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=style.GREY, linewidth=0, label=name)
        for name, colour, hatch in zip(names, TINTS, HATCHES, strict=True)
    ]
    handles.append(Line2D([], [], color=style.INK, linewidth=1.6, label="space on the disk"))
    handles += [Patch(color=colour, label=f"layer, {name}") for name, colour in layers.items()]
    axes.legend(handles=handles, loc="lower right", fontsize=8)
