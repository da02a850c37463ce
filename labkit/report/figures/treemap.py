"""Treemaps of a root file system: each package an area as large as it is, in groups that say what for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit.core.result import Figure, Result
from labkit.display import human_bytes, ink_on
from labkit.model.lab import Lab
from labkit.report.figures import style
from labkit.report.figures.rootfs import TINTS, table_rows
from labkit.report.figures.squares import Box, divided

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A figure's height in inches, and the strip at its top that the title takes.
HEIGHT, TITLE = 6.2, 0.42
#: Points (1/72 inch): the strip of a group's heading and its letters, the gaps around groups.
HEADING, HEADED, GAP = 13.0, 9.0, 1.5
#: The sizes of a tile's letters: at most, so that its size is told too, at least.
LARGEST, COMFORTABLE, SMALLEST = 10.0, 7.5, 6.5
#: How wide a letter is as a share of its size (DejaVu Sans, on average; bold), and how high a line.
LETTER, BOLD, SPACING = 0.6, 0.67, 1.2
#: The uses' colours, by :data:`labkit.farm.study.usage.MEANING`'s order.
USES = ("#f0b183", "#f6f0a0", "#3a87c2")


class Group(NamedTuple):
    """Tiles (name -> bytes) under one heading."""

    name: str
    colour: str
    tiles: Mapping[str, float]

    @property
    def size(self) -> float:
        """All of its tiles."""
        return sum(self.tiles.values())


class Label(NamedTuple):
    """A tile's text, the size of its letters in points, and whether it stands upright."""

    text: str
    letters: float
    upright: bool = False


NONE = Label("", 0.0)


def package_map(lab: Lab, result: Result[Any]) -> Figure:
    """What a root file system consists of: kinds of files, and whose they are.

    ``result`` is :func:`labkit.farm.study.explain`'s; the areas are apparent sizes.
    """
    tiles: dict[str, dict[str, float]] = {}
    for row in table_rows(result, "parts"):
        kind = tiles.setdefault(str(row["kind"]), {})
        kind[str(row["package"])] = float(row["size"] or 0)
    names = sorted(tiles, key=lambda name: -sum(tiles[name].values()))
    groups = [
        Group(name, TINTS[min(place, len(TINTS) - 1)], tiles[name])
        for place, name in enumerate(names)
    ]
    whole = sum(group.size for group in groups)
    title = f"What the {human_bytes(whole)} of {result.subject} are, and whose"
    return _drawn(
        lab,
        [group for group in groups if group.size],
        title,
        name=f"map-{_plain(result.subject)}",
        what=f"the kinds of files of {result.subject} and, in each, the packages",
        caption=f"What {result.subject} consists of: a field for each kind of file, in it an area "
        "for each package as large as its files of that kind.",
    )


def use_map(lab: Lab, result: Result[Any]) -> Figure:
    """The packages of a root file system by what a running replica does with them.

    ``result`` is :func:`labkit.farm.study.unneeded`'s; the areas are apparent sizes.
    """
    tiles: dict[str, dict[str, float]] = {}
    for row in table_rows(result, "unneeded"):
        tiles.setdefault(str(row["use"]), {})[str(row["package"])] = float(row["size"] or 0)
    groups = [
        Group(name, colour, own) for (name, own), colour in zip(tiles.items(), USES, strict=False)
    ]
    return _drawn(
        lab,
        groups,
        f"{result.subject}: the packages that a running web server uses, and the others",
        name=f"use-{_plain(result.subject)}",
        what=f"the packages of {result.subject} by what a running replica does with them",
        caption=f"The packages of {result.subject}, each as large as its files: which ones a "
        "running replica opens a file of, which only the dependencies of those ask for, and the "
        "rest.",
    )


def _drawn(
    lab: Lab, groups: Sequence[Group], title: str, *, name: str, what: str, caption: str
) -> Figure:
    """The treemap, with the groups and their largest tiles in the alt text."""
    with style.canvas(HEIGHT) as figure:
        figure.set_layout_engine("none")  # points are places here
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        width, height = 72 * style.WIDTH, 72 * HEIGHT
        axes.set_xlim(0, width)
        axes.set_ylim(0, height)
        axes.text(2, height - 16, title, fontsize=12, fontweight="bold", va="center")
        box = Box(0, 0, width, height - 72 * TITLE)
        ordered = sorted(groups, key=lambda group: -group.size)
        for group, part in zip(ordered, divided([g.size for g in ordered], box), strict=True):
            _group(axes, group, part.within(side=GAP))
        listed = "; ".join(_told(group) for group in ordered)
        return style.save(
            lab, figure, name=name, alt=f"Areas as large as {what}: {listed}.", caption=caption
        )


def _group(axes: Axes, group: Group, box: Box) -> None:
    """A group with its heading and its tiles; where there is no room for both, as one tile."""
    heading = heading_of(group.name, human_bytes(group.size), box)
    if not heading.text:
        _tile(axes, box, group.colour, group.name, group.size)
        return
    axes.text(
        box.x + 2, box.y + box.height - HEADING / 2, heading.text, fontsize=heading.letters,
        fontweight="bold", va="center",
    )  # fmt: skip
    tiles = sorted(((n, size) for n, size in group.tiles.items() if size > 0), key=_weight)
    parts = divided([size for _, size in tiles], box.within(top=HEADING))
    for (name, size), part in zip(tiles, parts, strict=True):
        _tile(axes, part, group.colour, name, size)


def heading_of(name: str, size: str, box: Box) -> Label:
    """The heading that fits above a group's tiles: with its size, with smaller letters, without. Pure."""
    likely = ((f"{name}  {size}", HEADED), (f"{name}  {size}", COMFORTABLE), (name, HEADED))
    fitting = (Label(*item) for item in likely if BOLD * item[1] * len(item[0]) + 4 <= box.width)
    return next(fitting, NONE) if box.height > 3 * HEADING else NONE


def _tile(axes: Axes, box: Box, colour: str, name: str, size: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle(
            (box.x, box.y),
            box.width,
            box.height,
            facecolor=colour,
            edgecolor="white",
            linewidth=0.8,
        )
    )
    label = label_of(name, human_bytes(size), box.width, box.height)
    if label.text:
        axes.text(
            box.x + box.width / 2, box.y + box.height / 2, label.text, fontsize=label.letters,
            color=ink_on(colour), ha="center", va="center", linespacing=SPACING,
            rotation=90 if label.upright else 0,
        )  # fmt: skip


def label_of(name: str, size: str, width: float, height: float) -> Label:
    """The label of a tile of that many points: the first that is comfortable to read of the name with
    its size, in one line, broken, or upright, and of the name alone; else the largest. Pure."""
    lines = _broken(name)
    found: list[Label] = []
    for texts in ([f"{text}\n{size}" for text in lines], lines):
        found += [Label(text, _letters(text, width, height)) for text in texts]
        found += [Label(text, _letters(text, height, width), True) for text in texts]
    best = max(found, key=lambda label: label.letters)
    fine = next((label for label in found if label.letters >= COMFORTABLE), best)
    return fine if fine.letters >= SMALLEST else NONE


def _broken(name: str) -> list[str]:
    """A name in one line, and broken after a hyphen or at a blank, not too near to its ends."""
    places = (n for n in range(3, len(name) - 3) if name[n] in "- ")
    return [name, *(f"{name[: n + 1].rstrip()}\n{name[n + 1 :]}" for n in places)]


def _letters(text: str, width: float, height: float) -> float:
    """The size of letters with which a text fits, at most :data:`LARGEST`."""
    lines = text.split("\n")
    across = (width - 4) / (LETTER * max(map(len, lines)))
    return min(LARGEST, across, (height - 2) / (SPACING * len(lines)))


def _weight(item: tuple[str, float]) -> float:
    return -item[1]


def _told(group: Group) -> str:
    tiles = sorted(group.tiles.items(), key=lambda item: -item[1])[:3]
    listed = ", ".join(f"{name} {human_bytes(size)}" for name, size in tiles)
    return f"{group.name} {human_bytes(group.size)} ({listed})"


def _plain(name: str) -> str:
    """A name as part of a file's: ``image:web`` -> ``image-web``."""
    return name.lower().replace(":", "-").replace("_", "-").replace(".", "-")
