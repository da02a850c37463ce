"""Writes a student's answers to remarks: a ``:`` line below each, in the student's own name.

What is typed is read as one line of a person's wikitext: links (``[[#Network|there]]``), addresses,
``''italics''``, ``'''bold'''`` and ``<code>`` work. All else is shown as it was typed, line breaks
included, so that nothing in it can begin another remark, leave its line, or touch labkit's comments.
"""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

from labkit.core import journal
from labkit.core.result import Outcome, action
from labkit.display import broken, counted, quoted
from labkit.errors import ConfigError, WikiError
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client import session
from labkit.wiki.client.protocol import Wiki
from labkit.wiki.client.refusals import ConflictError
from labkit.wiki.merge import fences, three_way
from labkit.wiki.publish import editor
from labkit.wiki.remarks import listing, threads
from labkit.wiki.remarks.listing import Remark, Remarks
from labkit.wiki.render import wikitext

#: Characters of one answer, at most.
LONGEST = 4000
_LIVE = re.compile(
    r"""
    \[\[ [^\[\]{}|<>~\n]+ (?: \| [^\[\]{}|<>~\n]+ )? \]\]   # a link, with or without a text
    | (?<!') '{2,3} (?!')                                   # italics, bold
    | <code> (?P<code> [^<>\n]+ ) </code>
    | https?://[^\s<>\[\]{}|~'"]+
    """,
    re.VERBOSE,
)


class Answer(Record):
    """An answer as it stands on the page: to which remark, in which wikitext (its signature apart), by
    whom, and a revision that has it; ``added`` when it was not there before."""

    id: str
    remark: str
    text: str
    author: str
    page: str
    url: str
    revision: int
    added: bool
    attempts: int = 1


@action("remarks.answer")
def answer(lab: Lab, identity: str, text: str) -> Outcome[Answer]:
    """A remark has this answer, in the student's name; the same answer is not given twice.

    :param identity: the remark's identifier, or a beginning that no other remark's has.
    :raises ConfigError: there is no such remark, or the text is empty or too long.
    :raises WikiError: the wiki does not answer or refuses; the page is whole then.
    """
    line = composed(text)
    with journal.lock(lab.run_dir, "wiki"), closing(session.open(lab, student=True)) as wiki:
        done = give(wiki, lab.wiki.page, identity, line, folder=listing.folder(lab))
    said = "now answers" if done.added else "had already answered"
    return Outcome(
        value=done,
        subject=done.id,
        summary=f"{done.author} {said} the remark {done.id} on the page {done.page}: {done.remark}",
        changed=done.added,
    )


def composed(text: str) -> str:
    """An answer as wikitext, without its signature. Pure."""
    words = text.strip()
    if not words or len(words) > LONGEST:
        reason = f"has {counted(len(words), 'character')}" if words else "is empty"
        raise ConfigError(
            "the answer", reason, f"write 1 to {LONGEST:,} characters", code="config.answer"
        )
    if found := broken(words):
        raise ConfigError(
            "the answer",
            f"contains {found}, a character that a page cannot have",
            "remove it",
            code="config.answer",
        )
    pieces, place = [], 0
    for match in _LIVE.finditer(words):
        pieces += [_literal(words, place, match.start()), _live(match)]
        place = match.end()
    return "".join([*pieces, _literal(words, place, len(words))])


def give(wiki: Wiki, page: str, identity: str, line: str, *, folder: Path) -> Answer:
    """The page has the line below the remark, by the session's account, and every line of before.

    What others save meanwhile stays: the edit is made from the revision that was read, and what the
    wiki saved is read again, for it merges edits that do not overlap.
    """
    added = False
    for attempt in range(1, editor.ATTEMPTS + 1):
        snapshot = wiki.read(page)
        found = listing.of(wiki, snapshot, page=page, folder=folder)
        remark = chosen(found, identity)
        text = snapshot.revision.text if snapshot.revision else ""
        if _answered(text, remark, line):
            return Answer(
                id=remark.id, remark=wikitext.plain(remark.thread.text).split("\n")[0], text=line,
                author=wiki.account, page=found.page, url=found.url, revision=found.revision,
                added=added, attempts=attempt,
            )  # fmt: skip
        note = f"Answer to remark {remark.id}"
        try:
            saved = wiki.save(
                found.page, below(text, remark, line), base=found.revision, summary=note
            )
        except ConflictError:
            editor.pause(attempt)
            continue
        added = True
        if saved:
            texts = wiki.texts([saved.before, saved.revision])
            before, after = texts.get(saved.before, ""), texts.get(saved.revision, "")
            if lost := three_way.count(before.split("\n")) - three_way.count(after.split("\n")):
                editor.put_lines_back(wiki, found.page, before, lost, note)
    raise WikiError(
        page,
        f"was saved by others {editor.ATTEMPTS} times while it was being answered on",
        "answer again when they have finished; nothing of theirs was touched",
        code="wiki.busy",
    )


def chosen(found: Remarks, identity: str) -> Remark:
    """The remark of that identifier, or the only one whose identifier begins so. Pure."""
    wanted = identity.strip().lower()
    fitting = [remark for remark in found.remarks if wanted and remark.id.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    many = (
        f"{len(fitting)} remarks' identifiers begin so"
        if fitting
        else "is not a remark's identifier"
    )
    raise ConfigError(
        f"remark {quoted(identity)}",
        f"{many} on the page {found.page}",
        "labkit remarks lists them",
        code="config.remark",
    )


def below(text: str, remark: Remark, line: str) -> str:
    """The page's text with an answer below the remark. Pure.

    Raises :class:`WikiError` when that would change anything else of what labkit reads from the page.
    """
    lines = text.split("\n")
    lines.insert(remark.thread.last, f": {line} ~~~~")
    new = "\n".join(lines)
    if _else(text, remark) != _else(new, remark):
        raise WikiError(
            "the answer",
            "would change the page around it",
            "write it on the page; nothing was saved",
            code="wiki.answer-markup",
        )
    return new


def _else(text: str, remark: Remark) -> tuple[object, ...]:
    """All but the answers to a remark: the other remarks, the fences."""
    threads_ = [
        (t.text, "" if t.first == remark.thread.first else t.answer) for t in threads.parse(text)
    ]
    return threads_, [(item.block.name, item.digest) for item in fences.blocks(text)]


def _literal(words: str, start: int, end: int) -> str:
    """A stretch of what was typed, as it was typed."""
    return wikitext.literal(words[start:end], begins=start == 0, ends=end == len(words))


def _live(match: re.Match[str]) -> str:
    """A stretch that stays wikitext, unless labkit would take it for one of its comments."""
    if "labkit:" in match[0].lower():
        return wikitext.literal(match[0], begins=False, ends=False)
    return f"<code>{wikitext.literal(match['code'])}</code>" if match["code"] else match[0]


def _answered(text: str, remark: Remark, line: str) -> bool:
    """Whether that line is among the answers to the remark on a page."""
    return any(
        thread.first == remark.thread.first and line in thread.answer.split("\n")
        for thread in threads.parse(text)
    )
