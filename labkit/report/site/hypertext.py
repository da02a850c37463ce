"""What a notebook shows (:mod:`labkit.wiki.render.tree`) as HTML that cannot do anything.

All characters are escaped; there are no elements, attributes or addresses but the ones written here.
Pictures are files beside the page, formulas are drawn in it: nothing comes from outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from labkit.report.site import markup
from labkit.wiki.render import pictures, terminal, tree
from labkit.wiki.render.pictures import Picture
from labkit.wiki.render.tree import (
    Formula,
    Image,
    Line,
    Paragraph,
    Part,
    Parts,
    Piece,
    is_alone,
    plain,
    slug,
    unheaded,
    words,
)
from labkit.wiki.render.writing import is_outside

if TYPE_CHECKING:
    from markupsafe import Markup

#: Tables with more rows than this are folded.
LONG = 20
#: Where the site keeps pictures.
FOLDER = "pictures"


@dataclass
class Hypertext:
    """Writes the parts of one page.

    ``headings`` are the slugs that links may lead to; ``pages`` gives a notebook's page by its file's
    name. ``files`` are the pictures so far, by their addresses; ``notes`` the footnotes.
    """

    headings: frozenset[str] = frozenset()
    pages: Mapping[str, str] = field(default_factory=dict)
    notes: list[Parts] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    _marked: set[str] = field(default_factory=set)
    _met: list[int] = field(default_factory=list)
    _in_note: bool = False

    def show(self, parts: Iterable[Part]) -> Markup:
        """The parts as HTML."""
        from markupsafe import Markup

        return Markup(self.parts(parts))  # noqa: S704 - all of it is written here

    def footnotes(self) -> Markup | None:
        """The footnotes whose marks were met, as a list; None without any."""
        from markupsafe import Markup

        if not self._met:
            return None
        self._in_note = True
        items = [
            f'<li id="note-{n + 1}">{self.boxed(self.notes[number])} '
            f'<a href="#note-{n + 1}-mark" aria-label="back to the text">↑</a></li>'
            for n, number in enumerate(self._met)
        ]
        return Markup(f'<ol class="notes">{"".join(items)}</ol>')  # noqa: S704 - as above

    # -- parts

    def parts(self, parts: Iterable[Part]) -> str:
        """Parts one after the other."""
        return "\n".join(filter(None, map(self.part, parts)))

    def part(self, part: Part) -> str:  # noqa: PLR0911, PLR0912 - one line a kind
        """One part."""
        match part:
            case tree.Heading(level, line):
                return self.heading(level, line)
            case Paragraph((Image() as image,)) if image.picture:
                return self.figure(image)
            case Paragraph((Formula(tex, True),)):
                return f'<div class="formula">{self.formula(tex, True)}</div>'
            case Paragraph(line):
                return f"<p>{self.line(line)}</p>" if line else ""
            case tree.Source(text, language):
                return f"<pre><code>{markup.code(text, language)}</code></pre>" if text else ""
            case tree.Quote(inner):
                return f"<blockquote>{self.within(inner)}</blockquote>"
            case tree.Listing():
                return self.listing(part)
            case tree.Terms(entries):
                return f"<dl>{''.join(self.entry(*entry) for entry in entries)}</dl>"
            case tree.Grid():
                return self.grid(part)
            case tree.Rule():
                return "<hr>"
            case tree.Fold(label, inner):
                return f"<details><summary>{_text(label)}</summary>{self.within(inner)}</details>"
            case tree.Screen():
                return screen(part)
            case tree.Shown():
                return ""  # the page has forms of its own for these

    def within(self, parts: Parts) -> str:
        """Parts within another one, whose headings are none of the page's."""
        return self.parts(unheaded(parts))

    def boxed(self, parts: Parts) -> str:
        """Parts in an element of their own: one paragraph needs no element more."""
        match parts:
            case (Paragraph(line),) if not is_alone(line):
                return self.line(line)
        return self.within(parts)

    def heading(self, level: int, line: Line) -> str:
        """A heading, one level lower than in the notebook: the page has one of its own."""
        text = self.line(line)
        name = slug(plain(line))
        anchor = f' id="h-{_text(name)}"' if name and name not in self._marked else ""
        self._marked.add(name)
        tag = f"h{min(level + 1, 6)}"
        return f"<{tag}{anchor}>{text}</{tag}>" if text else ""

    def listing(self, part: tree.Listing) -> str:
        """A list; the tasks in it have boxes."""
        tag = "ul" if part.start is None else "ol"
        first = f' start="{part.start}"' if part.start not in (None, 1) else ""
        return f"<{tag}{first}>{''.join(self.item(item) for item in part.items)}</{tag}>"

    def item(self, item: Parts) -> str:
        """An item of a list."""
        match item:
            case (Paragraph(line), *rest) if not is_alone(line) and all(isinstance(part, tree.Listing) for part in rest):  # fmt: skip
                return f"<li>{self.line(line)}{self.parts(rest)}</li>"
        return f"<li>{self.within(item)}</li>"

    def entry(self, term: Line, meaning: Parts) -> str:
        """A term, or what it means."""
        return f"<dt>{self.line(term)}</dt>" if term else f"<dd>{self.boxed(meaning)}</dd>"

    def grid(self, part: tree.Grid) -> str:
        """A table; a long one is folded."""
        heads = "".join(self.row(row) for row in part.rows[: part.head])
        body = "".join(self.row(row) for row in part.rows[part.head :])
        said = part.caption or ("" if body else part.size)
        caption = f"<caption>{_text(said)}</caption>" if said else ""
        head = f"<thead>{heads}</thead>" if heads else ""
        table = f'<div class="scroll" tabindex="0"><table class="data">{caption}{head}<tbody>{body}</tbody></table></div>'  # fmt: skip
        if len(part.rows) - part.head <= LONG:
            return table
        label = f"{part.caption} ({part.size})" if part.caption else part.size
        return f"<details><summary>{_text(label)}</summary>{table}</details>"

    def row(self, row: Iterable[tree.Cell]) -> str:
        """A row of a table."""
        return f"<tr>{''.join(self.cell(cell) for cell in row)}</tr>"

    def cell(self, cell: tree.Cell) -> str:
        """A cell of a table."""
        tag = "th" if cell.head else "td"
        sides = {"right": ' class="n"', "center": ' class="c"'}
        across = f' colspan="{cell.across}"' if cell.across > 1 else ""
        down = f' rowspan="{cell.down}"' if cell.down > 1 else ""
        return f"<{tag}{across}{down}{sides.get(cell.side, '')}>{self.line(cell.line)}</{tag}>"

    def figure(self, image: Image) -> str:
        """A picture by itself, with its caption."""
        caption = f"<figcaption>{_text(image.caption)}</figcaption>" if image.caption else ""
        return f"<figure>{self.image(image)}{caption}</figure>"

    # -- within a line

    def line(self, line: Line) -> str:
        """Pieces one after the other."""
        return "".join(map(self.piece, line))

    def piece(self, piece: Piece) -> str:  # noqa: PLR0911 - one line a kind
        """One piece."""
        match piece:
            case tree.Text(text):
                return _text(text).replace("\n", "<br>")
            case tree.Break():
                return "<br>"
            case tree.Code(text):
                return f"<code>{_text(text)}</code>"
            case tree.Styled(name, line):
                return f"<{name}>{self.line(line)}</{name}>"
            case tree.Link(address, line):
                return self.link(address, self.line(line) or _text(address))
            case Image():
                return self.image(piece)
            case Formula(tex, display):
                return self.formula(tex, display)
            case tree.Note(number):
                return self.note(number)

    def link(self, address: str, text: str) -> str:
        """A link where it leads somewhere; its words alone elsewhere."""
        if target := self.target(address):
            return f'<a href="{escape(target)}">{text}</a>'
        return text

    def target(self, address: str) -> str:
        """Where a link leads; '' for nowhere."""
        name, _, fragment = address.partition("#")
        if is_outside(address):
            return address
        if not name and slug(fragment) in self.headings:
            return f"#h-{slug(fragment)}"
        return self.pages.get(name, "")

    def image(self, image: Image) -> str:
        """A picture, a file of the site's own; elsewhere its words."""
        if image.picture is None:
            return _text(f"[{image.alt or 'a picture'}]")
        width = f' width="{image.picture.width}"' if image.picture.width else ""
        return f'<img src="{self.file(image.picture)}" alt="{_text(image.alt)}"{width}>'

    def file(self, picture: Picture) -> str:
        """A picture's address, by the hash of its content."""
        name = f"{FOLDER}/{hashlib.sha256(picture.data).hexdigest()[:16]}.{picture.ending}"
        self.files[name] = picture.data
        return name

    def formula(self, tex: str, display: bool) -> str:
        """A formula, drawn; its source where it cannot be."""
        drawing = pictures.formula(tex, display=display)
        if drawing is None:
            return f"<code>{_text(tex)}</code>"
        below = drawing.depth * pictures.SCALE
        said = f' role="img" aria-label="{_text(tex)}" style="vertical-align:-{below:.3f}em"'
        return pictures.svg(drawing, attributes=said)

    def note(self, number: int) -> str:
        """A footnote's mark."""
        if number >= len(self.notes):
            return ""
        if self._in_note:  # as on the wiki
            return _text(f" ({words(self.notes[number])})")
        first = number not in self._met
        self._met += [number] if first else []
        shown = self._met.index(number) + 1
        anchor = f' id="note-{shown}-mark"' if first else ""
        return f'<sup{anchor}><a href="#note-{shown}">[{shown}]</a></sup>'


def screen(part: tree.Screen) -> str:
    """A program's lines in their colours."""
    names = [name for name, there in (("ansi", part.coloured), (part.stream, part.stream)) if there]
    attributes = f' class="{" ".join(names)}"' if names else ""
    lines = ("".join(_run(run.text, run.css) for run in line) for line in part.lines)
    return f"<pre{attributes}>{chr(10).join(lines)}</pre>"


def _run(text: str, css: str) -> str:
    return f'<span style="{css}">{_text(text)}</span>' if css else _text(text)


def _text(text: str) -> str:
    """Characters, without those that steer a terminal or turn the text around them."""
    return escape(markup.plain(terminal.plain(text)))
