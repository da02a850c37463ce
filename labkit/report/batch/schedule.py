"""The order of a rebuild: which stages run, which may begin, how each came out, and what all of it will take."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from labkit.core import run
from labkit.core.files import existing
from labkit.display import about, counted, human_bytes
from labkit.errors import ConfigError
from labkit.farm.rootfs import variants
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.stages.assignment import BYTES, STAGES, StagePlan, plan, skipped
from labkit.report.stages.build_cache import BuildCache
from labkit.report.stages.record import StageRecord

State = Literal["passed", "unchanged", "skipped", "failed", "not run", "ended"]
#: The states with which the stages that wait for one may begin.
GOOD: tuple[State, ...] = ("passed", "unchanged", "skipped")


class Ending(Record):
    """How one stage of a batch ended; the state ``ended`` means that a signal interrupted it."""

    stage: str
    state: State
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    held: int = 0
    checks: int = 0

    @classmethod
    def of(cls, record: StageRecord, **other: Any) -> Ending:
        """The ending of a stage with this record; ``other`` are fields with other values."""
        values = {
            "state": record.state,
            "reasons": record.problems,
            "seconds": record.seconds,
            **other,
        }
        return cls(stage=record.stage, held=record.held, checks=len(record.checks), **values)


class Wish(Record):
    """Which stages to run.

    ``stages``: only these, '()' is all; ``force``: even if unchanged; ``start``: this stage and those
    that depend on it even if unchanged; ``keep_going``: after a failure, whatever does not depend on it;
    ``parameters``: for the notebooks that declare them (those of the lab are in the lab already).
    """

    stages: tuple[str, ...] = ()
    force: bool = False
    start: str = ""
    keep_going: bool = False
    parameters: dict[str, Any] = Field(default_factory=dict)

    def plans(self, lab: Lab) -> tuple[StagePlan, ...]:
        """The stages, in order; raises :class:`ConfigError` for a name that is none, or that the lab skips."""
        wanted = {plan(name).name for name in self.stages}
        if self.start:
            plan(self.start)
        for name in wanted:
            if why := skipped(plan(name), lab):
                raise ConfigError(name, f"cannot run: {why}", f"set it: --set {plan(name).only_with}=VALUE", code="config.stage-skipped")  # fmt: skip
        return tuple(stage for stage in STAGES if not wanted or stage.name in wanted)

    def forced(self) -> frozenset[str]:
        """The stages that run even when nothing has changed."""
        if self.force:
            return frozenset(stage.name for stage in STAGES)
        return following(self.start) if self.start else frozenset()


def following(start: str) -> frozenset[str]:
    """A stage and all stages that depend on it, directly or indirectly."""
    found = {start}
    for stage in STAGES:  # each stage comes after those that it waits for
        if found & {*stage.after, *stage.later}:
            found.add(stage.name)
    return frozenset(found)


def to_run(stages: Sequence[StagePlan], why: Callable[[StagePlan], str]) -> dict[str, str]:
    """The stages that have to run, each with the reason: its own (from ``why``, '' for none), or that a stage which
    it waits for or shows runs again."""
    found: dict[str, str] = {}
    for stage in sorted(stages, key=lambda stage: len(stage.later)):
        earlier = [name for name in (*stage.after, *stage.later) if name in found]
        if reason := why(stage) or (f"{earlier[0]} is run again" if earlier else ""):
            found[stage.name] = reason
    return found


def ready(
    wanted: Sequence[StagePlan], states: Mapping[str, State], running: Collection[str]
) -> list[StagePlan]:
    """The stages that may begin: ``states`` has those that are over. A stage waits only for those of
    the stages before it that are wanted, too; one that another shows later, for all that can run."""
    here, later = {stage.name for stage in wanted}, {n for stage in wanted for n in stage.later}
    free = [
        stage
        for stage in wanted
        if stage.name not in states
        and stage.name not in running
        and all(states.get(name) in GOOD for name in stage.after if name in here)
    ]
    first = [stage for stage in free if stage.name not in later]
    return free if not (first or running) else first


def left(wanted: Sequence[StagePlan], seconds: Mapping[str, float], over: Collection[str]) -> float:
    """The remaining seconds until all stages are ``over``, if each takes this many further ``seconds``."""
    later = {name for stage in wanted for name in stage.later}
    ends: dict[str, float] = {}
    rest = 0.0
    for stage in wanted:
        takes = 0.0 if stage.name in over else seconds.get(stage.name, 0.0)
        if stage.name in later:
            rest += takes
            continue
        ends[stage.name] = takes + max((ends.get(name, 0.0) for name in stage.after), default=0.0)
        if any(seconds.get(name) and name not in over for name in stage.later):
            rest += seconds.get(stage.name, 0.0)
    return max(ends.values(), default=0.0) + rest


def not_run(stage: StagePlan, endings: Mapping[str, Ending], interrupted: str) -> Ending:
    """The ending of a stage that did not begin, with the reason."""
    bad = [name for name, ending in endings.items() if ending.state not in GOOD]
    needed = [name for name in stage.after if name in endings and name in bad]
    if needed:
        reason = f"it waits for {needed[0]}"
    elif interrupted:
        reason = f"the rebuild was ended by {interrupted}"
    else:
        reason = f"{bad[0]} failed" if bad else "a stage that it waits for did not run"
    return Ending(stage=stage.name, state="not run", reasons=(reason,))


class Expected(Record):
    """An estimate for the stages to run: seconds for each, to the first report and in all, bytes to download and on
    disk; ``building`` are the stages that build a root file system, ``measured`` is whether all values were measured
    on this machine."""

    seconds: dict[str, float]
    report: float
    whole: float
    download: int
    space: int
    building: tuple[str, ...]
    measured: bool

    def sentence(self, free: int) -> str:
        """The estimate as a sentence; ``free`` is the disk's free space in bytes."""
        first = (
            f"about {about(self.report)} to the report, " if self.report < self.whole else "about "
        )
        needs = f", {human_bytes(self.download)} to download, {human_bytes(self.space)} of disk ({human_bytes(free)} free)"
        source = "the last time on this machine" if self.measured else "typical of two processors"
        return (
            f"{counted(len(self.seconds), 'stage')} to run: {first}{about(self.whole)} in all"
            f"{needs if self.building else ', nothing to download'} ({source})"
        )


def expect(lab: Lab, stages: Collection[StagePlan], memory: BuildCache) -> Expected:
    """Estimates the duration, download size and disk usage of these stages."""
    building = tuple(stage.name for stage in stages if not _built(lab, stage))
    last = {stage.name: memory.seconds.get(_key(stage.name, building)) for stage in stages}
    usual = {stage.name: stage.seconds[stage.name not in building] for stage in stages}
    seconds = {name: usual[name] if known is None else known for name, known in last.items()}
    later = {name for stage in stages for name in stage.later}
    fetched, kept = (memory.fetched, memory.kept) if memory.kept else BYTES
    return Expected(
        seconds=seconds,
        report=left(tuple(stages), seconds, later),
        whole=left(tuple(stages), seconds, ()),
        download=max(0, fetched - disk_use(lab.cache_dir / "debian")),
        space=max(0, kept - disk_use(lab.cache_dir, lab.state_dir)),
        building=building,
        measured=None not in last.values() and (bool(memory.kept) or not building),
    )


def measured(
    lab: Lab, memory: BuildCache, expected: Expected, seconds: dict[str, float]
) -> BuildCache:
    """The build cache with the measured values of the stages that passed."""
    names = {_key(name, expected.building): taken for name, taken in seconds.items()}
    update: dict[str, object] = {"seconds": {**memory.seconds, **names}}
    if set(expected.building) & set(seconds):
        places = lab.cache_dir, lab.state_dir
        update |= {"fetched": disk_use(lab.cache_dir / "debian"), "kept": disk_use(*places)}
    return memory.model_copy(update=update)


def disk_use(*folders: Path) -> int:
    """The allocated bytes of folders, hard links counted once; missing folders count as 0."""
    there = [folder for folder in folders if folder.is_dir()]
    words = ("du", "--summarize", "--total", "--one-file-system", "--block-size=1")
    if not there:
        return 0
    return int(run.run([*words, *there], ok=(0, 1)).stdout.splitlines()[-1].split()[0])


def free(lab: Lab) -> int:
    """The free bytes on the disk of the lab's cache."""
    return shutil.disk_usage(existing(lab.cache_dir)).free


def _key(name: str, building: Collection[str]) -> str:
    return f"{name}, building" if name in building else name


def _built(lab: Lab, stage: StagePlan) -> bool:
    """Whether the cache has a root file system of each kind that a stage needs, perhaps of older packages."""
    names = [name or variants.of_lab(lab).name for name in stage.builds]
    suite = lab.rootfs.suite or "*"
    folder = lab.cache_dir / "rootfs"
    return all(any(folder.glob(f"{name}-{suite}-*/rootfs.json")) for name in names)
