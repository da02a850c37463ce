"""What the review site shows, as plain values: the state of each stage, and the blocks of its page."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from labkit.errors import StateError
from labkit.lab import Lab
from labkit.report import markup
from labkit.report import notebook as notebooks
from labkit.report import record as records
from labkit.report.memory import executed
from labkit.report.plan import STAGES, Plan
from labkit.report.record import StageRecord
from labkit.report.verdict import text
from labkit.result import FIGURE_MIME, RESULT_MIME, Figure, Result

if TYPE_CHECKING:
    from markupsafe import Markup

State = Literal["passed", "failed", "not run", "damaged"]
ICONS: Mapping[str, str] = {"passed": "✔", "failed": "✘", "not run": "–", "damaged": "!"}


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

    ``code`` are cells that follow each other without an output between them.
    """

    cell: int = 0
    prose: Markup | None = None
    code: tuple[Source, ...] = ()
    result: Result[Any] | None = None
    picture: Picture | None = None
    output: str = ""
    error: str = ""


@dataclass(frozen=True)
class Page:
    """One run of a stage: its record, and its notebook as blocks."""

    plan: Plan
    record: StageRecord
    blocks: tuple[Block, ...]
    file: str

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures."""
        return tuple(block.picture for block in self.blocks if block.picture)

    @property
    def cells(self) -> dict[str, int]:
        """The cell that made each check, by the check's name."""
        return {
            check.name: entry.cell
            for entry in self.record.entries
            if entry.result
            for check in entry.result.checks
        }


@dataclass(frozen=True)
class Shown:
    """A stage as the site shows it: its last run, and below a failed one the last that passed."""

    plan: Plan
    state: State
    page: Page | None = None
    earlier: Page | None = None
    reason: str = ""

    @property
    def icon(self) -> str:
        """A mark that needs no colour."""
        return ICONS[self.state]

    @property
    def pages(self) -> tuple[Page, ...]:
        """The stage's pages."""
        return tuple(page for page in (self.page, self.earlier) if page)


def stages(lab: Lab) -> tuple[Shown, ...]:
    """All stages, from what is in the lab's outputs; a damaged record is a state, not an error."""
    return tuple(_stage(lab, plan) for plan in STAGES)


def blocks(notebook: Mapping[str, Any]) -> Iterator[Block]:
    """An executed notebook (nbformat 4) as blocks, in its order.

    Of a cell's output the richest form is taken that labkit itself has made: a result or a figure
    by its record; else the plain text. HTML of whatever else a cell showed is left out.
    """
    waiting: list[Source] = []
    for cell in notebook["cells"]:
        source = text(cell["source"])
        if cell["cell_type"] == "markdown" and not _is_marker(cell):
            yield from _folded(waiting)
            yield Block(prose=markup.prose(source))
        elif cell["cell_type"] == "code" and source.strip():
            number = cell.get("execution_count") or 0
            waiting.append(Source(number, markup.code(source)))
            if outputs := cell.get("outputs", ()):
                yield from _folded(waiting)
                yield from (_output(number, output) for output in outputs)
    yield from _folded(waiting)


def _folded(waiting: list[Source]) -> Iterator[Block]:
    """The waiting code as one block, if there is any; nothing waits afterwards."""
    if waiting:
        yield Block(cell=waiting[-1].cell, code=tuple(waiting))
        waiting.clear()


def _is_marker(cell: Mapping[str, Any]) -> bool:
    """Whether papermill put this cell there, to mark where an error was: the page says that itself."""
    return "papermill-error-cell-tag" in cell.get("metadata", {}).get("tags", ())


def of_record(lab: Lab, record: StageRecord) -> Iterator[Block]:
    """A record as blocks, where its notebook was not kept: it was run by hand."""
    for entry in record.entries:
        if entry.figure:
            file = (lab.output_dir / entry.figure.png).resolve()
            ours = file.is_relative_to(lab.output_dir.resolve()) and file.is_file()
            data = file.read_bytes() if ours else b""
            yield Block(cell=entry.cell, picture=Picture(entry.figure, data))
        else:
            yield Block(cell=entry.cell, result=entry.result)


def when(moment: datetime) -> str:
    """A moment as people read it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    """A duration as people read it: ``4.2 s``, ``3 min 20 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def changes(
    now: Mapping[str, Any], default: Mapping[str, Any], path: str = ""
) -> list[tuple[str, str]]:
    """The parameters that differ from the defaults, by their dotted key, as text."""
    found: list[tuple[str, str]] = []
    for key, value in now.items():
        usual = default.get(key)
        if isinstance(value, dict) and isinstance(usual, dict):
            found += changes(value, usual, f"{path}{key}.")
        elif value != usual:
            found.append((f"{path}{key}", _said(value)))
    return found


def _said(value: Any) -> str:
    """A parameter's value in words: sites by their names."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(
            str(v["name"] if isinstance(v, dict) and "name" in v else v) for v in value
        )
    return "–" if value in (None, "") else str(value)


def _stage(lab: Lab, plan: Plan) -> Shown:
    try:
        good, bad = (
            records.read(records.file(lab, plan.name, ending)) for ending in ("json", "failed.json")
        )
    except StateError as error:
        return Shown(plan, "damaged", reason=f"{error.value}: {error.reason}")
    passed = _page(lab, plan, good, "") if good else None
    failed = _page(lab, plan, bad, "failed.") if bad else None
    if failed:
        return Shown(plan, "failed", failed, passed)
    return Shown(plan, "passed", passed) if passed else Shown(plan, "not run")


def _page(lab: Lab, plan: Plan, record: StageRecord, ending: str) -> Page:
    notebook = notebooks.read(executed(lab, plan.name, f"{ending}ipynb"))
    found = tuple(blocks(notebook)) if notebook else ()
    if record.entries and not any(_is_of(block, record.run) for block in found):
        found = tuple(of_record(lab, record))
    return Page(plan, record, found, f"{plan.name}.{ending}html")


def _is_of(block: Block, run: str) -> bool:
    return block.result is not None and block.result.run == run


def _output(number: int, output: Mapping[str, Any]) -> Block:
    if output["output_type"] == "error":
        said = "\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}"
        return Block(cell=number, error=markup.plain(said))
    if output["output_type"] == "stream":
        return Block(cell=number, output=markup.plain(text(output["text"])))
    data = output["data"]
    try:
        if RESULT_MIME in data:
            return Block(cell=number, result=Result.model_validate(data[RESULT_MIME]))
        if FIGURE_MIME in data:
            figure = Figure.model_validate(data[FIGURE_MIME])
            image = base64.b64decode(text(data.get("image/png", "")))
            return Block(cell=number, picture=Picture(figure, image))
    except (ValidationError, binascii.Error):
        pass  # of another labkit: its plain text says it, too
    return Block(cell=number, output=markup.plain(text(data.get("text/plain", ""))))
