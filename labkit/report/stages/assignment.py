"""The assignment: its rows, the tasks of its closing table, and its stages, as ``notebooks/assignment.toml`` has them.

A row or a task is judged by the checks of the stages' results. Nothing is run here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Literal

import labkit
from labkit.checks import Check
from labkit.model.config import PARAMETERS, read_toml, unknown
from labkit.model.lab import Lab
from labkit.records import Record

#: ``met``: all that is asked for was checked and holds. ``in part``: some of it. ``not met``: none, or there are
#: fewer things than asked for. ``not run``: nothing was checked. ``stale``: met, by a lab of before.
State = Literal["met", "in part", "not met", "not run", "stale"]
ICONS: Mapping[str, str] = {
    "met": "✔", "in part": "✘", "not met": "✘", "not run": "–", "stale": "↻",
}  # fmt: skip

#: As many failing checks are named.
NAMED = 3
#: What a lab takes after its first rebuild (bytes): what it downloaded, and all that it keeps. Like the
#: stages' seconds measured on two processors, with Debian 12 and empty caches.
BYTES = (108_000_000, 1_800_000_000)


class Number(Record):
    """How many different checks have to hold whose names begin with ``check`` and end with ``end``; ``what`` is what
    each stands for. With ``each``: how many sites that have so many of them, one for each replica."""

    check: str
    least: int
    what: str
    end: str = ""
    each: int = 0

    def count(self, names: Iterable[str]) -> int:
        """How many there are among these names of checks."""
        own = {name for name in names if name.startswith(self.check) and name.endswith(self.end)}
        if not self.each:
            return len(own)
        sites = Counter(name.rpartition("-")[0] for name in own)
        return sum(number >= self.each for number in sites.values())


class Row(Record):
    """Something that the assignment asks for: what it is ``about`` in a few words, the checks without which it is
    not met (full names, and beginnings that end in a dot: :func:`matches`), and the ``numbers`` of things in it."""

    about: str
    needs: tuple[str, ...]
    numbers: tuple[Number, ...] = ()


class Task(Record):
    """A line of the closing table: the checks with these names or beginnings decide its state. Those in ``needs``
    have to be there (none given: all), and ``numbers`` of them have to hold."""

    name: str
    checks: tuple[str, ...]
    needs: tuple[str, ...] = ()
    numbers: tuple[Number, ...] = ()


class StagePlan(Record):
    """One stage before it runs.

    ``after`` are the stages that it waits for; ``rows`` those of the assignment that it answers;
    ``required`` the checks without which it has not passed: a full name, or a beginning that ends
    in a dot and that at least one check must have. ``leaves``: something of it stays up on the
    machine, so that it has to run again once that was taken down. ``later`` are stages that it shows,
    too, without waiting for them: they begin when all others are over, and after them it runs again.
    One that ``yields`` leaves the processors to the others: fewer stages wait for what it computes.
    ``uses`` are the keys of lab.toml on which what it shows depends, '()' is all of them.
    ``builds`` are the root file systems that it needs ('' is the lab's own); ``seconds`` is what it takes
    when one of them has to be built, and when all are there (see :data:`BYTES`). A rebuild skips a stage whose
    ``only_with``, a key of lab.toml, is not set (:func:`skipped`).
    """

    name: str
    title: str
    after: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    leaves: bool = True
    later: tuple[str, ...] = ()
    yields: bool = False
    uses: tuple[str, ...] = ()
    builds: tuple[str, ...] = ("",)
    seconds: tuple[float, float] = (0.0, 0.0)
    only_with: str = ""


class Assignment(Record):
    """All of it: rows by name, tasks in the order of the closing table, stages in the order of their numbers, and the
    name of the stage that reports."""

    report: str
    rows: dict[str, Row]
    tasks: tuple[Task, ...]
    stages: tuple[StagePlan, ...]


def read(file: Path) -> Assignment:
    """The assignment in a TOML file, in which rows and tasks name their ``numbers``; raises :class:`ConfigError`."""
    said = read_toml(file)
    numbers = said.pop("numbers")
    for item in (*said["rows"].values(), *said["tasks"]):
        item["numbers"] = [numbers[name] for name in item.get("numbers", ())]
    found = Assignment.model_validate(said)
    keys = {*PARAMETERS.values()}
    for stage in found.stages:
        if stage.only_with not in {"", *keys}:
            raise unknown(stage.only_with, keys, "a key of lab.toml")
    return found


#: The file: in an installed package the notebooks are in it, in a clone beside it.
FILE = next(
    file
    for folder in (Path(labkit.__file__).parent, Path(labkit.__file__).parents[1])
    if (file := folder / "notebooks" / "assignment.toml").is_file()
)
ASSIGNMENT = read(FILE)
REPORT, TASKS, STAGES = ASSIGNMENT.report, ASSIGNMENT.tasks, ASSIGNMENT.stages
#: The assignment's rows in a few words.
ROWS: Mapping[str, str] = {name: row.about for name, row in ASSIGNMENT.rows.items()}


class Judged(Record):
    """The state of what is asked for, why it is not ``met``, how many of its checks hold, and of how many."""

    state: State
    why: tuple[str, ...]
    held: int
    checks: int

    @property
    def told(self) -> str:
        """The state and why it is so: ``not met: 1 of 6 containers``."""
        return ": ".join([self.state, *([", ".join(self.why)] if self.why else [])])


def matches(check: str, wanted: str) -> bool:
    """Whether a check's name is the wanted one, or begins with the wanted beginning (``net.ping.``)."""
    return check.startswith(wanted) if wanted.endswith(".") else check == wanted


def judge(
    checks: Sequence[Check],
    needs: Sequence[str],
    numbers: Sequence[Number] = (),
    *,
    stale: bool = False,
) -> Judged:
    """What these checks make of something that is asked for.

    :param checks: those that belong to it.
    :param needs: names and beginnings of those that have to be there.
    :param stale: some of them are of a lab of before.
    """
    made = {check.name for check in checks}
    failing = {check.name for check in checks if not check.holds}
    held = sum(check.holds for check in checks)
    missing = [wanted for wanted in needs if not any(matches(name, wanted) for name in made)]
    counts = [(number, number.count(made - failing), number.count(made)) for number in numbers]
    counts = [item for item in counts if item[2] or not missing]
    why = [f"{count} of {n.least} {n.what}" for n, count, _ in counts if count < n.least]
    why += [_not_made(wanted) for wanted in missing]
    why += [f"failing: {_some(sorted(failing))}"] if failing else []
    state: State = "stale" if stale else "met"
    if not checks:
        state, why = "not run", []
    elif not held or any(there < number.least for number, _, there in counts):
        state = "not met"
    elif failing or missing:
        state = "in part"
    return Judged(state=state, why=tuple(why), held=held, checks=len(checks))


def _not_made(wanted: str) -> str:
    return f"no check {wanted}{'*' if wanted.endswith('.') else ''} was made"


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join([*names[:NAMED], *([f"{more} more"] if more > 0 else [])])


def plan(name: str) -> StagePlan:
    """The stage of that name; raises :class:`ConfigError` that names the nearest."""
    known = {item.name: item for item in STAGES}
    if name not in known:
        raise unknown(name, known, "a stage")
    return known[name]


def skipped(stage: StagePlan, lab: Lab) -> str:
    """Why a rebuild of this lab skips the stage; '' when it does not."""
    value = reduce(getattr, filter(None, stage.only_with.split(".")), lab)
    return "" if value else f"{stage.only_with} is not set"


def problems(stage: StagePlan, checks: tuple[Check, ...]) -> tuple[str, ...]:
    """What keeps the stage from having passed: required checks and rows that are missing or fail."""
    found = []
    for wanted in stage.required:
        held = [check for check in checks if matches(check.name, wanted)]
        if not held:
            found.append(_not_made(wanted))
        found += [
            f"{check.name}: expected {check.expected}; seen {check.seen}"
            for check in held
            if not check.holds
        ]
    answered = {row for check in checks if check.holds for row in check.rows}
    found += [f"no check that holds answers row {row}" for row in stage.rows if row not in answered]
    return tuple(dict.fromkeys(found))
