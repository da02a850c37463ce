"""The rebuild: the stages' notebooks run by their dependencies, independent ones side by side, and what is kept."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import labkit
from labkit.checks import Check
from labkit.core import journal
from labkit.core.journal import Journal
from labkit.core.result import Outcome, action, new_run_id
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.errors import LabkitError, StateError
from labkit.farm.rootfs import variants
from labkit.model.config import PARAMETERS, project_folder
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.batch import notebook as notebooks
from labkit.report.batch import schedule
from labkit.report.batch.notebook import end_notebooks, markers, verdict
from labkit.report.batch.progress import Progress, report_address
from labkit.report.batch.schedule import GOOD, Ending, Expected, Wish, not_run, ready, to_run
from labkit.report.stages import build_cache
from labkit.report.stages import record as records
from labkit.report.stages.assignment import STAGES, StagePlan, skipped
from labkit.report.stages.build_cache import BuildCache, Remembered
from labkit.report.stages.record import Inputs, StageRecord
from labkit.wiki import server

#: The notebooks in an installed package; a clone has them beside it.
BROUGHT = Path(labkit.__file__).parent / "notebooks"
#: More papermills at a time are slower, measured on two processors.
WORKERS = 4
#: The niceness of a stage that leaves the processors to the others.
NICE = 10


class Rebuilt(Record):
    """The outcome of a batch; ``interrupted`` is the name of the signal that ended it, else ''."""

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
    """Runs the stages that have to be run, and returns a check for each.

    Afterwards each stage that passed has its executed notebook, record, tables and figures in the
    lab's outputs; one that failed left its notebook (``notebooks/NN.failed.ipynb``), its record
    (``results/NN.failed.json``), its figures (``figures/NAME.failed.png``) and its log beside the
    outputs of its last good run. SIGTERM and SIGINT end the notebooks and what they have started;
    the value says so.

    :param wish: what is to be run; default: all that has changed.
    :param folder: where the notebooks are; default: ``notebooks`` of the project.
    :raises ConfigError: an unknown stage, parameter or variant, a missing notebook, a named stage that this lab skips;
        nothing was run.
    :raises LockError: another batch works on this lab.
    """
    wish = wish or Wish()
    plans = wish.plans(lab)
    variants.of_lab(lab)
    sources = find(plans, folder or notebooks_folder(), wish.parameters)
    with journal.lock(lab.run_dir, "session", wait=0), progress or Progress() as shown:
        shown.expect(stage.name for stage in plans)
        batch = Batch(lab, wish, sources, shown)
        endings = batch.run(plans)
    stale = build_cache.stale(lab)
    value = Rebuilt(run=batch.run_id, stages=tuple(endings), interrupted=batch.interrupted)
    return Outcome(
        value=value,
        subject=lab.name,
        summary=_summary(value, stale),
        changed=any(ending.state not in ("unchanged", "skipped") for ending in endings),
        checks=tuple(_check(ending) for ending in endings if ending.state != "skipped"),
        tables=(_table(endings, stale),),
    )


def foresight(lab: Lab) -> tuple[Table, ...]:
    """A table of the steps of a rebuild, besides changes of the farm, with their reasons: a row for the wiki if it is
    down, and one for each stage that would run; no table if there are no steps. Changes nothing. It does not know the
    notebook parameters of the rebuild's command line."""
    steps, wiki = {}, server.status(lab)
    if not wiki.up:
        steps["start wiki" if wiki.installed else "create wiki"] = wiki.reason
    if not build_cache.recall(lab).stages:
        steps["publish report"] = "no rebuild of this lab has passed yet"
    else:
        batch = Batch(lab, Wish(), find(STAGES, notebooks_folder(), {}), Progress())
        wanted = [stage for stage in STAGES if not skipped(stage, lab)]
        steps |= {f"run {name}": why for name, why in to_run(wanted, batch.why).items()}
    rows: list[dict[str, Cell]] = [{"step": step, "why": why} for step, why in steps.items()]
    return (Table.of("rebuild", "What a rebuild would also do", rows),) if rows else ()


def notebooks_folder() -> Path:
    """The folder ``notebooks`` of the current project; outside a project, the notebooks of the installed package."""
    here = project_folder() / "notebooks"
    return here if here.is_dir() else BROUGHT


def find(
    plans: Sequence[StagePlan], folder: Path, parameters: Mapping[str, Any]
) -> dict[str, Path]:
    """The notebook of each stage. Raises :class:`ConfigError` if one is missing or damaged, or if neither the lab nor
    a notebook declares a parameter."""
    sources = {stage.name: folder / f"{stage.name}.ipynb" for stage in plans}
    found = [notebooks.require(source) for source in sources.values()]
    notebooks.require_known(parameters, found)
    return sources


def _summary(value: Rebuilt, stale: Collection[str]) -> str:
    counts = Counter(ending.state for ending in value.stages)
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


class Batch:
    """One batch of a lab, by a process that holds the lab's session lock.

    ``sources`` has the notebook of each stage; ``interrupted`` is the name of the signal that ended the batch, else ''.
    """

    def __init__(
        self, lab: Lab, wish: Wish, sources: Mapping[str, Path], progress: Progress
    ) -> None:
        self.lab = lab
        self.wish = wish
        self.run_id = new_run_id()
        self.interrupted = ""
        self._sources = sources
        self._progress = progress
        self._work = lab.run_dir / "rebuild"
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._again: set[str] = set()
        self._memory = build_cache.recall(lab)
        self._standing = build_cache.standing(lab)

    def run(self, plans: Sequence[StagePlan]) -> list[Ending]:
        """Runs the stages that have to run; returns their endings in the order of ``plans``."""
        self._end_notebooks()  # of a batch that was killed itself
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        notebooks.write_lab_file(self.lab)
        endings = {
            stage.name: Ending(stage=stage.name, state="skipped", reasons=(why,))
            for stage in plans
            if (why := skipped(stage, self.lab))
        }
        for ending in endings.values():
            self._progress.end(ending.stage, ending.state, 0.0, ending.reasons[0])
        ahead = self._expect([stage for stage in plans if stage.name not in endings])
        try:
            if ahead and not self.wish.stages:
                self._settle()
            self._run_all(plans, endings)
        finally:
            passed = {name: end.seconds for name, end in endings.items() if end.state == "passed"}
            standing = build_cache.standing(self.lab)
            self._remember(lambda memory: build_cache.with_standing(memory, passed, standing))
            if ahead and passed:
                self._remember(lambda memory: schedule.measured(self.lab, memory, ahead, passed))
            records.discard_drafts(self.lab, self.run_id)
            shutil.rmtree(self._work, ignore_errors=True)
        return [
            endings.get(stage.name) or not_run(stage, endings, self.interrupted) for stage in plans
        ]

    def _expect(self, plans: Sequence[StagePlan]) -> Expected | None:
        """Announces the expected duration; returns the estimate, None if no stage has to run."""
        names = to_run(plans, self.why)
        if not names:
            return None
        for name in names:
            records.put_aside(self.lab, name)
        ahead = schedule.expect(self.lab, [p for p in plans if p.name in names], self._memory)
        self._progress.estimate(plans, ahead.seconds)
        self._progress.say(ahead.sentence(schedule.free(self.lab)))
        return ahead

    def _settle(self) -> None:
        """Removes surplus replicas of an earlier run: all stages of a rebuild must describe one lab, and no stage
        removes running replicas."""
        # which make a farm: more to import than a rebuild needs that has nothing to do
        from labkit.farm.reconcile import preflight, upkeep

        if more := preflight.surplus_replicas(self.lab):
            self._progress.say(f"removed first, as this lab does not have them: {', '.join(more)}")
            upkeep.apply(self.lab)
            self._standing = build_cache.standing(self.lab)

    def _run_all(self, plans: Sequence[StagePlan], endings: dict[str, Ending]) -> None:
        running: dict[Future[Ending], str] = {}
        with ThreadPoolExecutor(WORKERS) as pool, _signals(self._end):
            try:
                while True:
                    for stage in self._next(plans, endings, running):
                        running[pool.submit(self._run_one, stage)] = stage.name
                    if not running:
                        return
                    done = wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done
                    self._progress.tick()
                    for future in done:
                        self._ended(plans, endings, running.pop(future), future.result())
            finally:
                self._over.set()

    def _next(
        self, plans: Sequence[StagePlan], endings: Mapping[str, Ending], running: Mapping[Any, str]
    ) -> list[StagePlan]:
        bad = any(ending.state not in GOOD for ending in endings.values())
        if self.interrupted or (bad and not self.wish.keep_going):
            return []
        over = {name: end.state for name, end in endings.items() if name not in self._again}
        return ready(plans, over, set(running.values()))

    def _ended(
        self, plans: Sequence[StagePlan], endings: dict[str, Ending], name: str, ending: Ending
    ) -> None:
        """Notes how a stage ended; if a finished stage shows it, that stage has to run again."""
        endings[name] = ending
        self._again.discard(name)
        if ending.state == "passed":
            self._again |= {p.name for p in plans if name in p.later and p.name in endings}
            waiting = [p.name for p in plans if p.name not in endings]
            if set(waiting) & {later for p in plans if p.name == name for later in p.later}:
                self._progress.say(
                    f"The report is at {report_address(self.lab)}. "
                    f"{', '.join(waiting)} follows; then it is published again."
                )

    # -- one stage, in a thread of its own -----------------------------------------------------

    def _run_one(self, stage: StagePlan) -> Ending:
        try:
            ending = self._run_or_leave(stage)
        except (LabkitError, OSError) as error:
            ending = Ending(stage=stage.name, state="failed", reasons=(str(error),))
        self._progress.end(
            stage.name,
            ending.state,
            ending.seconds if ending.state != "unchanged" else 0.0,
            ending.reasons[0]
            if ending.reasons
            else f"{ending.held} of {counted(ending.checks, 'check', 'hold')}",
        )
        return ending

    def _run_or_leave(self, stage: StagePlan) -> Ending:
        why = self.why(stage)
        if not why:
            return Ending.of(records.load(self.lab, stage.name), state="unchanged", reasons=())
        now, doing = self._inputs(stage), self._work / f"{stage.name}.doing"
        self._progress.begin(stage.name, why, doing)
        self._remember(lambda memory: build_cache.with_stage(memory, stage.name, None))
        started, clock = datetime.now(UTC), time.monotonic()
        execution = self._execute(stage, doing)
        seconds = round(time.monotonic() - clock, 2)
        record = self._judge(stage, execution, started, seconds)
        if self.interrupted and record.state == "failed":
            reasons = (f"ended by {self.interrupted}",)
            return Ending.of(record, state="ended", reasons=reasons, seconds=seconds)
        self._keep(stage, execution, record.model_copy(update={"inputs": now}))
        return Ending.of(record, seconds=seconds)

    def _inputs(self, stage: StagePlan) -> Inputs:
        own = {k: v for k, v in self._parameters(stage).items() if k not in PARAMETERS}
        return build_cache.inputs_of(self.lab, stage, self._sources[stage.name], own)

    def why(self, stage: StagePlan) -> str:
        """Why a stage has to run now; '' if its last run is still valid and it was not requested."""
        now = self._inputs(stage)
        why = build_cache.why_run(self.lab, stage, self._memory, now, self._standing)
        return why or ("it was asked for" if stage.name in self.wish.forced() else "")

    def _parameters(self, stage: StagePlan) -> dict[str, Any]:
        """The given parameters that the stage's notebook declares, except paths, which its lab file contains."""
        names = notebooks.declared(notebooks.require(self._sources[stage.name]))
        names -= {"outputs", "assignment"}
        return {name: value for name, value in self.wish.parameters.items() if name in names}

    def _execute(self, stage: StagePlan, doing: Path) -> notebooks.Execution:
        log = self.lab.output_dir / "logs" / f"{stage.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        lab_file = self.lab.output_dir / "lab.toml"
        env = notebooks.environment(lab_file, self.run_id, self._work)
        with log.open("w", encoding="utf-8", buffering=1) as lines:
            return notebooks.execute(
                self._sources[stage.name],
                self._work / f"{stage.name}.ipynb",
                parameters=self._parameters(stage),
                nice=NICE if stage.yields else 0,
                env={**env, "LABKIT_DOING": str(doing)},
                on_line=lambda line: print(line, file=lines),
                on_cell=partial(self._progress.cell, stage.name),
            )

    def _judge(
        self, stage: StagePlan, execution: notebooks.Execution, started: datetime, seconds: float
    ) -> StageRecord:
        """The stage's record, marked as failed if there is a reason in its :func:`verdict`."""
        pending = records.pending(self.lab, stage.name, self.run_id)
        try:
            record = records.read_pending(self.lab, stage.name, self.run_id)
        except StateError:
            record = None
        pending.unlink(missing_ok=True)
        reasons = verdict(execution, record, self.run_id)
        if record and not reasons:
            return record
        unclosed = StageRecord(
            stage=stage.name, title=stage.title, state="failed", closed=False, run=self.run_id,
            started=started, seconds=seconds, lab=self.lab.name,
            parameters=build_cache.described(self.lab),
            entries=records.entries_of(execution.notebook) if execution.notebook else (),
        )  # fmt: skip
        return (record or unclosed).model_copy(update={"state": "failed", "problems": reasons})

    def _keep(self, stage: StagePlan, execution: notebooks.Execution, record: StageRecord) -> None:
        text = notebooks.tidy(execution.notebook, stage.name) if execution.notebook else ""
        records.keep(self.lab, record, text)
        if record.state == "passed":
            source = str(self._sources[stage.name].resolve())
            remembered = Remembered(source=source, record=record.digest)
            self._remember(lambda memory: build_cache.with_stage(memory, stage.name, remembered))

    def _remember(self, change: Callable[[BuildCache], BuildCache]) -> None:
        with self._lock:
            changed = change(self._memory)
            if changed != self._memory or not build_cache.cache_file(self.lab).exists():
                self._memory = changed
                build_cache.write(self.lab, changed)

    # -- a signal --------------------------------------------------------------------------------

    def _end(self, name: str) -> None:
        """Handles a signal: no further stage begins, and the running ones are ended."""
        if not self.interrupted:
            self.interrupted = name
            threading.Thread(target=self._end_running, name="ending").start()

    def _end_running(self) -> None:
        self._progress.say(
            f"{self.interrupted}: the running notebooks and their programs are ended"
        )
        while not self._over.wait(0.2):  # again: one may have been about to start
            self._end_notebooks()

    def _end_notebooks(self) -> None:
        end_notebooks(str(self._work), markers(Journal.of(self.lab).standing()))


@contextmanager
def _signals(end: Callable[[str], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call ``end`` with their name while the block runs, in the main thread."""

    def handle(number: int, frame: FrameType | None) -> None:
        end(signal.Signals(number).name)

    before = {sig: signal.signal(sig, handle) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for sig, old in before.items():
            signal.signal(sig, old)
