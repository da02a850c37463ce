"""labkit's comments on a page, those included that a person has damaged. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from labkit.records import Record
from labkit.wiki.merge import fences

Kind = Literal["begin", "end", "page", ""]
#: A damaged comment as far as its line goes, and not into the next comment.
_DAMAGED = re.compile(
    r"(?P<open><!--\s*)?labkit\s*(?P<colon>:?)\s*(?P<word>\w*)(?P<rest>(?:(?!<!--)[^\n])*?)"
    r"(?:\s*--+>|(?=<!--)|$)",
    re.IGNORECASE | re.MULTILINE,
)
_DIGEST = re.compile(r"[0-9a-fA-F]{1,40}")
_KINDS: tuple[Literal["begin"], Literal["end"], Literal["page"]] = ("begin", "end", "page")


class Comment(Record):
    """A comment of labkit's, or what is left of one.

    ``start`` and ``end`` are its first character's place and the one after its last; ``rest`` are the
    words in it that labkit did not write. A damaged one may have lost ``kind``, ``name`` and ``digest``
    ('' then).
    """

    kind: Kind
    start: int
    end: int
    name: str = ""
    digest: str = ""
    names: tuple[str, ...] = ()
    rest: str = ""


def read(text: str, known: Iterable[str]) -> tuple[Comment, ...]:
    """The comments of a page in their order; ``known`` are names of blocks that a damaged one may mean."""
    whole = list(fences.FENCE.finditer(text))
    names = {*known, *(name for match in whole for name in _names(match))}
    found: list[Comment] = []
    place = 0
    for match in whole:
        found += _damaged(text, place, match.start(), names)
        found.append(_whole(match))
        place = match.end()
    return (*found, *_damaged(text, place, len(text), names))


def without(text: str, comments: Iterable[Comment], start: int = 0, end: int | None = None) -> str:
    """A stretch of the text in which of each comment only people's words are left; a line that has
    nothing else goes with its comment, and so do labkit's notices."""
    pieces, place, last = [], start, len(text) if end is None else end
    for comment in comments:
        if comment.start < place or comment.end > last:
            continue
        pieces += [text[place : comment.start], comment.rest]
        place = comment.end
        alone = comment.start == 0 or text[comment.start - 1] == "\n"
        if alone and not comment.rest and place < last and text[place] == "\n":
            place += 1
    return fences.without_notices("".join([*pieces, text[place:last]]))


def _names(match: re.Match[str]) -> tuple[str, ...]:
    if match["names"] is not None:
        return tuple(match["names"].split())
    return (match["name"] or match["end"],)


def _whole(match: re.Match[str]) -> Comment:
    kind: Kind = "begin" if match["begin"] else "end" if match["end"] else "page"
    return Comment(
        kind=kind, start=match.start(), end=match.end(), digest=match["digest"] or "",
        name="" if kind == "page" else _names(match)[0],
        names=_names(match) if kind == "page" else (),
    )  # fmt: skip


def _damaged(text: str, start: int, end: int, names: set[str]) -> Iterator[Comment]:
    while trace := fences.TRACE.search(text, start, end):
        match = _DAMAGED.match(text, trace.start(), end)
        assert match is not None  # noqa: S101 - a trace is the beginning of one
        yield _read(match, names)
        start = max(match.end(), trace.end())


def _read(match: re.Match[str], names: set[str]) -> Comment:
    """What a damaged comment says."""
    near = difflib.get_close_matches(match["word"].lower(), _KINDS, 1, 0.6)
    words = match["rest"].split()
    at = {"start": match.start(), "end": match.end()}
    if not near:  # a comment of a person's that begins as labkit's do
        return Comment(kind="", rest=match[0].replace(match["colon"], " ", 1), **at)
    if near[0] == "page":
        words = match["rest"].replace(fences.ADVICE, "").replace("|", " ").split()
        rest = " ".join(word for word in words if word not in names)
        return Comment(kind="page", names=tuple(n for n in words if n in names), rest=rest, **at)
    meant = difflib.get_close_matches(words[0], names, 1, 0.6) if words else []
    words = words[1:] if meant else words
    digest = (
        words.pop(0).lower() if near[0] == "begin" and words and _DIGEST.fullmatch(words[0]) else ""
    )
    kind: Kind = "begin" if near[0] == "begin" else "end"
    return Comment(
        kind=kind, name=meant[0] if meant else "", digest=digest if len(digest) == 16 else "",
        rest=" ".join(words), **at,
    )  # fmt: skip
