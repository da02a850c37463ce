"""The mounts that runC finds when it starts a container.

It reads all mounts of the machine several times, and copies them into the container's own mount namespace to take them away there:
12 to 20 microseconds for each mount and container. Three are each replica's own, so that a farm of 240 would pay ten
milliseconds for each of its replicas, half as much as the start itself takes. So runC is called where those of the
others are not mounted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from labkit.kernel import calls, netns

R = TypeVar("R")
#: So many containers have to be started for it to take less time than it saves.
WORTH = 4


@contextmanager
def without(places: Collection[Path]) -> Iterator[int]:
    """A descriptor of a mount namespace that is like the caller's own, but for what is mounted at ``places``. It ends
    with the block and what was started in it; nobody else sees what is mounted there."""
    namespace = netns.alone(_hidden, places)
    try:
        yield namespace
    finally:
        os.close(namespace)


def within(namespace: int, own: Sequence[Path], function: Callable[[], R]) -> R:
    """``function()`` in such a namespace, in which the caller's mounts at ``own`` are there as well meanwhile."""
    return netns.alone(_within, namespace, own, function)


def _hidden(places: Collection[Path]) -> int:
    calls.leave_mounts()
    for place in places:
        with suppress(OSError):  # nothing is mounted there
            calls.detach(place)
    return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _within(namespace: int, own: Sequence[Path], function: Callable[[], R]) -> R:
    with ExitStack() as opened:
        try:
            copies = [(_copied(opened, place), place) for place in filter(os.path.ismount, own)]
        except OSError:  # an older kernel: it starts with all of them
            return function()
        calls.unshare(calls.CLONE_FS)
        calls.setns(namespace, calls.CLONE_NEWNS)
        for mounted, place in copies:
            calls.mount_placed(mounted, place)
            opened.callback(calls.detach, place)
        return function()


def _copied(opened: ExitStack, place: Path) -> int:
    descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        mounted = calls.mount_copied(descriptor)
    finally:
        os.close(descriptor)
    opened.callback(os.close, mounted)
    return mounted
