"""Writes the document tree as HTML in which nothing can act: all text escaped, a fixed set of elements and attributes.

All characters are escaped; there are no elements, attributes or addresses but the ones written here.
Pictures are files beside the page, drawn formulas among them: nothing comes from outside.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup
from pygments import highlight  # type: ignore[import-untyped]  # it has no annotations
from pygments.formatters.html import HtmlFormatter  # type: ignore[import-untyped]
from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]

from labkit.display import shown
from labkit.wiki.render import pictures, terminal, tree
from labkit.wiki.render.tree import Formula, Image, Line, Paragraph, Part, Parts, Piece, is_alone
from labkit.wiki.render.wikitext import LANGUAGES
from labkit.wiki.render.writing import is_outside

#: Tables with more rows than this are folded.
LONG = 20
#: Where the site keeps pictures.
FOLDER = "pictures"


@dataclass
class Hypertext:
    """Writes the parts of one page.

    ``headings`` are the slugs that links may lead to; ``pages`` gives a notebook's page by its file's
    name. ``files`` are the pictures so far, by their addresses.
    """

    headings: frozenset[str] = frozenset()
    pages: Mapping[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    _marked: set[str] = field(default_factory=set)

    def show(self, parts: Iterable[Part]) -> Markup:
        """The parts as HTML."""
        return Markup(self.parts(parts))  # noqa: S704 - all of it is written here

    # -- parts

    def parts(self, parts: Iterable[Part]) -> str:
        """Parts one after the other."""
        return "\n".join(filter(None, map(self.part, parts)))

    def part(self, part: Part) -> str:  # noqa: PLR0911 - one line a kind
        """One part."""
        match part:
            case tree.Heading(level, line):
                return self.heading(level, line)
            case Paragraph((Image(caption=said) as image,)) if image.picture:
                caption = f"<figcaption>{_text(said)}</figcaption>" if said else ""
                return f"<figure>{self.image(image)}{caption}</figure>"
            case Paragraph((Formula(tex, True),)):
                return f'<div class="formula">{self.formula(tex, True)}</div>'
            case Paragraph(line):
                return f"<p>{self.line(line)}</p>" if line else ""
            case tree.Source(text, language):
                return f"<pre><code>{code(text, language)}</code></pre>" if text else ""
            case tree.Quote(inner):
                return f"<blockquote>{self.within(inner)}</blockquote>"
            case tree.Listing():
                return self.listing(part)
            case tree.Grid():
                return self.grid(part)
            case tree.Rule():
                return "<hr>"
            case tree.Fold(label, inner):
                return f"<details><summary>{_text(label)}</summary>{self.within(inner)}</details>"
            case tree.Screen():
                return screen(part)
            case tree.Shown():
                return ""  # the templates show these

    def within(self, parts: Parts) -> str:
        """Parts within another one, whose headings are none of the page's."""
        return self.parts(tree.unheaded(parts))

    def heading(self, level: int, line: Line) -> str:
        """A heading, one level lower than in the notebook, below the page's title."""
        text = self.line(line)
        name = tree.slug(tree.plain(line))
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
        """An item of a list: a paragraph at its beginning needs no element before lists alone."""
        match item:
            case (Paragraph(line), *rest) if not is_alone(line) and all(isinstance(part, tree.Listing) for part in rest):  # fmt: skip
                return f"<li>{self.line(line)}{self.parts(rest)}</li>"
        return f"<li>{self.within(item)}</li>"

    def grid(self, part: tree.Grid) -> str:
        """A table; a long one is folded."""
        rows = [f"<tr>{''.join(map(self.cell, row))}</tr>" for row in part.rows]
        heads, body = "".join(rows[: part.head]), "".join(rows[part.head :])
        said = part.caption or ("" if body else part.size)
        caption = f"<caption>{_text(said)}</caption>" if said else ""
        head = f"<thead>{heads}</thead>" if heads else ""
        table = f'<div class="scroll" tabindex="0"><table class="data">{caption}{head}<tbody>{body}</tbody></table></div>'  # fmt: skip
        if len(part.rows) - part.head <= LONG:
            return table
        label = f"{part.caption} ({part.size})" if part.caption else part.size
        return f"<details><summary>{_text(label)}</summary>{table}</details>"

    def cell(self, cell: tree.Cell) -> str:
        """A cell of a table."""
        tag = "th" if cell.head else "td"
        sides = {"right": ' class="n"', "center": ' class="c"'}
        across = f' colspan="{cell.across}"' if cell.across > 1 else ""
        down = f' rowspan="{cell.down}"' if cell.down > 1 else ""
        return f"<{tag}{across}{down}{sides.get(cell.side, '')}>{self.line(cell.line)}</{tag}>"

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
        if not name and tree.slug(fragment) in self.headings:
            return f"#h-{tree.slug(fragment)}"
        return self.pages.get(name, "")

    def image(self, image: Image, attributes: str = "") -> str:
        """A picture, a file of the site's own named by a hash of its content; elsewhere its words."""
        if image.picture is None:
            return _text(f"[{image.alt or 'a picture'}]")
        data, width = image.picture.data, image.picture.width
        name = f"{FOLDER}/{hashlib.sha256(data).hexdigest()[:16]}.{image.picture.ending}"
        self.files[name] = data
        size = f' width="{width}"' if width else ""
        return f'<img src="{name}" alt="{_text(image.alt)}"{size}{attributes}>'

    def formula(self, tex: str, display: bool) -> str:
        """A formula, drawn; its source where it cannot be."""
        picture = pictures.formula(tex, display=display)
        if picture is None:
            return f"<code>{_text(tex)}</code>"
        style = f' class="tex" style="vertical-align:-{picture.depth:.1f}px"'
        return self.image(Image(tex, picture), style)


def screen(part: tree.Screen) -> str:
    """A program's lines in their colours."""
    names = [name for name, there in (("ansi", part.coloured), (part.stream, part.stream)) if there]
    attributes = f' class="{" ".join(names)}"' if names else ""
    runs = (
        f'<span style="{run.css}">{_text(run.text)}</span>' if run.css else _text(run.text)
        for line in part.lines
        for run in (*line, tree.Run("\n"))
    )
    return f"<pre{attributes}>{''.join(runs).removesuffix(chr(10))}</pre>"


def _text(text: str) -> str:
    return escape(plain(text))


def plain(text: str) -> str:
    """What a program wrote, without what steers a terminal; control characters are made visible."""
    return shown(terminal.plain(text))


def code(source: str, language: str = "python") -> Markup:
    """Source as HTML, its words marked with Pygments' classes where the language is known."""
    name = LANGUAGES.get(language.strip().lower())
    if name is None:
        return Markup(escape(plain(source)))  # noqa: S704 - it is escaped
    lexer = get_lexer_by_name(name, stripnl=False)
    return Markup(highlight(plain(source), lexer, HtmlFormatter(nowrap=True)))  # noqa: S704 - it escapes


def breakable(text: str) -> Markup:
    """A table cell's text as HTML in which only long words may be broken, and those where one would
    break them by hand: after a dot, a slash, a comma and their like."""
    parts = re.split(r"(\S{25,})", text)
    pieces = (_broken(part) if place % 2 else [part] for place, part in enumerate(parts))
    return Markup("").join(Markup("<wbr>").join(piece) for piece in pieces)


def _broken(word: str) -> list[str]:
    """A long word in pieces: after its punctuation, and at least every 24 characters."""
    return re.findall(r"[^./,:=_@\[\]-]{1,24}[./,:=_@\[\]-]*|[./,:=_@\[\]-]{1,24}", word)
