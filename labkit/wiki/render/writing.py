"""The document tree as wikitext, and the pictures that it takes. Pure.

Where the wiki's own marks are read in one way alone they are used, so that people can edit what
they read; elsewhere stand the HTML elements that MediaWiki accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import quote

from labkit.core.result import Figure
from labkit.wiki.client.protocol import Features, Upload
from labkit.wiki.render import pictures, tree, wikitext
from labkit.wiki.render.pictures import Picture
from labkit.wiki.render.tree import Formula, Image, Line, Paragraph, Part, Parts, Piece, Text, plain

#: Link targets that are kept as links; every other one leaves its text alone.
SCHEMES = ("http", "https", "mailto")
#: Styles that have wiki marks.
_MARKS = {"em": "''", "strong": "'''"}
#: Styles whose element has another name here, or none that MediaWiki accepts.
_ELEMENTS = {"em": "i", "strong": "b"}
#: A box whose line is its own lower edge (CSS 2.2, section 10.8.1), from which a depth is measured.
_ON_THE_LINE = "display:inline-block;overflow:hidden;line-height:0"
_DISPLAY = "margin:0.8em 0 0.8em 2em"
#: The attributes of what a program wrote, by where to.
_BARS = {
    "": "",
    "stderr": ' title="standard error" style="border-left:3px solid #7a5300"',
    "error": ' title="error" style="border-left:3px solid #b3261e"',
}


@dataclass(frozen=True)
class Place:
    """Where on a wiki a text stands.

    ``least`` is the lowest level of a heading, each of which is one deeper than its author wrote;
    ``link`` gives the wiki's own target (a page, ``#a heading``) for a link's address, None where it
    knows none; ``name`` tells apart the anchors of several texts on one page; ``read`` gives a
    file's content by its path relative to the lab's outputs.
    """

    least: int = 2
    name: str = "text"
    link: Callable[[str], str | None] = lambda address: None
    read: Callable[[str], bytes | None] = lambda path: None
    features: Features = field(default_factory=Features)


@dataclass(frozen=True)
class Written:
    """Wikitext, and the pictures that it shows."""

    text: str
    uploads: tuple[Upload, ...] = ()


def write(parts: Parts, place: Place | None = None) -> Written:
    """The wikitext of a document, its parts divided by empty lines."""
    writer = _Writer(parts, place or Place())
    text = writer.parts(parts)
    return Written(text, tuple(writer.uploads.values()))


def url(address: str) -> str:
    """An address with everything percent-encoded that could end it or be read as markup."""
    whole = quote(address, safe=":/?#@!$&()*+,;=%")  # leaves letters, digits and _.-~ as well
    return (
        whole.replace("~", "%7E")
        .replace("__", "_%5F")
        .replace("&", "&amp;")
        .replace("labkit:", "labkit%3A")
    )


def page_name(target: str) -> str:
    """A page's name, or ``#`` and a heading's text, without what no title may hold."""
    kept = "".join(" " if c in "[]{}|<>#\n" else c for c in target.lstrip("#"))
    return ("#" if target.startswith("#") else ":") + " ".join(kept.split())


def is_outside(address: str) -> bool:
    """Whether a link leads to another site."""
    scheme, _, rest = address.partition(":")
    return scheme.lower() in SCHEMES and bool(rest.strip("/"))


class _Writer:
    """Writes the parts and lines of one document.

    ``uploads`` are the pictures so far, by the names that the text has for them. ``_anchors`` are the
    headings that links lead to, ``_unmarked`` those that have no anchor yet.
    """

    def __init__(self, parts: Parts, place: Place) -> None:
        self.place = place
        self.uploads: dict[str, Upload] = {}
        sought = {tree.slug(a[1:]) for a in tree.links(parts) if a[:1] == "#"}
        heads = {tree.slug(plain(p.line)) for p in parts if isinstance(p, tree.Heading)}
        self._anchors = frozenset(sought & heads)
        self._unmarked = set(self._anchors)

    # -- parts

    def parts(self, parts: Iterable[Part]) -> str:
        """Parts, divided by empty lines."""
        return "\n\n".join(filter(None, map(self.part, parts)))

    def part(self, part: Part) -> str:  # noqa: PLR0911 - one line a kind
        """One part; '' when nothing of it shows."""
        match part:
            case tree.Heading(level, line):
                return self.heading(level, line)
            case Paragraph((Image() as image,)):
                return self.image(image, alone=True)
            case Paragraph((Formula(tex, True),)):
                drawn = self.formula(tex, True)
                return f'<div style="{_DISPLAY}">{drawn}</div>' if drawn else wikitext.pre(tex)
            case Paragraph(line):
                return self.line(line)
            case tree.Source(text, language):
                highlight = self.place.features.highlight
                return wikitext.source(text, language, highlight=highlight) if text.strip("\n") else ""  # fmt: skip
            case tree.Quote(inner):
                return f"<blockquote>\n{self.within(inner)}\n</blockquote>"
            case tree.Listing():
                return self.listing(part)
            case tree.Grid():
                return self.grid(part)
            case tree.Rule():
                return "----"
            case tree.Fold(label, inner):
                return wikitext.folded(label, self.within(inner))
            case tree.Screen():
                return _screen(part)
            case tree.Shown():
                return self.shown(part)

    def heading(self, level: int, line: Line) -> str:
        """A heading, with an anchor where a link of the document leads to it."""
        text = self.line(tuple(piece for piece in line if not isinstance(piece, tree.Break)))
        if not text:
            return ""
        name = tree.slug(plain(line))
        anchor = f'<span id="{self.place.name}-{name}"></span>' if name in self._unmarked else ""
        self._unmarked -= {name}
        return wikitext.titled(anchor + text, max(level + 1, self.place.least))

    def within(self, parts: Parts) -> str:
        """Parts within another one: a section of the page cannot begin there."""
        return self.parts(tree.unheaded(parts))

    def boxed(self, parts: Parts) -> str:
        """Parts within an element of HTML's, where the wiki itself makes no paragraphs."""
        return self.within(parts) if len(parts) == 1 else self.spaced(parts)

    def spaced(self, parts: Iterable[Part]) -> str:
        """Parts with their paragraphs as elements."""
        return "\n\n".join(
            f"<p>{self.line(part.line)}</p>"
            if isinstance(part, Paragraph) and not tree.is_alone(part.line)
            else self.part(part)
            for part in tree.unheaded(parts)
        )

    def listing(self, part: tree.Listing) -> str:
        """A list in the wiki's own form, in HTML's where that cannot hold it."""
        if _is_plain(part):
            return "\n".join(self.items(part, ""))
        numbered = part.start is not None
        tag = "ol" if numbered else "ul"
        opening = f'ol start="{part.start}"' if numbered and part.start != 1 else tag
        items = "\n".join(f"<li>\n{self.boxed(item)}\n</li>" for item in part.items)
        return f"<{opening}>\n{items}\n</{tag}>"

    def items(self, part: tree.Listing, outer: str) -> list[str]:
        """The lines of a plain list, and of those in it."""
        mark = outer + ("*" if part.start is None else "#")
        found = []
        for inner in (inner for item in part.items for inner in item):
            if isinstance(inner, Paragraph):
                found.append(f"{mark} {self.line(inner.line)}")
            elif isinstance(inner, tree.Listing):
                found += self.items(inner, mark)
        return found

    def grid(self, part: tree.Grid) -> str:
        """A table: one line a row, so that histories read well. Long ones are collapsed, and say their size."""
        body = len(part.rows) - part.head
        long = body > wikitext.LONG
        said = " ".join(wikitext.clean(part.caption).split())
        size = part.size if long or not body else ""
        both = wikitext.literal(f"{said} ({size})" if said and size else said or size)
        classes = ["wikitable", *["sortable"] * part.sortable, *["mw-collapsible", "mw-collapsed"] * long]  # fmt: skip
        lines = [f'{{| class="{" ".join(classes)}"', *wikitext.title(both)]
        for n, row in enumerate(part.rows):
            lines += ["|-"] if n else []
            lines += [self.head(row, part)] if n < part.head else self.row(row)
        return "\n".join([*lines, "|}"])

    def head(self, row: Sequence[tree.Cell], part: tree.Grid) -> str:
        """A header row; a column of numbers is sorted by number, with missing ones in it, too."""
        cells, column = [], 0
        for cell in row:
            number = part.sortable and column in part.numeric and cell.across == 1
            cells.append(self.cell(cell, 'data-sort-type="number"' if number else ""))
            column += cell.across
        return "! " + " !! ".join(cells)

    def row(self, row: Sequence[tree.Cell]) -> list[str]:
        """A row: the header cells that it begins with, and the others, each on a line."""
        count = next((n for n, cell in enumerate(row) if not cell.head), len(row))
        heads = " !! ".join(self.cell(cell, 'scope="row"') for cell in row[:count])
        cells = " || ".join(self.cell(cell) for cell in row[count:])
        return [*([f"! {heads}"] if count else []), *([f"| {cells}"] if row[count:] else [])]

    def cell(self, cell: tree.Cell, more: str = "") -> str:
        """A cell's attributes and text."""
        side = f"text-align:{cell.side}" if cell.side else ""
        css = ";".join(filter(None, [side, wikitext.style(plain(cell.line))]))
        given = [
            more,
            f'colspan="{cell.across}"' if cell.across > 1 else "",
            f'rowspan="{cell.down}"' if cell.down > 1 else "",
            f'style="{css}"' if css else "",
        ]
        attributes, text = " ".join(filter(None, given)), self.line(cell.line)
        return f"{attributes} | {text}" if attributes else text

    def shown(self, part: tree.Shown) -> str:
        """A result, or a figure with the picture that the lab's outputs have of it."""
        value = part.value
        if not isinstance(value, Figure):
            return wikitext.result(value)
        data = self.place.read(value.png)
        picture = (pictures.checked(data) if data else None) or part.image
        if picture is None:
            lost = wikitext.literal(f"(the picture is missing) {value.caption}", begins=False)
            return f"<i>{lost}</i>"
        return wikitext.image(
            self.file(picture, value.name, value.alt), alt=value.alt, caption=value.caption
        )

    # -- within a line

    def line(self, line: Line) -> str:
        """The pieces of a whole line."""
        return self.pieces(line, outer=True).strip(" ")

    def pieces(self, line: Line, *, outer: bool = False) -> str:
        """Pieces one after the other; ``outer`` when they are the whole of a line."""
        marked = _unambiguous(line)
        others = [
            None if isinstance(p, Text) else self.piece(p, n in marked) for n, p in enumerate(line)
        ]
        there = [n for n, piece in enumerate(line) if others[n] or plain((piece,))]
        edges = (there[0], there[-1]) if outer and there else (-1, -1)
        shown = [
            wikitext.literal(piece.text, begins=n == edges[0], ends=n == edges[1])
            if isinstance(piece, Text)
            else others[n] or ""
            for n, piece in enumerate(line)
        ]
        for n, (piece, text) in enumerate(pairwise(shown)):
            if piece.endswith("]]") and text[:1].isalnum():
                shown[n] += "<nowiki />"  # else its letters would belong to the link
        return "".join(shown)

    def piece(self, piece: Piece, marks: bool = False) -> str:  # noqa: PLR0911 - one line a kind
        """One piece; emphasis has the wiki's quote ``marks`` or an element."""
        match piece:
            case Text(text):
                return wikitext.literal(text, begins=False, ends=False)
            case tree.Break():
                return "<br />"
            case tree.Code(text):
                return wikitext.code(text)
            case tree.Styled(name, line):
                mark = _MARKS.get(name, "") if marks else ""
                tag = _ELEMENTS.get(name, name)
                inside = self.pieces(line)
                shown = f"{mark}{inside}{mark}" if mark else f"<{tag}>{inside}</{tag}>"
                return shown if inside else ""
            case tree.Link(address, (Image() as image,)):
                return self.image(image, alone=False, opens=address)
            case tree.Link():
                return self.link(piece)
            case Image():
                return self.image(piece, alone=False)
            case Formula(tex, display):
                return self.formula(tex, display) or wikitext.code(tex)

    def link(self, piece: tree.Link) -> str:
        """A link where it leads somewhere; its words alone elsewhere."""
        label = self.pieces(piece.line)
        label = label if label.strip() else self.piece(Text(piece.address))
        target = self.target(piece.address)
        if target:
            return f"[[{target}|{label}]]"
        if not is_outside(piece.address) or any(isinstance(inner, (Image, tree.Link)) for inner in piece.line):  # fmt: skip
            return label
        return f"[{url(piece.address)} {label}]"

    def target(self, address: str) -> str:
        """The wiki's own target of a link's address; '' for none."""
        if address.startswith("#"):
            name = tree.slug(address[1:])
            return f"#{self.place.name}-{name}" if name in self._anchors else ""
        known = self.place.link(address)
        known = known if known is not None else self.place.link(address.partition("#")[0])
        return page_name(known) if known is not None else ""

    def image(self, piece: Image, *, alone: bool, opens: str = "") -> str:
        """A picture: by itself with its caption below it, or within a line; a click ``opens`` an address."""
        if piece.picture is None:
            words: Line = (Text(f"[{piece.alt or 'a picture'}]"),)
            address = opens or piece.address
            return self.piece(tree.Link(address, words) if is_outside(address) else words[0])
        return wikitext.image(
            self.file(piece.picture, "picture", piece.alt), alt=piece.alt, caption=piece.caption,
            framed=alone, target=(self.target(opens) or url(opens)) if opens else None,
            width=piece.picture.width,
        )  # fmt: skip

    def formula(self, tex: str, display: bool) -> str:
        """A formula as a picture on the line of the words around it; '' where it cannot be drawn."""
        picture = pictures.formula(tex, display=display)
        if picture is None:
            return ""
        name = self.file(picture, "formula", tex)
        style = f"{_ON_THE_LINE};vertical-align:-{picture.depth:.1f}px"
        alt = wikitext.literal(" ".join(tex.split()))
        return (
            f'<span style="{style}">[[File:{name}|bottom|{picture.width}px|link=|alt={alt}]]</span>'
        )

    def file(self, picture: Picture, name: str, text: str) -> str:
        """The name under which the wiki has a picture."""
        item = pictures.upload(name, picture.data, ending=picture.ending, text=text)
        self.uploads[item.name] = item
        return item.name


def _screen(part: tree.Screen) -> str:
    """A program's lines, in colours where it wrote in colours; what went wrong has a bar beside it."""
    bar = _BARS[part.stream]
    if not part.coloured:
        return wikitext.pre(part.text, attributes=bar)
    lines = [" " + "".join(wikitext.span(run.text, run.css) for run in line) for line in part.lines]
    shown = "\n".join(lines)
    return f"<div{bar}>\n{shown}\n</div>" if bar else shown


def _is_plain(part: tree.Listing) -> bool:
    """Whether the wiki's own lists can hold it: each item one paragraph, then only such lists."""
    return part.start in (None, 1) and all(
        isinstance(item[0], Paragraph)
        and not tree.is_alone(item[0].line)
        and all(isinstance(inner, tree.Listing) and _is_plain(inner) for inner in item[1:])
        if item
        else False
        for item in part.items
    )


def _unambiguous(line: Sequence[Piece]) -> set[int]:
    """The places of the emphasis whose quote marks can be read in one way alone: nothing nested in it, no
    other one beside it."""
    places = {n for n, p in enumerate(line) if isinstance(p, tree.Styled) and p.name in _MARKS}
    alone = {n for n in places if not {n - 1, n + 1} & places}
    return {n for n in alone if not any(isinstance(p, (tree.Styled, tree.Link)) for p in line[n].line)}  # type: ignore[union-attr]  # fmt: skip
