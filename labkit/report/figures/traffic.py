"""Figures of the traffic: who served how much by which method, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit import display
from labkit.core.result import Figure, Result
from labkit.farm.traffic.bench import Comparison as Speeds
from labkit.farm.traffic.bench import Throughput
from labkit.farm.traffic.distribution import Case, Comparison
from labkit.farm.traffic.measurements import Share
from labkit.model.config import METHODS
from labkit.model.lab import Lab
from labkit.report.figures import style
from labkit.report.figures.spread import shares, weighed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

#: How the segments of a bar are told apart, in the order of a site's replicas.
SEGMENTS = (style.BLUE, style.SKY, style.GREEN, style.AMBER, style.PINK, style.YELLOW, style.ORANGE)
#: As many replicas have their key above the bars; more have it below; of still more it says the order.
ABOVE, LISTED = 4, 14
PERCENTILES = ("p50", "p75", "p90", "p99")


def methods(lab: Lab, result: Result[Comparison]) -> Figure:
    """The methods with equal and uneven weights: each replica's part of the requests."""
    cases = result.value.cases
    groups = list(dict.fromkeys(case.weights for case in cases))
    places = [place + 0.7 * groups.index(case.weights) for place, case in enumerate(cases)]
    with style.axes(1.5 + 0.5 * len(cases)) as (figure, axes):
        for place, case in zip(places, cases, strict=True):
            _case_bar(axes, place, case)
        axes.set_yticks(places, [_case_label(case) for case in cases], color=style.INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("part of the requests (%)")
        parts = cases[0].measurement.shares
        above = len(parts) <= ABOVE
        axes.set_title(
            f"Who serves {result.value.site}, by method and weights", pad=12 + 18 * above
        )
        _methods_key(figure, axes, parts, above=above)
        listed = "; ".join(f"{case.name} gave {shares(case.measurement)}" for case in cases)
        return style.save(
            lab,
            figure,
            name=f"methods-{result.value.site}",
            alt=f"Stacked bars, each replica's part of the requests: {listed}.",
            caption=_methods_caption(len(parts)),
        )


def throughput(lab: Lab, result: Result[Speeds]) -> Figure:
    """Requests a second and latencies, directly at a replica and through the balancer."""
    pair = (result.value.direct, result.value.balanced)
    with style.canvas(3.7) as figure:
        rates, latencies = figure.subplots(1, 2, width_ratios=(2, 3))
        for place, one in enumerate(pair):
            bar = rates.bar(place, one.rate, width=0.6, color=_colour(one))
            rates.bar_label(bar, [f"{one.rate:,.0f}"], padding=3)
            _latency_line(latencies, one, pair[1 - place])
        rates.set_xticks((0, 1), [_path(one).replace(" (", "\n(") for one in pair], color=style.INK)
        rates.set_ylabel("requests/s")
        rates.yaxis.set_major_formatter("{x:,.0f}")
        rates.margins(x=0.15, y=0.12)
        rates.grid(axis="y")
        rates.set_title("Throughput")
        _latency_axes(latencies, pair)
        listed = "; ".join(
            f"{_path(one)} {one.rate:,.0f} requests/s, {_times(one)}" for one in pair
        )
        return style.save(
            lab,
            figure,
            name=f"throughput-{result.value.balanced.target}",
            alt=f"Bars of throughput and lines of latency percentiles: {listed}.",
            caption=f"wrk with {pair[0].connections} connections, client, balancer and replicas on "
            "one machine: a replica asked directly, and its site through the balancer.",
        )


# -- drawing ---------------------------------------------------------------------------------


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


def _case_label(case: Case) -> str:
    return f"{case.lbmethod}, {weighed(case.weights)}\n({METHODS[case.lbmethod]})"


def _methods_key(figure: Canvas, axes: Axes, parts: Sequence[Share], *, above: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [
        Patch(color=SEGMENTS[place % len(SEGMENTS)], label=part.replica)
        for place, part in enumerate(parts)
    ]
    if len(parts) > LISTED:
        order = f"from the left: {parts[0].replica} to {parts[-1].replica}"
        handles = [Patch(color=SEGMENTS[0], label=order)]
    if 1 < len(parts) <= LISTED:
        said = "where the weights divide"
        handles.append(Line2D([], [], color="black", linewidth=2.2, label=said))
    if above:
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0),
            ncols=len(handles), borderaxespad=0.2,
        )  # fmt: skip
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=5)


def _colour(one: Throughput) -> str:
    return style.BLUE if one.direct else style.ORANGE


def _path(one: Throughput) -> str:
    return f"direct ({one.target})" if one.direct else f"balanced ({one.target})"


def _times(one: Throughput) -> str:
    values = (f"{name[1:]} % within {1000 * _part(one, name):.2f} ms" for name in PERCENTILES)
    return ", ".join(values)


def _part(one: Throughput, name: str) -> float:
    return {"p50": one.p50, "p75": one.p75, "p90": one.p90, "p99": one.p99}[name]


def _latency_line(axes: Axes, one: Throughput, other: Throughput) -> None:
    """A line with its values, each on the side of the other line that it is on."""
    others = [1000 * _part(other, name) for name in PERCENTILES]
    times = [1000 * _part(one, name) for name in PERCENTILES]
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
    axes.set_xlabel("of the requests answered within")
    axes.set_ylabel("latency (ms, logarithmic)")
    axes.margins(x=0.12, y=0.22)
    axes.grid(axis="y")
    axes.set_title("Latency")
    axes.legend(loc="upper left")
