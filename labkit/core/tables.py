"""Tables: rows of plain values under named columns, and how a notebook shows them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from labkit.display import counted, human
from labkit.records import Record

if TYPE_CHECKING:
    import pandas


Cell = str | int | float | bool | None


class Column(Record):
    """A table's column; ``unit`` is '' where there is none (names, counts)."""

    name: str
    unit: str = ""

    @property
    def heading(self) -> str:
        """Name and unit, as they head the column."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


class Table(Record):
    """Rows of plain values under named columns."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(
        cls,
        name: str,
        title: str,
        rows: Iterable[Mapping[str, Cell]],
        *,
        units: Mapping[str, str] | None = None,
        columns: Sequence[str] = (),
    ) -> Table:
        """A table from one mapping a row; the columns are ``columns`` or the first row's keys."""
        listed = list(rows)
        names = list(columns) or (list(listed[0]) if listed else [])
        heads = tuple(Column(name=column, unit=(units or {}).get(column, "")) for column in names)
        body = tuple(tuple(row.get(column) for column in names) for row in listed)
        return cls(name=name, title=title, columns=heads, rows=body)

    def frame(self) -> pandas.DataFrame:
        """The same as a pandas DataFrame: one row a row, the columns' names without their units."""
        import pandas  # a third of a second, and most commands need no table

        return pandas.DataFrame(
            [list(row) for row in self.rows], columns=[column.name for column in self.columns]
        )

    def _repr_html_(self) -> str:
        return table_html(self)


#: JupyterLab would set every cell to the right.
LEFT, RIGHT = ' style="text-align:left"', ' style="text-align:right"'


def table_html(table: Table, limit: int = 20) -> str:
    """A table as HTML, numbers to the right; rows past ``limit`` are folded."""
    heads = "".join(f"<th{LEFT}>{html.escape(_heading(column))}</th>" for column in table.columns)
    rows = [
        "<tr>"
        + "".join(_cell_html(v, c) for v, c in zip(row, table.columns, strict=True))
        + "</tr>"
        for row in table.rows
    ]
    head = f"<p>{html.escape(table.title)}{'' if rows else ': none'}</p>"
    if not rows:
        return head
    body = f"<table><tr>{heads}</tr>{''.join(rows[:limit])}</table>"
    if len(rows) <= limit:
        return head + body
    rest = f"<table><tr>{heads}</tr>{''.join(rows[limit:])}</table>"
    return f"{head}{body}<details><summary>{counted(len(rows) - limit, 'more row')}</summary>{rest}</details>"


def _heading(column: Column) -> str:
    return column.name if column.unit == "bytes" else column.heading


def _cell_html(value: Cell, column: Column) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"<td{RIGHT if number else LEFT}>{html.escape(human(value, column.unit))}</td>"
