"""Publishes blocks on a wiki page in which people write, or plans that: tries again when somebody saved meanwhile.

The page converges: only what changed is written, pictures first, then what labkit keeps of its own
lines, then the page. Every edit is made from the revision that was read, by the bot's account. What
people wrote is in the page before and after; that is checked before the edit and on what the wiki
saved, and a line that the wiki's own merge dropped is put back.

An unchanged page costs one request. One that changes costs five (and two for each missing picture, for mwclient
asks for a file's page first, and before the first of these one that asks whether the page may be edited at all), none of which can be left
out: the page, which alone tells what people wrote; the bot's own page beside it, for another machine
may have kept blocks there since; that page's edit, before a fence can carry a hash that no other
machine knows; the page's edit; and the page again, for the wiki merges edits that do not overlap without a word.
A session that has read anonymously (:func:`labkit.wiki.client.session.open`) logs in and reads the page once
more before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from labkit.errors import WikiError
from labkit.records import Record
from labkit.wiki.client.protocol import Snapshot, Upload, Wiki
from labkit.wiki.client.refusals import BusyError, ConflictError, UnansweredError
from labkit.wiki.merge import repair
from labkit.wiki.merge.fences import Block
from labkit.wiki.merge.page_merge import Altered, BlockChange
from labkit.wiki.publish import editor
from labkit.wiki.publish.editor import Changed, KeptLines, PageEditor, PagePlan
from labkit.wiki.publish.last_written import LastWritten

T = TypeVar("T")
#: How often a publication goes on after a request that writes and has no reply.
SILENT = 2


class Published(KeptLines):
    """What publishing did. ``revision`` is the page's last one afterwards and ``base`` the one that
    it was saved onto (0: there was no page); ``people`` the number of people's lines in that one,
    ``there`` how many of them stand in what the wiki saved, ``put_back`` those that its own merge
    had dropped; ``attempts`` how often the page was read for it; ``mended`` is the difference that
    the mending of damaged comments made.

    Afterwards ``standing`` blocks are on the page, the wiki lacks the pictures ``missing``, ``left``
    is what the next publication would write, and ``altered`` are labkit's lines that people have changed.
    """

    page: str
    url: str
    revision: int
    edited: bool
    uploaded: tuple[str, ...]
    changes: tuple[BlockChange, ...]
    attempts: int = 1
    mended: str = ""
    standing: int = 0
    missing: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    altered: tuple[Altered, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return self.edited or bool(self.uploaded) or bool(self.mended)

    @property
    def deleted(self) -> tuple[str, ...]:
        """The blocks that a person deleted."""
        return tuple(change.name for change in self.changes if change.state == "deleted")


class Mended(Record):
    """What mending a page's comments did, or would do (``diff``, '' for nothing)."""

    page: str
    url: str
    diff: str
    edited: bool = False


def plan(
    wiki: Wiki,
    page: str,
    blocks: Sequence[Block],
    uploads: Sequence[Upload] = (),
    *,
    folder: Path,
    restore: Sequence[str] = (),
    snapshot: Snapshot | None = None,
    changed: Changed | None = None,
) -> PagePlan:
    """Tells what :func:`apply` would do now, with the page as it is or as it was read (``snapshot``, which knows
    of these pictures); nothing is written. Raises :class:`WikiError` naming the line
    when a fence of the page is damaged or doubled, :class:`ConfigError` for an unknown block."""
    written = LastWritten(wiki, page, folder)
    made = PageEditor(written, tuple(blocks), tuple(uploads), tuple(restore), changed)
    made.require_known()
    return made.plan(snapshot or made.read())[0]


def apply(
    wiki: Wiki,
    page: str,
    blocks: Sequence[Block],
    uploads: Sequence[Upload] = (),
    *,
    folder: Path,
    restore: Sequence[str] = (),
    note: str = "",
    snapshot: Snapshot | None = None,
    changed: Changed | None = None,
) -> Published:
    """Publishes these blocks and their pictures on a page; every line of a person's is still there afterwards.

    :param folder: where this machine keeps what labkit wrote.
    :param restore: blocks that a person deleted and that are wanted back.
    :param note: ends the edits' summaries (the run's id).
    :param snapshot: the page and these pictures as they were read just now, so that nothing is asked
        where nothing is to do; whoever saved the page since is met as if later.
    :param changed: which lines of labkit's people have changed, as the page's history tells; a block's notice
        says so. Without it, notices stay as they are.
    :raises WikiError: a fence is damaged or doubled, or the wiki refuses; the page is whole then.
    :raises ConfigError: a block to restore is none of these; nothing was written then.
    """
    written = LastWritten(wiki, page, folder, note)
    made = PageEditor(written, tuple(blocks), tuple(uploads), tuple(restore), changed)
    made.require_known()
    return _until_saved(written, lambda attempt: _once(made, attempt, snapshot))


def mend(
    wiki: Wiki, page: str, blocks: Sequence[Block], *, folder: Path, dry: bool = False
) -> Mended:
    """Mends labkit's comments on a page, or (``dry``) tells how; nothing else is changed.

    :param blocks: what labkit would write now: it tells labkit's lines when every store is gone.
    :raises WikiError: they cannot be mended, or the wiki refuses.
    """
    written = LastWritten(wiki, page, folder)
    return _until_saved(written, lambda _: _mend(PageEditor(written, tuple(blocks)), dry=dry))


def _until_saved(written: LastWritten, once: Callable[[int], T]) -> T:
    """Calls ``once`` until no edit of others comes between its reading and its edit, and every request has its
    reply; returns what it returns. What had no reply is looked up by reading again. A busy database is waited for
    as others' edits are: after a random pause, which differs between publishers."""
    silent, busy = 0, None
    for attempt in range(1, editor.ATTEMPTS + 1):
        try:
            return once(attempt)
        except ConflictError:
            busy = None
        except BusyError as error:
            busy = error
        except UnansweredError:
            silent += 1
            if silent > SILENT:
                raise
        written.again()
        editor.pause(attempt)
    raise busy or WikiError(
        written.title,
        f"was saved by others {editor.ATTEMPTS} times while it was being published",
        "publish again when they have finished; nothing of theirs was touched",
        code="wiki.busy",
    )


def _once(made: PageEditor, attempt: int, given: Snapshot | None) -> Published:
    """One reading of the page (the first is ``given``, if any), the edit that follows from it, and a
    reading of what came of that."""
    before = given if given and attempt == 1 else made.read()
    planned, page = made.plan(before)
    if planned.changed and made.wiki.sign_in():
        before = made.read()  # what is written follows from what the account itself has read
        planned, page = made.plan(before)
    made.require_sizes(planned)
    made.send_pictures(planned)
    saved = made.save(page, planned) if planned.edits else None
    base = planned.revision or 0
    kept = KeptLines(base=base, people=planned.people, there=planned.people)
    left, after = planned, before
    if planned.changed:
        after = made.read()
        kept = made.verify(page, planned, saved, after) if saved else kept
        after = made.read() if kept.put_back else after
        left = made.plan(after)[0]
    return Published(
        page=made.title,
        url=made.wiki.url(made.title),
        revision=saved.revision if saved else base,
        edited=saved is not None,
        uploaded=tuple(made.sent),
        changes=planned.changes,
        attempts=attempt,
        standing=left.standing,
        missing=left.missing,
        left=left.left,
        altered=tuple(made.changed(after)) if made.changed else (),
        **kept.model_dump(),
    )


def _mend(made: PageEditor, *, dry: bool) -> Mended:
    if not dry:
        made.wiki.sign_in()  # as in _once
    snapshot = made.wiki.read(made.title)
    made.written.title = snapshot.title
    place = made.wiki.url(snapshot.title)
    if snapshot.revision is None:
        return Mended(page=snapshot.title, url=place, diff="")
    ours = {(block.name, block.digest): block for block in made.blocks}
    text = snapshot.revision.text
    repaired = repair.repair(
        text,
        snapshot.title,
        versions=(*made.blocks, *made.written.versions),
        last_wrote=lambda name, digest: ours.get((name, digest)) or made.written.find(name, digest),
    )
    edits = bool(repaired.diff) and not dry
    if edits:
        made.mend(snapshot.revision.number, text, repaired)
    return Mended(page=snapshot.title, url=place, diff=repaired.diff, edited=edits)
