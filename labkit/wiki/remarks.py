"""The remarks that people write in the report, and what became of each.

A remark is a line, or a run of lines, that begins with ``REX>``, anywhere on the report's page. What
stands directly under it, without an empty line between, belongs to it:

- a line that begins with ``:`` answers it (a wiki's own form for a reply);
- a line ``REX> settled`` settles it; after a full stop or a comma it may go on;
- any other ``REX>`` line goes on with it.

So a remark is *settled* when its last line says so, *answered* when its last line is an answer, and
*open* otherwise. A signature (``~~~~``) may end each line. Who wrote a remark, and when, is taken from
the page's history; it is *stale* when labkit has written its block anew since.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from labkit.errors import WikiError
from labkit.lab import Lab
from labkit.result import Outcome, Record, Table, action
from labkit.wiki import api, fences, publish, session
from labkit.wiki.api import Revision

if TYPE_CHECKING:
    import mwclient

State = Literal["open", "answered", "settled"]
#: Revisions that are looked through for the one that brought a remark.
HISTORY = 1000
_REMARK = re.compile(r"[\s:*#|]*REX>\s*(.*)")
_ANSWER = re.compile(r":[:*#\s]*(.*)")
_SETTLED = re.compile(r"settled\s*(?:$|[.,;:!(\[–—-])", re.IGNORECASE)
_HEADING = re.compile(r"(={1,6})\s*(.*?)\s*\1\s*(?:<!--.*)?")
_SIGNATURE = re.compile(
    r"\s*(?:--|—)?\s*\[\[(?:User|Special:Contributions)[:/][^\]]*\]\].*?\d{4} \([A-Z]+\)\s*$"
)


class Thread(Record):
    """A remark as it stands on the page: ``line`` is its first line's text, from 1 its ``number``.

    ``block`` is the block in which, or after which, it stands ('' before all of them and in people's
    own sections); ``section`` the heading above it.
    """

    number: int
    line: str
    block: str
    section: str
    text: str
    answer: str
    state: State


class Remark(Record):
    """A remark with its author and date; both are unknown ('' and None) when the history that was
    looked through does not reach back to it."""

    thread: Thread
    author: str
    written: datetime | None
    stale: bool


class Remarks(Record):
    """The remarks of the report's page, in the page's order."""

    page: str
    url: str
    remarks: tuple[Remark, ...]

    def of(self, state: State) -> tuple[Remark, ...]:
        """Those in one state."""
        return tuple(remark for remark in self.remarks if remark.thread.state == state)


@action("remarks.read")
def read(lab: Lab) -> Outcome[Remarks]:
    """The remarks of the report's page as it is now; the wiki is asked and not changed.

    Raises :class:`WikiError` when the wiki does not answer, or a fence of the page is damaged.
    """
    site = session.open(lab)
    try:
        found = collect(site, lab.wiki.page)
    finally:
        site.connection.close()
    counts = Counter(remark.thread.state for remark in found.remarks)
    said = ", ".join(f"{counts[state]} {state}" for state in ("open", "answered", "settled"))
    total = f"{len(found.remarks)} remark{'' if len(found.remarks) == 1 else 's'}"
    return Outcome(
        value=found,
        subject=found.url,
        summary=f"{total} on the page {found.page}{f': {said}' if found.remarks else ''}.",
        tables=(table(found),),
    )


def collect(site: mwclient.Site, page: str) -> Remarks:
    """The remarks of a page, with author and date from its history."""
    snapshot = api.read(site, page)
    text = snapshot.revision.text if snapshot.revision else ""
    threads = parse(text, snapshot.title)
    origins: list[Revision | None] = [None] * len(threads)
    if threads:
        history = api.history(site, snapshot.title, limit=HISTORY)
        origins = trace(history, [thread.line for thread in threads])
    return Remarks(
        page=snapshot.title,
        url=publish.url(site, snapshot.title),
        remarks=tuple(
            Remark(
                thread=thread,
                author=origin.user if origin else "",
                written=origin.time if origin else None,
                stale=bool(origin) and _digest(origin, thread.block) != _digest(snapshot.revision, thread.block),
            )
            for thread, origin in zip(threads, origins, strict=True)
        ),
    )  # fmt: skip


def parse(text: str, page: str) -> tuple[Thread, ...]:
    """The remarks of a page's text. Pure."""
    found: list[Thread] = []
    current: list[str] = []
    place = block, section = "", ""
    for line, inside in _lines(text, page):
        belongs = _REMARK.fullmatch(line) or (current and _ANSWER.fullmatch(line))
        if current and not belongs:
            found.append(_thread(current, place, len(found) + 1))
            current = []
        if heading := _HEADING.fullmatch(line.strip()):
            section = _plain(heading[2])
            block = inside if inside or len(heading[1]) <= 2 else block
        block = inside or block
        if belongs:
            place = place if current else (block, section)
            current.append(line)
    if current:
        found.append(_thread(current, place, len(found) + 1))
    return tuple(found)


def trace(history: Iterable[Revision], lines: Sequence[str]) -> list[Revision | None]:
    """For each line of the newest revision, the revision since which it has stood there. Pure.

    :param history: the revisions, the newest first; read no further than needed. A line that is in
        all of them came with the oldest.
    """
    ordinal = Counter[str]()
    wanted: list[tuple[str, int]] = []
    for line in lines:
        ordinal[line] += 1
        wanted.append((line, ordinal[line]))
    origins: list[Revision | None] = [None] * len(lines)
    pending = set(range(len(lines)))
    for revision in history:
        there = Counter(line.rstrip() for line in revision.text.split("\n"))
        pending = {n for n in pending if there[wanted[n][0].rstrip()] >= wanted[n][1]}
        for n in pending:
            origins[n] = revision
        if not pending:
            break
    return origins


def table(found: Remarks) -> Table:
    """The remarks as a table."""
    rows = [
        {
            "state": remark.thread.state,
            "where": remark.thread.block or remark.thread.section or "the page's beginning",
            "remark": remark.thread.text,
            "answer": remark.thread.answer or None,
            "author": remark.author,
            "written (UTC)": f"{remark.written:%Y-%m-%d %H:%M}" if remark.written else None,
            "since then": "the block has changed" if remark.stale else "unchanged",
        }
        for remark in found.remarks
    ]
    columns = ("state", "where", "remark", "answer", "author", "written (UTC)", "since then")
    return Table.of("remarks", "Remarks on the page", rows, columns=columns)


def _lines(text: str, page: str) -> Iterable[tuple[str, str]]:
    """The page's lines, each with the name of the block that it is in ('' outside of blocks)."""
    document = fences.parse(text, page)
    done = 0
    for found in document.blocks:
        yield from ((line, "") for line in text[done : found.start].split("\n"))
        yield from ((line, found.block.name) for line in found.block.lines)
        done = found.end
    yield from ((line, "") for line in text[done:].split("\n"))


def _thread(lines: Sequence[str], place: tuple[str, str], number: int) -> Thread:
    texts, answers = [], []
    state: State = "open"
    for line in lines:
        remark = _REMARK.fullmatch(line)
        if remark and _SETTLED.match(remark[1]):
            state = "settled"
        elif remark:
            texts.append(_SIGNATURE.sub("", remark[1]).strip())
            state = "open"
        elif answer := _ANSWER.fullmatch(line):
            answers.append(_SIGNATURE.sub("", answer[1]).strip())
            state = "answered"
    return Thread(
        number=number, line=lines[0], block=place[0], section=place[1],
        text="\n".join(texts), answer="\n".join(answers), state=state,
    )  # fmt: skip


def _plain(heading: str) -> str:
    """A heading's text without its marks."""
    return re.sub(r"'{2,}|</?[a-z]+ ?/?>", "", heading)


def _digest(revision: Revision | None, block: str) -> str:
    """The hash of what labkit had written in a block, '' where that cannot be told."""
    try:
        document = fences.parse(revision.text if revision else "", "the page")
    except WikiError:
        return ""
    found = document.find(block)
    return found.digest if found else ""
