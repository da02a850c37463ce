"""An executed notebook: its cells in order, code folded, outputs shown. Pure.

A notebook is what nbformat 4 reads and writes: a mapping of plain JSON values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from labkit.records import Record
from labkit.wiki.client.protocol import Upload as Upload  # noqa: PLC0414 - offered here, too
from labkit.wiki.render import images, markdown, outputs, writing
from labkit.wiki.render.images import Picture
from labkit.wiki.render.outputs import text
from labkit.wiki.render.places import Place
from labkit.wiki.render.tree import (
    Code,
    Document,
    Fold,
    Heading,
    Line,
    Paragraph,
    Part,
    Parts,
    Source,
    Styled,
)
from labkit.wiki.render.uploads import upload as upload  # noqa: PLC0414 - offered here, too


class Rendered(Record):
    """A notebook's title as wikitext ('' when it has none), the rest of it, and its pictures."""

    title: str
    body: str
    uploads: tuple[Upload, ...] = ()


def render(notebook: Mapping[str, Any], *, place: Place | None = None) -> Rendered:
    """The notebook's wikitext; a heading of level 1 at its beginning is its title."""
    title, document = read(notebook)
    written = writing.write(document, place)
    return Rendered(
        title=writing.title(document, title, place), body=written.text, uploads=written.uploads
    )


def read(notebook: Mapping[str, Any]) -> tuple[Line, Document]:
    """The notebook's title and the rest of it."""
    title: Line = ()
    parts: list[Part] = []
    notes: list[Parts] = []
    waiting: list[str] = []
    for cell in notebook["cells"]:
        source = text(cell["source"])
        if cell["cell_type"] == "code":
            waiting += [source] if source.strip() else []
            shown = outputs.read(cell["outputs"])
            if shown:
                parts += [*_source(waiting), *shown]
                waiting = []
        elif cell["cell_type"] == "markdown":
            parts += _source(waiting)
            waiting = []
            found = narrative(cell, first_note=len(notes))
            rest = found.parts
            if not (title or parts):
                title, rest = _title(rest)
            parts += rest
            notes += found.notes
    return title, Document((*parts, *_source(waiting)), tuple(notes))


def narrative(cell: Mapping[str, Any], *, find: markdown.Find | None = None, first_note: int = 0) -> Document:  # fmt: skip
    """A Markdown cell with the pictures that are attached to it, and those that ``find`` gives."""
    attached = attachments(cell)
    seek: Callable[[str], Picture | None] = find or (lambda address: None)
    return markdown.read(
        text(cell["source"]),
        find=lambda address: attached.get(unquote(address)) or seek(address),
        first_note=first_note,
    )


def attachments(cell: Mapping[str, Any]) -> dict[str, Picture]:
    """The pictures that are attached to a cell, by the addresses that its text has for them."""
    return {
        f"attachment:{name}": picture
        for name, data in cell.get("attachments", {}).items()
        for mime in images.MIMES
        if mime in data and (picture := images.of(mime, text(data[mime])))
    }


def _title(parts: Parts) -> tuple[Line, Parts]:
    """The first heading's line where it is of level 1, and the rest."""
    first = parts[0] if parts else None
    if isinstance(first, Heading) and first.level == 1:
        return first.line, parts[1:]
    return (), parts


def _source(cells: Sequence[str]) -> Parts:
    """The code of cells that follow each other without an output between them: folded, but for a
    single line."""
    if not cells:
        return ()
    if len(cells) == 1 and "\n" not in cells[0].strip():
        return (Paragraph((Styled("small", (Code(cells[0].strip()),)),)),)
    return (Fold("Code", (Source("\n\n".join(cells), "python"),)),)
