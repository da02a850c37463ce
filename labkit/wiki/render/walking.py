"""What can be asked of a tree (:mod:`labkit.wiki.render.tree`): its words, its lines, its links. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

from labkit.wiki.render.tree import (
    Break,
    Code,
    Fold,
    Formula,
    Grid,
    Heading,
    Image,
    Line,
    Link,
    Listing,
    Paragraph,
    Part,
    Parts,
    Piece,
    Quote,
    Styled,
    Terms,
    Text,
)


def plain(line: Iterable[Piece]) -> str:
    """The characters of a line's pieces."""
    return "".join(_characters(piece) for piece in line)


def words(parts: Iterable[Part]) -> str:
    """The words of these parts, in one line."""
    return " ".join(plain(line).strip() for line in lines(parts))


def _characters(piece: Piece) -> str:
    match piece:
        case Text(text) | Code(text):
            return text
        case Styled(_, line) | Link(_, line):
            return plain(line)
        case Image(alt=text) | Formula(tex=text):
            return text
    return " " if isinstance(piece, Break) else ""


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


def links(parts: Iterable[Part]) -> Iterator[str]:
    """The addresses of all links."""
    for line in lines(parts):
        yield from _addresses(line)


def lines(parts: Iterable[Part]) -> Iterator[Line]:
    """All lines of these parts and of the parts in them."""
    for part in parts:
        match part:
            case Heading(_, line) | Paragraph(line):
                yield line
            case Quote(inner) | Fold(_, inner):
                yield from lines(inner)
            case Listing(items):
                yield from (line for item in items for line in lines(item.parts))
            case Terms(entries):
                for term, meaning in entries:
                    yield term
                    yield from lines(meaning)
            case Grid(rows):
                yield from (cell.line for row in rows for cell in row)


def _addresses(line: Line) -> Iterator[str]:
    for piece in line:
        match piece:
            case Link(address, inner):
                yield address
                yield from _addresses(inner)
            case Styled(_, inner):
                yield from _addresses(inner)
