"""What the review site shows, as plain values: the state of each stage, and the blocks of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from labkit.errors import StateError
from labkit.model.lab import Lab
from labkit.report.site import showing
from labkit.report.site.showing import Block, Picture
from labkit.report.stages import build_cache, signing
from labkit.report.stages import record as records
from labkit.report.stages.assignment import STAGES, StagePlan, plan
from labkit.report.stages.record import StageRecord

State = Literal["passed", "stale", "failed", "not run", "damaged"]
ICONS: Mapping[str, str] = {
    "passed": "✔", "stale": "↻", "failed": "✘", "not run": "–", "damaged": "!",
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """One run of a stage: its record, and its notebook as blocks.

    ``files`` are the pictures that its narrative and other programs' outputs show, by their addresses.
    """

    plan: StagePlan
    record: StageRecord
    blocks: tuple[Block, ...]
    file: str
    files: Mapping[str, bytes] = field(default_factory=dict)

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


def stages(lab: Lab) -> tuple[Shown, ...]:
    """All stages, from what is in the lab's outputs; a damaged record is a state, not an error."""
    found = [_stage(lab, stage) for stage in STAGES]
    stale = build_cache.stale(lab, [stage.page.record for stage in found if stage.page])
    return tuple(
        replace(
            stage,
            state="stale" if stage.state == "passed" else stage.state,
            stale=stale[stage.plan.name],
        )
        if stage.plan.name in stale
        else stage
        for stage in found
    )


def ran(lab: Lab, shown: Sequence[Shown]) -> tuple[Lab, list[tuple[str, str]]]:
    """The lab that most of the stages ran with (the given one, where none ran), and its parameters that are not
    the default, or were others in some stages, in words."""
    found = [stage.page.record for stage in shown if stage.page]
    given = build_cache.described(lab)
    whole = [{**given, **record.parameters} for record in found] or [given]
    most = max(reversed(whole), key=whole.count)
    rows = dict(changes(most, Lab().model_dump(mode="json")))
    for record, own in zip(found, whole, strict=False):
        for key, value in build_cache.differing(plan(record.stage), most, own):
            rows[key] = f"{rows.get(key) or _said(value[0])}; {_said(value[1])} in {record.stage}"
    return Lab.of({**most, "outputs": lab.outputs}).allotted(lab.allotment), list(rows.items())


def when(moment: datetime) -> str:
    """A moment as people read it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


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


def _stage(lab: Lab, plan: StagePlan) -> Shown:
    try:
        good, bad = (records.read(lab, plan.name, ending) for ending in ("json", "failed.json"))
    except StateError as error:
        return Shown(plan, "damaged", reason=f"{error.value}: {error.reason}")
    passed = _page(lab, plan, good, "") if good else None
    failed = _page(lab, plan, bad, "failed.") if bad else None
    wrong = signing.differing(lab, plan.name, f"{plan.name}.failed")
    reason = f"not as signed, and not shown: {', '.join(d.file for d in wrong)}" if wrong else ""
    if failed:
        return Shown(plan, "failed", failed, passed, reason)
    return Shown(plan, "passed", passed, reason=reason) if passed else Shown(plan, "not run")


def _page(lab: Lab, plan: StagePlan, record: StageRecord, ending: str) -> Page:
    notebook = records.notebook_of(lab, record)
    shown = (
        showing.of_notebook(notebook, _linked(lab)) if notebook else showing.of_record(lab, record)
    )
    return Page(plan, record, shown.blocks, f"{plan.name}.{ending}html", shown.files)


def _linked(lab: Lab) -> dict[str, str]:
    """The pages that a narrative may lead to, by their notebooks' file names."""
    there = (plan.name for plan in STAGES if records.file(lab, plan.name).exists())
    return {f"{name}.ipynb": f"{name}.html" for name in there}
