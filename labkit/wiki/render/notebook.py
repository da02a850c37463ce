"""An executed notebook read into the document tree: cells in order, code folded, outputs shown. Pure.

A notebook and its outputs are what nbformat 4 reads and writes: mappings of plain JSON values. Of each
output the richest form is taken that can be shown and cannot act.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any
from urllib.parse import unquote

from pydantic import ValidationError

from labkit.core.result import FIGURE_MIME, RESULT_MIME, Figure, Result
from labkit.wiki.render import markdown, pictures, terminal, tree, writing
from labkit.wiki.render.pictures import Picture
from labkit.wiki.render.tree import Paragraph, Part, Parts, Styled, Text

WIDGET = "application/vnd.jupyter.widget-view+json"
#: The text/plain of a picture without a description: the repr of its object.
_NAMELESS = re.compile(r"\s*(?:<.*>|\S*\(.*\)|\S+ at 0x[0-9a-f]+)?\s*", re.DOTALL)

#: An output's forms by their MIME types, or a cell's attachment's.
Bundle = Mapping[str, Any]


def render(notebook: Mapping[str, Any], *, place: writing.Place | None = None) -> writing.Written:
    """The notebook's wikitext, and its pictures.

    A heading of level 1 at its beginning is its title, which its place on the wiki says already.
    """
    return writing.write(read(notebook), place)


def read(notebook: Mapping[str, Any]) -> Parts:
    """The notebook without its title."""
    parts: list[Part] = []
    waiting: list[str] = []
    first = True
    for cell in notebook["cells"]:
        found = narrative(cell) if cell["cell_type"] == "markdown" else ()
        shown = outputs(cell["outputs"]) if cell["cell_type"] == "code" else ()
        if cell["cell_type"] == "code" and text(cell["source"]).strip():
            waiting.append(text(cell["source"]))
        if shown or found:
            titled = first and not parts and any(map(_is_title, found[:1]))
            parts += [*_source(waiting), *shown, *found[titled:]]
            waiting = []
            first = first and not found
    return (*parts, *_source(waiting))


def narrative(cell: Mapping[str, Any]) -> Parts:
    """A Markdown cell with the pictures that are attached to it."""
    attached = {
        f"attachment:{name}": picture
        for name, data in cell.get("attachments", {}).items()
        if (picture := next(_pictures(data), None))
    }
    return markdown.read(text(cell["source"]), find=lambda address: attached.get(unquote(address)))


def text(value: str | Iterable[str]) -> str:
    """A notebook's multi-line string: one string or a list of lines."""
    return value if isinstance(value, str) else "".join(map(str, value))


def _is_title(part: Part) -> bool:
    return isinstance(part, tree.Heading) and part.level == 1


def _source(cells: Sequence[str]) -> Parts:
    """The code of cells that follow each other without an output between them: folded, but for a
    single line."""
    if not cells:
        return ()
    if len(cells) == 1 and "\n" not in cells[0].strip():
        return (Paragraph((Styled("small", (tree.Code(cells[0].strip()),)),)),)
    return (tree.Fold("Code", (tree.Source("\n\n".join(cells), "python"),)),)


# -- outputs ----------------------------------------------------------------------------------


def outputs(given: Sequence[Mapping[str, Any]]) -> Parts:
    """The parts that a cell's outputs show, in their order."""
    streams = groupby(given, key=lambda output: (output["output_type"], output.get("name")))
    return tuple(part for key, group in streams for part in _output(*key, list(group)))


def _output(kind: str, name: str | None, group: Sequence[Mapping[str, Any]]) -> Iterator[Part]:
    """The parts of outputs of one kind; what was written to one stream without anything between is one."""
    if kind == "stream":
        written = "".join(text(output["text"]) for output in group)
        yield from terminal.read(written, "stderr" if name == "stderr" else "")
        return
    for output in group:
        if kind == "error":
            yield from _error(output)
        elif kind in ("display_data", "execute_result"):
            yield from _shown(output["data"], output.get("metadata") or {})


def _error(output: Mapping[str, Any]) -> Parts:
    """An exception: in a long traceback its own sentence first."""
    said = terminal.read(f"{output['ename']}: {output['evalue']}", "error")
    trace = terminal.read("\n".join(output["traceback"]), "error")
    if not trace:
        return said
    return trace if isinstance(trace[0], tree.Screen) else (*said, *trace)


def _shown(data: Bundle, metadata: Bundle) -> Parts:
    """The first form of an output that there is, from labkit's own to plain text."""
    kinds = ", ".join(sorted(set(data) - {"text/plain"}))
    lost = _aside(f"an output that a page cannot show: {kinds}") if kinds else ()
    return next(filter(None, _forms(data, metadata)), lost)


def _forms(data: Bundle, metadata: Bundle) -> Iterator[Parts]:
    """The forms of an output, the richest first; empty where one shows nothing.

    A widget lives in the notebook alone. HTML's headings begin no section of the page. The bare name of
    an object says less than the sentence about its other forms.
    """
    said = text(data.get("text/plain", ""))
    yield _own(data)
    if WIDGET in data:
        name = " ".join(said.split())[:200] or "?"
        yield _aside(f"an interactive widget, alive in the notebook alone: {name}")
    yield _picture(data, metadata, said)
    if "text/markdown" in data:
        yield markdown.read(text(data["text/markdown"]))
    if "text/html" in data:
        yield tree.unheaded(markdown.read_html(text(data["text/html"])))
    if len(data) == 1 or not _NAMELESS.fullmatch(said):
        yield terminal.read(said)


def _aside(sentence: str) -> Parts:
    """A sentence in place of an output that a page cannot show."""
    return (Paragraph((Styled("small", (Styled("em", (Text(f"({sentence})"),)),)),)),)


def _own(data: Bundle) -> Parts:
    """A result or a figure of labkit's own; one of another version is left to its other forms."""
    try:
        if RESULT_MIME in data:
            return (tree.Shown(Result[Any].model_validate(data[RESULT_MIME])),)
        if FIGURE_MIME in data:
            return (
                tree.Shown(Figure.model_validate(data[FIGURE_MIME]), next(_pictures(data), None)),
            )
    except ValidationError:
        pass
    return ()


def _picture(data: Bundle, metadata: Bundle, said: str) -> Parts:
    """A picture, described by its alt text or by what its object says."""
    picture = next(_pictures(data), None)
    given = (item.get("alt") for item in metadata.values() if isinstance(item, Mapping))
    alt = str(next(filter(None, given), "") or terminal.plain(said))
    known = "a picture" if _NAMELESS.fullmatch(alt) else alt.strip()
    return (Paragraph((tree.Image(known, picture),)),) if picture else ()


def _pictures(data: Bundle) -> Iterator[Picture]:
    """The pictures in an output, or attached to a cell, that are whole; the best first."""
    found = (pictures.of(text(data[mime])) for mime in pictures.MIMES if mime in data)
    return filter(None, found)
