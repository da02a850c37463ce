"""Addresses and routes of the farm's own interfaces that its Lab does not have (any more)."""

from __future__ import annotations

from ipaddress import IPv4Interface

from labkit.farm.network import neighbours
from labkit.farm.network.netlink import each, within
from labkit.kernel import requests, seen
from labkit.kernel.messages import Request
from labkit.kernel.netlink import Netlink
from labkit.model.lab import Lab, Replica


def remove(lab: Lab) -> None:
    """The bridge and each eth0 have no address but their own, and no default route but by the bridge.

    What is wanted stands already: whoever is being answered by an old address is cut off by this, and
    nobody else.
    """
    within(lab.netns, _bridge, lab)
    replicas = {replica.netns: replica for replica in lab.farm}
    each(replicas, lambda netlink, name: _inner(netlink, lab, replicas[name]))


def route(lab: Lab) -> None:
    """Each container's default route leads to the lab's own gateway, and to no other."""
    names = [replica.netns for replica in lab.farm]
    each(names, lambda netlink, _: _gateway(netlink, lab))


def _bridge(netlink: Netlink, lab: Lab) -> None:
    found = seen.links(netlink).get(lab.bridge)
    if found is not None:
        _only(netlink, found.index, lab.gateway)
        neighbours.forget(netlink, None, index=found.index)


def _inner(netlink: Netlink, lab: Lab, replica: Replica) -> None:
    _gateway(netlink, lab)
    eth0 = seen.links(netlink).get("eth0")
    if eth0 is not None:
        _only(netlink, eth0.index, IPv4Interface(f"{replica.address}/{lab.subnet.prefixlen}"))


def _gateway(netlink: Netlink, lab: Lab) -> None:
    own = lab.gateway.ip
    found = [r.gateway for r in seen.routes(netlink) if not r.network.prefixlen and r.gateway]
    # The old one first: a namespace has one default route of a metric. What is sent in between is to
    # the farm's own network, whose route is another.
    wrong = [requests.no_default_route(gateway) for gateway in found if gateway != own]
    _ask(netlink, [*wrong, *([] if own in found else [requests.default_route(own)])])


def _only(netlink: Netlink, index: int, own: IPv4Interface) -> None:
    others = [item for item in seen.addresses(netlink).get(index, ()) if item != own]
    _ask(netlink, [requests.no_address(index, item) for item in others])


def _ask(netlink: Netlink, wanted: list[Request]) -> None:
    for request in wanted:
        netlink.ask(request)
