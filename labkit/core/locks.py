"""The lab's locks: two that work on the same thing do it one after the other, and know of whom."""

from __future__ import annotations

import fcntl
import os
import shlex
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit import cancellation
from labkit.core.progress import Doing, doing
from labkit.errors import LockError, MachineError, StateError, of_system, typed, with_sudo

#: A lock file's mode.
MODE = 0o600
#: After so many seconds of waiting it is told for whom.
SILENT = 0.5


@contextmanager
def lock(folder: Path, name: str, *, wait: float = 600.0) -> Iterator[None]:
    """Holds the lock ``name`` in ``folder``; waits at most ``wait`` seconds, then :class:`LockError`.

    While it waits it tells for which process. The lock file holds its owner's pid and stays when the lock
    is released: the kernel ends the lock with the process, however that ends. Nobody but its owner can open
    the file: who opens it can hold it.
    """
    path = folder / f"{name}.lock"
    descriptor = _opened(path)
    try:
        if not _got(descriptor):
            _await(descriptor, path, wait)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def not_root(what: str) -> MachineError:
    """The error for an action that needs root."""
    return MachineError(
        what,
        f"cannot be changed by user {os.geteuid()}: provisioning needs root",
        with_sudo(),
        "id",
        code="machine.not-root",
    )


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, MODE)
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != MODE:  # of a labkit of before
            os.fchmod(descriptor, MODE)
        return descriptor
    except PermissionError:
        raise not_root(str(path)) from None
    except IsADirectoryError:
        raise StateError(
            str(path),
            "is a folder where labkit keeps a lock",
            "move it away",
            f"ls -la {shlex.quote(str(path))}",
            code="state.folder-in-place",
        ) from None
    except OSError as error:
        raise of_system(error, str(path)) from None


def _got(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _await(descriptor: int, path: Path, wait: float) -> None:
    """The lock was got, however long somebody else has it; it is told meanwhile who that is."""
    deadline = time.monotonic() + wait
    if _polled(descriptor, min(wait, SILENT)):
        return
    with doing(f"waiting for {path.stem}") as tell:
        while (left := deadline - time.monotonic()) > 0:
            tell(Doing(what=f"waiting for {path.stem}", phase=_held(path, descriptor).reason))
            if _polled(descriptor, min(left, 1.0)):
                return
    raise _held(path, descriptor)


def _polled(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _got(descriptor):
            return True
        cancellation.pause(0.02)
    return False


def _held(path: Path, descriptor: int) -> LockError:
    """The error for a lock that somebody else has: whoever has just got it may not be in the file yet."""
    pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
    return LockError(
        str(path),
        f"another labkit (process {pid}) works on this lab{_command(pid)}",
        "wait until it has ended, or give this lab another name (lab.toml: name)",
        f"ps -fp {pid}",
        code="lock.held",
    )


def _command(pid: str) -> str:
    try:
        words = (
            Path("/proc", pid, "cmdline")
            .read_text(encoding="utf-8", errors="replace")
            .split("\0")[:-1]
        )
    except (OSError, ValueError):
        return ""
    return f": {typed(words)[:200]}" if words else ""
