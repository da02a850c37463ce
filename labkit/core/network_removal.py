"""Removes the lab's links, its unreachable route and its nftables tables, each from its network namespace."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Network

from labkit.core import run
from labkit.errors import CommandError, StateError
from labkit.kernel.links import UNREACHABLE, Link, Netlink, is_gone
from labkit.kernel.netns import NamespaceError, inside, stands, within
from labkit.model.lab import Lab

#: The metric of the lab's unreachable route: the largest, so that any other route goes before it.
FENCE_METRIC = 4294967295
#: The families of which the lab has a table (nft(8)): packets across the bridge, and packets to and through the host.
FAMILIES = ("bridge", "inet")


def remove_link(lab: Lab, *, name: str, netns: str) -> None:
    """Removes a network interface of ``netns`` ('' is the machine's own); a veth's peer goes with it."""
    with suppress(NamespaceError):
        if name == lab.bridge or inside(netns or None, _has, name):
            within(netns or None, _remove_link, lab, name)


def _has(name: str) -> bool:
    """Whether the calling thread's namespace has a link of that name. Many links go together, and then each is looked
    for: that takes a tenth of what it takes through pyroute2."""
    with suppress(OSError):
        return bool(socket.if_nametoindex(name))
    return False


def _remove_link(netlink: Netlink, lab: Lab, name: str) -> None:
    found = netlink.link(name)
    if not found and name == lab.bridge:
        found = renamed_bridge(netlink, lab, netlink.links())
    error = netlink.try_all([netlink.ipr.link("del", index=found.index)])[0] if found else None
    if error is not None and not is_gone(error):  # a veth's end goes when its peer's namespace does
        raise error


def renamed_bridge(netlink: Netlink, lab: Lab, links: Mapping[str, Link]) -> Link | None:
    """The lab's bridge under another name that somebody gave it: what in the lab's group has the gateway's address."""
    marked = [link for link in links.values() if link.group == group(lab) and not link.peer]
    there = netlink.addresses() if marked else {}
    return next((link for link in marked if lab.gateway in there.get(link.index, ())), None)


def cut_together(lab: Lab, things: Sequence[Mapping[str, str]]) -> None:
    """The lab's group of links is removed, where nothing is in it but links of the journal."""
    for netns in {thing["netns"] for thing in things}:
        names = {thing["name"] for thing in things if thing["netns"] == netns}
        with suppress(NamespaceError):
            within(netns or None, _cut, group(lab), names)


def _cut(netlink: Netlink, number: int, names: set[str]) -> None:
    if names.issuperset(n for n, link in netlink.links().items() if link.group == number):
        netlink.try_all([netlink.ipr.link("del", group=number)])


def remove_route(lab: Lab, *, subnet: str, netns: str) -> None:
    """Removes the lab's own unreachable route to ``subnet``."""
    with suppress(NamespaceError):
        within(netns or None, _remove_route, IPv4Network(subnet))


def _remove_route(netlink: Netlink, subnet: IPv4Network) -> None:
    if fenced(netlink, subnet):
        netlink.do(
            netlink.ipr.route("del", dst=str(subnet), type="unreachable", priority=FENCE_METRIC)
        )


def fenced(netlink: Netlink, subnet: IPv4Network) -> bool:
    """Whether the main table has an unreachable route to exactly ``subnet`` (rtnetlink(7))."""
    return any(route.kind == UNREACHABLE and route.network == subnet for route in netlink.routes())


def group(lab: Lab) -> int:
    """The number that the lab's links have in common (IFLA_GROUP), by which they go at once. Pure."""
    return zlib.crc32(f"labkit {lab.name}".encode()) or 1


def table_name(lab: Lab) -> str:
    """The name of both of the lab's tables."""
    return f"labkit-{lab.name}"


def tables_there(netns: str | None) -> frozenset[tuple[str, str]] | None:
    """The family and name of each table in ``netns`` (None: the machine's own); None when the kernel has no
    nftables."""
    done = run.run(["nft", "list", "tables"], netns=netns, ok=range(256))
    if done.status:
        return None
    words = (line.split() for line in done.stdout.splitlines())
    return frozenset((family, name) for _, family, name in words)


def tables_removal(table: str) -> str:
    """The nft(8) commands that remove the tables of that name, whether there are any or not. Pure."""
    return "".join(
        f"table {family} {table}\ndelete table {family} {table}\n" for family in FAMILIES
    )


def remove_tables(lab: Lab, *, name: str, netns: str) -> None:
    """Removes the lab's tables in ``netns`` ('' is the machine's own), in one step."""
    if name != table_name(lab):
        raise StateError(
            name,
            f"is not a table of lab {lab.name}",
            f"correct {lab.journal_file}",
            code="state.not-own",
        )
    if netns and not stands(netns):
        return
    try:
        run.run(["nft", "-f", "-"], stdin=tables_removal(name), netns=netns or None)
    except CommandError:
        if tables_there(netns or None) is not None:  # a kernel without nftables has none
            raise


def remove_tables_together(lab: Lab, things: Sequence[Mapping[str, str]]) -> None:
    """Removes all of them, each in one step."""
    for thing in things:
        remove_tables(lab, **thing)
