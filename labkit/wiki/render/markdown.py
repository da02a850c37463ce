"""Markdown read into the document tree, by markdown-it-py and :mod:`labkit.wiki.render.html_reader`. Pure.

CommonMark with tables, strike-through, task lists, footnotes and formulas. HTML in the text means what it means to a browser, without
anything that acts; elements that no page shows, and tags that come in no pairs, are text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.footnote import footnote_plugin

from labkit.wiki.render import html_reader
from labkit.wiki.render.html_reader import Find
from labkit.wiki.render.tree import Document

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
#: A whole tag (CommonMark 0.31, section 6.6), of which the first group is ``/`` where it closes.
_TAG = re.compile(
    r"""<(/?)([A-Za-z][\w-]*)(?:\s+[^\s"'<>/=]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>=`]+))?)*\s*/?>"""
)
_VOID = ("br", "img", "wbr")


def read(text: str, *, find: Find | None = None, first_note: int = 0) -> Document:
    """The text's parts and footnotes; its marks count from ``first_note``.

    ``find`` gives the pictures that are not in the text itself.
    """
    parser = _parser()
    env = {"first_note": first_note}
    tokens = parser.parse(text, env)
    for token in tokens:
        _pair(token.children or ())
    body, *notes = (
        html_reader.read(parser.renderer.render(part, parser.options, env), find=find)
        for part in _divided(tokens)
    )
    return Document(body, tuple(notes))


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    parser.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True)
    parser.use(footnote_plugin).use(amsmath_plugin)
    parser.validateLink = _is_shown  # type: ignore[method-assign,assignment]  # as its manual does
    for name, rule in _RULES.items():
        parser.add_render_rule(name, rule)
    return parser


def _is_shown(address: str) -> bool:
    """Whether a link is read as one: the writers decide where it may lead."""
    return not re.match(r"\s*(?:javascript|vbscript|file|data:(?!image/))", address, re.IGNORECASE)


def _divided(tokens: Sequence[Token]) -> list[list[Token]]:
    """The tokens of the text, then those of each footnote."""
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.type == "footnote_open":
            parts.append([])
        elif not token.type.startswith("footnote_"):
            parts[-1].append(token)
    return parts


def _pair(line: Sequence[Token]) -> None:
    """Makes text of a line's HTML that is not known, not closed, or not opened."""
    opened: list[tuple[str, Token]] = []
    for token in line:
        if token.type != "html_inline" or token.content.startswith("<!--"):
            continue
        tag = _TAG.fullmatch(token.content)
        closes, name = (tag[1], tag[2].lower()) if tag else ("", "")
        if closes and opened and opened[-1][0] == name:
            opened.pop()
        elif not closes and name in html_reader.INLINE:
            opened += [] if name in _VOID else [(name, token)]
        else:
            token.type = "text"
    for _, token in opened:
        token.type = "text"


def _block(_: Any, tokens: Sequence[Token], n: int, *more: Any) -> str:
    """A block of HTML: unchanged if a page shows all of its elements, else its characters as text."""
    content = _COMMENT.sub("", tokens[n].content)
    known = all(
        tag[2].lower() in html_reader.INLINE | html_reader.BLOCKS for tag in _TAG.finditer(content)
    )
    if known and not re.search(r"<[A-Za-z/!?]", _TAG.sub("", content)):
        return content
    return f"<p>{'<br>'.join(map(escape, content.strip().splitlines()))}</p>"


def _math(_: Any, tokens: Sequence[Token], n: int, *more: Any) -> str:
    token = tokens[n]
    if token.type == "math_inline":
        return f'<code class="math">{escape(token.content)}</code>'
    shown = f'<code class="math display">{escape(token.content)}</code>'
    return shown if token.type == "math_inline_double" else f"<p>{shown}</p>"


def _note(_: Any, tokens: Sequence[Token], n: int, options: Any, env: Any) -> str:
    return f'<sup class="note-{env["first_note"] + tokens[n].meta["id"]}"></sup>'


_RULES = {
    "html_block": _block,
    "footnote_ref": _note,
    "hardbreak": lambda *_: "<br>",
    "table_open": lambda *_: '<table class="markdown">',
    **dict.fromkeys(
        ("math_inline", "math_inline_double", "math_block", "math_block_label", "amsmath"), _math
    ),
}  # fmt: skip
