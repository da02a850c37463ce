"""Netlink inside network namespaces, from a thread that enters one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Concatenate, ParamSpec, TypeVar

from labkit.farm.network.netns import enter, inside
from labkit.kernel import netns as namespaces
from labkit.kernel.netlink import Netlink

P = ParamSpec("P")
R = TypeVar("R")


def within(
    netns: str | None,
    function: Callable[Concatenate[Netlink, P], R],
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """``function(netlink, ...)`` with a socket of a named network namespace (None: the machine's own).

    Raises :class:`FarmError` when there is no such namespace.
    """

    def entered() -> R:
        with Netlink() as netlink:
            return function(netlink, *args, **kwargs)

    return inside(netns, entered)


def each(netns: Iterable[str], function: Callable[[Netlink, str], R]) -> dict[str, R]:
    """``function(netlink, name)`` in each of these namespaces; those that do not stand are left out."""
    return namespaces.alone(_each, [name for name in netns if namespaces.stands(name)], function)


def _each(names: list[str], function: Callable[[Netlink, str], R]) -> dict[str, R]:
    found = {}
    for name in names:
        enter(name)
        with Netlink() as netlink:
            found[name] = function(netlink, name)
    return found
