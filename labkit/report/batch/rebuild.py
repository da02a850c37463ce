"""The batch rebuild: papermill over the stages by their dependencies, independent ones side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import labkit
from labkit.checks import Check
from labkit.core import journal
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.farm.rootfs import variants
from labkit.model.lab import Lab, project_folder
from labkit.records import Record
from labkit.report.batch import notebook as notebooks
from labkit.report.batch.progress import Progress
from labkit.report.batch.running import Batch
from labkit.report.batch.schedule import GOOD, Ending, Wish
from labkit.report.stages import memory
from labkit.report.stages.plan import Plan

#: The notebooks in an installed package; a clone has them beside it.
BROUGHT = Path(labkit.__file__).parent / "notebooks"


class Rebuilt(Record):
    """A batch that is over; ``interrupted`` is the name of the signal that ended it, else ''."""

    run: str
    stages: tuple[Ending, ...]
    interrupted: str = ""


@action("report.rebuild")
def rebuild(
    lab: Lab,
    wish: Wish | None = None,
    *,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Outcome[Rebuilt]:
    """Runs the stages that have to be run; a check for each says how it came out.

    Afterwards each stage that passed has its executed notebook, record, tables and figures in the
    lab's outputs; one that failed left its notebook (``notebooks/NN.failed.ipynb``), its record
    (``results/NN.failed.json``), its figures (``figures/NAME.failed.png``) and its log beside the
    outputs of its last good run. SIGTERM and SIGINT end the notebooks and what they have started;
    the value says so.

    :param wish: what is to be run; default: all that has changed.
    :param folder: where the notebooks are; default: ``notebooks`` of the project.
    :raises ConfigError: an unknown stage, parameter or variant, a missing notebook; nothing was run.
    :raises LockError: another batch works on this lab.
    """
    wish = wish or Wish()
    plans = wish.plans()
    variants.of_lab(lab)
    sources = find(plans, folder or notebooks_folder(), wish.parameters)
    with journal.lock(lab.run_dir, "session", wait=0), progress or Progress() as shown:
        shown.expect(stage.name for stage in plans)
        batch = Batch(lab, wish, sources, shown)
        endings = batch.run(plans)
    stale = memory.stale(lab)
    value = Rebuilt(run=batch.run_id, stages=tuple(endings), interrupted=batch.interrupted)
    return Outcome(
        value=value,
        subject=lab.name,
        summary=_summary(value, stale),
        changed=any(ending.state != "unchanged" for ending in endings),
        checks=tuple(_check(ending) for ending in endings),
        tables=(_table(endings, stale),),
    )


def notebooks_folder() -> Path:
    """The project's ``notebooks``: the working folder's project's or, elsewhere, those that labkit brings."""
    here = project_folder() / "notebooks"
    return here if here.is_dir() else BROUGHT


def find(plans: Sequence[Plan], folder: Path, parameters: Mapping[str, Any]) -> dict[str, Path]:
    """The notebook of each stage, after a look at each: :class:`ConfigError` when one is missing or
    is none, or when a parameter is known neither to the lab nor to one of them."""
    sources = {stage.name: folder / f"{stage.name}.ipynb" for stage in plans}
    found = [notebooks.require(source) for source in sources.values()]
    notebooks.require_known(parameters, found)
    return sources


def _summary(value: Rebuilt, stale: Collection[str]) -> str:
    counts: dict[str, int] = {}
    for ending in value.stages:
        counts[ending.state] = counts.get(ending.state, 0) + 1
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    ended = f"Ended by {value.interrupted}. " if value.interrupted else ""
    left = f" Stale now: {', '.join(stale)}." if stale else ""
    return f"{ended}{counted(len(value.stages), 'stage')}: {said}.{left}"


def _check(ending: Ending) -> Check:
    return Check(
        name=f"rebuild.{ending.stage}",
        expected="passed",
        seen="; ".join([ending.state, *ending.reasons]),
        holds=ending.state in GOOD,
        again=f"labkit run {ending.stage}",
    )


def _table(endings: Sequence[Ending], stale: Mapping[str, str]) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "stage": ending.stage,
            "state": ending.state,
            "checks": f"{ending.held} of {ending.checks}" if ending.checks else "",
            "seconds": ending.seconds or None,
            "note": ending.reasons[0] if ending.reasons else "",
        }
        for ending in endings
    ]
    over = [ending.stage for ending in endings]
    rows += [
        {"stage": name, "state": "stale", "checks": "", "seconds": None, "note": f"because {why}"}
        for name, why in stale.items()
        if name not in over
    ]
    return Table.of("stages", "Stages of this rebuild", rows, units={"seconds": "s"})
