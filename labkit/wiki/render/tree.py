"""The document tree: what a notebook shows, as plain values (pieces of a line, parts of a page).

Markdown, HTML, terminal output and a cell's outputs are read into this tree;
:mod:`labkit.wiki.render.writing` writes it as wikitext, :mod:`labkit.report.site.hypertext` as HTML. All
texts in it are plain characters: the writers escape them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from labkit.core.result import Figure, Result
from labkit.wiki.render.pictures import Picture

Emphasis = Literal["em", "strong", "s", "u", "sub", "sup", "small", "kbd", "mark"]
Side = Literal["", "left", "center", "right"]


@dataclass(frozen=True)
class Text:
    """Characters."""

    text: str


@dataclass(frozen=True)
class Break:
    """A line's end within a paragraph."""


@dataclass(frozen=True)
class Code:
    """Code within a line."""

    text: str


@dataclass(frozen=True)
class Styled:
    """Pieces with emphasis; ``name`` is the HTML element's."""

    name: Emphasis
    line: Line


@dataclass(frozen=True)
class Link:
    """A link, its address as it was written: another page's, ``#a heading``'s, or a file's."""

    address: str
    line: Line


@dataclass(frozen=True)
class Image:
    """A picture; None where it is elsewhere (at ``address``)."""

    alt: str
    picture: Picture | None
    address: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Formula:
    """Mathematics in TeX, without its dollar signs; ``display`` when it stands by itself."""

    tex: str
    display: bool = False


Piece = Text | Break | Code | Styled | Link | Image | Formula
Line = tuple[Piece, ...]


@dataclass(frozen=True)
class Heading:
    """A heading; ``level`` is the one that its author wrote, from 1."""

    level: int
    line: Line


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; one that holds nothing but a picture or a formula shows it by itself."""

    line: Line


@dataclass(frozen=True)
class Source:
    """A block of source code; ``language`` is '' when it is not known."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Quote:
    """A quotation."""

    parts: Parts


@dataclass(frozen=True)
class Listing:
    """A list, numbered from ``start``; None for bullets. An item is its parts."""

    items: tuple[Parts, ...]
    start: int | None = None


@dataclass(frozen=True)
class Cell:
    """A table's cell; ``across`` and ``down`` are the columns and rows that it takes."""

    line: Line
    head: bool = False
    side: Side = ""
    across: int = 1
    down: int = 1


@dataclass(frozen=True)
class Grid:
    """A table whose first ``head`` rows are its header; ``size`` is said with the caption.

    ``numeric`` are the columns, from 0, that hold numbers.
    """

    rows: tuple[tuple[Cell, ...], ...]
    head: int = 1
    caption: str = ""
    size: str = ""
    sortable: bool = False
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Rule:
    """A line across."""


@dataclass(frozen=True)
class Fold:
    """Parts that are folded under a label."""

    label: str
    parts: Parts


@dataclass(frozen=True)
class Run:
    """Characters that a terminal shows in one style; ``css`` is '' for none."""

    text: str
    css: str = ""


@dataclass(frozen=True)
class Screen:
    """A program's output, line by line; ``stream`` is its destination."""

    lines: tuple[tuple[Run, ...], ...]
    stream: Literal["", "stderr", "error"] = ""

    @property
    def text(self) -> str:
        """The characters alone."""
        return "\n".join("".join(run.text for run in line) for line in self.lines)

    @property
    def coloured(self) -> bool:
        """Whether anything in it has a style."""
        return any(run.css for line in self.lines for run in line)


@dataclass(frozen=True)
class Shown:
    """A result or a figure of labkit's own; ``image`` is the figure's picture where the output held it."""

    value: Result[Any] | Figure
    image: Picture | None = None


Part = Heading | Paragraph | Source | Quote | Listing | Grid | Rule | Fold | Screen | Shown
Parts = tuple[Part, ...]


def pieces(line: Iterable[Piece]) -> Iterator[Piece]:
    """A line's pieces, and the pieces in them."""
    for piece in line:
        yield piece
        if isinstance(piece, (Styled, Link)):
            yield from pieces(piece.line)


def lines(parts: Iterable[Part]) -> Iterator[Line]:
    """All lines of these parts and of the parts in them."""
    for part in parts:
        match part:
            case Heading(_, line) | Paragraph(line):
                yield line
            case Quote(inner) | Fold(_, inner):
                yield from lines(inner)
            case Listing(items):
                yield from (line for item in items for line in lines(item))
            case Grid(rows):
                yield from (cell.line for row in rows for cell in row)


def plain(line: Iterable[Piece]) -> str:
    """The characters of a line's pieces."""
    return "".join(_characters(piece) for piece in pieces(line))


def _characters(piece: Piece) -> str:
    match piece:
        case Text(text) | Code(text) | Image(alt=text) | Formula(tex=text):
            return text
    return " " if isinstance(piece, Break) else ""


def links(parts: Iterable[Part]) -> Iterator[str]:
    """The addresses of all links."""
    inside = (piece for line in lines(parts) for piece in pieces(line))
    return (piece.address for piece in inside if isinstance(piece, Link))


def unheaded(parts: Iterable[Part]) -> Parts:
    """The same parts, headings among them as paragraphs that stand out."""
    return tuple(
        Paragraph((Styled("strong", part.line),)) if isinstance(part, Heading) else part
        for part in parts
    )


def slug(text: str) -> str:
    """A heading's text, or a link's fragment, as both JupyterLab's and other renderers' links meet it:
    lower case, anything but letters and digits a hyphen."""
    return re.sub(r"\W+", "-", unquote(text).lower()).strip("-")


def is_alone(line: Line) -> bool:
    """Whether a paragraph is a picture or a formula by itself."""
    match line:
        case (Image(),) | (Formula(_, True),):
            return True
    return False
