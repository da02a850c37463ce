"""Markdown read into :mod:`labkit.wiki.render.tree`, over markdown-it-py's syntax tree. Pure.

CommonMark with tables, strike-through, task lists, definition lists, footnotes and formulas, as in
JupyterLab or one of its usual extensions. Of HTML in the text a few elements are understood; any
other is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from labkit.wiki.render import foreign, images
from labkit.wiki.render.images import Picture
from labkit.wiki.render.tree import (
    Break,
    Cell,
    Code,
    Document,
    Fold,
    Formula,
    Grid,
    Heading,
    Image,
    Item,
    Line,
    Link,
    Listing,
    Note,
    Paragraph,
    Part,
    Parts,
    Piece,
    Quote,
    Rule,
    Side,
    Source,
    Styled,
    Terms,
    Text,
)

#: Gives the picture at an image's address; None where it knows none.
Find = Callable[[str], Picture | None]
_DETAILS = re.compile(
    r"\s*<details(?:\s[^>]*)?>\s*(?:<summary>(.*?)</summary>)?", re.IGNORECASE | re.DOTALL
)
_DETAILS_TAG = re.compile(r"<(/?)details\b", re.IGNORECASE)
#: HTML that has no meaning where only its text is taken: comments, and wrappers in lines of their own.
_EMPTY = re.compile(
    r"\s*(?:<!--.*?-->\s*|</?(?:div|center|p|span|section|figure)(?:\s[^<>]*)?>\s*)+", re.S | re.I
)
_TASK = re.compile(r"\[([ xX])\][ \t]+")


def read(text: str, *, find: Find | None = None, first_note: int = 0) -> Document:
    """The text's parts and footnotes; its marks count from ``first_note``.

    ``find`` gives the pictures that are not in the text itself.
    """
    tree = SyntaxTreeNode(_parser().parse(text))
    reader = _Reader(find or (lambda address: None), first_note)
    parts = reader.parts(tree.children)
    return Document(parts, tuple(reader.notes))


@cache
def _parser() -> MarkdownIt:
    from mdit_py_plugins.amsmath import amsmath_plugin
    from mdit_py_plugins.deflist import deflist_plugin
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.footnote import footnote_plugin

    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    parser.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True)
    parser.validateLink = _is_shown  # type: ignore[method-assign,assignment]  # as its manual does
    return parser.use(footnote_plugin).use(amsmath_plugin).use(deflist_plugin)


def _is_shown(address: str) -> bool:
    """Whether a link is read as one: who writes it out decides where it may lead."""
    return not re.match(r"\s*(?:javascript|vbscript|file|data:(?!image/))", address, re.IGNORECASE)


@dataclass
class _Reader:
    """What one text refers to, and the footnotes that were found in it."""

    find: Find
    first_note: int
    notes: list[Parts] = field(default_factory=list)

    def parts(self, nodes: Sequence[SyntaxTreeNode]) -> Parts:
        """Parts in their order; what stands between <details> and </details> is folded."""
        found: list[Part] = []
        place = 0
        while place < len(nodes):
            node = nodes[place]
            place += 1
            end = _closing(nodes, place - 1)
            if end:
                found.append(self.fold(node.content, nodes[place:end], nodes[end].content))
                place = end + 1
            else:
                found += self.part(node)
        return tuple(found)

    def fold(self, opening: str, nodes: Sequence[SyntaxTreeNode], closing: str) -> Fold:
        """What stands between two pieces of HTML that open and close <details>."""
        found = _DETAILS.match(opening)
        label = foreign.text(found[1] or "") if found else ""
        first = self.html(opening[found.end() if found else 0 :])
        last = self.html(closing[: closing.lower().rfind("</details")])
        return Fold(label or "Details", (*first, *self.parts(nodes), *last))

    def part(self, node: SyntaxTreeNode) -> Parts:  # noqa: PLR0911 - one line a kind
        """One node's parts: mostly one, none for what shows nothing."""
        match node.type:
            case "heading":
                return (Heading(int(node.tag[1:]), self.inline(node)),)
            case "paragraph" | "inline":
                return (Paragraph(self.inline(node)),)
            case "bullet_list" | "ordered_list":
                return (self.listing(node),)
            case "fence" | "code_block":
                return (Source(node.content.rstrip("\n"), node.info.split(" ")[0]),)
            case "blockquote":
                return (Quote(self.parts(node.children)),)
            case "hr":
                return (Rule(),)
            case "table":
                return (self.table(node),)
            case "dl":
                return (Terms(tuple(self.term(child) for child in node.children)),)
            case "math_block" | "math_block_label" | "amsmath":
                return (Paragraph((Formula(node.content.strip(), display=True),)),)
            case "html_block":
                return self.html(node.content)
            case "footnote_block":
                self.notes += [self.parts(child.children) for child in node.children]
                return ()
        return (Paragraph((Text(node.content),)),)

    def html(self, content: str) -> Parts:
        """HTML in lines of its own: what it shows, or itself where it has elements of its own."""
        if not content.strip() or _EMPTY.fullmatch(content):
            return ()
        if foreign.is_known(content):
            return foreign.read(content, find=self.find)
        lines = content.strip().split("\n")
        return (Paragraph(tuple(piece for line in lines for piece in (Break(), Text(line)))[1:]),)

    def listing(self, node: SyntaxTreeNode) -> Listing:
        """A list, its tasks marked as done or not."""
        items = tuple(_task(Item(self.parts(item.children))) for item in node.children)
        start = node.attrs.get("start", 1) if node.type == "ordered_list" else None
        return Listing(items, None if start is None else int(start))

    def term(self, node: SyntaxTreeNode) -> tuple[Line, Parts]:
        """An entry of a list of definitions."""
        if node.type == "dt":
            return self.inline(node), ()
        return (), self.parts(node.children)

    def table(self, node: SyntaxTreeNode) -> Grid:
        """A table, with one row as its header."""
        rows = [row.children for part in node.children for row in part.children]
        return Grid(
            tuple(tuple(self.cell(cell, n == 0) for cell in row) for n, row in enumerate(rows))
        )

    def cell(self, node: SyntaxTreeNode, head: bool) -> Cell:
        """A cell, aligned as its column is."""
        sides: dict[str, Side] = {"left": "left", "center": "center", "right": "right"}
        side = str(node.attrs.get("style", "")).removeprefix("text-align:")
        return Cell(self.inline(node), head, sides.get(side, ""))

    def inline(self, node: SyntaxTreeNode) -> Line:
        """The pieces of a node's line."""
        return self.line([part for child in node.children for part in (child.children if child.type == "inline" else [child])])  # fmt: skip

    def line(self, nodes: Iterable[SyntaxTreeNode]) -> Line:
        """Pieces one after the other; pairs of HTML tags that are understood become styles."""
        pairs = foreign.Pairs(self.find)
        for node in nodes:
            if node.type == "html_inline":
                pairs.tag(node.content)
            else:
                pairs.add(*self.piece(node))
        return pairs.line()

    def piece(self, node: SyntaxTreeNode) -> Line:  # noqa: PLR0911 - one line a kind
        """One node within a line."""
        match node.type:
            case "softbreak":
                return (Text(" "),)
            case "hardbreak":
                return (Break(),)
            case "em" | "strong" | "s":
                return (Styled(foreign.STYLES[node.type], self.line(node.children)),)
            case "link":
                return (Link(str(node.attrs.get("href", "")), self.line(node.children)),)
            case "image":
                return (self.image(node),)
            case "code_inline":
                return (Code(node.content),)
            case "math_inline":
                return (Formula(node.content.strip()),)
            case "math_inline_double":
                return (Formula(node.content.strip(), display=True),)
            case "footnote_ref":
                return (Note(self.first_note + int(node.meta["id"])),)
            case "footnote_anchor":
                return ()
        return (Text(node.content),)

    def image(self, node: SyntaxTreeNode) -> Image:
        """An image: the one that the text holds, or that ``find`` knows."""
        address = str(node.attrs.get("src", ""))
        picture = images.inline(address) or self.find(address)
        shown = "" if address.startswith("data:") else address
        return Image(node.content, picture, shown, str(node.attrs.get("title", "")))


def _task(item: Item) -> Item:
    """The item as a task, when it begins with ``[ ]`` or ``[x]``."""
    first = item.parts[0] if item.parts else None
    if not isinstance(first, Paragraph) or not first.line or not isinstance(first.line[0], Text):
        return item
    mark = _TASK.match(first.line[0].text)
    if mark is None:
        return item
    rest: Piece = Text(first.line[0].text[mark.end() :])
    parts = (Paragraph((rest, *first.line[1:])), *item.parts[1:])
    return Item(parts, done=mark[1] != " ")


def _closing(nodes: Sequence[SyntaxTreeNode], start: int) -> int:
    """The place of the node that closes the <details> which the one at ``start`` opens; 0 for none."""
    if nodes[start].type != "html_block" or not _DETAILS.match(nodes[start].content):
        return 0
    depth = 0
    for place in range(start, len(nodes)):
        if nodes[place].type == "html_block":
            for tag in _DETAILS_TAG.finditer(nodes[place].content):
                depth += -1 if tag[1] else 1
            if depth <= 0:
                return place if place > start else 0
    return 0
