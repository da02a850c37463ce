"""The whole farm kept as its Lab says: what differs, and the least that puts it right."""

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
from labkit.farm.network import links, topology
from labkit.farm.reconcile import acting, telling
from labkit.farm.reconcile.difference import Plan, Step
from labkit.farm.reconcile.looking import look
from labkit.model.lab import Lab
from labkit.records import Record

#: How long a watch waits after a mend that failed, at first and at most, in seconds.
AGAIN, AT_MOST = 1.0, 30.0


class Applied(Record):
    """What was done: one plan a look at the machine, after the last of which nothing differed any more."""

    plans: tuple[Plan, ...]


class Mend(Record):
    """What a watch did at once: the steps, how long they took, and why they failed ('': they did not)."""

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
    """What :func:`apply` would do to the lab's farm as it is now, and why; nothing is changed.

    A check fails for what only a person can put right, as somebody else's interface in the bridge."""
    seen = look(lab)
    value = seen.plan(lab)
    return Outcome(
        value=value,
        subject=lab.name,
        summary=telling.summary(value),
        checks=seen.strange,
        tables=telling.tables(lab, value),
    )


@action("farm.apply")
def apply(lab: Lab) -> Outcome[Applied]:
    """The farm is as the Lab says; only what differed was touched, and what depends on it.

    Requests that run through the balancer meanwhile are answered. Raises what the steps raise; a
    further call goes on from there.
    """
    value = Applied(plans=acting.converge(lab))
    return Outcome(
        value=value,
        subject=lab.name,
        changed=bool(value.plans),
        summary=telling.done(value.plans, lab),
        checks=(
            *telling.checks(lab, Plan(steps=(), resources=0)),  # what the last look saw
            *topology.strange(lab, links.observe(lab)),
        ),
        tables=telling.tables(lab, value.plans[0]) if value.plans else (),
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
    """The farm was kept as the Lab says until ``over`` was set, for ``seconds`` (None: without an end), or
    until somebody took the lab down; each mend was told.

    While a rebuild works on the lab nothing is mended. What cannot be mended is told once, and tried again;
    so is what somebody else did to the lab, which is left alone.

    :param every: seconds from the end of a look to the next one.
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
    """What a watch does at each look, and remembers from one to the next: ``pause`` is how long it waits
    after a failure, 0 after none."""

    def __init__(self, lab: Lab, tell: Callable[[Mend], None]) -> None:
        self.lab = lab
        self.tell = tell
        self.looks = self.mends = self.failures = 0
        self.pause = 0.0
        self._said = self._noticed = ""
        self._stood = False

    def look(self) -> None:
        """Looks once, and mends what differs; an error is told when it is another one than the last."""
        began = time.monotonic()
        self.looks += 1
        steps: tuple[Step, ...] = ()
        try:
            self._stands()  # whoever takes it down from now on is not undone
            seen = look(self.lab)
            self._notice("; ".join(check.seen for check in seen.strange))
            steps = seen.plan(self.lab).steps
            done = self._mended() if steps else False
        except LockError:  # a rebuild works on the lab, or somebody takes it down
            return
        except LabkitError as error:
            self._failed(steps, f"{error.value}: {error.reason}")
            return
        except OSError as error:  # no reason to leave the farm alone from now on
            self._failed(steps, str(error))
            return
        self.pause, self._said = 0.0, ""
        if done:
            self.mends += 1
            took = round(time.monotonic() - began, 3)
            self.tell(Mend(time=datetime.now(UTC).astimezone(), steps=steps, seconds=took))

    def is_down(self) -> bool:
        """Whether nothing of the lab is in its journal any more, where there was something."""
        with suppress(LabkitError):
            return not self._stands() and self._stood
        return False

    def _stands(self) -> bool:
        """Whether something of the lab is in its journal; that it once was is remembered."""
        stands = bool(Journal.of(self.lab).standing())
        self._stood = self._stood or stands
        return stands

    def _mended(self) -> bool:
        """Whether there was something to mend: not in a lab that was taken down since the last look."""
        with lock(self.lab.run_dir, "session", wait=0):
            if not self._stands() and self._stood:
                return False
            return bool(acting.converge(self.lab))

    def _notice(self, said: str) -> None:
        """Tells what a person has to put right, when it is something else than at the last look."""
        if said and said != self._noticed:
            self.tell(Mend(time=datetime.now(UTC).astimezone(), steps=(), error=said))
        self._noticed = said

    def _failed(self, steps: tuple[Step, ...], said: str) -> None:
        self.failures += 1
        self.pause = min(max(2 * self.pause, AGAIN), AT_MOST)
        if said != self._said:
            self._said = said
            self.tell(Mend(time=datetime.now(UTC).astimezone(), steps=steps, error=said))


def checks(lab: Lab) -> tuple[Check, ...]:
    """Whether everything of each kind is as the Lab says; each thing that is not, and what was seen."""
    return telling.checks(lab, look(lab).plan(lab))
