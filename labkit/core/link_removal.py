"""Removes the lab's links and its unreachable route, each from the network namespace that it is in."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Network

from labkit.kernel.links import UNREACHABLE, Link, Netlink, is_gone
from labkit.kernel.netns import NamespaceError, inside, within
from labkit.model.lab import Lab

#: The metric of the lab's unreachable route: the largest, so that any other route goes before it.
FENCE_METRIC = 4294967295


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
