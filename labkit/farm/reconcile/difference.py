"""The steps from what is seen to what is wanted, in order, each with its reasons. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from labkit.model.resources import KINDS, Resource
from labkit.records import Record

Action = Literal["create", "change", "restart", "replace", "remove"]

#: What a fact that differs asks for, where it is more than a change of that fact alone.
ACTIONS: Mapping[tuple[str, str], Action] = {
    ("container", "process"): "restart",
    ("container", "namespace"): "restart",
    ("container", "answers"): "restart",
    ("container", "made of"): "replace",
    ("root", "mounted"): "replace",
    ("root", "made of"): "replace",
    ("root", "written at most"): "replace",
    ("names", "process"): "restart",
    ("names", "address"): "restart",
    ("names", "configuration"): "restart",
    ("balancer", "process"): "restart",
}
#: From the mildest to the most thorough: the last of those that a resource's facts ask for is taken.
THOROUGH: Sequence[Action] = ("change", "restart", "replace", "create")
#: What must be done to a resource, because one of this kind that it needs is made, replaced, or
#: changed in one of these facts ('' for any step but a change).
FORCED: Mapping[tuple[str, str], tuple[Action, frozenset[str]]] = {
    ("image", "root"): (
        "replace",
        frozenset(("rootfs", "title", "colour", "page", "server", "unpacked")),
    ),
    ("keys", "root"): ("replace", frozenset(("student", "host"))),
    ("root", "container"): ("replace", frozenset()),
}


#: Facts whose values say nothing to a person, but that something differs.
FINGERPRINTS = frozenset(
    ("configuration", "served", "page", "server", "made of", "file", "resolver")
)


class Reason(Record):
    """Why there is a step: a fact with the value that is wanted and the one that was seen, or (with
    the fact '') another step that asks for it, in words."""

    fact: str
    wanted: str
    seen: str

    def __str__(self) -> str:
        if not self.fact:
            return self.wanted
        return f"{self.fact}: wanted {self.wanted}, seen {self.seen}"


class Step(Record):
    """One thing that is to be done: to which resource, why, and the ids of those that depend on it."""

    action: Action
    kind: str
    name: str
    reasons: tuple[Reason, ...]
    dependents: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The resource's id."""
        return f"{self.kind} {self.name}"

    @property
    def why(self) -> str:
        """The reasons in words; fingerprints only where nothing else is known."""
        plain = [reason for reason in self.reasons if reason.fact not in FINGERPRINTS]
        return "; ".join(map(str, plain or self.reasons))


class Plan(Record):
    """What would be done, in this order; and how many resources were compared."""

    steps: tuple[Step, ...]
    resources: int

    @property
    def empty(self) -> bool:
        """Whether everything is as wanted."""
        return not self.steps

    def hung(self) -> frozenset[str]:
        """The names of the containers that run and do not answer."""
        return frozenset(
            step.name
            for step in self.steps
            if step.kind == "container" and any(r.fact == "answers" for r in step.reasons)
        )

    def named(self, kind: str, *actions: Action) -> tuple[str, ...]:
        """The names of the resources of a kind that have a step (one of ``actions``, if there are any)."""
        return tuple(
            step.name
            for step in self.steps
            if step.kind == kind and (not actions or step.action in actions)
        )


def difference(wanted: Sequence[Resource], seen: Iterable[Resource]) -> Plan:
    """What must be done; ``wanted`` is in the order of making, each after those that it needs."""
    there = {item.id: item for item in seen}
    steps: dict[str, Step] = {}
    for item in wanted:
        step = _step(item, there.get(item.id), steps)
        if step:
            steps[item.id] = step
    above = _dependents(wanted)
    made = tuple(
        step.model_copy(update={"dependents": above.get(name, ())}) for name, step in steps.items()
    )
    asked = {item.id for item in wanted}
    surplus = sorted(
        (item for item in there.values() if item.id not in asked),
        key=lambda item: -KINDS.index(item.kind),
    )
    return Plan(steps=(*made, *map(_removal, surplus)), resources=len(asked | there.keys()))


def _step(item: Resource, seen: Resource | None, before: Mapping[str, Step]) -> Step | None:
    if seen is None:
        reasons: tuple[Reason, ...] = (Reason(fact="", wanted="it is missing", seen=""),)
        return Step(action="create", kind=item.kind, name=item.name, reasons=reasons)
    found = [
        (ACTIONS.get((item.kind, fact), "change"), Reason(fact=fact, wanted=value, seen=other))
        for fact, value in item.facts.items()
        if (other := seen.facts.get(fact, value)) != value
    ]
    found += [
        forced for need in item.needs if need in before for forced in _forced(item, before[need])
    ]
    if not found:
        return None
    action = max((asked for asked, _ in found), key=THOROUGH.index)
    reasons = tuple(reason for _, reason in found)
    return Step(action=action, kind=item.kind, name=item.name, reasons=reasons)


def _forced(item: Resource, cause: Step) -> list[tuple[Action, Reason]]:
    """What another resource's step asks of one that needs it."""
    rule = FORCED.get((cause.kind, item.kind))
    if rule is None:
        return []
    action, facts = rule
    if cause.action == "change" and facts.isdisjoint(reason.fact for reason in cause.reasons):
        return []
    said = f"{cause.id} is {PAST[cause.action]}"
    return [(action, Reason(fact="", wanted=said, seen=""))]


#: What has become of a resource, in a word.
PAST: Mapping[Action, str] = {
    "create": "created",
    "change": "changed",
    "restart": "restarted",
    "replace": "replaced",
    "remove": "removed",
}


def _removal(item: Resource) -> Step:
    reason = Reason(fact="", wanted="the lab does not have it any more", seen="")
    return Step(action="remove", kind=item.kind, name=item.name, reasons=(reason,))


def _dependents(wanted: Sequence[Resource]) -> dict[str, tuple[str, ...]]:
    """By id, all resources that need it, directly or by others, in the order of making."""
    below: dict[str, frozenset[str]] = {}
    above: dict[str, list[str]] = {}
    for item in wanted:
        below[item.id] = frozenset(item.needs).union(*(below.get(need, ()) for need in item.needs))
        for need in below[item.id]:
            above.setdefault(need, []).append(item.id)
    return {name: tuple(ids) for name, ids in above.items()}
