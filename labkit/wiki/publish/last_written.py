"""Keeps what labkit last wrote on a page, so that it can be told from what people wrote.

The blocks are kept by the hash that their fences carry, in two places: a file below the lab's state
folder, and a page of the bot's own beside the report (``Report/labkit state``), so that another
machine, or one whose state folder is gone, publishes without doubling or staling a line. Both are
written before the page is: whatever hash a page carries, its block is known.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from labkit import reading
from labkit.core.files import write_atomically
from labkit.model.config import BESIDE
from labkit.records import Record
from labkit.wiki.client.protocol import Wiki
from labkit.wiki.client.refusals import ConflictError
from labkit.wiki.merge import fences
from labkit.wiki.merge.fences import Block, Document

#: Blocks that are kept of each name beside the one on the page: the last ones, and more of those
#: that are so young that another labkit may be about to put them on the page.
KEPT, KEPT_YOUNG = 3, 24
YOUNG = timedelta(minutes=10)
#: How often the page beside is read and written again when other labkits write there.
ATTEMPTS = 8
#: Revisions of the page that are looked through for a block that neither place has.
HISTORY = 100
#: Revisions of a page that are read when all of its history is, at most.
EVERY = 20_000
#: Characters of one block; a page holds two million (MediaWiki's $wgMaxArticleSize).
LIMIT = 4_000_000
_LINE = re.compile(rf"(?m)^({fences.NAME}) ([0-9a-f]{{16}}) (\S+) ([A-Za-z0-9+/=]+)")
_HEAD = (
    "What labkit wrote on the report's page, so that it can tell its own lines from yours. "
    "It mends this page by itself; there is nothing to read or to change here."
)


class DatedBlock(Record):
    """A block as labkit wrote it, and when it was first about to."""

    block: Block
    time: datetime


class Store(Record):
    """The kept blocks of one page, in the order of their times."""

    kept: tuple[DatedBlock, ...] = ()

    def find(self, name: str, digest: str) -> Block | None:
        """The block of that name and hash."""
        found = (item.block for item in self.kept if item.block.name == name)
        return next((block for block in found if block.digest == digest), None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all blocks that were ever about to be written."""
        return tuple(dict.fromkeys(item.block.name for item in self.kept))

    def joined(self, other: Store) -> Store:
        """Both stores' blocks, each with its earlier time."""
        latest_first = sorted((*other.kept, *self.kept), key=_order, reverse=True)
        every = {(item.block.name, item.block.digest): item for item in latest_first}
        return Store(kept=tuple(sorted(every.values(), key=_order)))

    def adding(self, blocks: Iterable[Block], page: Document, now: datetime) -> Store:
        """The store with these blocks, and without old ones that the page does not have."""
        new = tuple(
            DatedBlock(block=block, time=now)
            for block in blocks
            if self.find(block.name, block.digest) is None
        )
        wanted = {(item.block.name, item.digest) for item in page.blocks}
        wanted |= {(block.name, block.digest) for block in blocks}
        return Store(kept=tuple(_pruned((*self.kept, *new), wanted, now)))


class Remote(Record):
    """The store beside the page: the title of its page, and that one's revision (None: no page)."""

    title: str
    store: Store
    revision: int | None


class LastWritten:
    """Finds what labkit last wrote on one page: on this machine (``folder``), beside the page, or in
    the page's history; each is asked only when the one before it does not know.

    ``title`` is where the page is now: a person may have moved it since it was called ``page``.
    """

    def __init__(self, wiki: Wiki, page: str, folder: Path, note: str = "") -> None:
        self.wiki = wiki
        self.page = self.title = page
        self.note = note
        self._file = local_file(folder, page)
        self._local = read_local(self._file)
        self._remote: Remote | None = None
        self._found: dict[tuple[str, str], Block | None] = {}
        self._kept = set[tuple[str, str]]()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all blocks that were ever about to be written on the page."""
        return self._beside().store.joined(self._local).names

    @property
    def versions(self) -> tuple[Block, ...]:
        """All blocks that are kept, here or beside the page, the last first."""
        every = self._beside().store.joined(self._local)
        return tuple(item.block for item in reversed(every.kept))

    def find(self, name: str, digest: str) -> Block | None:
        """The block of that name and hash, None when it is known nowhere any more."""
        key = name, digest
        if key not in self._found:
            self._found[key] = (
                self._local.find(name, digest)
                or self._beside().store.find(name, digest)
                or from_history(self.wiki, self.title, name, digest)
            )
        return self._found[key]

    def again(self) -> None:
        """Forgets what lies beside the page: another labkit may have written there since."""
        self._remote = None
        self._found.clear()

    def keep(self, page: Document, blocks: Sequence[Block]) -> None:
        """Keeps the blocks in both places; a place that has them is not written, and neither is asked
        again for what this memory has put there.

        Raises :class:`~labkit.wiki.client.refusals.ConflictError` when other labkits kept writing there meanwhile.
        """
        wanted = {(block.name, block.digest) for block in blocks}
        for attempt in range(1, ATTEMPTS + 1):
            if wanted <= self._kept:
                return
            self._remote = None
            try:
                self._keep(page, blocks)
            except ConflictError:  # two labkits' blocks do not exclude each other
                if attempt == ATTEMPTS:
                    raise
                time.sleep(random.uniform(0.01, 0.05 * attempt))  # noqa: S311 - no secret
            else:
                self._kept |= wanted

    def _keep(self, page: Document, blocks: Sequence[Block]) -> None:
        beside = self._beside()
        every = beside.store.joined(self._local).adding(blocks, page, now())
        if every != self._local:
            write_atomically(self._file, dump(every), mode=0o600)
            self._local = every
        if every != beside.store:
            note = self.summary("what labkit wrote")
            self.wiki.save(beside.title, dump(every), base=beside.revision, summary=note)

    def summary(self, what: str) -> str:
        """An edit's summary."""
        return f"labkit: {what}{f' ({self.note})' if self.note else ''}"

    def _beside(self) -> Remote:
        if self._remote is None:
            found = self.wiki.read(state_title(self.page))
            store = parse(found.revision.text) if found.revision else Store()
            number = found.revision.number if found.revision else None
            self._remote = Remote(title=found.title, store=store, revision=number)
        return self._remote


class EverWritten:
    """Finds what labkit ever wrote on a page: on this machine, or in the history of the page beside it; the
    wiki is asked only when something is looked for."""

    def __init__(self, wiki: Wiki, page: str, folder: Path) -> None:
        self._known: dict[tuple[str, str], Block] = {}
        self._learn(item.block for item in read_local(local_file(folder, page)).kept)
        self._older = wiki.history(state_title(page), limit=EVERY)

    def find(self, name: str, digest: str) -> Block | None:
        """The block of that name and hash, None when it is known nowhere any more."""
        while (name, digest) not in self._known:
            revision = next(self._older, None)
            if revision is None:
                return None
            self._learn(item.block for item in parse(revision.text).kept)
        return self._known[name, digest]

    def read(self, text: str) -> None:
        """Learns the blocks that stand on the page as labkit wrote them."""
        self._learn(item.block for item in fences.blocks(text) if not item.touched)

    def _learn(self, blocks: Iterable[Block]) -> None:
        self._known |= {(block.name, block.digest): block for block in blocks}


def dump(store: Store) -> str:
    """The store as a page's text: a line for each block, so that two machines' lines merge."""
    lines = [
        f"{item.block.name} {item.block.digest} {item.time:%Y-%m-%dT%H:%M:%SZ} {_packed(item.block)}"
        for item in store.kept
    ]
    return "\n".join([_HEAD, "<pre>", *lines, "</pre>"])


def parse(text: str) -> Store:
    """The store of a page's text; a line that is damaged is left out."""
    found = []
    for match in _LINE.finditer(text):
        block = _unpacked(match[1], match[4])
        if block is not None and block.digest == match[2]:
            with suppress(ValueError):
                found.append(DatedBlock(block=block, time=datetime.fromisoformat(match[3])))
    return Store(kept=tuple(found))


def local_file(folder: Path, page: str) -> Path:
    """The file of one page's store."""
    return folder / f"{stem(page)}.txt"


def stem(page: str) -> str:
    """The name of a page's file, without its ending: no two pages have the same."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", page)[:80]
    plain = re.fullmatch(r"[A-Za-z0-9 ]{1,80}", page)
    return name if plain else f"{name}-{hashlib.sha256(page.encode()).hexdigest()[:12]}"


def read_local(path: Path) -> Store:
    """The store of a file, empty when there is none."""
    try:
        return parse(reading.text(path, 2 * LIMIT))
    except (OSError, ValueError):
        return Store()


def state_title(title: str) -> str:
    """The bot's own page beside a report's page."""
    return f"{title}{BESIDE}"


def from_history(wiki: Wiki, title: str, name: str, digest: str) -> Block | None:
    """The block as labkit wrote it, from the revision in which it stands unchanged.

    Not every block has one: the wiki may have merged a person's line in while it was saved.
    """
    mark = f"<!-- labkit:begin {name} {digest} -->"
    for revision in wiki.history(title, limit=HISTORY):
        if mark not in revision.text:
            continue
        page = fences.whole(revision.text)
        found = page.find(name) if page else None
        if found is not None and found.digest == digest and not found.touched:
            return found.block
    return None


def now() -> datetime:
    """The time, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def _pruned(
    kept: tuple[DatedBlock, ...], wanted: set[tuple[str, str]], now: datetime
) -> list[DatedBlock]:
    counts: dict[str, int] = {}
    left = []
    for item in sorted(kept, key=_order, reverse=True):
        name = item.block.name
        counts[name] = counts.get(name, 0) + 1
        most = KEPT_YOUNG if now - item.time < YOUNG else KEPT
        if counts[name] <= most or (name, item.block.digest) in wanted:
            left.append(item)
    return sorted(left, key=_order)


def _order(item: DatedBlock) -> tuple[datetime, str, str]:
    return item.time, item.block.name, item.block.digest


def _packed(block: Block) -> str:
    return base64.b64encode(zlib.compress("\n".join(block.lines).encode(), 9)).decode()


def _unpacked(name: str, packed: str) -> Block | None:
    try:
        text = zlib.decompressobj().decompress(base64.b64decode(packed), LIMIT).decode()
    except (ValueError, zlib.error):
        return None
    heading, _, body = text.partition("\n")
    return Block(name=name, heading=heading, body=body)
