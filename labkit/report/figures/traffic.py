"""Figures of the traffic: who served how much, by which balancing method, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit import display
from labkit.core.result import Figure, Result
from labkit.farm.traffic.bench import Comparison as Speeds
from labkit.farm.traffic.bench import Throughput
from labkit.farm.traffic.distribution import Case, Comparison, Survey
from labkit.farm.traffic.measurements import Measurement, Share
from labkit.model.config import METHODS
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.figures import style
from labkit.report.figures.style import SEGMENTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

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
PERCENTILES = ("p50", "p75", "p90", "p99")


# -- the distribution -------------------------------------------------------------------------------


class Group(Record):
    """A site's bars in one line: ``place`` is that of the first one."""

    one: Measurement
    place: float
    shares: tuple[Share, ...]


def distribution(lab: Lab, result: Result[Survey]) -> Figure:
    """Draws the requests that each replica answered, site by site, beside the number expected from the weights.

    The bars stand in lines of a width that keeps them legible, however many sites there are.

    :param result: of :func:`labkit.farm.traffic.survey`.
    """
    found = result.value.measurements
    dense = sum(len(one.shares) for one in found) > FEW
    lines = arrange(found, LINE[dense])
    top = max(max(p.observed, p.expected) for one in found for p in one.shares) or 1
    end = max(groups[-1].place + len(groups[-1].shares) for groups in lines)
    margin = max(0.0, LEAST - end) / 2  # a few bars stand in the middle instead of growing wide
    with style.canvas(FIRST + FURTHER * (len(lines) - 1)) as figure:
        panels = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
        for axes, groups in zip(panels, lines, strict=True):
            _line(axes, lab, groups, dense=dense, top=top)
            axes.set_xlim(-0.7 - margin, end - 0.3 + margin)
        panels[0].set_title("Requests served by each replica, and expected from the weights")
        figure.legend(handles=[_black("expected from the weights")], loc="outside lower center")
        counts = {len(one.shares) for one in found}
        listed = "; ".join(f"{shares(one)}, {said(one)}" for one in found)
        return style.save(
            lab,
            figure,
            name="distribution",
            alt=f"Bars, requests answered by each replica (expected in brackets): {listed}.",
            caption="Requests served by each replica; black lines: expected from the weights."
            + (
                " p: of a chi-square test of the site's counts against them."
                if max(counts) > 1
                else ""
            )
            + (" Where a site has one replica there is nothing to divide." if 1 in counts else ""),
        )


def arrange(found: Sequence[Measurement], width: int) -> list[list[Group]]:
    """The sites' bars in lines of at most ``width`` bars with the gaps between them; a site is only
    divided when no line could hold it."""
    lines: list[list[Group]] = [[]]
    place = 0.0
    for one in found:
        for start in range(0, len(one.shares), width):
            parts = one.shares[start : start + width]
            if place + len(parts) > width + GAP and lines[-1]:
                lines.append([])
                place = 0.0
            lines[-1].append(Group(one=one, place=place, shares=parts))
            place += len(parts) + GAP
    return lines


def shares(one: Measurement) -> str:
    """``site1-1 300 (300), site1-2 300 (300)``: observed, and expected."""
    return ", ".join(f"{part.replica} {part.observed} ({part.expected:.0f})" for part in one.shares)


def said(one: Measurement) -> str:
    """The test of a site's shares, or that it has one replica."""
    return "one replica" if len(one.shares) == 1 else one.fit.text


def weighed(weights: Sequence[int]) -> str:
    """The weights in the replicas' order, ``weights 3:1``; of many, whether they are equal."""
    told = ":".join(map(str, weights))
    if len(told) <= SHORT:
        return f"weights {told}" if len(weights) > 1 else "one replica"
    return "equal weights" if len(set(weights)) == 1 else "uneven weights"


def _line(axes: Axes, lab: Lab, groups: Sequence[Group], *, dense: bool, top: float) -> None:
    """One line of bars, with the names below and the sites' notes above."""
    ticks = [group.place + step for group in groups for step in range(len(group.shares))]
    parts = [part for group in groups for part in group.shares]
    colours = [lab.colour(lab.site(group.one.target)) for group in groups for _ in group.shares]
    counts = [part.observed for part in parts]
    axes.bar(ticks, counts, width=0.7, color=colours, edgecolor=style.GREY, linewidth=0.5)
    for tick, part in zip(ticks, parts, strict=True):
        axes.hlines(part.expected, tick - 0.43, tick + 0.43, color="black", linewidth=2.2)
        if not dense:
            axes.annotate(
                f"{part.observed}", (tick, max(part.observed, part.expected)), (0, 5),
                textcoords="offset points", ha="center", fontsize=10,
            )  # fmt: skip
    names = [part.replica for part in parts]
    axes.set_xticks(ticks, names, color=style.INK, rotation=90 if dense else 0)
    longest = max(len(name) for name in names)
    axes.tick_params(axis="x", labelsize=7 if dense else 10 if longest < 9 else 8)
    axes.set(ylabel="requests answered", ylim=(0, top * 1.42))
    axes.grid(axis="y")
    for group in groups:
        if not dense or len(group.shares) >= NOTED:
            _note(axes, group, top)


def _note(axes: Axes, group: Group, top: float) -> None:
    """Above a site's bars: its name, its weights and the test's p."""
    lines = [group.one.target, said(group.one)]
    if len(group.one.shares) > 1:
        lines.insert(1, weighed([part.weight for part in group.one.shares]))
    axes.text(
        group.place + (len(group.shares) - 1) / 2, top * 1.14, "\n".join(lines),
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

    :param result: of :func:`labkit.farm.traffic.compare`.
    """
    cases = result.value.cases
    groups = list(dict.fromkeys(case.weights for case in cases))
    places = [place + 0.7 * groups.index(case.weights) for place, case in enumerate(cases)]
    with style.axes(1.5 + 0.5 * len(cases)) as (figure, axes):
        for place, case in zip(places, cases, strict=True):
            _case_bar(axes, place, case)
        names = [f"{c.lbmethod}, {weighed(c.weights)}\n({METHODS[c.lbmethod]})" for c in cases]
        axes.set_yticks(places, names, color=style.INK)
        axes.invert_yaxis()
        axes.set(xlim=(0, 100), xlabel="part of the requests (%)")
        parts = cases[0].measurement.shares
        above = len(parts) <= ABOVE
        title = f"Who serves {result.value.site}, by method and weights"
        axes.set_title(title, pad=12 + 18 * above)
        _methods_key(figure, axes, parts, above=above)
        listed = "; ".join(f"{case.name} gave {shares(case.measurement)}" for case in cases)
        return style.save(
            lab,
            figure,
            name=f"methods-{result.value.site}",
            alt=f"Stacked bars, each replica's part of the requests: {listed}.",
            caption=_methods_caption(len(parts)),
        )


def _methods_caption(replicas: int) -> str:
    if replicas == 1:
        return (
            "Apache's methods on a site with one replica, which serves all whatever the method: the "
            "numbers are requests."
        )
    lines = ", the black lines where the weights would divide them" if replicas <= LISTED else ""
    return f"Apache's methods with equal and with uneven weights: the numbers are requests{lines}."


def _case_bar(axes: Axes, place: float, case: Case) -> None:
    left, bound = 0.0, 0.0
    total = sum(part.observed for part in case.measurement.shares) or 1
    for segment, part in enumerate(case.measurement.shares):
        width = 100 * part.observed / total
        colour = SEGMENTS[segment % len(SEGMENTS)]
        axes.barh(place, width, left=left, height=0.72, color=colour, edgecolor="white")
        if width > 4:
            axes.text(
                left + width / 2, place, f"{part.observed}", ha="center", va="center", zorder=4,
                color=display.ink_on(colour, style.INK),
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0},
            )  # fmt: skip
        left += width
        bound += 100 * part.weight / sum(case.weights)
        if segment < len(case.weights) - 1 < LISTED:
            axes.vlines(bound, place - 0.45, place + 0.45, color="black", linewidth=2.2)


def _methods_key(figure: Canvas, axes: Axes, parts: Sequence[Share], *, above: bool) -> None:
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [
        Patch(color=SEGMENTS[place % len(SEGMENTS)], label=part.replica)
        for place, part in enumerate(parts)
    ]
    if len(parts) > LISTED:
        order = f"from the left: {parts[0].replica} to {parts[-1].replica}"
        handles = [Patch(color=SEGMENTS[0], label=order)]
    if 1 < len(parts) <= LISTED:
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

    :param result: of :func:`labkit.farm.traffic.bench.compare`.
    """
    pair = (result.value.direct, result.value.balanced)
    with style.canvas(3.7) as figure:
        rates, latencies = figure.subplots(1, 2, width_ratios=(2, 3))
        for place, one in enumerate(pair):
            bar = rates.bar(place, one.rate, width=0.6, color=_colour(one))
            rates.bar_label(bar, [f"{one.rate:,.0f}"], padding=3)
            _latency_line(latencies, one, pair[1 - place])
        rates.set_xticks((0, 1), [_path(one).replace(" (", "\n(") for one in pair], color=style.INK)
        rates.set(ylabel="requests/s", title="Throughput")
        rates.yaxis.set_major_formatter("{x:,.0f}")
        rates.margins(x=0.15, y=0.12)
        rates.grid(axis="y")
        _latency_axes(latencies, pair)
        return style.save(
            lab,
            figure,
            name=f"throughput-{result.value.balanced.target}",
            alt="Bars of throughput and lines of latency percentiles: "
            f"{'; '.join(map(_in_words, pair))}.",
            caption=f"wrk with {pair[0].connections} connections, client, balancer and replicas on "
            "one machine: a replica asked directly, and its site through the balancer.",
        )


def _colour(one: Throughput) -> str:
    return style.BLUE if one.direct else style.ORANGE


def _path(one: Throughput) -> str:
    return f"direct ({one.target})" if one.direct else f"balanced ({one.target})"


def _in_words(one: Throughput) -> str:
    times = (f"{name[1:]} % within {1000 * getattr(one, name):.2f} ms" for name in PERCENTILES)
    return f"{_path(one)} {one.rate:,.0f} requests/s, {', '.join(times)}"


def _latency_line(axes: Axes, one: Throughput, other: Throughput) -> None:
    """A line with its values, each on the side of the other line that it is on."""
    others = [1000 * getattr(other, name) for name in PERCENTILES]
    times = [1000 * getattr(one, name) for name in PERCENTILES]
    mark = style.MARKS[0 if one.direct else 1]
    axes.plot(range(len(times)), times, marker=mark, color=_colour(one), label=_path(one))
    for place, (time, beside) in enumerate(zip(times, others, strict=True)):
        below = time < beside or (time == beside and one.direct)
        axes.annotate(
            f"{time:.1f}", (place, time), (0, -16 if below else 9),
            textcoords="offset points", ha="center", fontsize=9, color=style.INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
        )  # fmt: skip


def _latency_axes(axes: Axes, pair: Sequence[Throughput]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

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
