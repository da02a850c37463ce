"""Points at which a process that works on a lab can be cut off, and actions in processes of their own.

The points are put around labkit's own functions in the process that is to be cut off, which ends with that:
each journal step (before, within the line, after), each program (before it is started, as soon as it runs,
after its end), each system call and each batch of netlink's (before, within, after), and each change of a file.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

#: What Python itself tells of before it does it (audit events): changes of the machine.
TOLD = frozenset((
    "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.chmod", "os.chown",
    "os.truncate", "os.kill", "shutil.rmtree",
))  # fmt: skip
#: Functions of which before and after are points.
AROUND = (
    "labkit.kernel.calls:unshare",
    "labkit.kernel.calls:mount",
    "labkit.kernel.calls:mount_placed",
    "labkit.kernel.calls:unmount",
    "labkit.core.run:run",
)
#: The exit status of a process of :func:`apart` that was interrupted.
INTERRUPTED = 130
#: A stroke: what the point is called, and what is done of it before the process is cut off within it.
Stroke = Callable[[str, Callable[[], object] | None], None]


class Recorded:
    """Counts the points, and does nothing else."""

    def __init__(self) -> None:
        self.points: list[str] = []

    def __call__(self, point: str, part: Callable[[], object] | None = None) -> None:
        self.points.append(point)


class Cut:
    """Does something at one point, once: by default the process kills itself. One that goes on does nothing
    ``within`` it, for it then does the whole."""

    def __init__(
        self, number: int, act: Callable[[], object] | None = None, *, within: bool = True
    ) -> None:
        self.left = number
        self.within = within
        self.act = act or (lambda: os.kill(os.getpid(), signal.SIGKILL))
        self._counting = threading.Lock()
        self._striking = False

    def __call__(self, point: str, part: Callable[[], object] | None = None) -> None:
        if self._striking:
            return
        with self._counting:
            self.left -= 1
            self._striking = self.left == 0
        if self._striking:
            if part is not None and self.within:
                part()
            self.act()
            self.left = -1
            self._striking = False


def install(stroke: Stroke) -> None:
    """From now on ``stroke`` is called at each point of this process; there is no way back."""
    for name in AROUND:
        module, _, function = name.partition(":")
        _around(importlib.import_module(module), function, name.partition(".")[2], stroke)
    _around_journal(stroke)
    _around_netlink(stroke)
    _around_programs(stroke)
    sys.addaudithook(lambda event, given: _told(event, given, stroke))


def _around(owner: Any, name: str, called: str, stroke: Stroke) -> None:
    function = getattr(owner, name)

    def cut(*given: Any, **named: Any) -> Any:
        stroke(f"before {called}", None)
        done = function(*given, **named)
        stroke(f"after {called}", None)
        return done

    setattr(owner, name, cut)


def _around_journal(stroke: Stroke) -> None:
    from labkit.core.journal import Journal

    append = Journal._append

    def cut(self: Journal, entries: Any) -> None:
        lines = list(entries)
        if not lines:
            return
        said = f"journal: {', '.join(entry.kind or f'no {entry.unmade}' for entry in lines)}"

        def tear() -> None:
            text = "".join(json.dumps(entry.model_dump(exclude_defaults=True)) + "\n" for entry in lines)  # fmt: skip
            with self.path.open("a") as file:
                file.write(text[: len(text) * 2 // 3])

        stroke(f"before {said}", None)
        stroke(f"within {said}", tear)
        append(self, lines)
        stroke(f"after {said}", None)

    Journal._append = cut  # type: ignore[method-assign]


def _around_netlink(stroke: Stroke) -> None:
    from labkit.kernel.links import Netlink

    function = Netlink.try_all

    def cut(self: Netlink, requests: Sequence[Any]) -> Any:
        said = f"netlink: {len(requests)} requests"
        stroke(f"before {said}", None)
        if len(requests) > 1:
            stroke(f"within {said}", lambda: function(self, requests[: len(requests) // 2]))
        done = function(self, requests)
        stroke(f"after {said}", None)
        return done

    Netlink.try_all = cut  # type: ignore[method-assign]


def _around_programs(stroke: Stroke) -> None:
    start = subprocess.Popen.__init__

    def cut(self: Any, words: Any, *given: Any, **named: Any) -> None:
        start(self, words, *given, **named)
        stroke(f"started {' '.join(map(str, words))[:70]}", None)

    subprocess.Popen.__init__ = cut  # type: ignore[method-assign]


def _told(event: str, given: tuple[Any, ...], stroke: Stroke) -> None:
    if event in TOLD:
        stroke(f"{event} {given[0]!s:.90}", None)
    elif event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR):
        stroke(f"write {given[0]!s:.90}", None)


@dataclass(frozen=True)
class Ended:
    """How a process of its own ended: its status (negative: the signal), and what it returned or raised."""

    status: int
    said: Any


def apart(action: Callable[[], Any]) -> Ended:
    """Calls a function in a process of its own (fork(2)), which has this one's modules and nothing else."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        os.close(reading)
        os._exit(_child(action, writing))
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ended(status, json.loads(text) if text else None)


def _child(action: Callable[[], Any], writing: int) -> int:
    os.set_inheritable(writing, False)
    try:
        said, status = action(), 0
    except KeyboardInterrupt:
        said, status = "", INTERRUPTED
    except BaseException as error:
        said, status = f"{error!s}\n{''.join(traceback.format_exception(error))[-1500:]}", 1
    with os.fdopen(writing, "w") as file:
        file.write(json.dumps(said))
    return status
