"""The page editor: what publishing would do to a page, and a transaction that does it without losing a person's line.

That every line of a person's is kept is checked before the edit and on what the wiki saved.
"""

from __future__ import annotations

import random
import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from labkit.display import counted, quoted
from labkit.errors import WikiError
from labkit.model.config import unknown
from labkit.records import Record
from labkit.wiki.client.protocol import Saved, Snapshot, Upload, Wiki
from labkit.wiki.client.refusals import ConflictError, UnansweredError
from labkit.wiki.merge import fences, page_merge, repair
from labkit.wiki.merge.fences import Block, Document
from labkit.wiki.merge.page_merge import Altered, BlockChange, Difference
from labkit.wiki.merge.repair import Repaired
from labkit.wiki.publish.last_written import LastWritten

#: Gives the lines of labkit's that people had changed on a page that was read, and who did.
Changed = Callable[[Snapshot], Sequence[Altered]]
#: How often a page that others save meanwhile is read and written again, and the longest pause.
ATTEMPTS = 20
LONGEST_PAUSE = 2.0
#: Revisions that are looked through for an edit whose reply was lost.
HISTORY = 50
#: Connections over which pictures are sent to the lab's own wiki (SQLite has one writer at a time, and
#: more would only wait for each other); others' wikis want one request at a time (API: Etiquette).
CONNECTIONS = 2
#: What MediaWiki trims from a page's end (PHP's rtrim).
_TRIMMED = " \t\n\r\0\x0b"


class PagePlan(Record):
    """What publishing would do: the page's text as it would be, and what happens to each block.

    ``revision`` is the one that was read (None: there is no page yet); ``listed`` is the difference
    of the comment that lists the blocks; ``missing`` the pictures that the wiki does not have;
    ``people`` the number of people's lines on it now.
    """

    page: str
    revision: int | None
    text: str
    changes: tuple[BlockChange, ...]
    missing: tuple[str, ...]
    people: int
    edits: bool
    listed: str = ""

    @property
    def changed(self) -> bool:
        """Whether publishing would write anything."""
        return self.edits or bool(self.missing)

    @property
    def standing(self) -> int:
        """How many blocks are on the page."""
        return sum(change.state not in ("added", "deleted") for change in self.changes)

    @property
    def written(self) -> tuple[str, ...]:
        """The blocks that publishing would write."""
        return tuple(c.name for c in self.changes if c.state in ("added", "changed"))

    @property
    def left(self) -> tuple[str, ...]:
        """What publishing would write: blocks, pictures, or the list of blocks."""
        return (*self.written, *self.missing) or (("the list of blocks",) if self.edits else ())


class KeptLines(Record):
    """What became of people's lines when the page was saved: ``people`` of them stood in the revision
    ``base``, that many are ``there``, and ``put_back`` are those that the wiki's merge had dropped."""

    base: int = 0
    people: int = 0
    there: int = 0
    put_back: tuple[str, ...] = ()


@dataclass(frozen=True)
class PageEditor:
    """One publication's transaction on a page of a wiki.

    ``written`` knows what labkit wrote before; ``restore`` are blocks that a person deleted and that are wanted back;
    ``changed`` tells who changed labkit's lines on a page that was read. ``sent`` are the pictures that the wiki has
    taken, ``tried`` those that it may have (no reply came).
    """

    written: LastWritten
    blocks: tuple[Block, ...]
    uploads: tuple[Upload, ...] = ()
    restore: tuple[str, ...] = ()
    changed: Changed | None = None
    sent: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    @property
    def wiki(self) -> Wiki:
        """The session."""
        return self.written.wiki

    @property
    def title(self) -> str:
        """The page's title, after a redirect the target's."""
        return self.written.title

    def require_known(self) -> None:
        """Raises :class:`ConfigError`, with the nearest name, for what is neither a block nor the page."""
        names = {self.written.page, *(block.name for block in self.blocks)}
        for name in self.restore:
            if name not in names:
                raise unknown(name, names, "a block of the report, nor its page")

    def read(self) -> Snapshot:
        """The page as it is now, and which of the pictures the wiki has. One request."""
        return self.wiki.read(self.title, files=[item.name for item in self.uploads])

    def plan(self, snapshot: Snapshot) -> tuple[PagePlan, Document]:
        """What publishing would do with the page that was read, and the page. The wiki is only asked where
        labkit's own lines in it are not known on this machine."""
        written = self.written
        written.title = snapshot.title
        if snapshot.deleted and written.page not in self.restore:
            raise WikiError(
                snapshot.title,
                f"was deleted {snapshot.deleted}",
                f"`labkit publish --restore {shlex.quote(written.page)}` publishes it again; what people wrote there "
                "an administrator of the wiki can undelete",
                code="wiki.page-deleted",
            )
        text = snapshot.revision.text if snapshot.revision else ""
        page = fences.parse(text, snapshot.title)
        merged = page_merge.merged(
            page,
            self.blocks,
            last_wrote=written.find,
            restore=self.restore,
            known=written.names if page.names is None and page.blocks else (),
            credit=self._credit(snapshot) if self.changed else None,
        )
        new = merged.text.rstrip(_TRIMMED)
        planned = PagePlan(
            page=snapshot.title,
            revision=snapshot.revision.number if snapshot.revision else None,
            text=new,
            changes=merged.changes,
            missing=tuple(i.name for i in self.uploads if i.name not in snapshot.files),
            people=page_merge.persons(page, written.find, self.blocks).total(),
            edits=new != text,
            listed=merged.listed,
        )
        return planned, page

    def _credit(self, snapshot: Snapshot) -> page_merge.Credit:
        """Says who changed labkit's lines on the page that was read; its history is asked when one is."""

        def credit(block: str, found: Sequence[Difference]) -> tuple[Altered, ...]:
            changed = self.changed(snapshot) if self.changed else ()
            return page_merge.credited(block, [one for one in changed if one.block == block], found)

        return credit

    # -- pictures --------------------------------------------------------------------------------

    def require_sizes(self, planned: PagePlan) -> None:
        """Raises :class:`WikiError` when the page or a picture is larger than the wiki says that it takes."""
        page, file = self.wiki.limits
        if planned.edits and (size := len(planned.text.encode())) > page:
            remedy = "show less output in the notebooks, or raise $wgMaxArticleSize"
            raise _too_large(self.title, size, page, remedy)
        for item in self.uploads:
            if item.name in planned.missing and len(item.data) > file:
                remedy = (
                    "draw a smaller one, or raise $wgMaxUploadSize and PHP's upload_max_filesize"
                )
                raise _too_large(f"File:{item.name}", len(item.data), file, remedy)

    def send_pictures(self, planned: PagePlan) -> None:
        """The wiki has the pictures, sent over several connections if it is the lab's own. Where the page
        itself could not be saved, none of them is sent; after one that is refused, no other.

        Raises :class:`WikiError` for a refusal, :class:`UnansweredError` when a reply did not come.
        """
        missing = [item for item in self.uploads if item.name in planned.missing]
        self.sent.extend(name for name in self.tried if name not in planned.missing)
        self.tried.clear()
        if not missing:
            return
        if planned.edits:
            self.wiki.require_editable(self.title)
        wrong = list[WikiError]()

        def upload(item: Upload) -> None:
            try:
                if not wrong and self.wiki.send(item):
                    self.sent.append(item.name)
            except WikiError as error:
                if isinstance(error, UnansweredError):
                    self.tried.append(item.name)
                wrong.append(error)

        with ThreadPoolExecutor(CONNECTIONS if self.wiki.own else 1) as pool:
            list(pool.map(upload, missing))
        if wrong:  # a refusal says more than a silence
            raise min(wrong, key=lambda error: isinstance(error, UnansweredError))

    # -- the text --------------------------------------------------------------------------------

    def save(self, page: Document, planned: PagePlan) -> Saved | None:
        """The page has the planned text; None when it had it. What labkit writes is kept before.

        Raises :class:`ConflictError` when somebody saved it since it was read.
        """
        self._guard(page, planned)
        self.written.keep(page, self.blocks)
        names = [f"{c.name} {c.state}" for c in planned.changes if c.name in planned.written]
        note = self.written.summary(", ".join(names) or "list of blocks")
        try:
            return self.wiki.save(self.title, planned.text, base=planned.revision, summary=note)
        except UnansweredError:
            saved = self._saved(planned)
            if saved is None:
                raise
            return saved

    def verify(self, page: Document, planned: PagePlan, saved: Saved, after: Snapshot) -> KeptLines:
        """What became of people's lines, from what the wiki saved; those that it lacked were put back.

        ``after`` is the page as it was read since. When somebody saved between our reading and our edit and the two
        did not overlap, the wiki has merged them without a word: what stood before the edit is then the other's
        revision.
        """
        now = after.revision
        ours = now is not None and now.number == saved.revision  # it was not saved since
        text = now.text if now and ours else text_of(self.wiki, saved.revision)
        before = page
        if saved.before and saved.before != planned.revision:
            before = fences.parse(text_of(self.wiki, saved.before), self.title)
        wanted = page_merge.persons(before, self.written.find, self.blocks)
        lost = wanted - page_merge.present(fences.parse(text, self.title))
        put_back = self._put_back(before.text, lost)
        there = wanted.total() - lost.total() + len(put_back)
        return KeptLines(base=saved.before, people=wanted.total(), there=there, put_back=put_back)

    def mend(self, base: int, old: str, repaired: Repaired) -> None:
        """The page has the mended text. Raises :class:`ConflictError` when somebody saved it since."""
        note = self.written.summary("damaged comments mended")
        saved = self.wiki.save(self.title, repaired.text, base=base, summary=note)
        if saved is None or saved.before == base:
            return
        before = text_of(self.wiki, saved.before)
        surely = repair.bare(old) - repair.bare(repaired.text)
        lost = repair.bare(before) - repair.bare(text_of(self.wiki, saved.revision)) - surely
        self._put_back(before, lost)

    def _put_back(self, before: str, lost: Counter[str]) -> tuple[str, ...]:
        """The page has these lines of ``before`` again."""
        note = self.written.summary("lines put back")
        return put_lines_back(self.wiki, self.title, before, lost, note) if lost else ()

    def _saved(self, planned: PagePlan) -> Saved | None:
        """What the wiki saved of an edit whose reply was lost; None when (so far) it has not."""
        wanted = {(one.name, one.digest) for one in self.blocks if one.name in planned.written}
        before = start = planned.revision or 0
        for revision in self.wiki.history(self.title, limit=HISTORY, oldest=True, start=start):
            there = {(one["name"], one["digest"]) for one in fences.FENCE.finditer(revision.text)}
            ours = revision.number != start and revision.user == self.wiki.account
            if ours and wanted <= there:
                return Saved(revision=revision.number, before=before)
            before = revision.number
        return None

    def _guard(self, page: Document, planned: PagePlan) -> None:
        """Raises when the planned text lacks a person's line; that would be a fault of labkit's."""
        after = page_merge.present(fences.parse(planned.text, self.title))
        lost = page_merge.persons(page, self.written.find, self.blocks) - after
        if lost:
            raise WikiError(
                self.title,
                f"the new text would lose {counted(lost.total(), 'line')} that people wrote, first {quoted(next(iter(lost)))}",
                "nothing was published; this is a fault in labkit: report it with the page's text",
                code="wiki.lines-lost",
            )


def put_lines_back(
    wiki: Wiki, title: str, before: str, lost: Counter[str], note: str
) -> tuple[str, ...]:
    """The page has these lines of ``before`` again, which an edit dropped; returns those that it had lacked.

    Raises :class:`WikiError` when others kept saving the page.
    """
    done = Counter[str]()
    for attempt in range(1, ATTEMPTS + 1):
        now = wiki.read(title).revision
        missing = lost - repair.bare(now.text) if now else Counter()
        if not now or not missing:
            return tuple(done.elements())
        text = page_merge.put_back(now.text, before, missing)
        try:
            wiki.save(title, text, base=now.number, summary=note)
            done |= missing
        except (ConflictError, UnansweredError):
            pause(attempt)
    raise WikiError(
        title,
        f"{counted(lost.total(), 'line')} that the wiki's merge dropped could not be put back: others kept "
        f"saving the page; the first is {quoted(next(iter(lost)))}",
        "the page's history has them",
        code="wiki.lines-lost",
    )


def pause(attempt: int) -> None:
    """Waits longer after each conflict, and never as long as another labkit does."""
    most = min(LONGEST_PAUSE, 0.05 * 2**attempt)
    time.sleep(random.uniform(most / 4, most))  # noqa: S311 - no secret


def text_of(wiki: Wiki, number: int) -> str:
    """The text of a revision, '' where it is hidden or gone."""
    return wiki.texts([number]).get(number, "")


def _too_large(what: str, size: int, most: int, remedy: str) -> WikiError:
    reason = f"has {size:,} bytes, and the wiki takes {most:,} at most; nothing was published"
    return WikiError(what, reason, remedy, code="wiki.too-large")
