"""What a Lab does not have any more is removed: replicas, routes, and another host side's things.

Everything is known from the journal; nothing else is ever removed.
"""

from __future__ import annotations

from collections.abc import Callable

from labkit.core import undo
from labkit.core.journal import Entry, Journal
from labkit.farm.containers import container
from labkit.farm.reconcile.difference import Plan
from labkit.model.lab import Lab


def elsewhere(lab: Lab, plan: Plan) -> None:
    """Links on another host side than the lab's are gone, so that the ends in the containers are free."""
    if plan.named("link", "remove"):
        _unmake(lab, lambda entry: entry.kind == "link" and _is_elsewhere(lab, entry))


def surplus(lab: Lab, plan: Plan) -> None:
    """Replicas that the lab does not have are gone, and routes and namespaces that are not its host side's."""
    if not any(step.action == "remove" for step in plan.steps):
        return
    container.remove_surplus(lab)
    _unmake(lab, lambda entry: entry.kind == "table" and _is_elsewhere(lab, entry))
    _unmake(lab, lambda entry: entry.kind == "route" and _is_other_route(lab, entry))
    asked = {lab.host.netns, *(item.netns for item in lab.farm)}
    _unmake(lab, lambda entry: entry.kind == "netns" and entry.what.get("name") not in asked)


def _is_elsewhere(lab: Lab, entry: Entry) -> bool:
    return entry.what.get("netns") != lab.host.netns


def _is_other_route(lab: Lab, entry: Entry) -> bool:
    return _is_elsewhere(lab, entry) or entry.what.get("subnet") != str(lab.subnet)


def _unmake(lab: Lab, chosen: Callable[[Entry], bool]) -> None:
    journal = Journal.of(lab)
    for entry in reversed(journal.standing()):
        if chosen(entry):
            undo.unmake(entry, lab)
            journal.forget(entry.kind, **entry.what)
