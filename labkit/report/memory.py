"""What the last rebuild saw, so that a stage whose inputs are the same is not run again."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field, ValidationError

import labkit
from labkit.display import counted
from labkit.errors import StateError
from labkit.files import write_atomically
from labkit.journal import Entry, Journal, boot_id
from labkit.lab import Lab
from labkit.report import record as records
from labkit.report import signing
from labkit.report.notebook import digest
from labkit.report.plan import Plan
from labkit.result import Record


class Remembered(Record):
    """One stage that passed: the hash of its inputs, and of its record.

    ``standing`` are the :func:`marks` of what stood on the machine when that rebuild had ended;
    None when it never came to its end.
    """

    key: str
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
        return Memory.model_validate_json(path(lab).read_bytes())
    except (OSError, ValidationError):
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


def key(source: Path, parameters: Mapping[str, object], lab: Lab, stage: Plan) -> str:
    """The hash of all that a stage's result depends on; when a stage that it waits for, or that it shows
    later, was run again, so is this one.
    """
    inputs = {
        "notebook": digest(source),
        "parameters": {name: parameters[name] for name in sorted(parameters)},
        "lab": lab.fingerprint(),
        "assignment": digest(Path(lab.wiki.assignment)) if lab.wiki.assignment else "",
        "labkit": package_digest(),
        "after": {name: record_digest(lab, name) for name in (*stage.after, *stage.later)},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


@functools.cache
def package_digest() -> str:
    """SHA-256 of labkit's own sources."""
    folder = Path(labkit.__file__).parent
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            total.update(f"{file.relative_to(folder)}\0{digest(file)}\n".encode())
    return total.hexdigest()


def record_digest(lab: Lab, stage: str) -> str:
    """The hash of the record of a stage's last passed run, '' when it has none that can be read."""
    try:
        record = records.read(lab, stage)
    except StateError:
        return ""
    return records.fingerprint(record) if record else ""


def why_run(lab: Lab, stage: Plan, memory: Memory, now: str, standing: Iterable[str]) -> str:
    """Why a stage has to run, '' when its last run still stands.

    :param now: the stage's :func:`key` as it is now.
    :param standing: :func:`marks` of what stands on the machine now.
    """
    last = memory.stages.get(stage.name)
    if last is None or last.key != now:
        return "its inputs have changed" if last else "no run of it that passed is known"
    if records.file(lab, stage.name, "failed.json").exists():
        return "it failed since"
    if last.record != record_digest(lab, stage.name):
        return "its record is gone or was changed"
    if wrong := signing.differing(lab, stage.name):
        return f"{wrong[0].file} is gone or was changed"
    return _fallen(last, standing) if stage.leaves else ""


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
    """:func:`marks` of the lab's journal now."""
    return marks(Journal.of(lab).standing(), boot_id())
