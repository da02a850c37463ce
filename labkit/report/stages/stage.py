"""A stage while its notebook runs, and what all stages come to: the closing table and the assignment's coverage.

A stage records results and figures and closes: then it has passed, or says what is missing. The closing table
and the coverage are computed from the checks of each stage's last run.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TypeVar

from labkit.checks import Check
from labkit.core.files import write_atomically
from labkit.core.result import Figure, Outcome, Result, action, run_id
from labkit.core.tables import Table
from labkit.display import counted
from labkit.errors import StageError
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
    StagePlan,
    State,
    Task,
    judge,
    matches,
    plan,
    problems,
)
from labkit.report.stages.record import Entry, StageRecord

Shown = TypeVar("Shown", Result[Any], Figure)


class Stage:
    """A stage that is running. Opening it writes nothing; :meth:`close` writes its record."""

    def __init__(self, stage: StagePlan, lab: Lab) -> None:
        self.plan = stage
        self.lab = lab
        self.started = datetime.now(UTC)
        self._clock = time.monotonic()
        self._entries: dict[str, Entry] = {}
        self._inputs = build_cache.inputs_of(
            lab, stage, None, None
        )  # a batch knows the notebook, too
        if not os.environ.get("LABKIT_RUN"):  # a batch discards the drafts of all its stages itself
            atexit.register(records.discard_drafts, lab, run_id())

    @classmethod
    def open(cls, name: str, lab: Lab) -> Stage:
        """The stage of that name, begun now; raises :class:`ConfigError` that names the nearest.

        In a notebook, Tab then completes the names of a result's tables: ``pings.frames["``.
        """
        if shell := _shell():
            from IPython.core.guarded_eval import EVALUATION_POLICIES

            limited: Any = EVALUATION_POLICIES["limited"]  # asks no class of pydantic's
            shell.Completer.policy_overrides = {
                "allowed_getattr": {*limited.allowed_getattr, Result}
            }
        return cls(plan(name), lab)

    @staticmethod
    def load(lab: Lab, name: str) -> StageRecord:
        """The last run of a stage that passed; :class:`StateError` when there is none, or when its
        file is damaged or was edited by hand."""
        return records.load(lab, name)

    def record(self, shown: Shown, *, addresses: Sequence[str] = ()) -> Shown:
        """Keeps a result or a figure for the stage's record and returns it, for the cell to show.

        A cell that is run again in JupyterLab replaces what it recorded before.

        :param addresses: the identifiers of remarks (``labkit remarks`` tells them) that the result
            addresses: they count as answered by it while its checks hold.
        """
        cell, number = _cell()
        key = f"{cell or len(self._entries)} {type(shown).__name__} {shown_name(shown)}"
        kept = {"figure": shown} if isinstance(shown, Figure) else {"result": shown}
        self._entries[key] = Entry.model_validate(
            {"cell": number, "addresses": tuple(addresses), **kept}
        )
        return shown

    def close(self) -> StageRecord:
        """Writes the stage's record, and returns it when the stage has passed.

        Otherwise raises :class:`StageError` that names each required check that is missing or
        fails; the failed run is kept as ``results/STAGE.failed.json``, with its pictures
        (``figures/NAME.failed.png``), beside the last good one.
        """
        record = self._finish()
        if os.environ.get("LABKIT_RUN"):  # the batch judges the whole notebook before it is kept
            path = records.pending(self.lab, record.stage, record.run)
            write_atomically(path, records.dump(self.lab, record))
        else:
            records.keep(self.lab, record)
        if record.state == "failed":
            raise StageError(
                record.stage,
                "; ".join(record.problems),
                "each check says how to see it again",
                code="stage.checks",
            )
        return record

    def _finish(self) -> StageRecord:
        entries = tuple(self._entries.values())
        checks = tuple(check for entry in entries if entry.result for check in entry.result.checks)
        found = problems(self.plan, checks)
        return StageRecord(
            stage=self.plan.name,
            title=self.plan.title,
            state="failed" if found else "passed",
            closed=True,
            problems=found,
            run=run_id(),
            started=self.started,
            seconds=round(time.monotonic() - self._clock, 3),
            lab=self.lab.name,
            parameters=build_cache.described(self.lab),
            inputs=self._inputs,
            entries=entries,
        )


def shown_name(shown: Result[Any] | Figure) -> str:
    """What a recorded thing is called: the figure's name, or the action and its subject."""
    return shown.name if isinstance(shown, Figure) else f"{shown.action} {shown.subject}"


def _shell() -> Any:
    """IPython's shell, None outside of a notebook."""
    interactive = sys.modules.get("IPython")
    return interactive.get_ipython() if interactive else None


def _cell() -> tuple[str, int]:
    """The running notebook cell: the front end's id for it ('' when it has none), and its number."""
    shell = _shell()
    if shell is None:
        return "", 0
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return str(parent.get("metadata", {}).get("cellId", "")), len(shell.user_ns.get("In", "-")) - 1


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


@action("report.closing")
def closing_table(lab: Lab) -> Outcome[Closing]:
    """The assignment's closing table (task, state, comment), computed from the last run of each stage.

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
    silent = [task.task for task in found if task.state == "not run"]
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
        summary=f"{met} of {counted(len(found), 'task', 'are')} met.",
        checks=(check,),
        tables=(task_table(found),),
    )


@action("report.coverage")
def coverage(lab: Lab, *shown: Result[Any]) -> Outcome[Coverage]:
    """Which stage, cell and checks answer each row of the assignment, from the last run of each stage.

    :param shown: results of the stage that is running now, whose record is not written yet.
    """
    latest = records.latest(lab)
    stale = build_cache.stale(lab, latest)
    if shown:  # which are of now: what that stage's last run found is not
        latest = tuple(record for record in latest if record.stage != REPORT)
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
    found: Sequence[StageRecord],
    stale: Collection[str] = (),
    shown: Sequence[Result[Any] | Outcome[Any]] = (),
) -> dict[str, Judged]:
    """What becomes of each row of the assignment, by these records and by results that are in none yet; ``stale``
    are the stages whose records are of a lab of before. Pure."""
    checks = [
        (record.stage in stale, check)
        for record in found
        for result in record.results
        for check in result.checks
    ]
    checks += [(False, check) for result in shown for check in result.checks]
    own = {row: [(old, check) for old, check in checks if row in check.rows] for row in ROWS}
    return {
        row: judge(
            [check for _, check in own[row]],
            wanted.needs,
            wanted.numbers,
            stale=any(old for old, _ in own[row]),
        )
        for row, wanted in ASSIGNMENT.rows.items()
    }


def task_states(
    found: Sequence[StageRecord], stale: Mapping[str, str] = MappingProxyType({})
) -> tuple[TaskState, ...]:
    """The state of each task, from these records; ``stale`` says why some of them are."""
    return tuple(_state(task, found, stale) for task in TASKS)


def row_answers(
    found: Sequence[StageRecord], shown: Sequence[Result[Any] | Outcome[Any]] = ()
) -> tuple[Answer, ...]:
    """An answer for each row and each cell that has a check for it, in the rows' order."""
    cells = [
        (record.stage, entry.cell, entry.result.checks)
        for record in found
        for entry in record.entries
        if entry.result
    ]
    cells += [(REPORT, 0, result.checks) for result in shown]
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
