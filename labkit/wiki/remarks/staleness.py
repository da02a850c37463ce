"""Which remarks are about something that a reader no longer sees.

A remark is *stale* when labkit has written its block anew since it was made, and what a reader sees of
the block differs. People's own lines do not count, nor does what differs from run to run by itself
(:mod:`labkit.wiki.remarks.visible`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from labkit.errors import WikiError
from labkit.wiki.client import api
from labkit.wiki.client.api import Revision
from labkit.wiki.merge import fences, three_way, weave
from labkit.wiki.merge.fences import Fenced
from labkit.wiki.merge.weave import Pristine
from labkit.wiki.remarks import threads, visible
from labkit.wiki.remarks.threads import Thread
from labkit.wiki.remarks.trail import Origin

if TYPE_CHECKING:
    import mwclient


def stale(
    site: mwclient.Site,
    now: Revision,
    found: Sequence[Thread],
    origins: Mapping[int, Origin],
    pristine: Pristine,
) -> set[int]:
    """The remarks (the numbers of their first lines) that are stale on a page; ``origins`` has the
    revision of each. Asks for the texts of those whose block's fence has changed since."""
    fences_now = {item.block.name: item.digest for item in blocks(now.text)}
    doubtful = {
        thread.first: (thread.block, origin.by.revision)
        for thread in found
        if (origin := origins.get(thread.first)) and origin.digest
        and origin.digest != fences_now.get(thread.block, origin.digest)
    }  # fmt: skip
    if not doubtful:
        return set()
    people = set(weave.persons(fences.parse(now.text, ""), pristine, ()))
    texts = api.texts(site, {revision for _, revision in doubtful.values()})
    return {
        first
        for first, (name, revision) in doubtful.items()
        if face(texts.get(revision, ""), name, people) != face(now.text, name, people)
    }


def face(text: str, name: str, people: Collection[str]) -> tuple[str, ...]:
    """What a reader sees of a block of a page, but for these lines of people's and the remarks. Pure."""
    spans = [(thread.first, thread.last) for thread in threads.parse(text)]
    said = {
        line.text for line in threads.lines(text) if any(a <= line.number <= b for a, b in spans)
    }
    block = next((item.block for item in blocks(text) if item.block.name == name), None)
    lines = [line.rstrip() for line in block.lines] if block else []
    return visible.seen(
        line for line in lines if three_way.key(line) not in people and line not in said
    )


def blocks(text: str) -> tuple[Fenced, ...]:
    """The blocks of a page; none where its fences are damaged. Pure."""
    try:
        return fences.parse(text, "").blocks
    except WikiError:
        return ()
