"""Progress messages: what an action is doing now, and how much of it is done.

A batch reads it from the file that it names in ``LABKIT_DOING``; JupyterLab shows one line below the
running cell; a terminal one line that is written over. In the log each new phase is a line.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from labkit.core.files import text_of, write_atomically
from labkit.records import Record

log = logging.getLogger("labkit.core.progress")

#: Minimum seconds between two progress messages.
EVERY = 0.2


class Doing(Record):
    """One task: what is made, its phase (download, unpack, configure, …), and how much of it is done; ``total`` is 0 when it
    is unknown."""

    what: str
    phase: str = ""
    done: int = 0
    total: int = 0

    @property
    def text(self) -> str:
        """The same in words: ``minbase: unpack 43 of 92``."""
        many = (
            f" {self.done} of {self.total}" if self.total else f" {self.done}" if self.done else ""
        )
        return f"{self.what}: {self.phase}{many}" if self.phase else self.what


class Teller:
    """Tells what several threads of this process are doing, in one line."""

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._show = show
        self._works: dict[str, Doing] = {}
        self._lock = threading.Lock()
        self._told = 0.0

    def tell(self, doing: Doing) -> None:
        """Shows a task's present state."""
        with self._lock:
            before = self._works.get(doing.what)
            self._works[doing.what] = doing
            turned = before is None or before.phase != doing.phase
            if turned:
                log.info("%s", doing.text)
            self._say(at_once=turned)

    def end(self, what: str) -> None:
        """Removes a task from the line."""
        with self._lock:
            self._works.pop(what, None)
            self._say(at_once=True)

    def _say(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if at_once or now - self._told >= EVERY:
            self._told = now
            self._show = self._show or _shower()
            with suppress(OSError):  # whoever watched has gone
                self._show(" · ".join(work.text for work in self._works.values()))


_teller = Teller()


@contextmanager
def doing(what: str) -> Iterator[Callable[[Doing], None]]:
    """Yields a function that shows the progress of ``what``."""
    _teller.tell(Doing(what=what))
    try:
        yield _teller.tell
    finally:
        _teller.end(what)


def told(path: Path) -> str:
    """The progress of the process whose ``LABKIT_DOING`` is ``path``; '' for none."""
    return text_of(path) or ""


def _shower() -> Callable[[str], None]:
    """The function that shows progress in this process: in a file, a notebook's cell or a terminal."""
    if path := os.environ.get("LABKIT_DOING"):
        return lambda text: write_atomically(Path(path), text)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and hasattr(shell, "kernel"):
        return _Cell().show
    return _on_terminal if sys.stderr.isatty() else lambda _: None


def _on_terminal(text: str) -> None:
    width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
    sys.stderr.write(f"\r\x1b[K{text[:width]}")
    sys.stderr.flush()


class _Cell:
    """One output of the running cell, which each message overwrites, and which disappears at the end."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        from IPython.display import clear_output, display

        if not text:
            clear_output(wait=True)  # type: ignore[no-untyped-call]
            self._handle = None
            return
        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)
