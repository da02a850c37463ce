"""The logs that a container's server writes into a folder of the host: bounded, read and emptied here.

The server appends to plain files in a file system of a size of its own (:mod:`labkit.farm.containers.quota`); when that
is full, requests are still answered. A program that rotates the logs would be two more processes in each container.
The folder is the container's own: what stands there under a log's name may be anything, and only a plain file is
a log.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

from labkit import reading
from labkit.farm.containers.places import written
from labkit.model.lab import Lab

Kind = Literal["access", "error"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def place(lab: Lab, name: str, kind: Kind) -> Path:
    """Where the host reads a container's log."""
    return written(lab, name) / "log" / f"{kind}.log"


def lines(path: Path, trace: str = "") -> Iterator[str]:
    """The whole lines of a log that contain ``trace``; of a line that is being written, nothing."""
    with suppress(OSError), os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
        yield from reading.lines(file, trace)


def end(path: Path, characters: int = 600) -> str:
    """The end of a log, '' when there is none; without characters that a terminal takes for orders."""
    with suppress(OSError), os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4 * characters))
        text = file.read(4 * characters).decode(errors="replace").strip()[-characters:]
        return "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in text)
    return ""


@contextmanager
def held(lab: Lab, name: str) -> Iterator[dict[Kind, int]]:
    """Descriptors of a container's logs, of those that there are, while the block runs."""
    found: dict[Kind, int] = {}
    with ExitStack() as opened:
        for kind in KINDS:
            with suppress(OSError):
                found[kind] = _opened(place(lab, name, kind), os.O_RDWR)
                opened.callback(os.close, found[kind])
        yield found


def make_room(lab: Lab, name: str) -> None:
    """The container's logs are empty, if they took more than the half of what it may write; their server goes on
    at their beginning. The other half has room for a measurement's 100,000 lines of some 250 bytes."""
    with held(lab, name) as found:
        sizes = [os.fstat(descriptor).st_size for descriptor in found.values()]
        if 2 * sum(sizes) > lab.containers.written_mib * 2**20:
            for descriptor in found.values():
                os.ftruncate(descriptor, 0)


def _opened(path: Path, flags: int) -> int:
    """A descriptor of a plain file; :class:`OSError` for anything else, which is not waited for either."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path)
    return descriptor
