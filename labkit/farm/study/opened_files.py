"""Finds which files of a mounted root file system programs open, as the kernel reports them by fanotify(7).

Nothing is put into the root file system, and the processes in it are neither traced nor slowed: the
kernel reports each file of the file system that anybody opens, in whatever namespace.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit.errors import MachineError

#: fanotify_init(2): only told of what happens; however many events wait.
FLAGS = 0x01 | 0x02 | 0x10  # FAN_CLOEXEC, FAN_NONBLOCK, FAN_UNLIMITED_QUEUE
#: fanotify_mark(2): all of the file system that the path is on.
MARK = 0x01 | 0x100  # FAN_MARK_ADD, FAN_MARK_FILESYSTEM
OPEN = 0x20  # FAN_OPEN; also said of a program that is executed, and of its libraries
AT_FDCWD = -100
#: struct fanotify_event_metadata: length, version, reserved, its own length, mask, descriptor, pid.
EVENT = struct.Struct("=IBBHQii")


@contextmanager
def watching(root: Path) -> Iterator[set[str]]:
    """Collects the files that are opened on the file system mounted at ``root`` while the block runs.

    The set holds paths from that file system's root on (``/usr/sbin/apache2``), and is complete when
    the block has ended. Raises :class:`MachineError` where the kernel cannot tell.
    """
    events = _listener(root)
    seen: set[str] = set()
    try:
        yield seen
        while data := _read(events):  # the kernel keeps all of them until they are read
            seen.update(inside(path, root) for path in _paths(data))
    finally:
        os.close(events)


def _listener(root: Path) -> int:
    """A descriptor from which the events are read."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fanotify_mark.argtypes = [
        ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p,
    ]  # fmt: skip
    events = libc.fanotify_init(FLAGS, os.O_RDONLY | os.O_CLOEXEC | os.O_LARGEFILE)
    if events < 0:
        raise _refused("fanotify_init", ctypes.get_errno())
    if libc.fanotify_mark(events, MARK, OPEN, AT_FDCWD, os.fsencode(root)) < 0:
        os.close(events)
        raise _refused("fanotify_mark", ctypes.get_errno())
    return int(events)


def _read(events: int) -> bytes:
    try:
        return os.read(events, 65536)
    except BlockingIOError:
        return b""


def _paths(data: bytes) -> Iterator[str]:
    """The path of each event's file; its descriptor is closed."""
    place = 0
    while place < len(data):
        length, *_, descriptor, _ = EVENT.unpack_from(data, place)
        place += length
        if descriptor >= 0:
            try:
                path = os.readlink(f"/proc/self/fd/{descriptor}".encode())  # noqa: PTH115 - no file's path
                yield path.decode(errors="replace")
            finally:
                os.close(descriptor)


def inside(path: str, root: Path) -> str:
    """A path as the kernel writes it, from the file system's root on: seen from where it is mounted
    at ``root``, or from another mount namespace."""
    return path.removeprefix(str(root)) or "/"


def _refused(call: str, number: int) -> MachineError:
    return MachineError(
        call,
        f"the kernel does not tell which files are opened: {os.strerror(number)}",
        "run it as root, on a kernel of version 4.20 or later with CONFIG_FANOTIFY",
        "grep FANOTIFY /boot/config-$(uname -r)",
        code="machine.fanotify",
    )
