"""Cancellation: worker threads end when Ctrl-C interrupts the caller that waits for them.

Python raises KeyboardInterrupt in the main thread only, which may be waiting for other threads. This module ends
the programs that those threads wait for; each thread then raises KeyboardInterrupt once, at its next program or
pause. What it does afterwards to clean up is not interrupted.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

R = TypeVar("R")

#: Seconds between two looks of a waiting thread whether it was interrupted: the signal may have reached another
#: thread, and then nothing wakes this one.
LOOK = 0.2


class _Work:
    """The threads that work for one caller: whether they were interrupted, and how to end their programs."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._endings: set[Callable[[], None]] = set()
        self._changing = threading.Lock()

    def interrupt(self) -> None:
        """Ends the programs that the threads wait for; a thread that starts one later is interrupted at once."""
        with self._changing:
            self.over.set()
            endings = tuple(self._endings)
        for end in endings:
            end()

    @contextmanager
    def ended_by(self, end: Callable[[], None]) -> Iterator[None]:
        """While the block runs, an interrupt calls ``end``."""
        with self._changing:
            if not self.over.is_set():
                self._endings.add(end)
        try:
            yield
        finally:
            with self._changing:
                self._endings.discard(end)


_work: contextvars.ContextVar[_Work | None] = contextvars.ContextVar("work", default=None)
_told: contextvars.ContextVar[bool] = contextvars.ContextVar("told", default=False)


def together(functions: Sequence[Callable[[], R]], workers: int) -> list[R]:
    """Calls the functions in ``workers`` threads, each with the caller's context, and returns their results in order.

    All are called before the first error (in their order) is raised. After an interrupt those that run end
    soon, the others are not called, and KeyboardInterrupt is raised when all threads have ended.
    """
    outer = _work.get()
    work = outer or _Work()
    token = _work.set(work)
    try:
        crew = _Crew(len(functions))
        # Twice: a second Ctrl-C can come where the inner one ends, after its last line that expects it.
        with ThreadPoolExecutor(workers) as pool, _ending(work, crew), _ending(work, crew):
            futures = [
                pool.submit(contextvars.copy_context().run, crew.do, item) for item in functions
            ]
            while not crew.ended.acquire(timeout=LOOK):
                check()
        return [future.result() for future in futures]
    except KeyboardInterrupt:
        if outer:  # the caller is one of them, and is told by this
            _told.set(True)
        raise
    finally:
        _work.reset(token)


def alone(function: Callable[[], R]) -> R:
    """Calls one function in a thread, and returns its result."""
    (found,) = together([function], 1)
    return found


def check() -> None:
    """Raises KeyboardInterrupt, once in each thread of interrupted work."""
    work = _work.get()
    if work is not None and work.over.is_set() and not _told.get():
        _told.set(True)
        raise KeyboardInterrupt


def pause(seconds: float) -> None:
    """Waits; an interrupt ends the wait in any thread."""
    work = _work.get()
    if work is None or _told.get():
        time.sleep(seconds)
    else:
        work.over.wait(seconds)
        check()


def until(holds: Callable[[], bool], patience: float) -> bool:
    """Pauses until ``holds()`` is true, at most ``patience`` seconds; returns whether it is.

    Raises what :func:`pause` raises.
    """
    deadline, seconds = time.monotonic() + patience, 0.002
    while not holds():
        if time.monotonic() > deadline:
            return False
        pause(seconds)
        seconds = min(1.5 * seconds, 0.05)
    return True


@contextmanager
def ended_by(end: Callable[[], None]) -> Iterator[None]:
    """While the block runs, an interrupt of the caller's work calls ``end``, but not while it cleans up afterwards."""
    check()
    work = _work.get()
    if work is None or _told.get():
        yield
        return
    with work.ended_by(end):
        yield
    check()


class _Crew:
    """The functions that run. The caller waits by taking the lock ``ended``, which is free when all ``count`` have
    ended: Python's ways to wait hold locks that a second Ctrl-C would leave held."""

    def __init__(self, count: int) -> None:
        self.working = 0
        self.ended = threading.Lock()
        self._left = count
        self._changing = threading.Lock()
        if count:
            self.ended.acquire()

    def do(self, function: Callable[[], R]) -> R:
        """Calls a function, and returns its result."""
        with self._changing:
            self.working += 1
        try:
            check()
            return function()
        finally:
            with self._changing:
                self.working -= 1
                self._left -= 1
                if not self._left:
                    self.ended.release()


@contextmanager
def _ending(work: _Work, crew: _Crew) -> Iterator[None]:
    """When the block raises an error, interrupts the threads and waits until they have ended. A second Ctrl-C changes
    nothing: another thread interrupts them, and signals do not reach it."""
    try:
        yield
    except BaseException:
        ended = False
        while not ended:
            with suppress(KeyboardInterrupt):
                threading.Thread(target=work.interrupt, daemon=True).start()
                while crew.working or not work.over.is_set():
                    time.sleep(0.005)
                ended = True
        raise
