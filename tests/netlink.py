"""The network as pyroute2 sees and changes it, by sockets of its own: not those of labkit."""

from __future__ import annotations

from pyroute2 import IPRoute


def netlink(netns: str | None) -> IPRoute:
    """A netlink socket in a named network namespace (None: the machine's own); a context manager."""
    return IPRoute(netns=netns, flags=0) if netns else IPRoute()  # by default a missing one is made
