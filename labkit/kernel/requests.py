"""Requests to the kernel's network configuration, each as rtnetlink(7) says, by pyroute2's names. Pure."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from labkit.kernel.messages import Request

#: linux/rtnetlink.h: types of requests.
NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
DELNEIGH, GETNEIGH = 29, 30
#: linux/netlink.h: nothing of the kind may be there; it is made.
EXCLUSIVE, CREATE = 0x200, 0x400
#: linux/rtnetlink.h: dumps leave out the counters (RTEXT_FILTER_SKIP_STATS).
WITHOUT_COUNTERS = 8
#: netdevice(7): IFF_UP.
UP = 1
#: linux/rtnetlink.h: table main; who made a route (static); no scope; types of routes.
MAIN, STATIC, NOWHERE, UNICAST, UNREACHABLE = 254, 4, 255, 1, 7
#: What is read of a link.
TOLD = ("IFLA_IFNAME", "IFLA_MASTER", "IFLA_LINK", "IFLA_GROUP", "IFLA_ADDRESS")
#: What makes a link go up.
RAISED = {"flags": UP, "change": UP}

Attributes = list[tuple[str, Any]]


def links() -> Request:
    """All links, without their counters."""
    return Request(GETLINK, attributes=[("IFLA_EXT_MASK", WITHOUT_COUNTERS)], wanted=TOLD)


def bridge(name: str, *, group: int = 0, mac: str = "") -> Request:
    """A new bridge, up, in the ``group``; without an address ``mac`` it has always the lowest of its ports'."""
    info = {"attrs": [("IFLA_INFO_KIND", "bridge")]}
    named: Attributes = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", info)]
    if group:
        named.append(("IFLA_GROUP", group))
    if mac:
        named.append(("IFLA_ADDRESS", mac))
    return Request(NEWLINK, CREATE | EXCLUSIVE, RAISED, named)


def pair(
    name: str,
    peer: str,
    *,
    mac: str = "",
    namespace: int | None = None,
    master: int = 0,
    group: int = 0,
) -> Request:
    """A new veth(4) pair: ``name``, up, a port of the bridge with index ``master`` (0: of none) and in
    the ``group``; ``peer``, with the address ``mac``, is born in the namespace that a descriptor is open
    on (None: in the same), and not yet up.
    """  # fmt: skip
    inner: Attributes = [("IFLA_IFNAME", peer)]
    if mac:
        inner.append(("IFLA_ADDRESS", mac))
    if namespace is not None:
        inner.append(("IFLA_NET_NS_FD", namespace))
    data = {"attrs": [("VETH_INFO_PEER", {"attrs": inner})]}
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
    outer: Attributes = [("IFLA_IFNAME", name)]
    if master:
        outer.append(("IFLA_MASTER", master))
    if group:
        outer.append(("IFLA_GROUP", group))
    return Request(NEWLINK, CREATE | EXCLUSIVE, RAISED, [*outer, ("IFLA_LINKINFO", info)])


def link_up(index: int, *, master: int | None = None, mac: str = "") -> Request:
    """A link that is there is up and, where they are given, a port of that bridge and has that address."""
    wanted: Attributes = [] if master is None else [("IFLA_MASTER", master)]
    if mac:
        wanted.append(("IFLA_ADDRESS", mac))
    return Request(NEWLINK, 0, {"index": index, **RAISED}, wanted)


def link_down(index: int) -> Request:
    """A link that is there is down."""
    return Request(NEWLINK, 0, {"index": index, "flags": 0, "change": UP})


def renamed(index: int, name: str) -> Request:
    """A link that is there, and down, has that name."""
    return Request(NEWLINK, 0, {"index": index}, [("IFLA_IFNAME", name)])


def no_link(index: int) -> Request:
    """That link is gone, and the other end of its pair."""
    return Request(DELLINK, 0, {"index": index})


def no_group(group: int) -> Request:
    """All links of a group are gone, at once: each by itself waits for the kernel's other users."""
    return Request(DELLINK, attributes=[("IFLA_GROUP", group)])


def addresses() -> Request:
    """All IPv4 addresses."""
    return Request(GETADDR, 0, {"family": socket.AF_INET})


def address(index: int, given: IPv4Interface) -> Request:
    """A link has that address."""
    wanted = _address(given)
    if given.network.prefixlen < 31:
        wanted.append(("IFA_BROADCAST", str(given.network.broadcast_address)))
    return Request(NEWADDR, CREATE | EXCLUSIVE, _on(index, given), wanted)


def no_address(index: int, given: IPv4Interface) -> Request:
    """A link has that address no more."""
    return Request(DELADDR, 0, _on(index, given), _address(given))


def routes() -> Request:
    """All IPv4 routes of the main table."""
    return Request(GETROUTE, 0, {"family": socket.AF_INET}, [("RTA_TABLE", MAIN)])


def default_route(gateway: IPv4Address) -> Request:
    """What is not in the namespace's own networks goes by ``gateway``."""
    return Request(
        NEWROUTE, CREATE | EXCLUSIVE, _route(0, UNICAST), [("RTA_GATEWAY", str(gateway))]
    )


def no_default_route(gateway: IPv4Address) -> Request:
    """That route is gone, whoever made it (protocol and type 0: any; scope 255: nowhere, any)."""
    anyones = {"family": socket.AF_INET, "table": MAIN, "scope": NOWHERE}
    return Request(DELROUTE, 0, anyones, [("RTA_GATEWAY", str(gateway))])


def unreachable(subnet: IPv4Network, metric: int) -> Request:
    """What no other route leads to in that network is refused at once."""
    wanted = _unreachable(subnet, metric)
    return Request(NEWROUTE, CREATE | EXCLUSIVE, _route(subnet.prefixlen, UNREACHABLE), wanted)


def not_unreachable(subnet: IPv4Network, metric: int) -> Request:
    """That route is gone."""
    wanted = _unreachable(subnet, metric)
    return Request(DELROUTE, 0, _route(subnet.prefixlen, UNREACHABLE), wanted)


def neighbours() -> Request:
    """All neighbours of IPv4."""
    return Request(GETNEIGH, 0, {"family": socket.AF_INET})


def no_neighbour(index: int, address: IPv4Address) -> Request:
    """What was remembered of that address is forgotten."""
    place = {"family": socket.AF_INET, "ifindex": index}
    return Request(DELNEIGH, 0, place, [("NDA_DST", str(address))])


def _on(index: int, given: IPv4Interface) -> dict[str, int]:
    return {"family": socket.AF_INET, "prefixlen": given.network.prefixlen, "index": index}


def _address(given: IPv4Interface) -> Attributes:
    return [("IFA_LOCAL", str(given.ip)), ("IFA_ADDRESS", str(given.ip))]


def _route(length: int, kind: int) -> dict[str, int]:
    return {
        "family": socket.AF_INET,
        "dst_len": length,
        "table": MAIN,
        "proto": STATIC,
        "type": kind,
    }


def _unreachable(subnet: IPv4Network, metric: int) -> Attributes:
    return [("RTA_DST", str(subnet.network_address)), ("RTA_PRIORITY", metric)]
