"""Links, addresses, routes and neighbours as the kernel shows them (rtnetlink(7)) and pyroute2 reads them."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labkit.kernel import requests
from labkit.kernel.messages import Message, attributes
from labkit.kernel.netlink import Netlink

#: netdevice(7): IFF_UP, and IFF_LOWER_UP: the other end is up as well.
UP, CARRIER = 1, 0x10000
#: linux/neighbour.h: NUD_NOARP and NUD_PERMANENT, entries that nobody has to ask for.
LASTING = 0x40 | 0x80


@dataclass(frozen=True)
class Link:
    """A link: ``master`` the index of the bridge that it is a port of (0: none), ``peer`` that of a pair's
    other end, in its own namespace (0: no pair)."""

    index: int
    name: str
    flags: int
    master: int
    peer: int
    group: int
    mac: str

    @property
    def up(self) -> bool:
        """Whether it was brought up."""
        return bool(self.flags & UP)

    @property
    def carrier(self) -> bool:
        """Whether the other end is up as well."""
        return bool(self.flags & CARRIER)


@dataclass(frozen=True)
class Route:
    """A route of the main table; ``gateway`` None: to the link's own network."""

    kind: int
    network: IPv4Network
    link: int
    gateway: IPv4Address | None
    metric: int


@dataclass(frozen=True)
class Neighbour:
    """An address that was asked for on a link; ``lasting``: by nobody, it is always known."""

    link: int
    address: IPv4Address
    lasting: bool


def links(netlink: Netlink) -> dict[str, Link]:
    """The links of a namespace by their names."""
    found = (read_link(message) for message in netlink.dump(requests.links()))
    return {link.name: link for link in found}


def addresses(netlink: Netlink) -> dict[int, tuple[IPv4Interface, ...]]:
    """The addresses (IPv4) of each link, by its index."""
    found: dict[int, tuple[IPv4Interface, ...]] = {}
    for message in netlink.dump(requests.addresses()):
        index, given = read_address(message)
        found[index] = (*found.get(index, ()), given)
    return found


def routes(netlink: Netlink) -> tuple[Route, ...]:
    """The routes (IPv4) of the main table."""
    every = (read_route(message) for message in netlink.dump(requests.routes()))
    return tuple(route for route in every if route is not None)


def neighbours(netlink: Netlink) -> tuple[Neighbour, ...]:
    """The neighbours (IPv4) that the namespace remembers."""
    every = (read_neighbour(message) for message in netlink.dump(requests.neighbours()))
    return tuple(item for item in every if item is not None)


def read_link(message: Message) -> Link:
    """A link of an answer. Pure."""
    told = attributes(message)
    return Link(
        index=message["index"],
        name=told["IFLA_IFNAME"],
        flags=message["flags"],
        master=told.get("IFLA_MASTER", 0),
        peer=told.get("IFLA_LINK", 0),
        group=told.get("IFLA_GROUP", 0),
        mac=told.get("IFLA_ADDRESS", ""),
    )


def read_address(message: Message) -> tuple[int, IPv4Interface]:
    """A link's index and an address of an answer. Pure."""
    own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return message["index"], IPv4Interface((own, message["prefixlen"]))


def read_route(message: Message) -> Route | None:
    """A route of an answer, None for another table's. Pure."""
    if (message.get_attr("RTA_TABLE") or message["table"]) != requests.MAIN:
        return None
    gateway = message.get_attr("RTA_GATEWAY")
    return Route(
        kind=message["type"],
        network=IPv4Network((message.get_attr("RTA_DST") or 0, message["dst_len"])),
        link=message.get_attr("RTA_OIF") or 0,
        gateway=IPv4Address(gateway) if gateway else None,
        metric=message.get_attr("RTA_PRIORITY") or 0,
    )


def read_neighbour(message: Message) -> Neighbour | None:
    """A neighbour of an answer, None for one without an address of IPv4. Pure."""
    address = message.get_attr("NDA_DST")
    if not address or message["family"] != socket.AF_INET:
        return None
    return Neighbour(
        link=message["ifindex"],
        address=IPv4Address(address),
        lasting=bool(message["state"] & LASTING),
    )
