"""The closing table and the coverage: the tasks and the rows of the assignment, judged by the checks of all stages.

The actions :func:`closing_table` and :func:`coverage` take each stage's last run; everything else here is pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from labkit.checks import Check
from labkit.core.result import Outcome, Result, action
from labkit.core.tables import Table
from labkit.display import counted
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.stages import build_cache
from labkit.report.stages import record as records
from labkit.report.stages.assignment import (
    ASSIGNMENT,
    REPORT,
    ROWS,
    TASKS,
    Judged,
    State,
    Task,
    judge,
    matches,
)
from labkit.report.stages.record import StageRecord

#: How many result sentences a task's comment quotes.
QUOTED = 3


class TaskState(Record):
    """The state of a task of the assignment (:data:`labkit.report.stages.assignment.State`)."""

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
    """Which cells answer which rows, and what becomes of each row."""

    answers: tuple[Answer, ...]
    rows: dict[str, Judged]


#: Results of the stage that is running now, whose record is not written yet.
Shown = Sequence[Result[Any] | Outcome[Any]]


def _recorded(
    found: Iterable[StageRecord], shown: Shown = ()
) -> Iterator[tuple[str, int, Result[Any] | Outcome[Any]]]:
    """Each result with its stage and cell: those of records, then those that are in none yet."""
    for record in found:
        for entry in record.entries:
            if entry.result:
                yield record.stage, entry.cell, entry.result
    for result in shown:
        yield REPORT, 0, result


@action("report.closing")
def closing_table(lab: Lab) -> Outcome[Closing]:
    """Computes the assignment's closing table (task, state, comment) from the last run of each stage.

    Raises :class:`StateError` when a stage's record is damaged or was edited by hand.
    """
    latest = records.latest(lab)
    found = closing_of(latest, build_cache.stale(lab, latest))
    return found.model_copy(update={"subject": lab.name})


def closing_of(
    latest: Sequence[StageRecord], stale: Mapping[str, str] = MappingProxyType({})
) -> Outcome[Closing]:
    """The closing table, from these records; ``stale`` says why some of them are. Pure."""
    found = task_states(latest, stale)
    met = sum(task.state == "met" for task in found)
    silent = ", ".join(task.task for task in found if task.state == "not run")
    tasks = counted(len(found), "task")
    check = Check(
        name="report.closing",
        expected=f"each of {tasks} has a state that checks decide",
        seen=f"no check for: {silent}" if silent else f"{tasks}, each decided",
        holds=not silent,
        rows=("R12",),
        again="labkit review",
    )
    return Outcome(
        value=Closing(tasks=found),
        subject="",
        summary=f"{met} of {counted(len(found), 'task', 'are')} met.",
        checks=(check,),
        tables=(task_table(found),),
    )


@action("report.coverage")
def coverage(lab: Lab, *shown: Result[Any]) -> Outcome[Coverage]:
    """Shows which stage, cell and checks answer each row of the assignment, from the last run of each stage.

    :param shown: results of the stage that is running now, whose record is not written yet.
    """
    latest = records.latest(lab)
    stale = build_cache.stale(lab, latest)
    if shown:  # which are of now: what that stage's last run found is not
        latest = tuple(record for record in latest if record.stage != REPORT)
        stale.pop(REPORT, None)
    found, judged = row_answers(latest, shown), judged_rows(latest, stale, shown)
    unmet = [f"{row} {state.told}" for row, state in judged.items() if state.state != "met"]
    check = Check(
        name="report.coverage",
        expected=f"each of {len(ROWS)} rows is met",
        seen="; ".join(unmet) or f"{len(ROWS)} rows met",
        holds=not unmet,
        again="labkit review",
    )
    return Outcome(
        value=Coverage(answers=found, rows=judged),
        subject=lab.name,
        summary=f"{len(ROWS) - len(unmet)} of the assignment's {len(ROWS)} rows are met"
        f"{'; ' if unmet else ''}{'; '.join(unmet)}.",
        checks=(check,),
        tables=(coverage_table(found, judged, stale),),
    )


def judged_rows(
    found: Sequence[StageRecord], stale: Collection[str] = (), shown: Shown = ()
) -> dict[str, Judged]:
    """What becomes of each row of the assignment, by these records and by results that are in none yet; ``stale``
    are the stages whose records are of a lab of before. Pure."""
    results = [*_recorded(found, shown)]
    judged = {}
    for row, wanted in ASSIGNMENT.rows.items():
        own = [(stage, c) for stage, _, result in results for c in result.checks if row in c.rows]
        old = any(stage in stale for stage, _ in own)
        judged[row] = judge([c for _, c in own], wanted.needs, wanted.numbers, stale=old)
    return judged


def task_states(
    found: Sequence[StageRecord], stale: Mapping[str, str] = MappingProxyType({})
) -> tuple[TaskState, ...]:
    """The state of each task, from these records; ``stale`` says why some of them are."""
    return tuple(_state(task, found, stale) for task in TASKS)


def _state(task: Task, found: Sequence[StageRecord], stale: Mapping[str, str]) -> TaskState:
    """The state that the checks of a task decide; its comment quotes the results that made them, but none of
    a stale stage: those would stand beside results of another lab."""
    own = [
        (stage, result, [c for c in result.checks if any(matches(c.name, w) for w in task.checks)])
        for stage, _, result in _recorded(found)
    ]
    checks = [check for _, _, listed in own for check in listed]
    old = list(dict.fromkeys(stage for stage, _, listed in own if listed and stage in stale))
    judged = judge(checks, task.needs or task.checks, task.numbers, stale=bool(old))
    failing = [f"{c.name}: expected {c.expected}; seen {c.seen}." for c in checks if not c.holds]
    now = (result.summary for stage, result, listed in own if listed and stage not in old)
    said = [
        *(f"{stage} is stale, because {stale[stage]}." for stage in old),
        *(f"{text}." for text in judged.why if not text.startswith("failing")),
        *failing[:QUOTED],
        *list(dict.fromkeys(now))[:QUOTED],
        f"{judged.held} of {counted(judged.checks, 'check', 'hold')}."
        if checks
        else "No check was made.",
    ]
    return TaskState(
        task=task.name,
        state=judged.state,
        comment=" ".join(said),
        held=judged.held,
        checks=judged.checks,
    )


def row_answers(found: Sequence[StageRecord], shown: Shown = ()) -> tuple[Answer, ...]:
    """An answer for each row and each cell that has a check for it, in the rows' order."""
    cells = [(stage, cell, result.checks) for stage, cell, result in _recorded(found, shown)]
    return tuple(
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
    )


def task_table(found: Sequence[TaskState]) -> Table:
    """The closing table."""
    rows = ({"task": t.task, "state": t.state, "comment": t.comment} for t in found)
    return Table.of("closing", "Tasks of the assignment", rows)


def coverage_table(
    found: Sequence[Answer], judged: Mapping[str, Judged], stale: Collection[str]
) -> Table:
    """The coverage, a line for each row and cell, and for a row without an answer; an answer of a ``stale`` stage
    says so."""
    lines = [
        {"row": row, "about": ROWS[row], "state": judged[row].told, **cells}
        for row in ROWS
        for cells in [_cells(item, item.stage in stale) for item in found if item.row == row]
        or [{"stage": None, "cell": None, "checks": None}]
    ]
    return Table.of("coverage", "What answers each row of the assignment", lines)


def _cells(answer: Answer, stale: bool) -> dict[str, str | None]:
    return {
        "stage": answer.stage,
        "cell": f"In [{answer.cell}]" if answer.cell else None,
        "checks": f"{answer.held} of {len(answer.checks)} hold{', stale' if stale else ''}",
    }
