"""Audits the report's page: whether labkit has ever taken away a line that a person wrote.

Every revision of the page is read, and of every page that it was moved to. Where the bot saved, all
people's lines of the revision before must be there; what the wiki's own merge dropped in that edit
counts as taken away by the bot. A line that came back since, whoever brought it, is not gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path

from labkit.checks import Check
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client import session
from labkit.wiki.client.protocol import Revision, Wiki
from labkit.wiki.merge import fences, page_merge, repair, three_way
from labkit.wiki.merge.fences import Block, Document
from labkit.wiki.merge.page_merge import LastWrote
from labkit.wiki.publish import last_written
from labkit.wiki.remarks import listing, provenance, threads
from labkit.wiki.remarks.provenance import Provenance, Vanished

#: Pages that are followed from move to move, at most.
MOVES = 20


class Loss(Record):
    """A line of a person's (``author``, who wrote it first) that the bot took away, ``times`` over, in
    ``revision``."""

    page: str
    line: str
    author: str
    revision: int
    time: datetime | None
    times: int = 1


class LineHistory:
    """The lines of one page as its revisions came, the oldest first; ``lost`` is what the bot took away and what
    has not come back since.

    :param last_wrote: what labkit wrote, where the history itself does not show it.
    """

    def __init__(self, page: str, bot: str, last_wrote: LastWrote) -> None:
        self.page, self.bot = page, bot
        self.revisions = self.saved = self.hidden = 0
        self._last_wrote = last_wrote
        self._written: dict[tuple[str, str], Block] = {}
        self._brought: dict[str, str] = {}
        self.lost: list[Loss] = []
        self._before: tuple[str, Document | None] | None = None
        self._lines = Counter[str]()

    def add(self, revision: Revision) -> None:
        """The next revision. One whose text is hidden is counted; what it changed cannot be told."""
        self.revisions += 1
        self.saved += revision.user == self.bot
        self.hidden += revision.hidden
        if revision.hidden:
            self._before = None
            return
        document = fences.whole(revision.text)
        lines = page_merge.present(document) if document else repair.bare(revision.text)
        self._come_back(lines - self._lines)
        if revision.user == self.bot and self._before is not None:
            gone = self._people(*self._before) - lines
            self.lost += [
                Loss(page=self.page, line=line, author=self._brought.get(line, ""), times=times,
                     revision=revision.number, time=revision.time)
                for line, times in gone.items()
            ]  # fmt: skip
        for line in lines:
            self._brought.setdefault(line, revision.user)
        for found in document.blocks if document else ():
            if not found.touched:
                self._written[found.block.name, found.digest] = found.block
        self._before, self._lines = (revision.text, document), lines

    def _come_back(self, more: Counter[str]) -> None:
        """Takes lines that the page has again out of the losses."""
        left = []
        for loss in self.lost:
            back = min(more[loss.line], loss.times)
            more[loss.line] -= back
            if loss.times > back:
                left.append(loss.model_copy(update={"times": loss.times - back}))
        self.lost = left

    def _people(self, text: str, document: Document | None) -> Counter[str]:
        """The lines of people's of a revision's text."""
        if document is None:
            return self._theirs(repair.bare(text).elements())
        known = self._known(document)
        remarks = three_way.count([line.text for line in threads.marked(text)])
        return page_merge.persons(document, known, ()) | (remarks & page_merge.present(document))

    def _known(self, document: Document) -> LastWrote:
        """What labkit wrote in the blocks of that page; a guess where that is unknown."""

        def block(name: str, digest: str) -> Block | None:
            written = self._written.get((name, digest)) or self._last_wrote(name, digest)
            found = document.find(name)
            if written is None and found is not None:
                theirs = self._theirs(found.block.lines)
                rest = [line for line in found.block.lines if not theirs[three_way.key(line)]]
                return Block(name=name, heading="", body="\n".join(rest))
            return written

        return block

    def _theirs(self, lines: Iterable[str]) -> Counter[str]:
        """Those of the lines that a person's revision brought."""
        every = three_way.count(list(lines)).items()
        return Counter({line: n for line, n in every if self._brought.get(line) != self.bot})


class Audit(Record):
    """What an audit looked at (``saved``: revisions by the ``bot``; ``hidden``: those that the wiki's
    owners have hidden), and what it found: lines that the bot took away, and remarks that others than their
    writers deleted or rewrote (``vanished``)."""

    pages: tuple[str, ...]
    bot: str
    revisions: int
    saved: int
    hidden: int
    lost: tuple[Loss, ...]
    vanished: tuple[Vanished, ...] = ()


@action("remarks.audit")
def audit(lab: Lab) -> Outcome[Audit]:
    """Whether every line that a person ever wrote on the report's page is there, or was removed by a
    person; the wiki is asked and not changed. Raises :class:`WikiError` when it does not answer."""
    with closing(session.open(lab)) as wiki:
        found = walk(wiki, lab.wiki.page, folder=listing.folder(lab))
        address = wiki.url(found.pages[0])
    gone = sum(loss.times for loss in found.lost)
    hidden = f" ({found.hidden} hidden)" if found.hidden else ""
    where = (
        f"in {counted(found.revisions, 'revision')}{hidden}, {found.saved} of them by {found.bot}"
    )
    check = Check(
        name="remarks.audit", expected="no line of a person's taken away by labkit",
        seen=f"{gone or 'none'} taken away {where}", holds=not gone,
        again=f"{address}?action=history",
    )  # fmt: skip
    return Outcome(
        value=found,
        subject=address,
        summary=f"labkit has taken away {gone or 'none'} of the lines that people wrote on "
        f"{', '.join(found.pages)}, {where}.{listing.gone(found.vanished)}",
        checks=(check,),
        tables=tuple(t for t in (table(found), listing.vanished(found.vanished)) if t.rows),
    )


def walk(wiki: Wiki, page: str, *, folder: Path) -> Audit:
    """The audit of a page and of all pages that it was moved to, by a session of the bot's."""
    written = last_written.EverWritten(wiki, page, folder / "pristine")
    bot, histories = wiki.account, {}
    gone: list[Vanished] = []
    for title in titles(wiki, page):
        histories[title], origins = LineHistory(title, bot, written.find), Provenance(bot=bot)
        for revision in wiki.history(title, limit=last_written.EVERY, oldest=True):
            histories[title].add(revision)
            origins = provenance.advance(origins, revision, written.find)
        gone += origins.vanished
    every = histories.values()
    return Audit(
        pages=tuple(histories), bot=bot, vanished=tuple(gone),
        revisions=sum(one.revisions for one in every), saved=sum(one.saved for one in every),
        hidden=sum(one.hidden for one in every),
        lost=tuple(loss for one in every for loss in one.lost),
    )  # fmt: skip


def titles(wiki: Wiki, page: str) -> tuple[str, ...]:
    """Where the page is now, then all pages that ever stood at one of its names and were moved on: a
    page takes its history along, and another may have been made in its place since."""
    found = list(dict.fromkeys([wiki.read(page).title, page]))
    for title in found:  # grows meanwhile
        more = wiki.moves(title) if len(found) < MOVES else ()
        found += [name for name in dict.fromkeys(more) if name not in found]
    return tuple(found)


def table(found: Audit) -> Table:
    """The lines that the bot took away."""
    rows: list[dict[str, Cell]] = [
        {
            "line": loss.line,
            "written by": loss.author,
            "taken away in revision": str(loss.revision),
            "on (UTC)": page_merge.moment(loss.time) or None,
            "times": loss.times,
            "page": loss.page,
        }
        for loss in found.lost
    ]
    return Table.of("lost", "Lines of people's that labkit took away", rows)
