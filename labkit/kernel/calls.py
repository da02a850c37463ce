"""System calls that Python 3.11 has no function for; each raises :class:`OSError` as the others do.

``os.unshare`` and ``os.setns`` came with Python 3.12, and mount(2) has none. A program that is started for one of
them (unshare(1), mount(8)) costs some milliseconds, a call some microseconds.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

#: sched.h: a new mount namespace, a new network namespace.
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
#: sys/mount.h.
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
#: sys/mount.h: a busy mount is detached, and ends with its last user.
MNT_DETACH = 2
#: mount(2) takes one page of options; what is longer is cut off there without a word.
OPTIONS = os.sysconf("SC_PAGE_SIZE") - 1


def unshare(flags: int) -> None:
    """The calling thread, and only it, is in new namespaces (unshare(2))."""
    _checked(_libc().unshare(flags), "unshare")


def setns(descriptor: int, flags: int = 0) -> None:
    """The calling thread, and only it, is in the namespace that the descriptor is open on (setns(2))."""
    _checked(_libc().setns(descriptor, flags), "setns")


def mount(source: str, target: Path, kind: str = "", *, flags: int = 0, options: str = "") -> None:
    """A file system is mounted at ``target`` (mount(2))."""
    data = options.encode()
    if len(data) > OPTIONS:
        raise OSError(0, f"its {len(data)} bytes of options do not fit into a page", str(target))
    words = (source.encode(), os.fsencode(target), kind.encode() or None)
    _checked(_libc().mount(*words, ctypes.c_ulong(flags), data or None), str(target))


def unmount(target: Path, flags: int = 0) -> None:
    """The topmost mount at ``target`` is unmounted (umount2(2))."""
    _checked(_libc().umount2(os.fsencode(target), flags), str(target))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)  # which lets other threads run during a call


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
