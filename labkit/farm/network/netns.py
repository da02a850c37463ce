"""Python code inside a network namespace: in a thread that enters it and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Concatenate, ParamSpec, TypeVar

from labkit.errors import FarmError
from labkit.kernel import netns as namespaces
from labkit.kernel.links import Netlink

P = ParamSpec("P")
R = TypeVar("R")


class NamespaceError(FarmError):
    """A network namespace is not there, or not any more."""

    code = "farm.no-namespace"


def enter(netns: str | None) -> None:
    """Moves the calling thread, and only it, into a named network namespace (None: stays).

    The thread cannot be trusted to come back: give it nothing else to do (setns(2)).
    Raises :class:`NamespaceError` when there is no such namespace.
    """
    if netns:
        try:
            namespaces.enter(netns)
        except FileNotFoundError:
            raise NamespaceError(
                f"network namespace {netns}",
                "does not exist, and so nothing is up in it",
                "make the network first: `./lab run 04-network`",
                "ip netns list",
            ) from None


def inside(netns: str | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Returns ``function(...)``, called in a named network namespace (None: in the caller's own thread and
    namespace); sockets made there stay there. Raises :class:`NamespaceError`.

    >>> inside("lab", socket.create_connection, ("10.60.0.11", 80))
    """
    if netns is None:
        return function(*args, **kwargs)
    return namespaces.alone(_entered, netns, lambda: function(*args, **kwargs))


def within(
    netns: str | None,
    function: Callable[Concatenate[Netlink, P], R],
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """Returns ``function(netlink, ...)``, called with a :class:`Netlink` of a named network namespace (None: the
    machine's own). Raises :class:`NamespaceError`."""

    def connected() -> R:
        with Netlink() as netlink:
            return function(netlink, *args, **kwargs)

    return namespaces.alone(_entered, netns, connected)


def each(netns: Iterable[str], function: Callable[[Netlink, str], R]) -> dict[str, R]:
    """``function(netlink, name)`` in each of these namespaces; those that do not exist are left out."""
    return namespaces.alone(_each, [name for name in netns if namespaces.stands(name)], function)


def _entered(netns: str | None, function: Callable[[], R]) -> R:
    enter(netns)
    return function()


def _each(names: list[str], function: Callable[[Netlink, str], R]) -> dict[str, R]:
    found = {}
    with Netlink() as netlink:
        for name in names:
            enter(name)
            netlink.reopen()
            found[name] = function(netlink, name)
    return found
