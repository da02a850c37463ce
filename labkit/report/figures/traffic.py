"""Figures of the traffic: who served how much, by which method, how fast, and what a stopped replica did to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas

from labkit import display
from labkit.core.result import Figure, Result
from labkit.display import counted
from labkit.farm.traffic.bench import Comparison as Speeds
from labkit.farm.traffic.distribution import Comparison, Survey
from labkit.farm.traffic.failover import BIN, Failover
from labkit.farm.traffic.measurements import Measurement, shared
from labkit.model.config import METHODS
from labkit.model.lab import Lab
from labkit.report.figures import style
from labkit.report.figures.style import SEGMENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

    from labkit.cluster.swarm.changes import Experiment

#: How many bars have a number each; more than these stand closer, without.
FEW = 36
#: How many bars stand beside each other in a line, of a few and of many.
LINE = {False: 12, True: 42}
#: A line is at least as wide as so many bars.
LEAST = 5
#: The space between two sites, in bars.
GAP = 0.5
#: A site's note above fewer bars than these would run into the next one's, where bars stand close.
NOTED = 8
#: So many characters of weights are written out.
SHORT = 9
#: The height of the first line, and of each further one, in inches.
FIRST, FURTHER = 3.9, 2.7
#: As many replicas have their key above the bars; more have it below; of still more it says the order.
ABOVE, LISTED = 4, 14
PERCENTILES = ["p50", "p75", "p90", "p99"]
#: The most replicas that a colour each tells apart.
APART = 6
#: Columns of the table ``timeline`` that are no replica's.
OTHERS = ("time", "again", "failed", "slowest")
#: How a swarm's change ends, by its phase.
DONE = {"update": "done", "away": "replicas back", "return": "spread again"}


# -- the distribution -------------------------------------------------------------------------------


def distribution(lab: Lab, result: Result[Survey]) -> Figure:
    """Draws the requests that each replica answered, site by site, beside the number expected from the weights.

    The bars stand in lines of a width that keeps them legible, however many sites there are.

    :param result: of :func:`labkit.farm.traffic.survey`, with table ``shares``.
    """
    parts = style.frame(result, "shares")
    dense = len(parts) > FEW
    parts = arrange(parts, LINE[dense])
    top = max(parts["observed"].max(), parts["expected"].max()) or 1
    end = parts["place"].max() + 1
    margin = max(0.0, LEAST - end) / 2  # a few bars stand in the middle instead of growing wide
    lines = parts.groupby("line")
    with style.canvas(FIRST + FURTHER * (len(lines) - 1)) as figure:
        panels = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
        said = {one.target: test(one) for one in result.value.measurements}
        for axes, (_, line) in zip(panels, lines, strict=True):
            _line(axes, lab, line, said, dense=dense, top=top)
            axes.set_xlim(-0.7 - margin, end - 0.3 + margin)
        panels[0].set_title("Requests served by each replica, and expected from the weights")
        figure.legend(handles=[_black("expected from the weights")], loc="outside lower center")
        sites = parts.groupby("target", sort=False)
        listed = "; ".join(f"{shares(site)}, {said[name]}" for name, site in sites)
        counts = {*sites.size()}
        tested = " p: of a chi-square test of the site's counts against them."
        alone = " Where a site has one replica there is nothing to divide."
        return style.save(
            lab,
            figure,
            name="distribution",
            alt=f"Bars, requests answered by each replica (expected in brackets): {listed}.",
            caption="Requests served by each replica; black lines: expected from the weights."
            f"{tested if max(counts) > 1 else ''}{alone if 1 in counts else ''}",
        )


def arrange(parts: pandas.DataFrame, width: int) -> pandas.DataFrame:
    """The shares with the ``line`` and the ``place`` in it of each bar: lines of at most ``width`` bars with the gaps
    between them; a site is only divided when no line could hold it."""
    lines: list[int] = []
    places: list[float] = []
    line, place = 0, 0.0
    for count in parts.groupby("target", sort=False).size():
        for start in range(0, count, width):
            bars = min(width, count - start)
            if place and place + bars > width + GAP:
                line, place = line + 1, 0.0
            lines += [line] * bars
            places += [place + step for step in range(bars)]
            place += bars + GAP
    return parts.assign(line=lines, place=places)


def shares(parts: pandas.DataFrame) -> str:
    """``site1-1 300 (300), site1-2 300 (300)``: observed, and expected."""
    columns = parts[["replica", "observed", "expected"]].itertuples(index=False)
    return ", ".join(f"{name} {observed} ({expected:.0f})" for name, observed, expected in columns)


def test(one: Measurement) -> str:
    """The test of a site's shares, or that it has one replica."""
    return "one replica" if len(one.shares) == 1 else one.fit.text


def weighed(weights: Iterable[object]) -> str:
    """The weights in the replicas' order, ``weights 3:1``; of many, whether they are equal."""
    listed = [*map(str, weights)]
    if len(told := ":".join(listed)) <= SHORT:
        return f"weights {told}" if len(listed) > 1 else "one replica"
    return "equal weights" if len(set(listed)) == 1 else "uneven weights"


def _line(
    axes: Axes,
    lab: Lab,
    line: pandas.DataFrame,
    said: Mapping[str, str],
    *,
    dense: bool,
    top: float,
) -> None:
    """One line of bars, with the names below and the sites' notes above."""
    places, counts, names = line["place"], line["observed"], line["replica"]
    colours = [lab.colour(lab.site(name)) for name in line["target"]]
    axes.bar(places, counts, width=0.7, color=colours, edgecolor=style.GREY, linewidth=0.5)
    axes.hlines(line["expected"], places - 0.43, places + 0.43, color="black", linewidth=2.2)
    heights = line[["observed", "expected"]].max(axis=1)
    for place, count, height in zip(places, counts, heights, strict=True) if not dense else ():
        axes.annotate(
            f"{count}", (place, height), (0, 5), textcoords="offset points", ha="center", fontsize=10
        )  # fmt: skip
    axes.set_xticks(places, names, color=style.INK, rotation=90 if dense else 0)
    axes.tick_params(axis="x", labelsize=7 if dense else 10 if names.str.len().max() < 9 else 8)
    axes.set(ylabel="requests answered", ylim=(0, top * 1.42))
    axes.grid(axis="y")
    for name, site in line.groupby("target", sort=False):
        if dense and len(site) < NOTED:
            continue
        notes = [name, *([weighed(site["weight"])] if len(site) > 1 else []), said[name]]
        axes.text(
            site["place"].mean(), top * 1.14, "\n".join(notes),
            ha="center", va="bottom", fontsize=9, linespacing=1.25,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
        )  # fmt: skip


def _black(label: str) -> Line2D:
    """A legend's black line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color="black", linewidth=2.2, label=label)


# -- the methods ------------------------------------------------------------------------------------


def methods(lab: Lab, result: Result[Comparison]) -> Figure:
    """Draws each replica's part of the requests, for each balancing method with equal and uneven weights.

    :param result: of :func:`labkit.farm.traffic.compare`, with the table ``compare-SITE``.
    """
    site = result.value.site
    rows = style.frame(result, f"compare-{site}")
    cases = rows.groupby(["weights", "method"], sort=False)
    served = rows.set_index(["weights", "method", "replica"])["observed"].unstack(sort=False)
    groups = [*rows["weights"].unique()]
    places = [n + 0.7 * groups.index(weights) for n, (weights, _) in enumerate(served.index)]
    with style.axes(1.5 + 0.5 * len(served)) as (figure, axes):
        _segments(axes, places, served)
        names = []
        for place, (weights, method) in zip(places, served.index, strict=True):
            names.append(f"{method}, {weighed(weights.split(':'))}\n({METHODS[method]})")
            parts = pandas.Series(weights.split(":"), dtype=int)
            if len(parts) <= LISTED:
                bounds = 100 * parts.cumsum()[:-1] / parts.sum()
                axes.vlines(bounds, place - 0.45, place + 0.45, color="black", linewidth=2.2)
        axes.set_yticks(places, names, color=style.INK)
        axes.invert_yaxis()
        axes.set(xlim=(0, 100), xlabel="part of the requests (%)")
        above = served.shape[1] <= ABOVE
        title = f"Who serves {site}, by method and weights"
        axes.set_title(title, pad=12 + 18 * above)
        _methods_key(figure, axes, [*served], above=above)
        listed = "; ".join(f"{c[1]} {c[0]} gave {shares(part)}" for c, part in cases)
        return style.save(
            lab,
            figure,
            name=f"methods-{site}",
            alt=f"Stacked bars, each replica's part of the requests: {listed}.",
            caption=_methods_caption(served.shape[1]),
        )


def _methods_caption(replicas: int) -> str:
    if replicas == 1:
        return (
            "Apache's methods on a site with one replica, which serves all whatever the method: the "
            "numbers are requests."
        )
    lines = ", the black lines where the weights would divide them" if replicas <= LISTED else ""
    return f"Apache's methods with equal and with uneven weights: the numbers are requests{lines}."


def _segments(axes: Axes, places: list[float], served: pandas.DataFrame) -> None:
    """A bar for each case (a row), in it a segment for each replica (a column), as wide as its part."""
    widths = served.div(served.sum(axis=1).clip(lower=1) / 100, axis=0)
    ends = widths.cumsum(axis=1)
    for segment, replica in enumerate(served):
        colour = SEGMENTS[segment % len(SEGMENTS)]
        width, left = widths[replica], ends[replica] - widths[replica]
        bars = axes.barh(places, width, left=left, height=0.72, color=colour, edgecolor="white")
        axes.bar_label(
            bars, served[replica].astype(str).where(width > 4, ""), label_type="center", zorder=4,
            color=display.ink_on(colour, style.INK),
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip


def _methods_key(figure: Canvas, axes: Axes, replicas: list[str], *, above: bool) -> None:
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [
        Patch(color=SEGMENTS[place % len(SEGMENTS)], label=name)
        for place, name in enumerate(replicas)
    ]
    if len(replicas) > LISTED:
        order = f"from the left: {replicas[0]} to {replicas[-1]}"
        handles = [Patch(color=SEGMENTS[0], label=order)]
    if 1 < len(replicas) <= LISTED:
        handles.append(_black("where the weights divide"))
    if above:
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0),
            ncols=len(handles), borderaxespad=0.2,
        )  # fmt: skip
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=5)


# -- the throughput ---------------------------------------------------------------------------------


def throughput(lab: Lab, result: Result[Speeds]) -> Figure:
    """Draws requests per second and latencies, of a replica asked directly and through the balancer.

    :param result: of :func:`labkit.farm.traffic.bench.compare`, with the table ``bench-SITE``.
    """
    site = result.value.balanced.target
    rows = style.frame(result, f"bench-{site}")
    names = [*(rows["path"] + " (" + rows["target"] + ")")]
    rows, colours = rows.set_axis(names), (style.BLUE, style.ORANGE)
    times = 1000 * rows[PERCENTILES]
    with style.canvas(3.7) as figure:
        rates, latencies = figure.subplots(1, 2, width_ratios=(2, 3))
        for place, (rate, colour) in enumerate(zip(rows["rate"], colours, strict=True)):
            bar = rates.bar(place, rate, width=0.6, color=colour)
            rates.bar_label(bar, [f"{rate:,.0f}"], padding=3)
        rates.set_xticks((0, 1), [name.replace(" (", "\n(") for name in names], color=style.INK)
        rates.set(ylabel="requests/s", title="Throughput")
        rates.yaxis.set_major_formatter("{x:,.0f}")
        rates.margins(x=0.15, y=0.12)
        rates.grid(axis="y")
        _latencies(latencies, times, colours)
        told = "; ".join(
            f"{name} {rows.loc[name, 'rate']:,.0f} requests/s, "
            + ", ".join(f"{part[1:]} % within {time:.2f} ms" for part, time in row.items())
            for name, row in times.iterrows()
        )
        return style.save(
            lab,
            figure,
            name=f"throughput-{site}",
            alt=f"Bars of throughput and lines of latency percentiles: {told}.",
            caption=f"wrk with {result.value.balanced.connections} connections, client, balancer and replicas on "
            "one machine: a replica asked directly, and its site through the balancer.",
        )


def _latencies(axes: Axes, times: pandas.DataFrame, colours: tuple[str, str]) -> None:
    """A line for each row with its values, each on the side of the other line that it is on."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for n, (name, row) in enumerate(times.iterrows()):
        axes.plot(range(len(row)), row, marker=style.MARKS[n], color=colours[n], label=name)
        for place, (time, beside) in enumerate(zip(row, times.iloc[1 - n], strict=True)):
            below = time < beside or (time == beside and n == 0)
            axes.annotate(
                f"{time:.1f}", (place, time), (0, -16 if below else 9),
                textcoords="offset points", ha="center", fontsize=9, color=style.INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
            )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(range(len(PERCENTILES)), [f"{name[1:]} %" for name in PERCENTILES])
    axes.set(xlabel="of the requests answered within", ylabel="latency (ms, logarithmic)")
    axes.margins(x=0.12, y=0.22)
    axes.grid(axis="y")
    axes.set_title("Latency")
    axes.legend(loc="upper left")


# -- a replica that is stopped under load -----------------------------------------------------------


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
        _served(above, grouped(table, value.replica), alone=not value.others)
        _slowest(below, table, BIN)
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


def grouped(table: pandas.DataFrame, replica: str = "") -> pandas.DataFrame:
    """The table with one column for all other replicas, where there are too many to tell apart."""
    names = [name for name in table if name not in OTHERS]
    if len(names) <= APART:
        return table
    others = [name for name in names if name != replica]
    told = f"the other {counted(len(others), 'replica')}" if replica else f"{len(others)} replicas"
    summed = table.assign(**{told: table[others].sum(axis=1)})
    kept = (told, replica, *OTHERS[1:])
    return summed[["time", *(name for name in kept if name in summed)]]


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


def _served(
    axes: Axes, table: pandas.DataFrame, *, alone: bool, width: float = BIN, above: float = 1.18
) -> None:
    """The bars of each replica above each other, and the marks of requests that failed or were sent again; of failed
    ones ``alone``, bars. The key stands ``above``, in heights of the axes."""
    names = [name for name in table if name not in OTHERS]
    bars: dict[str, Any] = {"x": table["time"] + width / 2, "width": width * 0.9}
    tops = table["time"] * 0
    for place, name in enumerate(names):
        colour = style.SEGMENTS[place % len(style.SEGMENTS)]
        axes.bar(height=table[name], bottom=tops, color=colour, label=name, **bars)
        tops = tops + table[name]
    if alone:
        axes.bar(
            height=table["failed"].where(table["failed"] > 0), bottom=tops, facecolor="white", edgecolor=style.ORANGE,
            hatch="////", linewidth=0.8, label=f"failed: {table['failed'].sum():,}", **bars,
        )  # fmt: skip
        tops = tops + table["failed"]
    marks = (("again", "sent again", "^", style.AMBER), ("failed", "failed", "X", style.ORANGE))
    for column, said, mark, colour in (m for m in marks[: 1 if alone else 2] if m[0] in table):
        some = table[column] > 0
        axes.scatter(
            bars["x"][some], tops[some] * 1.08, s=70, zorder=5, edgecolors="black", marker=mark,
            color=colour, label=f"{said}: {table[column].sum():,}",
        )  # fmt: skip
    per = f"{width * 1000:.0f} ms" if width < 1 else "second"
    axes.set(ylabel=f"requests per {per}", ylim=(0, tops.max() * (1.05 if alone else 1.25) or 1.0))
    axes.grid(axis="y")
    handles, labels = axes.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    order = [*names, *(label for label in labels if label not in names)]  # the marks at the end
    axes.legend(
        [known[label] for label in order], order,
        loc="lower left", bbox_to_anchor=(-0.01, above), ncols=len(order), borderaxespad=0.1,
        **({"columnspacing": 1.0, "handlelength": 1.2, "fontsize": 9} if len(order) > 5 else {}),
    )  # fmt: skip


def _slowest(axes: Axes, table: pandas.DataFrame, width: float) -> None:
    unit, scale = ("ms", 1000) if width < 1 else ("s", 1)
    slowest = scale * table["slowest"].fillna(0)
    axes.plot(table["time"] + width / 2, slowest, color=style.GREY, marker=".", linewidth=1)
    axes.set(xlabel="time since the load began (s)", ylabel=f"slowest ({unit})")
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


# -- a swarm that changes -----------------------------------------------------------------------------


def swarm(lab: Lab, result: Result[Experiment], site: str | None = None) -> Figure:
    """Draws the requests to a site in each second by replica, those that failed, and the swarm's changes.

    :param result: of :func:`labkit.cluster.swarm.experiment`.
    :param site: default: the first with several replicas.
    """
    value, site = result.value, site or shared(lab)
    table = style.frame(result, f"timeline-{site}")[:-1]  # the load ended within the last second
    requests = int(table.drop(columns=["time", "slowest"]).sum().sum())
    changes = {item: value.words[item.name] for item in value.phases[1:]}
    with style.canvas(4.8) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.2))
        _served(above, grouped(table), alone=True, width=1.0, above=1.2)
        _slowest(below, table, 1.0)
        for item, name in changes.items():
            for axes in (above, below):
                axes.axvspan(item.began, item.done, color=style.FAINT, zorder=0, linewidth=0)
            above.annotate(
                f"{name}\n{DONE[item.name]} after {item.seconds:g} s", ((item.began + item.done) / 2, 1.0), (0, 4),
                xycoords=("data", "axes fraction"), textcoords="offset points", ha="center", fontsize=9,
            )  # fmt: skip
        above.set_title(
            f"{site} while the swarm changes, under {counted(requests, 'request')}", pad=60
        )
        told = "; ".join(f"{name} at {item.began:.0f} s, {DONE[item.name]} after {item.seconds:g} s, {item.failed:,} of {counted(item.requests, 'request')} to all sites failed" for item, name in changes.items())  # fmt: skip
        return style.save(
            lab,
            figure,
            name=f"swarm-{site}",
            alt=f"Stacked bars over time, requests to {site} in each second by replica: {told}. Of {counted(requests, 'request')} "
            f"to {site}, {table['failed'].sum():,} failed; the slowest took {table['slowest'].max():.1f} s.",
            caption=f"{site}, asked at the balancer of {value.asked}: answered requests by replica, failed ones, and the slowest "
            "request of each second. Grey: from a change until all replicas ran and answered again.",
        )
