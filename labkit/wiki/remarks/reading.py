"""The remarks that people write in the report, read from its page and the page's history; and what people
changed in labkit's own lines there.

A remark belongs to who wrote it: it is settled by who asked, or by an account in the wiki's group ``teacher``, and
one that somebody else deleted or rewrote is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from labkit import reading
from labkit.core.files import write_atomically
from labkit.errors import WikiError
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client import api
from labkit.wiki.client.accounts import TEACHERS
from labkit.wiki.client.api import Revision, Snapshot
from labkit.wiki.merge.altered import Step
from labkit.wiki.publish import publishing
from labkit.wiki.publish.pristine import EVERY, Written, stem
from labkit.wiki.remarks import threads, visible
from labkit.wiki.remarks.listing import Remark, Remarks, Vanished, identifier
from labkit.wiki.remarks.staleness import blocks, stale
from labkit.wiki.remarks.threads import Thread
from labkit.wiki.remarks.trail import Origin, Trail, advance

if TYPE_CHECKING:
    import mwclient


class Kept(Record):
    """What was found at a page's revision, for the next time: ``teachers`` are those of the ``doubtful``, who
    settled others' remarks, that are in the wiki's group. ``form`` tells it from what older labkits kept."""

    form: Literal[2]
    trail: Trail
    found: Remarks
    doubtful: frozenset[str]
    teachers: frozenset[str]


def folder(lab: Lab) -> Path:
    """Where this machine keeps what it knows of the wiki's pages."""
    return lab.state_dir / "wiki"


def collect(site: mwclient.Site, page: str, folder: Path) -> Remarks:
    """The remarks of a page as it is now; the wiki is asked and not changed.

    :param folder: as of :func:`folder`: what is known of the page's history is kept below it, so
        that a page that nobody saved since costs one request (and one more where somebody settled another's
        remark: the wiki's groups may have changed).
    """
    return of(site, api.read(site, page), page=page, folder=folder, groups=True)


def of(
    site: mwclient.Site, snapshot: Snapshot, *, page: str, folder: Path, groups: bool = False
) -> Remarks:
    """The remarks of a page that was read; ``page`` is what it was called when it was first published.

    With ``groups`` the wiki is asked again who is a teacher; else only when the page was saved since.
    """
    now, title = snapshot.revision, snapshot.title
    url = publishing.url(site, title)
    if now is None:
        return Remarks(page=title, url=url, remarks=())
    file = folder / "remarks" / f"{stem(page)}.json"
    kept = _read(file)
    kept = kept if kept and kept.trail.bot == site.bot else None
    same = kept and (kept.found.page, kept.found.url) == (title, url)
    if kept and same and kept.trail.at(now):
        asked = groups and kept.doubtful
        teachers = api.members(site, kept.doubtful, TEACHERS) if asked else kept.teachers
        if teachers == kept.teachers:
            return kept.found
    written = Written(site, page, folder / "pristine")
    trail = kept.trail if kept else Trail(bot=site.bot)
    if trail.revision == now.parent and (same or not kept):
        trail = _to(now, iter([now]), trail, written)
    else:
        trail = _followed(site, title, now, trail, written)
    origins = _origins(now.text, trail)
    doubtful = _doubtful(now.text, origins)
    teachers = api.members(site, doubtful, TEACHERS)
    found = threads.parse(now.text, lambda line, asking: _may(origins, teachers, line, asking))
    old = stale(site, now, found, origins, written.pristine)
    result = Remarks(
        page=title, url=url, remarks=tuple(_remarks(now, found, origins, old)), revision=now.number,
        vanished=vanished(trail),
        altered=trail.altered,
    )  # fmt: skip
    new = Kept(form=2, trail=trail, found=result, doubtful=doubtful, teachers=teachers)
    with suppress(OSError):  # who may not write there reads the history again
        write_atomically(file, new.model_dump_json(), mode=0o600)
    return result


def _read(file: Path) -> Kept | None:
    try:
        return Kept.model_validate_json(reading.content(file))
    except (OSError, ValueError, ValidationError):
        return None


def _followed(
    site: mwclient.Site, title: str, now: Revision, trail: Trail, written: Written
) -> Trail:
    """The trail up to ``now``, from where it had come to if that is a revision of this page's."""
    if trail.revision:
        with suppress(WikiError):  # no such revision: another page, or another wiki
            history = api.history(site, title, limit=EVERY, oldest=True, start=trail.revision)
            first = next(history, None)
            if first and trail.at(first):
                return _to(now, history, trail, written)
    whole = api.history(site, title, limit=EVERY, oldest=True)
    return _to(now, whole, Trail(bot=trail.bot), written)


def _to(now: Revision, history: Iterator[Revision], trail: Trail, written: Written) -> Trail:
    for revision in history:
        written.read(revision.text)
        trail = advance(trail, revision, written.pristine)
        if revision.number == now.number:
            break
    return trail


def _origins(text: str, trail: Trail) -> dict[int, Origin]:
    """The origin of each ``REX>`` line, by the line's number."""
    left = {line: list(origins) for line, origins in trail.here.items()}
    found = {}
    for line in threads.marked(text):
        if left.get(line.text):
            found[line.number] = left[line.text].pop(0)
    return found


def _may(
    origins: Mapping[int, Origin], teachers: Collection[str], line: int, asking: Sequence[int]
) -> bool:
    """Whether a line that settles a remark comes from all who asked, or from a teacher."""
    user = origins[line].by.user if line in origins else ""
    owners = {origins[one].owner if one in origins else "" for one in asking}
    return not asking or (user != "" and (owners == {user} or user in teachers))


def _doubtful(text: str, origins: Mapping[int, Origin]) -> frozenset[str]:
    """Who settled remarks of others'."""
    found = threads.parse(text, lambda line, asking: _may(origins, (), line, asking))
    users = {origins[line].by.user for one in found for line in one.ignored if line in origins}
    return frozenset(users - {""})


def vanished(trail: Trail) -> tuple[Vanished, ...]:
    """The remarks that others than their writers deleted or rewrote."""
    return tuple(
        Vanished(
            line=line, author=origin.by.user, written=origin.by.time, block=origin.block,
            section=origin.section, by=origin.away,
        )
        for line, origin in trail.vanished
        if origin.away
    )  # fmt: skip


def _remarks(
    now: Revision, found: Sequence[Thread], origins: Mapping[int, Origin], old: set[int]
) -> Iterator[Remark]:
    copies = Counter[tuple[str, int]]()
    runs = {item.block.name: visible.run_of(item.block.lines) for item in blocks(now.text)}
    asking = [line.number for line in threads.marked(now.text) if not threads.settles(line.text)]
    dates = {line: origins[line].by.time for line in asking if line in origins}
    for thread in found:
        origin = origins.get(thread.first)
        by = origin.by if origin else Step()
        key = thread.line, by.revision
        copies[key] += 1
        own = [time for line, time in dates.items() if time and thread.first <= line <= thread.last]
        yield Remark(
            thread=thread,
            author=by.user,
            owner=origin.owner if origin else "",
            written=by.time,
            stale=thread.first in old,
            id=identifier(*key, copies[key]),
            asked=max(own, default=None),
            run=origin.run if origin else "",
            now=runs.get(thread.block, ""),
            state=thread.state,
            claims=tuple(
                origins[line].by if line in origins else Step() for line in thread.ignored
            ),
        )
