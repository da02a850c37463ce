"""Wikitext from texts, tables, results and pictures. Pure: the same input gives the same characters.

What a program or a person wrote never becomes markup. Inside a line (:func:`literal`) each
character that MediaWiki could read as markup stands as a character reference, which its parser
leaves alone; a block of text (:func:`pre`) needs only ``&``, ``<`` and ``>`` replaced.
"""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from labkit.checks import Check
from labkit.core.result import Command, Result
from labkit.core.tables import Cell, Column, Table
from labkit.display import counted, human, shown

#: Tables with more rows than this are collapsed.
LONG = 20
#: Pictures are shown at most this wide (pixels); a click opens them whole.
WIDTH = 880
#: Languages that are highlighted, by the names that notebooks use for them (Pygments' own names).
LANGUAGES = {
    "apache": "apacheconf", "apacheconf": "apacheconf", "bash": "bash", "console": "console",
    "css": "css", "diff": "diff", "html": "html", "ini": "ini", "ipython3": "python",
    "javascript": "javascript", "js": "javascript", "json": "json", "nginx": "nginx", "php": "php",
    "py": "python", "python": "python", "python3": "python", "sh": "bash", "shell": "bash",
    "sql": "sql", "toml": "toml", "xml": "xml", "yaml": "yaml",
}  # fmt: skip

#: As wide as what it holds, so that the link that opens it stands beside its label.
_FOLD = "display:table;min-width:14em;max-width:100%"
#: A caption of this length at most is not broken by a narrow table below it; a longer one has a width of
#: its own, for a table that is collapsed has none.
_SHORT, _CAPTION = 80, "min-width:min(45em,80vw)"
#: A word of this length (a hash, a path) is broken in its table's cell, so that the page is not widened.
_UNBROKEN, _BREAKS = re.compile(r"\S{25}"), "overflow-wrap:anywhere"

_ALWAYS = str.maketrans({c: f"&#{ord(c)};" for c in "[]{}|~"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\ufffd": "&#65533;"})  # fmt: skip
#: Each place where a harmless character could begin or complete markup (sources: MediaWiki 1.39,
#: includes/parser/{Parser,BlockLevelPass,Sanitizer}.php).
_RISKY = re.compile(
    r"""
    (?<![^\n])[*\#:;=!+\-\ \t]             # lists, headings, rules, preformatted: at a line's start
    | [\ \t](?![^\n])                      # blanks at a line's end are trimmed
    | (?<![^\n'\1])'|'(?=['\1\n]|$)        # two quotes are italics, also with another text's
    | (?<![^\n_\1])_|_(?=[_\1\n]|$)        # __TOC__
    | (?<![^\n\1])[^\x00-\u02ff]         # an accent joins the markup's last character (>, =)
    | (?<=!)!|!(?=!)                       # !! divides a header row
    | (?<=[A-Za-z]):(?=[^\s\1])            # a bare address becomes a link
    | \ (?=[?:;!%»›])|(?<=[«‹])\           # a blank here becomes a no-break one (French rules)
    | (?<=RF)C(?=[\s\1]|$)|(?<=PMI)D(?=[\s\1]|$)|(?<=ISB)N(?=[\s\1]|$)   # numbered documents
    """,
    re.VERBOSE,
)
#: What is read in a preformatted block all the same: French blanks, a fence, another language's
#: variants, and a reply's colon for who reads the page's lines.
_IN_PRE = re.compile(r" (?=[?:;!%»›])|(?<=[«‹]) |(?<=labkit):|(?<=-)\{|^:", re.MULTILINE)
#: A link to a page, or to elsewhere, of which the words are seen.
_LINK = re.compile(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]|\[(?:[a-z]+:)?//\S+ ([^\]]+)\]")
#: Raw text that must not stand in a <syntaxhighlight>: its end, a fence, a remark.
_BREAKS_OUT = re.compile(
    r"</syntaxhighlight|<!--|labkit:|-\{|\ufeff|^\s*(?:REX>|:)", re.IGNORECASE | re.MULTILINE
)


def clean(text: str) -> str:
    """The text as a wiki stores it: NFC, lines ended by ``\\n``, control characters made visible.

    MediaWiki composes characters itself and replaces those that XML 1.0 does not allow.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", shown(lines))


def literal(text: str, *, begins: bool = True, ends: bool = True) -> str:
    """The text as inert wikitext within one line; its line breaks become ``<br />``.

    :param begins: the text is the first of its line (``ends``: the last); otherwise other pieces of
        wikitext stand beside it, and its blanks there are left as they are.
    """
    return _literal(text, begins, ends)


@functools.lru_cache(maxsize=8192)  # tables say the same again and again
def _literal(text: str, begins: bool, ends: bool) -> str:
    framed = ("" if begins else "\1") + clean(text) + ("" if ends else "\1")
    marked = _RISKY.sub(_reference, framed).replace("\1", "")
    return marked.translate(_ALWAYS).replace("\0", "&#").replace("\n", "<br />")


def code(text: str) -> str:
    """The text as inline code."""
    return f"<code>{literal(text)}</code>" if text else ""


def pre(text: str, *, attributes: str = "") -> str:
    """The text as a preformatted block, exactly as it is but for line ends at its end."""
    safe = html.escape(clean(text).rstrip("\n"), quote=False)
    return f"<pre{attributes}>\n{_IN_PRE.sub(_referred, safe)}\n</pre>"


def span(text: str, css: str) -> str:
    """A piece of a line in a CSS style ('' for none)."""
    safe = literal(text, begins=False, ends=False)
    return f'<span style="{css}">{safe}</span>' if css else safe


def plain(text: str) -> str:
    """A person's or labkit's line as a reader sees it: references, line breaks, emphasis and links resolved."""
    return unmarked(_LINK.sub(r"\1\2", re.sub(r"<br ?/?>", " ", text)))


def unmarked(text: str) -> str:
    """A text without its marks of emphasis, and with its references as characters."""
    return html.unescape(re.sub(r"'{2,}|</?[a-z]+(?: [^<>]*)?/?>", "", text)).strip()


def source(text: str, language: str, *, highlight: bool = True) -> str:
    """The text as a highlighted block; as :func:`pre` where highlighting is unknown or unsafe, or
    the wiki has none."""
    lexer = LANGUAGES.get(language.strip().lower()) if highlight else None
    safe = clean(text).strip("\n").rstrip()
    if lexer is None or not safe or _BREAKS_OUT.search(safe):
        return pre(text)
    return f'<syntaxhighlight lang="{lexer}">\n{safe}\n</syntaxhighlight>'


def folded(label: str, body: str) -> str:
    """A block under a label (plain text) that opens on demand; open where scripts do not run."""
    return (
        f'<div class="mw-collapsible mw-collapsed" style="{_FOLD}"><small>{literal(label)}</small>&#160;\n'
        f'<div class="mw-collapsible-content">\n{body}\n</div>\n</div>'
    )


def heading(text: str, level: int) -> str:
    """A heading line of a plain text (level 2 to 6)."""
    return titled(literal(_one_line(text)), level)


def titled(inline: str, level: int) -> str:
    """A heading line of wikitext that is already safe."""
    marks = "=" * min(max(level, 2), 6)
    return f"{marks} {inline} {marks}"


def grid(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str = "",
    css: str = "wikitable sortable",
) -> str:
    """A native table of cells that are wikitext already: one line a row, so that histories read well."""
    lines = [f'{{| class="{css}"', *title(caption)]
    lines += ["! " + " !! ".join(head)] if head else []
    body = [line for row in rows for line in ("|-", "| " + " || ".join(row))]
    none = ["|-", f'| colspan="{len(head)}" | <i>none</i>'] if head else []
    lines += body or none
    return "\n".join([*lines, "|}"])


def title(caption: str) -> list[str]:
    """A table's caption line of wikitext that is already safe; none for ''."""
    narrow = "white-space:nowrap" if len(caption) <= _SHORT else _CAPTION
    return [f'|+ style="text-align:left;{narrow}" | {caption}'] if caption else []


def style(text: str) -> str:
    """The style of a table's cell that shows the text; '' for none."""
    return _BREAKS if _UNBROKEN.search(text) else ""


def _styled(inline: str, text: str) -> str:
    """A cell of wikitext that is already safe, which shows the text."""
    css = style(text)
    return f'style="{css}" | {inline}' if css else inline


def table(value: Table, *, longest: int = LONG) -> str:
    """A table: sortable, units in the header, numbers to the right, longer ones collapsed."""
    size = f" ({len(value.rows)} rows)" if len(value.rows) > longest else ""
    return grid(
        [literal(_heading(column)) for column in value.columns],
        [[cell(v, c) for v, c in zip(row, value.columns, strict=True)] for row in value.rows],
        caption=literal(value.title) + size,
        css="wikitable sortable" + (" mw-collapsible mw-collapsed" if size else ""),
    )


def cell(value: Cell, column: Column) -> str:
    """A cell's attributes and text; a humanised number keeps its exact value for sorting."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        text = human(value, column.unit)
        return _styled(literal(text), text)
    shown = human(value, column.unit)
    exact = f' data-sort-value="{value}"' if column.unit == "bytes" or "," in shown else ""
    return f'style="text-align:right"{exact} | {shown}'


def checks(values: Sequence[Check]) -> str:
    """Checks as a table: state in word and icon, name, expected, seen, rows, how to see it again."""
    head = ["State", "Check", "Expected", "Seen", "Answers", "See it again"]
    rows = [
        [
            _state(check.holds, f"{check.icon} {check.state}"),
            _styled(code(check.name), check.name),
            _styled(literal(check.expected), check.expected),
            _styled(literal(check.seen), check.seen),
            literal(", ".join(check.rows)),
            _styled(code(check.again), check.again),
        ]
        for check in values
    ]
    held = sum(check.holds for check in values)
    size = f"{held} of {counted(len(values), 'check', 'hold')}"
    long = " mw-collapsible mw-collapsed" if len(values) > LONG and held == len(values) else ""
    return grid(head, rows, caption=size, css=f"wikitable sortable{long}")


def commands(values: Sequence[Command]) -> str:
    """The commands of an action, folded: each with its exit status and duration."""
    lines = [f"{item.command}  # {item.status}, {item.seconds:.2f} s" for item in values]
    count = f"{len(values)} command{'' if len(values) == 1 else 's'}"
    return folded(count, pre("\n".join(lines)))


def result(value: Result[Any]) -> str:
    """A result: its summary, its checks, its tables, its commands folded, and whence it comes."""
    parts = [f"'''{literal(value.summary)}'''"]
    parts += [checks(value.checks)] if value.checks else []
    parts += [table(item) for item in value.tables]
    parts += [commands(value.commands)] if value.commands else []
    changed = "changed" if value.changed else "unchanged"
    origin = f"{value.action} · {changed} · {value.seconds:.2f} s · run {value.run}"
    return "\n\n".join([*parts, f"<small>{literal(origin)}</small>"])


def image(
    file: str, *, alt: str, caption: str = "", framed: bool = True, target: str | None = None,
    width: int = 0,
) -> str:  # fmt: skip
    """An uploaded picture at most :data:`WIDTH` (or ``width``) wide; a click opens it whole, or ``target``.

    One that is ``framed`` stands by itself with its caption below; another one within a line. The
    caption stands in italics, so that no caption is ever read as an option (``left``, ``thumb``).
    """
    parts = [
        f"File:{file}",
        *(("thumb", "none") if framed else ("frameless",)),
        f"{min(width or WIDTH, WIDTH)}px",
    ]
    parts += [f"link={target}"] if target is not None else []
    parts += [f"alt={literal(_one_line(alt))}"]
    text = literal(_one_line(caption))
    return "[[" + "|".join([*parts, f"<i>{text}</i>"] if text else parts) + "]]"


def _referred(match: re.Match[str]) -> str:
    """A character as its reference."""
    return f"&#{ord(match[0])};"


def _reference(match: re.Match[str]) -> str:
    """A risky character as the reference that :func:`literal` completes; most others are no accents."""
    harmless = ord(match[0]) > 0x2FF and not unicodedata.combining(match[0])
    return match[0] if harmless else f"\0{ord(match[0])};"


def _state(good: bool, text: str) -> str:
    return f'style="background:{"#dff3e4" if good else "#fbdcd9"}" | {text}'


def _heading(column: Column) -> str:
    return column.name if column.unit == "bytes" else column.heading


def _one_line(text: str) -> str:
    return " ".join(clean(text).split())
