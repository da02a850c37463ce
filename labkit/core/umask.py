"""The modes of files that are made: the same for whoever makes them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: What new files are not by themselves (umask(2)): writable for anybody but their owner.
ORDINARY = 0o022


class _Mask:
    """The process' mask while blocks run that change it, side by side or within each other."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.own = ORDINARY

    def enter(self) -> None:
        with self.lock:
            if self.users == 0:
                self.own = os.umask(ORDINARY)
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                os.umask(self.own)


_mask = _Mask()


@contextmanager
def ordinary() -> Iterator[None]:
    """While the block runs, new files of this process and of the programs that it starts have their
    ordinary modes, whatever its user's mask is; files that are made with a mode of their own keep it."""
    _mask.enter()
    try:
        yield
    finally:
        _mask.leave()
