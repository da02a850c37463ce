"""The three-way merge of one block, line by line: what a person made of it, and what labkit writes now. Pure.

Three texts: ``base``, what labkit wrote last; ``theirs``, what stands on the page; ``ours``, what
labkit writes now. In the merged text

- a line that a person added stands where it stood, after the same line of labkit's as before;
- a line of labkit's that a person changed is the person's: it stays as it is, whatever labkit
  would write in its place; only a picture that it shows is the one that labkit shows there now
  (pictures are named by the hash of their content), so that a rewritten caption keeps its picture;
- a line of labkit's that a person deleted stays deleted, also in the form that labkit writes now;
- everything else is as labkit writes it now.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

#: Two lines that are at least this much alike are two forms of one line.
ALIKE = 0.5
#: A pairing by likeness compares at most this many pairs of lines; larger changes pair by place.
PAIRS = 2500
#: Texts that differ in this many lines have next to nothing in common.
EDITS = 1200
#: The name of a picture of labkit's up to the hash of its content, and the hash.
_PICTURE = re.compile(r"(Labkit-[A-Za-z0-9-]+-)[0-9a-f]{16}(?=\.(?:png|jpg)\b)")
_OPENS = re.compile(r"\{\||<(?:pre|syntaxhighlight|div|ul|ol|blockquote)\b")
_CLOSES = re.compile(r"\|\}|</(?:pre|syntaxhighlight|div|ul|ol|blockquote)>")


def merge(base: Sequence[str], theirs: Sequence[str], ours: Sequence[str]) -> tuple[str, ...]:
    """The merged lines; see the module's text for what holds of them."""
    if list(base) == list(theirs):
        return tuple(ours)
    if list(base) == list(ours):
        return tuple(theirs)
    to_theirs, to_ours = pair(base, theirs), pair(base, ours)
    origins = {new: old for old, new in to_ours.items()}
    added = _places(base, theirs, ours, to_theirs, to_ours)
    merged = list(added[-1])
    for place, line in enumerate(ours):
        old = origins.get(place)
        if old is None:
            merged += [] if _in_deletion(place, origins, to_theirs) else [line]
        elif old in to_theirs:
            now = theirs[to_theirs[old]]
            merged.append(line if now == base[old] else _with_picture(now, base[old], line))
        merged += added[place]
    return tuple(merged)


def persons(base: Sequence[str], theirs: Sequence[str]) -> Counter[str]:
    """The lines, blank ones apart, that stand on the page and that labkit did not write."""
    return count(theirs) - count(base)


def count(lines: Sequence[str]) -> Counter[str]:
    """How often each line stands there, by its :func:`key`; blank ones do not count."""
    return Counter(key(line) for line in lines if line.strip())


def key(line: str) -> str:
    """What makes a line the same as another one: all but blanks at its end, and which content labkit's
    picture in it has."""
    return _PICTURE.sub(r"\1", line.rstrip())


def common(theirs: Sequence[str], ours: Sequence[str]) -> tuple[str, ...]:
    """The lines that both have, in their order: the base to assume when the real one is lost.

    Every other line of ``theirs`` then counts as a person's, so that nothing is lost.
    """
    return tuple(theirs[place] for place, _ in equal(theirs, ours))


def pair(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Which line of ``new`` each line of ``old`` has become, in order; lines that are gone are left out."""
    pairs: dict[int, int] = {}
    i1 = j1 = 0
    for i2, j2 in [*equal(old, new), (len(old), len(new))]:
        found = _alike(old[i1:i2], new[j1:j2])
        pairs |= {i1 + i: j1 + j for i, j in found}
        if i2 < len(old):
            pairs[i2] = j2
        i1, j1 = i2 + 1, j2 + 1
    return pairs


def equal(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """The longest common subsequence of two texts' lines, as pairs of places, in order.

    E. W. Myers, "An O(ND) difference algorithm and its variations" (1986), the greedy form. It is
    exact, which difflib is not: between repeated lines difflib can take an unchanged one for
    deleted and added. It takes the square of the number of differences in time and room, so texts
    that have next to nothing in common are left to difflib.
    """
    reach, trail = {1: 0}, []
    for edits in range(EDITS):
        trail.append(dict(reach))
        for line in range(-edits, edits + 1, 2):
            down = line == -edits or (line != edits and reach[line - 1] < reach[line + 1])
            i = reach[line + 1] if down else reach[line - 1] + 1
            while i < len(old) and i - line < len(new) and old[i] == new[i - line]:
                i += 1
            reach[line] = i
            if i >= len(old) and i - line >= len(new):
                return _walk(trail, len(old), len(new))
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    return [(one.a + n, one.b + n) for one in blocks for n in range(one.size)]


def _walk(trail: list[dict[int, int]], i: int, j: int) -> list[tuple[int, int]]:
    """The pairs of equal lines on the way that Myers' algorithm went, walked backwards."""
    pairs = []
    for edits in range(len(trail) - 1, -1, -1):
        reach, line = trail[edits], i - j
        down = line == -edits or (line != edits and reach[line - 1] < reach[line + 1])
        before = line + 1 if down else line - 1
        start = (reach[before], reach[before] - before) if edits else (0, 0)
        while i > start[0] and j > start[1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        i, j = start
    return pairs[::-1]


def _alike(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of like lines, in order, whose likeness adds up to the most."""
    if len(old) * len(new) > PAIRS:
        return [(place, place) for place in range(min(len(old), len(new)))]
    best = [[0.0] * (len(new) + 1) for _ in range(len(old) + 1)]
    like = [[_likeness(one, other) for other in new] for one in old]
    for i in reversed(range(len(old))):
        for j in reversed(range(len(new))):
            here = like[i][j] + best[i + 1][j + 1] if like[i][j] >= ALIKE else 0.0
            best[i][j] = max(here, best[i + 1][j], best[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < len(old) and j < len(new):
        if like[i][j] >= ALIKE and best[i][j] == like[i][j] + best[i + 1][j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _with_picture(theirs: str, base: str, ours: str) -> str:
    """A person's line in which a picture of labkit's is replaced by the one that labkit has now."""
    old, new = ({match[0] for match in _PICTURE.finditer(line)} for line in (base, ours))
    if len(old) == len(new) == 1:
        return theirs.replace(old.pop(), new.pop())
    return theirs


def _likeness(one: str, other: str) -> float:
    """How much alike two lines are, 0 to 1; a line that contains the whole other one is like it."""
    if not one.strip() or not other.strip():
        return 0.0
    if min(len(one), len(other)) > 3 and (one in other or other in one):
        return 1.0
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return matcher.ratio() if matcher.quick_ratio() >= ALIKE else 0.0


def _places(
    base: Sequence[str],
    theirs: Sequence[str],
    ours: Sequence[str],
    to_theirs: Mapping[int, int],
    to_ours: Mapping[int, int],
) -> defaultdict[int, list[str]]:
    """The person's lines that have no line of ours to stand in for, by the line of ours (-1: none)
    that they follow."""
    from_theirs = {new: old for old, new in to_theirs.items()}
    open_, inside = depths(theirs), depths(ours)
    places: defaultdict[int, list[str]] = defaultdict(list)
    after, old = -1, -1
    for place, line in enumerate(theirs):
        old = from_theirs.get(place, old)
        if place in from_theirs and old in to_ours:
            after = to_ours[old]
        elif place not in from_theirs or line != base[old]:
            before = open_[place - 1] if place else 0
            after = max(after, _outside(inside, after) if before == 0 else after)
            places[after].append(line)
    return places


def depths(lines: Sequence[str]) -> list[int]:
    """How many tables, preformatted blocks and boxes are open after each line."""
    found, depth = [], 0
    for line in lines:
        depth = max(0, depth + len(_OPENS.findall(line)) - len(_CLOSES.findall(line)))
        found.append(depth)
    return found


def _outside(depths: Sequence[int], place: int) -> int:
    """The first line from ``place`` on after which no table or box is open."""
    if place < 0:
        return place
    return next((i for i in range(place, len(depths)) if depths[i] == 0), place)


def _in_deletion(place: int, origins: Mapping[int, int], to_theirs: Mapping[int, int]) -> bool:
    """Whether a new line of ours stands strictly inside a run of lines that a person deleted."""
    before = next((origins[i] for i in range(place - 1, -1, -1) if i in origins), None)
    last = max(origins, default=-1)
    after = next((origins[i] for i in range(place + 1, last + 1) if i in origins), None)
    if before is None or after is None:
        return False
    return not any(old in to_theirs for old in range(before, after + 1))
