"""Links, addresses, routes and neighbours of a network namespace, read and changed through pyroute2."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, TypeVar

R = TypeVar("R")

#: netdevice(7): IFF_UP, and IFF_LOWER_UP: the other end is up as well.
UP, CARRIER = 1, 0x10000
#: linux/neighbour.h: NUD_NOARP and NUD_PERMANENT, entries that the kernel never has to ask for.
LASTING = 0x40 | 0x80
#: linux/rtnetlink.h: the main table of routes, and the type of a route that refuses at once.
MAIN, UNREACHABLE = 254, 7
#: linux/rtnetlink.h: dumps leave out the counters (RTEXT_FILTER_SKIP_STATS).
WITHOUT_COUNTERS = 8
#: linux/netlink.h: the flag of answers to a dump during which something changed.
INTERRUPTED = 0x10

#: A request that is not sent yet: what a method of pyroute2's AsyncIPRoute returns.
Request = Coroutine[Any, Any, Any]
#: An answer of the kernel as pyroute2 reads it.
Message = Any


@dataclass(frozen=True)
class Link:
    """A network interface. ``master`` is the index of the bridge that it is a port of (0: none), ``peer`` that of
    the other end of a veth pair, in the other end's namespace (0: no pair)."""

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
    """An IPv4 route of the main table; ``gateway`` None: to the link's own network."""

    kind: int
    network: IPv4Network
    link: int
    gateway: IPv4Address | None
    metric: int


@dataclass(frozen=True)
class Neighbour:
    """An IPv4 address whose MAC address the kernel knows or asks for; ``lasting``: it never has to ask."""

    link: int
    address: IPv4Address
    lasting: bool


class Netlink:
    """A netlink socket in the network namespace that the calling thread is in; use it as a context manager.

    ``ipr`` is pyroute2's AsyncIPRoute. Its methods make requests, which :meth:`do` and :meth:`try_all` send: that
    takes half as long as the calls of pyroute2's IPRoute, which enter and leave the event loop each time. A refused
    request is an :class:`OSError`.

    >>> with Netlink() as netlink:
    ...     netlink.do(netlink.ipr.link("set", index=1, state="up"))
    ...     netlink.links()["lo"].up
    True
    """

    def __init__(self) -> None:
        import asyncio  # late, as pyroute2: together they take 0.2 s, and not every command needs them

        from pyroute2 import AsyncIPRoute

        self._runner = asyncio.Runner()
        self.ipr = AsyncIPRoute(
            ext_ack=True,
            strict_check=True,
            exception_factory=lambda error, _: OSError(*error.args),
        )

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        with self._runner:
            self.ipr.close()

    def do(self, *requests: Request) -> None:
        """Sends the requests; raises the first :class:`OSError`, after all were tried."""
        for error in self.try_all(requests):
            if error is not None:
                raise error

    def try_all(self, requests: Sequence[Request]) -> list[OSError | None]:
        """Sends the requests in their order, whatever becomes of those before; returns the error of each."""
        return self._runner.run(_errors(requests))

    def links(self) -> dict[str, Link]:
        """The links of the namespace by their names."""
        found = self._dump(_link, partial(self.ipr.link, "dump", ext_mask=WITHOUT_COUNTERS))
        return {link.name: link for link in found}

    def addresses(self) -> dict[int, tuple[IPv4Interface, ...]]:
        """The IPv4 addresses of each link, by its index."""
        found: dict[int, tuple[IPv4Interface, ...]] = {}
        ask = partial(self.ipr.addr, "dump", family=socket.AF_INET)
        for index, given in self._dump(_address, ask):
            found[index] = (*found.get(index, ()), given)
        return found

    def routes(self) -> tuple[Route, ...]:
        """The IPv4 routes of the main table."""
        ask = partial(self.ipr.route, "dump", family=socket.AF_INET, table=MAIN)
        return tuple(self._dump(_route, ask))

    def neighbours(self) -> tuple[Neighbour, ...]:
        """The IPv4 neighbours that the namespace remembers."""
        found = self._dump(_neighbour, partial(self.ipr.neigh, "dump", family=socket.AF_INET))
        return tuple(item for item in found if item is not None)

    def _dump(self, read: Callable[[Message], R], ask: Callable[[], Request]) -> list[R]:
        """The answers to a dump, each as ``read`` reads it; asked again when something changed meanwhile."""
        while (found := self._runner.run(_answers(read, ask()))) is None:
            pass
        return found


def address(index: int, given: IPv4Interface) -> dict[str, Any]:
    """The arguments of ``ipr.addr("add" or "del", ...)`` for that address of a link. Pure."""
    found = {"index": index, "address": str(given.ip), "prefixlen": given.network.prefixlen}
    if given.network.prefixlen < 31:
        found["broadcast"] = str(given.network.broadcast_address)
    return found


def is_gone(error: OSError | None) -> bool:
    """Whether the kernel says that what was to be removed is not there."""
    return error is not None and error.errno in (errno.ENODEV, errno.ENOENT, errno.ESRCH)


async def _errors(requests: Sequence[Request]) -> list[OSError | None]:
    found: list[OSError | None] = []
    for request in requests:
        try:
            await request
            found.append(None)
        except OSError as error:
            found.append(error)
    return found


async def _answers(read: Callable[[Message], R], request: Request) -> list[R] | None:
    """The answers to a dump, None when they do not fit together."""
    found, whole = [], True
    async for message in await request:
        whole = whole and not message["header"]["flags"] & INTERRUPTED
        found.append(read(message))
    return found if whole else None


def _link(message: Message) -> Link:
    return Link(
        index=message["index"],
        name=message.get("ifname"),
        flags=message["flags"],
        master=message.get("master") or 0,
        peer=message.get("link") or 0,
        group=message.get("group") or 0,
        mac=message.get("address") or "",
    )


def _address(message: Message) -> tuple[int, IPv4Interface]:
    own = message.get("local") or message.get("address")
    return message["index"], IPv4Interface((own, message["prefixlen"]))


def _route(message: Message) -> Route:
    gateway = message.get("gateway")
    return Route(
        kind=message["type"],
        network=IPv4Network((message.get("dst") or 0, message["dst_len"])),
        link=message.get("oif") or 0,
        gateway=IPv4Address(gateway) if gateway else None,
        metric=message.get("priority") or 0,
    )


def _neighbour(message: Message) -> Neighbour | None:
    if not (address := message.get("dst")):
        return None
    lasting = bool(message["state"] & LASTING)
    return Neighbour(message["ifindex"], IPv4Address(address), lasting)
