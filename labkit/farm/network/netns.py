"""Python code inside a network namespace: a thread of its own, which has entered it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from labkit.errors import FarmError
from labkit.kernel import netns as namespaces

P = ParamSpec("P")
R = TypeVar("R")


class NamespaceError(FarmError):
    """A network namespace is not there, or not any more."""

    code = "farm.no-namespace"


def enter(netns: str | None) -> None:
    """Moves the calling thread, and only it, into a named network namespace (None: stays).

    There is no way back that could be trusted: give the thread nothing else to do (setns(2)).
    Raises :class:`NamespaceError` when there is no such namespace.
    """
    if netns:
        try:
            namespaces.enter(netns)
        except FileNotFoundError:
            raise missing(netns) from None


def missing(netns: str) -> NamespaceError:
    """The error for a network namespace that is not there."""
    return NamespaceError(
        f"network namespace {netns}",
        "does not exist, and so nothing is up in it",
        "make the network first: `./lab run 04-network`",
        "ip netns list",
    )


def inside(netns: str | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """``function(...)`` as seen from a named network namespace; sockets made there stay there."""
    if netns is None:
        return function(*args, **kwargs)

    def entered() -> R:
        enter(netns)
        return function(*args, **kwargs)

    return namespaces.alone(entered)
