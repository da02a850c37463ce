"""People's lines of one page, followed through its history: which the bot took away. Pure.

What is a person's is told as publishing tells it: all outside of blocks, and in a block what differs
from what labkit wrote there (its fence has the hash of that). A ``REX>`` line is always a person's. On
a page whose fences are damaged, and in a block whose pristine text nobody knows any more, the lines
are a person's that a person's revision brought.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from labkit.errors import WikiError
from labkit.records import Record
from labkit.wiki.client.api import Revision
from labkit.wiki.merge import comments, fences, three_way, weave
from labkit.wiki.merge.fences import Block, Document
from labkit.wiki.merge.weave import Pristine
from labkit.wiki.remarks import threads


class Loss(Record):
    """A line of a person's (``author``, who wrote it first) that the bot took away, ``times`` over, in
    ``revision``."""

    page: str
    line: str
    author: str
    revision: int
    time: datetime | None
    times: int = 1


class Ledger:
    """The lines of one page as its revisions came, the oldest first.

    :param pristine: what labkit wrote, where the history itself does not show it.
    """

    def __init__(self, page: str, bot: str, pristine: Pristine) -> None:
        self.page, self.bot = page, bot
        self.revisions = self.saved = self.hidden = 0
        self._pristine = pristine
        self._written: dict[tuple[str, str], Block] = {}
        self._brought: dict[str, str] = {}
        self._losses: list[Loss] = []
        self._before: tuple[str, Document | None] | None = None
        self._lines = Counter[str]()

    @property
    def lost(self) -> tuple[Loss, ...]:
        """What the bot took away and what has not come back since."""
        return tuple(self._losses)

    def add(self, revision: Revision) -> None:
        """The next revision. One whose text is hidden is counted; what it changed cannot be told."""
        self.revisions += 1
        self.saved += revision.user == self.bot
        self.hidden += revision.hidden
        if revision.hidden:
            self._before = None
            return
        document = _parsed(revision.text)
        lines = weave.present(document) if document else bare(revision.text)
        self._come_back(lines - self._lines)
        if revision.user == self.bot and self._before is not None:
            gone = self._people(*self._before) - lines
            self._losses += [self._loss(revision, line, times) for line, times in gone.items()]
        for line in lines:
            self._brought.setdefault(line, revision.user)
        self._learn(document)
        self._before, self._lines = (revision.text, document), lines

    def _come_back(self, more: Counter[str]) -> None:
        """Takes lines that the page has again out of the losses."""
        left = []
        for loss in self._losses:
            back = min(more[loss.line], loss.times)
            more[loss.line] -= back
            if loss.times > back:
                left.append(loss.model_copy(update={"times": loss.times - back}))
        self._losses = left

    def _loss(self, revision: Revision, line: str, times: int) -> Loss:
        return Loss(
            page=self.page, line=line, author=self._brought.get(line, ""), times=times,
            revision=revision.number, time=revision.time,
        )  # fmt: skip

    def _learn(self, document: Document | None) -> None:
        """Keeps the blocks that stand on the page as labkit wrote them."""
        for found in document.blocks if document else ():
            if not found.touched:
                self._written[found.block.name, found.digest] = found.block

    def _people(self, text: str, document: Document | None) -> Counter[str]:
        """The lines of people's of a revision's text."""
        if document is None:
            return self._theirs(bare(text).elements())
        known = self._known(document)
        remarks = three_way.count([line.text for line in threads.marked(text)])
        return weave.persons(document, known, ()) | (remarks & weave.present(document))

    def _known(self, document: Document) -> Pristine:
        """What labkit wrote in the blocks of that page; a guess where nobody knows."""

        def block(name: str, digest: str) -> Block | None:
            written = self._written.get((name, digest)) or self._pristine(name, digest)
            found = document.find(name)
            if written is None and found is not None:
                theirs = self._theirs(found.block.lines)
                rest = [line for line in found.block.lines if not theirs[three_way.key(line)]]
                return Block(name=name, heading="", body="\n".join(rest))
            return written

        return block

    def _theirs(self, lines: Iterable[str]) -> Counter[str]:
        """Those of the lines that a person's revision brought."""
        return Counter(
            {
                line: times
                for line, times in three_way.count(list(lines)).items()
                if self._brought.get(line) != self.bot
            }
        )


def bare(text: str) -> Counter[str]:
    """The lines of a page without labkit's comments, whatever those are like."""
    return three_way.count(comments.without(text, comments.read(text, ())).split("\n"))


def _parsed(text: str) -> Document | None:
    try:
        return fences.parse(text, "")
    except WikiError:
        return None
