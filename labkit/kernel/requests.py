"""Requests to the kernel's network configuration, each as rtnetlink(7) says. Pure."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labkit.kernel.netlink import Request, attribute

#: linux/rtnetlink.h: types of requests.
NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
DELNEIGH, GETNEIGH = 29, 30
#: linux/netlink.h: nothing of the kind may be there; it is made.
EXCLUSIVE, CREATE = 0x200, 0x400
#: linux/if_link.h: attributes of a link; of its IFLA_LINKINFO; of a veth's IFLA_INFO_DATA.
ADDRESS, NAME, LINK, MASTER, LINKINFO, GROUP, NET_NS_FD, EXT_MASK = 1, 3, 5, 10, 18, 27, 28, 29
INFO_KIND, INFO_DATA, VETH_PEER = 1, 2, 1
#: linux/rtnetlink.h: dumps leave out the counters (RTEXT_FILTER_SKIP_STATS).
WITHOUT_COUNTERS = 8
#: linux/if_addr.h, linux/rtnetlink.h, linux/neighbour.h: attributes.
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
NDA_DST = 1
#: netdevice(7): IFF_UP.
UP = 1
#: linux/rtnetlink.h: table main; who made a route (static); a link's and everybody's scope; types of routes.
MAIN, STATIC, LINK_SCOPE, UNIVERSE, UNICAST, UNREACHABLE = 254, 4, 253, 0, 1, 7
#: struct ifinfomsg, struct ifaddrmsg, struct rtmsg, struct ndmsg.
LINK_HEADER, ADDRESS_HEADER = struct.Struct("=BxHiII"), struct.Struct("=BBBBI")
ROUTE_HEADER, NEIGHBOUR_HEADER = struct.Struct("=BBBBBBBBI"), struct.Struct("=BxxxiHBB")


def links() -> Request:
    """All links, without their counters."""
    return Request(GETLINK, 0, _link() + attribute(EXT_MASK, WITHOUT_COUNTERS))


def bridge(name: str) -> Request:
    """A new bridge, up."""
    info = attribute(INFO_KIND, b"bridge")
    return Request(
        NEWLINK,
        CREATE | EXCLUSIVE,
        _link(flags=UP, change=UP) + attribute(NAME, name) + attribute(LINKINFO, info),
    )


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
    inner = _link() + attribute(NAME, peer)
    if mac:
        inner += attribute(ADDRESS, bytes.fromhex(mac.replace(":", "")))
    if namespace is not None:
        inner += attribute(NET_NS_FD, namespace)
    data = attribute(INFO_DATA, attribute(VETH_PEER, inner))
    body = _link(flags=UP, change=UP) + attribute(NAME, name)
    body += attribute(MASTER, master) if master else b""
    body += attribute(GROUP, group) if group else b""
    body += attribute(LINKINFO, attribute(INFO_KIND, b"veth") + data)
    return Request(NEWLINK, CREATE | EXCLUSIVE, body)


def link_up(index: int, *, master: int | None = None, mac: str = "") -> Request:
    """A link that is there is up and, where they are given, a port of that bridge and has that address."""
    body = _link(index, flags=UP, change=UP)
    body += b"" if master is None else attribute(MASTER, master)
    body += attribute(ADDRESS, bytes.fromhex(mac.replace(":", ""))) if mac else b""
    return Request(NEWLINK, 0, body)


def no_link(index: int) -> Request:
    """That link is gone, and the other end of its pair."""
    return Request(DELLINK, 0, _link(index))


def no_group(group: int) -> Request:
    """All links of a group are gone, at once: each by itself waits for the kernel's other users."""
    return Request(DELLINK, 0, _link() + attribute(GROUP, group))


def addresses() -> Request:
    """All IPv4 addresses."""
    return Request(GETADDR, 0, ADDRESS_HEADER.pack(socket.AF_INET, 0, 0, 0, 0))


def address(index: int, given: IPv4Interface) -> Request:
    """A link has that address."""
    header = ADDRESS_HEADER.pack(socket.AF_INET, given.network.prefixlen, 0, UNIVERSE, index)
    body = attribute(IFA_LOCAL, given.ip.packed) + attribute(IFA_ADDRESS, given.ip.packed)
    if given.network.prefixlen < 31:
        body += attribute(IFA_BROADCAST, given.network.broadcast_address.packed)
    return Request(NEWADDR, CREATE | EXCLUSIVE, header + body)


def no_address(index: int, given: IPv4Interface) -> Request:
    """A link has that address no more."""
    header = ADDRESS_HEADER.pack(socket.AF_INET, given.network.prefixlen, 0, UNIVERSE, index)
    body = attribute(IFA_LOCAL, given.ip.packed) + attribute(IFA_ADDRESS, given.ip.packed)
    return Request(DELADDR, 0, header + body)


def routes() -> Request:
    """All IPv4 routes of the main table."""
    return Request(GETROUTE, 0, _route(0, 0) + attribute(RTA_TABLE, MAIN))


def default_route(gateway: IPv4Address) -> Request:
    """What is not in the namespace's own networks goes by ``gateway``."""
    body = _route(0, UNICAST) + attribute(RTA_GATEWAY, gateway.packed)
    return Request(NEWROUTE, CREATE | EXCLUSIVE, body)


def no_default_route(gateway: IPv4Address) -> Request:
    """That route is gone, whoever made it (protocol and type 0: any; scope 255: nowhere, any)."""
    header = ROUTE_HEADER.pack(socket.AF_INET, 0, 0, 0, MAIN, 0, 255, 0, 0)
    return Request(DELROUTE, 0, header + attribute(RTA_GATEWAY, gateway.packed))


def unreachable(subnet: IPv4Network, metric: int) -> Request:
    """What no other route leads to in that network is refused at once."""
    return Request(NEWROUTE, CREATE | EXCLUSIVE, _unreachable(subnet, metric))


def not_unreachable(subnet: IPv4Network, metric: int) -> Request:
    """That route is gone."""
    return Request(DELROUTE, 0, _unreachable(subnet, metric))


def neighbours() -> Request:
    """All neighbours of IPv4."""
    return Request(GETNEIGH, 0, NEIGHBOUR_HEADER.pack(socket.AF_INET, 0, 0, 0, 0))


def no_neighbour(index: int, address: IPv4Address) -> Request:
    """What was remembered of that address is forgotten."""
    header = NEIGHBOUR_HEADER.pack(socket.AF_INET, index, 0, 0, 0)
    return Request(DELNEIGH, 0, header + attribute(NDA_DST, address.packed))


def _link(index: int = 0, *, flags: int = 0, change: int = 0) -> bytes:
    return LINK_HEADER.pack(socket.AF_UNSPEC, 0, index, flags, change)


def _route(length: int, kind: int) -> bytes:
    known = (MAIN, STATIC, UNIVERSE, kind) if kind else (0, 0, 0, 0)
    return ROUTE_HEADER.pack(socket.AF_INET, length, 0, 0, *known, 0)


def _unreachable(subnet: IPv4Network, metric: int) -> bytes:
    body = _route(subnet.prefixlen, UNREACHABLE)
    return (
        body + attribute(RTA_DST, subnet.network_address.packed) + attribute(RTA_PRIORITY, metric)
    )
