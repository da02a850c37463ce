"""Saving a page's text so that no line of a person's is lost: checked before, and on what was saved."""

from __future__ import annotations

import random
import time
from collections import Counter

from labkit.display import counted, quoted
from labkit.errors import WikiError
from labkit.records import Record
from labkit.wiki.client import api
from labkit.wiki.client.api import ConflictError, Saved, Snapshot
from labkit.wiki.client.refusals import UnansweredError
from labkit.wiki.merge import comments, fences, three_way, weave
from labkit.wiki.merge.fences import Document
from labkit.wiki.merge.repair import Repaired
from labkit.wiki.publish.desk import Desk, Plan

#: How often a page that others save meanwhile is read and written again, and the longest pause.
ATTEMPTS = 20
LONGEST_PAUSE = 2.0
#: Revisions that are looked through for an edit whose reply was lost.
HISTORY = 50


class Kept(Record):
    """What became of people's lines when the page was saved: ``people`` of them stood in the revision
    ``base``, that many are ``there``, and ``put_back`` are those that the wiki's merge had dropped."""

    base: int
    people: int
    there: int
    put_back: tuple[str, ...] = ()


def save(desk: Desk, page: Document, planned: Plan) -> Saved | None:
    """The page has the planned text; None when it had it. What labkit writes is kept before.

    Raises :class:`ConflictError` when somebody saved it since it was read.
    """
    _guard(desk, page, planned)
    desk.memory.keep(page, desk.blocks)
    names = [f"{c.name} {c.state}" for c in planned.changes if c.state in ("added", "changed")]
    note = desk.memory.summary(", ".join(names) or "list of blocks")
    try:
        return api.edit(desk.site, desk.title, planned.text, base=planned.revision, summary=note)
    except UnansweredError:
        saved = _saved(desk, planned)
        if saved is None:
            raise
        return saved


def verify(desk: Desk, page: Document, planned: Plan, saved: Saved, after: Snapshot) -> Kept:
    """What became of people's lines, from what the wiki saved; those that it lacked were put back.

    ``after`` is the page as it was read since. When somebody saved between our reading and our edit and the two did not overlap, the wiki has
    merged them without a word: what stood before the edit is then the other's revision.
    """
    now = after.revision
    ours = now is not None and now.number == saved.revision  # nobody has saved it since
    text = now.text if now and ours else api.text_of(desk.site, saved.revision)
    before = page
    if saved.before and saved.before != planned.revision:
        before = fences.parse(api.text_of(desk.site, saved.before), desk.title)
    wanted = weave.persons(before, desk.memory.pristine, desk.blocks)
    lost = wanted - weave.present(fences.parse(text, desk.title))
    put_back = put_lines_back(desk, before.text, lost) if lost else ()
    there = wanted.total() - lost.total() + len(put_back)
    return Kept(base=saved.before, people=wanted.total(), there=there, put_back=put_back)


def mend(desk: Desk, base: int, old: str, repaired: Repaired) -> None:
    """The page has the mended text. Raises :class:`ConflictError` when somebody saved it since."""
    note = desk.memory.summary("damaged comments mended")
    saved = api.edit(desk.site, desk.title, repaired.text, base=base, summary=note)
    if saved is None or saved.before == base:
        return
    before, now = api.text_of(desk.site, saved.before), api.text_of(desk.site, saved.revision)
    surely = _bare(old) - _bare(repaired.text)
    lost = _bare(before) - _bare(now) - surely
    if lost:
        put_lines_back(desk, before, lost)


def put_lines_back(desk: Desk, before: str, lost: Counter[str]) -> tuple[str, ...]:
    """The page has these lines of ``before`` again; returns those that it had lacked."""
    done = Counter[str]()
    for attempt in range(1, ATTEMPTS + 1):
        now = api.read(desk.site, desk.title).revision
        if now is None:
            return tuple(done.elements())
        missing = lost - weave.present(fences.parse(now.text, desk.title))
        if not missing:
            return tuple(done.elements())
        text, note = (
            weave.put_back(now.text, before, missing),
            desk.memory.summary("lines put back"),
        )
        try:
            api.edit(desk.site, desk.title, text, base=now.number, summary=note)
            done |= missing
        except (ConflictError, UnansweredError):
            pause(attempt)
    raise WikiError(
        desk.title,
        f"{counted(lost.total(), 'line')} that the wiki's merge dropped could not be put back: others kept "
        f"saving the page; the first is {quoted(next(iter(lost)))}",
        "the page's history has them",
        code="wiki.lines-lost",
    )


def pause(attempt: int) -> None:
    """Waits longer after each conflict, and never as long as another labkit does."""
    most = min(LONGEST_PAUSE, 0.05 * 2**attempt)
    time.sleep(random.uniform(most / 4, most))  # noqa: S311 - no secret


def _saved(desk: Desk, planned: Plan) -> Saved | None:
    """What the wiki saved of an edit whose reply was lost; None when (so far) it has not."""
    changed = {change.name for change in planned.changes if change.state in ("added", "changed")}
    wanted = {(block.name, block.digest) for block in desk.blocks if block.name in changed}
    before = start = planned.revision or 0
    for revision in api.history(desk.site, desk.title, limit=HISTORY, oldest=True, start=start):
        there = {(match["name"], match["digest"]) for match in fences.FENCE.finditer(revision.text)}
        if revision.number != start and revision.user == desk.site.username and wanted <= there:
            return Saved(revision=revision.number, before=before)
        before = revision.number
    return None


def _guard(desk: Desk, page: Document, planned: Plan) -> None:
    """Raises when the planned text lacks a person's line; that would be a fault of labkit's."""
    after = weave.present(fences.parse(planned.text, desk.title))
    lost = weave.persons(page, desk.memory.pristine, desk.blocks) - after
    if lost:
        raise WikiError(
            desk.title,
            f"the new text would lose {counted(lost.total(), 'line')} of people's, first {quoted(next(iter(lost)))}",
            "nothing was published; this is a fault of labkit's: report it with the page's text",
            code="wiki.lines-lost",
        )


def _bare(text: str) -> Counter[str]:
    """The lines of a page without labkit's comments, whatever those are like."""
    return three_way.count(comments.without(text, comments.read(text, ())).split("\n"))
