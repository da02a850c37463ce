"""Which comments of a damaged page belong together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.records import Record
from labkit.wiki.merge.comments import Comment


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
