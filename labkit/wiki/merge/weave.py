"""The new text of a page: its blocks brought up to date, everything else as it was. Pure."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from labkit.records import Record
from labkit.wiki.merge import altered, fences, three_way
from labkit.wiki.merge.altered import Altered, Difference
from labkit.wiki.merge.fences import Block, Document, Fenced

State = Literal["unchanged", "added", "changed", "deleted"]
#: Gives what labkit wrote, by a block's name and the hash in its fence; None when that is lost.
Pristine = Callable[[str, str], Block | None]
#: Gives the changes of labkit's lines with who made each, by a block's name and how its lines differ.
Credit = Callable[[str, Sequence[Difference]], tuple[Altered, ...]]


class Change(Record):
    """What happens to one block.

    ``deleted``: a person deleted it, and it stays so. ``diff`` is the difference of the page's
    lines (unified, numbered as on the page, without a header); ``kept`` the lines in the block that
    are a person's, ``altered`` the lines of labkit's that people have changed.
    """

    name: str
    state: State
    diff: str = ""
    kept: tuple[str, ...] = ()
    altered: tuple[Altered, ...] = ()


class Woven(Record):
    """A page's new text, what happens to each block, and the difference of the list of blocks."""

    text: str
    changes: tuple[Change, ...]
    listed: str = ""


#: The place of a text's first character, of the one after its last, and what takes its place.
Edit = tuple[int, int, str]


def weave(
    page: Document,
    blocks: Sequence[Block],
    *,
    pristine: Pristine,
    restore: Iterable[str] = (),
    known: Iterable[str] = (),
    credit: Credit | None = None,
) -> Woven:
    """The page with these blocks; text outside of blocks is copied character by character.

    A page that has none of labkit's comments is taken for one that labkit never wrote.

    :param restore: blocks that a person deleted and that are wanted back.
    :param known: the blocks that labkit once published here, for a page whose list of them is gone.
    :param credit: says who changed labkit's lines; without it the blocks' notices stay as they are.
    """
    published = page.names if page.names is not None else tuple(known if page.blocks else ())
    gone = {name for name in published if page.find(name) is None} - set(restore)
    listed = _list(page, (*published, *(block.name for block in blocks)))
    made: list[tuple[Change, Edit | None]] = []
    for place, block in enumerate(blocks):
        found = page.find(block.name)
        if found is None and block.name in gone:
            made.append((Change(name=block.name, state="deleted"), None))
        elif found is None:
            made.append((Change(name=block.name, state="added"), _insertion(page, blocks, place)))
        else:
            made.append(_renewed(found, block, pristine, credit))
    edits = sorted([*listed, *(edit for _, edit in made if edit)], key=lambda edit: edit[:2])
    return Woven(
        text=_edited(page.text, edits),
        changes=tuple(
            change.model_copy(update={"diff": _shown(page.text, edits, edit)}) if edit else change
            for change, edit in made
        ),
        listed="".join(_shown(page.text, edits, edit) for edit in listed),
    )


def persons(page: Document, pristine: Pristine, ours: Sequence[Block]) -> Counter[str]:
    """The lines of a page that people wrote: all outside of blocks, and in blocks all that differ."""
    lines = Counter[str]()
    for text in page.outside:
        lines += three_way.count(text.split("\n"))
    for found in page.blocks:
        if found.touched:
            base = _base(
                found, pristine, next((b for b in ours if b.name == found.block.name), None)
            )
            lines += three_way.persons(base, found.block.lines)
    return lines


def present(page: Document) -> Counter[str]:
    """All lines of a page, its fences taken off."""
    lines = Counter[str]()
    for text in page.outside:
        lines += three_way.count(text.split("\n"))
    for found in page.blocks:
        lines += three_way.count(found.block.lines)
    return lines


def put_back(text: str, before: str, lost: Counter[str]) -> str:
    """The text with the lost lines of ``before``, each after the line that it stood after there,
    or at the end when that one is gone."""
    lines, missing = text.split("\n"), Counter(lost)
    above: str | None = None
    for line in before.split("\n"):
        if missing[three_way.key(line)] > 0:
            missing[three_way.key(line)] -= 1
            at = lines.index(above) + 1 if above is not None and above in lines else len(lines)
            lines.insert(at, line)
        if line.strip():
            above = line
    rest = [line for line, times in missing.items() for _ in range(times)]
    return "\n".join([*lines, *rest])


def difference(old: str, new: str, *, lines: tuple[int, int] = (1, 1)) -> str:
    """The difference of two texts (unified, two lines of context, without a header), of which the
    first lines have these numbers; '' for none."""

    def numbered(match: re.Match[str]) -> str:
        start = int(match[2]) + (lines[0] if match[1] == "-" else lines[1]) - 1
        return f"{match[1]}{start}{match[3]}"

    found = difflib.unified_diff(old.split("\n"), new.split("\n"), lineterm="", n=2)
    return "\n".join(
        re.sub(r"([-+])(\d+)((?:,\d+)?)(?=[ @,])", numbered, line)
        if line.startswith("@@ ")
        else line
        for line in list(found)[2:]
    )


def _renewed(
    found: Fenced, block: Block, pristine: Pristine, credit: Credit | None
) -> tuple[Change, Edit | None]:
    if not found.touched:
        base, new = found.block.lines, block
    elif found.digest == block.digest:
        base, new = block.lines, found.block
    else:
        base, theirs = _base(found, pristine, block), found.block
        heading = block.heading if theirs.heading == base[0] else theirs.heading
        body = three_way.merge(base[1:], theirs.lines[1:], block.lines[1:])
        new = Block(name=block.name, heading=heading, body="\n".join(body))
    kept = three_way.persons(base, found.block.lines) if found.touched else Counter[str]()
    change = Change(name=block.name, state="unchanged", kept=tuple(kept.elements()))
    notice = found.notice
    if credit:
        differing = altered.differences(block.lines, new.lines) if new != block else ()
        changed = credit(block.name, differing) if differing else ()
        notice = altered.notice(changed)
        change = change.model_copy(update={"altered": changed})
    if found.digest == block.digest and notice == found.notice:
        return change, None
    edit = (found.start, found.end, fences.fenced(new, block.digest, notice))
    return change.model_copy(update={"state": "changed"}), edit


def _base(found: Fenced, pristine: Pristine, ours: Block | None) -> tuple[str, ...]:
    """The lines that labkit wrote there; when they are lost, those that it would still write."""
    if not found.touched:
        return found.block.lines
    if ours is not None and ours.digest == found.digest:
        return ours.lines
    written = pristine(found.block.name, found.digest)
    if written is not None:
        return written.lines
    if ours is None:
        return ("",)
    heading = ours.heading if ours.heading == found.block.heading else ""
    return (heading, *three_way.common(found.block.lines[1:], ours.lines[1:]))


def _insertion(page: Document, blocks: Sequence[Block], place: int) -> Edit:
    """Where a new block goes: after the nearest earlier block of the page, before a later one, or
    at the page's end."""
    text = blocks[place].text
    for earlier in reversed(blocks[:place]):
        if found := page.find(earlier.name):
            return found.end, found.end, f"\n\n{text}"
    for later in blocks[place + 1 :]:
        if found := page.find(later.name):
            return found.start, found.start, f"{text}\n\n"
    gap = "\n\n" if page.text or place else "\n"
    return len(page.text), len(page.text), f"{gap}{text}"


def _list(page: Document, names: Iterable[str]) -> list[Edit]:
    """The edit of the list of published blocks, none when it is right."""
    listed = tuple(dict.fromkeys(names))
    if page.names == listed:
        return []
    if page.names is None:
        return [(0, 0, fences.listed(listed) + ("\n" if page.text else ""))]
    return [(page.list_start, page.list_end, fences.listed(listed))]


def _edited(text: str, edits: Sequence[Edit]) -> str:
    """The text with the edits, which are in the order of their places."""
    pieces, done = [], 0
    for start, end, new in edits:
        pieces += [text[done:start], new]
        done = end
    return "".join([*pieces, text[done:]])


def _shown(text: str, edits: Sequence[Edit], edit: Edit) -> str:
    """The difference that one of the edits makes, in whole lines, numbered as on the page."""
    start = text.rfind("\n", 0, edit[0]) + 1
    last = text.find("\n", edit[1])
    end = len(text) if last < 0 else last
    new = text[start : edit[0]] + edit[2] + text[edit[1] : end]
    earlier = edits[: edits.index(edit)]
    grown = sum(new.count("\n") - text.count("\n", i, j) for i, j, new in earlier)
    first = fences.line_of(text, start)
    return difference(text[start:end], new, lines=(first, first + grown))
