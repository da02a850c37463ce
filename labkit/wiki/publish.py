"""Publishing blocks onto a wiki page in which people write as well.

The page converges: only what changed is written, pictures first, then what labkit keeps of its own
lines, then the page. Every edit is made from the revision that was read, by the bot's account. What
people wrote is in the page before and after; that is checked before the edit and on what the wiki
saved, and a line that the wiki's own merge dropped is put back.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from labkit.errors import WikiError
from labkit.result import Record
from labkit.wiki import api, fences, weave
from labkit.wiki.api import ConflictError
from labkit.wiki.fences import Block, Document
from labkit.wiki.notebook import Upload
from labkit.wiki.pristine import Memory
from labkit.wiki.weave import Change

if TYPE_CHECKING:
    import mwclient

#: How often a page that others save meanwhile is read and written again, and the longest pause.
ATTEMPTS = 12
LONGEST_PAUSE = 2.0
#: What MediaWiki trims from a page's end (PHP's rtrim).
_TRIMMED = " \t\n\r\0\x0b"


class Plan(Record):
    """What publishing would do: the page's text as it would be, and what happens to each block.

    ``revision`` is the one that was read (None: there is no page yet); ``missing`` the pictures
    that the wiki does not have; ``people`` the number of people's lines on it now.
    """

    page: str
    revision: int | None
    text: str
    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    people: int
    edits: bool

    @property
    def changed(self) -> bool:
        """Whether publishing would write anything."""
        return self.edits or bool(self.missing)


class Published(Record):
    """What publishing did. ``revision`` is the page's last one afterwards; ``people`` the number of
    people's lines on it before, ``put_back`` those that the wiki's merge had dropped; ``attempts`` how
    often the page was read for it."""

    page: str
    url: str
    revision: int
    edited: bool
    uploaded: tuple[str, ...]
    changes: tuple[Change, ...]
    people: int = 0
    put_back: tuple[str, ...] = ()
    attempts: int = 1

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return self.edited or bool(self.uploaded)

    @property
    def deleted(self) -> tuple[str, ...]:
        """The blocks that a person deleted."""
        return tuple(change.name for change in self.changes if change.state == "deleted")

    @property
    def kept(self) -> int:
        """How many lines inside blocks are a person's."""
        return sum(len(change.kept) for change in self.changes)


@dataclass(frozen=True)
class Desk:
    """What one publication works with: the blocks and their pictures, and what labkit wrote before."""

    memory: Memory
    blocks: tuple[Block, ...]
    uploads: tuple[Upload, ...]
    restore: tuple[str, ...]
    sent: list[str]

    @property
    def site(self) -> mwclient.Site:
        """The session."""
        return self.memory.site

    @property
    def title(self) -> str:
        """The page's title, after a redirect the target's."""
        return self.memory.title


def plan(
    site: mwclient.Site,
    page: str,
    blocks: Sequence[Block],
    uploads: Sequence[Upload] = (),
    *,
    folder: Path,
    restore: Sequence[str] = (),
) -> Plan:
    """What :func:`apply` would do now; nothing is written. Raises :class:`WikiError` naming the line
    when a fence of the page is damaged or doubled."""
    memory = Memory(site, page, folder)
    return _plan(Desk(memory, tuple(blocks), tuple(uploads), tuple(restore), []))[0]


def apply(
    site: mwclient.Site,
    page: str,
    blocks: Sequence[Block],
    uploads: Sequence[Upload] = (),
    *,
    folder: Path,
    restore: Sequence[str] = (),
    note: str = "",
) -> Published:
    """The page holds these blocks and the wiki their pictures; every line of a person's is still there.

    :param folder: where this machine keeps what labkit wrote.
    :param restore: blocks that a person deleted and that are wanted back.
    :param note: ends the edits' summaries (the run's id).
    :raises WikiError: a fence is damaged or doubled, or the wiki refuses; the page is whole then.
    """
    memory = Memory(site, page, folder, note)
    desk = Desk(memory, tuple(blocks), tuple(uploads), tuple(restore), [])
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _once(desk, attempt)
        except ConflictError:
            memory.again()
            _pause(attempt)
    raise WikiError(
        page,
        f"was saved by others {ATTEMPTS} times while it was being published",
        "publish again when they have finished; nothing of theirs was touched",
    )


def url(site: mwclient.Site, title: str) -> str:
    """Where a browser finds a page."""
    server = str(site.site["server"])
    server = f"{site.scheme}:{server}" if server.startswith("//") else server
    name = quote(title.replace(" ", "_"), safe="/:")
    return server + str(site.site["articlepath"]).replace("$1", name)


def _plan(desk: Desk) -> tuple[Plan, Document]:
    memory, files = desk.memory, [item.name for item in desk.uploads]
    snapshot = api.read(desk.site, desk.title, files=files)
    memory.title = snapshot.title
    text = snapshot.revision.text if snapshot.revision else ""
    page = fences.parse(text, snapshot.title)
    woven = weave.weave(
        page,
        desk.blocks,
        pristine=memory.pristine,
        restore=desk.restore,
        known=memory.names if page.names is None and page.blocks else (),
    )
    new = woven.text.rstrip(_TRIMMED)
    planned = Plan(
        page=snapshot.title,
        revision=snapshot.revision.number if snapshot.revision else None,
        text=new,
        changes=woven.changes,
        missing=tuple(name for name in files if name not in snapshot.files),
        people=weave.persons(page, memory.pristine, desk.blocks).total(),
        edits=new != text,
    )
    return planned, page


def _once(desk: Desk, attempt: int) -> Published:
    """One reading of the page, and the edit that follows from it."""
    planned, page = _plan(desk)
    for item in desk.uploads:
        unsent = item.name in planned.missing and item.name not in desk.sent
        if unsent and api.upload(desk.site, item):
            desk.sent.append(item.name)
    saved = _edit(desk, page, planned) if planned.edits else None
    return Published(
        page=desk.title,
        url=url(desk.site, desk.title),
        revision=saved.revision if saved else planned.revision or 0,
        edited=saved is not None,
        uploaded=tuple(desk.sent),
        changes=planned.changes,
        people=planned.people,
        put_back=_verify(desk, page, planned, saved) if saved else (),
        attempts=attempt,
    )


def _edit(desk: Desk, page: Document, planned: Plan) -> api.Saved | None:
    _guard(desk, page, planned)
    desk.memory.keep(page, desk.blocks)
    names = [f"{c.name} {c.state}" for c in planned.changes if c.state in ("added", "changed")]
    note = desk.memory.summary(", ".join(names) or "list of blocks")
    return api.edit(desk.site, desk.title, planned.text, base=planned.revision, summary=note)


def _guard(desk: Desk, page: Document, planned: Plan) -> None:
    """Raises when the planned text lacks a person's line; that would be a fault of labkit's."""
    after = weave.present(fences.parse(planned.text, desk.title))
    lost = weave.persons(page, desk.memory.pristine, desk.blocks) - after
    if lost:
        raise WikiError(
            desk.title,
            f"the new text would lose {lost.total()} of people's lines, first {next(iter(lost))!r}",
            "nothing was published; this is a fault of labkit's: report it with the page's text",
        )


def _verify(desk: Desk, page: Document, planned: Plan, saved: api.Saved) -> tuple[str, ...]:
    """The lines of people's that the saved revision lacked, after they were put back.

    When somebody saved between our reading and our edit and the two did not overlap, the wiki has
    merged them without a word: what stood before the edit is then the other's revision.
    """
    text = api.text_of(desk.site, saved.revision)
    if text == planned.text and saved.before == (planned.revision or 0):
        return ()
    before = page
    if saved.before and saved.before != planned.revision:
        before = fences.parse(api.text_of(desk.site, saved.before), desk.title)
    wanted = weave.persons(before, desk.memory.pristine, desk.blocks)
    lost = wanted - weave.present(fences.parse(text, desk.title))
    return _put_back(desk, before.text, lost) if lost else ()


def _put_back(desk: Desk, before: str, lost: Counter[str]) -> tuple[str, ...]:
    for attempt in range(1, ATTEMPTS + 1):
        now = api.read(desk.site, desk.title).revision
        if now is None:
            return ()
        missing = lost - weave.present(fences.parse(now.text, desk.title))
        if not missing:
            return ()
        text = weave.put_back(now.text, before, missing)
        try:
            api.edit(
                desk.site,
                desk.title,
                text,
                base=now.number,
                summary=desk.memory.summary("lines put back"),
            )
        except ConflictError:
            _pause(attempt)
            continue
        return tuple(missing.elements())
    raise WikiError(
        desk.title,
        f"{lost.total()} lines that the wiki's merge dropped could not be put back: others kept "
        f"saving the page; the first is {next(iter(lost))!r}",
        "the page's history has them",
    )


def _pause(attempt: int) -> None:
    """Waits longer after each conflict, and never as long as another labkit does."""
    most = min(LONGEST_PAUSE, 0.05 * 2**attempt)
    time.sleep(random.uniform(most / 4, most))  # noqa: S311 - no secret
