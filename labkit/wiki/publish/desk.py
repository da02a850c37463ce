"""What publishing works with, what it would do, and what it did."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from labkit.errors import WikiError
from labkit.model.config import unknown
from labkit.records import Record
from labkit.wiki.client import api
from labkit.wiki.client.api import Snapshot
from labkit.wiki.merge import altered, fences, weave
from labkit.wiki.merge.altered import Altered, Difference
from labkit.wiki.merge.fences import Block, Document
from labkit.wiki.merge.weave import Change
from labkit.wiki.publish.pristine import Memory
from labkit.wiki.render.notebook import Upload

if TYPE_CHECKING:
    import mwclient

#: Gives the lines of labkit's that people had changed on a page that was read, and who did.
Changed = Callable[[Snapshot], Sequence[Altered]]
#: What MediaWiki trims from a page's end (PHP's rtrim).
_TRIMMED = " \t\n\r\0\x0b"


class Plan(Record):
    """What publishing would do: the page's text as it would be, and what happens to each block.

    ``revision`` is the one that was read (None: there is no page yet); ``listed`` is the difference
    of the comment that lists the blocks; ``missing`` the pictures that the wiki does not have;
    ``people`` the number of people's lines on it now.
    """

    page: str
    revision: int | None
    text: str
    changes: tuple[Change, ...]
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
    def left(self) -> tuple[str, ...]:
        """What publishing would write: blocks, pictures, or the list of blocks."""
        names = [change.name for change in self.changes if change.state in ("added", "changed")]
        return (*names, *self.missing) or (("the list of blocks",) if self.edits else ())


class Published(Record):
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
    changes: tuple[Change, ...]
    base: int = 0
    people: int = 0
    there: int = 0
    put_back: tuple[str, ...] = ()
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

    @property
    def kept(self) -> int:
        """How many lines inside blocks are a person's."""
        return sum(len(change.kept) for change in self.changes)


class Mended(Record):
    """What mending a page's comments did, or would do (``diff``, '' for nothing)."""

    page: str
    url: str
    diff: str
    edited: bool = False


@dataclass(frozen=True)
class Desk:
    """What one publication works with: the blocks and their pictures, what labkit wrote before, who
    ``changed`` labkit's lines on a page that was read, and the pictures that it has ``sent``, or may have
    sent (``tried``: no reply came)."""

    memory: Memory
    blocks: tuple[Block, ...]
    uploads: tuple[Upload, ...] = ()
    restore: tuple[str, ...] = ()
    changed: Changed | None = None
    sent: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    @property
    def site(self) -> mwclient.Site:
        """The session."""
        return self.memory.site

    @property
    def title(self) -> str:
        """The page's title, after a redirect the target's."""
        return self.memory.title


def require_known(restore: Sequence[str], blocks: Sequence[Block], page: str) -> None:
    """Raises :class:`ConfigError`, with the nearest name, for what is neither a block nor the page."""
    names = {page, *(block.name for block in blocks)}
    for name in restore:
        if name not in names:
            raise unknown(name, names, "a block of the report, nor its page")


def read(desk: Desk) -> Snapshot:
    """The page as it is now, and which of the pictures the wiki has. One request."""
    return api.read(desk.site, desk.title, files=[item.name for item in desk.uploads])


def look(desk: Desk, snapshot: Snapshot) -> tuple[Plan, Document]:
    """What publishing would do with the page that was read, and the page. The wiki is only asked where
    labkit's own lines in it are not known on this machine."""
    memory, files = desk.memory, [item.name for item in desk.uploads]
    memory.title = snapshot.title
    if snapshot.deleted and memory.page not in desk.restore:
        raise _deleted(memory.page, snapshot)
    text = snapshot.revision.text if snapshot.revision else ""
    page = fences.parse(text, snapshot.title)
    woven = weave.weave(
        page,
        desk.blocks,
        pristine=memory.pristine,
        restore=desk.restore,
        known=memory.names if page.names is None and page.blocks else (),
        credit=_credit(desk.changed, snapshot) if desk.changed else None,
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
        listed=woven.listed,
    )
    return planned, page


def _credit(changed: Changed, snapshot: Snapshot) -> weave.Credit:
    """Says who changed labkit's lines on the page that was read; its history is asked when one is."""

    def credit(block: str, found: Sequence[Difference]) -> tuple[Altered, ...]:
        known = [item for item in changed(snapshot) if item.block == block]
        return altered.credited(block, known, found)

    return credit


def _deleted(page: str, snapshot: Snapshot) -> WikiError:
    return WikiError(
        snapshot.title,
        f"was deleted {snapshot.deleted}",
        f"`labkit publish --restore {shlex.quote(page)}` publishes it anew; what people wrote there an "
        "administrator of the wiki can undelete",
        code="wiki.page-deleted",
    )
