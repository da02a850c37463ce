"""Mending the comments of a page that a person has damaged."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import WikiError
from labkit.wiki.merge import fences, page_merge, repair, three_way
from labkit.wiki.merge.fences import Block
from labkit.wiki.merge.repair import Repaired

ONE = fences.block("01-wiki", "== Wiki ==", 'It answers.\n\n{| class="wikitable"\n| page || 17\n|}')
TWO = fences.block("02-rootfs", "== Root file systems ==", "It weighs 171 MB.\n\nThe end of it.")
OLD = fences.block("02-rootfs", "== Root file systems ==", "It weighs 250 MB.\n\nThe end of it.")
LIST = fences.listed(("01-wiki", "02-rootfs"))
#: Both blocks with a person's lines before, between, within and after them.
REMARKS = ("Hello.", "REX> between", "REX> within", "Bye.")
END_1, END_2 = "<!-- labkit:end 01-wiki -->", "<!-- labkit:end 02-rootfs -->"
BEGIN_1 = f"<!-- labkit:begin 01-wiki {ONE.digest} -->"
BEGIN_2 = f"<!-- labkit:begin 02-rootfs {TWO.digest} -->"


def page(*parts: str) -> str:
    """A page of these parts, an empty line between them."""
    return "\n\n".join(parts)


WITHIN = TWO.text.replace("171 MB.\n", "171 MB.\nREX> within\n")
WHOLE = f"{LIST}\n{page('Hello.', ONE.text, 'REX> between', WITHIN, 'Bye.')}"


def mended(text: str, *versions: Block) -> Repaired:
    """The page as it is mended by a labkit that knows these versions of its blocks."""
    known = {(block.name, block.digest): block for block in versions}
    return repair.repair(
        text, "Report", versions=versions, last_wrote=lambda name, digest: known.get((name, digest))
    )


def people(text: str, *versions: Block) -> Counter[str]:
    """The lines of a page, whatever its comments are like, that labkit never wrote."""
    found = repair.read_comments(text, ("01-wiki", "02-rootfs"))
    lines = three_way.count(repair.without(text, found).split("\n"))
    return Counter(
        {line: n for line, n in lines.items() if not any(line in v.lines for v in versions)}
    )


def cut(text: str) -> str:
    """The whole page without a text that stands on it once."""
    assert WHOLE.count(text) == 1
    return WHOLE.replace(text, "")


def swapped(one: str, other: str, text: str = WHOLE) -> str:
    """A page on which two texts have changed places."""
    return text.replace(one, "\0").replace(other, one).replace("\0", other)


#: What a person did -> the page then. Mended, each of them is the whole page again.
DAMAGES = {
    "an end is gone": cut(END_1),
    "an end and its line are gone": cut(f"\n{END_1}"),
    "the last end is gone": cut(END_2),
    "a begin is gone": cut(f" {BEGIN_1}"),
    "the second begin is gone": cut(f" {BEGIN_2}"),
    "an end and the next begin are gone": cut(END_1).replace(f" {BEGIN_2}", ""),
    "a hash was cut": WHOLE.replace(TWO.digest, "12"),
    "a hash was changed": WHOLE.replace(TWO.digest, "0123456789abcdef"),
    "a begin's name was changed": WHOLE.replace("begin 01-wiki", "begin 01-wik"),
    "an end's name was changed": WHOLE.replace("end 02-rootfs", "end 2-rootfs"),
    "a begin got the other's name": WHOLE.replace("begin 01-wiki", "begin 02-rootfs"),
    "an end got the other's name": WHOLE.replace("end 01-wiki", "end 02-rootfs"),
    "a colon is gone": WHOLE.replace("labkit:end 01", "labkit end 01"),
    "a keyword was mistyped": WHOLE.replace("labkit:begin 02", "labkit:bgin 02"),
    "an opening is gone": WHOLE.replace(END_1, END_1.removeprefix("<!-- ")),
    "a closing is gone": WHOLE.replace(BEGIN_1, BEGIN_1.removesuffix(" -->")),
    "two ends were swapped": swapped(END_1, END_2),
    "two begins were swapped": swapped(BEGIN_1, BEGIN_2),
    "begin and end were swapped": swapped(BEGIN_1, END_1),
    "a block was copied": f"{WHOLE}\n\n{ONE.text}",
    "a block with a remark was copied": WHOLE.replace("\n\nBye.", f"\n\n{TWO.text}\n\nBye."),
    "a block was copied without its end": WHOLE.replace("\n\nBye.", f"\n\n{ONE.text.removesuffix(END_1)}\n\nBye."),
    "an older revision's block was copied": WHOLE.replace("\n\nBye.", f"\n\n{OLD.text}\n\nBye."),
    "a stray end was put in": WHOLE.replace("It answers.\n", f"It answers.\n{END_2}\n"),
    "both names are gone": WHOLE.replace("begin 02-rootfs", "begin").replace("end 02-rootfs", "end"),
    "the list was copied": f"{WHOLE}\n{LIST}",
    "the list was cut": WHOLE.replace("labkit:page 01", "labkit:pag 01"),
}  # fmt: skip


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_page_is_whole_again(text: str) -> None:
    """The comments stand where they stood; every line of a person's is there once."""
    found = mended(text, TWO, ONE, OLD)
    assert page_merge.present(fences.parse(found.text, "Report")) == page_merge.present(
        fences.parse(WHOLE, "")
    )
    blocks = fences.parse(found.text, "Report").blocks
    assert [(b.block, b.digest) for b in blocks] == [
        (b.block, b.digest) for b in fences.parse(WHOLE, "").blocks
    ]
    assert people(found.text, ONE, TWO) == Counter(REMARKS)
    assert found.diff


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES.keys())
def test_nothing_is_lost_where_nothing_is_known(text: str) -> None:
    """With every store gone the page is mended too; then every line counts as a person's."""
    found = mended(text)
    fences.parse(found.text, "Report")
    read = repair.read_comments(text, ())
    assert not three_way.count(repair.without(text, read).split("\n")) - page_merge.present(
        fences.parse(found.text, "Report")
    )


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_mended_page_is_left_alone(text: str) -> None:
    """Mending it again changes nothing."""
    once = mended(text, TWO, ONE, OLD)
    assert mended(once.text, TWO, ONE, OLD) == Repaired(text=once.text)


@pytest.mark.parametrize("text", ["", "Words.", WHOLE, page(LIST, "REX> all gone")])
def test_a_whole_page_is_left_alone(text: str) -> None:
    """Nothing is changed on a page whose comments are whole."""
    assert mended(text, TWO, ONE) == Repaired(text=text)


def test_a_block_within_another_is_moved_behind_it() -> None:
    """Both are whole, and the outer one's lines are together."""
    inner = f"{LIST}\n" + ONE.text.replace("It answers.", f"It answers.\n{TWO.text}")
    found = mended(inner, ONE, TWO)
    assert found.text == f"{LIST}\n{page(ONE.text, TWO.text)}"


def test_overlapping_blocks_are_told_apart() -> None:
    """Comments that overlap cannot be put back where they were: both blocks are whole, no line is lost."""
    text = WHOLE.replace(f"{END_1}\n", "").replace("The end of it.", f"{END_1}\nThe end of it.")
    found = mended(text, ONE, TWO)
    assert [b.block.name for b in fences.parse(found.text, "").blocks] == ["01-wiki", "02-rootfs"]
    assert people(found.text, ONE, TWO) == Counter(REMARKS)


def test_a_copy_with_words_of_its_own_leaves_them() -> None:
    """A line that a person wrote in the copy stands after the same line of the block that stays."""
    copy = ONE.text.replace("| page || 17", "| page || 17\n|-\n| REX> || why 17?")
    found = mended(f"{WHOLE}\n\n{copy}", ONE, TWO)
    assert "| page || 17\n|-\n| REX> || why 17?\n|}" in found.text
    assert found.text.count("It answers.") == 1


def test_words_in_a_damaged_comment_stay() -> None:
    """What a person typed into a comment is not taken away with it."""
    text = WHOLE.replace(END_1, "<!-- labkit:end 01-wiki REX> here too -->")
    found = mended(text, ONE, TWO)
    assert "REX> here too" in found.text
    assert END_1 in found.text


def test_a_person_s_comment_that_begins_as_labkit_s_stays() -> None:
    """It is changed by a colon, so that it is not taken for one of labkit's any more."""
    text = WHOLE.replace("Hello.", "<!-- labkit: todo -->\nHello.")
    with pytest.raises(WikiError, match="damaged"):
        fences.parse(text, "Report")
    assert "<!-- labkit  todo -->" in mended(text, ONE, TWO).text


@pytest.mark.parametrize(
    "words", ["REX> what is labkit:begin?", "labkit:end", "<!-- labkit is nice -->"]
)
def test_speaking_of_labkit_damages_nothing(words: str) -> None:
    """Words that a person may write are no damaged comment."""
    assert fences.parse(words, "Report").outside == (words,)


def test_the_difference_is_shown_as_on_the_page() -> None:
    """The lines that mending changes, with their numbers."""
    found = mended(cut(f"\n{END_1}"), ONE, TWO)
    line = WHOLE.split("\n").index(END_1) + 1
    assert found.diff.startswith(f"@@ -{line - 2},4 +{line - 2},5 @@")
    assert f"\n+{END_1}\n" in found.diff


PARTS = (
    LIST, BEGIN_1, BEGIN_2, END_1, END_2, *ONE.lines, *TWO.lines, *OLD.lines, *REMARKS,
    "<!-- labkit:end -->", "<!-- labkit:begin -->", "<!-- labkit:begin 02-rootfs", "labkit:page -->", "",
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(lines=st.lists(st.sampled_from(PARTS), max_size=25), knows=st.booleans())
def test_whatever_the_damage_no_line_of_a_person_s_is_lost(lines: list[str], knows: bool) -> None:
    """Any mixture of comments, labkit's lines and people's is mended; a second time nothing is left."""
    versions = (TWO, ONE, OLD) if knows else ()
    text = "\n".join(lines)
    found = mended(text, *versions)
    fences.parse(found.text, "Report")
    assert not people(text, ONE, TWO, OLD) - people(found.text, ONE, TWO, OLD)
    assert mended(found.text, *versions).text == found.text
