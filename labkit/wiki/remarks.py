"""The remarks that people write in the report, read from its page and the page's history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from labkit.errors import WikiError
from labkit.files import write_atomically
from labkit.lab import Lab
from labkit.result import Record
from labkit.wiki import publish
from labkit.wiki.access import api
from labkit.wiki.access.api import Revision, Snapshot
from labkit.wiki.merging.pristine import Memory, stem
from labkit.wiki.talk import threads, visible
from labkit.wiki.talk.listing import Remark, Remarks, identifier
from labkit.wiki.talk.staleness import blocks, stale
from labkit.wiki.talk.threads import Thread
from labkit.wiki.talk.trail import Origin, Trail, advance

if TYPE_CHECKING:
    import mwclient

#: Revisions of a page that are read, at most.
HISTORY = 20_000


class Kept(Record):
    """What was found at a page's revision, for the next time."""

    trail: Trail
    found: Remarks


def folder(lab: Lab) -> Path:
    """Where this machine keeps what it knows of the wiki's pages."""
    return lab.state_dir / "wiki"


def collect(site: mwclient.Site, page: str, folder: Path) -> Remarks:
    """The remarks of a page as it is now; the wiki is asked and not changed.

    :param folder: as of :func:`folder`: what is known of the page's history is kept below it, so
        that a page that nobody saved since costs one request.
    """
    return of(site, api.read(site, page), page=page, folder=folder)


def of(site: mwclient.Site, snapshot: Snapshot, *, page: str, folder: Path) -> Remarks:
    """The remarks of a page that was read; ``page`` is what it was called when it was first published."""
    now, title = snapshot.revision, snapshot.title
    url = publish.url(site, title)
    found = threads.parse(now.text) if now else ()
    if now is None or not found:
        return Remarks(page=title, url=url, remarks=(), revision=now.number if now else 0)
    file = folder / "remarks" / f"{stem(page)}.json"
    kept = _read(file)
    if kept and kept.trail.at(now) and (kept.found.page, kept.found.url) == (title, url):
        return kept.found
    trail = _followed(site, title, now, kept.trail if kept else Trail())
    origins = _origins(now.text, trail)
    old = stale(site, now, found, origins, Memory(site, page, folder / "pristine").pristine)
    remarks = tuple(_remarks(now, found, origins, old))
    result = Remarks(page=title, url=url, remarks=remarks, revision=now.number)
    with suppress(OSError):  # who may not write there reads the history again
        write_atomically(file, Kept(trail=trail, found=result).model_dump_json(), mode=0o600)
    return result


def _read(file: Path) -> Kept | None:
    try:
        return Kept.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError):
        return None


def _followed(site: mwclient.Site, title: str, now: Revision, trail: Trail) -> Trail:
    """The trail up to ``now``, from where it had come to if that is a revision of this page's."""
    if trail.revision:
        with suppress(WikiError):  # no such revision: another page, or another wiki
            history = api.history(site, title, limit=HISTORY, oldest=True, start=trail.revision)
            first = next(history, None)
            if first and trail.at(first):
                return _to(now, history, trail)
    return _to(now, api.history(site, title, limit=HISTORY, oldest=True), Trail())


def _to(now: Revision, history: Iterator[Revision], trail: Trail) -> Trail:
    for revision in history:
        trail = advance(trail, revision)
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


def _remarks(
    now: Revision, found: Sequence[Thread], origins: Mapping[int, Origin], old: set[int]
) -> Iterator[Remark]:
    copies = Counter[tuple[str, int]]()
    runs = {item.block.name: visible.run_of(item.block.lines) for item in blocks(now.text)}
    dates = {line: origin.time for line, origin in origins.items() if origin.time}
    for thread in found:
        origin = origins.get(thread.first)
        key = thread.line, origin.revision if origin else 0
        copies[key] += 1
        own = [dates[line] for line in dates if thread.first <= line <= thread.last]
        yield Remark(
            thread=thread,
            author=origin.user if origin else "",
            written=origin.time if origin else None,
            stale=thread.first in old,
            id=identifier(*key, copies[key]),
            asked=max(own, default=None),
            run=origin.run if origin else "",
            now=runs.get(thread.block, ""),
            state=thread.state,
        )
