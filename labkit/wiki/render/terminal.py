"""What a program wrote to a terminal, read into :mod:`labkit.wiki.render.tree`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from labkit.display import counted
from labkit.wiki.render.colours import Colour, css, of_16, of_256
from labkit.wiki.render.tree import Fold, Parts, Run, Screen

#: Escape sequences (ECMA-48): control sequences, operating system commands, two-character ones.
_ESCAPE = re.compile(
    r"\x1b(?:\[([0-?]*)[ -/]*([@-~])|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)"
)
#: More lines than this are folded; more than the limit, in lines and in characters, are left out.
LONG, LIMIT, CHARACTERS = 40, 2000, 200_000
#: A line is shown up to this length.
LINE = 5000

Stream = Literal["", "stderr", "error"]


@dataclass(frozen=True)
class _Pen:
    """How a terminal writes now (ECMA-48, section 8.3.117)."""

    ink: Colour | None = None
    ground: Colour | None = None
    bold: bool = False
    faint: bool = False
    italic: bool = False
    underlined: bool = False
    struck: bool = False
    inverse: bool = False

    @property
    def css(self) -> str:
        """The same as a style."""
        words = [("bold", "font-weight:bold"), ("italic", "font-style:italic")]
        lines = [("underlined", "underline"), ("struck", "line-through")]
        drawn = " ".join(value for name, value in lines if getattr(self, name))
        return ";".join(
            [
                *css(self.ink, self.ground, inverse=self.inverse, faint=self.faint),
                *(value for name, value in words if getattr(self, name)),
                *([f"text-decoration:{drawn}"] if drawn else []),
            ]
        )


#: What a code sets; codes that need more than their number are not here.
_CODES: dict[int, dict[str, object]] = {
    1: {"bold": True}, 2: {"faint": True}, 3: {"italic": True}, 4: {"underlined": True},
    7: {"inverse": True}, 9: {"struck": True}, 21: {"underlined": True},
    22: {"bold": False, "faint": False}, 23: {"italic": False}, 24: {"underlined": False},
    27: {"inverse": False}, 29: {"struck": False}, 39: {"ink": None}, 49: {"ground": None},
}  # fmt: skip


def plain(text: str) -> str:
    """The text as it stands on the screen in the end: no escape sequences, overwritten lines gone."""
    return _settled(_ESCAPE.sub("", text))


def read(text: str, stream: Stream = "") -> Parts:
    """The text as a terminal shows it, in its colours; long ones folded, the longest cut."""
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
    """Carriage returns and backspaces carried out: what a line was overwritten with is what it says."""
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
    short = [_shortened(line) for line in lines]
    if len(short) <= LIMIT and sum(map(len, short)) <= CHARACTERS:
        return short
    first = _within(short)
    last = _within(short[len(first) :][::-1])[::-1]
    return [*first, f"… {counted(len(short) - len(first) - len(last), 'line')} left out …", *last]


def _shortened(line: str) -> str:
    """A line of at most :data:`LINE` characters, that ends in no half escape sequence."""
    if len(line) <= LINE:
        return line
    kept = re.sub(r"\x1b\[?[0-?]*$", "", line[:LINE])
    return f"{kept}\x1b[0m … {counted(len(line) - LINE, 'character')} left out …"


def _within(lines: list[str]) -> list[str]:
    """As many of the lines as half of what is shown holds."""
    size = 0
    for count, line in enumerate(lines[: LIMIT // 2]):
        size += len(line)
        if size > CHARACTERS // 2:
            return lines[:count]
    return lines[: LIMIT // 2]


def _runs(lines: list[str]) -> Iterator[tuple[Run, ...]]:
    """Each line in pieces of one style; a style lasts until another one is set."""
    pen = _Pen()
    for line in lines:
        found, place = [], 0
        for match in _ESCAPE.finditer(line):
            found.append(Run(line[place : match.start()], pen.css))
            pen, place = _set(pen, match[1] or ""), match.end()
        found.append(Run(line[place:], pen.css))
        yield tuple(run for run in found if run.text)


def _set(pen: _Pen, codes: str) -> _Pen:
    """The pen after a sequence that sets it (SGR); unknown codes change nothing."""
    numbers = iter([int(word) if word.isdecimal() else 0 for word in _words(codes)])
    for number in numbers:
        if number == 0:
            pen = _Pen()
        elif number in (38, 48):
            colour = _extended(numbers)
            if colour:
                pen = replace(pen, ink=colour) if number == 38 else replace(pen, ground=colour)
        elif number in _CODES:
            pen = replace(pen, **_CODES[number])  # type: ignore[arg-type]
        elif number // 10 in (3, 9) and number % 10 < 8:
            pen = replace(pen, ink=of_16(number % 10, bright=number >= 90))
        elif number // 10 in (4, 10) and number % 10 < 8:
            pen = replace(pen, ground=of_16(number % 10, bright=number >= 100, ground=True))
    return pen


def _words(codes: str) -> list[str]:
    """The numbers of a sequence; colons stand between the parts of one (ITU-T T.416)."""
    words: list[str] = []
    for code in codes.split(";"):
        parts = code.split(":")
        if parts[0] in ("38", "48"):
            words += [*parts[:2], *parts[3:]] if len(parts) > 5 else parts  # without a colour space
        else:
            words.append("24" if parts[:2] == ["4", "0"] else parts[0])
    return words


def _extended(numbers: Iterator[int]) -> Colour | None:
    """A colour of 256, or a true one (ITU-T T.416, section 13.1.8)."""
    kind = next(numbers, 0)
    if kind == 5:
        return of_256(next(numbers, 0))
    if kind == 2:
        red, green, blue = (min(next(numbers, 0), 255) for _ in range(3))
        return red, green, blue
    return None
