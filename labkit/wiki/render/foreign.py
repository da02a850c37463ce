"""HTML that labkit did not write, read into :mod:`labkit.wiki.render.tree`: texts, lists, tables. Pure.

Nothing of it is passed on as it is. Scripts, styles, forms and frames are left out; elements that are
not known leave their text behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from labkit.wiki.render import grids, images
from labkit.wiki.render.elements import Element, parsed
from labkit.wiki.render.images import Picture
from labkit.wiki.render.tree import (
    Break,
    Cell,
    Code,
    Emphasis,
    Fold,
    Heading,
    Image,
    Item,
    Line,
    Link,
    Listing,
    Paragraph,
    Part,
    Parts,
    Piece,
    Quote,
    Rule,
    Source,
    Styled,
    Terms,
    Text,
)
from labkit.wiki.render.walking import plain

#: Elements within a line, by the style that they are shown in.
STYLES: dict[str, Emphasis] = {
    "em": "em", "i": "em", "var": "em", "cite": "em", "dfn": "em", "strong": "strong", "b": "strong",
    "s": "s", "del": "s", "strike": "s", "u": "u", "ins": "u", "sub": "sub", "sup": "sup",
    "small": "small", "kbd": "kbd", "mark": "mark",
}  # fmt: skip
_CODES = ("code", "samp", "tt")
_INLINE = {*STYLES, *_CODES, "a", "br", "wbr", "img", "span", "abbr", "q", "font", "label", "time", "bdi"}  # fmt: skip
_BLOCKS = {"p", "div", "section", "article", "header", "footer", "main", "figure", "figcaption", "center",
           "ul", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tfoot", "tr", "td", "th",
           "caption", "colgroup", "col", "pre", "blockquote", "hr", "details", "summary",
           "h1", "h2", "h3", "h4", "h5", "h6"}  # fmt: skip
_TAG = re.compile(r"<\s*(/?)\s*([A-Za-z][A-Za-z0-9]*)((?:\s[^<>]*)?)/?>")


def read(html: str, *, find: Callable[[str], Picture | None] | None = None) -> Parts:
    """The parts that the HTML shows; ``find`` gives pictures that are not in it itself."""
    return _Reader(find or (lambda address: None)).parts(parsed(html))


def text(html: str) -> str:
    """The characters that the HTML shows, in one line."""
    return " ".join(parsed(html).text().split())


def is_known(html: str) -> bool:
    """Whether it has elements of HTML alone, and none that acts."""
    names = {name.lower() for name in re.findall(r"<\s*/?\s*([A-Za-z][\w:-]*)", html)}
    return bool(names) and names <= _INLINE | _BLOCKS


class Pairs:
    """A line in the making: tags of HTML that come in pairs become styles, all others text."""

    def __init__(self, find: Callable[[str], Picture | None] | None = None) -> None:
        self._find = find or (lambda address: None)
        self._open: list[tuple[str, str, list[Piece]]] = [("", "", [])]

    def add(self, *pieces: Piece) -> None:
        """Puts pieces at the line's end."""
        self._open[-1][2].extend(pieces)

    def tag(self, written: str) -> None:
        """Takes a tag, as it was written."""
        found = _TAG.fullmatch(written)
        name = found[2].lower() if found else ""
        if written.startswith("<!--") or name == "wbr":
            return
        if name in ("br", "img"):
            self.add(*_Reader(self._find).line(list(parsed(written).inside)))
        elif found and not found[1] and name in _INLINE:
            self._open.append((name, written, []))
        elif found and found[1] and self._open[-1][0] == name:
            _, opening, inside = self._open.pop()
            self.add(*_closed(name, opening, joined(inside)))
        else:
            self.add(Text(written))

    def line(self) -> Line:
        """The pieces; a tag that nothing closed is text."""
        while len(self._open) > 1:
            _, written, inside = self._open.pop()
            self.add(Text(written), *inside)
        return joined(self._open[0][2])


def joined(pieces: list[Piece]) -> Line:
    """The same pieces, neighbouring texts put together and empty ones left out."""
    line: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Text) and line and isinstance(line[-1], Text):
            line[-1] = Text(line[-1].text + piece.text)
        elif piece != Text(""):
            line.append(piece)
    return tuple(line)


def _styled(name: str, line: Line) -> Piece:
    return Code(plain(line)) if name in _CODES else Styled(STYLES[name], line)


def _closed(name: str, opening: str, line: Line) -> Line:
    """What stands between a pair of tags; those that have no meaning here are left out."""
    if name in STYLES or name in _CODES:
        return (_styled(name, line),)
    given = parsed(opening).elements
    address = given[0].attributes.get("href", "") if given else ""
    return (Link(address, line),) if name == "a" and address else line


def _picture(attributes: dict[str, str], picture: Picture | None) -> Image:
    address = attributes.get("src", "")
    shown = "" if address.startswith("data:") else address
    return Image(attributes.get("alt", ""), picture, shown, attributes.get("title", ""))


@dataclass(frozen=True)
class _Reader:
    """Elements to parts; ``find`` gives the pictures."""

    find: Callable[[str], Picture | None]

    def parts(self, element: Element) -> Parts:
        """What is in an element: blocks as they are, the lines between them as paragraphs."""
        found: list[Part] = []
        waiting: list[Element | str] = []
        for item in [*element.inside, None]:
            if item is None or (isinstance(item, Element) and _is_block(item)):
                line = _trimmed(self.line(waiting))
                found += [Paragraph(line)] if line else []
                waiting = []
                found += self.part(item) if item else ()
            else:
                waiting.append(item)
        return tuple(found)

    def part(self, item: Element) -> Parts:  # noqa: PLR0911 - one line a kind
        """A block element's parts."""
        match item.name:
            case "ul" | "ol":
                items = tuple(Item(self.parts(inner)) for inner in item.elements)
                return (Listing(items, 1 if item.name == "ol" else None),) if items else ()
            case "dl":
                return (Terms(tuple(self.term(inner) for inner in item.elements)),)
            case "table":
                return self.table(item)
            case "pre":
                return (Source(item.text().strip("\n")),)
            case "blockquote":
                return (Quote(self.parts(item)),)
            case "hr":
                return (Rule(),)
            case "details":
                return (self.fold(item),)
            case "h1" | "h2" | "h3" | "h4" | "h5" | "h6":
                line = _trimmed(self.line(item.inside))
                return (Heading(int(item.name[1]), line),) if line else ()
        return self.parts(item)

    def term(self, item: Element) -> tuple[Line, Parts]:
        """An entry of a list of definitions."""
        if item.name == "dt":
            return _trimmed(self.line(item.inside)), ()
        return (), self.parts(item)

    def fold(self, item: Element) -> Fold:
        """A <details> element."""
        label = [inner for inner in item.elements if inner.name == "summary"][:1]
        rest = Element(
            "div", {}, [inner for inner in item.inside if not any(inner is said for said in label)]
        )
        said = " ".join(label[0].text().split()) if label else ""
        return Fold(said or "Details", self.parts(rest))

    def table(self, item: Element) -> Parts:
        """A table; its first rows that hold header cells alone are its header."""
        rows = tuple(tuple(self.cell(cell) for cell in row.elements if cell.name in ("td", "th")) for row in _rows(item))  # fmt: skip
        caption = next((inner for inner in item.elements if inner.name == "caption"), Element(""))
        said = " ".join(caption.text().split())
        frame = "dataframe" in item.attributes.get("class", "")
        return grids.table(rows, caption=said, sortable=frame)

    def cell(self, item: Element) -> Cell:
        """A cell; the blocks in it are lines of it."""
        return Cell(
            _trimmed(self.line(item.inside)), item.name == "th",
            across=_span(item, "colspan"), down=_span(item, "rowspan"),
        )  # fmt: skip

    def line(self, items: list[Element | str]) -> Line:
        """Pieces of a line, blanks in them as one."""
        pieces: list[Piece] = []
        for item in items:
            if isinstance(item, str):
                pieces.append(Text(re.sub(r"[ \t\n\r\f]+", " ", item)))
            else:
                pieces += self.piece(item)
        return joined(pieces)

    def piece(self, item: Element) -> Line:
        """An element within a line; a block there begins a line of its own."""
        inside = self.line(item.inside)
        if item.name == "br":
            return (Break(),)
        if item.name == "img":
            address = item.attributes.get("src", "")
            return (_picture(item.attributes, images.inline(address) or self.find(address)),)
        if item.name in STYLES or item.name in _CODES:
            return (_styled(item.name, inside),) if inside else ()
        if item.name == "a" and "href" in item.attributes:
            return (Link(item.attributes["href"], inside),)
        return (Break(), *inside, Break()) if item.name in _BLOCKS else inside


def _is_block(item: Element) -> bool:
    """Whether it is a block, or wraps one."""
    return item.name in _BLOCKS or any(_is_block(inner) for inner in item.elements)


def _rows(table: Element) -> list[Element]:
    """The rows of a table, not those of a table in it."""
    found = []
    for item in table.elements:
        if item.name in ("thead", "tbody", "tfoot"):
            found += [row for row in item.elements if row.name == "tr"]
        elif item.name == "tr":
            found.append(item)
    return found


def _span(item: Element, name: str) -> int:
    digits = re.match(r"\s*(\d{1,4})", item.attributes.get(name, ""))
    return max(int(digits[1]), 1) if digits else 1


def _trimmed(line: Line) -> Line:
    """The line without blanks and breaks at its ends."""
    pieces = list(line)
    while pieces and (isinstance(pieces[0], Break) or pieces[0] == Text(" ")):
        pieces.pop(0)
    while pieces and (isinstance(pieces[-1], Break) or pieces[-1] == Text(" ")):
        pieces.pop()
    if pieces and isinstance(pieces[0], Text):
        pieces[0] = Text(pieces[0].text.lstrip(" "))
    if pieces and isinstance(pieces[-1], Text):
        pieces[-1] = Text(pieces[-1].text.rstrip(" "))
    return tuple(pieces)
