"""Markdown to wikitext, over markdown-it-py's syntax tree. Pure.

CommonMark with tables and strikethrough; HTML in the text is text. What a wiki's own list syntax
cannot hold (a list item with a block of code in it) becomes the HTML elements that MediaWiki
accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from urllib.parse import quote

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from labkit.wiki import wikitext

#: Link targets that are kept as links; every other one leaves its text alone.
SCHEMES = ("http", "https", "mailto")
#: Inline elements: their wiki marks, and the HTML elements for where the marks would be ambiguous.
_EMPHASIS = {"em": ("''", "i"), "strong": ("'''", "b"), "s": ("", "s")}


@dataclass(frozen=True)
class Context:
    """What a text refers to beyond itself.

    ``shift`` is added to the level of each heading; ``image`` gives the uploaded name for an
    image's address, ``link`` the wiki's own target (a page, ``#a heading``) for a link's; None
    where they know none.
    """

    shift: int = 1
    image: Callable[[str], str | None] = lambda address: None
    link: Callable[[str], str | None] = lambda address: None


def render(text: str, context: Context | None = None) -> str:
    """The wikitext of a Markdown text, its blocks divided by empty lines."""
    tree = SyntaxTreeNode(_parser().parse(text))
    return _blocks(tree.children, context or Context())


def first_heading(text: str, context: Context | None = None) -> tuple[str, str]:
    """The text of a first heading of level 1 as wikitext ('' when there is none), and the rest."""
    tree = SyntaxTreeNode(_parser().parse(text))
    here = context or Context()
    first = tree.children[0] if tree.children else None
    if first is None or first.type != "heading" or first.tag != "h1":
        return "", _blocks(tree.children, here)
    return _inline(first.children, here), _blocks(tree.children[1:], here)


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def _blocks(nodes: Sequence[SyntaxTreeNode], here: Context) -> str:
    return "\n\n".join(_block(node, here) for node in nodes)


def _block(node: SyntaxTreeNode, here: Context) -> str:
    write = _BLOCKS.get(node.type)
    return write(node, here) if write else wikitext.literal(node.content)


def _heading(node: SyntaxTreeNode, here: Context) -> str:
    return wikitext.titled(_inline(node.children, here), int(node.tag[1:]) + here.shift)


def _source(node: SyntaxTreeNode, here: Context) -> str:
    return wikitext.source(node.content, node.info.split(" ")[0])


def _quote(node: SyntaxTreeNode, here: Context) -> str:
    return f"<blockquote>\n{_blocks(node.children, here)}\n</blockquote>"


def _list(node: SyntaxTreeNode, here: Context) -> str:
    if _is_plain(node):
        return "\n".join(_plain_items(node, "", here))
    tag, start = ("ul", "") if node.type == "bullet_list" else ("ol", node.attrs.get("start", ""))
    opening = f'{tag} start="{int(start)}"' if start != "" else tag
    items = "\n".join(f"<li>\n{_blocks(item.children, here)}\n</li>" for item in node.children)
    return f"<{opening}>\n{items}\n</{tag}>"


def _is_plain(node: SyntaxTreeNode) -> bool:
    """Whether the wiki's own lists can hold it: each item one paragraph, then only such lists."""
    if "start" in node.attrs:
        return False
    for item in node.children:
        kinds = [child.type for child in item.children]
        if kinds[:1] != ["paragraph"] or _has_image(item.children[0]):
            return False
        if not all(kind in ("bullet_list", "ordered_list") for kind in kinds[1:]):
            return False
    return all(_is_plain(child) for item in node.children for child in item.children[1:])


def _has_image(node: SyntaxTreeNode) -> bool:
    return any(part.type == "image" for part in node.walk())


def _plain_items(node: SyntaxTreeNode, outer: str, here: Context) -> list[str]:
    mark = outer + ("*" if node.type == "bullet_list" else "#")
    lines = []
    for item in node.children:
        lines.append(f"{mark} {_inline(item.children[0].children, here)}")
        for child in item.children[1:]:
            lines += _plain_items(child, mark, here)
    return lines


def _table(node: SyntaxTreeNode, here: Context) -> str:
    rows = [row for part in node.children for row in part.children]
    head = [_inline(cell.children, here) for cell in rows[0].children]
    body = [[_cell(cell, here) for cell in row.children] for row in rows[1:]]
    return wikitext.grid(head, body, css="wikitable")


def _cell(node: SyntaxTreeNode, here: Context) -> str:
    style = node.attrs.get("style")
    text = _inline(node.children, here)
    return f'style="{style}" | {text}' if style else text


def _inline(nodes: Sequence[SyntaxTreeNode], here: Context) -> str:
    """The inline wikitext of a block's children: one line."""
    parts = [
        part for node in nodes for part in (node.children if node.type == "inline" else [node])
    ]
    return _line(parts, here, marks=_unambiguous(parts), outer=True).strip()


def _line(
    parts: Sequence[SyntaxTreeNode], here: Context, *, marks: bool, outer: bool = False
) -> str:
    """Inline nodes one after the other; ``outer`` when they are the whole of a line."""
    last = len(parts) - 1
    return "".join(
        wikitext.literal(part.content, begins=outer and place == 0, ends=outer and place == last)
        if part.type == "text"
        else _piece(part, here, marks)
        for place, part in enumerate(parts)
    )


def _piece(node: SyntaxTreeNode, here: Context, marks: bool) -> str:
    match node.type:
        case "softbreak" | "hardbreak":
            return " " if node.type == "softbreak" else "<br />"
        case "em" | "strong" | "s":
            return _emphasis(node, here, marks)
        case "link":
            return _link(node, here, marks)
        case "image":
            return _image(node, here)
    return wikitext.code(node.content) if node.type == "code_inline" else _text(node.content)


def _emphasis(node: SyntaxTreeNode, here: Context, marks: bool) -> str:
    text = _line(node.children, here, marks=marks)
    mark, tag = _EMPHASIS[node.type]
    return f"{mark}{text}{mark}" if marks and mark else f"<{tag}>{text}</{tag}>"


def _text(content: str) -> str:
    return wikitext.literal(content, begins=False, ends=False)


def _unambiguous(parts: Sequence[SyntaxTreeNode]) -> bool:
    """Whether quote marks can be read in one way alone: nothing nested, nothing side by side."""
    emphasis = [
        part.type in ("em", "strong") for part in parts if part.type != "text" or part.content
    ]
    if any(one and other for one, other in pairwise(emphasis)):
        return False
    return not any(
        inner.type in ("em", "strong")
        for part in parts
        if part.children
        for inner in part.walk(include_self=False)
    )


def _link(node: SyntaxTreeNode, here: Context, marks: bool) -> str:
    address = str(node.attrs.get("href", ""))
    label = _line(node.children, here, marks=marks)
    label = label if label.strip() else _text(address)
    target = here.link(address)
    if target is not None:
        return f"[[{page_name(target)}|{label}]]<nowiki />"
    if address.partition(":")[0].lower() not in SCHEMES or _has_image(node):
        return label
    return f"[{url(address)} {label}]"


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


def _image(node: SyntaxTreeNode, here: Context) -> str:
    alt = node.content
    file = here.image(str(node.attrs.get("src", "")))
    if file is None:
        return _text(f"[{alt}]")
    return wikitext.image(file, alt=alt, caption=str(node.attrs.get("title", "")))


_BLOCKS: dict[str, Callable[[SyntaxTreeNode, Context], str]] = {
    "heading": _heading,
    "paragraph": lambda node, here: _inline(node.children, here),
    "bullet_list": _list,
    "ordered_list": _list,
    "fence": _source,
    "code_block": _source,
    "blockquote": _quote,
    "hr": lambda node, here: "----",
    "table": _table,
}
