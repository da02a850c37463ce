"""The plan: a Lab's wanted resources, the observed ones, and the steps between them. Pure.

Each kind of resource has the same facts on both sides; :mod:`labkit.farm.reconcile.observe` reads the
observed side from the machine.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal

from labkit.checks import Check, equal
from labkit.core import network_removal
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.farm.containers import written
from labkit.farm.containers.runc import State
from labkit.farm.images import builder
from labkit.farm.images.layout import Images
from labkit.farm.network import firewall
from labkit.farm.network.topology import Topology
from labkit.farm.services import balancer_server, dns_server
from labkit.model import sites
from labkit.model.config import Site
from labkit.model.lab import Lab, Replica
from labkit.model.resources import KINDS, Known, Resource, fingerprint, listed
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
#: The actions in the past tense.
PAST: Mapping[Action, str] = {
    "create": "created",
    "change": "changed",
    "restart": "restarted",
    "replace": "replaced",
    "remove": "removed",
}
#: Facts whose values tell a person only that something differs.
FINGERPRINTS = frozenset(
    ("configuration", "served", "page", "server", "made of", "file", "resolver")
)
#: So many names stand in a row before the rest of them are only counted.
NAMED = 4
#: A kind in the plural, where it is not its name with an s.
PLURAL = {"keys": "pairs of keys", "names": "name servers"}


class Reason(Record):
    """Why there is a step: a fact with the wanted value and the observed one, or (with the fact '')
    another step that asks for it, in words."""

    fact: str
    wanted: str
    seen: str

    def __str__(self) -> str:
        if not self.fact:
            return self.wanted
        return f"{self.fact}: wanted {self.wanted}, seen {self.seen}"


class Step(Record):
    """One change of one resource, why, and the ids of the resources that depend on it."""

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
    """The steps in their order; and how many resources were compared."""

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


# -- the wanted resources ------------------------------------------------------------------------


def wanted(lab: Lab, known: Known | None = None) -> tuple[Resource, ...]:
    """Every resource of the lab, each after those that it needs."""
    known = known or Known()
    bridge = (f"bridge {lab.bridge}",)
    return (
        *_host_side(lab),
        *(_image(lab, item, known) for item in lab.sites),
        Resource(kind="keys", name=lab.name, facts={"student": "sound", "host": "sound"}),
        *(
            Resource(kind="namespace", name=item.netns, facts={"name": item.netns})
            for item in lab.farm
        ),
        *(_link(lab, item) for item in lab.farm),
        *(_root(lab, item, known) for item in lab.farm),
        *(_container(item, known) for item in lab.farm),
        Resource(kind="names", name=lab.domain, facts=dns_server.wanted(lab), needs=bridge),
        Resource(
            kind="balancer",
            name=lab.host_name("balancer"),
            facts=balancer_server.wanted(lab),
            needs=(*bridge, *(f"container {item.name}" for item in lab.farm)),
        ),
    )


def page_facts(page: str, host: str) -> dict[str, str]:
    """What a person tells a site's page by, and fingerprints of it and of its virtual host."""
    title, colour = (
        re.search(pattern, page) for pattern in (r"<title>(.*)</title>", r"background: (#\w{6});")
    )
    return {
        "title": title[1] if title else "none",
        "colour": colour[1] if colour else "none",
        "page": fingerprint(page),
        "server": fingerprint(host),
    }


def _host_side(lab: Lab) -> Iterator[Resource]:
    below: tuple[str, ...] = ()
    if lab.netns:
        side = Resource(kind="namespace", name=lab.netns, facts={"name": lab.netns})
        below = (side.id,)
        yield side
    yield Resource(kind="route", name=str(lab.subnet), facts={"type": "unreachable"}, needs=below)
    yield Resource(
        kind="firewall",
        name=network_removal.table_name(lab),
        facts=firewall.wanted(lab),
        needs=below,
    )
    yield Resource(
        kind="bridge",
        name=lab.bridge,
        facts={"made by": "this lab", "state": "up", "addresses": str(lab.gateway)},
        needs=below,
    )


def _image(lab: Lab, item: Site, known: Known) -> Resource:
    files = sites.files(lab, item)
    facts = {
        "layout": "whole",
        "rootfs": builder.made_from(lab, known.suite),
        **page_facts(files[sites.PAGE], files[sites.CONFIGURATION]),
        "unpacked": "yes",
        **({"programs": known.tools} if known.tools else {}),
    }
    return Resource(kind="image", name=item.name, facts=facts)


def _link(lab: Lab, replica: Replica) -> Resource:
    return Resource(
        kind="link",
        name=replica.name,
        facts={
            "made by": "this lab",
            "bridge": lab.bridge,
            "state": "up",
            "addresses on the host": "none",
            "end": "eth0",
            "addresses": f"{replica.address}/{lab.subnet.prefixlen}",
            "gateway": str(lab.gateway.ip),
            "MAC address": replica.mac,
        },
        needs=(f"bridge {lab.bridge}", f"namespace {replica.netns}"),
    )


def _root(lab: Lab, replica: Replica, known: Known) -> Resource:
    facts = {"mounted": "yes", "written at most": written.limit(lab)}
    if replica.name in known.roots:
        facts["made of"] = known.roots[replica.name]
    needs = (f"image {replica.site}", f"keys {lab.name}")
    return Resource(kind="root", name=replica.name, facts=facts, needs=needs)


def _container(replica: Replica, known: Known) -> Resource:
    facts = {"process": "running", "namespace": replica.netns, "answers": "yes"}
    if replica.name in known.configurations:
        facts |= {
            "made of": known.configurations[replica.name],
            "file": known.files[replica.name],
        }
    needs = (f"root {replica.name}", f"namespace {replica.netns}")
    return Resource(kind="container", name=replica.name, facts=facts, needs=needs)


# -- the observed resources ----------------------------------------------------------------------


def observed_bridge(state: Topology, made: Collection[str]) -> Iterator[Resource]:
    """The bridge, if it is there. ``made`` are the links that labkit made for the lab."""
    if state.links or state.up or state.addresses:
        facts = {
            "made by": _maker(state.bridge, made),
            "state": "up" if state.up else "down",
            "addresses": listed(state.addresses),
        }
        yield Resource(kind="bridge", name=state.bridge, facts=facts)


def observed_links(
    state: Topology, made: Collection[str], *, unnamed: Collection[str] = ()
) -> Iterator[Resource]:
    """The links that have an end on the host; without the facts of the other end for replicas whose namespace
    has lost its name (``unnamed``), as it could not be read."""
    for port in state.links:
        if not port.link:
            continue
        inner = {
            "end": port.peer or "none",
            "addresses": listed(port.addresses),
            "gateway": port.gateway or "none",
            "MAC address": port.mac or "none",
        }
        facts = {
            "made by": _maker(port.link, made),
            "bridge": port.bridge or "none",
            "state": "up" if port.up else "down",
            "addresses on the host": listed(port.outer),
            **({} if port.replica in unnamed else inner),
        }
        yield Resource(kind="link", name=port.replica, facts=facts)


def _maker(link: str, made: Collection[str]) -> str:
    return "this lab" if link in made else "somebody else"


def observed_images(lab: Lab, images: Images | None) -> Iterator[Resource]:
    """The images of the lab's sites that are in its layout."""
    for site in lab.sites:
        image = images.sites.get(site.name) if images else None
        if not images or not image:
            continue
        facts = {
            "layout": images.layout,
            "rootfs": images.rootfs,
            **(page_facts(image.page, image.host) if image.page else {}),
            "unpacked": "yes" if image.unpacked else image.damage or "no",
            **({"programs": images.made_by} if images.made_by else {}),
        }
        yield Resource(kind="image", name=site.name, facts=facts)


def observed_container(
    name: str, state: State | None, config: str | None, *, namespace: str, answers: str = ""
) -> Iterator[Resource]:
    """A container: as runC knows it, the text of its config.json, the name of the network namespace that
    its first process is in, and whether its server answers ('' for one that could not be asked)."""
    if state is None and config is None:
        return
    facts = {"process": state.status if state else "none", "file": fingerprint(config or "")}
    if state is not None and state.pid:
        facts |= {"namespace": namespace, "made of": state.made_of or "none"}
        facts |= {"answers": answers} if answers else {}
    yield Resource(kind="container", name=name, facts=facts)


# -- the steps -----------------------------------------------------------------------------------


def difference(wanted: Sequence[Resource], observed: Iterable[Resource]) -> Plan:
    """The plan that turns ``observed`` into ``wanted``, which is in the order of making: each resource after
    those that it needs. Removals come last."""
    there = {item.id: item for item in observed}
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
    gone = (_plain_step("remove", item, "the lab does not have it any more") for item in surplus)
    return Plan(steps=(*made, *gone), resources=len(asked | there.keys()))


def _step(item: Resource, observed: Resource | None, before: Mapping[str, Step]) -> Step | None:
    if observed is None:
        return _plain_step("create", item, "it is missing")
    causes = [
        (ACTIONS.get((item.kind, fact), "change"), Reason(fact=fact, wanted=value, seen=other))
        for fact, value in item.facts.items()
        if (other := observed.facts.get(fact, value)) != value
    ]
    for cause in (before[need] for need in item.needs if need in before):
        action, facts = FORCED.get((cause.kind, item.kind), (None, frozenset[str]()))
        changed = {reason.fact for reason in cause.reasons}
        if action and (cause.action != "change" or facts & changed):
            said = f"{cause.id} is {PAST[cause.action]}"
            causes.append((action, Reason(fact="", wanted=said, seen="")))
    if not causes:
        return None
    action = max((asked for asked, _ in causes), key=THOROUGH.index)
    reasons = tuple(reason for _, reason in causes)
    return Step(action=action, kind=item.kind, name=item.name, reasons=reasons)


def _plain_step(action: Action, item: Resource, why: str) -> Step:
    reason = Reason(fact="", wanted=why, seen="")
    return Step(action=action, kind=item.kind, name=item.name, reasons=(reason,))


def _dependents(wanted: Sequence[Resource]) -> dict[str, tuple[str, ...]]:
    """By id, all resources that need it, directly or by others, in the order of making."""
    below: dict[str, frozenset[str]] = {}
    above: dict[str, list[str]] = {}
    for item in wanted:
        below[item.id] = frozenset(item.needs).union(*(below.get(need, ()) for need in item.needs))
        for need in below[item.id]:
            above.setdefault(need, []).append(item.id)
    return {name: tuple(ids) for name, ids in above.items()}


# -- a plan in words, tables and checks ----------------------------------------------------------


def summary(plan: Plan) -> str:
    """A plan in a sentence."""
    if plan.empty:
        return f"Nothing to do: {counted(plan.resources, 'resource', 'are')} as the lab says."
    found = [step.action for step in plan.steps]
    said = ", ".join(f"{found.count(word)} to {word}" for word in PAST if word in found)
    alike = plan.resources - len(plan.steps)
    return f"{counted(len(plan.steps), 'step')}: {said}; {alike} of {counted(plan.resources, 'resource', 'stay')}."


def done(plans: Sequence[Plan], lab: Lab) -> str:
    """The plans that were carried out, in a sentence."""
    found = [step.action for plan in plans for step in plan.steps]
    if not found:
        return f"Nothing to do: lab {lab.name} is as its description says."
    said = ", ".join(f"{found.count(word)} {PAST[word]}" for word in PAST if word in found)
    return f"Lab {lab.name} is as its description says: {said}."


def tables(lab: Lab, plan: Plan) -> tuple[Table, ...]:
    """The table ``plan`` of the steps; steps of one kind with the same reason share a row."""
    if plan.empty:
        return ()
    alike = (
        list(steps)
        for _, steps in groupby(plan.steps, lambda step: (step.action, step.kind, step.why))
    )
    rows: list[dict[str, Cell]] = [
        {
            "action": steps[0].action,
            "object": f"{steps[0].kind} {_range([step.name for step in steps])}",
            "why": steps[0].why,
            "what depends on it": _depending(steps),
        }
        for steps in alike
    ]
    return (Table.of("plan", f"What differs in lab {lab.name}", rows),)


def _depending(steps: Sequence[Step]) -> str:
    """The resources that depend on these steps' resources: names of a few, the number of many, kind by kind."""
    ids = dict.fromkeys(name for step in steps for name in step.dependents)
    others = [name.split(" ", 1) for name in ids if name not in {step.id for step in steps}]
    found = []
    for kind in KINDS:
        names = [name for other, name in others if other == kind]
        if names and kind in ("names", "balancer"):
            found.append("name server" if kind == "names" else kind)
        elif len(names) > NAMED:
            found.append(f"{len(names)} {PLURAL.get(kind, f'{kind}s')}")
        elif names:
            found.append(f"{kind} {', '.join(names)}")
    return "; ".join(found)


def _range(names: Sequence[str]) -> str:
    """Names, of many the first and the last and their number."""
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{names[0]} … {names[-1]} ({len(names)})"


def checks(lab: Lab, plan: Plan) -> tuple[Check, ...]:
    """A check for each kind of resource: that all of it is as the Lab says; else each one that is not."""
    expected, again = "as the lab says", f"labkit plan --lab-name {lab.name}"
    seen = {kind: [f"{s.name}: {s.why}" for s in plan.steps if s.kind == kind] for kind in KINDS}
    return tuple(
        equal(f"converged.{kind}", expected, "; ".join(texts) or expected, again=again)
        for kind, texts in seen.items()
    )
