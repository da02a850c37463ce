"""Access logs of the host's servers: bounded by Apache's rotatelogs, and read whole.

rotatelogs(8) with ``-n`` writes ``access.log`` until it is full, then ``access.log.1`` and so on,
and then over ``access.log`` again. What is kept is more than the longest measurement writes, so
that all its requests are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from labkit import reading

#: Debian's package apache2-utils.
PROGRAM = "/usr/bin/rotatelogs"
#: The parts of a log, and the size of each: 100,000 lines of a measurement fit into four.
PARTS, SIZE = 5, "10M"
#: The size at which an error log begins anew.
ERRORS = "1M"


def rotated(path: str) -> str:
    """The quoted argument of Apache's ``CustomLog`` that writes the log in parts. Pure."""
    return f"\"|{PROGRAM} -n {PARTS} '{path}' {SIZE}\""


def cut(path: str) -> str:
    """The quoted argument of Apache's ``ErrorLog`` that empties the log when it is full. Pure."""
    return f"\"|{PROGRAM} -t '{path}' {ERRORS}\""


def parts(log: Path) -> list[Path]:
    """The files that there are of a log."""
    numbered = (log.with_name(f"{log.name}.{number}") for number in range(1, PARTS))
    return [path for path in (log, *numbered) if path.exists()]


def lines(log: Path, trace: str = "") -> Iterator[str]:
    """The whole lines of a log that contain ``trace``; of a line that is being written, nothing."""
    for path in parts(log):
        with path.open("rb") as file:
            yield from reading.lines(file, trace)


def count(trace: str, *logs: Path) -> str:
    """The command by which a person counts a measurement's lines."""
    return f"cat {' '.join(f'{log}*' for log in logs)} | grep --count {trace}"
