"""Tables: rows of plain values under named columns, made of mappings or of a pandas DataFrame.

A table keeps its rows as plain values and not as a DataFrame. It is evidence: frozen, hashed, signed, compared with
what was read back from JSON. A DataFrame can be changed, and turns a whole number into a fraction where another row
has none. And ``labkit status``, ``plan`` and ``apply`` make tables, too, without importing pandas, which would take
longer than they do. So what computes on a table takes :meth:`Table.frame`, computes in pandas, and gives what it
found back to :meth:`Table.of`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
        rows: Iterable[Mapping[str, Cell]] | pandas.DataFrame,
        *,
        units: Mapping[str, str] | None = None,
        columns: Sequence[str] = (),
    ) -> Table:
        """A table from one mapping a row, or from a DataFrame, of which each index that has a name becomes a column.

        What JSON has no number for (NaN, infinity) and what pandas has for an absent value is None; a date, an
        interval and the like are text.

        :param units: column -> its unit (``{"took": "s"}``); ``bytes`` is shown in kB, MB and GB.
        :param columns: the columns, in their order; default: those of the DataFrame, or the first row's keys.

        Example: ``Table.of("shares", "Requests", requests.groupby("replica").size().to_frame("requests"))``
        """
        if hasattr(rows, "iloc"):
            listed, known = _of_frame(rows)
        else:
            listed = [*rows]
            known = [*listed[0]] if listed else []
        names = [*columns] or known
        heads = tuple(Column(name=column, unit=(units or {}).get(column, "")) for column in names)
        body = tuple(tuple(_finite(row.get(column)) for column in names) for row in listed)
        return cls(name=name, title=title, columns=heads, rows=body)

    def frame(self) -> pandas.DataFrame:
        """The same as a new pandas DataFrame: one row a row, the columns' names without their units."""
        import pandas  # a third of a second, and most commands need no table

        return pandas.DataFrame(
            [list(row) for row in self.rows], columns=[column.name for column in self.columns]
        )

    def _repr_html_(self) -> str:
        return table_html(self)


def _of_frame(frame: pandas.DataFrame) -> tuple[list[Mapping[str, Cell]], list[str]]:
    """A DataFrame's rows and the names of its columns, the named levels of its index first."""
    labels = [" ".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in frame.columns]
    flat = frame.set_axis(labels, axis="columns")
    if named := [level for level, name in enumerate(flat.index.names) if name is not None]:
        flat = flat.reset_index(level=named)
    rows = [{name: _cell(value) for name, value in row.items()} for row in flat.to_dict("records")]
    return [*rows], [*flat.columns]


def _cell(value: Any) -> Cell:
    """A value of a DataFrame as a plain cell."""
    value = value.item() if hasattr(value, "item") else value  # one of numpy's numbers
    if value is None or isinstance(value, Cell):
        return value
    text = str(value)
    return None if text in ("NaT", "<NA>") else text


def _finite(value: Cell) -> Cell:
    return None if isinstance(value, float) and not math.isfinite(value) else value


#: JupyterLab would set every cell to the right.
LEFT, RIGHT = ' style="text-align:left"', ' style="text-align:right"'


def table_html(table: Table, limit: int = 20) -> str:
    """A table as HTML, numbers to the right, with its name in ``frames``; rows past ``limit`` are folded."""
    heads = "".join(f"<th{LEFT}>{html.escape(_heading(column))}</th>" for column in table.columns)
    rows = [
        "<tr>"
        + "".join(_cell_html(v, c) for v, c in zip(row, table.columns, strict=True))
        + "</tr>"
        for row in table.rows
    ]
    title = f"{html.escape(table.title)}{'' if rows else ': none'}"
    head = f'<p>{title} <small><code>frames["{html.escape(table.name)}"]</code></small></p>'
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
