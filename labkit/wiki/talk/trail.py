"""Where each ``REX>`` line of a page comes from, followed through the page's history. Pure.

The history is read forwards and each revision once: a trail goes on where it had come to, so that it
can be kept and a page with a thousand revisions costs no more than the few that are new. A line that
was gone for a while (a revert, lines put back) still comes from whoever wrote it first.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from pydantic import Field

from labkit.errors import WikiError
from labkit.result import Record
from labkit.wiki.access.api import Revision
from labkit.wiki.merging import fences
from labkit.wiki.merging.fences import Fenced
from labkit.wiki.talk import threads, visible
from labkit.wiki.talk.threads import Line


class Origin(Record):
    """The revision that brought a line, and what the block was then: its fence's ``digest``, the
    ``run`` that it was of ('' where it was none, or named none)."""

    revision: int
    user: str
    time: datetime | None
    section: str
    digest: str
    run: str


class Trail(Record):
    """The origins of each line's copies, in the page's order: of the lines of the page as it was in
    ``revision``, whose text has the hash ``digest``, and of those that had been there before."""

    revision: int = 0
    digest: str = ""
    here: dict[str, tuple[Origin, ...]] = Field(default_factory=dict)
    gone: dict[str, tuple[Origin, ...]] = Field(default_factory=dict)

    def at(self, revision: Revision) -> bool:
        """Whether it has come to that revision, and that one is what it was."""
        return (self.revision, self.digest) == (revision.number, digest(revision.text))


def advance(trail: Trail, revision: Revision) -> Trail:
    """The trail one revision further; of one whose text is hidden nothing is known."""
    if revision.hidden:
        return trail
    copies: dict[str, list[Line]] = {}
    for line in threads.marked(revision.text):
        copies.setdefault(line.text, []).append(line)
    blocks = functools.cache(_blocks)
    here, gone = {}, dict(trail.gone)
    for text, found in copies.items():
        before, away = list(trail.here.get(text, ())), list(gone.pop(text, ()))
        here[text] = tuple(
            _matched(found, before, away, lambda line: _origin(line, revision, blocks))
        )
        gone |= {text: (*before, *away)} if before or away else {}
    for text, origins in trail.here.items():
        if text not in copies:
            gone[text] = (*origins, *gone.get(text, ()))
    return Trail(revision=revision.number, digest=digest(revision.text), here=here, gone=gone)


def digest(text: str) -> str:
    """The hash by which a page's text is known again."""
    return hashlib.sha256(text.encode()).hexdigest()


def _matched(
    found: Sequence[Line],
    before: list[Origin],
    away: list[Origin],
    fresh: Callable[[Line], Origin],
) -> list[Origin]:
    """Each copy's origin: of those before and those away (both lose what is taken), the ones of the
    same section first; a copy for which none is left is new."""
    origins: list[Origin | None] = [None] * len(found)
    for known in (before, away):
        for same in (True, False):
            for place, line in enumerate(found):
                if origins[place] is None:
                    origins[place] = _taken(known, line.section if same else None)
    return [origin or fresh(line) for origin, line in zip(origins, found, strict=True)]


def _taken(known: list[Origin], section: str | None) -> Origin | None:
    for place, origin in enumerate(known):
        if section is None or origin.section == section:
            return known.pop(place)
    return None


def _origin(
    line: Line, revision: Revision, blocks: Callable[[str], Mapping[str, Fenced]]
) -> Origin:
    found = blocks(revision.text).get(line.block)
    return Origin(
        revision=revision.number,
        user=revision.user,
        time=revision.time,
        section=line.section,
        digest=found.digest if found else "",
        run=visible.run_of(found.block.lines) if found else "",
    )


def _blocks(text: str) -> dict[str, Fenced]:
    """The blocks of a page; none where its fences are damaged."""
    with suppress(WikiError):
        return {item.block.name: item for item in fences.parse(text, "").blocks}
    return {}
