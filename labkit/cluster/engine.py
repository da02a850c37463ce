"""What Docker Swarm and Kubernetes have in common: how they refuse, what they have otherwise, and the checks of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from labkit.checks import Check, equal
from labkit.cluster import guarantees
from labkit.cluster.guarantees import Guarantee, Inside
from labkit.core.tables import Table
from labkit.errors import FarmError
from labkit.records import Record


class EngineError(FarmError):
    """The engine does not answer, or refuses."""

    code = "farm.engine"


class Difference(Record):
    """What the engine has otherwise than the lab says: ``what`` (a service, an object), the key, both sides."""

    what: str
    key: str
    wanted: str
    seen: str


def settings(differences: Iterable[Difference], *, again: str) -> Check:
    """Whether the engine has all that it was given: some versions drop what they do not know, without a word."""
    left = [f"{item.what} {item.key}".strip() for item in differences]
    return Check(
        name="engine.settings", expected="all that was asked for", seen=f"not {', '.join(left)}" if left else "all that was asked for",
        holds=not left, again=again,
    )  # fmt: skip


def service(name: str, asked: int, images: Sequence[str], digest: str, *, again: str) -> Check:
    """Whether as many tasks of a service run as are asked for, each by the image of that digest."""
    right = sum(image.endswith(digest) for image in images)
    return equal(
        f"engine.service.{name}", f"{asked} run, {asked} of them by {digest[:19]}", f"{len(images)} run, {right} of them by {digest[:19]}", again=again
    )  # fmt: skip


def spread(name: str, nodes: Iterable[str], *, again: str) -> Check:
    """Whether a service's tasks, each on one of these nodes, are on two nodes or more."""
    places = Counter(nodes)
    seen = ", ".join(f"{count} on {node}" for node, count in sorted(places.items()))
    return Check(
        name=f"engine.spread.{name}", expected="on two nodes or more", seen=seen or "nowhere", holds=len(places) > 1, again=again,
    )  # fmt: skip


def confined(
    kept: Sequence[Guarantee], seen: Mapping[str, Inside], *, privileges: bool, again: str
) -> Iterator[Check]:
    """Whether what is stated as kept is seen from inside, on every node."""
    for node, found in sorted(seen.items()):
        wrong = guarantees.broken(kept, found, privileges=privileges)
        yield Check(
            name=f"engine.confined.{node}", expected="every guarantee that is stated as kept", seen="; ".join(wrong) or "every guarantee that is stated as kept",
            holds=bool(found.found) and not wrong, again=f"{again} {node}",
        )  # fmt: skip


def table(kept: Sequence[Guarantee], seen: Mapping[str, Inside], *, privileges: bool) -> Table:
    """The table ``guarantees``: what was seen on the first node, and on another one where that is less."""
    found = [
        guarantees.table(kept, inside, privileges=privileges) for inside in seen.values() or (None,)
    ]
    rows = [
        next((row for row in nodes if row["here"] == "lost"), nodes[0])
        for nodes in zip(*found, strict=True)
    ]
    return Table.of("guarantees", "What is kept of a replica's confinement, and what is not", rows)
