"""The neighbours that a namespace remembers: which MAC address an IP address has (arp(7))."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address

from labkit.kernel import requests, seen
from labkit.kernel.netlink import Netlink, is_gone


def forget(
    netlink: Netlink, of: Collection[IPv4Address] | None = None, *, index: int | None = None
) -> int:
    """No entry for these addresses (None: for any that is not lasting) is left on the interface ``index`` (None:
    on any); how many there were.

    The next packet asks anew. Without it, a packet waits for the answer to a request that was sent
    while nobody could hear it, and fails with that (EHOSTUNREACH) after up to three seconds.
    """
    found = [
        entry
        for entry in seen.neighbours(netlink)
        if (not entry.lasting if of is None else entry.address in of)
        and index in (None, entry.link)
    ]
    errors = netlink.try_all([requests.no_neighbour(item.link, item.address) for item in found])
    for error in errors:
        if error is not None and not is_gone(error):
            raise error
    return errors.count(None)
