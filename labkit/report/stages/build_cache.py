"""The build cache: what each stage's result depends on, what the last rebuild saw, and why a stage has to run again.

:func:`changed` compares a run's inputs with those of now, :func:`stale` does it for every stage, and :func:`why_run`
adds what only this machine knows: the files of the outputs, and what stood when the last rebuild had ended.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

import labkit
from labkit import reading
from labkit.core import undo
from labkit.core.files import write_atomically
from labkit.core.journal import Entry, Journal, boot_id
from labkit.display import counted
from labkit.errors import StateError
from labkit.model.config import project_folder
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.stages import record as records
from labkit.report.stages import signing
from labkit.report.stages.assignment import FILE, STAGES, StagePlan, plan, skipped
from labkit.report.stages.record import Inputs, StageRecord

#: Keys of lab.toml that say where something is, or how it is got, and nothing about what comes out. The
#: assignment's file is compared by what is in it.
APART = frozenset({"outputs", "state", "cache", "run", "offline", "wiki.assignment"})
#: A value of more characters is not told.
LONG = 40


def inputs_of(
    lab: Lab, stage: StagePlan, source: Path | None, given: Mapping[str, Any] | None
) -> Inputs:
    """What a stage would depend on if it ran now, besides the lab's description, which its record has.

    :param source: its notebook, None where that is not known.
    :param given: the notebook's own parameters, None where they are not known.
    """
    return Inputs(
        notebook=file_digest(source) if source else None,
        given=dict(given) if given is not None else None,
        assignment=file_digest(Path(lab.wiki.assignment)) if lab.wiki.assignment else "",
        labkit=package_digest(),
        after={
            name: record.digest if (record := _last(lab, name)) else ""
            for name in (*stage.after, *stage.later)
        },
    )


@functools.cache
def package_digest() -> str:
    """SHA-256 of labkit's own sources and of the assignment."""
    folder = Path(labkit.__file__).parent
    total = hashlib.sha256()
    files = (file for file in folder.rglob("*") if "__pycache__" not in file.parts)
    for file in sorted({*files, FILE}):
        if file.is_file():
            total.update(f"{file.relative_to(FILE.parents[1])}\0{file_digest(file)}\n".encode())
    return total.hexdigest()


def changed(
    record: StageRecord,
    now: Inputs,
    parameters: Mapping[str, Any] | None,
    last: Callable[[str], StageRecord | None],
) -> str:
    """What of a stage's inputs is not as it was when it ran, in a few words; '' when all is. What is not
    known then or now is not compared.

    :param parameters: the lab's description now, as a record has it; None where it is not known.
    :param last: the last run of a stage, passed or failed.
    """
    stage, before = plan(record.stage), record.inputs
    for name in _before(stage):
        other = last(name)
        if other and other.started > record.started:
            both = _used(other.parameters, plan(name))
            for key, values in differing(stage, record.parameters, both):
                return _words(key, *values, f"in {name}", f"{key} changed in {name}")
    for name, digest_now in now.after.items():
        if before.after.get(name, digest_now) != digest_now:
            ran = "ran again since" if before.after[name] else "ran since"
            return f"{name} {ran if digest_now else 'has no result that can be read'}"
    if parameters is not None:
        for key, values in differing(stage, record.parameters, parameters):
            return _words(key, *values, "now", f"lab.toml's {key} changed")
    for what, then, today in (
        ("its notebook", before.notebook, now.notebook),
        (
            "the assignment",
            before.assignment,
            now.assignment if _used({"wiki": ""}, stage) else None,
        ),
        ("labkit itself", before.labkit, now.labkit),
    ):
        if None not in {then, today} and then != today:
            return f"{what} changed"
    if before.given is not None and now.given is not None:
        for key in before.given | now.given:
            one, other = before.given.get(key), now.given.get(key)
            if one != other:
                return _words(key, one, other, "now", f"its parameter {key} changed")
    return ""


def _before(stage: StagePlan) -> tuple[str, ...]:
    """The stages that one waits for, directly or not, the nearest first, and those that it shows."""
    found = dict.fromkeys((*reversed(stage.after), *stage.later))
    for name in stage.after:
        found |= dict.fromkeys(_before(plan(name)))
    return tuple(found)


def _used(parameters: Mapping[str, Any], stage: StagePlan) -> dict[str, Any]:
    """Those of a lab's parameters on which a stage depends."""
    return {key: parameters[key] for key in parameters if not stage.uses or key in stage.uses}


def differing(
    stage: StagePlan, before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The keys of lab.toml that a stage uses and that differ in two descriptions, each with both values."""
    then, today = flat(_used(before, stage)), flat(now)
    for key, value in then.items():
        if key in today and key not in APART and today[key] != value:
            yield key, (value, today[key])


def _words(key: str, one: object, other: object, where: str, whole: str) -> str:
    """That a value changed: both of them where they are short, else ``whole``."""
    if isinstance(one, list) or max(len(_said(one)), len(_said(other))) > LONG:
        return whole
    return f"{key} was {_said(one)} and is {_said(other)} {where}"


def _said(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    return "not set" if value in (None, "") else json.dumps(value)


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        found |= flat(value, f"{path}{key}.") if nested else {f"{path}{key}": value}
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file, '' when there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


class Remembered(Record):
    """One stage that passed: where its notebook is, and the hash of its record (which has its inputs).

    ``standing`` are the :func:`marks` of what stood on the machine when that rebuild had ended;
    None when it never came to its end.
    """

    source: str
    record: str
    standing: tuple[str, ...] | None = None


class BuildCache(Record):
    """The stages that passed; what each took the last time (seconds, by its name, and by its name with
    ``, building`` when it had a root file system to build); the bytes that were downloaded and kept."""

    stages: dict[str, Remembered] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    fetched: int = 0
    kept: int = 0


def cache_file(lab: Lab) -> Path:
    """Where the memory is: in the lab's state, since it is about this machine."""
    return lab.state_dir / "rebuild.json"


def recall(lab: Lab) -> BuildCache:
    """The memory; an empty one when there is none or when it is damaged: every stage runs again."""
    try:
        return BuildCache.model_validate_json(reading.content(cache_file(lab)))
    except (OSError, ValueError):
        return BuildCache()


def write(lab: Lab, memory: BuildCache) -> None:
    """Writes the memory."""
    write_atomically(cache_file(lab), memory.model_dump_json(indent=1) + "\n")


def with_stage(memory: BuildCache, name: str, remembered: Remembered | None) -> BuildCache:
    """The memory with this of a stage, or without it (None)."""
    stages = {stage: kept for stage, kept in memory.stages.items() if stage != name}
    stages |= {name: remembered} if remembered else {}
    return memory.model_copy(update={"stages": stages})


def with_standing(memory: BuildCache, names: Iterable[str], marks: tuple[str, ...]) -> BuildCache:
    """The memory with what stands at the end of the rebuild in which the named stages passed."""
    for name in memory.stages.keys() & set(names):
        stood = memory.stages[name].model_copy(update={"standing": marks})
        memory = with_stage(memory, name, stood)
    return memory


def why_run(
    lab: Lab, stage: StagePlan, memory: BuildCache, now: Inputs, standing: Iterable[str]
) -> str:
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
    if record is None or last.record != record.digest:
        return "its record is gone or was changed"
    if why := changed(record, now, described(lab), functools.partial(_last, lab)):
        return why
    with signing.reading(lab) as seal:
        wrong = signing.differences(seal, stage.name)
    if wrong:
        return f"{wrong[0].file} is gone or was changed"
    return _fallen(last, standing) if stage.leaves else ""


def stale(lab: Lab, found: Sequence[StageRecord] | None = None) -> dict[str, str]:
    """Of these runs (default: the last of each stage that can be read) those whose inputs have changed since, each
    with the reason.

    The lab, the notebooks and labkit are compared only on the machine that ran them: the outputs alone only have
    what the runs say of each other.
    """
    if found is None:
        runs = (_last(lab, stage.name, "failed.json") or _last(lab, stage.name) for stage in STAGES)
        found = [record for record in runs if record]
    memory, last = recall(lab), {record.stage: record for record in found}
    why: dict[str, str] = {}
    for stage in sorted(STAGES, key=lambda stage: len(stage.later)):  # what it shows before it
        if record := last.get(stage.name):
            known = memory.stages.get(stage.name)
            now = inputs_of(lab, stage, _source(known) if known else None, None)
            if not known:
                now = Inputs(after=now.after)
            said = changed(record, now, described(lab) if memory.stages else None, last.get)
            others = (plan(name) for name in (*stage.after, *stage.later))
            earlier = [one.name for one in others if one.name in why and not skipped(one, lab)]
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
    gone, stood = len({*last.standing} - {*standing}), counted(len(last.standing), "thing")
    return (
        f"{gone} of {stood} that stood after it {'is' if gone == 1 else 'are'} gone" if gone else ""
    )


def marks(entries: Iterable[Entry], boot: str) -> tuple[str, ...]:
    """What the journal says that stands since this boot, each as one text; folders outlive a boot and
    say nothing."""
    listed = {
        json.dumps([entry.kind, boot, entry.what], sort_keys=True)
        for entry in entries
        if entry.boot == boot and entry.kind != "folder"
    }
    return tuple(sorted(listed))


def standing(lab: Lab) -> tuple[str, ...]:
    """:func:`marks` of what the lab's journal has and what is there."""
    return marks(undo.there(Journal.of(lab).standing()), boot_id())
