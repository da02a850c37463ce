"""Figures of the sizes of root file systems: side by side, the way down to the smallest, and what each step saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.core.result import Figure, Result
from labkit.display import human_bytes
from labkit.model.lab import Lab
from labkit.report.figures import style
from labkit.report.figures.style import HATCHES, TINTS, Row

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
#: A layer's bars: gzip, zstd.
LAYERS = {"gzip": "#3d4852", "zstd": "#8a949e"}
#: How wide a letter of a label within a bar is, as a share of the longest bar.
LETTER = 0.0115
#: Where the axis of the steps has its lines (MB): the distance is a ratio, so that small steps are seen, too.
TICKS = (5, 10, 20, 50, 100, 200)
#: How many broken questions a label names.
NAMED = 3


def _bar_axes(axes: Axes, names: Sequence[str], *, ends: tuple[float, float]) -> None:
    """Names the horizontal bars, from the top down."""
    axes.set_yticks(range(len(names)), names, color=style.INK)
    axes.set_ylim(len(names) - ends[0], -ends[1])
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _beside(axes: Axes, place: int, end: float, text: str, *, away: float, **look: Any) -> None:
    """A text some points right of a bar's end, on white."""
    axes.annotate(
        text, (end, place), (away, 0), textcoords="offset points", va="center", zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8}, **look,
    )  # fmt: skip


# -- the waterfall -----------------------------------------------------------------------------------


def waterfall(lab: Lab, result: Result[Any], *, name: str = "waterfall") -> Figure:
    """Draws the way down from the largest root file system, step by step, with Docker's sizes as lines.

    :param result: of :func:`labkit.farm.study.compare`, with tables ``waterfall`` and ``variants``.
    :param name: the figure's name, and its files'.
    """
    rows, variants = style.rows(result, "waterfall"), style.rows(result, "variants")
    docker = [row for row in variants if row["variant"] in DOCKER]
    with style.axes(1.1 + 0.3 * len(rows)) as (figure, axes):
        level = 0.0
        for place, row in enumerate(rows):
            _waterfall_bar(axes, place, row, level)
            level = row["size"] / MB
        widest = max(row["size"] for row in rows) / MB
        axes.set(xlim=(0, 1.16 * widest), xlabel="apparent size (MB)")
        names = [row["step"] + ("" if row["a root file system"] else "  ") for row in rows]
        _bar_axes(axes, names, ends=(0.4, 0.6))
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if row["a root file system"] else "normal")
        ends = f"From {human_bytes(rows[0]['size'])} to {human_bytes(rows[-1]['size'])}"
        axes.set_title(f"{ends}: what makes the difference", pad=24)
        _docker_lines(axes, docker)
        dashed = " and ".join(DOCKER[row["variant"]] for row in docker)
        return style.save(
            lab,
            figure,
            name=name,
            alt=f"A waterfall of sizes: {'; '.join(map(_bar_in_words, rows))}.",
            caption="The way down, step by step. Blue: a root file system as it stands; orange: what "
            "the next one does not have (green: has besides), computed from the files of both"
            f"{f'; dashed: {dashed}' if dashed else ''}.",
        )


def _waterfall_bar(axes: Axes, place: int, row: Row, level: float) -> None:
    """A root file system's bar from nothing on, or a step's from the level before it."""
    after, more, whole = row["size"] / MB, row["more or less"] / MB, row["a root file system"]
    if whole:
        axes.barh(place, after, height=0.66, color=style.BLUE)
        note = NOTES.get(row["step"])
        text = f"{after:.1f}   {note}" if note else f"{after:.1f}"
    else:
        colour = style.GREEN if more > 0 else style.ORANGE
        axes.barh(place, abs(more), left=min(level, after), height=0.5, color=colour)
        text = f"{more:+.1f}".replace("-", "−")
        axes.plot([level, level], [place - 0.75, place - 0.25], color=style.GREY, linewidth=0.8)
    end, weight = (after, "bold") if whole else (max(level, after), "normal")
    _beside(axes, place, end, text, away=5, fontsize=9, fontweight=weight)


def _bar_in_words(row: Row) -> str:
    if row["a root file system"]:
        return f"{row['step']} {human_bytes(row['size'])}"
    more = row["more or less"]
    return f"{row['step']} {human_bytes(abs(more))} {'less' if more < 0 else 'more'}"


def _docker_lines(axes: Axes, rows: Sequence[Row]) -> None:
    """A line down from each of Docker's, so that the others can be held against it."""
    lines = sorted((row["size"] / MB, row["variant"]) for row in rows)
    for place, (size, name) in enumerate(lines):
        axes.axvline(size, color=style.INK, linestyle="--", linewidth=1, zorder=3)
        left = place == 0 and len(lines) > 1
        axes.annotate(
            f"{name} {size:.1f}", (size, -0.72), (-4 if left else 4, 0), textcoords="offset points",
            ha="right" if left else "left", va="bottom", fontsize=9, annotation_clip=False,
        )  # fmt: skip


# -- side by side ------------------------------------------------------------------------------------


def variant_sizes(lab: Lab, result: Result[Any], *, name: str = "variants") -> Figure:
    """Draws the variants side by side: the kinds of their files, and each as a compressed layer if it was packed.

    :param result: of :func:`labkit.farm.study.compare`, with tables ``variants`` and ``kinds``.
    :param name: the figure's name, and its files'.
    """
    rows = style.rows(result, "variants")
    kinds = style.frame(result, "kinds").set_index("kind") / MB
    few = len(TINTS) - 1  # the largest kinds of all variants; the others are one
    shares = {key: {**kinds[key][:few], "all else": kinds[key][few:].sum()} for key in kinds}
    packed = "gzip" in rows[0]
    with style.axes(1.6 + (0.78 if packed else 0.6) * len(rows)) as (figure, axes):
        axes.set_xlim(0, 1.3 * max(row["on disk"] for row in rows) / MB)
        for place, row in enumerate(rows):
            _variant(axes, place, row, shares[row["variant"]])
        made = {row["variant"]: f"by {row['tool']}" for row in rows} | DOCKER
        names = [f"{row['variant']}\n({made[row['variant']]})" for row in rows]
        _bar_axes(axes, names, ends=(0.45, 0.55))
        shown = "files, and compressed layer" if packed else "what kinds of files they are"
        axes.set(xlabel="MB", title=f"Root file systems of {result.subject}: {shown}")
        _variant_key(axes, list(shares[rows[0]["variant"]]), LAYERS if packed else {})
        below = ", and below it the same as one compressed layer of an image" if packed else ""
        return style.save(
            lab,
            figure,
            name=name,
            alt="Horizontal bars, the size of each root file system by kind of file: "
            f"{'; '.join(map(_variant_in_words, rows))}.",
            caption="Root file systems side by side: the apparent size of their files by kind (the mark: "
            f"what they take on the disk){below}.",
        )


def _variant(axes: Axes, place: int, row: Row, shares: Mapping[str, float]) -> None:
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
    disk = row["on disk"] / MB
    axes.plot([disk, disk], [middle - 0.2, middle + 0.2], color=style.INK, linewidth=1.6)
    words: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
    axes.annotate(f"{left:.1f}", (disk, middle), (5, 0), fontsize=9, fontweight="bold", **words)
    axes.annotate(f"on disk {disk:.1f}", (disk, middle), (38, 0), fontsize=8, **words)
    for step, (name, colour) in enumerate(LAYERS.items() if "gzip" in row else ()):
        size, height = row[name] / MB, place + 0.16 + 0.14 * step
        axes.barh(height, size, height=0.12, color=colour)
        axes.text(size + 1.5, height, f"{name} {size:.1f}", va="center", fontsize=7.5)


def _variant_in_words(row: Row) -> str:
    size, disk = human_bytes(row["size"]), human_bytes(row["on disk"])
    said = f"{row['variant']} {size} in {row['packages']} packages, {disk} on disk"
    if "gzip" not in row:
        return said
    return (
        f"{said}, as a layer {human_bytes(row['gzip'])} (gzip) or {human_bytes(row['zstd'])} (zstd)"
    )


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


# -- the steps to the smallest -----------------------------------------------------------------------


def shrinking(lab: Lab, result: Result[Any]) -> Figure:
    """Draws how much is left on the disk after each step, and the steps that were undone.

    :param result: of :func:`labkit.farm.study.shrink`, with tables ``steps`` and ``undone``.
    """
    steps, undone = style.rows(result, "steps"), style.rows(result, "undone")
    rows = [*steps, *undone]
    sizes = [row["left on disk"] / MB for row in rows]
    with style.axes(1.5 + 0.3 * len(rows)) as (figure, axes):
        axes.set(xscale="log", xlim=(0.75 * min(sizes), 9.0 * max(sizes)))
        for place, row in enumerate(steps):
            _step(axes, place, row, sizes[max(place - 1, 0)])
        for place, row in enumerate(undone, len(steps)):
            _undone(axes, place, row)
        axes.axhline(len(steps) - 0.5, color=style.GREY, linewidth=1)
        _bar_axes(axes, [row["step"] for row in rows], ends=(0.4, 0.7))
        axes.tick_params(axis="y", labelsize=9)
        ticks = [tick for tick in TICKS if axes.get_xlim()[0] < tick < axes.get_xlim()[1]]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("on the disk after the step (MB; equal distances are equal ratios)")
        first, last = human_bytes(steps[0]["left on disk"]), human_bytes(steps[-1]["left on disk"])
        axes.set_title(f"To {result.subject} step by step: {first} to {last}")
        kept = "; ".join(
            f"{row['step']} {human_bytes(row['left on disk'])}, {row['answered']} answered"
            for row in steps
        )
        failed = "; ".join(f"{row['step']}, fails {row['not answered']}" for row in undone)
        return style.save(
            lab,
            figure,
            name=f"shrinking-{result.subject}",
            alt=f"What is left on the disk after each step: {kept}. Undone: {failed}.",
            caption="Above the line: the steps that were kept; after each of them containers were started on "
            "what was left, and every question was answered. Below it: steps that go further, each tried "
            "by itself on the smallest one and undone, with the questions that were not answered.",
        )


def _step(axes: Axes, place: int, row: Row, before: float) -> None:
    """A bar from what was left before to what is left now; a mark alone for the beginning."""
    left = row["left on disk"] / MB
    if place:
        colour = style.GREEN if left > before else style.ORANGE
        axes.barh(place, abs(before - left), left=min(before, left), height=0.55, color=colour)
        axes.plot([before, before], [place - 0.75, place - 0.25], color=style.GREY, linewidth=0.8)
        saved = f"{-row['saved on disk'] / MB:+.1f}".replace("-", "−")
        text = f"{saved} → {left:.1f}   {row['answered']}"
    else:
        text = f"{left:.1f}   {row['answered']} answered"
    axes.plot([left], [place], marker="o", color=style.BLUE, markersize=6)
    _beside(axes, place, max(left, before), text, away=8, fontsize=8.5)


def _undone(axes: Axes, place: int, row: Row) -> None:
    left = row["left on disk"] / MB
    axes.plot([left], [place], marker="X", color=style.PINK, markersize=8)
    broken = row["not answered"].split(", ")
    more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    text = f"{left:.1f}   fails: {', '.join(broken[:NAMED])}{more}"
    _beside(axes, place, left, text, away=8, fontsize=8.5)
