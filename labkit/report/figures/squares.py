"""The layout of a treemap: a box divided by sizes, each part as square as it can be. Pure.

Bruls, Huizing, van Wijk, "Squarified Treemaps" (2000): parts are laid along the shorter side of what
is left of the box, and a row ends where one more part would make its worst one longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle: its lower left corner, its width and its height."""

    x: float
    y: float
    width: float
    height: float

    def within(self, *, side: float = 0.0, top: float = 0.0) -> Box:
        """The box less a margin of ``side`` all around and ``top`` more at its top; empty at worst."""
        width, height = self.width - 2 * side, self.height - 2 * side - top
        return Box(self.x + side, self.y + side, max(width, 0.0), max(height, 0.0))


def divided(sizes: Sequence[float], box: Box) -> list[Box]:
    """One part of ``box`` for each of ``sizes`` (positive, the largest first), from its upper left
    corner on; the areas are to each other as the sizes, and together they fill the box."""
    parts: list[Box] = []
    left = list(sizes)
    while left:
        scale = box.width * box.height / sum(left)
        side = min(box.width, box.height)
        row = _row([size * scale for size in left], side)
        laid, box = _laid(row, box)
        parts += laid
        left = left[len(row) :]
    return parts


def _row(areas: Sequence[float], side: float) -> list[float]:
    """The areas of the next row along a side of that length: as many as make it no worse."""
    row = [areas[0]]
    for area in areas[1:]:
        if _worst([*row, area], side) > _worst(row, side):
            break
        row.append(area)
    return row


def _worst(row: Sequence[float], side: float) -> float:
    """The worst ratio of length to breadth in a row."""
    if not side:
        return 1.0
    breadth = sum(row) / side
    lengths = [area / breadth for area in (max(row), min(row))]
    return max(max(length / breadth, breadth / length) for length in lengths)


def _laid(row: Sequence[float], box: Box) -> tuple[list[Box], Box]:
    """The parts of a row along the shorter side of a box, and what the row leaves of the box."""
    total = sum(row)
    parts: list[Box] = []
    if box.width >= box.height:  # a column at the left, from the top down
        breadth = total / box.height if box.height else 0.0
        top = box.y + box.height
        for area in row:
            height = box.height * area / total
            top -= height
            parts.append(Box(box.x, top, breadth, height))
        return parts, Box(box.x + breadth, box.y, max(box.width - breadth, 0.0), box.height)
    breadth = total / box.width if box.width else 0.0
    x, y = box.x, box.y + box.height - breadth
    for area in row:  # a row at the top, from left to right
        width = box.width * area / total
        parts.append(Box(x, y, width, breadth))
        x += width
    return parts, Box(box.x, box.y, box.width, max(box.height - breadth, 0.0))
