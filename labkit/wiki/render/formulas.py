"""Formulas in TeX as drawings, by matplotlib's own reader of TeX: no service, no other program. Pure.

It reads most of what a report needs (fractions, roots, sums, Greek, fonts, fences); what it does not
(matrices, macros) gives None, and whoever shows the formula shows its source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser, VectorParse
    from matplotlib.path import Path

#: Ems of the text around it that an em of a formula takes: its letters are smaller than the text's.
SCALE = 1.15
#: Longer formulas are shown as their source.
LONGEST = 2000
#: Units of a drawing in an em, the gaps between lines and pieces, and the room around it.
_EM, _LEAD, _ROOM = 100.0, 45.0, 4.0
#: SVG's letters for the kinds of a path's segments, by matplotlib's numbers.
_KINDS = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
#: TeX's words that are known by another name, or not needed.
_WORDS = {
    r"\le": r"\leq", r"\ge": r"\geq", r"\lvert": "|", r"\rvert": "|", r"\lVert": r"\|",
    r"\rVert": r"\|", r"\implies": r"\Longrightarrow", r"\iff": r"\Longleftrightarrow",
    r"\tfrac": r"\frac", r"\land": r"\wedge", r"\lor": r"\vee", r"\displaystyle": "",
    r"\textstyle": "", r"\nonumber": "", r"\notag": "", r"\!": "", r"\limits": "",
    r"\bigl": "", r"\bigr": "", r"\textrm": r"\mathrm", r"\textbf": r"\mathbf",
    r"\textit": r"\mathit", r"\bm": r"\mathbf", r"\boldsymbol": r"\mathbf",
}  # fmt: skip
#: Operators with limits, after which matplotlib leaves no room.
_OPERATOR = re.compile(r"(\\(?:sum|prod)(?:\s*[_^]\s*(?:\{[^{}]*\}|\w))+)")
_ENVIRONMENT = re.compile(
    r"\s*\\begin\{(align|aligned|gather|gathered|equation|split|multline)(\*?)\}(.*)\\end\{\1\2\}\s*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Drawing:
    """A formula's outlines, as SVG's path data, and its size in ems; ``depth`` reaches below the line."""

    path: str
    width: float
    height: float
    depth: float


@dataclass(frozen=True)
class _Piece:
    """A part of a formula: its outline's points and kinds, and its size in units."""

    outline: Path
    width: float
    height: float
    depth: float


@lru_cache(maxsize=512)
def draw(tex: str, *, display: bool = False) -> Drawing | None:
    """The formula's drawing, its fractions large in ``display``; None when it cannot be read."""
    try:
        rows = [[_piece(cell) for cell in row] for row in _rows(tex, display)]
    except (ValueError, RuntimeError, KeyError, IndexError, AttributeError, TypeError):
        return None  # whatever matplotlib's reader meets in a text that is not its TeX
    if not any(piece for row in rows for piece in row):
        return None
    return _laid_out(rows)


def svg(drawing: Drawing, *, em: float = 0.0, attributes: str = "") -> str:
    """The drawing as an SVG element in the colour of the text around it; ``attributes`` are its own.

    Its size is in ems, or in pixels where ``em`` says how many an em has.
    """
    across, down = (round(n * _EM, 2) for n in (drawing.width, drawing.height))
    unit, scale = ("px", em) if em else ("em", SCALE)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg"{attributes} width="{drawing.width * scale:.3f}{unit}"'
        f' height="{drawing.height * scale:.3f}{unit}" viewBox="0 0 {across:g} {down:g}">'
        f'<path fill="currentColor" d="{drawing.path}"/></svg>'
    )


def _rows(tex: str, display: bool) -> list[list[str]]:
    """The lines of a formula, each divided where its neighbours are to be aligned."""
    if len(tex) > LONGEST or re.search(r"[\x00-\x08\x0b-\x1f\x7f$#]", tex):
        raise ValueError(tex)
    if not tex.isascii() and not {ord(c) for c in tex if ord(c) > 127} <= _glyphs():
        raise ValueError(tex)  # it would be drawn with another character in its place
    inner = _ENVIRONMENT.fullmatch(tex)
    if inner is None:
        return [[_known(tex, display)]]
    lines = re.split(r"\\\\(?:\[[^\]]*\])?", inner[3])
    return [
        [_known(cell, True) for cell in re.split(r"(?<!\\)&", line)]
        for line in lines
        if line.strip()
    ]


def _known(tex: str, display: bool) -> str:
    """The same in the words that matplotlib knows."""
    bare = re.sub(r"\\(?:label|tag)\*?\{[^}]*\}", "", tex)
    said = re.sub(r"\\(?:[A-Za-z]+|!)", lambda word: _WORDS.get(word[0], word[0]), bare)
    halves = re.sub(r"\\(d?frac)\s*(\w)\s*(\w)", r"\\\1{\2}{\3}", said)
    halves = _OPERATOR.sub(r"\1\\,", halves)
    large = re.sub(r"\\frac(?![A-Za-z])", r"\\dfrac", halves) if display else halves
    return " ".join(large.split())


def _piece(tex: str) -> _Piece | None:
    """One piece's outline; None for an empty one."""
    from matplotlib.textpath import TextPath

    if not tex:
        return None
    text = f"${tex}$"
    size = _reader().parse(text, 72, _font())
    outline = TextPath((0, 0), text, size=_EM, prop=_font())
    return _Piece(outline, float(size.width), float(size.height), float(size.depth))


@cache
def _reader() -> MathTextParser[VectorParse]:
    from matplotlib.mathtext import MathTextParser

    return MathTextParser("path")


@cache
def _font() -> FontProperties:
    from matplotlib.font_manager import FontProperties

    return FontProperties(size=_EM, math_fontfamily="stix")


@cache
def _glyphs() -> frozenset[int]:
    """The characters that the formulas' font has."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("STIXGeneral")).get_charmap())


def _laid_out(rows: list[list[_Piece | None]]) -> Drawing:
    """The pieces in lines; in every pair of columns the first ends where the second begins."""
    columns = max(map(len, rows))
    wide = [max((row[n].width for row in rows if n < len(row) and row[n]), default=0.0) for n in range(columns)]  # type: ignore[union-attr]  # fmt: skip
    starts = [sum(wide[:n]) + 2 * _LEAD * (n // 2) for n in range(columns)]
    outlines, top, depth = [], _ROOM, 0.0
    for row in rows:
        there = [piece for piece in row if piece]
        if not there:
            continue
        rise = max(piece.height - piece.depth for piece in there)
        depth = max(piece.depth for piece in there)
        for n, piece in enumerate(row):
            if piece:
                slack = wide[n] - piece.width if columns > 1 and n % 2 == 0 else 0.0
                outlines.append(_outline(piece, _ROOM + starts[n] + slack, top + rise))
        top += rise + depth + _LEAD
    height = top - _LEAD + _ROOM
    width = starts[-1] + wide[-1] + 2 * _ROOM
    below = depth + _ROOM if len(rows) == 1 else height / 2
    return Drawing("".join(outlines), width / _EM, height / _EM, below / _EM)


def _outline(piece: _Piece, x: float, y: float) -> str:
    """SVG's path data of a piece whose line is at ``y`` from the top."""
    shown = []
    for points, kind in piece.outline.iter_segments(simplify=False, curves=True):
        pairs = zip(points[::2], points[1::2], strict=True)
        numbers = " ".join(f"{x + a:.1f} {y - b:.1f}" for a, b in pairs)
        shown.append(_KINDS[int(kind)] + ("" if _KINDS[int(kind)] == "Z" else numbers))
    return "".join(shown)
