"""Netlink inside a network namespace, from a thread that has entered it.

A socket that pyroute2 opens in another namespace costs it a process of its own; a thread is several
times cheaper, which counts where a namespace is looked at again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from labkit.farm import host
from labkit.farm.links.netns import inside

if TYPE_CHECKING:
    from pyroute2 import IPRoute

P = ParamSpec("P")
R = TypeVar("R")


def within(
    netns: str | None,
    function: Callable[Concatenate[IPRoute, P], R],
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """``function(ipr, ...)`` with a netlink socket of a named network namespace (None: as it is).

    Raises :class:`FarmError` when there is no such namespace.
    """

    def entered() -> R:
        with host.netlink(None) as ipr:
            return function(ipr, *args, **kwargs)

    return inside(netns, entered)
