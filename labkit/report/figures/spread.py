"""The figure of who served how much, site by site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.core.result import Figure, Result
from labkit.farm.traffic.distribution import Survey
from labkit.farm.traffic.measurements import Measurement, Share
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

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


class Group(Record):
    """A site's bars in one line: ``place`` is that of the first one."""

    one: Measurement
    place: float
    shares: tuple[Share, ...]


def distribution(lab: Lab, result: Result[Survey]) -> Figure:
    """Requests a replica, site by site, against what the weights let expect; in lines of a width
    that keeps them legible, however many sites there are."""
    found = result.value.measurements
    dense = sum(len(one.shares) for one in found) > FEW
    lines = arrange(found, LINE[dense])
    top = max(max(p.observed, p.expected) for one in found for p in one.shares) or 1
    with style.canvas(FIRST + FURTHER * (len(lines) - 1)) as figure:
        panels = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
        for axes, groups in zip(panels, lines, strict=True):
            _line(axes, lab, groups, dense=dense, top=top)
            axes.set_xlim(*_limits(lines))
        panels[0].set_title("Requests served by each replica, and expected from the weights")
        _key(figure)
        listed = "; ".join(f"{shares(one)}, {said(one)}" for one in found)
        return style.save(
            lab,
            figure,
            name="distribution",
            alt=f"Bars, requests answered by each replica (expected in brackets): {listed}.",
            caption="Requests served by each replica; black lines: expected from the weights."
            + (" p: of a chi-square test of the site's counts against them." if _any(found) else "")
            + (" Where a site has one replica there is nothing to divide." if _one(found) else ""),
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


# -- drawing ---------------------------------------------------------------------------------


def _line(axes: Axes, lab: Lab, groups: Sequence[Group], *, dense: bool, top: float) -> None:
    """One line of bars, with the names below and the sites' notes above."""
    ticks = [group.place + step for group in groups for step in range(len(group.shares))]
    parts = [part for group in groups for part in group.shares]
    colours = [lab.colour(lab.site(group.one.target)) for group in groups for _ in group.shares]
    for tick, part, colour in zip(ticks, parts, colours, strict=True):
        _bar(axes, tick, part, colour, dense=dense)
    names = [part.replica for part in parts]
    axes.set_xticks(ticks, names, color=style.INK, rotation=90 if dense else 0)
    longest = max(len(name) for name in names)
    axes.tick_params(axis="x", labelsize=7 if dense else 10 if longest < 9 else 8)
    axes.set_ylabel("requests answered")
    axes.set_ylim(0, top * 1.42)
    axes.grid(axis="y")
    for group in groups:
        if not dense or len(group.shares) >= NOTED:
            _note(axes, group, top)


def _bar(axes: Axes, place: float, part: Share, colour: str, *, dense: bool) -> None:
    axes.bar(place, part.observed, width=0.7, color=colour, edgecolor=style.GREY, linewidth=0.5)
    axes.hlines(part.expected, place - 0.43, place + 0.43, color="black", linewidth=2.2)
    if not dense:
        axes.annotate(
            f"{part.observed}", (place, max(part.observed, part.expected)), (0, 5),
            textcoords="offset points", ha="center", fontsize=10,
        )  # fmt: skip


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


def _limits(lines: Sequence[Sequence[Group]]) -> tuple[float, float]:
    """From where to where a line goes: a few bars stand in the middle instead of growing wide."""
    end = max(groups[-1].place + len(groups[-1].shares) for groups in lines)
    room = max(0.0, LEAST - end) / 2
    return -0.7 - room, end - 0.3 + room


def _one(found: Sequence[Measurement]) -> bool:
    return any(len(one.shares) == 1 for one in found)


def _any(found: Sequence[Measurement]) -> bool:
    return any(len(one.shares) > 1 for one in found)


def _key(figure: Canvas) -> None:
    from matplotlib.lines import Line2D

    handle = Line2D([], [], color="black", linewidth=2.2, label="expected from the weights")
    figure.legend(handles=[handle], loc="outside lower center")
