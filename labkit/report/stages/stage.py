"""A stage while its notebook runs: it records results and figures, and closes with a verdict on its checks."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from labkit.core.files import write_atomically
from labkit.core.result import Figure, Result, run_id
from labkit.errors import StageError
from labkit.model.lab import Lab
from labkit.report.stages import build_cache
from labkit.report.stages import record as records
from labkit.report.stages.assignment import StagePlan, plan, problems
from labkit.report.stages.record import Entry, StageRecord

Shown = TypeVar("Shown", Result[Any], Figure)


class Stage:
    """A stage while its notebook runs: :meth:`record` collects results and figures, :meth:`close` writes the record."""

    def __init__(self, stage: StagePlan, lab: Lab) -> None:
        self.plan = stage
        self.lab = lab
        self.started = datetime.now(UTC)
        self._clock = time.monotonic()
        self._entries: dict[str, Entry] = {}
        self._inputs = build_cache.inputs_of(lab, stage, None, None)  # a batch knows the notebook
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
