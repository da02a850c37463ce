"""Publishing blocks onto a wiki page in which people write as well.

The page converges: only what changed is written, pictures first, then what labkit keeps of its own
lines, then the page. Every edit is made from the revision that was read, by the bot's account. What
people wrote is in the page before and after; that is checked before the edit and on what the wiki
saved, and a line that the wiki's own merge dropped is put back.

An unchanged page costs one request. One that changes costs five (and one for each missing picture, and
before the first of these one that asks whether the page may be edited at all), none of which can be left
out: the page, which alone tells what people wrote; the bot's own page beside it, for another machine
may have kept blocks there since; that page's edit, before a fence can carry a hash that nobody else
knows; the page's edit; and the page again, for the wiki merges edits that do not overlap without a word.
A session that has looked as a stranger (:func:`labkit.wiki.client.session.open`) logs in and reads the page once
more before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from labkit.errors import WikiError
from labkit.wiki.client import api
from labkit.wiki.client.api import ConflictError, Snapshot, Upload
from labkit.wiki.client.refusals import BusyError, UnansweredError
from labkit.wiki.merge import repair
from labkit.wiki.merge.fences import Block
from labkit.wiki.publish import desk, pictures, saving
from labkit.wiki.publish.desk import Changed, Desk, Mended, Plan, Published
from labkit.wiki.publish.pristine import Memory
from labkit.wiki.publish.saving import Kept

if TYPE_CHECKING:
    import mwclient

T = TypeVar("T")
#: How often a publication goes on after a request that writes and has no reply.
SILENT = 2


def plan(
    site: mwclient.Site,
    page: str,
    blocks: Sequence[Block],
    uploads: Sequence[Upload] = (),
    *,
    folder: Path,
    restore: Sequence[str] = (),
    snapshot: Snapshot | None = None,
    changed: Changed | None = None,
) -> Plan:
    """What :func:`apply` would do now, with the page as it is or as it was read (``snapshot``, which knows
    of these pictures); nothing is written. Raises :class:`WikiError` naming the line
    when a fence of the page is damaged or doubled, :class:`ConfigError` for an unknown block."""
    desk.require_known(restore, blocks, page)
    memory = Memory(site, page, folder)
    made = Desk(memory, tuple(blocks), tuple(uploads), tuple(restore), changed)
    return desk.look(made, snapshot or desk.read(made))[0]


def apply(
    site: mwclient.Site,
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
    """The page holds these blocks and the wiki their pictures; every line of a person's is still there.

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
    desk.require_known(restore, blocks, page)
    memory = Memory(site, page, folder, note)
    made = Desk(memory, tuple(blocks), tuple(uploads), tuple(restore), changed)
    return _until_saved(memory, lambda attempt: _once(made, attempt, snapshot))


def mend(
    site: mwclient.Site, page: str, blocks: Sequence[Block], *, folder: Path, dry: bool = False
) -> Mended:
    """The page's comments are whole, or (``dry``) what would make them so; nothing else is changed.

    :param blocks: what labkit would write now: it tells labkit's lines when every store is gone.
    :raises WikiError: they cannot be mended, or the wiki refuses.
    """
    memory = Memory(site, page, folder)
    return _until_saved(memory, lambda _: _mend(Desk(memory, tuple(blocks)), dry=dry))


def url(site: mwclient.Site, title: str) -> str:
    """Where a browser finds a page."""
    server = str(site.site["server"])
    server = f"{site.scheme}:{server}" if server.startswith("//") else server
    name = quote(title.replace(" ", "_"), safe="/:")
    return server + str(site.site["articlepath"]).replace("$1", name)


def _until_saved(memory: Memory, once: Callable[[int], T]) -> T:
    """What ``once`` returns when nobody saves the page between its reading and its edit, and every
    request has its reply; what had none is looked up by reading again. A busy database is waited for
    as others' edits are: after a pause that no other publisher takes as long."""
    silent, busy = 0, None
    for attempt in range(1, saving.ATTEMPTS + 1):
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
        memory.again()
        saving.pause(attempt)
    raise busy or WikiError(
        memory.title,
        f"was saved by others {saving.ATTEMPTS} times while it was being published",
        "publish again when they have finished; nothing of theirs was touched",
        code="wiki.busy",
    )


def _once(made: Desk, attempt: int, given: Snapshot | None) -> Published:
    """One reading of the page (the first is ``given``, if any), the edit that follows from it, and a
    reading of what came of that."""
    before = given if given and attempt == 1 else desk.read(made)
    planned, page = desk.look(made, before)
    if planned.changed and getattr(made.site, "late", False):
        made.site.log_in()  # what is written follows from what the account itself has read
        before = desk.read(made)
        planned, page = desk.look(made, before)
    pictures.require_room(made, planned)
    pictures.send(made, planned)
    saved = saving.save(made, page, planned) if planned.edits else None
    base = planned.revision or 0
    kept = Kept(base=base, people=planned.people, there=planned.people)
    left, after = planned, before
    if planned.changed:
        after = desk.read(made)
        kept = saving.verify(made, page, planned, saved, after) if saved else kept
        after = desk.read(made) if kept.put_back else after
        left = desk.look(made, after)[0]
    return Published(
        page=made.title,
        url=url(made.site, made.title),
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


def _mend(made: Desk, *, dry: bool) -> Mended:
    if not dry and getattr(made.site, "late", False):
        made.site.log_in()  # as in _once
    snapshot = api.read(made.site, made.title)
    made.memory.title = snapshot.title
    place = url(made.site, snapshot.title)
    if snapshot.revision is None:
        return Mended(page=snapshot.title, url=place, diff="")
    versions = (*made.blocks, *made.memory.versions)
    ours = {(block.name, block.digest): block for block in made.blocks}
    text = snapshot.revision.text
    repaired = repair.repair(
        text,
        snapshot.title,
        versions=versions,
        pristine=lambda name, digest: (
            ours.get((name, digest)) or made.memory.pristine(name, digest)
        ),
    )
    edits = bool(repaired.diff) and not dry
    if edits:
        saving.mend(made, snapshot.revision.number, text, repaired)
    return Mended(page=snapshot.title, url=place, diff=repaired.diff, edited=edits)
