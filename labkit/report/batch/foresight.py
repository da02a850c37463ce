"""What a rebuild would do besides what the farm needs: stages that would run, and the wiki. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator

from labkit.core.tables import Cell, Table
from labkit.model.lab import Lab
from labkit.report.batch.progress import Progress
from labkit.report.batch.rebuild import find, notebooks_folder
from labkit.report.batch.running import Batch
from labkit.report.batch.schedule import Wish
from labkit.report.stages import memory as memories
from labkit.report.stages.plan import STAGES
from labkit.wiki import server


def table(lab: Lab) -> tuple[Table, ...]:
    """A row for the wiki, if it does not run, and one for each stage that a rebuild would run, with the
    reason; no table when there is nothing. What only its own command line gives a notebook is not known."""
    rows: list[dict[str, Cell]] = [{"step": step, "why": why} for step, why in _steps(lab)]
    return (Table.of("rebuild", "What a rebuild would do besides", rows),) if rows else ()


def _steps(lab: Lab) -> Iterator[tuple[str, str]]:
    wiki = server.status(lab)
    if not wiki.up:
        yield ("start" if wiki.installed else "create") + " wiki", wiki.reason
    if not memories.recall(lab).stages:
        yield "publish report", "no rebuild of this lab has passed yet"
        return
    batch = Batch(lab, Wish(), find(STAGES, notebooks_folder(), {}), Progress())
    for name, why in batch.to_run(STAGES).items():
        yield f"run {name}", why
