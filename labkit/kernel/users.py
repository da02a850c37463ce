"""User namespaces for a range of ids, and which ids are whose (user_namespaces(7))."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from labkit.kernel import calls

#: How many ids a container has of its own: as many as 16 bits, the ids of the oldest file systems, tell apart.
IDS = 65536


#: The user namespace that owns another namespace (ioctl_ns(2), NS_GET_USERNS).
OWNER = 0xB701


@contextmanager
def opened(first: int, kind: str = "user") -> Iterator[int]:
    """A descriptor of a new user namespace, whose ids 0, 1, ... are ``first``, ``first + 1``, ... outside; with
    ``kind`` "net" of a new network namespace that belongs to such a user namespace.

    The namespace is kept by what holds the descriptor, or was made with it, and ends with the last of them.
    """
    flags = calls.CLONE_NEWUSER | (calls.CLONE_NEWNET if kind == "net" else 0)
    with calls.sleeping(flags) as pid:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(f"0 {first} {IDS}\n", encoding="utf-8")
        descriptor = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def owner(namespace: int) -> Iterator[int]:
    """A descriptor of the user namespace that a namespace belongs to."""
    descriptor = fcntl.ioctl(namespace, OWNER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def first_of(users: int, place: Path) -> int:
    """The id outside that is a user namespace's 0, by how it shows ``place``, a folder of root's; 0 of the
    machine's own."""
    if os.path.samestat(os.fstat(users), Path("/proc/self/ns/user").stat()):
        return 0
    with ExitStack() as opened:
        folder = os.open(place, os.O_PATH | os.O_CLOEXEC)
        opened.callback(os.close, folder)
        seen = calls.mount_copied(folder)
        opened.callback(os.close, seen)
        calls.mount_shifted(seen, users)
        return os.fstat(seen).st_uid


def inner(pid: int, user: int) -> int:
    """The uid, in a process's user namespace, of a user outside; raises :class:`FileNotFoundError` without the process."""
    return inner_of(Path(f"/proc/{pid}/uid_map").read_text(encoding="utf-8"), user)


def outer_of(mapping: str, user: int) -> int:
    """Maps a uid inside the namespace to the uid outside, by the lines of uid_map(5); -1 for none. Pure."""
    return next((o + user - i for i, o, length in _ranges(mapping) if 0 <= user - i < length), -1)


def inner_of(mapping: str, user: int) -> int:
    """Maps a uid outside the namespace to the uid inside, by the lines of uid_map(5); -1 for none. Pure."""
    return next((i + user - o for i, o, length in _ranges(mapping) if 0 <= user - o < length), -1)


def _ranges(mapping: str) -> Iterator[tuple[int, int, int]]:
    """The ranges of uid_map(5): the first id inside, the first outside, how many."""
    for line in mapping.splitlines():
        inside, outside, length = map(int, line.split())
        yield inside, outside, length
