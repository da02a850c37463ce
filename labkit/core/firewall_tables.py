"""The lab's tables of nftables: their name, and how they are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labkit.core import run
from labkit.errors import StateError
from labkit.kernel import netns as namespaces
from labkit.kernel import nftables
from labkit.model.lab import Lab

#: The families of which the lab has a table (nft(8)): what passes the bridge, and what leaves it for the host.
FAMILIES = ("bridge", "inet")


def name_of(lab: Lab) -> str:
    """What both of the lab's tables are called."""
    return f"labkit-{lab.name}"


def removal(table: str) -> str:
    """The commands after which there is no table of that name, whether there was one or not. Pure."""
    return "".join(
        f"table {family} {table}\ndelete table {family} {table}\n" for family in FAMILIES
    )


def remove_tables(lab: Lab, *, name: str, netns: str) -> None:
    """Removes the lab's tables in ``netns`` ('' is the machine's own), in one step."""
    if name != name_of(lab):
        raise StateError(
            name,
            f"is no table of lab {lab.name}",
            f"correct {lab.journal_file}",
            code="state.not-own",
        )
    if (not netns or namespaces.stands(netns)) and namespaces.alone(_stand, name, netns):
        run.run(["nft", "-f", "-"], stdin=removal(name), netns=netns or None)


def remove_together(lab: Lab, things: Sequence[Mapping[str, str]]) -> None:
    """All of them are removed, each in one step."""
    for thing in things:
        remove_tables(lab, **thing)


def _stand(name: str, netns: str) -> bool:
    """Whether a table of that name is in ``netns``, which the calling thread then is in."""
    if netns:
        namespaces.enter(netns)
    try:
        return any(nftables.stands(family, name) for family in FAMILIES)
    except OSError:  # a kernel without nftables has none
        return False
