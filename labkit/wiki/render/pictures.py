"""Pictures and formulas as a wiki can show them: checked PNG, JPEG and GIF files, and drawings. Pure.

matplotlib reads formulas in TeX: no service, no other program. It reads most of what a report needs
(fractions, roots, sums, Greek, fonts, fences); a formula with anything else (matrices, macros) has no
drawing, and its source is shown.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.etree import ElementTree

from labkit.wiki.client.protocol import Upload
from labkit.wiki.render import wikitext

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser, VectorParse
    from matplotlib.path import Path

#: The first bytes of each format, its last ones, and the ending of its files.
_FORMATS = {"image/png": (b"\x89PNG\r\n\x1a\n", b"", "png"), "image/jpeg": (b"\xff\xd8\xff", b"\xff\xd9", "jpg"),
            "image/gif": (b"GIF8", b";", "gif")}  # fmt: skip
#: The picture formats, the best first.
MIMES = (*_FORMATS, "image/svg+xml")
#: Pixels across and down that a drawing is painted in at most.
WIDEST, TALLEST = 1760, 8000
#: Pixels a unit of CSS (CSS Values 4, section 6.2).
_UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0}
_SVG = "{http://www.w3.org/2000/svg}svg"
#: Chunks of a PNG that change how it looks, besides the critical ones.
_LOOKS = (b"tRNS", b"pHYs", b"gAMA", b"sRGB")


@dataclass(frozen=True)
class Picture:
    """The bytes of a PNG, JPEG or GIF file, and its name's ending; ``width`` is how wide it is to be
    shown, in pixels, where that is not its own."""

    ending: str
    data: bytes = field(repr=False)
    width: int = 0


def upload(name: str, data: bytes, *, ending: str, text: str) -> Upload:
    """A picture to upload: one name for one content, so that nothing is ever overwritten."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "picture"
    hashed = hashlib.sha256(data).hexdigest()[:16]
    return Upload(name=f"Labkit-{slug}-{hashed}.{ending}", text=wikitext.literal(text), data=data)


def of(mime: str, content: str) -> Picture | None:
    """The picture that a notebook keeps under a MIME type (base64, or SVG's text); None for none.

    A drawing (SVG) is painted as a PNG, so that nothing in it can act.
    """
    if mime == "image/svg+xml":
        return painted(content)
    try:
        return checked(base64.b64decode(content))
    except (binascii.Error, ValueError):
        return None


def checked(data: bytes) -> Picture | None:
    """The picture that these bytes are; None where they are none, or one that is cut off."""
    for start, end, ending in _FORMATS.values():
        if data.startswith(start) and data.endswith(end):
            kept = _without_words(data) if ending == "png" else data
            return Picture(ending, kept) if kept else None
    return None


def inline(address: str) -> Picture | None:
    """The picture in a ``data:`` address, None for any other one."""
    mime, _, content = address.removeprefix("data:").partition(";base64,")
    return of(mime, unquote(content)) if mime in _FORMATS else None


def _without_words(data: bytes) -> bytes:
    """A PNG without its texts, times and profiles (they differ from machine to machine, and a wiki
    refuses a picture with markup in one); b'' when it is damaged (PNG, section 5.3)."""
    kept, place = [data[:8]], 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        kind, chunk = data[place + 4 : place + 8], data[place:end]
        if end > len(data):
            break
        kept += [chunk] if kind[:1].isupper() or kind in _LOOKS else []
        if kind == b"IEND":
            return b"".join(kept)
        place = end
    return b""


# -- drawings ---------------------------------------------------------------------------------


def painted(svg: str, *, pixels: int = 0, fonts: bool = True) -> Picture | None:
    """A drawing as a PNG, at twice its size (``pixels`` wide where given); None where it is no SVG.

    Nothing is fetched or read for it: references to anything outside of it are taken out.
    """
    import resvg_py

    root = _drawing(svg)
    if root is None:
        return None
    width, height = _extent(root)
    across = pixels or round(min(2 * width, WIDEST))
    if not 0 < across * height / width <= TALLEST:
        return None
    text = ElementTree.tostring(root, encoding="unicode")
    try:
        data = resvg_py.svg_to_bytes(
            svg_string=text, width=across, dpi=96.0, skip_system_fonts=not fonts
        )
    except ValueError:
        return None
    made = checked(bytes(data))
    return replace(made, width=round(width)) if made else None


def _drawing(svg: str) -> ElementTree.Element | None:
    """The drawing's elements with no reference to anything outside."""
    if "<!ENTITY" in svg:
        return None
    try:
        root = ElementTree.fromstring(svg)  # noqa: S314 - no entities; a drawing of a notebook's own
    except (ElementTree.ParseError, ValueError):
        return None
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.endswith("href") and not re.match(r"#|data:image/(?:png|jpeg|gif);", value):
                element.attrib[name] = "#"
    return root if root.tag == _SVG else None


def _extent(root: ElementTree.Element) -> tuple[float, float]:
    """The drawing's size in pixels, from its attributes or its view box."""
    box = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", root.get("viewBox", ""))]
    across, down = box[2:4] if len(box) == 4 and min(box[2:]) > 0 else (300.0, 150.0)
    width, height = (_length(root.get(name, "")) for name in ("width", "height"))
    if width or height:
        return width or height * across / down, height or width * down / across
    return across, down


def _length(text: str) -> float:
    """A length in pixels; 0 for a missing or relative one."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    return float(found[1]) * _UNITS.get(found[2], 0.0) if found else 0.0


# -- formulas ---------------------------------------------------------------------------------

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
def formula(tex: str, *, display: bool = False) -> Drawing | None:
    """The formula's drawing, its fractions large in ``display``; None when it cannot be read."""
    try:
        rows = [[_piece(cell) for cell in row] for row in _rows(tex, display)]
    except (ValueError, RuntimeError, KeyError, IndexError, AttributeError, TypeError):
        return None  # matplotlib raises any of these for a text that is not its TeX
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
