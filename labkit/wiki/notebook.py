"""An executed notebook to wikitext: its cells in order, code folded, outputs shown. Pure.

A notebook is what nbformat 4 reads and writes: a mapping of plain JSON values.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from pydantic import Field, ValidationError

from labkit.result import FIGURE_MIME, RESULT_MIME, Figure, Record, Result
from labkit.wiki import markdown, terminal, wikitext

#: A number as pandas prints one.
_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?%?|NaN", re.IGNORECASE)
_PICTURES = {"image/png": "png", "image/jpeg": "jpg"}


class Upload(Record):
    """A picture that a page shows: ``name`` holds the hash of its content, ``text`` describes it."""

    name: str
    text: str
    data: bytes = Field(repr=False)


class Rendered(Record):
    """A notebook's title as wikitext ('' when it has none), the rest of it, and its pictures."""

    title: str
    body: str
    uploads: tuple[Upload, ...] = ()


#: Gives a file's content by its path relative to the lab's outputs; None when it cannot be read.
Read = Callable[[str], bytes | None]


def render(
    notebook: Mapping[str, Any], *, read: Read, context: markdown.Context | None = None
) -> Rendered:
    """The notebook's wikitext; a heading of level 1 at its beginning is its title."""
    uploads: dict[str, Upload] = {}
    title, parts, waiting = "", list[str](), list[str]()
    for cell in notebook["cells"]:
        text = _text(cell["source"])
        if cell["cell_type"] == "code":
            waiting += [text] if text.strip() else []
            shown = [_output(output, read, uploads) for output in cell["outputs"]]
            if any(shown):
                parts += [*_source(waiting), *filter(None, shown)]
                waiting = []
        elif cell["cell_type"] == "markdown":
            parts += _source(waiting)
            waiting = []
            here = _attached(context or markdown.Context(), cell, uploads)
            heading, body = markdown.first_heading(text, here) if not (title or parts) else ("", "")
            title = title or heading
            parts.append(body if heading else markdown.render(text, here))
    body = "\n\n".join(part for part in [*parts, *_source(waiting)] if part)
    return Rendered(title=title, body=body, uploads=tuple(uploads.values()))


def upload(name: str, data: bytes, *, ending: str, text: str) -> Upload:
    """A picture to upload: one name for one content, so that nothing is ever overwritten."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "picture"
    hashed = hashlib.sha256(data).hexdigest()[:16]
    return Upload(name=f"Labkit-{slug}-{hashed}.{ending}", text=wikitext.literal(text), data=data)


def _source(cells: list[str]) -> list[str]:
    """The code of cells that follow each other without an output between them: folded, but for a
    single line."""
    if not cells:
        return []
    if len(cells) == 1 and "\n" not in cells[0].strip():
        return [f"<small>{wikitext.code(cells[0].strip())}</small>"]
    return [wikitext.folded("Code", wikitext.source("\n\n".join(cells), "python"))]


def _output(output: Mapping[str, Any], read: Read, uploads: dict[str, Upload]) -> str:
    match output["output_type"]:
        case "stream":
            return terminal.render(_text(output["text"]))
        case "error":
            said = "\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}"
            return terminal.render(said)
        case "display_data" | "execute_result":
            return _shown(output["data"], read, uploads)
    return ""


def _shown(data: Mapping[str, Any], read: Read, uploads: dict[str, Upload]) -> str:
    """The richest form of an output that the page can hold."""
    try:
        if RESULT_MIME in data:
            return wikitext.result(Result[Any].model_validate(data[RESULT_MIME]))
        if FIGURE_MIME in data:
            return _figure(Figure.model_validate(data[FIGURE_MIME]), data, read, uploads)
    except ValidationError:
        pass  # of another version of labkit: its text says the same
    if picture := _picture(data):
        return _picture_output(picture, data, uploads)
    if "text/markdown" in data:
        return markdown.render(_text(data["text/markdown"]))
    if frame := _frame(_text(data.get("text/html", ""))):
        return frame
    return terminal.render(_text(data["text/plain"])) if "text/plain" in data else ""


def _figure(figure: Figure, data: Mapping[str, Any], read: Read, uploads: dict[str, Upload]) -> str:
    inline = _picture(data)
    content = read(figure.png) or (inline[1] if inline else None)
    if content is None:
        return f"<i>{wikitext.literal(f'(the picture is missing) {figure.caption}')}</i>"
    item = upload(figure.name, content, ending="png", text=figure.alt)
    uploads[item.name] = item
    return wikitext.figure(figure, item.name)


def _picture(data: Mapping[str, Any]) -> tuple[str, bytes] | None:
    for mime, ending in _PICTURES.items():
        if mime in data:
            try:
                return ending, base64.b64decode(_text(data[mime]))
            except binascii.Error:
                return None
    return None


def _picture_output(
    picture: tuple[str, bytes], data: Mapping[str, Any], uploads: dict[str, Upload]
) -> str:
    alt = terminal.plain(_text(data.get("text/plain", ""))).strip() or "a picture"
    item = upload("output", picture[1], ending=picture[0], text=alt)
    uploads[item.name] = item
    return wikitext.image(item.name, alt=alt)


def _attached(
    context: markdown.Context, cell: Mapping[str, Any], uploads: dict[str, Upload]
) -> markdown.Context:
    """The context with the pictures that are attached to the cell."""
    attached: dict[str, str] = {}
    for name, data in cell.get("attachments", {}).items():
        if picture := _picture(data):
            item = upload(name.rpartition(".")[0], picture[1], ending=picture[0], text=name)
            uploads[item.name] = item
            attached[f"attachment:{name}"] = item.name
    return replace(context, image=lambda address: attached.get(address) or context.image(address))


def _text(value: str | Iterable[str]) -> str:
    """A notebook's multi-line string: one string or a list of lines."""
    return value if isinstance(value, str) else "".join(value)


def _frame(html: str) -> str:
    """A pandas DataFrame's HTML as a native table, '' for any other HTML."""
    if 'class="dataframe"' not in html:
        return ""
    reader = _Frame()
    reader.feed(html)
    reader.close()
    if reader.spans or len(reader.rows) < 1:
        return ""
    size = len(reader.rows) - 1
    long = size > wikitext.LONG
    return wikitext.grid(
        [wikitext.literal(text) for text in reader.rows[0]],
        [[_frame_cell(text) for text in row] for row in reader.rows[1:]],
        caption=f"{size} rows" if long else "",
        css="wikitable sortable" + (" mw-collapsible mw-collapsed" if long else ""),
    )


def _frame_cell(text: str) -> str:
    safe = wikitext.literal(text)
    return f'style="text-align:right" | {text}' if _NUMBER.fullmatch(text) else safe


class _Frame(HTMLParser):
    """The texts of a table's cells, row by row; ``spans`` when a cell takes the room of several."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.spans = False
        self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._cell = True
            self.spans |= any(name in ("colspan", "rowspan") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr", "table"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data
