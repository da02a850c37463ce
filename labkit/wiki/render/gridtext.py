"""A table of :mod:`labkit.wiki.render.tree` as wikitext: one line a row, so that histories read well. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labkit.wiki.render import wikitext
from labkit.wiki.render.tree import Cell, Grid, Line
from labkit.wiki.render.walking import plain


def grid(part: Grid, write: Callable[[Line], str]) -> str:
    """The table's wikitext; ``write`` gives a line's. Long ones are collapsed, and say their size."""
    body = len(part.rows) - part.head
    long = body > wikitext.LONG
    classes = ["wikitable", *(["sortable"] if part.sortable else []), *(["mw-collapsible", "mw-collapsed"] if long else [])]  # fmt: skip
    lines = [f'{{| class="{" ".join(classes)}"', *wikitext.title(_caption(part, long or not body))]
    for n, row in enumerate(part.rows):
        lines += ["|-"] if n else []
        lines += _head(row, part, write) if n < part.head else _row(row, write)
    return "\n".join([*lines, "|}"])


def _caption(part: Grid, sized: bool) -> str:
    """The caption as wikitext, with the table's size where that is not seen at once."""
    said = " ".join(wikitext.clean(part.caption).split())
    size = part.size if sized else ""
    both = f"{said} ({size})" if said and size else said or size
    return wikitext.literal(both) if both else ""


def _head(row: Sequence[Cell], part: Grid, write: Callable[[Line], str]) -> list[str]:
    """A header row; a column of numbers is sorted as one, whatever else it holds."""
    shown, column = [], 0
    for cell in row:
        number = part.sortable and column in part.numeric and cell.across == 1
        shown.append(_cell(cell, write, ['data-sort-type="number"'] if number else []))
        column += cell.across
    return ["! " + " !! ".join(shown)]


def _row(row: Sequence[Cell], write: Callable[[Line], str]) -> list[str]:
    """A row: the header cells that it begins with, and the others, each on a line."""
    count = next((n for n, cell in enumerate(row) if not cell.head), len(row))
    heads = [_cell(cell, write, ['scope="row"']) for cell in row[:count]]
    cells = [_cell(cell, write, []) for cell in row[count:]]
    return [
        *(["! " + " !! ".join(heads)] if heads else []),
        *(["| " + " || ".join(cells)] if cells else []),
    ]


def _cell(cell: Cell, write: Callable[[Line], str], more: list[str]) -> str:
    """A cell's attributes and text."""
    styles = [f"text-align:{cell.side}"] if cell.side else []
    css = ";".join([*styles, *filter(None, [wikitext.style(plain(cell.line))])])
    given = [
        *more,
        *([f'colspan="{cell.across}"'] if cell.across > 1 else []),
        *([f'rowspan="{cell.down}"'] if cell.down > 1 else []),
        *([f'style="{css}"'] if css else []),
    ]
    text = write(cell.line)
    return f"{' '.join(given)} | {text}" if given else text
