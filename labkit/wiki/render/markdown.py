"""Markdown and HTML read into the document tree: texts, lists, pictures, formulas and tables. Pure.

markdown-it reads what JupyterLab shows: CommonMark, GitHub's tables and strikethrough, tasks, formulas in TeX and
HTML. nh3 sanitises the HTML: scripts, styles, forms and frames are removed with their content, other unknown
elements leave their text. The tree has plain characters alone, so that no element or attribute is ever
passed on to a page.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import escape
from typing import Any

import nh3
from bs4 import BeautifulSoup, Tag
from bs4.element import PageElement
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin

from labkit.display import counted, shown
from labkit.wiki.render import pictures, tree
from labkit.wiki.render.pictures import Picture
from labkit.wiki.render.tree import Break, Cell, Grid, Line, Paragraph, Parts, Piece, Text, plain

#: Gives the picture at an image's address; None where it knows none.
Find = Callable[[str], Picture | None]

#: Elements within a line, by the style that they are shown in.
_STYLES: dict[str, tree.Emphasis] = {
    "em": "em", "i": "em", "var": "em", "cite": "em", "dfn": "em", "strong": "strong", "b": "strong",
    "s": "s", "del": "s", "strike": "s", "u": "u", "ins": "u", "sub": "sub", "sup": "sup",
    "small": "small", "kbd": "kbd", "mark": "mark",
}  # fmt: skip
#: The other elements within a line, and the blocks, that a page shows.
_INLINE = {"code", "samp", "tt", "a", "br", "wbr", "img", "span", "abbr", "q", "font", "label", "time", "bdi"}  # fmt: skip
_BLOCKS = {"p", "div", "section", "article", "header", "footer", "main", "figure", "figcaption", "center",
          "ul", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tfoot", "tr", "td", "th",
          "caption", "colgroup", "col", "pre", "blockquote", "hr", "details", "summary",
          "h1", "h2", "h3", "h4", "h5", "h6"}  # fmt: skip
#: Elements that are removed with their content.
_UNSEEN = {"script", "style", "title", "template", "iframe", "object", "embed", "svg", "math",
           "select", "textarea", "noscript", "audio", "video", "canvas"}  # fmt: skip
_ATTRIBUTES = {"*": {"hidden", "style", "class"}, "a": {"href"}, "img": {"src", "alt", "title"},
               "td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}, "ol": {"start"}}  # fmt: skip
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_SIDE = re.compile(r"text-align\s*:\s*(left|center|right)", re.IGNORECASE)
#: Elements nested deeper than this are taken for their text.
_DEEPEST = 40
_TASK = re.compile(r"\[([ xX])\][ \t]+")

#: A number as programs write it, and the words for a missing one among numbers.
_NUMBER = re.compile(
    r"[-+−]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?\s?%?|[-+]?inf"
)
_NOTHING = {"", "nan", "none", "nat", "<na>", "–", "-", "...", "…"}

Row = tuple[Cell, ...]


def read(text: str, *, find: Find | None = None) -> Parts:
    """The parts of a text in Markdown; ``find`` gives the pictures that are not in the text itself."""
    return read_html(_parser().render(text), find=find)


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    parser.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True)
    parser.use(amsmath_plugin)
    parser.validateLink = _is_shown  # type: ignore[method-assign,assignment]  # as its manual does
    parser.add_render_rule("hardbreak", lambda *_: "<br>")
    parser.add_render_rule("table_open", lambda *_: '<table class="markdown">')
    for name in ("math_inline", "math_inline_double", "math_block", "math_block_label", "amsmath"):
        parser.add_render_rule(name, _math)
    return parser


def _is_shown(address: str) -> bool:
    """Whether a link is read as one: the writers decide where it may lead."""
    return not re.match(r"\s*(?:javascript|vbscript|file|data:(?!image/))", address, re.IGNORECASE)


def _math(_: Any, tokens: Sequence[Token], n: int, *more: Any) -> str:
    token = tokens[n]
    if token.type == "math_inline":
        return f'<code class="math">{escape(token.content)}</code>'
    shown = f'<code class="math display">{escape(token.content)}</code>'
    return shown if token.type == "math_inline_double" else f"<p>{shown}</p>"


# -- HTML -------------------------------------------------------------------------------------


def read_html(html: str, *, find: Find | None = None) -> Parts:
    """The parts that the HTML shows; ``find`` gives pictures that are not in it itself.

    The classes that :func:`read` writes are known: ``math`` and ``math display`` of a ``<code>``.
    """
    return _Reader(find or (lambda address: None)).parts(parsed(html))


def parsed(html: str) -> BeautifulSoup:
    """The elements of a text, without those that are never shown."""
    safe = nh3.clean(
        re.sub("[\ud800-\udfff]", lambda half: shown(half[0]), html),
        tags={*_STYLES} | _INLINE | _BLOCKS, clean_content_tags=_UNSEEN, attributes=_ATTRIBUTES, link_rel=None,
        url_schemes={"http", "https", "mailto", "data", "attachment"},
    )  # fmt: skip
    soup = BeautifulSoup(safe, "html.parser")
    for tag in [*soup.find_all(hidden=True), *soup.find_all(style=_HIDDEN)]:
        tag.decompose()
    for tag in soup.find_all(True):
        if sum(1 for _ in tag.parents) == _DEEPEST:
            tag.replace_with(tag.get_text())
    return soup


@dataclass(frozen=True)
class _Reader:
    """Elements to parts; ``find`` gives the pictures."""

    find: Find

    def parts(self, element: Tag) -> Parts:
        """What is in an element: blocks as they are, the lines between them as paragraphs."""
        found: list[tree.Part] = []
        waiting: list[PageElement] = []
        for item in [*element.children, None]:
            tag = item if isinstance(item, Tag) else None
            if item is not None and not (tag and _is_block(tag)):
                waiting.append(item)
                continue
            line = _trimmed(self.line(waiting))
            found += [*([Paragraph(line)] if line else []), *(self.part(tag) if tag else ())]
            waiting = []
        return tuple(found)

    def part(self, item: Tag) -> Parts:  # noqa: PLR0911 - one line a kind
        """A block element's parts."""
        match item.name:
            case "ul" | "ol":
                items = tuple(
                    _task(self.parts(inner)) for inner in item.find_all(True, recursive=False)
                )
                start = _number(item, "start") if item.name == "ol" else None
                return (tree.Listing(items, start),) if items else ()
            case "table":
                return self.table(item)
            case "pre":
                return (tree.Source(item.get_text().rstrip("\n"), _language(item.code)),)
            case "blockquote":
                return (tree.Quote(self.parts(item)),)
            case "hr":
                return (tree.Rule(),)
            case "details":
                label = _extracted(item, "summary")
                return (tree.Fold(label or "Details", self.parts(item)),)
            case "dt":
                line = _trimmed(self.line(item.children))
                return (Paragraph((tree.Styled("strong", line),)),) if line else ()
            case "h1" | "h2" | "h3" | "h4" | "h5" | "h6":
                line = _trimmed(self.line(item.children))
                return (tree.Heading(int(item.name[1]), line),) if line else ()
        return self.parts(item)

    def table(self, item: Tag) -> Parts:
        """A table; its first rows that hold header cells alone are its header. None without cells.

        A data frame is ready to be sorted, and its columns of numbers are set to the right.
        """
        rows = [
            tuple(self.cell(cell) for cell in row.find_all(["td", "th"], recursive=False))
            for row in item.find_all("tr")
            if row.find_parent("table") is item
        ]
        rows = [row for row in rows if row]
        if not rows:
            return ()
        caption = _extracted(item, "caption")
        head = next(
            (n for n, row in enumerate(rows) if not all(cell.head for cell in row)), len(rows)
        )
        heads, body = _one_head(rows[:head]), rows[head:]
        size = counted(len(body), "row")
        if "dataframe" not in item.get_attribute_list("class"):
            return (Grid((*heads, *body), len(heads), caption, size),)
        numeric = _numeric(body)
        shown = tuple(_aligned([*heads, *body], len(heads), numeric))
        return (Grid(shown, len(heads), caption, size, bool(heads), numeric),)

    def cell(self, item: Tag) -> Cell:
        """A cell; the blocks in it are lines of it."""
        side = _SIDE.search(str(item.get("style", "")))
        return Cell(
            _trimmed(self.line(item.children)), item.name == "th", side[1].lower() if side else "",  # type: ignore[arg-type]
            across=_number(item, "colspan") or 1, down=_number(item, "rowspan") or 1,
        )  # fmt: skip

    def line(self, items: Iterable[PageElement]) -> Line:
        """Pieces of a line, blanks in them as one; neighbouring texts are put together."""
        line: list[Piece] = []
        for item in items:
            text = Text(re.sub(r"[ \t\n\r\f]+", " ", str(item)))
            for piece in self.piece(item) if isinstance(item, Tag) else (text,):
                if isinstance(piece, Text) and line and isinstance(line[-1], Text):
                    line[-1] = Text(line[-1].text + piece.text)
                elif piece != Text(""):
                    line.append(piece)
        return tuple(line)

    def piece(self, item: Tag) -> Line:  # noqa: PLR0911 - one line a kind
        """An element within a line; a block there stands on a separate line."""
        inside = self.line(item.children)
        match item.name:
            case "br":
                return (Break(),)
            case "img":
                return (self.image(item),)
            case "code" if "math" in item.get_attribute_list("class"):
                return (tree.Formula(item.get_text().strip(), "display" in item["class"]),)
            case "code" | "samp" | "tt":
                return (tree.Code(item.get_text().replace("\n", " ")),) if inside else ()
            case "a" if "href" in item.attrs:
                return (tree.Link(str(item["href"]), inside),)
        if style := _STYLES.get(item.name):
            return (tree.Styled(style, inside),) if inside not in ((), (Text(" "),)) else inside
        return (Break(), *inside, Break()) if item.name in _BLOCKS else inside

    def image(self, item: Tag) -> tree.Image:
        """An image: the one in its own address, or that ``find`` knows."""
        address = str(item.get("src", ""))
        picture = pictures.inline(address) or self.find(address)
        elsewhere = "" if address.startswith("data:") else address
        return tree.Image(str(item.get("alt", "")), picture, elsewhere, str(item.get("title", "")))


def _is_block(item: Tag) -> bool:
    """Whether it is a block, or wraps one."""
    return item.name in _BLOCKS or item.find(list(_BLOCKS)) is not None


def _language(item: Tag | None) -> str:
    """The language that a block of code is marked with; '' for none."""
    names = (str(name) for name in item.get_attribute_list("class")) if item else ()
    return next((name[9:] for name in names if name.startswith("language-")), "")


def _extracted(item: Tag, name: str) -> str:
    """The text of the element's first child of this name, which is taken out; '' for none."""
    found = item.find(name, recursive=False)
    return " ".join(found.extract().get_text().split()) if found else ""


def _number(item: Tag, name: str) -> int:
    """The number in an attribute; 1 without one."""
    digits = re.match(r"\s*(\d{1,4})", str(item.get(name, "")))
    return int(digits[1]) if digits else 1


def _trimmed(line: Line) -> Line:
    """The line without blanks and breaks at its ends."""
    pieces = list(line)
    for end in (0, -1):
        while pieces:
            piece = pieces[end]
            if isinstance(piece, Text):
                piece = Text(piece.text.rstrip(" ") if end else piece.text.lstrip(" "))
            if piece in (Break(), Text("")):
                pieces.pop(end)
            else:
                pieces[end] = piece
                break
    return tuple(pieces)


def _task(item: Parts) -> Parts:
    """A list's item; one that begins with ``[ ]`` or ``[x]`` is a task, and gets a box."""
    match item:
        case (Paragraph((Text(text), *rest)), *more) if mark := _TASK.match(text):
            box = "☐ " if mark[1] == " " else "☑ "
            return (Paragraph((Text(box + text[mark.end() :]), *rest)), *more)
    return item


def _one_head(heads: list[Row]) -> list[Row]:
    """pandas' last header row, that names the index alone, put into the empty cells of the one above."""
    if len(heads) < 2 or len(heads[-2]) != len(heads[-1]):
        return heads
    pairs = list(zip(*heads[-2:], strict=True))
    if any(cell.across > 1 or cell.down > 1 for pair in pairs for cell in pair):
        return heads
    if any(one.line and other.line for one, other in pairs):
        return heads
    return [*heads[:-2], tuple(one if one.line else other for one, other in pairs)]


def _width(row: Row) -> int:
    return sum(cell.across for cell in row)


def _numeric(body: Sequence[Row]) -> frozenset[int]:
    """The columns that hold numbers, and nothing else but words for a missing one."""
    texts = defaultdict(set)
    widest = max(map(_width, body), default=0)
    for row in body:
        for column, cell in _placed(row, widest):
            texts[column].add(plain(cell.line).strip().lower())
    return frozenset(
        column for column, found in texts.items()
        if found - _NOTHING and all(map(_NUMBER.fullmatch, found - _NOTHING))
    )  # fmt: skip


def _placed(row: Row, widest: int) -> Iterator[tuple[int, Cell]]:
    """The cells of a row, each with its column; cells above that reach into a row stand at its left, as
    the outer levels of an index do."""
    column = widest - _width(row)
    for cell in row:
        yield column, cell
        column += cell.across


def _aligned(rows: Sequence[Row], head: int, numeric: frozenset[int]) -> Iterator[Row]:
    """The rows, columns of numbers to the right."""
    widest = max(map(_width, rows))
    for n, row in enumerate(rows):
        yield tuple(
            replace(cell, side="right") if column in numeric and (n >= head or cell.across == 1)
            else cell
            for column, cell in _placed(row, widest)
        )  # fmt: skip
