"""The remarks of the report's page as values: what each says, and what became of it. Pure.

A remark (:mod:`labkit.wiki.remarks.threads`) has an identifier that stays the same however often the report is
published: the hash of its first line and of the revision that brought it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.records import Record
from labkit.wiki.merge import altered
from labkit.wiki.merge.altered import Altered, Step
from labkit.wiki.remarks.threads import State, Thread
from labkit.wiki.render import wikitext


class Addressed(Record):
    """A stage's result that addresses a remark: the notebook's cell, the run, what it says, and
    whether its checks hold."""

    stage: str
    cell: int
    run: str
    summary: str
    holds: bool
    started: datetime


class Remark(Record):
    """A remark with its author and date, ``asked`` being the date of its newest ``REX>`` line; unknown
    ('' and None) where the wiki's owners have hidden the revision.

    ``run`` is the run of the block when the remark was made, ``now`` that of the block as it is.
    ``state`` counts the results that address it, which ``thread.state`` does not. ``claims`` are by those who
    called it settled and may not; of a remark that its author made of somebody else's, ``owner`` is who
    wrote it first.
    """

    thread: Thread
    author: str
    written: datetime | None
    stale: bool
    id: str = ""
    asked: datetime | None = None
    run: str = ""
    now: str = ""
    state: State = "open"
    addressed: tuple[Addressed, ...] = ()
    claims: tuple[Step, ...] = ()
    owner: str = ""

    @property
    def told(self) -> str:
        """Its state in words, with the claims that do not count."""
        users = dict.fromkeys(step.user or "unknown" for step in self.claims)
        return "; ".join([self.state, *(f"settled by {user} (not the asker)" for user in users)])

    @property
    def signed(self) -> str:
        """Its author in words."""
        rewritten = self.owner and self.owner != self.author
        return f"{self.author}, rewriting {self.owner}'s" if rewritten else self.author

    @property
    def since(self) -> str:
        """What became of its block since it was made."""
        if not self.stale:
            return "unchanged"
        was, now = self.run or "an unnamed run", self.now or "an unnamed run"
        return f"was made on run {was}, block now of run {now}".replace("run an", "an")


class Vanished(Record):
    """A line of a remark that somebody else than its ``author`` took away or rewrote (``by``, with the line that
    they made of it)."""

    line: str
    author: str
    written: datetime | None
    block: str
    section: str
    by: Step

    @property
    def became(self) -> str:
        """What was done to it."""
        if self.by.line == self.line:
            return "moved to another remark"
        return "rewritten" if self.by.line else "deleted"


class Remarks(Record):
    """The remarks of the report's page, in the page's order; ``revision`` is the page's last (0: there
    is no page). ``vanished`` are those that others than their writers took away, ``altered`` the lines of
    labkit's that people have changed."""

    page: str
    url: str
    remarks: tuple[Remark, ...]
    revision: int = 0
    vanished: tuple[Vanished, ...] = ()
    altered: tuple[Altered, ...] = ()

    def of(self, state: State) -> tuple[Remark, ...]:
        """Those in one state."""
        return tuple(remark for remark in self.remarks if remark.state == state)


def identifier(line: str, revision: int, copy: int) -> str:
    """A remark's identifier: 8 hexadecimal digits. ``copy`` counts equal lines of one revision. Pure."""
    return hashlib.sha256(f"{revision} {copy} {line}".encode()).hexdigest()[:8]


def addressed(found: Remarks, given: Sequence[tuple[str, Addressed]]) -> Remarks:
    """The remarks with the results that address them, by the remarks' identifiers. Pure.

    An open remark is answered by a result whose checks hold and that is younger than the remark's
    newest ``REX>`` line: to ask again needs a new answer.
    """

    def one(remark: Remark) -> Remark:
        own = tuple(item for identity, item in given if identity == remark.id)
        asked = remark.asked
        answers = any(item.holds and (not asked or item.started > asked) for item in own)
        state: State = (
            "answered" if remark.thread.state == "open" and answers else remark.thread.state
        )
        return remark.model_copy(update={"addressed": own, "state": state})

    return found.model_copy(update={"remarks": tuple(one(remark) for remark in found.remarks)})


def table(found: Remarks) -> Table:
    """The remarks as a table."""
    rows = [_row(remark) for remark in found.remarks]
    columns = ("id", "state", "where", "remark", "answer", "author", "written (UTC)", "since then")
    return Table.of("remarks", "Remarks on the page", rows, columns=columns)


def sentence(found: Remarks) -> str:
    """How many there are, and in which states."""
    if not found.revision:
        return f"The wiki has no page {found.page} yet: nothing was published there."
    counts = Counter(remark.state for remark in found.remarks)
    said = ", ".join(f"{counts[state]} {state}" for state in ("open", "answered", "settled"))
    total = f"{counted(len(found.remarks), 'remark')} on the page {found.page}{f': {said}' if found.remarks else ''}."
    changed = altered.sentence(found.altered)
    return f"{total}{gone(found.vanished)}{f' {changed}' if changed else ''}"


def gone(found: Sequence[Vanished]) -> str:
    """How many remarks' lines others than their writers took away, to go on with; '' for none."""
    said = f" {counted(len(found), 'line')} of remarks deleted or rewritten by others than the writers."
    return said if found else ""


def tables(found: Remarks) -> tuple[Table, ...]:
    """The tables that have rows: the remarks, what became of others' remarks, labkit's changed lines."""
    every = (table(found), vanished(found.vanished), altered.table(found.altered))
    return tuple(one for one in every if one.rows)


def vanished(gone: Sequence[Vanished]) -> Table:
    """The remarks that others than their writers took away or rewrote, as a table."""
    rows: list[dict[str, Cell]] = [
        {
            "where": item.block or item.section or "the page's beginning",
            "remark": wikitext.plain(item.line),
            "author": item.author or "unknown",
            "written (UTC)": f"{item.written:%Y-%m-%d %H:%M}" if item.written else None,
            "what": item.became,
            "by": item.by.user or "unknown",
            "on (UTC)": f"{item.by.time:%Y-%m-%d %H:%M}" if item.by.time else None,
            "now": wikitext.plain(item.by.line) or None,
        }
        for item in gone
    ]
    columns = ("where", "remark", "author", "written (UTC)", "what", "by", "on (UTC)", "now")
    title = "Remarks that others than their writers deleted or rewrote"
    return Table.of("vanished", title, rows, columns=columns)


def answers(remark: Remark) -> str:
    """All answers to a remark, on the page and by results, a line each."""
    lines = [wikitext.plain(line) for line in remark.thread.answer.split("\n") if line]
    return "\n".join([*lines, *(f"{item.stage}: {item.summary}" for item in remark.addressed)])


def _row(remark: Remark) -> dict[str, Cell]:
    thread = remark.thread
    return {
        "id": remark.id,
        "state": remark.told,
        "where": thread.block or thread.section or "the page's beginning",
        "remark": wikitext.plain(thread.text),
        "answer": answers(remark) or None,
        "author": remark.signed,
        "written (UTC)": f"{remark.written:%Y-%m-%d %H:%M}" if remark.written else None,
        "since then": remark.since,
    }
