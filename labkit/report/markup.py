"""Notebook text as HTML that cannot do anything: markdown, code, what programs wrote."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markupsafe import Markup

#: ECMA-48 control sequences: colours and the like, which a page shows as nothing.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")


def prose(source: str) -> Markup:
    """A markdown cell as HTML, its headings one level lower: the page has one of its own.

    HTML in it is shown as text, a picture by its alt text: the site takes nothing from outside.
    """
    from markupsafe import Markup

    rendering = _markdown()
    tokens = rendering.parse(source)
    for token in tokens:
        if token.type.startswith("heading_"):
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"
    html = rendering.renderer.render(tokens, rendering.options, {})
    return Markup(html)  # noqa: S704 - markdown-it escapes, html is off


def code(source: str) -> Markup:
    """Python source as HTML, its words marked with Pygments' classes."""
    from markupsafe import Markup
    from pygments import highlight  # type: ignore[import-untyped]  # it has no annotations
    from pygments.formatters.html import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers.python import PythonLexer  # type: ignore[import-untyped]

    return Markup(  # noqa: S704 - Pygments escapes
        highlight(source, PythonLexer(), HtmlFormatter(nowrap=True))
    )


def plain(text: str) -> str:
    """What a program wrote, without its control sequences and control characters."""
    kept = (c for c in _CONTROL.sub("", text) if c in "\n\t" or c.isprintable())
    return "".join(kept)


@functools.cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    rendering = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    rendering.add_render_rule("image", _picture)
    return rendering


def _picture(self: Any, tokens: Any, index: int, options: Any, env: Mapping[str, Any]) -> str:
    from html import escape

    return escape(f"[{tokens[index].content}]")
