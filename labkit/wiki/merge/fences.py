"""Parses and writes a wiki page: people's text, and labkit's blocks between two comments each. Pure.

A block stands between two comments, which no reader of the page sees::

    == Network == <!-- labkit:begin 04-network 3f2a91c07d55e810 -->
    what labkit wrote
    <!-- labkit:end 04-network -->

The first comment stands on the line of the block's heading, so that the heading's [edit] link opens
the whole block and a line added at the section's end stands outside of it. The number is the hash
of what labkit wrote there : what differs from it, a person changed. One more
comment lists the blocks that were published; one of them that the page no longer has was deleted by
a person::

    <!-- labkit:page summary 01-wiki 02-rootfs | a word to whoever edits the page -->

Text outside of blocks is never touched.

Below its first comment a block may have a *notice* of labkit's, one line of HTML that carries the hash of its own
words. It does not belong to the block: it is taken off when the page is read, and written anew. A notice whose words a
person changed is a line of that person's.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from labkit.errors import WikiError
from labkit.records import Record

#: What an editor of the page reads at its top.
ADVICE = (
    "Between a begin and an end labkit writes. Write wherever you like: your lines are kept. "
    "Leave these comments as they are."
)
NAME = r"[a-z0-9][a-z0-9.-]*"
#: A whole comment.
FENCE = re.compile(
    rf"<!-- labkit:(?:(?P<begin>begin) (?P<name>{NAME}) (?P<digest>[0-9a-f]{{16}})"
    rf"|end (?P<end>{NAME})|page(?P<names>(?: {NAME})*) \|[^\n]*?) -->"
)
#: Whatever looks like the rest of a comment: a whole one is read by the expression above.
TRACE = re.compile(
    r"<!--\s*labkit\s*(?::|(?:begin|end|page)\b)|\blabkit:(?:begin|end|page)\b(?=[^\n]*--+>)",
    re.IGNORECASE,
)
#: A whole notice, as a line of a block's.
NOTICE = re.compile(r'<div class="labkit-notice" data-labkit="([0-9a-f]{16})"[^>\n]*>(.*)</div>')


class Block(Record):
    """A region of a page that labkit writes: its name, its heading line ('' for none), its lines."""

    name: str
    heading: str
    body: str

    @property
    def lines(self) -> tuple[str, ...]:
        """The heading line and the lines of the body."""
        return (self.heading, *self.body.split("\n"))

    @property
    def digest(self) -> str:
        """The hash that the block's fence carries: 16 hexadecimal digits."""
        return _hash("\n".join(self.lines))

    @property
    def text(self) -> str:
        """The block as labkit writes it on a page."""
        return fenced(self, self.digest)


class Fenced(Record):
    """A block as found on a page: what is in its place now, and the hash of what labkit wrote there.

    ``start`` and ``end`` are its first character's place in the page and the one after its last;
    ``notice`` is labkit's notice at its head, which does not belong to the block.
    """

    block: Block
    digest: str
    start: int
    end: int
    notice: str = ""

    @property
    def touched(self) -> bool:
        """Whether it differs from what labkit wrote."""
        return self.block.digest != self.digest


class Document(Record):
    """A page's text, its blocks in their order, and the published names.

    ``names`` is None when the page has no comment that lists them; ``list_start`` and ``list_end``
    are the place of that comment.
    """

    text: str
    blocks: tuple[Fenced, ...] = ()
    names: tuple[str, ...] | None = None
    list_start: int = 0
    list_end: int = 0

    def find(self, name: str) -> Fenced | None:
        """The block of that name, None when the page has none."""
        return next((item for item in self.blocks if item.block.name == name), None)

    @property
    def outside(self) -> tuple[str, ...]:
        """The texts before, between and after the blocks, without the comment that lists the names."""
        spans = [(item.start, item.end) for item in self.blocks]
        if self.names is not None:
            spans = sorted([*spans, (self.list_start, self.list_end)])
        starts = [0, *(end for _, end in spans)]
        ends = [*(start for start, _ in spans), len(self.text)]
        return tuple(self.text[start:end] for start, end in zip(starts, ends, strict=True))


def block(name: str, heading: str, body: str) -> Block:
    """A block as the wiki will store it: NFC, no blanks at the end, one line as its heading."""
    text = unicodedata.normalize("NFC", body).replace("\r\n", "\n").strip("\n").rstrip()
    return Block(name=name, heading=unicodedata.normalize("NFC", heading).strip(), body=text)


def fenced(block: Block, digest: str, notice: str = "") -> str:
    """A block between its fences, with the hash of what labkit last wrote there and a notice at its head."""
    start = f"{block.heading} " if block.heading else ""
    body = f"{notice}\n{block.body}" if notice else block.body
    return (
        f"{start}<!-- labkit:begin {block.name} {digest} -->\n{body}\n"
        f"<!-- labkit:end {block.name} -->"
    )


def notice(words: str) -> str:
    """A notice that says these words (one line of wikitext)."""
    return (
        f'<div class="labkit-notice" data-labkit="{_hash(words)}" style="border-left:4px solid #c60;'
        f'background:#fff4e5;padding:0.4em 1em">{words}</div>'
    )


def without_notices(text: str) -> str:
    """The text without the lines that are notices of labkit's."""
    if "labkit-notice" not in text:
        return text
    return "\n".join(line for line in text.split("\n") if not is_notice(line))


def is_notice(line: str) -> bool:
    """Whether a line is a notice of labkit's, as labkit wrote it."""
    match = NOTICE.fullmatch(line.rstrip())
    return match is not None and _hash(match[2]) == match[1]


def listed(names: tuple[str, ...]) -> str:
    """The comment that lists the published blocks."""
    return f"<!-- labkit:page {' '.join(names)} | {ADVICE} -->"


def parse(text: str, page: str) -> Document:
    """The page's parts. Raises :class:`WikiError` naming page, line and fault when a fence is
    damaged, doubled, or stands inside another block."""

    def damage(place: int, fault: str) -> WikiError:
        return WikiError(
            f"{page}, line {line_of(text, place)}",
            fault,
            "nothing was published; `labkit publish --repair` repairs it and loses no line (to see first what it "
            "would do: --repair --dry-run)",
            code="wiki.page-damaged",
        )

    found: dict[str, Fenced] = {}
    names: re.Match[str] | None = None
    opened: re.Match[str] | None = None
    before = place = 0
    for match in [*FENCE.finditer(text), None]:
        if trace := TRACE.search(text, place, match.start() if match else len(text)):
            raise damage(trace.start(), f"a comment of labkit's is damaged: {trace[0][:60]}")
        if match is None:
            break
        fault = ""
        if match["begin"]:
            fault = "a block begins inside another one" if opened else ""
            opened, before = match, place
        elif match["end"]:
            if opened is None or opened["name"] != match["end"]:
                raise damage(
                    match.start(), f"this block ends without having begun: {match[0][:60]}"
                )
            item = _fenced(text, opened, match, before)
            if first := found.get(item.block.name):
                line = line_of(text, first.start)
                raise damage(item.start, f"block {item.block.name} stands a second time (first: line {line})")  # fmt: skip
            found[item.block.name], opened = item, None
        else:
            fault = "a second list of blocks" if opened or names else ""
            names = match
        if fault:
            raise damage(match.start(), f"{fault}: {match[0][:60]}")
        place = match.end()
    if opened:
        raise damage(opened.start(), f"this block has no end: {opened[0][:60]}")
    return Document(
        text=text,
        blocks=tuple(found.values()),
        names=tuple(names["names"].split()) if names else None,
        list_start=names.start() if names else 0,
        list_end=names.end() if names else 0,
    )


def whole(text: str) -> Document | None:
    """The page's parts, None where its fences are damaged."""
    try:
        return parse(text, "")
    except WikiError:
        return None


def blocks(text: str) -> tuple[Fenced, ...]:
    """The blocks of a page; none where its fences are damaged."""
    found = whole(text)
    return found.blocks if found else ()


def line_of(text: str, place: int) -> int:
    """The number of the line that holds a character, from 1."""
    return text.count("\n", 0, place) + 1


def _fenced(text: str, begin: re.Match[str], end: re.Match[str], before: int) -> Fenced:
    """A block between two fences; a line break next to each of them belongs to the fence."""
    start = max(text.rfind("\n", 0, begin.start()) + 1, before)
    body = text[begin.end() : end.start()].removeprefix("\n").removesuffix("\n")
    heading = text[start : begin.start()].strip()
    notices = (
        [line for line in body.split("\n") if is_notice(line)] if "labkit-notice" in body else []
    )
    found = Block(name=begin["name"], heading=heading, body=without_notices(body))
    return Fenced(
        block=found, digest=begin["digest"], start=start, end=end.end(), notice="\n".join(notices)
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
