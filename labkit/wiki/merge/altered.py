"""Lines of labkit's that people have changed: which, by whom, and the notice that says so. Pure.

A line that a person changes inside a block stays the person's. So that no reader takes it for labkit's, each
such change is told with the block, who made it, when, labkit's line and theirs. A line that a person adds
is theirs anyway and no change of labkit's, except in a table or box, where it reads as labkit's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.records import Record
from labkit.wiki.merge import fences, three_way
from labkit.wiki.render import wikitext

Kind = Literal["changed", "deleted", "added", "block deleted"]
#: Changes that a notice tells, and characters of a line that it and a table show, at most.
TOLD, WIDTH = 8, 160
#: What a person says: a remark, an answer to one.
_WORDS = re.compile(r"[\s:*#|]*REX>|:")
#: The attributes of a table's cell.
_ATTRIBUTES = re.compile(r'(?:[a-z-]+="[^"]*" ?)+\| ?')


class Step(Record):
    """Who made a line what it was then, when, and in which revision; '' and None: nobody knows."""

    user: str = ""
    time: datetime | None = None
    revision: int = 0
    line: str = ""


class Altered(Record):
    """A line of labkit's that a person changed: what labkit writes there (``ours``, '' for a line that it
    does not write), what stands there (``theirs``, '' for a line that is deleted), who made it so (``by``),
    and who had changed it ``before``. Both are '' for a whole block that is deleted."""

    block: str
    ours: str
    theirs: str
    by: Step
    before: tuple[Step, ...] = ()

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
    block: str, known: Sequence[Altered], found: Sequence[Difference], by: Step | None = None
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
        one or Altered(block=block, ours=new.ours, theirs=new.theirs, by=by or Step())
        for one, new in zip(made, found, strict=True)
        if one or new.sure
    ]
    return tuple(fresh)


def notice(changes: Sequence[Altered]) -> str:
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


def table(changes: Sequence[Altered]) -> Table:
    """The changes as a table."""
    rows: list[dict[str, Cell]] = []
    for item in changes:
        ours, theirs = shown(item)
        rows.append(
            {
                "block": item.block,
                "what": item.kind,
                "by": item.by.user or "unknown",
                "on (UTC)": _moment(item.by) or None,
                "labkit's line": ours or None,
                "on the page": theirs or None,
                "before": "; ".join(_step(step) for step in item.before) or None,
            }
        )
    columns = ("block", "what", "by", "on (UTC)", "labkit's line", "on the page", "before")
    return Table.of("altered", "Lines of labkit's that people changed", rows, columns=columns)


def sentence(changes: Sequence[Altered]) -> str:
    """How many there are and by whom, '' for none."""
    if not changes:
        return ""
    users = dict.fromkeys(item.by.user or "unknown" for item in changes)
    return f"{counted(len(changes), 'change')} of labkit's lines, by {', '.join(users)}."


def shown(item: Altered) -> tuple[str, str]:
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


def _again(block: str, old: Altered, new: Difference, by: Step | None) -> Altered:
    """A change of before as it is now; whoever made something else of the line comes after who had."""
    given = Altered(block=block, ours=new.ours, theirs=new.theirs, by=old.by, before=old.before)
    if by is None or three_way.key(old.theirs) == three_way.key(new.theirs):
        return given
    if old.by.user == by.user:
        return given.model_copy(update={"by": by})
    step = old.by.model_copy(update={"line": old.theirs})
    return given.model_copy(update={"by": by, "before": (*old.before, step)})


def _sentence(item: Altered) -> str:
    ours, theirs = (f"<code>{wikitext.literal(line)}</code>" for line in shown(item))
    who = wikitext.literal(item.by.user or "unknown", begins=False, ends=False)
    when = f", {_moment(item.by)} UTC" if item.by.time else ""
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


def _step(step: Step) -> str:
    line = _cut(_plain(step.line), 0) if step.line else "deleted"
    return f"{step.user or 'unknown'}{f', {_moment(step)}' if step.time else ''}: {line}"


def _moment(step: Step) -> str:
    return f"{step.time:%Y-%m-%d %H:%M}" if step.time else ""


def _differ(one: str, other: str) -> bool:
    return three_way.key(one) != three_way.key(other) and (_says(one) or _says(other))


def _says(line: str) -> bool:
    """Whether a line says something: rules and the marks of tables alone do not."""
    return any(character.isalnum() for character in line)
