"""The remarks of a page's text: where each stands, what it says, what was answered. Pure.

A remark is a line, or a run of lines, that begins with ``REX>``, anywhere on the page. What stands
directly under it, without an empty line between, belongs to it:

- a line that begins with ``:`` answers it (a wiki's own form for a reply);
- a line ``REX> settled`` settles it; after a full stop or a comma it may go on;
- any other ``REX>`` line goes on with it.

So a remark is *settled* when its last ``REX>`` line says so (and comes from somebody who may), *answered* when an answer follows that
line, and *open* otherwise. A signature (``~~~~``) may end each line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from labkit.records import Record
from labkit.wiki.merge import fences
from labkit.wiki.render import wikitext

#: Whether a line (its number) settles what the lines before it ask (their numbers).
Counts = Callable[[int, Sequence[int]], bool]
State = Literal["open", "answered", "settled"]
#: The block that lists the remarks: a remark under it is about no block, for every remark changes it.
LIST = "remarks"
_REMARK = re.compile(r"[\s:*#|]*REX>\s*(.*)")
_ANSWER = re.compile(r":[:*#\s]*(.*)")
_SETTLED = re.compile(r"settled\s*(?:$|[.,;:!(\[–—-])", re.IGNORECASE)
_HEADING = re.compile(r"(={1,6})\s*(.*?)\s*\1\s*")
_COMMENT = re.compile(r"<!--\s*labkit:.*?-->")
#: What ``~~~~`` becomes, in any of MediaWiki's languages: a link to the writer, year and time zone.
_SIGNATURE = re.compile(
    r"\s*(?:--|—)?\s*\[\[[^\[\]|]+[:/][^\[\]]*\]\](?: \(\[\[[^\[\]]*\]\]\))?"
    r"[^\[\]]*\b\d{4}\b[^\[\]]*\([A-Z]{2,5}\)\s*$"
)
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


class Line(NamedTuple):
    """A line of a page: its number (from 1), its text without labkit's comments, the block in which
    or after which it stands ('' before all of them and in people's own sections), the heading above;
    of one that :func:`marked` gives, the first line of the remark that it is ``under``."""

    number: int
    text: str
    block: str
    section: str
    under: str = ""


class Thread(Record):
    """A remark as it stands on the page: ``line`` is its first line's text, from 1 its ``number``.

    ``block`` and ``section`` are where it stands, as of a :class:`Line`; ``first`` and ``last`` the
    numbers of its first and last line; ``answer`` has a line for each answer. ``ignored`` are the numbers of
    the lines that would settle it and do not count.
    """

    number: int
    line: str
    block: str
    section: str
    text: str
    answer: str
    state: State
    first: int = 0
    last: int = 0
    ignored: tuple[int, ...] = ()


def parse(text: str, counts: Counts = lambda line, asking: True) -> tuple[Thread, ...]:
    """The remarks of a page's text; where its fences are damaged, no remark has a block.

    :param counts: whether a line settles the remark; all do where the writers are unknown.
    """
    return tuple(_thread(found, n, counts) for n, found in enumerate(_runs(text), 1))


def marked(text: str) -> tuple[Line, ...]:
    """All lines of a page that begin with ``REX>``."""
    return tuple(
        line._replace(under=found[0].text)
        for found in _runs(text)
        for line in found
        if _REMARK.fullmatch(line.text)
    )


def settles(line: str) -> bool:
    """Whether a line says that a remark is settled."""
    remark = _REMARK.fullmatch(line)
    return remark is not None and _SETTLED.match(remark[1]) is not None


def _runs(text: str) -> Iterator[list[Line]]:
    """The lines of each remark, with its answers."""
    current: list[Line] = []
    for line in lines(text) if "REX>" in text else ():
        if _REMARK.fullmatch(line.text) or (current and _ANSWER.fullmatch(line.text)):
            current.append(line)
        elif current:
            yield current
            current = []
    if current:
        yield current


def lines(text: str) -> Iterator[Line]:
    """The page's lines with their places."""
    spans = [(item.start, item.end, item.block.name) for item in reversed(fences.blocks(text))]
    block = section = ""
    start = 0
    for number, raw in enumerate(text.split("\n"), 1):
        at = start + max(raw.find("REX>"), 0)
        while spans and spans[-1][1] <= at:
            spans.pop()
        inside = spans[-1][2] if spans and spans[-1][0] <= at else ""
        line = _COMMENT.sub("", raw) if "<!--" in raw else raw
        heading = _HEADING.fullmatch(line.rstrip()) if line.startswith("=") else None
        if heading:
            section = wikitext.unmarked(heading[2])
            block = "" if len(heading[1]) <= 2 else block
        block = inside or block
        yield Line(number, line.rstrip(), "" if block == LIST else block, section)
        start += len(raw) + 1


def _thread(lines: Sequence[Line], number: int, counts: Counts) -> Thread:
    texts, answers = [], []
    asking: list[int] = []
    ignored: list[int] = []
    state: State = "open"
    for line in lines:
        remark = _REMARK.fullmatch(line.text)
        if settles(line.text):
            if counts(line.number, asking):
                state, ignored = "settled", []
            else:
                ignored.append(line.number)
        elif remark:
            texts.append(_unsigned(remark[1]))
            asking.append(line.number)
            state = "open"
        elif answer := _ANSWER.fullmatch(line.text):
            answers.append(_unsigned(answer[1]))
            state = "settled" if state == "settled" else "answered"
    first, last = lines[0], lines[-1]
    return Thread(
        number=number, line=first.text, block=first.block, section=first.section,
        text="\n".join(texts), answer="\n".join(answers), state=state,
        first=first.number, last=last.number, ignored=tuple(ignored),
    )  # fmt: skip


def _unsigned(text: str) -> str:
    return _SIGNATURE.sub("", text).strip()


def run_of(lines: Iterable[str]) -> str:
    """The first run that a block's small print names at its end, '' when it names none."""
    return next((match[1] for line in lines if (match := _OF_RUN.search(line))), "")


def seen_lines(lines: Iterable[str]) -> tuple[str, ...]:
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
