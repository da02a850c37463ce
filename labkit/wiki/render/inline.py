"""The pieces of a line (:mod:`labkit.wiki.render.tree`) as wikitext. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from labkit.wiki.client.protocol import Upload
from labkit.wiki.render import formulas, images, wikitext
from labkit.wiki.render.images import Picture
from labkit.wiki.render.places import Place, is_outside, page_name, url
from labkit.wiki.render.tree import (
    Break,
    Code,
    Formula,
    Image,
    Line,
    Link,
    Note,
    Parts,
    Piece,
    Styled,
    Text,
)
from labkit.wiki.render.uploads import upload
from labkit.wiki.render.walking import plain, slug, words

#: Styles that have wiki marks.
_MARKS = {"em": "''", "strong": "'''"}
#: Styles whose element has another name here, or none that MediaWiki accepts.
_ELEMENTS = {"em": "i", "strong": "b"}
#: Pixels an em of a wiki's text has, and how many more a formula's picture is painted with.
_EM, _SHARP = 14.0 * formulas.SCALE, 3

#: A box whose line is its own lower edge (CSS 2.2, section 10.8.1), from which a depth is measured.
_ON_THE_LINE = "display:inline-block;overflow:hidden;line-height:0"


@dataclass
class Lines:
    """Writes lines of one document.

    ``notes`` are its footnotes, and ``noted`` gives a footnote's text; ``uploads`` are the pictures so
    far, by the names that the text has for them; ``met`` the footnotes whose marks were written. ``anchors`` are the headings
    that links lead to.
    """

    place: Place
    notes: tuple[Parts, ...]
    noted: Callable[[int], str]
    anchors: frozenset[str] = frozenset()
    uploads: dict[str, Upload] = field(default_factory=dict)
    met: list[int] = field(default_factory=list)
    in_note: bool = False

    def line(self, line: Line, *, marks: bool | None = None) -> str:
        """The pieces of a whole line."""
        shown = self.pieces(line, _unambiguous(line) if marks is None else marks, outer=True)
        return shown.strip(" ")

    def pieces(self, line: Line, marks: bool, *, outer: bool = False) -> str:
        """Pieces one after the other; ``outer`` when they are the whole of a line."""
        others = [None if isinstance(piece, Text) else self.piece(piece, marks) for piece in line]
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

    def piece(self, piece: Piece, marks: bool) -> str:  # noqa: PLR0911 - one line a kind
        """One piece."""
        match piece:
            case Text(text):
                return wikitext.literal(text, begins=False, ends=False)
            case Break():
                return "<br />"
            case Code(text):
                return wikitext.code(text)
            case Styled(name, line):
                mark = _MARKS.get(name, "") if marks else ""
                tag = _ELEMENTS.get(name, name)
                inside = self.pieces(line, marks)
                if not inside:
                    return ""
                return f"{mark}{inside}{mark}" if mark else f"<{tag}>{inside}</{tag}>"
            case Link():
                return self.link(piece, marks)
            case Image():
                return self.image(piece, alone=False)
            case Formula(tex, display):
                return self.formula(tex, display)
            case Note(number):
                return self.note(number)

    def link(self, piece: Link, marks: bool) -> str:
        """A link where it leads somewhere; its words alone elsewhere."""
        match piece.line:
            case (Image() as image,):
                return self.image(Image(image.alt, image.picture, image.address, image.caption, piece.address), alone=False)  # fmt: skip
        label = self.pieces(piece.line, marks)
        label = label if label.strip() else self.piece(Text(piece.address), marks)
        target = self.target(piece.address)
        if target:
            return f"[[{target}|{label}]]"
        if not is_outside(piece.address) or any(isinstance(inner, (Image, Link)) for inner in piece.line):  # fmt: skip
            return label
        return f"[{url(piece.address)} {label}]"

    def target(self, address: str) -> str:
        """The wiki's own target of a link's address; '' for none."""
        if address.startswith("#"):
            name = slug(address[1:])
            return f"#{self.place.name}-{name}" if name in self.anchors else ""
        known = self.place.link(address)
        known = known if known is not None else self.place.link(address.partition("#")[0])
        return page_name(known) if known is not None else ""

    def image(self, piece: Image, *, alone: bool) -> str:
        """A picture: by itself with its caption below it, or within a line."""
        if piece.picture is None:
            words: Line = (Text(f"[{piece.alt or 'a picture'}]"),)
            address = piece.target or piece.address
            return self.piece(Link(address, words) if is_outside(address) else words[0], False)
        file = self.file(piece.picture, "picture", piece.alt)
        target = (self.target(piece.target) or url(piece.target)) if piece.target else None
        return wikitext.image(
            file, alt=piece.alt, caption=piece.caption, framed=alone, target=target,
            width=piece.picture.width,
        )  # fmt: skip

    def formula(self, tex: str, display: bool) -> str:
        """A formula as a picture on the line of the words around it; its source where it cannot be
        drawn."""
        drawing = formulas.draw(tex, display=display)
        if drawing is None:
            return wikitext.code(tex)
        width = max(round(drawing.width * _EM), 1)
        picture = images.painted(formulas.svg(drawing, em=_EM), pixels=width * _SHARP, fonts=False)
        if picture is None:
            return wikitext.code(tex)
        name = self.file(picture, "formula", tex)
        style = f"{_ON_THE_LINE};vertical-align:-{drawing.depth * _EM:.1f}px"
        alt = wikitext.literal(" ".join(tex.split()))
        return f'<span style="{style}">[[File:{name}|bottom|{width}px|link=|alt={alt}]]</span>'

    def file(self, picture: Picture, name: str, text: str) -> str:
        """The name under which the wiki has a picture."""
        item = upload(name, picture.data, ending=picture.ending, text=text)
        self.uploads[item.name] = item
        return item.name

    def note(self, number: int) -> str:
        """A footnote's mark."""
        if number >= len(self.notes):
            return ""
        if self.in_note:  # Cite takes no footnote in a footnote
            said = f" ({words(self.notes[number])})"
            return wikitext.literal(said, begins=False, ends=False)
        known = number in self.met
        if not known and not self.noted(number).strip():
            return ""
        self.met += [] if known else [number]
        name = f"{self.place.name}-{number + 1}"
        if self.place.features.notes:
            return (
                f'<ref name="{name}" />'
                if known
                else f'<ref name="{name}">{self.noted(number)}</ref>'
            )
        shown = f"&#91;{self.met.index(number) + 1}&#93;"
        anchor = "" if known else f' id="{name}-mark"'
        return f"<sup{anchor}>[[#{name}|{shown}]]</sup>"


def _unambiguous(line: Sequence[Piece]) -> bool:
    """Whether quote marks can be read in one way alone: nothing nested, nothing side by side."""
    emphasis = [isinstance(piece, Styled) and piece.name in _MARKS for piece in line]
    if any(one and other for one, other in pairwise(emphasis)):
        return False
    return not any(_has_mark(piece.line) for piece in line if isinstance(piece, (Styled, Link)))


def _has_mark(line: Line) -> bool:
    return any(
        isinstance(piece, (Styled, Link))
        and ((isinstance(piece, Styled) and piece.name in _MARKS) or _has_mark(piece.line))
        for piece in line
    )
