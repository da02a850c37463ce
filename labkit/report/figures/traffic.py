"""Figures of the traffic: who served how much, by which method, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.farm.bench import Comparison as Speeds
from labkit.farm.bench import Throughput
from labkit.farm.counts import Share
from labkit.farm.measure import Measurement
from labkit.farm.traffic import Case, Comparison, Survey
from labkit.lab import Lab
from labkit.report.figures import style
from labkit.result import Figure, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: How the segments of a bar are told apart, in the order of a site's replicas.
SEGMENTS = (style.BLUE, style.SKY, style.GREEN, style.AMBER, style.PINK, style.YELLOW, style.ORANGE)
#: What Apache's methods go by (mod_lbmethod_*).
GOES_BY = {
    "byrequests": "counts requests",
    "bytraffic": "counts bytes",
    "bybusyness": "counts unfinished requests",
}
PERCENTILES = ("p50", "p75", "p90", "p99")


def distribution(lab: Lab, result: Result[Survey]) -> Figure:
    """Requests a replica, site by site, against what the weights let expect."""
    found = result.value.measurements
    parts = [(one, part) for one in found for part in one.shares]
    with style.axes(3.9, width=max(style.WIDTH, 1.6 + 0.62 * len(parts))) as (figure, axes):
        places = _places(found)
        for place, (one, part) in zip(places, parts, strict=True):
            _share_bar(axes, place, part, lab.colour(lab.site(one.target)))
        axes.set_xticks(places, [part.replica for _, part in parts], color=style.INK)
        if len(parts) > 12:
            axes.tick_params(axis="x", rotation=60)
        axes.set_ylabel("requests answered")
        top = max(max(part.observed, part.expected) for _, part in parts) or 1
        axes.set_ylim(0, top * 1.38)
        axes.grid(axis="y")
        _site_notes(axes, found, places, top)
        axes.set_title("Requests served by each replica, and expected from the weights")
        _expectation_key(axes)
        listed = "; ".join(f"{_shares(one)}, p = {one.fit.p:.3f}" for one in found)
        return style.save(
            lab,
            figure,
            name="distribution",
            alt=f"Bars, requests answered by each replica (expected in brackets): {listed}.",
            caption="Requests served by each replica; black lines: expected from the weights; "
            "p: of a chi-square test of the site's counts against them.",
        )


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
        axes.set_title(f"Who serves {result.value.site}, by method and weights", pad=30)
        _methods_key(axes, cases[0].measurement.shares)
        listed = "; ".join(f"{case.name} gave {_shares(case.measurement)}" for case in cases)
        return style.save(
            lab,
            figure,
            name=f"methods-{result.value.site}",
            alt=f"Stacked bars, each replica's part of the requests: {listed}.",
            caption="Apache's methods with equal and with uneven weights: the numbers are requests, "
            "the black lines where the weights would divide them.",
        )


def throughput(lab: Lab, result: Result[Speeds]) -> Figure:
    """Requests a second and latencies, directly at a replica and through the balancer."""
    pair = (result.value.direct, result.value.balanced)
    with style.canvas(3.7) as figure:
        rates, latencies = figure.subplots(1, 2, width_ratios=(2, 3))
        for place, one in enumerate(pair):
            bar = rates.bar(place, one.rate, width=0.6, color=_colour(one))
            rates.bar_label(bar, [f"{one.rate:,.0f}"], padding=3)
            _latency_line(latencies, one)
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


def _places(found: Sequence[Measurement]) -> list[float]:
    """Where the replicas' bars stand: side by side, with a gap between sites."""
    places, place = [], 0.0
    for one in found:
        places += [place + step for step in range(len(one.shares))]
        place += len(one.shares) + 0.5
    return places


def _share_bar(axes: Axes, place: float, part: Share, colour: str) -> None:
    axes.bar(place, part.observed, width=0.7, color=colour)
    axes.hlines(part.expected, place - 0.43, place + 0.43, color="black", linewidth=2.2)
    axes.annotate(
        f"{part.observed}", (place, max(part.observed, part.expected)), (0, 5),
        textcoords="offset points", ha="center", fontsize=10,
    )  # fmt: skip


def _site_notes(axes: Axes, found: Sequence[Measurement], places: list[float], top: float) -> None:
    """Above each site's bars: its name, weights and p-value."""
    start = 0
    for one in found:
        own = places[start : start + len(one.shares)]
        start += len(one.shares)
        weights = ":".join(str(part.weight) for part in one.shares)
        text = f"{one.target}\nweights {weights}\np = {one.fit.p:.3f}"
        axes.text(
            (own[0] + own[-1]) / 2, top * 1.13, text,
            ha="center", va="bottom", fontsize=9, linespacing=1.25,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
        )  # fmt: skip


def _expectation_key(axes: Axes) -> None:
    from matplotlib.lines import Line2D

    handle = Line2D([], [], color="black", linewidth=2.2, label="expected from the weights")
    axes.legend(handles=[handle], loc="upper center", bbox_to_anchor=(0.5, -0.1))


def _shares(one: Measurement) -> str:
    return ", ".join(f"{part.replica} {part.observed} ({part.expected:.0f})" for part in one.shares)


def _case_bar(axes: Axes, place: float, case: Case) -> None:
    left, bound = 0.0, 0.0
    total = sum(part.observed for part in case.measurement.shares) or 1
    for segment, part in enumerate(case.measurement.shares):
        width = 100 * part.observed / total
        colour = SEGMENTS[segment % len(SEGMENTS)]
        axes.barh(place, width, left=left, height=0.72, color=colour, edgecolor="white")
        dark = colour in (style.BLUE, style.GREEN, style.ORANGE)
        if width > 4:
            axes.text(
                left + width / 2, place, f"{part.observed}", ha="center", va="center",
                color="white" if dark else style.INK,
            )  # fmt: skip
        left += width
        bound += 100 * part.weight / sum(case.weights)
        if segment < len(case.weights) - 1:
            axes.vlines(bound, place - 0.45, place + 0.45, color="black", linewidth=2.2)


def _case_label(case: Case) -> str:
    weights = ":".join(str(weight) for weight in case.weights)
    return f"{case.lbmethod} {weights}\n({GOES_BY[case.lbmethod]})"


def _methods_key(axes: Axes, parts: Sequence[Share]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    bars = [
        Patch(color=SEGMENTS[place % len(SEGMENTS)], label=part.replica)
        for place, part in enumerate(parts)
    ]
    line = Line2D([], [], color="black", linewidth=2.2, label="where the weights divide")
    axes.legend(
        handles=[*bars, line], loc="lower left", bbox_to_anchor=(-0.01, 1.0),
        ncols=min(len(parts) + 1, 5), borderaxespad=0.2,
    )  # fmt: skip


def _colour(one: Throughput) -> str:
    return style.BLUE if one.direct else style.ORANGE


def _path(one: Throughput) -> str:
    return f"direct ({one.target})" if one.direct else f"balanced ({one.target})"


def _times(one: Throughput) -> str:
    values = (f"{name[1:]} % within {1000 * _part(one, name):.2f} ms" for name in PERCENTILES)
    return ", ".join(values)


def _part(one: Throughput, name: str) -> float:
    return {"p50": one.p50, "p75": one.p75, "p90": one.p90, "p99": one.p99}[name]


def _latency_line(axes: Axes, one: Throughput) -> None:
    times = [1000 * _part(one, name) for name in PERCENTILES]
    mark = style.MARKS[0 if one.direct else 1]
    axes.plot(range(len(times)), times, marker=mark, color=_colour(one), label=_path(one))
    for place, time in enumerate(times):
        axes.annotate(
            f"{time:.1f}", (place, time), (0, -16 if one.direct else 9),
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
