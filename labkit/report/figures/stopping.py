"""A replica stopped under load, over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.core.result import Figure, Result
from labkit.core.tables import Cell
from labkit.display import counted
from labkit.farm.traffic.failover import BIN, Failover
from labkit.model.lab import Lab
from labkit.report.figures import style
from labkit.report.figures.rootfs import table_rows
from labkit.report.figures.traffic import SEGMENTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Cell]]
#: The most replicas that a colour each tells apart.
APART = 6
#: Columns of the table ``timeline`` that are no replica's.
OTHERS = ("time", "again", "failed", "slowest")


def failover(lab: Lab, result: Result[Failover]) -> Figure:
    """Requests in each tenth of a second by replica, those that failed, and the moments of the stop.

    ``result`` is of :func:`labkit.farm.traffic.failover.kill` or ``drain``.
    """
    value = result.value
    table = table_rows(result, f"timeline-{value.kind}-{value.replica}")
    rows = grouped(table[:-1] or table, value)  # the load ended within the last tenth of a second
    names = [name for name in rows[0] if name not in OTHERS] if rows else []
    with style.canvas(4.8) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
        _served(above, rows, names, alone=not value.others)
        _slowest(below, rows)
        _moments(above, below, value)
        above.set_title(f"{_how(value)} under {counted(value.requests, 'request')}", pad=60)
        return style.save(
            lab,
            figure,
            name=f"failover-{value.kind}-{value.replica}",
            alt=_alt(value),
            caption=_caption(value),
        )


def grouped(rows: Rows, value: Failover) -> Rows:
    """The rows with one column for all other replicas, where there are too many to tell apart."""
    names = [name for name in rows[0] if name not in OTHERS] if rows else []
    others = [name for name in names if name != value.replica]
    if len(names) <= APART:
        return rows
    return [
        {
            "time": row["time"],
            f"the other {counted(len(others), 'replica')}": sum(
                int(row[name] or 0) for name in others
            ),
            **{name: row[name] for name in (value.replica, *OTHERS[1:])},
        }
        for row in rows
    ]


def _caption(value: Failover) -> str:
    only = ", its only replica," if not value.others else ""
    how = "drained, stopped" if value.drained else "killed"
    return (
        f"{value.site} while {value.replica}{only} was {how} and started again: answered requests "
        f"{'and failed ones' if only else 'by replica'}, and the slowest request of each tenth of a "
        "second."
    )


def _how(value: Failover) -> str:
    return f"{value.replica} {'drained, stopped' if value.drained else 'killed'} and started again"


def _alt(value: Failover) -> str:
    moments = ", ".join(f"{name} at {moment:.2f} s" for name, moment in _marks(value))
    only = f"{value.replica} is the only replica of {value.site}. " if not value.others else ""
    return (
        f"{only}"
        f"Stacked bars over time, requests in each tenth of a second by replica: {moments}. "
        f"{value.failed:,} of {counted(value.requests, 'request')} failed, {value.again:,} sent again, "
        f"the slowest took {value.slowest * 1000:.0f} ms."
    )


def _marks(value: Failover) -> list[tuple[str, float]]:
    named = (
        ("drained" if value.drained else "killed", value.stopped),
        ("left out", value.out),
        ("started", value.started),
        ("serving again", value.back),
    )
    return [(name, moment) for name, moment in named if moment is not None]


def _served(axes: Axes, rows: Rows, names: Sequence[str], *, alone: bool) -> None:
    times = [float(row["time"] or 0) + BIN / 2 for row in rows]
    below = [0.0] * len(rows)
    for place, name in enumerate(names):
        counts = [float(row[name] or 0) for row in rows]
        colour = SEGMENTS[place % len(SEGMENTS)]
        axes.bar(times, counts, width=BIN * 0.9, bottom=below, color=colour, label=name)
        below = [low + count for low, count in zip(below, counts, strict=True)]
    if alone:
        failed = [float(row["failed"] or 0) for row in rows]
        axes.bar(
            times, failed, width=BIN * 0.9, bottom=below, facecolor="white",
            edgecolor=style.ORANGE, hatch="////", linewidth=0.8, label=f"failed: {sum(failed):,.0f}",
        )  # fmt: skip
        below = [low + count for low, count in zip(below, failed, strict=True)]
    _marked(axes, rows, times, below, "again", marker="^", color=style.AMBER, label="sent again")
    if not alone:
        _marked(axes, rows, times, below, "failed", marker="X", color=style.ORANGE, label="failed")
    axes.set_ylabel(f"requests per {BIN * 1000:.0f} ms")
    axes.set_ylim(0, max(below, default=1.0) * 1.25 or 1.0)
    axes.grid(axis="y")
    handles, labels = axes.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    order = [*names, *(label for label in labels if label not in names)]  # the marks at the end
    axes.legend(
        [known[label] for label in order], order,
        loc="lower left", bbox_to_anchor=(-0.01, 1.18), ncols=len(order), borderaxespad=0.1,
        **({"columnspacing": 1.0, "handlelength": 1.2, "fontsize": 9} if len(order) > 5 else {}),
    )  # fmt: skip


def _marked(
    axes: Axes, rows: Rows, times: Sequence[float], tops: Sequence[float], column: str, **look: Any
) -> None:
    """A mark with its count above each bar whose row has some in ``column``."""
    points = [
        (time, top, int(row[column] or 0))
        for time, top, row in zip(times, tops, rows, strict=True)
        if row[column]
    ]
    raised = [top * 1.08 for _, top, _ in points]
    label = f"{look.pop('label')}: {sum(count for _, _, count in points):,}"
    axes.scatter(
        [time for time, _, _ in points], raised, s=70, zorder=5, edgecolors="black", label=label,
        **look,
    )  # fmt: skip


def _slowest(axes: Axes, rows: Rows) -> None:
    times = [float(row["time"] or 0) + BIN / 2 for row in rows]
    slowest = [1000 * float(row["slowest"] or 0) for row in rows]
    axes.plot(times, slowest, color=style.GREY, marker=".", linewidth=1)
    axes.set_ylabel("slowest (ms)")
    axes.set_xlabel("time since the load began (s)")
    axes.set_ylim(0, max(slowest, default=1.0) * 1.15 or 1.0)
    axes.grid(axis="y")
    axes.margins(x=0.01)


def _moments(above: Axes, below: Axes, value: Failover) -> None:
    """A line through both panels for each moment; the names of the stop stand in one row, those of
    the start above it, each to its own side of the line."""
    for place, (name, moment) in enumerate(_marks(value)):
        for axes in (above, below):
            axes.axvline(moment, color="black", linestyle=("-", ":")[place % 2], linewidth=1.2)
        before = place % 2 == 0
        above.annotate(
            f"{name} {moment:.2f} s", (moment, 1.0), (-3 if before else 3, 4 + 13 * (place // 2)),
            xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right" if before else "left", fontsize=9,
        )  # fmt: skip
