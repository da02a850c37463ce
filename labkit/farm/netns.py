"""Python code inside a network namespace: a thread of its own, which has entered it."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def enter(netns: str | None) -> None:
    """Moves the calling thread, and only it, into a named network namespace (None: stays).

    There is no way back that could be trusted: give the thread nothing else to do (setns(2)).
    """
    if netns:
        from pyroute2 import netns as namespaces

        namespaces.setns(netns)


def inside(netns: str | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """``function(...)`` as seen from a named network namespace; sockets made there stay there."""
    if netns is None:
        return function(*args, **kwargs)
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, initializer=enter, initargs=(netns,)) as pool:
        return pool.submit(context.run, function, *args, **kwargs).result()
