"""Traces who wrote each line of a page, from its history: remarks, and people's changes of labkit's lines. Pure.

Each revision is read once: a :class:`Provenance` is kept and continued from the revision that it had come to, so that a
page with a thousand revisions costs no more than its few new ones. A line that was gone for a while (a revert, lines put
back) still belongs to who wrote it first.

When somebody else than its writer deletes or rewrites a remark, that is remembered with the account; so is who changed
which line of labkit's in a block. Where a revision cannot be read (the wiki's owners have hidden it, or the page's fences
were damaged), its author may have made what the next revision shows: all candidates are named.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from pydantic import Field

from labkit.records import Record
from labkit.wiki.client.protocol import Revision
from labkit.wiki.merge import fences, page_merge, three_way
from labkit.wiki.merge.fences import Document, Fenced
from labkit.wiki.merge.page_merge import Altered, Authorship, LastWrote
from labkit.wiki.remarks import threads
from labkit.wiki.remarks.threads import Line


class Origin(Record):
    """The revision that brought a line (``by``: who, when, which), and what the block was then: its fence's
    ``digest``, the ``run`` that it was of ('' where it was none, or named none).

    ``owner`` is who wrote the line that it is a rewriting of, else its writer; ``under`` the first line of the
    remark in which it stands. Of a line that somebody else took away, ``away`` says who, and what they made
    of it.
    """

    by: Authorship
    owner: str
    block: str
    section: str
    under: str
    digest: str
    run: str
    away: Authorship | None = None


class Vanished(Record):
    """A line of a remark that somebody else than its ``author`` took away or rewrote (``by``, with the line that
    they made of it)."""

    line: str
    author: str
    written: datetime | None
    block: str
    section: str
    by: Authorship

    @property
    def became(self) -> str:
        """What was done to it."""
        if self.by.line == self.line:
            return "moved to another remark"
        return "rewritten" if self.by.line else "deleted"


class Standing(Record):
    """A block as it stood on the page: its fence's hash, the hash of its lines, what people changed of
    labkit's lines. ``gone`` says who deleted it."""

    digest: str
    lines: str
    altered: tuple[Altered, ...] = ()
    gone: Authorship | None = None


class Unread(Record):
    """A revision of which it is not known what it changed; of one that is ``hidden`` not even its remarks."""

    by: Authorship
    hidden: bool


class Provenance(Record):
    """The origins of each line's copies, in the page's order: of the lines of the page as it was in
    ``revision``, whose text has the hash ``digest``, and of those that had been there before; and the blocks
    as they stood. ``bot`` is the account by which labkit writes, ``written`` the hashes in the fences of what it
    wrote, by the blocks' names."""

    bot: str = ""
    revision: int = 0
    digest: str = ""
    here: dict[str, tuple[Origin, ...]] = Field(default_factory=dict)
    gone: dict[str, tuple[Origin, ...]] = Field(default_factory=dict)
    blocks: dict[str, Standing] = Field(default_factory=dict)
    written: dict[str, frozenset[str]] = Field(default_factory=dict)
    unread: tuple[Unread, ...] = ()

    def at(self, revision: Revision) -> bool:
        """Whether it has come to that revision, and that one is what it was."""
        return (self.revision, self.digest) == (revision.number, digest(revision.text))

    @property
    def altered(self) -> tuple[Altered, ...]:
        """What people changed of labkit's lines, block by block."""
        found: list[Altered] = []
        for name, block in self.blocks.items():
            found += (
                [Altered(block=name, ours="", theirs="", by=block.gone)]
                if block.gone
                else block.altered
            )
        return tuple(found)

    @property
    def vanished(self) -> tuple[Vanished, ...]:
        """The remarks' lines that others than their writers took away or rewrote, and that are not back."""
        every = ((line, origin) for line, origins in self.gone.items() for origin in origins)
        return tuple(
            Vanished(
                line=line, author=origin.by.user, written=origin.by.time, block=origin.block,
                section=origin.section, by=origin.away,
            )
            for line, origin in every
            if origin.away
        )  # fmt: skip


def advance(
    provenance: Provenance, revision: Revision, last_wrote: LastWrote = lambda name, digest: None
) -> Provenance:
    """The provenance one revision further; of one whose text is hidden nothing is known.

    :param last_wrote: what labkit wrote in a block that somebody has changed.
    """
    saved = Authorship(user=revision.user, time=revision.time, revision=revision.number)
    if revision.hidden:
        unread = (*provenance.unread, Unread(by=saved, hidden=True))
        return provenance.model_copy(update={"unread": unread})
    document = fences.whole(revision.text)
    here, gone = _marked(provenance, revision, saved, document)
    blocks, written, unread = provenance.blocks, provenance.written, provenance.unread
    if document is None:
        unread = (*unread, Unread(by=saved, hidden=False))
    else:
        hidden = {item.by.user for item in unread if item.hidden}
        if not provenance.bot or provenance.bot in {revision.user, *hidden}:
            new = {item.block.name: {item.digest} for item in document.blocks}
            written |= {name: written.get(name, frozenset()) | own for name, own in new.items()}
        by = _by(provenance, saved, [item.by for item in unread])
        blocks, unread = _blocks(provenance, document, by, last_wrote, written), ()
    return Provenance(
        bot=provenance.bot, revision=revision.number, digest=digest(revision.text), here=here, gone=gone,
        blocks=blocks, written=written, unread=unread,
    )  # fmt: skip


def digest(text: str) -> str:
    """The hash by which a page's text is known again."""
    return hashlib.sha256(text.encode()).hexdigest()


def _by(provenance: Provenance, saved: Authorship, unread: Sequence[Authorship]) -> Authorship:
    """Who made what a revision shows: whoever saved it, or may have done so in one that was not read."""
    every = [*unread, *([] if unread and saved.user == provenance.bot else [saved])]
    users = dict.fromkeys(step.user or "unknown" for step in every)
    return every[0].model_copy(
        update={"user": " or ".join(users) if len(users) > 1 else every[0].user}
    )


def _marked(
    provenance: Provenance, revision: Revision, saved: Authorship, document: Document | None
) -> tuple[dict[str, tuple[Origin, ...]], dict[str, tuple[Origin, ...]]]:
    """The origins of a revision's remarks, and of those that are gone."""
    hidden = itertools.takewhile(lambda item: item.hidden, reversed(provenance.unread))
    by = _by(provenance, saved, [item.by for item in hidden][::-1])
    named = {item.block.name: item for item in document.blocks} if document else {}
    copies: dict[str, list[Line]] = {text: [] for text in provenance.here}
    for line in threads.marked(revision.text):
        copies.setdefault(line.text, []).append(line)
    here: dict[str, list[Origin]] = {}
    gone = {text: list(origins) for text, origins in provenance.gone.items()}
    became: dict[str, str] = {}
    for settling in (
        False,
        True,
    ):  # what settles a remark is told by the remark, which may be rewritten
        lost: list[tuple[str, Origin]] = []
        come: list[tuple[str, int]] = []
        strict = settling and revision.user != provenance.bot
        for text, found in copies.items():
            if threads.settles(text) is not settling:
                continue
            before, away = list(provenance.here.get(text, ())), gone.pop(text, [])
            known = list[Origin | None]([None] * len(found))
            _match(known, found, before, became if strict else None)
            come += [(text, place) for place, origin in enumerate(known) if origin is None]
            _match(known, found, away, became if strict else None)
            here[text] = [
                origin or _origin(line, by, named)
                for origin, line in zip(known, found, strict=True)
            ]
            lost += [(text, origin) for origin in before]
            gone |= {text: away} if away else {}
        pairs = three_way.pair([text for text, _ in lost], [text for text, _ in come])
        for place, (text, origin) in reversed([*enumerate(lost)]):
            new, copy = come[pairs[place]] if place in pairs else ("", 0)
            if new:
                became[text] = new
                one = here[new][copy]
                here[new][copy] = one.model_copy(
                    update={"owner": origin.owner if one.by == by else one.owner}
                )
            theirs = by.user in (origin.by.user, origin.owner)
            away_now = None if theirs else by.model_copy(update={"line": new})
            gone.setdefault(text, []).insert(0, origin.model_copy(update={"away": away_now}))
    return (
        {text: tuple(origins) for text, origins in here.items() if origins},
        {text: tuple(origins) for text, origins in gone.items()},
    )


def _blocks(
    provenance: Provenance,
    document: Document,
    by: Authorship,
    last_wrote: LastWrote,
    written: Mapping[str, Collection[str]],
) -> dict[str, Standing]:
    """The blocks of a page, and those that it lists and that somebody has deleted. Where the hash in a fence is not
    one of labkit's, somebody changed it, too: what labkit wrote there last is what counts."""
    found = {}
    for item in document.blocks:
        name, lines = item.block.name, item.block.digest
        before = provenance.blocks.get(name)
        if before and not before.gone and (before.digest, before.lines) == (item.digest, lines):
            found[name] = before
            continue
        known = before.altered if before else ()
        forged = before is not None and item.digest not in written.get(name, ())
        hash_ = before.digest if before and forged else item.digest
        base = last_wrote(name, hash_) if item.touched or forged else item.block
        if base is not None:
            differing = page_merge.differences(base.lines, item.block.lines)
            known = page_merge.credited(name, known, differing, by)
        found[name] = Standing(digest=hash_, lines=lines, altered=known)
    for name, before in provenance.blocks.items():
        if name not in found and name in (document.names or ()):
            found[name] = before if before.gone else before.model_copy(update={"gone": by})
    return found


def _match(
    origins: list[Origin | None],
    found: Sequence[Line],
    known: list[Origin],
    became: Mapping[str, str] | None,
) -> None:
    """Fills in the copies' origins from those that are known (and removes them there), those of the same
    remark and section first.

    Where ``became`` is given (the remarks' first lines that were rewritten, with what they are now), only those of
    the same remark: a line of one remark says nothing about another.
    """
    now = became or {}

    def under(origin: Origin, line: Line) -> bool:
        return line.under in (origin.under, now.get(origin.under))

    tests: list[Callable[[Origin, Line], bool]] = [
        lambda origin, line: origin.section == line.section and under(origin, line),
        under,
        lambda origin, line: origin.section == line.section,
        lambda origin, line: True,
    ]
    for test in tests if became is None else tests[:2]:
        for place, line in enumerate(found):
            if origins[place] is None:
                match = next((one for one in known if test(one, line)), None)
                if match:
                    known.remove(match)
                    update = {"away": None, "under": line.under}
                    origins[place] = match.model_copy(update=update)


def _origin(line: Line, by: Authorship, blocks: Mapping[str, Fenced]) -> Origin:
    found = blocks.get(line.block)
    return Origin(
        by=by,
        owner=by.user,
        block=line.block,
        section=line.section,
        under=line.under,
        digest=found.digest if found else "",
        run=threads.run_of(found.block.lines) if found else "",
    )
