"""A plan in words and tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from labkit.checks import Check
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.farm.reconcile.difference import PAST, Plan, Step
from labkit.model.lab import Lab
from labkit.model.resources import KINDS

#: So many names stand in a row before the rest of them are only counted.
NAMED = 4
#: A kind in the plural, where it is not its name with an s.
PLURAL = {"keys": "pairs of keys", "names": "name servers"}


def summary(plan: Plan) -> str:
    """What a plan comes to, in a sentence."""
    if plan.empty:
        return f"Nothing to do: {counted(plan.resources, 'resource', 'are')} as the lab says."
    found = [step.action for step in plan.steps]
    said = ", ".join(f"{found.count(word)} to {word}" for word in PAST if word in found)
    alike = plan.resources - len(plan.steps)
    return f"{counted(len(plan.steps), 'step')}: {said}; {alike} of {counted(plan.resources, 'resource', 'stay')}."


def done(plans: Sequence[Plan], lab: Lab) -> str:
    """What was done, in a sentence."""
    steps = [step for plan in plans for step in plan.steps]
    if not steps:
        return f"Nothing to do: lab {lab.name} is as its description says."
    found = [step.action for step in steps]
    said = ", ".join(f"{found.count(word)} {PAST[word]}" for word in PAST if word in found)
    return f"Lab {lab.name} is as its description says: {said}."


def tables(lab: Lab, plan: Plan) -> tuple[Table, ...]:
    """The steps, a row each; steps of one kind with the same reason share a row."""
    if plan.empty:
        return ()
    rows: list[dict[str, Cell]] = [
        {
            "action": steps[0].action,
            "object": f"{steps[0].kind} {listed([step.name for step in steps])}",
            "why": steps[0].why,
            "what depends on it": depending(steps),
        }
        for steps in alike(plan.steps)
    ]
    return (Table.of("plan", f"What differs in lab {lab.name}", rows),)


def alike(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps that stand together and do the same to the same kind of thing for the same reason."""
    groups: list[list[Step]] = []
    for step in steps:
        last = groups[-1][0] if groups else None
        same = last and (last.action, last.kind, last.why) == (step.action, step.kind, step.why)
        if same:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def depending(steps: Sequence[Step]) -> str:
    """What depends on these steps' resources: names of a few, the number of many, kind by kind."""
    ids = dict.fromkeys(name for step in steps for name in step.dependents)
    own = {step.id for step in steps}
    return "; ".join(_of_kind(kind, ids, own) for kind in KINDS if _names(kind, ids, own))


def _names(kind: str, ids: Iterable[str], own: set[str]) -> list[str]:
    return [
        name.partition(" ")[2] for name in ids if name.startswith(f"{kind} ") and name not in own
    ]


def _of_kind(kind: str, ids: Iterable[str], own: set[str]) -> str:
    names = _names(kind, ids, own)
    if kind in ("names", "balancer"):
        return "name server" if kind == "names" else kind
    if len(names) > NAMED:
        return f"{len(names)} {PLURAL.get(kind, f'{kind}s')}"
    return f"{kind} {', '.join(names)}"


def listed(names: Sequence[str]) -> str:
    """Names, of many the first and the last and their number."""
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{names[0]} … {names[-1]} ({len(names)})"


def checks(lab: Lab, plan: Plan) -> tuple[Check, ...]:
    """A check for each kind of resource: that all of it is as the Lab says; else each one that is not."""
    return tuple(_check(lab, kind, [s for s in plan.steps if s.kind == kind]) for kind in KINDS)


def _check(lab: Lab, kind: str, steps: Sequence[Step]) -> Check:
    seen = "; ".join(f"{step.name}: {step.why}" for step in steps)
    return Check(
        name=f"converged.{kind}",
        expected="as the lab says",
        seen=seen or "as the lab says",
        holds=not steps,
        again=f"labkit plan --lab-name {lab.name}",
    )
