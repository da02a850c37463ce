"""The way to the smallest root file system: what is left after each step, and what going further breaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.core.result import Figure, Result
from labkit.core.tables import Cell
from labkit.display import human_bytes
from labkit.model.lab import Lab
from labkit.report.figures import style
from labkit.report.figures.rootfs import table_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MB = 1_000_000
#: Where the axis has its lines (MB): the distance is a ratio, so that small steps are seen, too.
TICKS = (5, 10, 20, 50, 100, 200)
#: How many broken questions a label names.
NAMED = 3


def shrinking(lab: Lab, result: Result[Any]) -> Figure:
    """What is left on the disk after each step, and the steps that were undone.

    ``result`` is :func:`labkit.farm.study.shrink`'s, with tables ``steps`` and ``undone``.
    """
    steps, undone = table_rows(result, "steps"), table_rows(result, "undone")
    rows = [*steps, *undone]
    with style.axes(1.5 + 0.3 * len(rows)) as (figure, axes):
        axes.set_xscale("log")
        sizes = [_left(row) for row in rows]
        axes.set_xlim(0.75 * min(sizes), 9.0 * max(sizes))
        for place, row in enumerate(steps):
            _step(axes, place, row, steps[place - 1] if place else None)
        for place, row in enumerate(undone, len(steps)):
            _undone(axes, place, row)
        axes.axhline(len(steps) - 0.5, color=style.GREY, linewidth=1)
        axes.set_ylim(len(rows) - 0.4, -0.7)
        axes.set_yticks(
            range(len(rows)), [str(row["step"]) for row in rows], color=style.INK, fontsize=9
        )
        ticks = [tick for tick in TICKS if axes.get_xlim()[0] < tick < axes.get_xlim()[1]]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("on the disk after the step (MB; equal distances are equal ratios)")
        axes.set_title(
            f"To {result.subject} step by step: {human_bytes(MB * sizes[0])} to "
            f"{human_bytes(MB * _left(steps[-1]))}"
        )
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        return style.save(
            lab,
            figure,
            name=f"shrinking-{result.subject}",
            alt=f"What is left on the disk after each step: {_told(steps)}. Undone: {_told_undone(undone)}.",
            caption="Above the line: the steps that were kept; after each of them containers were started on "
            "what was left, and every question was answered. Below it: steps that go further, each tried "
            "by itself on the smallest one and undone, with the questions that were not answered.",
        )


def _step(
    axes: Axes, place: int, row: Mapping[str, Cell], before: Mapping[str, Cell] | None
) -> None:
    """A bar from what was left before to what is left now."""
    left = _left(row)
    whole = before is None
    if before is not None:
        start = _left(before)
        colour = style.GREEN if left > start else style.ORANGE
        axes.barh(place, abs(start - left), left=min(start, left), height=0.55, color=colour)
        axes.plot([start, start], [place - 0.75, place - 0.25], color=style.GREY, linewidth=0.8)
    axes.plot([left], [place], marker="o", color=style.BLUE, markersize=6)
    end = max(left, _left(before)) if before is not None else left
    text = f"{left:.1f}" if whole else f"{-_saved(row):+.1f} → {left:.1f}".replace("-", "−")
    asked = " answered" if whole else ""
    _text(axes, place, end, f"{text}   {row['answered']}{asked}")


def _undone(axes: Axes, place: int, row: Mapping[str, Cell]) -> None:
    left = _left(row)
    axes.plot([left], [place], marker="X", color=style.PINK, markersize=8)
    broken = str(row["not answered"]).split(", ")
    more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    _text(axes, place, left, f"{left:.1f}   fails: {', '.join(broken[:NAMED])}{more}")


def _text(axes: Axes, place: int, end: float, text: str) -> None:
    axes.annotate(
        text, (end, place), (8, 0), textcoords="offset points", va="center", fontsize=8.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8}, zorder=4,
    )  # fmt: skip


def _left(row: Mapping[str, Cell]) -> float:
    return float(row["left on disk"] or 0) / MB


def _saved(row: Mapping[str, Cell]) -> float:
    return float(row["saved on disk"] or 0) / MB


def _told(rows: Sequence[Mapping[str, Cell]]) -> str:
    return "; ".join(
        f"{row['step']} {human_bytes(float(row['left on disk'] or 0))}, {row['answered']} answered"
        for row in rows
    )


def _told_undone(rows: Sequence[Mapping[str, Cell]]) -> str:
    return "; ".join(f"{row['step']}, fails {row['not answered']}" for row in rows)
