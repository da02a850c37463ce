"""A page's text as people's words and labkit's blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import WikiError
from labkit.wiki.merge import fences, page_merge
from labkit.wiki.merge.fences import Block

ONE = fences.block("01-wiki", "== Wiki ==", "a\nb")
TWO = fences.block("02-rootfs", "", "c")


def page(*parts: str) -> str:
    """A page of these parts, an empty line between them."""
    return "\n\n".join(parts)


def test_a_block_stands_between_two_comments() -> None:
    """The first comment is on the heading's line and carries the hash of what labkit wrote."""
    assert ONE.text == (
        f"== Wiki == <!-- labkit:begin 01-wiki {ONE.digest} -->\na\nb\n<!-- labkit:end 01-wiki -->"
    )
    assert TWO.text.startswith("<!-- labkit:begin 02-rootfs ")


def test_a_page_is_read_into_its_parts() -> None:
    """Blocks in their order, what people wrote around them, and the list of published blocks."""
    text = page(
        fences.listed(("01-wiki", "02-rootfs")), "Hello", ONE.text, "REX> x", TWO.text, "end"
    )
    document = fences.parse(text, "Report")
    assert [found.block for found in document.blocks] == [ONE, TWO]
    assert [found.touched for found in document.blocks] == [False, False]
    assert document.names == ("01-wiki", "02-rootfs")
    assert [part.strip() for part in document.outside] == ["", "Hello", "REX> x", "end"]
    document = fences.parse("== Title ==\nWords", "Report")
    assert (document.blocks, document.names) == ((), None)
    assert document.outside == ("== Title ==\nWords",)


def test_a_block_is_known_by_its_comments() -> None:
    """Whatever stands before the first on its line; words typed on a comment's line belong to the block, or to what
    follows it."""
    for heading in ("== Notre wiki ==", ""):
        [found] = fences.parse(ONE.text.replace("== Wiki ==", heading), "Report").blocks
        assert found.block.heading == heading
    text = ONE.text.replace("\na\n", " typed\na\n") + " REX> after"
    document = fences.parse(text, "Report")
    assert document.blocks[0].block.body == " typed\na\nb"
    assert document.blocks[0].touched
    assert document.outside[-1] == " REX> after"


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        (page("x", ONE.text.replace("<!-- labkit:end 01-wiki -->", "")), 3, "has no end"),
        (page("x", "<!-- labkit:end 01-wiki -->"), 3, "without having begun"),
        (page(ONE.text, "x", ONE.text), 8, "second time (first: line 1)"),
        (ONE.text.replace("a\nb", TWO.text), 2, "begins inside another"),
        (ONE.text.replace("end 01-wiki", "end 01-wik"), 4, "without having begun"),
        (ONE.text.replace(ONE.digest, "12"), 1, "damaged"),
        (ONE.text.replace("<!-- labkit:end", "<!-- labkit end"), 4, "damaged"),
        (ONE.text.replace("<!-- labkit:end", "labkit:end"), 4, "damaged"),
        (page(fences.listed(("a",)), fences.listed(("a",))), 3, "second list"),
    ],
)
def test_a_damaged_or_doubled_comment_is_named(text: str, line: int, fault: str) -> None:
    """The error says which line of which page, and what is wrong with it."""
    with pytest.raises(WikiError, match="nothing was published") as caught:
        fences.parse(text, "Report")
    assert caught.value.value == f"Report, line {line}"
    assert fault in caught.value.reason


def test_a_block_is_what_the_wiki_will_store() -> None:
    """NFC and no blanks at the end, so that its hash is the same when it is read again."""
    block = fences.block("a", " == e\u0301 == ", "\nx\r\ny \n\n")
    assert (block.heading, block.body) == ("== é ==", "x\ny")


WORDS = st.text(alphabet="aé \n=*#:>-", max_size=30)


@given(words=st.lists(WORDS, min_size=4, max_size=4), listed=st.booleans())
def test_what_is_outside_is_found_character_by_character(words: list[str], listed: bool) -> None:
    """Blocks and list cut out, the page is what people wrote, whatever that is."""
    cut = fences.listed(("01-wiki",)) if listed else ""
    text = f"{words[0]}{cut}{words[1]}\n{ONE.text}{words[2]}\n{TWO.text}{words[3]}"
    document = fences.parse(text, "Report")
    assert "".join(document.outside) == f"{words[0]}{words[1]}\n{words[2]}\n{words[3]}"


@given(words=st.lists(WORDS, min_size=4, max_size=4))
def test_unchanged_blocks_leave_the_page_as_it_is(words: list[str]) -> None:
    """Nothing of a page is written anew when its blocks are the same."""
    names = fences.listed(("01-wiki", "02-rootfs"))
    text = f"{names}{words[1]}\n{ONE.text}{words[2]}\n{TWO.text}{words[3]}"
    merged = page_merge.merged(
        fences.parse(text, "Report"), (ONE, TWO), last_wrote=lambda name, digest: None
    )
    assert merged.text == text
    assert [change.state for change in merged.changes] == ["unchanged", "unchanged"]


# -- the new text of a page ------------------------------------------------------------------


def memory(*blocks: Block) -> page_merge.LastWrote:
    """A memory of these blocks."""
    known = {(block.name, block.digest): block for block in blocks}
    return lambda name, digest: known.get((name, digest))


def merged(text: str, *blocks: Block, known: Block = ONE) -> page_merge.Merged:
    """The page with these blocks, by a labkit that remembers one more."""
    return page_merge.merged(
        fences.parse(text, "Report"), blocks, last_wrote=memory(known, *blocks)
    )


def test_a_new_block_takes_its_place_among_the_others() -> None:
    """After the block before it, wherever people moved that, else before the one after it; on a page that people
    began, after what is there."""
    new = merged("", ONE, TWO)
    assert new.text == f"{fences.listed(('01-wiki', '02-rootfs'))}\n{page(ONE.text, TWO.text)}"
    assert [change.state for change in new.changes] == ["added", "added"]
    began = merged("== Ours ==\nWords", ONE).text
    assert began == f"{fences.listed(('01-wiki',))}\n== Ours ==\nWords\n\n{ONE.text}"
    three = fences.block("03-containers", "", "d")
    start = page(fences.listed(("01-wiki", "03-containers")), ONE.text, "own", three.text, "end")
    assert merged(start, ONE, TWO, three).text == page(
        fences.listed(("01-wiki", "03-containers", "02-rootfs")), ONE.text, TWO.text, "own", three.text, "end",
    )  # fmt: skip
    only = page(fences.listed(("03-containers",)), "own", three.text)
    assert page("own", ONE.text, three.text) in merged(only, ONE, three).text


def test_a_block_that_a_person_deleted_stays_deleted() -> None:
    """It is listed as published and not on the page: it comes back only when it is asked for."""
    start = page(fences.listed(("01-wiki", "02-rootfs")), ONE.text)
    kept = merged(start, ONE, TWO)
    assert kept.text == start
    assert [change.state for change in kept.changes] == ["unchanged", "deleted"]
    back = page_merge.merged(
        fences.parse(start, "Report"), (ONE, TWO), last_wrote=memory(), restore=["02-rootfs"]
    )
    assert back.text == page(start, TWO.text)
    # without its list, a page with blocks has deleted what labkit knows that it published
    new = page_merge.merged(
        fences.parse(ONE.text, "Report"),
        (ONE, TWO),
        last_wrote=memory(),
        known=["01-wiki", "02-rootfs"],
    )
    assert new.text == f"{fences.listed(('01-wiki', '02-rootfs'))}\n{ONE.text}"


def test_a_changed_block_is_replaced_and_its_renamed_heading_stays() -> None:
    """Only the block's text differs, and the difference is told; the heading never leaves the comment's line."""
    start = page(fences.listed(("01-wiki",)), "  own ", ONE.text, "\tend")
    new = fences.block("01-wiki", "== Wiki ==", "a\nb2")
    changed = merged(start, new)
    assert changed.text == start.replace(ONE.text, new.text)
    assert "-b\n+b2" in changed.changes[0].diff
    start = ONE.text.replace("== Wiki ==", "== Our wiki ==")
    new = fences.block("01-wiki", "== The wiki ==", "a\nb2")
    assert merged(start, new).text.endswith(
        f"== Our wiki == <!-- labkit:begin 01-wiki {new.digest} -->\na\nb2\n<!-- labkit:end 01-wiki -->"
    )


def test_without_memory_every_line_that_labkit_would_not_write_is_kept() -> None:
    """When what labkit last wrote is lost, no line that could be a person's is taken away."""
    start = ONE.text.replace("a\nb", "a\nREX> q\nb")
    new = fences.block("01-wiki", "== Wiki ==", "a\nb2")
    found = page_merge.merged(
        fences.parse(start, "Report"), (new,), last_wrote=lambda name, digest: None
    )
    assert fences.parse(found.text, "Report").blocks[0].block.body.split("\n") == [
        "a", "REX> q", "b", "b2",
    ]  # fmt: skip


def test_lost_lines_are_put_back_where_they_stood() -> None:
    """After the line that they followed, or at the end when that is gone."""
    before = "a\nREX> 1\nb\nREX> 2\nREX> 3"
    lost = page_merge.three_way.count(["REX> 1", "REX> 2", "REX> 3"])
    assert page_merge.put_back("a\nc", before, lost) == "a\nREX> 1\nc\nREX> 2\nREX> 3"
