"""The remarks of a page's text: where each stands, what it says, what was answered. Pure.

A remark is a line, or a run of lines, that begins with ``REX>``, anywhere on the page. What stands
directly under it, without an empty line between, belongs to it:

- a line that begins with ``:`` answers it (a wiki's own form for a reply);
- a line ``REX> settled`` settles it; after a full stop or a comma it may go on;
- any other ``REX>`` line goes on with it.

So a remark is *settled* when its last ``REX>`` line says so, *answered* when an answer follows that
line, and *open* otherwise. A signature (``~~~~``) may end each line.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from labkit.errors import WikiError
from labkit.result import Record
from labkit.wiki.merging import fences

State = Literal["open", "answered", "settled"]
#: The block that lists the remarks: a remark under it is about no block, for every remark changes it.
LIST = "remarks"
_REMARK = re.compile(r"[\s:*#|]*REX>\s*(.*)")
_ANSWER = re.compile(r":[:*#\s]*(.*)")
_SETTLED = re.compile(r"settled\s*(?:$|[.,;:!(\[–—-])", re.IGNORECASE)
_HEADING = re.compile(r"(={1,6})\s*(.*?)\s*\1\s*")
_COMMENT = re.compile(r"<!--\s*labkit:.*?-->")
#: A link to a page, or to elsewhere, of which the words are seen.
_LINK = re.compile(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]|\[(?:[a-z]+:)?//\S+ ([^\]]+)\]")
#: What ``~~~~`` becomes, in any of MediaWiki's languages: a link to the writer, year and time zone.
_SIGNATURE = re.compile(
    r"\s*(?:--|—)?\s*\[\[[^\[\]|]+[:/][^\[\]]*\]\](?: \(\[\[[^\[\]]*\]\]\))?"
    r"[^\[\]]*\b\d{4}\b[^\[\]]*\([A-Z]{2,5}\)\s*$"
)


class Line(NamedTuple):
    """A line of a page: its number (from 1), its text without labkit's comments, the block in which
    or after which it stands ('' before all of them and in people's own sections), the heading above."""

    number: int
    text: str
    block: str
    section: str


class Thread(Record):
    """A remark as it stands on the page: ``line`` is its first line's text, from 1 its ``number``.

    ``block`` and ``section`` are where it stands, as of a :class:`Line`; ``first`` and ``last`` the
    numbers of its first and last line; ``answer`` has a line for each answer.
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


def parse(text: str) -> tuple[Thread, ...]:
    """The remarks of a page's text; where its fences are damaged, no remark has a block."""
    if "REX>" not in text:
        return ()
    found: list[Thread] = []
    current: list[Line] = []
    for line in lines(text):
        if _REMARK.fullmatch(line.text) or (current and _ANSWER.fullmatch(line.text)):
            current.append(line)
        elif current:
            found.append(_thread(current, len(found) + 1))
            current = []
    return (*found, _thread(current, len(found) + 1)) if current else tuple(found)


def marked(text: str) -> tuple[Line, ...]:
    """All lines of a page that begin with ``REX>``."""
    if "REX>" not in text:
        return ()
    return tuple(line for line in lines(text) if _REMARK.fullmatch(line.text))


def lines(text: str) -> Iterator[Line]:
    """The page's lines with their places."""
    spans = list(reversed(_spans(text)))
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
            section = _unmarked(heading[2])
            block = "" if len(heading[1]) <= 2 else block
        block = inside or block
        yield Line(number, line.rstrip(), "" if block == LIST else block, section)
        start += len(raw) + 1


def plain(text: str) -> str:
    """A remark's or an answer's words as a reader sees them: references, line breaks, emphasis and links
    resolved."""
    return _unmarked(_LINK.sub(r"\1\2", re.sub(r"<br ?/?>", " ", text)))


def _spans(text: str) -> tuple[tuple[int, int, str], ...]:
    try:
        found = fences.parse(text, "").blocks
    except WikiError:
        return ()
    return tuple((item.start, item.end, item.block.name) for item in found)


def _thread(lines: Sequence[Line], number: int) -> Thread:
    texts, answers = [], []
    state: State = "open"
    for line in lines:
        remark = _REMARK.fullmatch(line.text)
        if remark and _SETTLED.match(remark[1]):
            state = "settled"
        elif remark:
            texts.append(_unsigned(remark[1]))
            state = "open"
        elif answer := _ANSWER.fullmatch(line.text):
            answers.append(_unsigned(answer[1]))
            state = "settled" if state == "settled" else "answered"
    first, last = lines[0], lines[-1]
    return Thread(
        number=number, line=first.text, block=first.block, section=first.section,
        text="\n".join(texts), answer="\n".join(answers), state=state,
        first=first.number, last=last.number,
    )  # fmt: skip


def _unsigned(text: str) -> str:
    return _SIGNATURE.sub("", text).strip()


def _unmarked(heading: str) -> str:
    """A heading's text without its marks, and with its references as characters."""
    return html.unescape(re.sub(r"'{2,}|</?[a-z]+(?: [^<>]*)?/?>", "", heading)).strip()
