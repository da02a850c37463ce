"""An executed notebook, or a stage's record, as the blocks of a page of the review site."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labkit.core.result import Figure, Result
from labkit.model.lab import Lab
from labkit.report.site import markup
from labkit.report.site.hypertext import Hypertext
from labkit.report.stages import signing
from labkit.report.stages.record import StageRecord
from labkit.wiki.render import notebook as notebooks
from labkit.wiki.render.notebook import text
from labkit.wiki.render.tree import Document, Heading, Part, Parts, Screen, Shown, plain, slug

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Picture:
    """A figure on a page; ``data`` is its PNG (empty when it is lost), ``file`` what the site calls it."""

    figure: Figure
    data: bytes

    @property
    def file(self) -> str:
        """A name that says the content, so that two runs' pictures never stand for each other."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.figure.name)[:60]
        return f"{name}-{hashlib.sha256(self.data).hexdigest()[:12]}.png"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels (PNG, section 11.2.2: the header chunk)."""
        if self.data[:8] != b"\x89PNG\r\n\x1a\n":
            return 0, 0
        return int.from_bytes(self.data[16:20]), int.from_bytes(self.data[20:24])


@dataclass(frozen=True)
class Source:
    """A code cell: its ``In`` number, 0 when it did not run, and its code as HTML."""

    cell: int
    html: Markup


@dataclass(frozen=True)
class Block:
    """One thing on a stage's page; exactly one of the contents is there, and says the kind.

    ``code`` are cells that follow each other without an output between them; ``shown`` is what another
    program wrote or drew, and ``output`` its words.
    """

    cell: int = 0
    prose: Markup | None = None
    code: tuple[Source, ...] = ()
    result: Result[Any] | None = None
    picture: Picture | None = None
    shown: Markup | None = None
    output: str = ""


@dataclass(frozen=True)
class Showing:
    """The blocks of a page, and the pictures that they show, by their addresses."""

    blocks: tuple[Block, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


def of_notebook(notebook: Mapping[str, Any], pages: Mapping[str, str]) -> Showing:
    """An executed notebook (nbformat 4) as blocks, in its order; its footnotes are the last one.

    Of each output the richest form is taken that can be shown and cannot act; a result or a figure of
    labkit's own by its record. ``pages`` are the site's, by the file names of the notebooks they show.
    """
    cells = tuple(_cells(notebook))
    told = [told for _, told in cells if told]
    heads = (p for t in told for p in t.parts if isinstance(p, Heading))
    writer = Hypertext(
        headings=frozenset(slug(plain(head.line)) for head in heads),
        pages=pages,
        notes=[note for t in told for note in t.notes],
    )
    blocks = list(_blocks(cells, writer))
    notes = writer.footnotes()
    return Showing((*blocks, *([Block(prose=notes)] if notes else [])), writer.files)


def of_record(lab: Lab, record: StageRecord) -> Showing:
    """A record as blocks, where its notebook was not kept: it was run by hand."""
    return Showing(tuple(_recorded(lab, record)))


def _recorded(lab: Lab, record: StageRecord) -> Iterator[Block]:
    for entry in record.entries:
        if entry.figure:
            data = signing.read(lab, entry.figure.png) or b""
            yield Block(cell=entry.cell, picture=Picture(entry.figure, data))
        else:
            yield Block(cell=entry.cell, result=entry.result)


def _cells(notebook: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Document | None]]:
    """The cells, the narrative's with what they tell; footnotes are counted through all of them."""
    first = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown" and not _is_marker(cell):
            told = notebooks.narrative(cell, first_note=first)
            first += len(told.notes)
            yield cell, told
        elif cell["cell_type"] == "code" and text(cell["source"]).strip():
            yield cell, None


def _blocks(
    cells: Sequence[tuple[Mapping[str, Any], Document | None]], writer: Hypertext
) -> Iterator[Block]:
    waiting: list[Source] = []
    for cell, told in cells:
        if told:
            yield from _folded(waiting)
            yield Block(prose=writer.show(told.parts))
            continue
        number = cell.get("execution_count") or 0
        waiting.append(Source(number, markup.code(text(cell["source"]))))
        if shown := notebooks.outputs(cell.get("outputs", ())):
            yield from _folded(waiting)
            yield from _output(number, shown, writer)
    yield from _folded(waiting)


def _output(number: int, parts: Parts, writer: Hypertext) -> Iterator[Block]:
    """A cell's outputs: labkit's own each by itself, other programs' as they come."""
    for part in parts:
        if not isinstance(part, Shown):
            yield Block(cell=number, shown=writer.show([part]), output=_words(part))
        elif isinstance(part.value, Figure):
            data = part.image.data if part.image else b""
            yield Block(cell=number, picture=Picture(part.value, data))
        else:
            yield Block(cell=number, result=part.value)


def _words(part: Part) -> str:
    return part.text if isinstance(part, Screen) else ""


def _folded(waiting: list[Source]) -> Iterator[Block]:
    """The waiting code as one block, if there is any; nothing waits afterwards."""
    if waiting:
        yield Block(cell=waiting[-1].cell, code=tuple(waiting))
        waiting.clear()


def _is_marker(cell: Mapping[str, Any]) -> bool:
    """Whether papermill put this cell there, to mark where an error was: the page says that itself."""
    return "papermill-error-cell-tag" in cell.get("metadata", {}).get("tags", ())
