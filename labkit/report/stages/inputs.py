"""What a stage's result depends on, and in words what of it has changed since the stage ran.

A rebuild runs a stage again for these reasons, and a report calls it stale for the same ones.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import labkit
from labkit.errors import StateError
from labkit.model.lab import Lab
from labkit.report.stages import record as records
from labkit.report.stages.plan import Plan, plan
from labkit.report.stages.record import Inputs, StageRecord

#: Keys of lab.toml that say where something is, or how it is got, and nothing about what comes out. The
#: assignment's file is compared by what is in it.
APART = frozenset({"outputs", "state", "cache", "run", "offline", "wiki.assignment"})
#: A value of more characters is not told.
LONG = 40


def of(lab: Lab, stage: Plan, source: Path | None, given: Mapping[str, Any] | None) -> Inputs:
    """What a stage would depend on if it ran now, besides the lab's description, which its record has.

    :param source: its notebook, None where that is not known.
    :param given: the notebook's own parameters, None where they are not known.
    """
    return Inputs(
        notebook=digest(source) if source else None,
        given=dict(given) if given is not None else None,
        assignment=digest(Path(lab.wiki.assignment)) if lab.wiki.assignment else "",
        labkit=package_digest(),
        after={name: record_digest(lab, name) for name in (*stage.after, *stage.later)},
    )


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
    return next(_changes(record, now, parameters, last), "")


def _changes(
    record: StageRecord,
    now: Inputs,
    parameters: Mapping[str, Any] | None,
    last: Callable[[str], StageRecord | None],
) -> Iterator[str]:
    stage, before = plan(record.stage), record.inputs
    for name in _before(stage):
        other = last(name)
        if other and other.started > record.started:
            both = _used(other.parameters, plan(name))
            for key, values in differing(stage, record.parameters, both):
                yield _words(key, *values, f"in {name}", f"{key} changed in {name}")
    for name, digest_now in now.after.items():
        if before.after.get(name, digest_now) != digest_now:
            ran = "ran again since" if before.after[name] else "ran since"
            yield f"{name} {ran if digest_now else 'has no result that can be read'}"
    if parameters is not None:
        for key, values in differing(stage, record.parameters, parameters):
            yield _words(key, *values, "now", f"lab.toml's {key} changed")
    for what, then, today in (
        ("its notebook", before.notebook, now.notebook),
        ("the assignment", before.assignment, now.assignment if _uses(stage, "wiki") else None),
        ("labkit itself", before.labkit, now.labkit),
    ):
        if None not in {then, today} and then != today:
            yield f"{what} changed"
    if before.given is not None and now.given is not None:
        for key in before.given | now.given:
            one, other = before.given.get(key), now.given.get(key)
            if one != other:
                yield _words(key, one, other, "now", f"its parameter {key} changed")


def _before(stage: Plan) -> tuple[str, ...]:
    """The stages that one waits for, directly or not, the nearest first, and those that it shows."""
    found = dict.fromkeys((*reversed(stage.after), *stage.later))
    for name in stage.after:
        found |= dict.fromkeys(_before(plan(name)))
    return tuple(found)


def _uses(stage: Plan, key: str) -> bool:
    return not stage.uses or key in stage.uses


def _used(parameters: Mapping[str, Any], stage: Plan) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if _uses(stage, key)}


def differing(
    stage: Plan, before: Mapping[str, Any], now: Mapping[str, Any]
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


def digest(path: Path) -> str:
    """SHA-256 of a file, '' when there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
