"""Mends the comments around labkit's blocks when a person has damaged them. Pure.

A begin and an end of one name are a block, whatever hash the begin has; one that stands inside another one is
moved behind it. A comment that has lost its other one, or that stands in a wrong place, is taken off, and the block
of its name gets new ones around the lines that are surely labkit's. Of a block that stands twice the second goes, but
for the lines in it that are not surely labkit's. Every other line of the page stays as it is.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from labkit.display import quoted
from labkit.errors import WikiError
from labkit.records import Record
from labkit.wiki.merge import fences, page_merge, three_way
from labkit.wiki.merge.fences import Block
from labkit.wiki.merge.page_merge import LastWrote

#: A hash that no block has: what labkit wrote there is unknown.
UNKNOWN = "0" * 16
Kind = Literal["begin", "end", "page", ""]
#: A damaged comment as far as its line goes, and not into the next comment.
_DAMAGED = re.compile(
    r"(?P<open><!--\s*)?labkit\s*(?P<colon>:?)\s*(?P<word>\w*)(?P<rest>(?:(?!<!--)[^\n])*?)"
    r"(?:\s*--+>|(?=<!--)|$)",
    re.IGNORECASE | re.MULTILINE,
)
_DIGEST = re.compile(r"[0-9a-fA-F]{1,40}")
_FENCING: tuple[Literal["begin"], Literal["end"]] = ("begin", "end")


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


class Repaired(Record):
    """A page's text with its comments mended; ``diff`` shows what was done (unified, '' for nothing)."""

    text: str
    diff: str = ""


@dataclass
class Piece:
    """A stretch of the mended page: a block's heading line and body, or (``name`` '') text outside."""

    text: str
    name: str = ""
    digest: str = ""
    heading: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """The heading line and the lines of the body."""
        return (self.heading, *self.text.split("\n"))


@dataclass(frozen=True)
class Bench:
    """What a repair works with: the damaged text, its comments, and what labkit may have written.

    ``surely`` counts the lines that are taken away because they are labkit's.
    """

    text: str
    found: tuple[Comment, ...]
    versions: tuple[Block, ...]
    last_wrote: LastWrote
    surely: Counter[str] = field(default_factory=Counter)

    def bare(self, start: int, end: int) -> str:
        """A stretch of the text without labkit's comments."""
        return without(self.text, self.found, start, end)

    def best(self, name: str, lines: Sequence[str]) -> Block | None:
        """What labkit wrote under that name ('': under any) and the lines have most of, if any."""
        known = [block for block in self.versions if name in ("", block.name)]
        return max(known, key=lambda block: len(anchors(lines, block)), default=None)

    def base(self, name: str, digest: str, lines: Sequence[str]) -> Block | None:
        """What labkit wrote there: by its hash, else by its likeness to the lines."""
        return (self.last_wrote(name, digest) if digest else None) or self.best(name, lines)


def repair(text: str, page: str, *, versions: Sequence[Block], last_wrote: LastWrote) -> Repaired:
    """The page's text with whole comments; nothing is changed of one that has them.

    :param versions: what labkit wrote on the page, and what it would write now, as far as it knows.
    :raises WikiError: it would lose a line that is not surely labkit's (a fault of labkit's).
    """
    found = read_comments(text, {block.name for block in versions})
    named = [last_wrote(item.name, item.digest) for item in found if item.name and item.digest]
    bench = Bench(text, found, (*versions, *filter(None, named)), last_wrote)
    if _good(bench, page):
        return Repaired(text=text)
    pieces = _single(bench, _laid(bench, *paired(found), 0, len(text)))
    lists = [item for item in found if item.kind == "page"]
    names = tuple(dict.fromkeys(name for item in lists for name in item.names))
    new = "".join([f"{fences.listed(names)}\n" if names else "", *map(_written, pieces)])
    _guard(bench, new, page)
    return Repaired(text=new, diff=page_merge.difference(text, new))


def bare(text: str) -> Counter[str]:
    """The lines of a page without labkit's comments, whatever those are like."""
    return three_way.count(without(text, read_comments(text, ())).split("\n"))


def anchors(lines: Sequence[str], block: Block) -> list[tuple[int, int]]:
    """The lines that are surely the block's, as pairs of places, in order: equal ones that say
    something, and equal ones next to these."""
    pairs = three_way.equal(lines, block.lines)
    sure = {pair for pair in pairs if sum(c.isalnum() for c in lines[pair[0]]) >= 3}
    for step, ordered in ((1, pairs), (-1, pairs[::-1])):
        for i, j in ordered:
            if (i - step, j - step) in sure:
                sure.add((i, j))
    return sorted(sure)


def paired(comments: Iterable[Comment]) -> tuple[list[tuple[Comment, Comment]], list[Comment]]:
    """The begins with their ends, in the order of the begins, and the comments that have lost the other one.

    An end belongs to the last begin before it that has no end yet, where both have one name.
    """
    opened: list[Comment] = []
    pairs: list[tuple[Comment, Comment]] = []
    stray: list[Comment] = []
    for item in comments:
        if item.kind == "begin":
            opened.append(item)
        elif item.kind == "end" and item.name and opened and opened[-1].name == item.name:
            pairs.append((opened.pop(), item))
        elif item.kind == "end":
            stray.append(item)
    return sorted(pairs, key=lambda pair: pair[0].start), [*stray, *opened]


def _laid(
    bench: Bench, pairs: Sequence[tuple[Comment, Comment]], stray: Sequence[Comment], start: int, end: int
) -> list[Piece]:  # fmt: skip
    """The pieces of a stretch of the text in which these pairs stand."""
    pieces: list[Piece] = []
    for begin, closing in pairs:
        if begin.start < start:
            continue  # it stands inside the one before
        head = max(start, bench.text.rfind("\n", 0, begin.start) + 1)
        inner = [pair for pair in pairs if begin.start < pair[0].start < closing.start]
        place = begin.end + (bench.text[begin.end : begin.end + 1] == "\n")
        inside = _laid(bench, inner, (), place, closing.start)
        body = f"{begin.rest}\n" if begin.rest else ""
        for text in (piece.text for piece in inside if not piece.name):
            body += text.removeprefix("\n") if body.endswith("\n") else text
        heading, body = bench.bare(head, begin.start).strip(), body.removesuffix("\n")
        lines = (heading, *body.split("\n"))
        digest = _digest(bench, begin.name, begin.digest, lines)
        pieces += _searched(bench, stray, start, head)
        pieces.append(Piece(body, begin.name, digest, heading))
        pieces += [part for piece in inside if piece.name for part in (Piece("\n\n"), piece)]
        pieces += [Piece(f"\n{closing.rest}")] if closing.rest else []
        start = closing.end
    return [*pieces, *_searched(bench, stray, start, end)]


def _searched(bench: Bench, stray: Iterable[Comment], start: int, end: int) -> list[Piece]:
    """The pieces of a stretch between blocks; the blocks whose comments are stray in it are searched for."""
    here = [item for item in stray if start <= item.start < end]
    kinds = Counter((item.name, item.kind) for item in here)
    names = sorted({item.name for item in here}, reverse=True)  # the nameless last
    wanted = [name for name in names for _ in range(max(kinds[name, kind] for kind in _FENCING))]
    blocks = max(sum(item.kind == kind for item in here) for kind in _FENCING)
    pieces = [Piece(bench.bare(start, end))]
    for name in wanted:
        texts = [(n, piece.text) for n, piece in enumerate(pieces) if not piece.name]
        asked = texts if name or blocks > 0 else ()
        made = [(n, new) for n, text in asked if (new := _block(bench, name, text))]
        for n, new in made[:1]:
            pieces[n : n + 1] = new
            blocks -= 1
    return pieces


def _block(bench: Bench, name: str, text: str) -> list[Piece] | None:
    """The text with the block of that name in it ('': of any) as a piece, from its first to its last line that is
    surely labkit's; None where it has no such line."""
    lines = text.split("\n")
    bare = [line.rstrip() for line in lines]
    base = bench.best(name, bare)
    sure = anchors(bare, base) if base else []
    if base is None or not sure:
        return None
    first, last = sure[0][0], sure[-1][0] + 1
    above = next((n for n in range(first - 1, -1, -1) if bare[n]), first)
    first = above if not _is_heading(bare[first]) and _is_heading(bare[above]) else first
    top = first + _is_heading(bare[first])
    heading = bare[first] if top > first else ""
    block = Piece("\n".join(lines[top:last]), base.name, base.digest, heading)
    before = Piece("".join(f"{line}\n" for line in lines[:first]))
    return [before, block, Piece("".join(f"\n{line}" for line in lines[last:]))]


def _is_heading(line: str) -> bool:
    return line.startswith("==") and line.endswith("==")


def _digest(bench: Bench, name: str, digest: str, lines: Sequence[str]) -> str:
    """The hash that tells what labkit wrote there."""
    if digest and bench.last_wrote(name, digest):
        return digest
    best = bench.best(name, lines)
    return best.digest if best and anchors(lines, best) else digest or UNKNOWN


def _single(bench: Bench, pieces: Sequence[Piece]) -> list[Piece]:
    """Each block once: where it has the most of what labkit wrote. Of the others what is not surely
    labkit's goes there; one of which nothing is known stays where it is, outside of blocks."""
    kept: dict[str, Piece] = {}
    for piece in pieces:
        best = kept.get(piece.name)
        if piece.name and (best is None or _own(bench, piece) > _own(bench, best)):
            kept[piece.name] = piece
    single: list[Piece] = []
    for piece in pieces:
        if not piece.name or kept[piece.name] is piece:
            single.append(piece)
            continue
        base = bench.base(piece.name, piece.digest, piece.lines)
        if base is None or not anchors(piece.lines, base):
            single.append(Piece("\n".join(piece.lines)))
            continue
        theirs = three_way.persons(base.lines, piece.lines)
        bench.surely.update(three_way.count(piece.lines) - theirs)
        home = kept[piece.name]
        home.text = (
            page_merge.put_back(home.text, "\n".join(piece.lines), theirs) if theirs else home.text
        )
    return single


def _own(bench: Bench, piece: Piece) -> int:
    """How many lines of a block are surely labkit's."""
    base = bench.base(piece.name, piece.digest, piece.lines)
    return len(anchors(piece.lines, base)) if base else 0


def _written(piece: Piece) -> str:
    if not piece.name:
        return piece.text
    block = Block(name=piece.name, heading=piece.heading, body=piece.text)
    return fences.fenced(block, piece.digest)


def _good(bench: Bench, page: str) -> bool:
    """Whether every comment is whole, and it is known what labkit wrote in each block that differs."""
    try:
        found = fences.parse(bench.text, page)
    except WikiError:
        return False
    return all(
        not item.touched or bench.last_wrote(item.block.name, item.digest) for item in found.blocks
    )


def _guard(bench: Bench, new: str, page: str) -> None:
    """Raises when the mended text is not whole, or lacks a line that is not surely labkit's."""
    before = three_way.count(bench.bare(0, len(bench.text)).split("\n"))
    try:
        lost = before - page_merge.present(fences.parse(new, page)) - bench.surely
        fault = f"a line would be lost: {quoted(next(iter(lost)))}" if lost else ""
    except WikiError as error:
        fault = f"{error.value}: {error.reason}"
    if fault:
        raise WikiError(
            page, f"its comments cannot be mended: {fault}",
            "nothing was published; put the comments back by hand (the page's history has them)", code="wiki.page-damaged",
        )  # fmt: skip


def read_comments(text: str, known: Iterable[str]) -> tuple[Comment, ...]:
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
    near = difflib.get_close_matches(match["word"].lower(), (*_FENCING, "page"), 1, 0.6)
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
