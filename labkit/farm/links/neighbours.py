"""The neighbours that a namespace remembers: which MAC address an IP address has (arp(7))."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyroute2 import IPRoute

#: rtnetlink(7): NUD_NOARP and NUD_PERMANENT, entries that nobody has to ask for.
LASTING = 0x40 | 0x80


def forget(ipr: IPRoute, address: IPv4Address | None = None, *, index: int | None = None) -> int:
    """No entry for ``address`` (None: for any) is left on the interface ``index`` (None: on any); how
    many there were.

    The next packet asks anew. Without it, a packet waits for the answer to a request that was sent
    while nobody could hear it, and fails with that (EHOSTUNREACH) after up to three seconds.
    """
    asked: dict[str, object] = {"family": 2}
    if index is not None:
        asked["ifindex"] = index
    if address is not None:
        asked["dst"] = str(address)
    found = [entry for entry in ipr.get_neighbours(**asked) if not entry["state"] & LASTING]
    return sum(_remove(ipr, entry.get_attr("NDA_DST"), entry["ifindex"]) for entry in found)


def _remove(ipr: IPRoute, address: str, index: int) -> bool:
    """Whether the entry was still there."""
    from pyroute2 import NetlinkError

    try:
        ipr.neigh("del", dst=address, ifindex=index)
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
        return False
    return True
