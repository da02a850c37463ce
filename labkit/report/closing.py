"""The closing table and the coverage of the assignment's rows, computed from the stages' checks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from labkit.checks import Check
from labkit.display import counted
from labkit.lab import Lab
from labkit.report import memory
from labkit.report import record as records
from labkit.report.plan import NUMBERS, ROWS, TASKS, Task, lacking, matches
from labkit.report.record import StageRecord
from labkit.result import Outcome, Record, Result, Table, action

#: How many result sentences a task's comment quotes.
QUOTED = 3

State = Literal["done", "in part", "open", "stale"]


class TaskState(Record):
    """A task of the assignment: ``in part`` when some of its checks fail, or there are fewer things than it asks
    for, ``open`` when it has no check that holds, ``stale`` when all hold, but not all of them are of now."""

    task: str
    state: State
    comment: str
    held: int
    checks: int


class Answer(Record):
    """What answers a row of the assignment in one cell: ``cell`` is the notebook's ``In`` number, 0
    when it is not known."""

    row: str
    stage: str
    cell: int
    checks: tuple[str, ...]
    held: int


class Closing(Record):
    """The closing table."""

    tasks: tuple[TaskState, ...]


class Coverage(Record):
    """Which cells answer which rows."""

    answers: tuple[Answer, ...]


@action("report.closing")
def closing_table(lab: Lab) -> Outcome[Closing]:
    """The assignment's closing table (task, state, comment), computed from the last run of each stage.

    Raises :class:`StateError` when a stage's record is damaged or was edited by hand.
    """
    latest = records.latest(lab)
    found = closing_of(latest, memory.stale(lab, latest))
    return found.model_copy(update={"subject": lab.name})


def closing_of(
    latest: Sequence[StageRecord], stale: Mapping[str, str] = MappingProxyType({})
) -> Outcome[Closing]:
    """The closing table, from these records; ``stale`` says why some of them are. Pure."""
    found = states(latest, stale)
    done = sum(task.state == "done" for task in found)
    silent = [task.task for task in found if not task.checks]
    check = Check(
        name="report.closing",
        expected=f"each of {counted(len(found), 'task')} has a state that checks decide",
        seen=f"no check for: {', '.join(silent)}"
        if silent
        else f"{counted(len(found), 'task')}, each decided",
        holds=not silent,
        rows=("R12",),
        again="labkit review",
    )
    return Outcome(
        value=Closing(tasks=found),
        subject="",
        summary=f"{done} of {counted(len(found), 'task', 'are')} done.",
        checks=(check,),
        tables=(table(found),),
    )


@action("report.coverage")
def coverage(lab: Lab, *shown: Result[Any]) -> Outcome[Coverage]:
    """Which stage, cell and checks answer each row of the assignment, from the last run of each stage.

    :param shown: results of the stage that is running now, whose record is not written yet.
    """
    latest = records.latest(lab)
    found, less = answers(latest, shown), fewer(latest)
    stale = memory.stale(lab, latest)
    missing = [row for row in ROWS if not any(a.row == row and a.held for a in found)]
    unmet = [f"no answer to {', '.join(missing)}"] if missing else []
    unmet += [f"{row} not met: {said}" for row, said in less.items() if row not in missing]
    check = Check(
        name="report.coverage",
        expected=f"each of {len(ROWS)} rows is answered by checks that hold, and as many as it asks for",
        seen="; ".join(unmet) or f"{len(ROWS)} rows answered",
        holds=not unmet,
        again="labkit review",
    )
    answered = len(ROWS) - len({*missing, *less})
    return Outcome(
        value=Coverage(answers=found),
        subject=lab.name,
        summary=f"{answered} of the assignment's {len(ROWS)} rows are answered by checks that hold"
        f"{'; ' if unmet else ''}{'; '.join(unmet)}.",
        checks=(check,),
        tables=(coverage_table(found, less, stale),),
    )


def fewer(found: Sequence[StageRecord]) -> dict[str, str]:
    """The rows that ask for more things than these records show, each with what there is. Pure."""
    checks = [check for record in found for result in record.results for check in result.checks]
    less = {row: lacking(numbers, checks) for row, numbers in NUMBERS.items()}
    return {row: ", ".join(said) for row, said in less.items() if said}


def states(
    found: Sequence[StageRecord], stale: Mapping[str, str] = MappingProxyType({})
) -> tuple[TaskState, ...]:
    """The state of each task, from these records; ``stale`` says why some of them are."""
    return tuple(_state(task, found, stale) for task in TASKS)


def answers(
    found: Sequence[StageRecord], shown: Sequence[Result[Any] | Outcome[Any]] = ()
) -> tuple[Answer, ...]:
    """An answer for each row and each cell that has a check for it, in the rows' order."""
    cells = [
        (record.stage, entry.cell, entry.result.checks)
        for record in found
        for entry in record.entries
        if entry.result
    ]
    cells += [("07-report", 0, result.checks) for result in shown]
    given = [
        Answer(
            row=row,
            stage=stage,
            cell=cell,
            checks=tuple(check.name for check in own),
            held=sum(check.holds for check in own),
        )
        for row in ROWS
        for stage, cell, checks in cells
        if (own := [check for check in checks if row in check.rows])
    ]
    return tuple(given)


def table(found: Sequence[TaskState]) -> Table:
    """The closing table."""
    rows = ({"task": t.task, "state": t.state, "comment": t.comment} for t in found)
    return Table.of("closing", "Tasks of the assignment", rows)


def coverage_table(
    found: Sequence[Answer], less: Mapping[str, str], stale: Collection[str]
) -> Table:
    """The coverage, a line for each row and cell; a row without an answer, or with too few things
    (:func:`fewer`), has a line that says so, and an answer of a ``stale`` stage does."""
    rows = [
        line
        for row in ROWS
        for line in (
            *(_line(answer, answer.stage in stale) for answer in found if answer.row == row),
            *([_open_line(row, f"not met: {less[row]}")] if row in less else []),
        )
        or (_open_line(row, "none"),)
    ]
    return Table.of("coverage", "What answers each row of the assignment", rows)


def _line(answer: Answer, stale: bool) -> dict[str, str | None]:
    return {
        "row": answer.row,
        "about": ROWS[answer.row],
        "stage": answer.stage,
        "cell": f"In [{answer.cell}]" if answer.cell else None,
        "checks": f"{answer.held} of {len(answer.checks)} hold{', stale' if stale else ''}",
    }


def _open_line(row: str, said: str) -> dict[str, str | None]:
    return {"row": row, "about": ROWS[row], "stage": None, "cell": None, "checks": said}


def _state(task: Task, found: Sequence[StageRecord], stale: Mapping[str, str]) -> TaskState:
    """The state that the checks of a task decide; its comment quotes the results that made them, but none of
    a stale stage: those would stand beside results of another lab."""
    own = [
        (
            record.stage,
            result,
            [c for c in result.checks if any(matches(c.name, wanted) for wanted in task.checks)],
        )
        for record in found
        for result in record.results
    ]
    checks = [check for _, _, listed in own for check in listed]
    old = list(dict.fromkeys(stage for stage, _, listed in own if listed and stage in stale))
    held = sum(check.holds for check in checks)
    failing = [f"{c.name}: expected {c.expected}; seen {c.seen}." for c in checks if not c.holds]
    now = (result.summary for stage, result, listed in own if listed and stage not in old)
    less = lacking(task.numbers, checks)
    sums = f"{held} of {counted(len(checks), 'check', 'hold')}." if checks else "No check was made."
    state: State = "in part" if held else "open"
    if checks and held == len(checks) and not less:
        state = "stale" if old else "done"
    said = [
        *(f"{stage} is stale, because {stale[stage]}." for stage in old),
        *(f"{text}." for text in less),
        *failing[:QUOTED],
        *list(dict.fromkeys(now))[:QUOTED],
        sums,
    ]
    return TaskState(
        task=task.name, state=state, comment=" ".join(said), held=held, checks=len(checks)
    )
