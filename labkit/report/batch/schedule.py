"""Which stages are to run, which may begin, and how each came out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from labkit.records import Record
from labkit.report.stages import plan as plans
from labkit.report.stages.plan import Plan

State = Literal["passed", "unchanged", "failed", "not run", "ended"]
#: The states with which the stages that wait for one may begin.
GOOD: tuple[State, ...] = ("passed", "unchanged")


class Ending(Record):
    """How one stage came out of a batch; ``ended`` is one that was running when a signal came."""

    stage: str
    state: State
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    held: int = 0
    checks: int = 0


class Wish(Record):
    """What is to be run.

    ``stages``: only these, '()' is all; ``force``: even if unchanged; ``start``: this stage and those
    that depend on it even if unchanged; ``keep_going``: after a failure, whatever does not depend on it;
    ``parameters``: for the notebooks that declare them (those of the lab are in the lab already).
    """

    stages: tuple[str, ...] = ()
    force: bool = False
    start: str = ""
    keep_going: bool = False
    parameters: dict[str, Any] = Field(default_factory=dict)

    def plans(self) -> tuple[Plan, ...]:
        """The stages, in order; raises :class:`ConfigError` for a name that is none."""
        wanted = {plans.plan(name).name for name in self.stages}
        if self.start:
            plans.plan(self.start)
        return tuple(stage for stage in plans.STAGES if not wanted or stage.name in wanted)

    def forced(self) -> frozenset[str]:
        """The stages that run even when nothing has changed."""
        if self.force:
            return frozenset(stage.name for stage in plans.STAGES)
        return following(self.start) if self.start else frozenset()


def following(start: str) -> frozenset[str]:
    """A stage and all that depend on it, directly or not."""
    found = {start}
    for stage in plans.STAGES:  # each stage comes after those that it waits for
        if found & {*stage.after, *stage.later}:
            found.add(stage.name)
    return frozenset(found)


def ready(
    wanted: Sequence[Plan], states: Mapping[str, State], running: Collection[str]
) -> list[Plan]:
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


def left(wanted: Sequence[Plan], seconds: Mapping[str, float], over: Collection[str]) -> float:
    """How many seconds it takes until all are ``over``, when each takes so many (more) ``seconds``."""
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


def not_run(stage: Plan, endings: Mapping[str, Ending], interrupted: str) -> Ending:
    """How a stage came out that was never begun, with the reason."""
    bad = [name for name, ending in endings.items() if ending.state not in GOOD]
    needed = [name for name in stage.after if name in endings and name in bad]
    if needed:
        reason = f"it waits for {needed[0]}"
    elif interrupted:
        reason = f"the rebuild was ended by {interrupted}"
    else:
        reason = f"{bad[0]} failed" if bad else "a stage that it waits for did not run"
    return Ending(stage=stage.name, state="not run", reasons=(reason,))
