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
    request is an :class:`OSError`. The kernel filters what a dump asks for: ``dump_filter=None`` says that pyroute2
    need not do it again.

    >>> with Netlink() as netlink:
    ...     netlink.do(netlink.ipr.link("set", index=1, state="up"))
    ...     netlink.links()["lo"].up
    True
    """

    def __init__(self) -> None:
        import asyncio  # late, as pyroute2: together they take 0.2 s, and not every command needs them

        self._runner = asyncio.Runner()
        self.ipr = _opened()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        with self._runner:
            self.ipr.close()

    def reopen(self) -> None:
        """Goes on in the network namespace that the calling thread is in now, with the same event loop."""
        self.ipr.close()
        self.ipr = _opened()

    def do(self, *requests: Request) -> None:
        """Sends the requests; raises the first :class:`OSError`, after all were tried."""
        for error in self.try_all(requests):
            if error is not None:
                raise error

    def try_all(self, requests: Sequence[Request]) -> list[OSError | None]:
        """Sends the requests in their order, whatever becomes of those before; returns the error of each."""
        return self._runner.run(_errors(requests))

    def link(self, name: str) -> Link | None:
        """The link of that name, or None."""
        try:
            (found,) = self._runner.run(
                self.ipr.link("get", ifname=name, ext_mask=WITHOUT_COUNTERS)
            )
        except OSError as error:
            if is_gone(error):
                return None
            raise
        return _link(found)

    def links(self) -> dict[str, Link]:
        """The links of the namespace by their names."""
        ask = partial(self.ipr.link, "dump", dump_filter=None, ext_mask=WITHOUT_COUNTERS)
        return {link.name: link for link in self._dump(_link, ask)}

    def addresses(self, index: int = 0) -> dict[int, tuple[IPv4Interface, ...]]:
        """The IPv4 addresses of each link, by its index; those of one link with its ``index``."""
        found: dict[int, tuple[IPv4Interface, ...]] = {}
        ask = partial(self.ipr.addr, "dump", dump_filter=None, family=socket.AF_INET, index=index)
        for link, given in self._dump(_address, ask):
            found[link] = (*found.get(link, ()), given)
        return found

    def routes(self) -> tuple[Route, ...]:
        """The IPv4 routes of the main table."""
        ask = partial(self.ipr.route, "dump", dump_filter=None, family=socket.AF_INET, table=MAIN)
        try:
            return tuple(self._dump(_route, ask))
        except FileNotFoundError:  # the kernel makes the table with its first route
            return ()

    def neighbours(self) -> tuple[Neighbour, ...]:
        """The IPv4 neighbours that the namespace remembers."""
        ask = partial(self.ipr.neigh, "dump", dump_filter=None, family=socket.AF_INET)
        return tuple(item for item in self._dump(_neighbour, ask) if item is not None)

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


def _opened() -> Any:
    from pyroute2 import AsyncIPRoute

    return AsyncIPRoute(
        ext_ack=True,
        strict_check=True,
        exception_factory=lambda error, _: OSError(*error.args),
    )


def _attributes(message: Message, *names: str) -> dict[str, Any]:
    """The message's attributes of these names. pyroute2 decodes an attribute when its value is asked for."""
    return {item.name: item.value for item in message["attrs"] if item.name in names}


def _link(message: Message) -> Link:
    known = _attributes(
        message, "IFLA_IFNAME", "IFLA_MASTER", "IFLA_LINK", "IFLA_GROUP", "IFLA_ADDRESS"
    )
    return Link(
        index=message["index"],
        name=known["IFLA_IFNAME"],
        flags=message["flags"],
        master=known.get("IFLA_MASTER", 0),
        peer=known.get("IFLA_LINK", 0),
        group=known.get("IFLA_GROUP", 0),
        mac=known.get("IFLA_ADDRESS", ""),
    )


def _address(message: Message) -> tuple[int, IPv4Interface]:
    known = _attributes(message, "IFA_LOCAL", "IFA_ADDRESS")
    own = known.get("IFA_LOCAL") or known["IFA_ADDRESS"]
    return message["index"], IPv4Interface((own, message["prefixlen"]))


def _route(message: Message) -> Route:
    known = _attributes(message, "RTA_DST", "RTA_OIF", "RTA_GATEWAY", "RTA_PRIORITY")
    return Route(
        kind=message["type"],
        network=IPv4Network((known.get("RTA_DST", 0), message["dst_len"])),
        link=known.get("RTA_OIF", 0),
        gateway=IPv4Address(known["RTA_GATEWAY"]) if "RTA_GATEWAY" in known else None,
        metric=known.get("RTA_PRIORITY", 0),
    )


def _neighbour(message: Message) -> Neighbour | None:
    known = _attributes(message, "NDA_DST")
    if not known:
        return None
    lasting = bool(message["state"] & LASTING)
    return Neighbour(message["ifindex"], IPv4Address(known["NDA_DST"]), lasting)
