"""Plans, applies and watches: the actions that bring the whole farm to its Lab, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from threading import Event

from labkit.checks import Check
from labkit.core.journal import Journal, lock
from labkit.core.result import Outcome, action
from labkit.display import counted
from labkit.errors import LabkitError, LockError
from labkit.farm.reconcile import plan as plans
from labkit.farm.reconcile.apply import converge
from labkit.farm.reconcile.observe import observe
from labkit.farm.reconcile.plan import Plan, Step
from labkit.model.lab import Lab
from labkit.records import Record

__all__ = ["apply", "checks", "plan", "watch"]

#: How long a watch waits after a mend that failed, at first and at most, in seconds.
AGAIN, AT_MOST = 1.0, 30.0


def __dir__() -> list[str]:
    return __all__


class Applied(Record):
    """The plans that were carried out, one after each observation, until nothing differed any more."""

    plans: tuple[Plan, ...]


class Mend(Record):
    """One mend of a watch: the steps, their seconds, and why they failed ('': they did not)."""

    time: datetime
    steps: tuple[Step, ...]
    seconds: float = 0.0
    error: str = ""

    def __str__(self) -> str:
        what = "; ".join(f"{step.action} {step.id} ({step.why})" for step in self.steps)
        how = f"failed: {self.error}" if self.error else f"mended in {self.seconds:.2f} s"
        return f"{self.time:%H:%M:%S} {what}{': ' if what else ''}{how}"


class Watched(Record):
    """A watch that is over: how often it looked, how often it mended and could not, and why it ended."""

    looks: int
    mends: int
    failures: int
    ended: str


@action("farm.plan")
def plan(lab: Lab) -> Outcome[Plan]:
    """Shows what :func:`apply` would do to the lab's farm as it is now, and why; changes nothing.

    The table ``plan`` has one row for the steps of a kind with the same reason. A check fails for what only a
    person can put right, as somebody else's interface in the bridge.

    Example: ``upkeep.plan(lab).value.steps``
    """
    state = observe(lab)
    value = state.plan(lab)
    return Outcome(
        value=value,
        subject=lab.name,
        summary=plans.summary(value),
        checks=state.strange,
        tables=plans.tables(lab, value),
    )


@action("farm.apply")
def apply(lab: Lab) -> Outcome[Applied]:
    """Makes the farm as the Lab says; touches only what differs, and what depends on it.

    Requests that run through the balancer meanwhile are answered. Raises what the steps raise; a
    further call goes on from there.

    Example: ``upkeep.apply(lab).changed`` is False the second time.
    """
    done, state = converge(lab)
    value = Applied(plans=done)
    return Outcome(
        value=value,
        subject=lab.name,
        changed=bool(value.plans),
        summary=plans.done(value.plans, lab),
        checks=(
            *plans.checks(lab, Plan(steps=(), resources=0)),  # what the last look saw
            *state.strange,
        ),
        tables=plans.tables(lab, value.plans[0]) if value.plans else (),
    )


@action("farm.watch")
def watch(
    lab: Lab,
    *,
    over: Event,
    tell: Callable[[Mend], None] = lambda mend: None,
    seconds: float | None = None,
    every: float = 1.0,
) -> Outcome[Watched]:
    """Keeps the farm as the Lab says until ``over`` is set, the time is over, or the lab is taken down.

    While a rebuild works on the lab nothing is mended. A fault that cannot be mended is told once, and tried
    again; so is what somebody else did to the lab, which is left alone.

    :param over: ends the watch after the mend that is under way.
    :param tell: called with each mend.
    :param seconds: how long to watch; None: without an end.
    :param every: seconds from the end of an observation to the next one.
    """
    keeper = Keeper(lab, tell)
    deadline = time.monotonic() + seconds if seconds is not None else float("inf")
    ended = ""
    while not ended:
        keeper.look()
        left = deadline - time.monotonic()
        if keeper.is_down():
            ended = "the lab was taken down"
        elif left <= 0 or over.wait(min(keeper.pause or every, left)):
            ended = "it was told to end" if over.is_set() else "its time was over"
    value = Watched(looks=keeper.looks, mends=keeper.mends, failures=keeper.failures, ended=ended)
    return Outcome(
        value=value,
        subject=lab.name,
        changed=bool(value.mends),
        summary=f"Watched lab {lab.name}: {counted(value.looks, 'look')}, "
        f"{counted(value.mends, 'mend')}, {counted(value.failures, 'failure')}; {ended}.",
    )


class Keeper:
    """The state of a watch: its counts, what it has told, and ``pause``, the seconds that it waits after a
    failure (0 after none)."""

    def __init__(self, lab: Lab, tell: Callable[[Mend], None]) -> None:
        self.lab = lab
        self.tell = tell
        self.looks = self.mends = self.failures = 0
        self.pause = 0.0
        self._said = self._noticed = ""
        self._was_up = False

    def look(self) -> None:
        """Observes once, and mends what differs; tells an error when it is another one than the last."""
        began = time.monotonic()
        self.looks += 1
        steps: tuple[Step, ...] = ()
        try:
            self._is_up()  # a lab that is taken down from now on stays down
            state = observe(self.lab)
            self._notice("; ".join(check.seen for check in state.strange))
            steps = state.plan(self.lab).steps
            done = self._mended() if steps else False
        except LockError:  # a rebuild works on the lab, or somebody takes it down
            return
        except LabkitError as error:
            self._failed(steps, f"{error.value}: {error.reason}")
            return
        except OSError as error:  # the watch goes on
            self._failed(steps, str(error))
            return
        self.pause, self._said = 0.0, ""
        if done:
            self.mends += 1
            self._tell(steps, seconds=round(time.monotonic() - began, 3))

    def is_down(self) -> bool:
        """Whether nothing of the lab is in its journal any more, where there was something."""
        with suppress(LabkitError):
            return not self._is_up() and self._was_up
        return False

    def _is_up(self) -> bool:
        """Whether something of the lab is in its journal; that it once was is remembered."""
        up = bool(Journal.of(self.lab).standing())
        self._was_up = self._was_up or up
        return up

    def _mended(self) -> bool:
        """Whether there was something to mend: not in a lab that was taken down since the observation."""
        with lock(self.lab.run_dir, "session", wait=0):
            if not self._is_up() and self._was_up:
                return False
            return bool(converge(self.lab)[0])

    def _notice(self, said: str) -> None:
        """Tells what a person has to put right, when it is another thing than the last time."""
        if said and said != self._noticed:
            self._tell((), error=said)
        self._noticed = said

    def _failed(self, steps: tuple[Step, ...], said: str) -> None:
        self.failures += 1
        self.pause = min(max(2 * self.pause, AGAIN), AT_MOST)
        if said != self._said:
            self._said = said
            self._tell(steps, error=said)

    def _tell(self, steps: tuple[Step, ...], *, seconds: float = 0.0, error: str = "") -> None:
        now = datetime.now(UTC).astimezone()
        self.tell(Mend(time=now, steps=steps, seconds=seconds, error=error))


def checks(lab: Lab) -> tuple[Check, ...]:
    """Checks, for each kind of thing, that all of it is as the Lab says; names what differs, and how."""
    return plans.checks(lab, observe(lab).plan(lab))
