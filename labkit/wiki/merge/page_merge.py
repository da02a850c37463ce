"""The three-way merge of a whole page: its blocks are brought up to date, everything else stays as it was. Pure.

A line of labkit's that a person changed inside a block stays the person's. So that a reader does not take it for
labkit's, each such change is told with the block, who made it, when, labkit's line and theirs. A line that a person
adds is theirs anyway and no change of labkit's, except in a table or box, where it reads as labkit's own.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.records import Record
from labkit.wiki.merge import fences, three_way
from labkit.wiki.merge.fences import Block, Document, Fenced
from labkit.wiki.render import wikitext

State = Literal["unchanged", "added", "changed", "deleted"]
#: Gives what labkit wrote, by a block's name and the hash in its fence; None when that is lost.
LastWrote = Callable[[str, str], Block | None]
Kind = Literal["changed", "deleted", "added", "block deleted"]
#: Changes that a notice tells, and characters of a line that it and a table show, at most.
TOLD, WIDTH = 8, 160
#: What a person says: a remark, an answer to one.
_WORDS = re.compile(r"[\s:*#|]*REX>|:")
#: The attributes of a table's cell.
_ATTRIBUTES = re.compile(r'(?:[a-z-]+="[^"]*" ?)+\| ?')


class Authorship(Record):
    """Who wrote a line in this form, when, and in which revision; '' and None where that is unknown."""

    user: str = ""
    time: datetime | None = None
    revision: int = 0
    line: str = ""


class Altered(Record):
    """A line of labkit's that a person changed: what labkit writes there (``ours``, '' for a line that it
    does not write), what is in its place (``theirs``, '' for a line that is deleted), who made it so (``by``),
    and who had changed it ``before``. Both are '' for a whole block that is deleted."""

    block: str
    ours: str
    theirs: str
    by: Authorship
    before: tuple[Authorship, ...] = ()

    @property
    def kind(self) -> Kind:
        """What was done to labkit's line."""
        if self.ours and self.theirs:
            return "changed"
        return "deleted" if self.ours else "added" if self.theirs else "block deleted"


class Difference(NamedTuple):
    """A line as labkit writes it and as it stands on the page; '' where there is none. ``sure``: a change of
    labkit's line, whatever the history says."""

    ours: str
    theirs: str
    sure: bool = True


class BlockChange(Record):
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


class Merged(Record):
    """A page's new text, what happens to each block, and the difference of the list of blocks."""

    text: str
    changes: tuple[BlockChange, ...]
    listed: str = ""


#: The place of a text's first character, of the one after its last, and what takes its place.
Edit = tuple[int, int, str]
#: Gives the changes of labkit's lines with who made each, by a block's name and how its lines differ.
Credit = Callable[[str, Sequence[Difference]], tuple[Altered, ...]]


def merged(
    page: Document,
    blocks: Sequence[Block],
    *,
    last_wrote: LastWrote,
    restore: Iterable[str] = (),
    known: Iterable[str] = (),
    credit: Credit | None = None,
) -> Merged:
    """The page with these blocks; text outside of blocks is copied character by character.

    A page that has none of labkit's comments is taken for one that labkit never wrote.

    :param restore: blocks that a person deleted and that are wanted back.
    :param known: the blocks that labkit once published here, for a page whose list of them is gone.
    :param credit: says who changed labkit's lines; without it the blocks' notices stay as they are.
    """
    published = page.names if page.names is not None else tuple(known if page.blocks else ())
    gone = {name for name in published if page.find(name) is None} - set(restore)
    listed = _list(page, (*published, *(block.name for block in blocks)))
    made: list[tuple[BlockChange, Edit | None]] = []
    for place, block in enumerate(blocks):
        found = page.find(block.name)
        if found is None and block.name in gone:
            made.append((BlockChange(name=block.name, state="deleted"), None))
        elif found is None:
            made.append(
                (BlockChange(name=block.name, state="added"), _insertion(page, blocks, place))
            )
        else:
            made.append(_renewed(found, block, last_wrote, credit))
    edits = sorted([*listed, *(edit for _, edit in made if edit)], key=lambda edit: edit[:2])
    return Merged(
        text=_edited(page.text, edits),
        changes=tuple(
            change.model_copy(update={"diff": _shown(page.text, edits, edit)}) if edit else change
            for change, edit in made
        ),
        listed="".join(_shown(page.text, edits, edit) for edit in listed),
    )


def persons(page: Document, last_wrote: LastWrote, ours: Sequence[Block]) -> Counter[str]:
    """The lines of a page that people wrote: all outside of blocks, and in blocks all that differ."""
    lines = Counter[str]()
    for text in page.outside:
        lines += three_way.count(text.split("\n"))
    for found in page.blocks:
        if found.touched:
            base = _base(
                found, last_wrote, next((b for b in ours if b.name == found.block.name), None)
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
    found: Fenced, block: Block, last_wrote: LastWrote, credit: Credit | None
) -> tuple[BlockChange, Edit | None]:
    if not found.touched:
        base, new = found.block.lines, block
    elif found.digest == block.digest:
        base, new = block.lines, found.block
    else:
        base, theirs = _base(found, last_wrote, block), found.block
        heading = block.heading if theirs.heading == base[0] else theirs.heading
        body = three_way.merge(base[1:], theirs.lines[1:], block.lines[1:])
        new = Block(name=block.name, heading=heading, body="\n".join(body))
    kept = three_way.persons(base, found.block.lines) if found.touched else Counter[str]()
    change = BlockChange(name=block.name, state="unchanged", kept=tuple(kept.elements()))
    notice = found.notice
    if credit:
        differing = differences(block.lines, new.lines) if new != block else ()
        changed = credit(block.name, differing) if differing else ()
        notice = altered_notice(changed)
        change = change.model_copy(update={"altered": changed})
    if found.digest == block.digest and notice == found.notice:
        return change, None
    edit = (found.start, found.end, fences.fenced(new, block.digest, notice))
    return change.model_copy(update={"state": "changed"}), edit


def _base(found: Fenced, last_wrote: LastWrote, ours: Block | None) -> tuple[str, ...]:
    """The lines that labkit wrote there; when they are lost, those that it would still write."""
    if not found.touched:
        return found.block.lines
    if ours is not None and ours.digest == found.digest:
        return ours.lines
    written = last_wrote(found.block.name, found.digest)
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


# -- lines of labkit's that people have changed ------------------------------------------------------------


def differences(ours: Sequence[str], theirs: Sequence[str]) -> tuple[Difference, ...]:
    """How the lines of a block (its heading first) differ from those that labkit writes."""
    found = [Difference(ours[0], theirs[0])] if _differ(ours[0], theirs[0]) else []
    old, new = ours[1:], theirs[1:]
    pairs = sorted(three_way.pair(old, new).items())
    depths = three_way.depths(new)
    before_i = before_j = 0
    for i, j in [*pairs, (len(old), len(new))]:
        gone = [line for line in old[before_i:i] if _says(line)]
        come = [
            (place, new[place])
            for place in range(before_j, j)
            if _says(new[place]) and not _WORDS.match(new[place])
        ]
        for n in range(max(len(gone), len(come))):
            place, line = come[n] if n < len(come) else (0, "")
            inside = place > 0 and depths[place - 1] > 0
            mine = gone[n] if n < len(gone) else ""
            found.append(Difference(mine, line, bool(mine) or inside or "labkit-notice" in line))
        if i < len(old) and _differ(old[i], new[j]):
            found.append(Difference(old[i], new[j]))
        before_i, before_j = i + 1, j + 1
    return tuple(found)


def credited(
    block: str, known: Sequence[Altered], found: Sequence[Difference], by: Authorship | None = None
) -> tuple[Altered, ...]:
    """The differences of a block with who made each.

    :param known: the changes of before, which are found again in another run's lines, too.
    :param by: who saved the block since; None where only labkit's own lines became others.
    """
    left, made = list(known), list[Altered | None]([None] * len(found))
    same = three_way.key
    tests: tuple[Callable[[Altered, Difference], bool], ...] = (
        lambda old, new: (old.ours, same(old.theirs)) == (new.ours, same(new.theirs)),
        lambda old, new: bool(new.theirs) and same(old.theirs) == same(new.theirs),
    )
    for test in tests:
        for place, new in enumerate(found):
            old = next((one for one in left if test(one, new)), None) if not made[place] else None
            if old:
                left.remove(old)
                made[place] = _again(block, old, new, None)
    places = [place for place, new in enumerate(found) if new.ours and not made[place]]
    lines = three_way.pair([one.ours for one in left], [found[place].ours for place in places])
    for i, j in lines.items():
        made[places[j]] = _again(block, left[i], found[places[j]], by)
    fresh = [
        one or Altered(block=block, ours=new.ours, theirs=new.theirs, by=by or Authorship())
        for one, new in zip(made, found, strict=True)
        if one or new.sure
    ]
    return tuple(fresh)


def altered_notice(changes: Sequence[Altered]) -> str:
    """What the block's notice says of these changes; '' for none."""
    if not changes:
        return ""
    said = f"{counted(len(changes), 'line')} of this block {'is' if len(changes) == 1 else 'are'} not as labkit wrote {'it' if len(changes) == 1 else 'them'}."
    items = [f"<li>{_sentence(item)}</li>" for item in changes[:TOLD]]
    rest = len(changes) - TOLD
    items += (
        [f"<li>and {rest} more: <code>labkit remarks</code> lists them</li>"] if rest > 0 else []
    )
    return fences.notice(f"'''{said}'''<ul>{''.join(items)}</ul>")


def altered_table(changes: Sequence[Altered]) -> Table:
    """The changes as a table."""
    rows: list[dict[str, Cell]] = []
    for item in changes:
        ours, theirs = altered_shown(item)
        rows.append(
            {
                "block": item.block,
                "what": item.kind,
                "by": item.by.user or "unknown",
                "on (UTC)": moment(item.by.time) or None,
                "labkit's line": ours or None,
                "on the page": theirs or None,
                "before": "; ".join(_step(step) for step in item.before) or None,
            }
        )
    columns = ("block", "what", "by", "on (UTC)", "labkit's line", "on the page", "before")
    return Table.of("altered", "Lines of labkit's that people changed", rows, columns=columns)


def altered_sentence(changes: Sequence[Altered]) -> str:
    """How many there are and by whom, '' for none."""
    if not changes:
        return ""
    users = dict.fromkeys(item.by.user or "unknown" for item in changes)
    return f"{counted(len(changes), 'change')} of labkit's lines, by {', '.join(users)}."


def altered_shown(item: Altered) -> tuple[str, str]:
    """Labkit's line and theirs as a reader sees them, long ones about where they differ."""
    ours, theirs = _plain(item.ours), _plain(item.theirs)
    if ours == theirs:  # the markup alone was changed
        ours, theirs = item.ours, item.theirs
    start = 0
    if max(len(ours), len(theirs)) > WIDTH:
        equal = (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        start = max(next(equal, min(len(ours), len(theirs))) - WIDTH // 4, 0)
        start = start if ours and theirs else 0
    return _cut(ours, start), _cut(theirs, start)


def _plain(line: str) -> str:
    return wikitext.plain(_ATTRIBUTES.sub("", line))


def _cut(line: str, start: int) -> str:
    end = start + WIDTH
    return f"{'…' if start and line else ''}{line[start:end]}{'…' if len(line) > end else ''}"


def _again(block: str, old: Altered, new: Difference, by: Authorship | None) -> Altered:
    """A change of before as it is now; whoever made something else of the line comes after who had."""
    given = Altered(block=block, ours=new.ours, theirs=new.theirs, by=old.by, before=old.before)
    if by is None or three_way.key(old.theirs) == three_way.key(new.theirs):
        return given
    if old.by.user == by.user:
        return given.model_copy(update={"by": by})
    step = old.by.model_copy(update={"line": old.theirs})
    return given.model_copy(update={"by": by, "before": (*old.before, step)})


def _sentence(item: Altered) -> str:
    ours, theirs = (f"<code>{wikitext.literal(line)}</code>" for line in altered_shown(item))
    who = wikitext.literal(item.by.user or "unknown", begins=False, ends=False)
    when = f", {moment(item.by.time)} UTC" if item.by.time else ""
    had = "".join(
        f"; before: {wikitext.literal(_step(step), begins=False, ends=False)}"
        for step in item.before
    )
    said = {
        "changed": f"labkit wrote {ours}, the page has {theirs}",
        "deleted": f"labkit wrote {ours}, which is deleted",
        "added": f"{theirs} is not labkit's",
        "block deleted": "the block is deleted",
    }
    return f"{who}{when}: {said[item.kind]}{had}"


def _step(step: Authorship) -> str:
    line = _cut(_plain(step.line), 0) if step.line else "deleted"
    return f"{step.user or 'unknown'}{f', {moment(step.time)}' if step.time else ''}: {line}"


def moment(time: datetime | None) -> str:
    """A time in UTC, to the minute; '' where it is unknown."""
    return f"{time:%Y-%m-%d %H:%M}" if time else ""


def _differ(one: str, other: str) -> bool:
    return three_way.key(one) != three_way.key(other) and (_says(one) or _says(other))


def _says(line: str) -> bool:
    """Whether a line says something: rules and the marks of tables alone do not."""
    return any(character.isalnum() for character in line)
