"""The review site's pages as plain values: each stage's state, its runs, and what a run's notebook shows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from markupsafe import Markup

from labkit.core.result import Figure, Result
from labkit.errors import StateError
from labkit.model.lab import Lab
from labkit.report.site.hypertext import Hypertext, code
from labkit.report.stages import build_cache, signing
from labkit.report.stages import record as records
from labkit.report.stages.assignment import STAGES, StagePlan, plan, skipped
from labkit.report.stages.record import StageRecord
from labkit.wiki.render import tree
from labkit.wiki.render.notebook import narrative, outputs, text

State = Literal["passed", "stale", "failed", "not run", "skipped", "damaged"]
ICONS: Mapping[str, str] = {
    "passed": "✔", "stale": "↻", "failed": "✘", "not run": "–", "skipped": "–", "damaged": "!",
}  # fmt: skip


@dataclass(frozen=True)
class FigureFile:
    """A figure on a page; ``data`` is its PNG, empty when it is lost."""

    figure: Figure
    data: bytes

    @property
    def file(self) -> str:
        """Its file's name, which holds a hash of the content: two runs' pictures never stand for each other."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.figure.name)[:60]
        return f"{name}-{hashlib.sha256(self.data).hexdigest()[:12]}.png"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels (PNG, section 11.2.2: the header chunk)."""
        if self.data[:8] != b"\x89PNG\r\n\x1a\n":
            return 0, 0
        return int.from_bytes(self.data[16:20]), int.from_bytes(self.data[20:24])


@dataclass(frozen=True)
class CodeCell:
    """A code cell: its ``In`` number, 0 when it did not run, and its code as HTML."""

    cell: int
    html: Markup


@dataclass(frozen=True)
class Section:
    """One thing on a stage's page; exactly one of the contents is there, and says the kind.

    ``code`` are cells that follow each other without an output between them; ``shown`` is what another
    program wrote or drew.
    """

    cell: int = 0
    prose: Markup | None = None
    code: tuple[CodeCell, ...] = ()
    result: Result[Any] | None = None
    picture: FigureFile | None = None
    shown: Markup | None = None


@dataclass(frozen=True)
class Page:
    """One run of a stage: its record, and its notebook as sections.

    ``files`` are the pictures that its narrative and other programs' outputs show, by their addresses.
    """

    plan: StagePlan
    record: StageRecord
    file: str
    sections: tuple[Section, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def pictures(self) -> tuple[FigureFile, ...]:
        """Its figures."""
        return tuple(section.picture for section in self.sections if section.picture)

    @property
    def cells(self) -> dict[str, int]:
        """The cell that made each check, by the check's name."""
        made = ((entry.cell, entry.result) for entry in self.record.entries if entry.result)
        return {check.name: cell for cell, result in made for check in result.checks}


@dataclass(frozen=True)
class StageView:
    """A stage as the site shows it: its last run, and below a failed one the last that passed. ``stale`` says
    why its last run is stale, '' when it is not."""

    plan: StagePlan
    state: State
    page: Page | None = None
    earlier: Page | None = None
    reason: str = ""
    stale: str = ""

    @property
    def icon(self) -> str:
        """A mark that needs no colour."""
        return ICONS[self.state]

    @property
    def pages(self) -> tuple[Page, ...]:
        """The stage's pages."""
        return tuple(page for page in (self.page, self.earlier) if page)


def stages(lab: Lab) -> tuple[StageView, ...]:
    """Returns all stages from the lab's outputs; a damaged record is a state, not an error."""
    views = [_stage(lab, stage) for stage in STAGES]
    stale = build_cache.stale(lab, [view.page.record for view in views if view.page])
    for number, view in enumerate(views):
        if why := stale.get(view.plan.name):
            state = "stale" if view.state == "passed" else view.state
            views[number] = replace(view, state=state, stale=why)
        if views[number].state in ("stale", "not run") and (why := skipped(view.plan, lab)):
            views[number] = replace(views[number], state="skipped", reason=why)
    return tuple(views)


def _stage(lab: Lab, plan: StagePlan) -> StageView:
    try:
        good, bad = (records.read(lab, plan.name, ending) for ending in ("json", "failed.json"))
    except StateError as error:
        return StageView(plan, "damaged", reason=f"{error.value}: {error.reason}")
    passed = _page(lab, plan, good, "") if good else None
    failed = _page(lab, plan, bad, "failed.") if bad else None
    with signing.reading(lab) as seal:
        wrong = signing.differences(seal, plan.name, f"{plan.name}.failed")
    reason = f"not as signed, and not shown: {', '.join(d.file for d in wrong)}" if wrong else ""
    if failed:
        return StageView(plan, "failed", failed, passed, reason)
    return StageView(
        plan, "passed" if passed else "not run", passed, reason=reason if passed else ""
    )


def _page(lab: Lab, plan: StagePlan, record: StageRecord, ending: str) -> Page:
    there = (stage.name for stage in STAGES if records.file(lab, stage.name).exists())
    sections, files = of_notebook(
        records.notebook_of(lab, record),
        {f"{name}.ipynb": f"{name}.html" for name in there},
        unsaid=record.sentence,
    )
    return Page(plan, record, f"{plan.name}.{ending}html", sections, files)


def of_notebook(
    notebook: Mapping[str, Any], pages: Mapping[str, str], *, unsaid: str = ""
) -> tuple[tuple[Section, ...], Mapping[str, bytes]]:
    """An executed notebook (nbformat 4) as sections, in its order, and the pictures in them by their addresses.

    ``pages`` are the site's, by the file names of the notebooks they show; outputs that begin with
    ``unsaid`` are left out.
    """
    cells = list(_cells(notebook))
    heads = (part for _, told in cells for part in told or () if isinstance(part, tree.Heading))
    writer = Hypertext(
        headings=frozenset(tree.slug(tree.plain(head.line)) for head in heads), pages=pages
    )
    return tuple(_sections(cells, writer, unsaid)), writer.files


def _cells(notebook: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], tree.Parts | None]]:
    """The cells, Markdown cells with their parts.

    The cell that papermill adds to mark where an error was is left out: the page says that itself.
    """
    for cell in notebook["cells"]:
        tags = cell.get("metadata", {}).get("tags", ())
        if cell["cell_type"] == "markdown" and "papermill-error-cell-tag" not in tags:
            yield cell, narrative(cell)
        elif cell["cell_type"] == "code":
            yield cell, None


def _sections(
    cells: Sequence[tuple[Mapping[str, Any], tree.Parts | None]], writer: Hypertext, unsaid: str
) -> Iterator[Section]:
    waiting: list[CodeCell] = []
    for cell, told in [*cells, ({}, None)]:
        number = cell.get("execution_count") or 0
        if cell and told is None and (source := text(cell["source"])).strip():
            waiting.append(CodeCell(number, code(source)))
        shown = outputs(cell.get("outputs", ()))
        if waiting and (told or shown or not cell):
            yield Section(waiting[-1].cell, code=tuple(waiting))
            waiting = []
        if told:
            yield Section(prose=writer.show(told))
        yield from (
            _output(number, part, writer)
            for part in shown
            if not (unsaid and isinstance(part, tree.Screen) and part.text.startswith(unsaid))
        )


def _output(number: int, part: tree.Part, writer: Hypertext) -> Section:
    """A part of a cell's outputs: labkit's own by its record, other programs' as it comes."""
    match part:
        case tree.Shown(Figure() as figure, image):
            return Section(number, picture=FigureFile(figure, image.data if image else b""))
        case tree.Shown(Result() as result):
            return Section(number, result=result)
    return Section(number, shown=writer.show([part]))


def ran(lab: Lab, shown: Sequence[StageView]) -> tuple[Lab, list[tuple[str, str]]]:
    """The lab that most of the stages ran with (the given one, where none ran), and its parameters that are not
    the default, or were others in some stages, in words."""
    found = [stage.page.record for stage in shown if stage.page]
    given = build_cache.described(lab)
    whole = [{**given, **record.parameters} for record in found] or [given]
    most = max(reversed(whole), key=whole.count)
    usual = build_cache.flat(Lab().model_dump(mode="json"))
    rows = {k: _said(v) for k, v in build_cache.flat(most).items() if v != usual.get(k)}
    for record, own in zip(found, whole, strict=False):
        for key, value in build_cache.differing(plan(record.stage), most, own):
            rows[key] = f"{rows.get(key) or _said(value[0])}; {_said(value[1])} in {record.stage}"
    return Lab.of({**most, "outputs": lab.outputs}).allotted(lab.allotment), list(rows.items())


def _said(value: Any) -> str:
    """A parameter's value in words: sites by their names."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(v.get("name", v) if isinstance(v, dict) else v) for v in value)
    return "–" if value in (None, "") else str(value)


def when(moment: datetime) -> str:
    """A moment as people read it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"
