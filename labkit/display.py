"""How values, checks, tables and results look to a person, as text and as HTML. Pure."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from labkit.checks import Check
    from labkit.core.result import Cell, Column, Result, Table


#: JupyterLab would set every cell to the right.
LEFT, RIGHT = ' style="text-align:left"', ' style="text-align:right"'
#: A long path in a command would push the table's last column off the page.
BREAKING = ' style="overflow-wrap:anywhere"'

#: Verbs whose singular does not just add an s.
SINGULAR = {"are": "is", "were": "was", "have": "has", "do": "does"}


def human(value: Cell, unit: str = "") -> str:
    """A value as a person reads it: bytes in MB or KB (powers of ten), seconds and numbers rounded."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if unit == "bytes":
        return human_bytes(value)
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}"


def human_bytes(count: float) -> str:
    """A number of bytes in the largest fitting power of ten: ``171.3 MB``, ``−4.6 MB``."""
    sign, count = "−" if count < 0 else "", abs(count)
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{sign}{count / size:,.1f} {unit}"
    return f"{sign}{int(count)} B"


def duration(seconds: float) -> str:
    """A duration as people read it: ``4.2 s``, ``3 min 20 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def about(seconds: float) -> str:
    """An expected duration, in steps of five seconds: ``45 s``, ``1 min 40 s``."""
    minutes, rest = divmod(5 * round(seconds / 5), 60)
    return " ".join(
        [*([f"{minutes} min"] if minutes else []), *([f"{rest} s"] if rest or not minutes else [])]
    )


def counted(count: int, noun: str, verb: str = "") -> str:
    """A number and its noun (``1 replica``, ``6 addresses``), with a ``verb`` also that: ``1 check holds``."""
    if count == 1:
        return f"1 {noun}{verb and ' ' + SINGULAR.get(verb, f'{verb}s')}"
    ending = "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{count:,} {noun}{ending}{verb and ' ' + verb}"


def curl(*addresses: str, options: str = "") -> str:
    """A curl command that asks addresses as labkit does: without the person's curlrc, and without a proxy if
    they are the lab's own (private ones, and names below .test)."""
    hosts = [urlsplit(address).hostname or "" for address in addresses]
    near = ("--noproxy", "'*'") if all(map(_is_near, hosts)) else ()
    words = ("curl", "--disable", *near, options, *map(shlex.quote, addresses))
    return " ".join(word for word in words if word)


def _is_near(host: str) -> bool:
    try:
        return ip_address(host).is_private
    except ValueError:
        return host.endswith(".test")


def ink_on(colour: str, dark: str = "#1f2933") -> str:
    """Whichever of white and ``dark`` has more contrast with a background ``#rrggbb`` (WCAG 2.2)."""
    ground = _luminance(colour)
    light = 1.05 / (ground + 0.05)
    return "#ffffff" if light >= (ground + 0.05) / (_luminance(dark) + 0.05) else dark


def result_text(result: Result[Any]) -> str:
    """A result in plain text: its summary, then a line a check."""
    changed = "changed" if result.changed else "unchanged"
    lines = [f"{result.summary} [{result.action}, {changed}, {result.seconds:.2f} s]"]
    lines += [f"  {c.icon} {c.name}: expected {c.expected}; seen {c.seen}" for c in result.checks]
    return "\n".join(lines)


def result_html(result: Result[Any]) -> str:
    """A result as HTML: summary, checks, tables; the commands folded."""
    parts = [f"<p><strong>{html.escape(result.summary)}</strong></p>"]
    if result.checks:
        parts.append(checks_html(result.checks))
    parts += [table_html(table) for table in result.tables]
    if result.commands:
        lines = "\n".join(
            f"{html.escape(item.command)}  # {item.status}, {item.seconds:.2f} s"
            for item in result.commands
        )
        parts.append(
            f"<details><summary>{counted(len(result.commands), 'command')}</summary><pre>{lines}</pre></details>"
        )
    changed = "changed" if result.changed else "unchanged"
    parts.append(
        f"<p><small>{html.escape(result.action)} · {changed} · {result.seconds:.2f} s · "
        f"run {html.escape(result.run)}</small></p>"
    )
    return "\n".join(parts)


def summary_html(sentence: str, problems: Iterable[str]) -> str:
    """A sentence, and below it what is wrong, as HTML."""
    items = "".join(f"<li>✘ {html.escape(problem)}</li>" for problem in problems)
    return f"<p><strong>{html.escape(sentence)}</strong></p>" + (
        f"<ul>{items}</ul>" if items else ""
    )


def checks_html(checks: Iterable[Check]) -> str:
    """Checks as an HTML table: state, name, expected, seen, how to see it again."""
    rows = "".join(
        f"<tr><td{LEFT}>{c.icon}&nbsp;{c.state}</td><td{LEFT}>{html.escape(c.name)}</td>"
        f"<td{LEFT}>{html.escape(c.expected)}</td><td{LEFT}>{html.escape(c.seen)}</td>"
        f"<td{LEFT}><code{BREAKING}>{html.escape(c.again)}</code></td></tr>"
        for c in checks
    )
    heads = "".join(
        f"<th{LEFT}>{head}</th>" for head in ("state", "check", "expected", "seen", "see it again")
    )
    return f'<table class="checks"><tr>{heads}</tr>{rows}</table>'


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


def _luminance(colour: str) -> float:
    """The relative luminance of ``#rrggbb``, 0 (black) to 1 (white), as WCAG 2.2 defines it."""
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
