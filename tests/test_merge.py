"""Merging what a person made of a block with what labkit writes now."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.wiki.merge.three_way import common, merge, persons

TABLE = [
    '{| class="wikitable"', "! name !! MB", "|-", "| base || 250", "|-", "| slim || 171", "|}",
]  # fmt: skip
BASE = ["Sizes measured.", *TABLE, "Took 10.5 s.", "End."]


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        pytest.param("a|b", "a|b2", "a|b2", id="nobody touched it"),
        pytest.param("a|REX> q|b", "a|b", "a|REX> q|b", id="nothing new"),
        pytest.param("a|REX> q|b", "a|b2", "a|REX> q|b2", id="a remark within"),
        pytest.param("REX> q|a|b", "a2|b", "REX> q|a2|b", id="a remark before everything"),
        pytest.param("a|b|REX> q", "a|x|y", "a|REX> q|x|y", id="a remark after what is gone"),
        pytest.param("a|b|REX> q", "a|b|c|d", "a|b|REX> q|c|d", id="new lines after a remark"),
        pytest.param("a", "a|b", "a", id="a deleted line stays deleted"),
        pytest.param("|REX> q||a|b", "a|b|c", "|REX> q||a|b|c", id="blank lines of a person's"),
    ],
)
def test_small_merges(theirs: str, ours: str, expected: str) -> None:
    """Base is a, b; a bar is a line's end."""
    assert "|".join(merge(["a", "b"], theirs.split("|"), ours.split("|"))) == expected


def test_a_remark_between_rows_stays_after_its_row() -> None:
    """All numbers changed, a row was added: the remark still follows the row that it is about."""
    theirs = [*BASE[:5], "REX> quantify", *BASE[5:]]
    ours = [
        line.replace("250", "297").replace("171", "149").replace("10.5", "9.1") for line in BASE
    ]
    ours = [*ours[:7], "|-", "| tiny || 5", *ours[7:]]
    merged = merge(BASE, theirs, ours)
    assert [line for line in merged if line != "REX> quantify"] == ours
    assert merged[merged.index("REX> quantify") - 1] == "| base || 297"


def test_a_changed_line_is_the_person_s_for_good() -> None:
    """A rewritten caption stays, also when labkit's own changes later; nothing is doubled."""
    theirs = ["Sizes measured by me.", *BASE[1:]]
    ours = ["Sizes measured again.", *BASE[1:-1], "The end."]
    merged = merge(BASE, theirs, ours)
    assert merged == ("Sizes measured by me.", *ours[1:])
    later = ["Sizes measured once more.", *ours[1:]]
    assert merge(ours, merged, later) == ("Sizes measured by me.", *later[1:])


def test_a_line_with_a_remark_at_its_end_is_the_person_s() -> None:
    """A remark typed onto a machine's line is never lost with the line's next change."""
    theirs = [*BASE[:-2], "Took 10.5 s. REX> why so long?", BASE[-1]]
    ours = [line.replace("10.5", "9.1") for line in BASE]
    merged = merge(BASE, theirs, ours)
    assert "Took 10.5 s. REX> why so long?" in merged
    assert "Took 9.1 s." not in merged


def figure(digest: str, caption: str) -> str:
    """A line that shows a figure."""
    return f"[[File:Labkit-sizes-{digest * 16}.png|thumb|none|800px|alt=Sizes|<i>{caption}</i>]]"


def test_a_rewritten_caption_keeps_its_picture() -> None:
    """The words are the person's for good, the picture is the one that labkit draws now."""
    base, theirs = [figure("a", "By size.")], [figure("a", "By size. Why so large?")]
    merged = merge(base, theirs, [figure("b", "By size, in MB.")])
    assert merged == (figure("b", "By size. Why so large?"),)
    assert persons(base, theirs) == persons([], merged)


def test_a_picture_that_a_person_chose_is_theirs() -> None:
    """Only labkit's own picture is ever exchanged."""
    theirs = figure("a", "By size.").replace("Labkit-sizes-", "Mine-")
    assert merge([figure("a", "By size.")], [theirs], [figure("b", "By size.")]) == (theirs,)


def test_a_deleted_table_stays_deleted_whatever_its_numbers() -> None:
    """New rows within a deleted table are part of it."""
    theirs = [BASE[0], *BASE[-2:]]
    ours = [BASE[0], *BASE[1:4], "| x || 1", "|-", "| y || 2", "|-", "| z || 3", "|}", *BASE[-2:]]
    assert list(merge(BASE, theirs, ours)) == theirs


def test_a_remark_after_a_table_does_not_slip_into_it() -> None:
    """When the line that it followed is gone, it goes to the next place outside of the table."""
    base = ["{|", "| a", "|}", "Old sentence."]
    theirs = ["{|", "| a", "|}", "Old sentence.", "REX> q"]
    ours = ["{|", "| a", "|-", "| b", "|}"]
    assert merge(base, theirs, ours) == (*ours, "REX> q")
    base, theirs = ["one", "x y z"], ["one", "x y z", "REX> q"]
    ours = ["{|", "| one", "|}", "two"]
    merged = merge(base, theirs, ours)
    assert merged.index("REX> q") == 0 or merged.index("REX> q") > merged.index("|}")


def test_repeated_lines_are_counted() -> None:
    """A person's line that reads as one of labkit's is a person's all the same."""
    assert persons(["|-", "x"], ["|-", "|-", "x", "", "y "]) == {"|-": 1, "y": 1}


def test_the_common_lines_stand_in_for_a_lost_base() -> None:
    """What both have is labkit's, everything else a person's."""
    assert common(["a", "REX> q", "old"], ["a", "new"]) == ("a",)


LINE = st.sampled_from(["|-", "| 1", "| 2", "| 3", "{|", "|}", "", "a b c", "a b d", "REX> 1", "z"])
LINES = st.lists(LINE, max_size=12)


@settings(max_examples=400, deadline=None)
@given(base=LINES, theirs=LINES, ours=LINES)
def test_no_line_of_a_person_s_is_ever_lost(
    base: list[str], theirs: list[str], ours: list[str]
) -> None:
    """Whatever the three texts are, every line that the person added is in the merged text."""
    merged = merge(base, theirs, ours)
    assert not persons(base, theirs) - persons([], merged)


@settings(max_examples=400, deadline=None)
@given(base=LINES, theirs=LINES, ours=LINES)
def test_a_merge_is_settled(base: list[str], theirs: list[str], ours: list[str]) -> None:
    """Merging again, with labkit writing the same, changes nothing."""
    merged = merge(base, theirs, ours)
    assert merge(ours, merged, ours) == merged


@given(base=LINES, ours=LINES)
def test_what_nobody_touched_is_as_labkit_writes_it(base: list[str], ours: list[str]) -> None:
    """No stale line stays in an untouched block."""
    assert list(merge(base, base, ours)) == ours


@settings(max_examples=400, deadline=None)
@given(base=LINES, ours=LINES, place=st.integers(0, 12))
def test_a_remark_alone_leaves_every_other_line_to_labkit(
    base: list[str], ours: list[str], place: int
) -> None:
    """With nothing but an added line, the merged text is labkit's new one and that line."""
    theirs = [*base[:place], "REX> new", *base[place:]]
    merged = list(merge(base, theirs, ours))
    merged.remove("REX> new")
    assert merged == ours
