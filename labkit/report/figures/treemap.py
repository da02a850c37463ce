"""Treemaps of a root file system: each package an area as large as it is, in groups that say what for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import squarify

from labkit.core.result import Figure, Result
from labkit.display import human_bytes, ink_on
from labkit.model.lab import Lab
from labkit.report.figures import style

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


class Box(NamedTuple):
    """A rectangle in points: its lower left corner, its width and its height."""

    x: float
    y: float
    width: float
    height: float


class Group(NamedTuple):
    """Tiles (name -> bytes, the largest first) under one heading."""

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
    """Draws the kinds of files that a root file system consists of, and in each the packages they belong to.

    :param result: of :func:`labkit.farm.study.explain`, with table ``parts``; the areas are apparent sizes.
    """
    tiles = _tiles(result, "parts", "kind")
    names = sorted(tiles, key=lambda name: -sum(tiles[name].values()))
    colours = chain(style.TINTS, repeat(style.TINTS[-1]))
    groups = [
        Group(name, colour, tiles[name]) for name, colour in zip(names, colours, strict=False)
    ]
    whole = human_bytes(sum(group.size for group in groups))
    return _drawn(
        lab,
        groups,
        f"What the {whole} of {result.subject} are, and whose",
        name=f"map-{result.subject}",
        what=f"the kinds of files of {result.subject} and, in each, the packages",
        caption=f"What {result.subject} consists of: a field for each kind of file, in it an area "
        "for each package as large as its files of that kind.",
    )


def use_map(lab: Lab, result: Result[Any]) -> Figure:
    """Draws the packages of a root file system by what a running replica does with them.

    :param result: of :func:`labkit.farm.study.unneeded`, with its table of that name; the areas are apparent sizes.
    """
    tiles = _tiles(result, "unneeded", "use")
    return _drawn(
        lab,
        [Group(name, colour, tiles[name]) for name, colour in zip(tiles, USES, strict=False)],
        f"{result.subject}: the packages that a running web server uses, and the others",
        name=f"use-{result.subject}",
        what=f"the packages of {result.subject} by what a running replica does with them",
        caption=f"The packages of {result.subject}, each as large as its files: which ones a "
        "running replica opens a file of, which only the dependencies of those ask for, and the "
        "rest.",
    )


def _tiles(result: Result[Any], table: str, column: str) -> dict[str, dict[str, float]]:
    """The sizes of packages by what they have in a column, in the table's order; the largest package first."""
    groups = style.frame(result, table).groupby(column, sort=False)
    return {
        name: dict(part.set_index("package")["size"].sort_values(ascending=False, kind="stable"))
        for name, part in groups
    }


def _drawn(
    lab: Lab, groups: Sequence[Group], title: str, *, name: str, what: str, caption: str
) -> Figure:
    """The treemap, with the groups and their largest tiles in the alt text."""
    with style.canvas(HEIGHT) as figure:
        figure.set_layout_engine("none")  # points are places here
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        width, height = 72 * style.WIDTH, 72 * HEIGHT
        axes.set(xlim=(0, width), ylim=(0, height))
        axes.text(2, height - 16, title, fontsize=12, fontweight="bold", va="center")
        ordered = sorted((g for g in groups if g.size), key=lambda group: -group.size)
        boxes = divided([g.size for g in ordered], Box(0, 0, width, height - 72 * TITLE))
        for group, (x, y, across, up) in zip(ordered, boxes, strict=True):
            inner = Box(x + GAP, y + GAP, max(across - 2 * GAP, 0.0), max(up - 2 * GAP, 0.0))
            _group(axes, group, inner)
        return style.save(
            lab,
            figure,
            name=re.sub(r"[:_.]", "-", name.lower()),
            alt=f"Areas as large as {what}: {'; '.join(map(_told, ordered))}.",
            caption=caption,
        )


def divided(sizes: Sequence[float], box: Box) -> list[Box]:
    """One part of the box for each size (positive, the largest first), as square as can be, from its upper left
    corner on (Bruls, Huizing, van Wijk, "Squarified Treemaps")."""
    areas = squarify.normalize_sizes(sizes, box.width, box.height)
    parts = squarify.squarify(areas, box.x, 0.0, box.width, box.height)
    top = box.y + box.height  # squarify begins at the lower left corner
    return [Box(part["x"], top - part["y"] - part["dy"], part["dx"], part["dy"]) for part in parts]


def _group(axes: Axes, group: Group, box: Box) -> None:
    """A group with its heading and its tiles; where there is no space for both, as one tile."""
    heading = heading_of(group.name, human_bytes(group.size), box)
    if not heading.text:
        _tile(axes, box, group.colour, group.name, group.size)
        return
    axes.text(
        box.x + 2, box.y + box.height - HEADING / 2, heading.text, fontsize=heading.letters,
        fontweight="bold", va="center",
    )  # fmt: skip
    tiles = {name: size for name, size in group.tiles.items() if size > 0}
    parts = divided([*tiles.values()], box._replace(height=box.height - HEADING))
    for (name, size), part in zip(tiles.items(), parts, strict=True):
        _tile(axes, part, group.colour, name, size)


def heading_of(name: str, size: str, box: Box) -> Label:
    """The heading that fits above a group's tiles: with its size, with smaller letters, without. Pure."""
    likely = ((f"{name}  {size}", HEADED), (f"{name}  {size}", COMFORTABLE), (name, HEADED))
    fitting = (Label(*item) for item in likely if BOLD * item[1] * len(item[0]) + 4 <= box.width)
    return next(fitting, NONE) if box.height > 3 * HEADING else NONE


def _tile(axes: Axes, box: Box, colour: str, name: str, size: float) -> None:
    from matplotlib.patches import Rectangle

    x, y, width, height = box
    axes.add_patch(Rectangle((x, y), width, height, fc=colour, ec="white", linewidth=0.8))
    label = label_of(name, human_bytes(size), width, height)
    if label.text:
        axes.text(
            x + width / 2, y + height / 2, label.text, fontsize=label.letters,
            color=ink_on(colour), ha="center", va="center", linespacing=SPACING,
            rotation=90 if label.upright else 0,
        )  # fmt: skip


def label_of(name: str, size: str, width: float, height: float) -> Label:
    """The label of a tile of that many points: the first that is comfortable to read of the name with
    its size, in one line, broken, or upright, and of the name alone; else the largest. Pure."""
    # a name may be broken after a hyphen or at a blank, not too near to its ends
    places = (n for n in range(3, len(name) - 3) if name[n] in "- ")
    lines = [name, *(f"{name[: n + 1].rstrip()}\n{name[n + 1 :]}" for n in places)]
    found: list[Label] = []
    for texts in ([f"{text}\n{size}" for text in lines], lines):
        found += [Label(text, _letters(text, width, height)) for text in texts]
        found += [Label(text, _letters(text, height, width), True) for text in texts]
    best = max(found, key=lambda label: label.letters)
    fine = next((label for label in found if label.letters >= COMFORTABLE), best)
    return fine if fine.letters >= SMALLEST else NONE


def _letters(text: str, width: float, height: float) -> float:
    """The size of letters with which a text fits, at most :data:`LARGEST`."""
    lines = text.split("\n")
    across = (width - 4) / (LETTER * max(map(len, lines)))
    return min(LARGEST, across, (height - 2) / (SPACING * len(lines)))


def _told(group: Group) -> str:
    largest = ", ".join(f"{n} {human_bytes(size)}" for n, size in list(group.tiles.items())[:3])
    return f"{group.name} {human_bytes(group.size)} ({largest})"
