"""What a program wrote to a terminal, read into the document tree. Pure.

rich reads the colours (ECMA-48); they are shown on a white page, always legible.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from rich.ansi import AnsiDecoder
from rich.color import ColorSystem
from rich.style import Style
from rich.terminal_theme import TerminalTheme

from labkit.display import counted, shown
from labkit.wiki.render.tree import Fold, Parts, Run, Screen

#: Escape sequences (ECMA-48): control sequences, operating system commands, two-character ones.
_ESCAPE = re.compile(
    r"\x1b(?:\[([0-?]*)[ -/]*([@-~])|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)"
)
#: More lines than this are folded; more than the limit, in lines and in characters, are left out.
LONG, LIMIT, CHARACTERS = 40, 2000, 200_000
#: A line is shown up to this length.
LINE = 5000

#: The eight colours of characters, dark enough for a white page; every other one is shown as the nearest of them.
_INK, _FAINT, _PAGE = (0x20, 0x21, 0x22), (0x5F, 0x63, 0x68), (0xF8, 0xF9, 0xFA)
_INKS = TerminalTheme(
    _PAGE, _INK,
    [(0x24, 0x29, 0x2F), (0xB3, 0x26, 0x1E), (0x1A, 0x6B, 0x2F), (0x7A, 0x53, 0x00),
     (0x0B, 0x57, 0xD0), (0x8B, 0x2F, 0x97), (0x00, 0x68, 0x7A), _FAINT],
)  # fmt: skip
#: What stands on any colour is marked with this one, on which all of them can be read.
_MARKED = "#fff3c4"

Stream = Literal["", "stderr", "error"]


def plain(text: str) -> str:
    """The final text on the screen, without escape sequences and overwritten lines."""
    return _settled(_ESCAPE.sub("", text))


def read(text: str, stream: Stream = "") -> Parts:
    """Reads a terminal's text with its colours; a long text is folded, the longest are cut."""
    lines = _settled(_ESCAPE.sub(_only_styles, text)).rstrip("\n").split("\n")
    if not any(lines):
        return ()
    screen = Screen(tuple(_runs(_cut(lines))), stream)
    label = {"": "output", "stderr": "standard error", "error": "traceback"}[stream]
    count = len(lines)
    return (Fold(f"{count} lines of {label}", (screen,)),) if count > LONG else (screen,)


def _only_styles(match: re.Match[str]) -> str:
    return match[0] if match[2] == "m" else ""


def _settled(text: str) -> str:
    """Applies carriage returns and backspaces: an overwritten line has its last text."""
    lines = text.replace("\r\n", "\n").split("\n")
    last = (line.rstrip("\r").rpartition("\r")[2] for line in lines)
    return "\n".join(_erased(line) if "\b" in line else line for line in last)


def _erased(line: str) -> str:
    """The line after its backspaces, each of which takes the character before it."""
    kept: list[str] = []
    for piece in re.findall(r"\x1b\[[0-?]*[ -/]*m|.", line, re.DOTALL):
        if piece != "\b":
            kept.append(piece)
            continue
        last = next((n for n in range(len(kept) - 1, -1, -1) if len(kept[n]) == 1), None)
        if last is not None:
            del kept[last]
    return "".join(kept)


def _cut(lines: list[str]) -> list[str]:
    """The lines' beginning and end, where there are too many of them, or too long ones."""
    short, half = [_shortened(line) for line in lines], LIMIT // 2
    while sum(map(len, [*short[:half], *short[half:][-half:]])) > CHARACTERS:
        half //= 2
    if len(short) <= 2 * half:
        return short
    return [*short[:half], f"… {counted(len(short) - 2 * half, 'line')} left out …", *short[-half:]]


def _shortened(line: str) -> str:
    """A line of at most :data:`LINE` characters, that ends in no half escape sequence."""
    if len(line) <= LINE:
        return line
    kept = re.sub(r"\x1b\[?[0-?]*$", "", line[:LINE])
    return f"{kept}\x1b[0m … {counted(len(line) - LINE, 'character')} left out …"


def _runs(lines: list[str]) -> Iterator[tuple[Run, ...]]:
    """Each line in pieces of one style; a style lasts until another one is set."""
    decoder = AnsiDecoder()
    for line in lines:
        text = decoder.decode_line("\x1b".join(map(shown, line.split("\x1b"))))
        runs, place = [], 0
        for start, end, style in text.spans:
            runs += [Run(text.plain[place:start]), Run(text.plain[start:end], css(style))]  # type: ignore[arg-type]
            place = end
        yield tuple(run for run in (*runs, Run(text.plain[place:])) if run.text)


def css(style: Style) -> str:
    """A style in CSS, in colours that can be read on a white page."""
    ink: tuple[int, int, int] | None = _FAINT if style.dim else None
    if style.color and not style.color.is_default:
        ink = style.color.downgrade(ColorSystem.STANDARD).get_truecolor(_INKS)
    lines = {"underline": style.underline or style.underline2, "line-through": style.strike}
    drawn = " ".join(name for name, there in lines.items() if there)
    return ";".join(
        [
            *([f"color:#{bytes(ink).hex()}"] if ink else []),
            *([f"background-color:{_MARKED}"] if style.bgcolor or style.reverse else []),
            *(["font-weight:bold"] if style.bold else []),
            *(["font-style:italic"] if style.italic else []),
            *([f"text-decoration:{drawn}"] if drawn else []),
        ]
    )
