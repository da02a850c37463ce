"""What a reader sees of a block, and of which run it is. Pure.

Two runs of a stage never give the same characters: moments, run ids, measured times and rates, the
small print below a result and the commands differ. A remark is about none of these, so they do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_OF_RUN = re.compile(r"· run ([A-Za-z0-9._-]{1,80})\)?</small>")
_RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")
_SMALL = re.compile(r"<small>.*?</small>")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(?:Z| ?UTC)?")
#: A measured time or rate, and the unit of a column that holds such.
_TIME = r"(?:s|ms|µs|min|[A-Za-z]{0,12}/s)"
_MEASURED = re.compile(rf"(?<![\w.,])\d[\d,.]*(?: ?k)? ?{_TIME}(?![\w/])")
_COLUMN = re.compile(rf".*(?:\({_TIME}\)|\w/s)\s*")
#: A command of a result's, with its exit status and duration.
_COMMAND = re.compile(r".*  # -?\d+, [\d.,]+ s")


def run_of(lines: Iterable[str]) -> str:
    """The first run that a block's small print names at its end, '' when it names none."""
    return next((match[1] for line in lines if (match := _OF_RUN.search(line))), "")


def seen(lines: Iterable[str]) -> tuple[str, ...]:
    """The lines without what differs from run to run by itself; lines that had nothing else are gone."""
    kept = (_without(line) for line in _untimed(lines) if not _COMMAND.fullmatch(line))
    return tuple(line for line in kept if line)


def _without(line: str) -> str:
    for pattern in (_SMALL, _MOMENT, _RUN, _MEASURED):
        line = pattern.sub("", line)
    return line.strip()


def _untimed(lines: Iterable[str]) -> Iterator[str]:
    """The lines; those of tables (one a row) without the cells of columns that hold times or rates."""
    timed: set[int] = set()
    for line in lines:
        if line.startswith(("{|", "|}")):
            timed = set()
        elif line.startswith("!"):
            heads = line.removeprefix("!").split("!!")
            timed = {place for place, head in enumerate(heads) if _COLUMN.fullmatch(head)}
        elif timed and line.startswith("| "):
            cells = enumerate(line.split(" || "))
            yield " || ".join(cell for place, cell in cells if place not in timed)
            continue
        yield line
