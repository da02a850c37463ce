"""What the last rebuild saw, so that a stage whose inputs are the same is not run again."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from labkit import reading
from labkit.core import undo
from labkit.core.files import write_atomically
from labkit.core.journal import Entry, Journal, boot_id
from labkit.display import counted
from labkit.errors import StateError
from labkit.model.lab import Lab, project_folder
from labkit.records import Record
from labkit.report.stages import inputs, signing
from labkit.report.stages import record as records
from labkit.report.stages.plan import STAGES, Plan
from labkit.report.stages.record import Inputs, StageRecord


class Remembered(Record):
    """One stage that passed: where its notebook is, and the hash of its record (which has its inputs).

    ``standing`` are the :func:`marks` of what stood on the machine when that rebuild had ended;
    None when it never came to its end.
    """

    source: str
    record: str
    standing: tuple[str, ...] | None = None


class Memory(Record):
    """The stages that passed; what each took the last time (seconds, by its name, and by its name with
    ``, building`` when it had a root file system to build); the bytes that were downloaded and kept."""

    stages: dict[str, Remembered] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    fetched: int = 0
    kept: int = 0


def path(lab: Lab) -> Path:
    """Where the memory is: in the lab's state, since it is about this machine."""
    return lab.state_dir / "rebuild.json"


def recall(lab: Lab) -> Memory:
    """The memory; an empty one when there is none or when it is damaged: every stage runs again."""
    try:
        return Memory.model_validate_json(reading.content(path(lab)))
    except (OSError, ValueError):
        return Memory()


def write(lab: Lab, memory: Memory) -> None:
    """Writes the memory."""
    write_atomically(path(lab), memory.model_dump_json(indent=1) + "\n")


def with_stage(memory: Memory, name: str, remembered: Remembered | None) -> Memory:
    """The memory with this of a stage, or without it (None)."""
    others = {stage: kept for stage, kept in memory.stages.items() if stage != name}
    stages = {**others, name: remembered} if remembered else others
    return memory.model_copy(update={"stages": stages})


def with_standing(memory: Memory, names: Iterable[str], marks: tuple[str, ...]) -> Memory:
    """The memory with what stands at the end of the rebuild in which the named stages passed."""
    changed = {
        name: memory.stages[name].model_copy(update={"standing": marks})
        for name in names
        if name in memory.stages
    }
    return memory.model_copy(update={"stages": {**memory.stages, **changed}})


def why_run(lab: Lab, stage: Plan, memory: Memory, now: Inputs, standing: Iterable[str]) -> str:
    """Why a stage has to run, '' when its last run still stands.

    :param now: the stage's inputs as they are now.
    :param standing: :func:`marks` of what stands on the machine now.
    """
    last = memory.stages.get(stage.name)
    if last is None:
        return "no run of it that passed is known"
    if records.file(lab, stage.name, "failed.json").exists():
        return "it failed since"
    record = _last(lab, stage.name)
    if record is None or last.record != records.fingerprint(record):
        return "its record is gone or was changed"
    why = inputs.changed(record, now, described(lab), functools.partial(_last, lab))
    return why or _lost(lab, stage) or (_fallen(last, standing) if stage.leaves else "")


def _lost(lab: Lab, stage: Plan) -> str:
    """What of a stage's outputs is not as it left it; '' when all is."""
    wrong = signing.differing(lab, stage.name)
    return f"{wrong[0].file} is gone or was changed" if wrong else ""


def stale(lab: Lab, found: Sequence[StageRecord] | None = None) -> dict[str, str]:
    """Of these runs (default: the last of each stage, as far as it can be read) those that a rebuild would not leave as they are because of what
    they were made of, each with the reason.

    The lab, the notebooks and labkit are compared only on the machine that ran them: from the outputs alone
    nothing is known but what the runs say of each other.
    """
    if found is None:
        runs = (_last(lab, stage.name, "failed.json") or _last(lab, stage.name) for stage in STAGES)
        found = [record for record in runs if record]
    memory, last = recall(lab), {record.stage: record for record in found}
    why: dict[str, str] = {}
    for stage in sorted(STAGES, key=lambda stage: len(stage.later)):  # what it shows before it
        if record := last.get(stage.name):
            known = memory.stages.get(stage.name)
            now = inputs.of(lab, stage, _source(known) if known else None, None)
            if not known:
                now = Inputs(after=now.after)
            said = inputs.changed(record, now, described(lab) if memory.stages else None, last.get)
            earlier = [name for name in (*stage.after, *stage.later) if name in why]
            if said or earlier:
                why[stage.name] = said or f"{earlier[0]} is stale"
    return why


def _source(known: Remembered) -> Path | None:
    """Where the notebook of a stage is that passed: also in a project that was moved or renamed since."""
    path = Path(known.source)
    found = (path, project_folder() / "notebooks" / path.name)
    return next((place for place in found if place.is_file()), None)


def described(lab: Lab) -> dict[str, Any]:
    """The lab as a record has it: without the folder that the record is in."""
    return lab.model_dump(mode="json", exclude={"outputs"})


def _last(lab: Lab, stage: str, ending: str = "json") -> StageRecord | None:
    """A stage's record (:func:`labkit.report.stages.record.file`), None when there is none that can be read."""
    try:
        return records.read(lab, stage, ending)
    except StateError:
        return None


def _fallen(last: Remembered, standing: Iterable[str]) -> str:
    """What is wrong with what a stage left standing, '' when all of it still stands."""
    if last.standing is None:
        return "the last rebuild did not come to its end"
    gone = set(last.standing) - set(standing)
    return (
        f"{len(gone)} of {counted(len(last.standing), 'thing')} that stood after it {'is' if len(gone) == 1 else 'are'} gone"
        if gone
        else ""
    )


def marks(entries: Iterable[Entry], boot: str) -> tuple[str, ...]:
    """What the journal says that stands since this boot, each as one text; folders outlive a boot and
    say nothing."""
    return tuple(
        sorted(
            {
                json.dumps([entry.kind, boot, entry.what], sort_keys=True)
                for entry in entries
                if entry.boot == boot and entry.kind != "folder"
            }
        )
    )


def standing(lab: Lab) -> tuple[str, ...]:
    """:func:`marks` of what the lab's journal has and what is there."""
    return marks(undo.there(Journal.of(lab).standing()), boot_id())
