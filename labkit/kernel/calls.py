"""System calls that Python 3.11 lacks: namespaces, mounts, clone; each raises :class:`OSError`.

``os.unshare`` and ``os.setns`` came with Python 3.12, and mount(2) has none. A program that is started for one of
them (unshare(1), mount(8)) costs some milliseconds, a call some microseconds.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: sched.h: a new mount namespace, a new network namespace, a new user namespace.
CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWUSER = 0x20000, 0x40000000, 0x10000000
#: sched.h: a working directory and a root of its own.
CLONE_FS = 0x200
#: sched.h: the child works in the caller's memory.
CLONE_VM = 0x100
#: wait(2): children count, too, whose end is told by no signal (__WALL).
ANY_CHILD = 0x40000000
#: sys/mount.h.
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 4096, 16384, 1 << 18, 1 << 19
#: sys/mount.h: a busy mount is detached, and ends with its last user.
MNT_DETACH = 2
#: mount(2) takes one page of options; what is longer is cut off there without a word.
OPTIONS = os.sysconf("SC_PAGE_SIZE") - 1
#: The numbers of system calls newer than Linux 5.1 are the same on every architecture
#: (Linux, scripts/syscall.tbl).
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
#: fcntl.h.
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
#: A child that only sleeps: how large a stack it is given, in bytes, and how long it lives, in seconds.
STACK, LIFE = 65536, 5


def unshare(flags: int) -> None:
    """Moves the calling thread, and only it, into new namespaces (unshare(2))."""
    _checked(libc().unshare(flags), "unshare")


def setns(descriptor: int, flags: int = 0) -> None:
    """Moves the calling thread, and only it, into the namespace that the descriptor is open on (setns(2))."""
    _checked(libc().setns(descriptor, flags), "setns")


def leave_mounts() -> None:
    """Moves the calling thread, and only it, into a new mount namespace: its mounts are visible in it alone."""
    unshare(CLONE_NEWNS)
    mount("", Path("/"), flags=MS_REC | MS_SLAVE)


def mount(source: str, target: Path, kind: str = "", *, flags: int = 0, options: str = "") -> None:
    """Mounts a file system at ``target`` (mount(2))."""
    data = options.encode()
    if len(data) > OPTIONS:
        raise OSError(0, f"its {len(data)} bytes of options do not fit into a page", str(target))
    words = (source.encode(), os.fsencode(target), kind.encode() or None)
    _checked(libc().mount(*words, ctypes.c_ulong(flags), data or None), str(target))


def unmount(target: Path, flags: int = 0) -> None:
    """Unmounts the topmost mount at ``target`` (umount2(2))."""
    _checked(libc().umount2(os.fsencode(target), flags), str(target))


def detach(target: Path) -> None:
    """Unmounts everything at ``target``; a busy mount ends with its last user."""
    try:
        while True:
            unmount(target, MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # no mount, or not even a folder
            raise


def mount_copied(place: int) -> int:
    """Copies the mount of a folder (``place``: a descriptor, O_PATH); returns a descriptor of the copy, which is not
    mounted anywhere yet (open_tree(2), since Linux 5.2)."""
    flags = 1 | os.O_CLOEXEC | AT_EMPTY_PATH  # OPEN_TREE_CLONE
    return _opened(_call(OPEN_TREE, place, b"", flags), "open_tree")


def mount_shifted(mounted: int, users: int) -> None:
    """Shifts the owners in a copied mount by the user namespace ``users``, a descriptor (mount_setattr(2), since
    Linux 5.12)."""
    asked = (ctypes.c_uint64 * 4)(0x100000, 0, 0, users)  # struct mount_attr: MOUNT_ATTR_IDMAP
    size = ctypes.c_size_t(ctypes.sizeof(asked))
    done = _call(MOUNT_SETATTR, mounted, b"", AT_EMPTY_PATH, ctypes.byref(asked), size)
    _checked(done, "mount_setattr")


def mount_placed(mounted: int, target: Path) -> None:
    """Mounts a copied mount at ``target`` (move_mount(2), since Linux 5.2)."""
    flags = 4  # MOVE_MOUNT_F_EMPTY_PATH
    done = _call(MOVE_MOUNT, mounted, b"", AT_FDCWD, os.fsencode(target), flags)
    _checked(done, str(target))


@contextmanager
def sleeping(flags: int) -> Iterator[int]:
    """The process id of a child in new namespaces, which sleeps while the block runs, for :data:`LIFE` seconds at
    most (clone(2)). Descriptors that are opened on its files in /proc keep the namespaces after its end.

    It shares the caller's memory and does nothing else: that costs a tenth of a fork of Python, and a caller that is
    killed leaves no child for long.
    """
    stack = ctypes.create_string_buffer(STACK)
    top = ctypes.c_void_p(ctypes.addressof(stack) + STACK // 2)
    sleep = ctypes.cast(libc().sleep, ctypes.c_void_p)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        child = libc().clone(sleep, top, flags | CLONE_VM, ctypes.c_void_p(LIFE))
        pid = _opened(child, "clone")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, ANY_CHILD)


def _call(number: int, place: int, *rest: object) -> int:
    """A system call that takes a descriptor first (syscall(2))."""
    return int(libc().syscall(ctypes.c_long(number), ctypes.c_int(place), *rest))


@functools.cache
def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)  # which lets other threads run during a call


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _opened(result: int, what: str) -> int:
    _checked(min(result, 0), what)
    return result
