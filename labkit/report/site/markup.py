"""Programs' words as HTML that cannot do anything."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from labkit.display import shown
from labkit.wiki.render.wikitext import LANGUAGES

if TYPE_CHECKING:
    from markupsafe import Markup

#: ECMA-48 control sequences: colours and the like, which a page shows as nothing.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")


def code(source: str, language: str = "python") -> Markup:
    """Source as HTML, its words marked with Pygments' classes where the language is known."""
    from markupsafe import Markup, escape

    lexer = _lexer(language)
    if lexer is None:
        return escape(plain(source))
    from pygments import highlight  # type: ignore[import-untyped]  # it has no annotations
    from pygments.formatters.html import HtmlFormatter  # type: ignore[import-untyped]

    return Markup(highlight(plain(source), lexer, HtmlFormatter(nowrap=True)))  # noqa: S704 - it escapes


def breakable(text: str) -> Markup:
    """A table cell's text as HTML in which only long words may be broken, and those where one would
    break them by hand: after a dot, a slash, a comma and their like."""
    from markupsafe import Markup, escape

    parts = re.split(r"(\S{25,})", text)
    broken = [_broken(part) if place % 2 else [part] for place, part in enumerate(parts)]
    joined = (Markup("<wbr>").join(map(escape, pieces)) for pieces in broken)
    return Markup("").join(joined)


def _broken(word: str) -> list[str]:
    """A long word in pieces: after its punctuation, and at least every 24 characters."""
    return re.findall(r"[^./,:=_@\[\]-]{1,24}[./,:=_@\[\]-]*|[./,:=_@\[\]-]{1,24}", word)


def plain(text: str) -> str:
    """What a program wrote, without its control sequences; control characters are made visible."""
    return shown(_CONTROL.sub("", text))


def _lexer(language: str) -> Any:
    """Pygments' reader of a language, None for one that is not known."""
    from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]

    name = LANGUAGES.get(language.strip().lower())
    return get_lexer_by_name(name, stripnl=False) if name else None
