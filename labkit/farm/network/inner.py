"""The replicas' ends of their links, as they are in the replicas' network namespaces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from labkit.farm.network.netlink import each
from labkit.kernel import seen
from labkit.kernel.netlink import Netlink
from labkit.kernel.seen import Link
from labkit.model.lab import Replica


@dataclass(frozen=True)
class Inner:
    """What of a link is in the container's namespace: its end, the addresses, the default route."""

    eth0: Link | None
    addresses: tuple[IPv4Interface, ...]
    gateway: IPv4Address | None


def look(farm: Iterable[Replica]) -> dict[str, Inner]:
    """The replicas' ends of their links, by namespace; one without a namespace is left out."""
    return each((replica.netns for replica in farm), lambda netlink, _: inner(netlink))


def inner(netlink: Netlink) -> Inner:
    """What the namespace that the socket is of has of its link."""
    eth0 = seen.links(netlink).get("eth0")
    routes = seen.routes(netlink)
    return Inner(
        eth0=eth0,
        addresses=seen.addresses(netlink).get(eth0.index, ()) if eth0 else (),
        gateway=next((r.gateway for r in routes if not r.network.prefixlen and r.gateway), None),
    )
