"""Mends the comments around labkit's blocks when a person has damaged them. Pure.

A comment that is missing is written anew at the place that labkit's own lines tell; one whose name or
hash was changed gets the right one; a block that stands inside another one is moved behind it; of a
block that stands twice the second goes, but for the lines in it that are not surely labkit's. Every
other line of the page stays as it is.
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
    bench = Bench(text, found, tuple(versions), last_wrote)
    if _good(bench, page):
        return Repaired(text=text)
    fencing = [item for item in found if item.kind in ("begin", "end")]
    pieces = _single(bench, _laid(bench, regions(fencing), 0, len(text)))
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


def _laid(bench: Bench, found: Sequence[Region], start: int, end: int) -> list[Piece]:
    """The pieces of a stretch of the text in which these regions stand."""
    pieces: list[Piece] = []
    for place, region in enumerate(found):
        later = found[place + 1] if place + 1 < len(found) else None
        made, start = _region(bench, region, start, _head(bench, later, start) if later else end)
        pieces += made
    return [*pieces, Piece(bench.bare(start, end))]


def _head(bench: Bench, region: Region, start: int) -> int:
    """Where a region begins: with the line of its first comment."""
    first, _ = _ends(region)
    if region.begin is None:
        return first.start
    return max(start, bench.text.rfind("\n", 0, first.start) + 1)


def _ends(region: Region) -> tuple[Comment, Comment]:
    """A region's first and last comment; they are one when the other is missing."""
    both = [item for item in (region.begin, region.end) if item]
    return min(both, key=_start), max(both, key=_start)


def _start(comment: Comment) -> int:
    return comment.start


def _region(bench: Bench, region: Region, start: int, limit: int) -> tuple[list[Piece], int]:
    """The pieces from ``start`` to the region's end, and where that is."""
    if region.begin is None:
        return _unbegun(bench, region, start)
    head, (first, last) = _head(bench, region, start), _ends(region)
    before, heading = Piece(bench.bare(start, head)), bench.bare(head, first.start).strip()
    if region.end is None:
        end = after = _tail(bench, first, heading, limit)
    else:
        end, after = last.start, last.end
    inside = _laid(bench, region.inner, first.end, end)
    body = _joined(first.rest, *(piece.text for piece in inside if not piece.name))
    lines = (heading, *body.split("\n"))
    name, other = _name(bench, region, lines)
    if other:
        made, cut = _region(bench, Region(begin=region.begin, end=None), start, end)
        rest, after = _unbegun(bench, Region(begin=None, end=region.end), cut)
        return [*made, *rest], after
    if not name:
        return [before, Piece(bench.bare(head, after))], after
    piece = Piece(body, name, _digest(bench, name, first.digest or last.digest, lines), heading)
    moved = [part for inner in inside if inner.name for part in (Piece("\n\n"), inner)]
    words = last.rest if region.end else ""
    return [before, piece, *moved, *_words(words)], after


def _joined(words: str, *texts: str) -> str:
    """A block's body: what its first comment had of a person's words, and the texts between which
    other blocks were cut out."""
    body = texts[0].removeprefix("\n")
    for text in texts[1:]:
        body += text.removeprefix("\n") if body.endswith("\n") else text
    return (f"{words}\n" if words else "") + body.removesuffix("\n")


def _words(words: str) -> list[Piece]:
    """What a block's last comment had of a person's words: they stand under the block."""
    return [Piece(f"\n{words}")] if words else []


def _tail(bench: Bench, first: Comment, heading: str, limit: int) -> int:
    """Where a block without an end ends: after the last line that is surely its own."""
    lines = bench.text[first.end : limit].split("\n")
    base = bench.base(first.name, first.digest, (heading, *lines[1:]))
    sure = anchors(("", *lines[1:]), base) if base else []
    kept = lines[: sure[-1][0] + 1] if sure else "\n".join(lines).rstrip().split("\n")
    return first.end + len("\n".join(kept))


def _unbegun(bench: Bench, region: Region, start: int) -> tuple[list[Piece], int]:
    """The pieces up to a stray end: the block begins with the first line that is surely its own."""
    assert region.end is not None  # noqa: S101 - a region has one of the two
    lines = bench.text[start : region.end.start].removesuffix("\n").split("\n")
    base = bench.best(region.end.name, lines)
    sure = anchors(lines, base) if base else []
    if base is None or not sure:
        return [Piece(bench.bare(start, region.end.end))], region.end.end
    top = _with_heading(lines, sure[0][0])
    head = start + len("".join(f"{line}\n" for line in lines[:top]))
    text = bench.bare(head, region.end.start).removesuffix("\n")
    heading, _, body = text.partition("\n") if _is_heading(lines[top]) else ("", "", text)
    piece = Piece(body, base.name, base.digest, heading.strip())
    return [Piece(bench.bare(start, head)), piece, *_words(region.end.rest)], region.end.end


def _with_heading(lines: Sequence[str], top: int) -> int:
    """The place of the heading that stands directly above a line, else of the line."""
    above = next((n for n in range(top - 1, -1, -1) if lines[n].strip()), top)
    return above if not _is_heading(lines[top]) and _is_heading(lines[above]) else top


def _is_heading(line: str) -> bool:
    return line.startswith("==") and line.rstrip().endswith("==")


def _name(bench: Bench, region: Region, lines: Sequence[str]) -> tuple[str, bool]:
    """The block's name, and whether the region is two blocks: the first has lost its end, the second
    its beginning. Where the two comments disagree, the lines between them tell."""
    begun, ended = (item.name if item else "" for item in (region.begin, region.end))
    if begun == ended or not ended or region.end is None:
        found = bench.best("", lines) if not begun else None
        return begun or (found.name if found and anchors(lines, found) else ""), False
    sure = []
    for name in (begun, ended):
        base = bench.best(name, lines) if name else None
        sure.append(anchors(lines, base) if base else [])
    if sure[0] and sure[1] and sure[1][-1][0] > sure[0][-1][0]:
        return begun, True
    known = {block.name for block in bench.versions}
    return (ended if not sure[0] and (sure[1] or begun not in known) else begun), False


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


class Region(Record):
    """What stands between two comments; None for the one that is missing.

    ``inner`` are the regions within it. The names of its two comments may differ.
    """

    begin: Comment | None
    end: Comment | None
    inner: tuple[Region, ...] = ()


def regions(comments: Sequence[Comment]) -> tuple[Region, ...]:
    """The regions of a page in their order, from its comments that begin and end blocks.

    A begin belongs to the end of its name, when nothing but whole regions and stray ends stands
    between; else to an end that follows it directly, whatever its name; else it has none. An end
    that is left over has no begin, or the begin of its name that follows it directly (they were swapped).
    """
    found: list[Region] = []
    place = 0
    while place < len(comments):
        here = comments[place]
        after = comments[place + 1] if place + 1 < len(comments) else None
        closing = _closing(comments, place) if here.kind == "begin" else None
        if closing is not None:
            inner = regions(_balanced(comments[place + 1 : closing]) or ())
            found.append(Region(begin=here, end=comments[closing], inner=inner))
            place = closing
        elif here.kind == "begin" and after is not None and after.kind == "end":
            found.append(Region(begin=here, end=after))
            place += 1
        elif here.kind == "begin":
            found.append(Region(begin=here, end=None))
        elif _swapped(comments, place):
            found.append(Region(begin=after, end=here))
            place += 1
        else:
            found.append(Region(begin=None, end=here))
        place += 1
    return tuple(found)


def _closing(comments: Sequence[Comment], place: int) -> int | None:
    """The place of the end that belongs to the begin at ``place``."""
    for later in range(place + 1, len(comments)):
        item = comments[later]
        if item.name == comments[place].name:
            whole = _balanced(comments[place + 1 : later]) is not None
            return later if item.kind == "end" and whole else None
    return None


def _balanced(comments: Sequence[Comment]) -> list[Comment] | None:
    """The comments without stray ends, when every begin among them has its end; else None."""
    kept: list[Comment] = []
    opened: list[Comment] = []
    for item in comments:
        if item.kind == "begin":
            opened.append(item)
            kept.append(item)
        elif opened and opened[-1].name == item.name:
            opened.pop()
            kept.append(item)
    return None if opened else kept


def _swapped(comments: Sequence[Comment], place: int) -> bool:
    """Whether the end at ``place`` stands where the begin that follows it should."""
    if place + 1 == len(comments):
        return False
    here, after = comments[place], comments[place + 1]
    return (
        after.kind == "begin"
        and after.name == here.name
        and _closing(comments, place + 1) is None
        and not (place + 2 < len(comments) and comments[place + 2].kind == "end")
    )
