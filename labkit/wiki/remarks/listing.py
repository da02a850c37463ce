"""Lists the remarks on the report's page: what each says, who wrote it, its state; and people's changes to labkit's lines.

A remark (:mod:`labkit.wiki.remarks.threads`) has an identifier that stays the same however often the report is
published: the hash of its first line and of the revision that brought it. It belongs to who wrote it: it is settled by
who asked, or by an account in the wiki's group ``teacher``, and one that somebody else deleted or rewrote is told.

A remark is *stale* when labkit has written its block anew since it was made, and what a reader sees of
the block differs. People's own lines do not count, nor does what differs from run to run by itself
(:func:`labkit.wiki.remarks.threads.seen_lines`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from labkit import reading
from labkit.core.files import write_atomically
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.errors import WikiError
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client.protocol import Revision, Snapshot, Wiki
from labkit.wiki.client.session import TEACHERS
from labkit.wiki.merge import fences, page_merge, three_way
from labkit.wiki.merge.page_merge import Altered, Authorship, LastWrote
from labkit.wiki.publish.last_written import EVERY, EverWritten, stem
from labkit.wiki.remarks import threads
from labkit.wiki.remarks.provenance import Origin, Provenance, Vanished, advance
from labkit.wiki.remarks.threads import State, Thread
from labkit.wiki.render import wikitext


class Addressed(Record):
    """A stage's result that addresses a remark: the notebook's cell, the run, what it says, and
    whether its checks hold."""

    stage: str
    cell: int
    run: str
    summary: str
    holds: bool
    started: datetime


class Remark(Record):
    """A remark with its author and date, ``asked`` being the date of its newest ``REX>`` line; unknown
    ('' and None) where the wiki's owners have hidden the revision.

    ``run`` is the run of the block when the remark was made, ``now`` that of the block as it is.
    ``state`` counts the results that address it, which ``thread.state`` does not. ``claims`` are by those who
    called it settled and may not; of a remark that its author made of somebody else's, ``owner`` is who
    wrote it first.
    """

    thread: Thread
    author: str
    written: datetime | None
    stale: bool
    id: str = ""
    asked: datetime | None = None
    run: str = ""
    now: str = ""
    state: State = "open"
    addressed: tuple[Addressed, ...] = ()
    claims: tuple[Authorship, ...] = ()
    owner: str = ""

    @property
    def told(self) -> str:
        """Its state in words, with the claims that do not count."""
        users = dict.fromkeys(step.user or "unknown" for step in self.claims)
        return "; ".join([self.state, *(f"settled by {user} (not the asker)" for user in users)])

    @property
    def signed(self) -> str:
        """Its author in words."""
        rewritten = self.owner and self.owner != self.author
        return f"{self.author}, rewriting {self.owner}'s" if rewritten else self.author

    @property
    def since(self) -> str:
        """What became of its block since it was made."""
        if not self.stale:
            return "unchanged"
        was, now = self.run or "an unnamed run", self.now or "an unnamed run"
        return f"was made on run {was}, block now of run {now}".replace("run an", "an")


class Remarks(Record):
    """The remarks of the report's page, in the page's order; ``revision`` is the page's last (0: there
    is no page). ``vanished`` are those that others than their writers took away, ``altered`` the lines of
    labkit's that people have changed."""

    page: str
    url: str
    remarks: tuple[Remark, ...]
    revision: int = 0
    vanished: tuple[Vanished, ...] = ()
    altered: tuple[Altered, ...] = ()

    def of(self, state: State) -> tuple[Remark, ...]:
        """Those in one state."""
        return tuple(remark for remark in self.remarks if remark.state == state)


def identifier(line: str, revision: int, copy: int) -> str:
    """A remark's identifier: 8 hexadecimal digits. ``copy`` counts equal lines of one revision. Pure."""
    return hashlib.sha256(f"{revision} {copy} {line}".encode()).hexdigest()[:8]


def addressed(found: Remarks, given: Sequence[tuple[str, Addressed]]) -> Remarks:
    """The remarks with the results that address them, by the remarks' identifiers. Pure.

    An open remark is answered by a result whose checks hold and that is younger than the remark's
    newest ``REX>`` line: to ask again needs a new answer.
    """

    def one(remark: Remark) -> Remark:
        own = tuple(item for identity, item in given if identity == remark.id)
        asked = remark.asked
        answers = any(item.holds and (not asked or item.started > asked) for item in own)
        state: State = (
            "answered" if remark.thread.state == "open" and answers else remark.thread.state
        )
        return remark.model_copy(update={"addressed": own, "state": state})

    return found.model_copy(update={"remarks": tuple(one(remark) for remark in found.remarks)})


def table(found: Remarks) -> Table:
    """The remarks as a table."""
    rows: list[dict[str, Cell]] = [
        {
            "id": remark.id,
            "state": remark.told,
            "where": _where(remark.thread),
            "remark": wikitext.plain(remark.thread.text),
            "answer": answers(remark) or None,
            "author": remark.signed,
            "written (UTC)": page_merge.moment(remark.written) or None,
            "since then": remark.since,
        }
        for remark in found.remarks
    ]
    columns = ("id", "state", "where", "remark", "answer", "author", "written (UTC)", "since then")
    return Table.of("remarks", "Remarks on the page", rows, columns=columns)


def _where(item: Thread | Vanished) -> str:
    return item.block or item.section or "the page's beginning"


def sentence(found: Remarks) -> str:
    """How many there are, and in which states."""
    if not found.revision:
        return f"The wiki has no page {found.page} yet: nothing was published there."
    counts = Counter(remark.state for remark in found.remarks)
    said = ", ".join(f"{counts[state]} {state}" for state in ("open", "answered", "settled"))
    total = f"{counted(len(found.remarks), 'remark')} on the page {found.page}{f': {said}' if found.remarks else ''}."
    changed = page_merge.altered_sentence(found.altered)
    return f"{total}{gone(found.vanished)}{f' {changed}' if changed else ''}"


def gone(found: Sequence[Vanished]) -> str:
    """How many remarks' lines others than their writers took away, to go on with; '' for none."""
    said = f" {counted(len(found), 'line')} of remarks deleted or rewritten by others than the writers."
    return said if found else ""


def tables(found: Remarks) -> tuple[Table, ...]:
    """The tables that have rows: the remarks, what became of others' remarks, labkit's changed lines."""
    every = (table(found), vanished(found.vanished), page_merge.altered_table(found.altered))
    return tuple(one for one in every if one.rows)


def vanished(gone: Sequence[Vanished]) -> Table:
    """The remarks that others than their writers took away or rewrote, as a table."""
    rows: list[dict[str, Cell]] = [
        {
            "where": _where(item),
            "remark": wikitext.plain(item.line),
            "author": item.author or "unknown",
            "written (UTC)": page_merge.moment(item.written) or None,
            "what": item.became,
            "by": item.by.user or "unknown",
            "on (UTC)": page_merge.moment(item.by.time) or None,
            "now": wikitext.plain(item.by.line) or None,
        }
        for item in gone
    ]
    columns = ("where", "remark", "author", "written (UTC)", "what", "by", "on (UTC)", "now")
    title = "Remarks that others than their writers deleted or rewrote"
    return Table.of("vanished", title, rows, columns=columns)


def answers(remark: Remark) -> str:
    """All answers to a remark, on the page and by results, a line each."""
    lines = [wikitext.plain(line) for line in remark.thread.answer.split("\n") if line]
    return "\n".join([*lines, *(f"{item.stage}: {item.summary}" for item in remark.addressed)])


class ReadPage(Record):
    """What was found at a page's revision, for the next time: ``teachers`` are those of the ``doubtful``, who
    settled others' remarks, that are in the wiki's group."""

    provenance: Provenance
    found: Remarks
    doubtful: frozenset[str]
    teachers: frozenset[str]


def folder(lab: Lab) -> Path:
    """Where this machine keeps what it knows of the wiki's pages."""
    return lab.state_dir / "wiki"


def collect(wiki: Wiki, page: str, folder: Path) -> Remarks:
    """The remarks of a page as it is now; the wiki is asked and not changed.

    :param folder: as of :func:`folder`: what is known of the page's history is kept below it, so
        that a page that nobody saved since costs one request (and one more where somebody settled another's
        remark: the wiki's groups may have changed).
    """
    return of(wiki, wiki.read(page), page=page, folder=folder, groups=True)


def of(wiki: Wiki, snapshot: Snapshot, *, page: str, folder: Path, groups: bool = False) -> Remarks:
    """The remarks of a page that was read; ``page`` is what it was called when it was first published.

    With ``groups`` the wiki is asked again who is a teacher; else only when the page was saved since.
    """
    now, title = snapshot.revision, snapshot.title
    url = wiki.url(title)
    if now is None:
        return Remarks(page=title, url=url, remarks=())
    file = folder / "remarks" / f"{stem(page)}.json"
    kept = _read(file, wiki.bot)
    same = kept and (kept.found.page, kept.found.url) == (title, url)
    if kept and same and kept.provenance.at(now):
        asked = groups and kept.doubtful
        teachers = wiki.members(kept.doubtful, TEACHERS) if asked else kept.teachers
        if teachers == kept.teachers:
            return kept.found
    written = EverWritten(wiki, page, folder / "pristine")
    provenance = kept.provenance if kept else Provenance(bot=wiki.bot)
    if provenance.revision == now.parent and (same or not kept):
        provenance = _to(now, iter([now]), provenance, written)
    else:
        provenance = _followed(wiki, title, now, provenance, written)
    origins = _origins(now.text, provenance)
    doubtful = _doubtful(now.text, origins)
    teachers = wiki.members(doubtful, TEACHERS)
    found = threads.parse(now.text, lambda line, asking: _may(origins, teachers, line, asking))
    old = stale(wiki, now, found, origins, written.find)
    result = Remarks(
        page=title, url=url, remarks=tuple(_remarks(now, found, origins, old)), revision=now.number,
        vanished=provenance.vanished,
        altered=provenance.altered,
    )  # fmt: skip
    new = ReadPage(provenance=provenance, found=result, doubtful=doubtful, teachers=teachers)
    with suppress(OSError):  # who may not write there reads the history again
        write_atomically(file, new.model_dump_json(), mode=0o600)
    return result


def _read(file: Path, bot: str) -> ReadPage | None:
    """What this machine knows of a page on which that account publishes."""
    try:
        kept = ReadPage.model_validate_json(reading.content(file))
    except (OSError, ValueError):
        return None
    return kept if kept.provenance.bot == bot else None


def _followed(
    wiki: Wiki, title: str, now: Revision, provenance: Provenance, written: EverWritten
) -> Provenance:
    """The provenance up to ``now``, from where it had come to if that is a revision of this page's."""
    if provenance.revision:
        with suppress(WikiError):  # no such revision: another page, or another wiki
            history = wiki.history(title, limit=EVERY, oldest=True, start=provenance.revision)
            first = next(history, None)
            if first and provenance.at(first):
                return _to(now, history, provenance, written)
    whole = wiki.history(title, limit=EVERY, oldest=True)
    return _to(now, whole, Provenance(bot=provenance.bot), written)


def _to(
    now: Revision, history: Iterator[Revision], provenance: Provenance, written: EverWritten
) -> Provenance:
    for revision in history:
        written.read(revision.text)
        provenance = advance(provenance, revision, written.find)
        if revision.number == now.number:
            break
    return provenance


def _origins(text: str, provenance: Provenance) -> dict[int, Origin]:
    """The origin of each ``REX>`` line, by the line's number."""
    left = {line: list(origins) for line, origins in provenance.here.items()}
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


def _remarks(
    now: Revision, found: Sequence[Thread], origins: Mapping[int, Origin], old: set[int]
) -> Iterator[Remark]:
    copies = Counter[tuple[str, int]]()
    runs = {item.block.name: threads.run_of(item.block.lines) for item in fences.blocks(now.text)}
    asking = [line.number for line in threads.marked(now.text) if not threads.settles(line.text)]
    dates = {line: origins[line].by.time for line in asking if line in origins}
    for thread in found:
        origin = origins.get(thread.first)
        by = origin.by if origin else Authorship()
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
                origins[line].by if line in origins else Authorship() for line in thread.ignored
            ),
        )


def stale(
    wiki: Wiki,
    now: Revision,
    found: Sequence[Thread],
    origins: Mapping[int, Origin],
    last_wrote: LastWrote,
) -> set[int]:
    """The remarks (the numbers of their first lines) that are stale on a page; ``origins`` has the
    revision of each. Asks for the texts of those whose block's fence has changed since."""
    fences_now = {item.block.name: item.digest for item in fences.blocks(now.text)}
    doubtful = {
        thread.first: (thread.block, origin.by.revision)
        for thread in found
        if (origin := origins.get(thread.first)) and origin.digest
        and origin.digest != fences_now.get(thread.block, origin.digest)
    }  # fmt: skip
    if not doubtful:
        return set()
    people = set(page_merge.persons(fences.parse(now.text, ""), last_wrote, ()))
    texts = wiki.texts({revision for _, revision in doubtful.values()})
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
    block = next((item.block for item in fences.blocks(text) if item.block.name == name), None)
    lines = [line.rstrip() for line in block.lines] if block else []
    return threads.seen_lines(
        line for line in lines if three_way.key(line) not in people and line not in said
    )
