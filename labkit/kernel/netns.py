"""Network namespaces with a name, as ip-netns(8) keeps them: each a mount in /run/netns."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from labkit import cancellation
from labkit.kernel import calls, users

P = ParamSpec("P")
R = TypeVar("R")

#: Where a namespace's name is a file.
FOLDER = Path("/run/netns")


def path(name: str) -> Path:
    """The file of that namespace."""
    return FOLDER / name


def stands(name: str) -> bool:
    """Whether there is a namespace of that name: a file alone, whose maker was killed, is none."""
    try:
        return path(name).stat().st_dev != FOLDER.stat().st_dev
    except FileNotFoundError:
        return False


def create(
    names: Sequence[str],
    settle: Callable[[], None] = lambda: None,
    ids: Mapping[str, int] | None = None,
) -> None:
    """Namespaces of those names exist, which had not; ``settle`` was called in each, before it had its name.

    One that has an entry (not 0) in ``ids`` belongs to a user namespace with the ids from there on, the
    others to the machine's. One thread goes from one new namespace to the next (unshare(2)).
    """
    prepare()
    alone(_create, names, settle, ids or {})


def prepare() -> None:
    """The folder of the names is a mount of its own, which other mount namespaces share (ip-netns(8))."""
    FOLDER.mkdir(mode=0o755, exist_ok=True)
    # as ip(8) does, and in its order, so that a namespace made by either is seen by both
    shared = calls.MS_REC | 1 << 20  # MS_SHARED
    try:
        calls.mount("", FOLDER, "none", flags=shared)
    except OSError:
        calls.mount(str(FOLDER), FOLDER, "none", flags=calls.MS_BIND | calls.MS_REC)
        calls.mount("", FOLDER, "none", flags=shared)


def _create(names: Sequence[str], settle: Callable[[], None], ids: Mapping[str, int]) -> None:
    for name in names:
        if ids.get(name):
            with users.network(ids[name]) as made:
                calls.setns(made, calls.CLONE_NEWNET)
        else:
            calls.unshare(calls.CLONE_NEWNET)
        settle()
        place = path(name)
        os.close(os.open(place, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
        try:
            calls.mount("/proc/thread-self/ns/net", place, "none", flags=calls.MS_BIND)
        except OSError:
            place.unlink()
            raise


def name_again(name: str, pid: int) -> None:
    """The namespace that a process is in, and whose name was removed, has that name."""
    prepare()
    place = path(name)
    os.close(os.open(place, os.O_RDONLY | os.O_CREAT, 0))
    calls.mount(f"/proc/{pid}/ns/net", place, "none", flags=calls.MS_BIND)


def remove(name: str) -> None:
    """The name is gone; what still runs in the namespace keeps it alive without one."""
    place = path(name)
    with suppress(OSError):  # a name without a mount: its maker was killed between the two
        while True:
            calls.unmount(place, calls.MNT_DETACH)
    place.unlink(missing_ok=True)


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


def enter(name: str) -> None:
    """Moves the calling thread, and only it, into a namespace; :class:`FileNotFoundError` without one.

    There is no way back that could be trusted: give the thread nothing else to do.
    """
    with opened(name) as descriptor:
        try:
            calls.setns(descriptor, calls.CLONE_NEWNET)
        except OSError as error:
            if error.errno == errno.EINVAL:  # its name's file alone: it was being made, or unmade
                raise FileNotFoundError(errno.ENOENT, "no namespace", str(path(name))) from None
            raise


def alone(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """``function(...)`` in a thread of its own, which may then be in any namespace and ends."""
    return cancellation.alone(partial(function, *args, **kwargs))
