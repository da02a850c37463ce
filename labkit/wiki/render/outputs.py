"""A code cell's outputs read into :mod:`labkit.wiki.render.tree`: of each, the richest form that can be shown
and cannot act. Pure.

An output is what nbformat 4 reads and writes: a mapping of plain JSON values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from labkit.core.result import FIGURE_MIME, RESULT_MIME, Figure, Result
from labkit.wiki.render import foreign, formulas, images, markdown, terminal
from labkit.wiki.render.images import Picture
from labkit.wiki.render.tree import (
    Aside,
    Fold,
    Formula,
    Image,
    Paragraph,
    Parts,
    Screen,
    Shown,
    Source,
    Terms,
)
from labkit.wiki.render.walking import unheaded

WIDGET = "application/vnd.jupyter.widget-view+json"
#: What a picture's text says when nobody described it: a program's name for the object.
_NAMELESS = re.compile(r"\s*(?:<.*>|\S*\(.*\)|\S+ at 0x[0-9a-f]+)?\s*", re.DOTALL)
_TEX = re.compile(r"\s*(\$\$?|\\\[|\\\()(.*?)(\$\$?|\\\]|\\\))\s*", re.DOTALL)


def read(outputs: Sequence[Mapping[str, Any]]) -> Parts:
    """The parts that a cell's outputs show, in their order."""
    return tuple(part for output in _joined(outputs) for part in _output(output))


def text(value: str | Iterable[str]) -> str:
    """A notebook's multi-line string: one string or a list of lines."""
    return value if isinstance(value, str) else "".join(map(str, value))


def _joined(outputs: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The outputs, what was written to one stream without anything between as one."""
    before: dict[str, Any] | None = None
    for output in outputs:
        stream = output["output_type"] == "stream"
        if before and stream and output.get("name") == before.get("name"):
            before["text"] += text(output["text"])
            continue
        if before:
            yield before
        before = {**output, "text": text(output["text"])} if stream else None
        if not stream:
            yield output
    if before:
        yield before


def _output(output: Mapping[str, Any]) -> Parts:
    match output["output_type"]:
        case "stream":
            stderr = output.get("name") == "stderr"
            return terminal.read(output["text"], "stderr" if stderr else "")
        case "error":
            return _error(output)
        case "display_data" | "execute_result":
            return _shown(output["data"], output.get("metadata") or {})
    return ()


def _error(output: Mapping[str, Any]) -> Parts:
    """An exception: in a long traceback its own sentence first."""
    said = f"{output['ename']}: {output['evalue']}"
    trace = terminal.read("\n".join(output["traceback"]), "error")
    if not trace:
        return terminal.read(said, "error")
    if isinstance(trace[0], Screen):
        return trace
    return (*terminal.read(said, "error"), *trace)


def _shown(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Parts:
    """The first form of an output that there is, from labkit's own to plain text."""
    for form in _FORMS:
        if parts := form(data, metadata):
            return parts
    kinds = ", ".join(sorted(set(data) - {"text/plain"}))
    return (Aside(f"(an output that a page cannot show: {kinds})"),) if kinds else ()


def _own(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Parts:
    """A result or a figure of labkit's own; one of another version is left to its other forms."""
    try:
        if RESULT_MIME in data:
            return (Shown(Result[Any].model_validate(data[RESULT_MIME])),)
        if FIGURE_MIME in data:
            found = next(_pictures(data), None)
            return (Shown(Figure.model_validate(data[FIGURE_MIME]), found[1] if found else None),)
    except ValidationError:
        pass
    return ()


def _widget(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Parts:
    """A widget, by what it says of itself: it lives in the notebook alone."""
    if WIDGET not in data:
        return ()
    said = " ".join(text(data.get("text/plain", "")).split())
    return (Aside(f"(an interactive widget, alive in the notebook alone: {said[:200] or '?'})"),)


def _formula(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Parts:
    """TeX, where it is a formula that can be drawn."""
    tex = text(data.get("text/latex", ""))
    found = _TEX.fullmatch(tex)
    bare = (found[2] if found else tex).strip().removeprefix("\\displaystyle").strip()
    if not tex or formulas.draw(bare, display=True) is None:
        return ()
    return (Paragraph((Formula(bare, display=True),)),)


def _picture(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Parts:
    """A picture, described by its alt text or by what its object says."""
    for mime, picture in _pictures(data):
        alt = str(_of(metadata, mime).get("alt") or "") or terminal.plain(text(data.get("text/plain", "")))  # fmt: skip
        known = not _NAMELESS.fullmatch(alt)
        return (Paragraph((Image(alt.strip() if known else "a picture", picture),)),)
    return ()


def _pictures(data: Mapping[str, Any]) -> Iterator[tuple[str, Picture]]:
    """The pictures in an output that are whole."""
    for mime in images.MIMES:
        if mime in data and (picture := images.of(mime, text(data[mime]))):
            yield mime, picture


def _of(metadata: Mapping[str, Any], mime: str) -> Mapping[str, Any]:
    inner = metadata.get(mime)
    return inner if isinstance(inner, Mapping) else {}


def _markdown(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Parts:
    if "text/markdown" not in data:
        return ()
    found = markdown.read(text(data["text/markdown"]))
    notes = Terms(tuple(((), note) for note in found.notes))
    return (*found.parts, notes) if found.notes else found.parts


def _html(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Parts:
    """The texts and tables of HTML; its headings are none of the page's."""
    return unheaded(foreign.read(text(data["text/html"]))) if "text/html" in data else ()


def _json(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Parts:
    """JSON, indented; long ones folded."""
    if "application/json" not in data:
        return ()
    lines = json.dumps(data["application/json"], indent=2, ensure_ascii=False)
    return source(lines, "json", label="JSON")


def _plain(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Parts:
    """Plain text; a bare name of an object says less than the forms that there are none of."""
    said = text(data.get("text/plain", ""))
    return () if len(data) > 1 and _NAMELESS.fullmatch(said) else terminal.read(said)


def _latex(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Parts:
    return source(text(data["text/latex"]), "latex", label="LaTeX") if "text/latex" in data else ()


def source(lines: str, language: str, *, label: str) -> Parts:
    """Lines of a program or of data, the longest cut; long ones folded under a label."""
    count = lines.count("\n") + 1
    if count > terminal.LIMIT or len(lines) > terminal.CHARACTERS:
        return terminal.read(lines)
    part = Source(lines, language)
    return (Fold(f"{label}, {count} lines", (part,)),) if count > terminal.LONG else (part,)


_FORMS = (_own, _widget, _formula, _picture, _markdown, _html, _json, _plain, _latex)
