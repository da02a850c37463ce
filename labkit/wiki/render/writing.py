"""What a notebook shows (:mod:`labkit.wiki.render.tree`) as wikitext, and the pictures that it takes. Pure.

Where the wiki's own marks are read in one way alone they are used, so that people can edit what
they read; elsewhere stand the HTML elements that MediaWiki accepts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labkit.core.result import Figure
from labkit.wiki.client.protocol import Upload
from labkit.wiki.render import formulas, gridtext, images, wikitext
from labkit.wiki.render.inline import Lines
from labkit.wiki.render.places import Place
from labkit.wiki.render.tree import (
    Aside,
    Break,
    Document,
    Fold,
    Formula,
    Grid,
    Heading,
    Image,
    Line,
    Listing,
    Paragraph,
    Part,
    Parts,
    Quote,
    Rule,
    Screen,
    Shown,
    Source,
    Terms,
    Text,
)
from labkit.wiki.render.walking import links, plain, slug, unheaded

#: The attributes of what a program wrote, by where to.
_BARS = {
    "": "",
    "stderr": ' title="standard error" style="border-left:3px solid #7a5300"',
    "error": ' title="error" style="border-left:3px solid #b3261e"',
}

#: The list of footnotes stands apart from what is above it.
_NOTES = "border-top:1px solid #a2a9b1;margin-top:1.5em;font-size:90%"


@dataclass(frozen=True)
class Written:
    """Wikitext, and the pictures that it shows."""

    text: str
    uploads: tuple[Upload, ...] = ()


def write(document: Document, place: Place | None = None) -> Written:
    """The document's wikitext, its parts divided by empty lines; its footnotes at its end."""
    writer = Writer(document, place or Place())
    body = writer.parts(document.parts)
    notes = writer.notes()
    text = "\n\n".join(part for part in (body, notes) if part)
    return Written(text, tuple(writer.lines.uploads.values()))


def title(document: Document, line: Line, place: Place | None = None) -> str:
    """A line of the document as the text of a heading that stands elsewhere."""
    return Writer(document, place or Place()).lines.line(line)


@dataclass
class Writer:
    """Writes the parts of one document."""

    document: Document
    place: Place

    def __post_init__(self) -> None:
        inside = [self.document.parts, *self.document.notes]
        sought = {slug(a[1:]) for parts in inside for a in links(parts) if a[:1] == "#"}
        heads = {slug(plain(p.line)) for p in self.document.parts if isinstance(p, Heading)}
        self._unmarked = sought & heads
        self.lines = Lines(self.place, self.document.notes, self.noted, frozenset(sought & heads))

    def parts(self, parts: Iterable[Part]) -> str:
        """Parts, divided by empty lines."""
        return "\n\n".join(filter(None, map(self.part, parts)))

    def part(self, part: Part) -> str:  # noqa: PLR0911 - one line a kind
        """One part; '' when nothing of it shows."""
        match part:
            case Heading(level, line):
                return self.heading(level, line)
            case Paragraph(line):
                return self.paragraph(line)
            case Source(text, language):
                highlight = self.place.features.highlight
                return (
                    wikitext.source(text, language, highlight=highlight) if text.strip("\n") else ""
                )
            case Quote(inner):
                return f"<blockquote>\n{self.within(inner)}\n</blockquote>"
            case Listing():
                return self.listing(part)
            case Terms(entries):
                return self.terms(entries)
            case Grid():
                return gridtext.grid(part, self.lines.line)
            case Rule():
                return "----"
            case Fold(label, inner):
                return wikitext.folded(label, self.within(inner))
            case Screen():
                return screen(part)
            case Aside(text):
                return f"<small><i>{wikitext.literal(text, begins=False, ends=False)}</i></small>"
            case Shown():
                return self.shown(part)

    def heading(self, level: int, line: Line) -> str:
        """A heading, with an anchor where a link of the document leads to it."""
        text = self.lines.line(tuple(piece for piece in line if not isinstance(piece, Break)))
        if not text:
            return ""
        name = slug(plain(line))
        anchor = f'<span id="{self.place.name}-{name}"></span>' if name in self._unmarked else ""
        self._unmarked -= {name}
        return wikitext.titled(anchor + text, max(level + self.place.shift, self.place.least))

    def paragraph(self, line: Line) -> str:
        """A paragraph; a picture or a formula by itself stands by itself."""
        match line:
            case (Image() as image,):
                return self.lines.image(image, alone=True)
            case (Formula(tex, True),):
                return self.displayed(tex)
        return self.lines.line(line)

    def boxed(self, parts: Parts) -> str:
        """Parts within an element of HTML's, where the wiki itself makes no paragraphs."""
        return self.within(parts) if len(parts) == 1 else self.spaced(parts)

    def spaced(self, parts: Iterable[Part]) -> str:
        """Parts with their paragraphs as elements."""
        return "\n\n".join(
            f"<p>{self.lines.line(part.line)}</p>"
            if isinstance(part, Paragraph) and not _is_alone(part.line)
            else self.part(part)
            for part in unheaded(parts)
        )

    def within(self, parts: Parts) -> str:
        """Parts within another one: a section of the page cannot begin there."""
        return self.parts(unheaded(parts))

    def listing(self, part: Listing) -> str:
        """A list in the wiki's own form, in HTML's where that cannot hold it."""
        if _is_plain(part):
            return "\n".join(self.items(part, ""))
        numbered = part.start is not None
        tag = "ol" if numbered else "ul"
        opening = f'ol start="{part.start}"' if numbered and part.start != 1 else tag
        items = "\n".join(f"<li>\n{self.boxed(_marked(item.parts, item.done))}\n</li>" for item in part.items)  # fmt: skip
        return f"<{opening}>\n{items}\n</{tag}>"

    def items(self, part: Listing, outer: str) -> list[str]:
        """The lines of a plain list, and of those in it."""
        mark = outer + ("*" if part.start is None else "#")
        found = []
        for item in part.items:
            first, *rest = _marked(item.parts, item.done)
            assert isinstance(first, Paragraph)  # noqa: S101 - a plain list's
            found.append(f"{mark} {self.lines.line(first.line)}")
            for inner in rest:
                assert isinstance(inner, Listing)  # noqa: S101 - a plain list's
                found += self.items(inner, mark)
        return found

    def terms(self, entries: Iterable[tuple[Line, Parts]]) -> str:
        """A list of definitions."""
        found = [
            f"<dt>{self.lines.line(term)}</dt>" if term else f"<dd>\n{self.boxed(meaning)}\n</dd>"
            for term, meaning in entries
        ]
        return "\n".join(["<dl>", *found, "</dl>"])

    def shown(self, part: Shown) -> str:
        """A result, or a figure with the picture that the lab's outputs have of it."""
        value = part.value
        if not isinstance(value, Figure):
            return wikitext.result(value)
        data = self.place.read(value.png)
        picture = (images.checked(data) if data else None) or part.image
        if picture is None:
            lost = wikitext.literal(f"(the picture is missing) {value.caption}", begins=False)
            return f"<i>{lost}</i>"
        return wikitext.figure(value, self.lines.file(picture, value.name, value.alt))

    def displayed(self, tex: str) -> str:
        """A formula by itself."""
        if formulas.draw(tex, display=True) is None:
            return wikitext.pre(tex)
        return f'<div style="margin:0.8em 0 0.8em 2em">{self.lines.formula(tex, True)}</div>'

    def noted(self, number: int) -> str:
        """A footnote's text; a mark in it leads nowhere."""
        self.lines.in_note = True
        match self.document.notes[number]:
            case (Paragraph(line), *rest) if not _is_alone(line):
                more = f"\n\n{self.spaced(rest)}\n" if rest else ""
                text = self.lines.line(line) + more
            case parts:
                text = f"\n{self.spaced(parts)}\n"
        self.lines.in_note = False
        return text

    def notes(self) -> str:
        """The footnotes whose marks were met, as a list; '' without any."""
        if not self.lines.met:
            return ""
        shown = "<references />" if self.place.features.notes else self.listed()
        return f'<div style="{_NOTES}">\n{shown}\n</div>'

    def listed(self) -> str:
        """The same list where the wiki itself makes none."""
        names = [f"{self.place.name}-{number + 1}" for number in self.lines.met]
        items = [f'<li id="{name}">{self.noted(number)} [[#{name}-mark|↑]]</li>' for name, number in zip(names, self.lines.met, strict=True)]  # fmt: skip
        return "\n".join(["<ol>", *items, "</ol>"])


def screen(part: Screen) -> str:
    """A program's lines, in colours where it wrote in colours; what went wrong has a bar beside it."""
    bar = _BARS[part.stream]
    if not part.coloured:
        return wikitext.pre(part.text, attributes=bar)
    lines = [" " + "".join(wikitext.span(run.text, run.css) for run in line) for line in part.lines]
    shown = "\n".join(lines)
    return f"<div{bar}>\n{shown}\n</div>" if bar else shown


def _is_plain(part: Listing) -> bool:
    """Whether the wiki's own lists can hold it: each item one paragraph, then only such lists."""
    if part.start not in (None, 1) or not part.items:
        return False
    for item in part.items:
        first, rest = item.parts[:1], item.parts[1:]
        if not first or not isinstance(first[0], Paragraph) or _is_alone(first[0].line):
            return False
        if not all(isinstance(inner, Listing) and _is_plain(inner) for inner in rest):
            return False
    return True


def _is_alone(line: Line) -> bool:
    """Whether a paragraph is a picture or a formula by itself."""
    match line:
        case (Image(),) | (Formula(_, True),):
            return True
    return False


def _marked(parts: Parts, done: bool | None) -> Parts:
    """A task's parts, with a box before its words that says whether it is done."""
    if done is None:
        return parts
    box = Text("☑ " if done else "☐ ")
    if parts and isinstance(parts[0], Paragraph):
        return (Paragraph((box, *parts[0].line)), *parts[1:])
    return (Paragraph((box,)), *parts)
