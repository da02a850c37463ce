"""The figure of a replica that is stopped under load: requests by replica over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit.core.result import Figure, Result
from labkit.display import counted
from labkit.farm.traffic.failover import BIN, Failover
from labkit.model.lab import Lab
from labkit.report.figures import style

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

#: The most replicas that a colour each tells apart.
APART = 6
#: Columns of the table ``timeline`` that are no replica's.
OTHERS = ("time", "again", "failed", "slowest")


def failover(lab: Lab, result: Result[Failover]) -> Figure:
    """Draws the requests in each tenth of a second by replica, those that failed, and the moments of the stop.

    :param result: of :func:`labkit.farm.traffic.failover.kill` or ``drain``.
    """
    value = result.value
    table = style.frame(result, f"timeline-{value.kind}-{value.replica}")
    if len(table) > 1:
        table = table[:-1]  # the load ended within the last tenth of a second
    only = ", its only replica," if not value.others else ""
    how = "drained, stopped" if value.drained else "killed"
    with style.canvas(4.8) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
        _served(above, grouped(table, value), alone=not value.others)
        _slowest(below, table)
        _moments(above, below, value)
        load = counted(value.requests, "request")
        above.set_title(f"{value.replica} {how} and started again under {load}", pad=60)
        return style.save(
            lab,
            figure,
            name=f"failover-{value.kind}-{value.replica}",
            alt=_alt(value),
            caption=f"{value.site} while {value.replica}{only} was {how} and started again: answered requests "
            f"{'and failed ones' if only else 'by replica'}, and the slowest request of each tenth of a "
            "second.",
        )


def grouped(table: pandas.DataFrame, value: Failover) -> pandas.DataFrame:
    """The table with one column for all other replicas, where there are too many to tell apart."""
    names = [name for name in table if name not in OTHERS]
    if len(names) <= APART:
        return table
    others = [name for name in names if name != value.replica]
    told = f"the other {counted(len(others), 'replica')}"
    summed = table.assign(**{told: table[others].sum(axis=1)})
    return summed[["time", told, value.replica, *OTHERS[1:]]]


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


def _served(axes: Axes, table: pandas.DataFrame, *, alone: bool) -> None:
    """The bars of each replica above each other, and the marks of requests that failed or were sent again."""
    names = [name for name in table if name not in OTHERS]
    bars: dict[str, Any] = {"x": table["time"] + BIN / 2, "width": BIN * 0.9}
    tops = table["time"] * 0
    for place, name in enumerate(names):
        colour = style.SEGMENTS[place % len(style.SEGMENTS)]
        axes.bar(height=table[name], bottom=tops, color=colour, label=name, **bars)
        tops = tops + table[name]
    if alone:
        axes.bar(
            height=table["failed"], bottom=tops, facecolor="white", edgecolor=style.ORANGE,
            hatch="////", linewidth=0.8, label=f"failed: {table['failed'].sum():,}", **bars,
        )  # fmt: skip
        tops = tops + table["failed"]
    marks = (("again", "sent again", "^", style.AMBER), ("failed", "failed", "X", style.ORANGE))
    for column, said, mark, colour in marks[: 1 if alone else 2]:
        some = table[column] > 0
        axes.scatter(
            bars["x"][some], tops[some] * 1.08, s=70, zorder=5, edgecolors="black", marker=mark,
            color=colour, label=f"{said}: {table[column].sum():,}",
        )  # fmt: skip
    axes.set(ylabel=f"requests per {BIN * 1000:.0f} ms", ylim=(0, tops.max() * 1.25 or 1.0))
    axes.grid(axis="y")
    handles, labels = axes.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    order = [*names, *(label for label in labels if label not in names)]  # the marks at the end
    axes.legend(
        [known[label] for label in order], order,
        loc="lower left", bbox_to_anchor=(-0.01, 1.18), ncols=len(order), borderaxespad=0.1,
        **({"columnspacing": 1.0, "handlelength": 1.2, "fontsize": 9} if len(order) > 5 else {}),
    )  # fmt: skip


def _slowest(axes: Axes, table: pandas.DataFrame) -> None:
    slowest = 1000 * table["slowest"].fillna(0)
    axes.plot(table["time"] + BIN / 2, slowest, color=style.GREY, marker=".", linewidth=1)
    axes.set(xlabel="time since the load began (s)", ylabel="slowest (ms)")
    axes.set_ylim(0, slowest.max() * 1.15 or 1.0)
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
