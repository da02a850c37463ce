"""Where on a wiki a text stands, and where its links may lead. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from labkit.wiki.client.protocol import Features

#: Link targets that are kept as links; every other one leaves its text alone.
SCHEMES = ("http", "https", "mailto")


@dataclass(frozen=True)
class Place:
    """Where on a wiki a text stands.

    ``shift`` is added to a heading's level, and ``least`` is the lowest level that comes out of it;
    ``link`` gives the wiki's own target (a page, ``#a heading``) for a link's address, None where it
    knows none; ``name`` tells apart the anchors of several texts on one page; ``read`` gives a
    file's content by its path relative to the lab's outputs.
    """

    shift: int = 1
    least: int = 2
    name: str = "text"
    link: Callable[[str], str | None] = lambda address: None
    read: Callable[[str], bytes | None] = lambda path: None
    features: Features = field(default_factory=Features)


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


def is_outside(address: str) -> bool:
    """Whether a link leads to another site."""
    scheme, _, rest = address.partition(":")
    return scheme.lower() in SCHEMES and bool(rest.strip("/"))
