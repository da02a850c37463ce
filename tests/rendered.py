"""The tables of what is rendered: what was written, its wikitext, and what a real wiki makes of that.

A row in ``tests/rendering/*.txt`` is three texts under its name. A picture's name holds the hash of its
content, which depends on the versions of the libraries that paint it: there it stands as ``H``, and so do
the folders that a wiki makes of it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labkit.wiki.render.writing import Place

FOLDER = Path(__file__).parent / "rendering"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
PNG = base64.b64decode(PIXEL)
#: Where the texts of the tables stand: one other page is known.
PLACE = Place(name="t", link={"05-web.ipynb": "#Web | sites"}.get)


@dataclass(frozen=True)
class Row:
    """A row of a table; ``PNG`` in what was written stands for a picture's base64."""

    name: str
    written: str
    wikitext: str
    html: str


def rows(table: str) -> list[Row]:
    """The rows of a table, by its file's name."""
    return list(_rows((FOLDER / f"{table}.txt").read_text(encoding="utf-8")))


def _rows(text: str) -> Iterator[Row]:
    for chunk in re.split(r"^===== ", text, flags=re.MULTILINE)[1:]:
        name, _, rest = chunk.partition("\n")
        written, wikitext, html = (
            part.strip("\n") for part in re.split(r"^-----$", rest, flags=re.M)
        )
        yield Row(name, written.replace("PNG", PIXEL), wikitext, html)


def unnamed(text: str) -> str:
    """The text with ``H`` for each hash in a picture's name, and for the folders named by it."""
    named = re.sub(r"-[0-9a-f]{16}\.", "-H.", text)
    return re.sub(r"/[0-9a-f]/[0-9a-f]{2}/", "/H/", named).strip("\n")


#: What MediaWiki 1.43 writes, and what 1.39, as the tables have it; a framed picture is :func:`_frame`'s.
NEWER = (
    (r'^<div class="[^"]*mw-parser-output"[^>]*>(.*)</div>$', r"\1"),
    (r'<span class="cite-bracket">(.*?)</span>', r"\1"),
    (r'<span typeof="mw:File/Frameless">(<a .*?</a>)</span>', r"\1"),
    (r'<span class="mw-valign-bottom" typeof="mw:File"><span>(.*?)class="mw-file-element"(.*?)</span></span>',
     r'\1style="vertical-align: bottom"\2'),
    (' class="mw-file-description"', ' class="image"'),
    (' class="mw-file-element"', ""),
)  # fmt: skip
FIGURE = re.compile(
    r'<figure class="mw-halign-none" typeof="mw:File/Thumb"><a (?P<href>href="\S*").*? width="(?P<width>\d+)".*?'
    r"<figcaption>(?P<caption>.*?)</figcaption></figure>"
)


def inner(html: str) -> str:
    """What a wiki makes of a text, as MediaWiki 1.39 writes it, without the element around it."""
    html = FIGURE.sub(_frame, html)
    for newer, older in NEWER:
        html = re.sub(newer, older, html.strip(), flags=re.DOTALL)
    return html.strip()


def _frame(figure: re.Match[str]) -> str:
    """A figure as the boxes that were there before it."""
    href, width, caption = figure["href"], int(figure["width"]) + 2, figure["caption"]
    picture = figure[0].partition(">")[2].partition("<figcaption>")[0]
    return (
        f'<div class="thumb tnone"><div class="thumbinner" style="width:{width}px;">'
        f'{picture.replace("mw-file-element", "thumbimage")}  <div class="thumbcaption">'
        f'<div class="magnify"><a {href} class="internal" title="Enlarge"></a></div>{caption}</div></div></div>'
    )
