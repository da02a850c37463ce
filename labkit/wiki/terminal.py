"""What a program wrote to a terminal, as text and as wikitext. Pure."""

from __future__ import annotations

import re

from labkit.wiki import wikitext

#: Escape sequences (ECMA-48): control sequences, operating system commands, two-character ones.
_ESCAPE = re.compile(r"\x1b(?:\[([0-?]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)")
#: The eight colours, dark enough for a white page, and their bright forms.
_COLOURS = (
    "#24292f", "#b3261e", "#1a6b2f", "#7a5300", "#0b57d0", "#8b2f97", "#00687a", "#5f6368",
)  # fmt: skip
#: More lines than this are shown folded, and more than the limit are not shown at all.
LONG, LIMIT = 40, 2000


def plain(text: str) -> str:
    """The text as it stands on the screen in the end: no escape sequences, overwritten lines gone."""
    return _settled(_ESCAPE.sub("", text))


def render(text: str) -> str:
    """The text as a preformatted block, coloured where the program coloured it; long ones folded."""
    lines = _settled(_ESCAPE.sub(_only_colours, text)).rstrip("\n").split("\n")
    count = len(lines)
    if count > LIMIT:
        rest = f"… {count - LIMIT} lines left out …"
        lines = [*lines[: LIMIT // 2], rest, *lines[-LIMIT // 2 :]]
    whole = "\n".join(lines)
    block = _coloured(whole) if "\x1b" in whole else wikitext.pre(whole)
    return wikitext.folded(f"{count} lines of output", block) if count > LONG else block


def _only_colours(match: re.Match[str]) -> str:
    return match[0] if match[2] == "m" else ""


def _settled(text: str) -> str:
    """Carriage returns carried out: what a line was overwritten with is what it says."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def _coloured(text: str) -> str:
    """Lines that begin with a blank, the wiki's preformatted lines in which markup is read."""
    style, lines = "", []
    for line in text.split("\n"):
        pieces, place = [], 0
        for match in _ESCAPE.finditer(line):
            pieces.append(_piece(line[place : match.start()], style))
            style, place = _style(match[1], style), match.end()
        lines.append(" " + "".join([*pieces, _piece(line[place:], style)]))
    return "\n".join(lines)


def _piece(text: str, style: str) -> str:
    if not text:
        return ""
    safe = wikitext.literal(text, begins=False, ends=False)
    return f'<span style="{style}">{safe}</span>' if style else safe


def _style(codes: str, before: str) -> str:
    """The style after a colour sequence (SGR): bold and the sixteen colours; others change nothing."""
    style = dict(item.split(":", 1) for item in before.split(";") if item)
    for word in codes.split(";"):
        number = int(word) if word.isdecimal() else 0
        if number == 0:
            style = {}
        elif number == 1:
            style["font-weight"] = "bold"
        elif number in (38, 48):
            break  # 256 colours and true colour: their numbers mean something else
        elif number == 39:
            style.pop("color", None)
        elif 30 <= number % 60 <= 37:
            style["color"] = _COLOURS[number % 10]
    return ";".join(f"{name}:{value}" for name, value in sorted(style.items()))
