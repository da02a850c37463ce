"""Each mistake made for real in a model of the network, seen in a ping that fails, caught, and mended.

The model is looked at by the code that looks at the farm, and no check here knows what was done to it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable

from labkit.checks import Check, failed
from labkit.core import run
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.farm.network import echo, topology
from labkit.farm.network import practice as models
from labkit.farm.network.echo import Echo
from labkit.farm.network.mistakes import Mistake, known
from labkit.farm.network.practice import Look, Model
from labkit.model.lab import Lab
from labkit.records import Record

#: How long a mended network may take until nothing fails in it, in seconds.
PATIENCE = 2.0


class Tried(Record):
    """A mistake that was made and mended: the pings that failed, the checks that failed and what they
    say, and whatever failed still after it was mended."""

    mistake: Mistake
    symptoms: tuple[Echo, ...]
    caught: tuple[Check, ...]
    left: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether its check caught it, a ping showed it, and nothing was left of it."""
        named = any(check.name == self.mistake.check for check in self.caught)
        return named and bool(self.symptoms) and not self.left


@action("network.mistakes")
def mistakes(lab: Lab) -> Outcome[tuple[Tried, ...]]:
    """Each mistake is made in a model of the network, caught, felt, and mended; nothing is left of it.

    The farm is not touched, and need not be up.
    """
    with lock(lab.run_dir, "farm"), models.standing(lab) as model:
        before = _settled(model)
        found = tuple(_try(model, mistake) for mistake in known(model))
    held = sum(item.holds for item in found)
    return Outcome(
        value=found,
        subject=lab.bridge,
        summary=f"{len(found)} mistakes were made in a network of their own: {held} of them were "
        "caught by name, seen in a ping that failed, and mended.",
        checks=(_sound(before), *(_check(item) for item in found)),
        tables=(_table(found), _commands(found)),
    )


def wrong(lab: Lab, seen: Look) -> tuple[Check, ...]:
    """The farm's own checks that fail: of what is seen, and of its pings; then the pings beyond. Pure."""
    every = (
        *topology.checks(lab, seen.topology),
        *echo.checks(lab, seen.echoes),
        *(echo.check(f"network.ping.beyond.{item.source}", item, "") for item in seen.beyond),
    )
    return failed(every)


def _try(model: Model, mistake: Mistake) -> Tried:
    """Makes the mistake, looks, mends it, and looks again."""
    small = model.lab
    for command in mistake.made:
        run.run(shlex.split(command))
    seen = models.look(model)
    if mistake.pinged:
        seen = _mistaken(model, seen, mistake.pinged)
    fails = wrong(small, seen)
    for command in mistake.mended:
        run.run(shlex.split(command))
    after = _settled(model)
    symptoms = tuple(item for item in (*seen.echoes, *seen.beyond) if not item.arrives)
    return Tried(
        mistake=mistake,
        symptoms=symptoms[:1] if mistake.pinged else symptoms,
        caught=tuple(check for check in fails if _catches(mistake, check)),
        left=tuple(f"{check.name}: {check.seen}" for check in after),
    )


def _settled(model: Model) -> tuple[Check, ...]:
    """What fails once the network has had a moment to come up; a busy machine may need two."""
    deadline = time.monotonic() + PATIENCE
    while (fails := wrong(model.lab, models.look(model))) and time.monotonic() < deadline:
        pass  # every look pings, and so takes its time
    return fails


def _mistaken(model: Model, seen: Look, address: str) -> Look:
    """The same look, but somebody pinged ``address`` for the first container."""
    first = model.lab.farm[0]
    here, there = ("host", model.lab.netns), (first.name, first.netns)
    own = echo.ask(here, there, address, count=1, wait=models.WAIT)
    return seen.model_copy(update={"echoes": (own, *seen.echoes[1:])})


def _catches(mistake: Mistake, check: Check) -> bool:
    """Whether a failing check tells the mistake: the pings are its symptoms, but where one is the check."""
    return check.name == mistake.check or not check.name.startswith("network.ping.")


def told(symptoms: Iterable[Echo]) -> str:
    """What the pings said, each thing once, after those who were told it. Pure."""
    by_word: dict[str, list[str]] = {}
    for item in symptoms:
        silent = f"no answer ({item.target} saw {'the' if item.counted else 'no'} request)"
        word = item.said or silent
        if item.fastest is not None:
            word = f"an answer from {item.address}, and {item.target} saw no request"
        by_word.setdefault(word, []).append(item.path)
    return "; ".join(f"{', '.join(paths)}: {word}" for word, paths in by_word.items())


def _sound(before: tuple[Check, ...]) -> Check:
    """Whether the model was right before anything was done to it: what fails later is the mistake's."""
    return Check(
        name="network.mistake.none",
        expected="without a mistake no check and no ping fails",
        seen="; ".join(f"{check.name}: {check.seen}" for check in before) or "none fails",
        holds=not before,
        rows=("R10",),
        again="./lab run 04-network",
    )


def _check(item: Tried) -> Check:
    names = ", ".join(check.name for check in item.caught) or "no check"
    return Check(
        name=f"network.mistake.{item.mistake.name}",
        expected=f"{item.mistake.check} fails, a ping shows it, and after the remedy none fails",
        seen=f"failed: {names}, and {_count(item)}; {_after(item)}",
        holds=item.holds,
        rows=("R10",),
        again="./lab run 04-network",
    )


def _count(item: Tried) -> str:
    count = len(item.symptoms)
    return f"{count or 'no'} ping{'' if count == 1 else 's'}"


def _after(item: Tried) -> str:
    """What the remedy led to, in words."""
    return f"after the remedy {', '.join(item.left) or 'none'}"


def _table(found: tuple[Tried, ...]) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "mistake": item.mistake.story,
            "symptom": told(item.symptoms),
            "caught by": "; ".join(f"{check.name} ({check.seen})" for check in item.caught),
            "remedy": "; ".join(item.mistake.mended),
        }
        for item in found
    ]
    return Table.of("mistakes", "Mistakes, made and mended in a network of their own", rows)


def _commands(found: tuple[Tried, ...]) -> Table:
    rows: list[dict[str, Cell]] = [
        {"mistake": item.mistake.name, "made by": "; ".join(item.mistake.made)} for item in found
    ]
    return Table.of("made", "The commands by which each mistake was made", rows)
