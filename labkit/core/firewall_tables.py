"""The lab's nftables tables: their name, which tables there are, and how the lab's are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labkit.core import run
from labkit.errors import CommandError, StateError
from labkit.kernel import netns as namespaces
from labkit.model.lab import Lab

#: The families of which the lab has a table (nft(8)): packets across the bridge, and packets to and through the host.
FAMILIES = ("bridge", "inet")


def name_of(lab: Lab) -> str:
    """The name of both of the lab's tables."""
    return f"labkit-{lab.name}"


def standing(netns: str | None) -> frozenset[tuple[str, str]] | None:
    """The family and name of each table in ``netns`` (None: the machine's own); None when the kernel has no
    nftables."""
    done = run.run(["nft", "list", "tables"], netns=netns, ok=range(256))
    if done.status:
        return None
    words = (line.split() for line in done.stdout.splitlines())
    return frozenset((family, name) for _, family, name in words)


def removal(table: str) -> str:
    """The nft(8) commands that remove the tables of that name, whether there are any or not. Pure."""
    return "".join(
        f"table {family} {table}\ndelete table {family} {table}\n" for family in FAMILIES
    )


def remove_tables(lab: Lab, *, name: str, netns: str) -> None:
    """Removes the lab's tables in ``netns`` ('' is the machine's own), in one step."""
    if name != name_of(lab):
        raise StateError(
            name,
            f"is not a table of lab {lab.name}",
            f"correct {lab.journal_file}",
            code="state.not-own",
        )
    if netns and not namespaces.stands(netns):
        return
    try:
        run.run(["nft", "-f", "-"], stdin=removal(name), netns=netns or None)
    except CommandError:
        if standing(netns or None) is not None:  # a kernel without nftables has none
            raise


def remove_together(lab: Lab, things: Sequence[Mapping[str, str]]) -> None:
    """Removes all of them, each in one step."""
    for thing in things:
        remove_tables(lab, **thing)
