"""The lab's links and its unreachable route removed, each from the network namespace that it is in."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Network

from labkit.kernel import netns as namespaces
from labkit.kernel.links import UNREACHABLE, Link, Netlink, is_gone
from labkit.model.lab import Lab

#: The metric of the lab's unreachable route: the largest, so that any other route goes before it.
FENCE_METRIC = 4294967295


def remove_link(lab: Lab, *, name: str, netns: str) -> None:
    """Removes a network interface of ``netns`` ('' is the machine's own); a veth's peer goes with it."""
    if _is_there(netns):
        namespaces.alone(_remove_in, lab, name, netns)


def _remove_in(lab: Lab, name: str, netns: str) -> None:
    _enter(netns)
    try:
        socket.if_nametoindex(name)
    except OSError:  # many links go together, and each is then looked for
        if name != lab.bridge:
            return
    with Netlink() as netlink:
        _remove_link(netlink, lab, name)


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
    for netns in {thing["netns"] for thing in things if _is_there(thing["netns"])}:
        names = {thing["name"] for thing in things if thing["netns"] == netns}
        _inside(netns, partial(_cut, number=group(lab), names=names))


def _cut(netlink: Netlink, number: int, names: set[str]) -> None:
    if names.issuperset(n for n, link in netlink.links().items() if link.group == number):
        netlink.try_all([netlink.ipr.link("del", group=number)])


def remove_route(lab: Lab, *, subnet: str, netns: str) -> None:
    """Removes the lab's own unreachable route to ``subnet``."""
    if _is_there(netns):
        _inside(netns, lambda netlink: _remove_route(netlink, IPv4Network(subnet)))


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


def _is_there(name: str) -> bool:
    return not name or namespaces.stands(name)


def _inside(name: str, function: Callable[[Netlink], None]) -> None:
    """``function`` with a socket of a named network namespace ('' is the machine's own)."""

    def entered() -> None:
        _enter(name)
        with Netlink() as netlink:
            function(netlink)

    namespaces.alone(entered)


def _enter(name: str) -> None:
    if name:
        namespaces.enter(name)
