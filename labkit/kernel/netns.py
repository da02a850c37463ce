"""Network namespaces with a name, as ip-netns(8) keeps them, each a mount in /run/netns; and code that runs inside.

pyroute2 gives and removes the names. The namespaces themselves are made in a thread: pyroute2 starts a process for each,
and a replica's namespace belongs to a user namespace.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from labkit import cancellation
from labkit.errors import FarmError
from labkit.kernel import calls, users
from labkit.kernel.links import Netlink

P = ParamSpec("P")
R = TypeVar("R")


class NamespaceError(FarmError):
    """A network namespace is not there, or not any more."""

    code = "farm.no-namespace"


#: Where a namespace's name is a file.
FOLDER = Path("/run/netns")


def path(name: str) -> Path:
    """The file of that namespace."""
    return FOLDER / name


def stands(name: str) -> bool:
    """Whether there is a namespace of that name: a file alone, whose maker was killed, is none."""
    folder = str(FOLDER)
    try:
        return os.stat(f"{folder}/{name}").st_dev != os.stat(folder).st_dev  # noqa: PTH116 - asked for many, again and again
    except FileNotFoundError:
        return False


def create(
    names: Sequence[str],
    settle: Callable[[Netlink], None] = lambda netlink: None,
    ids: Mapping[str, int] | None = None,
) -> None:
    """Creates network namespaces with these names; raises :class:`FileExistsError` for a name that is taken.

    :param settle: is called in each namespace, with a socket there, before it has its name.
    :param ids: a namespace with an entry (not 0) belongs to a user namespace with the ids from there on, the others
        to the machine's.
    """
    alone(_create, names, settle, ids or {})


def _create(
    names: Sequence[str], settle: Callable[[Netlink], None], ids: Mapping[str, int]
) -> None:
    """One thread goes from one new namespace to the next (unshare(2))."""
    with Netlink() as netlink:
        for name in names:
            if ids.get(name):
                with users.opened(ids[name], "net") as made:
                    calls.setns(made, calls.CLONE_NEWNET)
            else:
                calls.unshare(calls.CLONE_NEWNET)
            netlink.reopen()
            settle(netlink)
            attach(name, threading.get_native_id())


def attach(name: str, pid: int) -> None:
    """Gives the network namespace of a process, or of a thread, that name."""
    from pyroute2 import netns  # late: that takes 0.1 s, and few commands need it

    netns.attach(name, pid, libc=calls.libc())


def remove(name: str) -> None:
    """Removes the name, if there is one; what still runs in the namespace keeps it alive without a name."""
    from pyroute2 import netns

    with suppress(FileNotFoundError):
        netns.remove(name, libc=calls.libc())


@contextmanager
def opened(name: str) -> Iterator[int]:
    """A descriptor of the namespace; raises :class:`FileNotFoundError` when there is none of that name."""
    descriptor = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def owner(name: str, place: Path) -> int:
    """The first of the ids of the user namespace that a namespace belongs to (:func:`users.first_of`)."""
    with opened(name) as namespace, users.owner(namespace) as found:
        return users.first_of(found, place)


def enter(name: str | None) -> None:
    """Moves the calling thread, and only it, into a named namespace (None: stays).

    The thread cannot be trusted to come back: give it nothing else to do (setns(2)).
    Raises :class:`NamespaceError` when there is no such namespace.
    """
    if not name:
        return
    try:
        with opened(name) as descriptor:
            calls.setns(descriptor, calls.CLONE_NEWNET)
    except OSError as error:
        if error.errno not in (
            errno.ENOENT,
            errno.EINVAL,
        ):  # EINVAL: a file alone, being made or unmade
            raise
        raise NamespaceError(
            name,
            f"there is no network namespace {name}, so nothing is up in it",
            "make the network first: `./lab run 04-network`",
            "ip netns list",
        ) from None


def inside(name: str | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Returns ``function(...)``, called in a named namespace (None: in the caller's own thread and namespace); sockets
    made there stay there. Raises :class:`NamespaceError`.

    >>> inside("lab", socket.create_connection, ("10.60.0.11", 80))
    """
    if name is None:
        return function(*args, **kwargs)

    def entered() -> R:
        enter(name)
        return function(*args, **kwargs)

    return alone(entered)


def within(
    name: str | None,
    function: Callable[Concatenate[Netlink, P], R],
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """Returns ``function(netlink, ...)``, called with a :class:`Netlink` of a named namespace (None: the machine's
    own). Raises :class:`NamespaceError`."""

    def entered() -> R:
        enter(name)
        with Netlink() as netlink:
            return function(netlink, *args, **kwargs)

    return alone(entered)


def each(names: Iterable[str], function: Callable[[Netlink, str], R]) -> dict[str, R]:
    """``function(netlink, name)`` in each of these namespaces; those that do not exist are left out."""
    return alone(_each, [name for name in names if stands(name)], function)


def _each(names: list[str], function: Callable[[Netlink, str], R]) -> dict[str, R]:
    found = {}
    with Netlink() as netlink:
        for name in names:
            enter(name)
            netlink.reopen()
            found[name] = function(netlink, name)
    return found


def alone(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """``function(...)`` in a thread of its own, which may then be in any namespace and ends."""
    return cancellation.alone(partial(function, *args, **kwargs))
