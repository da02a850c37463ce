"""Links, addresses, routes and neighbours as the kernel shows them (rtnetlink(7))."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from labkit.kernel import requests
from labkit.kernel.netlink import Netlink, attributes

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
    found = (read_link(data) for data in netlink.dump(requests.links()))
    return {link.name: link for link in found}


def addresses(netlink: Netlink) -> dict[int, tuple[IPv4Interface, ...]]:
    """The addresses (IPv4) of each link, by its index."""
    found: dict[int, tuple[IPv4Interface, ...]] = {}
    for data in netlink.dump(requests.addresses()):
        index, given = read_address(data)
        found[index] = (*found.get(index, ()), given)
    return found


def routes(netlink: Netlink) -> tuple[Route, ...]:
    """The routes (IPv4) of the main table."""
    every = (read_route(data) for data in netlink.dump(requests.routes()))
    return tuple(route for route in every if route is not None)


def neighbours(netlink: Netlink) -> tuple[Neighbour, ...]:
    """The neighbours (IPv4) that the namespace remembers."""
    every = (read_neighbour(data) for data in netlink.dump(requests.neighbours()))
    return tuple(item for item in every if item is not None)


def read_link(data: bytes) -> Link:
    """A link of an answer's body. Pure."""
    _, _, index, flags, _ = requests.LINK_HEADER.unpack_from(data)
    found = attributes(data[requests.LINK_HEADER.size :])
    return Link(
        index=index,
        name=found[requests.NAME].rstrip(b"\0").decode(),
        flags=flags,
        master=_number(found.get(requests.MASTER)),
        peer=_number(found.get(requests.LINK)),
        group=_number(found.get(requests.GROUP)),
        mac=found.get(requests.ADDRESS, b"").hex(":"),
    )


def read_address(data: bytes) -> tuple[int, IPv4Interface]:
    """A link's index and an address of an answer's body. Pure."""
    _, length, _, _, index = requests.ADDRESS_HEADER.unpack_from(data)
    found = attributes(data[requests.ADDRESS_HEADER.size :])
    own = found.get(requests.IFA_LOCAL) or found[requests.IFA_ADDRESS]
    return index, IPv4Interface((own, length))


def read_route(data: bytes) -> Route | None:
    """A route of an answer's body, None for another table's. Pure."""
    _, length, _, _, table, _, _, kind, _ = requests.ROUTE_HEADER.unpack_from(data)
    found = attributes(data[requests.ROUTE_HEADER.size :])
    if _number(found.get(requests.RTA_TABLE), table) != requests.MAIN:
        return None
    gateway = found.get(requests.RTA_GATEWAY)
    return Route(
        kind=kind,
        network=IPv4Network((found.get(requests.RTA_DST, bytes(4)), length)),
        link=_number(found.get(requests.RTA_OIF)),
        gateway=IPv4Address(gateway) if gateway else None,
        metric=_number(found.get(requests.RTA_PRIORITY)),
    )


def read_neighbour(data: bytes) -> Neighbour | None:
    """A neighbour of an answer's body, None for one without an address of IPv4. Pure."""
    _, index, state, _, _ = requests.NEIGHBOUR_HEADER.unpack_from(data)
    address = attributes(data[requests.NEIGHBOUR_HEADER.size :]).get(requests.NDA_DST, b"")
    if len(address) != 4:
        return None
    return Neighbour(link=index, address=IPv4Address(address), lasting=bool(state & LASTING))


def _number(data: bytes | None, otherwise: int = 0) -> int:
    return int(struct.unpack("=I", data)[0]) if data else otherwise
