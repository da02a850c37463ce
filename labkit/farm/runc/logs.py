"""The logs that a container's server writes into a folder of the host: bounded by the kernel, read and emptied here.

The server appends to plain files, and the kernel writes none of them beyond the container's limit
(``RLIMIT_FSIZE``, :class:`labkit.farm.runc.bundle.Spec`); what is sent then is still answered. A program that
rotates them would be two more processes in each container. The folder is the container's own: what stands there
under a log's name may be anything, and only a plain file is a log.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from labkit.farm.runc.places import folder
from labkit.lab import Lab

Kind = Literal["access", "error"]
#: The size from which on a log is emptied before more is to be written: a measurement's 100,000 lines of
#: some 250 bytes have room in what is left of the limit.
FULL = 32 * 2**20


def place(lab: Lab, name: str, kind: Kind) -> Path:
    """Where the host reads a container's log."""
    return folder(lab, name) / "log" / f"{kind}.log"


def lines(path: Path, trace: str = "") -> Iterator[str]:
    """The whole lines of a log that contain ``trace``; of a line that is being written, nothing."""
    with (
        suppress(OSError),
        os.fdopen(_opened(path, os.O_RDONLY), encoding="utf-8", errors="replace") as file,
    ):
        yield from (line for line in file if trace in line and line.endswith("\n"))


def end(path: Path, characters: int = 600) -> str:
    """The end of a log, '' when there is none."""
    with suppress(OSError), os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4 * characters))
        return file.read().decode(errors="replace").strip()[-characters:]
    return ""


def make_room(lab: Lab, name: str) -> None:
    """The container's logs that are fuller than :data:`FULL` are empty; their server goes on at their beginning."""
    for kind in ("access", "error"):
        with suppress(OSError):
            descriptor = _opened(place(lab, name, kind), os.O_WRONLY)
            try:
                if os.fstat(descriptor).st_size > FULL:
                    os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)


def _opened(path: Path, flags: int) -> int:
    """A descriptor of a plain file; :class:`OSError` for anything else, which is not waited for either."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path)
    return descriptor
