"""Shows results on a terminal, or as plain text in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from labkit.display import human, shown

if TYPE_CHECKING:
    from labkit.checks import Check
    from labkit.core.result import Result
    from labkit.core.tables import Table

#: The width of the output when it goes to a file or another program.
WIDTH = 160
#: The colour of a line of a difference, by its first character.
COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def show(result: Result[Any], *, checks: bool = True, console: Console | None = None) -> None:
    """Prints a result: its tables, its checks (for each that fails, a command that shows it again), its summary."""
    out = console or Console(highlight=False, markup=False)
    if not console and not out.is_terminal:
        out = Console(highlight=False, markup=False, width=WIDTH)
    for table in result.tables:
        out.print(_table(table))
    if checks and result.checks:
        out.print(_checks(result.checks))
        for check in result.checks:
            if not check.holds and check.again:
                out.print(Text(f"see {check.name}: {shown(check.again)}"), soft_wrap=True)
    out.print(Text(shown(result.summary), style="bold"), soft_wrap=True)


def show_difference(heading: str, diff: str, console: Console | None = None) -> None:
    """Prints a heading and a unified difference, in colour where the console has any."""
    out = console or Console(highlight=False, markup=False, emoji=False)
    out.print(shown(heading), style="bold", soft_wrap=True)
    for line in shown(diff).splitlines():
        out.print(line, style=COLOURS.get(line[:1], ""), soft_wrap=True)


def _grid(title: str = "") -> Grid:
    heading = Text(shown(title), style="bold") if title else None
    return Grid(box=None, pad_edge=False, title=heading, title_justify="left", header_style="dim")


def _table(table: Table) -> Grid:
    grid = _grid(table.title)
    for place, column in enumerate(table.columns):
        values = [row[place] for row in table.rows if row[place] is not None]
        numbers = values and all(isinstance(value, (int, float)) for value in values)
        heading = column.name if column.unit == "bytes" else column.heading
        grid.add_column(Text(shown(heading)), justify="right" if numbers else "left")
    for row in table.rows:
        cells = zip(row, table.columns, strict=True)
        grid.add_row(*(Text(shown(human(cell, column.unit))) for cell, column in cells))
    return grid


def _checks(checks: tuple[Check, ...]) -> Grid:
    grid = _grid()
    for heading in ("", "check", "expected", "seen"):
        grid.add_column(heading)
    for check in checks:
        state = Text(f"{check.icon} {check.state}", style="green" if check.holds else "bold red")
        words = (check.name, check.expected, check.seen)
        grid.add_row(state, *(Text(shown(word)) for word in words))
    return grid
