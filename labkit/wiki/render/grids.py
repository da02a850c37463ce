"""Tables of other programs, made ready to be sorted: which columns hold numbers, how long they are.
Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from labkit.display import counted
from labkit.wiki.render.tree import Cell, Grid, Line, Parts, Text
from labkit.wiki.render.walking import plain

#: More rows than this are shown by their beginning and their end.
MOST = 1000
_NUMBER = re.compile(
    r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)?\.?\d*(?:e[-+]?\d+)?\s?%?|[-+]?inf", re.IGNORECASE
)
#: What stands for no number among numbers.
_NOTHING = ("", "nan", "none", "nat", "<na>", "–", "-", "...", "…")

Row = tuple[Cell, ...]


def table(rows: Sequence[Row], *, caption: str = "", sortable: bool = False) -> Parts:
    """A table of these rows; its first rows that hold header cells alone head it. None without cells."""
    filled = [row for row in rows if row]
    head = next((n for n, row in enumerate(filled) if not all(cell.head for cell in row)), len(filled))  # fmt: skip
    heads, body = _one_head(filled[:head]), filled[head:]
    if not heads and not body:
        return ()
    kept, size = _cut(body)
    numeric = _numeric(body)
    aligned = tuple(_aligned([*heads, *kept], len(heads), numeric))
    return (Grid(aligned, len(heads), caption, size, sortable and bool(heads), numeric),)


def number(text: str) -> bool:
    """Whether a cell's text is a number, as pandas and others print one."""
    bare = text.strip()
    return bool(_NUMBER.fullmatch(bare)) and bool(re.search(r"\d|inf", bare, re.IGNORECASE))


def _one_head(heads: list[Row]) -> list[Row]:
    """pandas' last header row, that names the index alone, put into the empty cells of the one above."""
    if len(heads) < 2 or len(heads[-2]) != len(heads[-1]):
        return heads
    pairs = list(zip(*heads[-2:], strict=True))
    if any(cell.across > 1 or cell.down > 1 for pair in pairs for cell in pair):
        return heads
    if any(one.line and other.line for one, other in pairs):
        return heads
    return [*heads[:-2], tuple(one if one.line else other for one, other in pairs)]


def _cut(body: list[Row]) -> tuple[list[Row], str]:
    """The rows that are shown, and in words how many there are where that is not seen at once."""
    count = len(body)
    if count > MOST:
        rest: Line = (Text(f"… {counted(count - MOST, 'row')} left out …"),)
        between = (Cell(rest, across=max(map(_width, body))),)
        return [*body[: MOST // 2], between, *body[-MOST // 2 :]], counted(count, "row")
    return body, counted(count, "row")


def _width(row: Row) -> int:
    return sum(cell.across for cell in row)


def _numeric(body: Sequence[Row]) -> frozenset[int]:
    """The columns that hold numbers, and nothing else but signs of absence."""
    good: set[int] = set()
    bad: set[int] = set()
    widest = max(map(_width, body), default=0)
    for row in body:
        for column, cell in _placed(row, widest):
            text = plain(cell.line).strip()
            if cell.across > 1 or not (number(text) or text.lower() in _NOTHING):
                bad.add(column)
            elif number(text):
                good.add(column)
    return frozenset(good - bad)


def _placed(row: Row, widest: int) -> Iterator[tuple[int, Cell]]:
    """The cells of a row, each with its column; cells above that reach into a row stand at its left, as
    the outer levels of an index do."""
    column = widest - _width(row)
    for cell in row:
        yield column, cell
        column += cell.across


def _aligned(rows: Sequence[Row], head: int, numeric: frozenset[int]) -> Iterator[Row]:
    """The rows, columns of numbers to the right."""
    widest = max(map(_width, rows))
    for n, row in enumerate(rows):
        yield tuple(
            replace(cell, side="right") if column in numeric and (n >= head or cell.across == 1)
            else cell
            for column, cell in _placed(row, widest)
        )  # fmt: skip
