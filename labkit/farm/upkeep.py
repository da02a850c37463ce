"""The whole farm kept as its Lab says: what differs, and the least that puts it right."""

from __future__ import annotations

from labkit.checks import Check
from labkit.farm.convergence import acting
from labkit.farm.convergence.looking import look
from labkit.farm.planning import telling
from labkit.farm.planning.difference import Plan
from labkit.lab import Lab
from labkit.result import Outcome, Record, action


class Applied(Record):
    """What was done: one plan a look at the machine, after the last of which nothing differed any more."""

    plans: tuple[Plan, ...]


@action("farm.plan")
def plan(lab: Lab) -> Outcome[Plan]:
    """What :func:`apply` would do to the lab's farm as it is now, and why; nothing is changed."""
    value = look(lab).plan(lab)
    return Outcome(
        value=value,
        subject=lab.name,
        summary=telling.summary(value),
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
        checks=checks(lab),
        tables=telling.tables(lab, value.plans[0]) if value.plans else (),
    )


def checks(lab: Lab) -> tuple[Check, ...]:
    """Whether everything of each kind is as the Lab says; each thing that is not, and what was seen."""
    return telling.checks(lab, look(lab).plan(lab))
