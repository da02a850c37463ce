"""Remarks in a page's text: what each says, where it stands, what became of it."""

from __future__ import annotations

import pytest

from labkit.wiki.merge import fences
from labkit.wiki.remarks import threads
from labkit.wiki.remarks.threads import State

SIGNED = "[[User:Teacher|Teacher]] ([[User talk:Teacher|talk]]) 10:32, 23 November 2026 (UTC)"
FRENCH = "[[Utilisateur:Prof|Prof]] ([[Discussion utilisateur:Prof|discussion]]) 23 novembre 2026 à 10:32 (CET)"
ROOTFS = fences.block(
    "02-rootfs", "== Root file systems ==", "All: 250 MB.\n\n=== Docker ===\nSlim."
)
WEB = fences.block("05-web", "== Web sites ==", "Six pages.")
LIST = fences.block("remarks", "== Remarks ==", "None.")


@pytest.mark.parametrize(
    ("lines", "text", "answer", "state"),
    [
        ("REX> Why?", "Why?", "", "open"),
        ("REX> Why?\nREX> And how?", "Why?\nAnd how?", "", "open"),
        (f"REX> Why? {SIGNED}", "Why?", "", "open"),
        (f"REX> Why? {FRENCH}", "Why?", "", "open"),
        (f"REX> See [[A]] and [[B|b]]. {SIGNED}", "See [[A]] and [[B|b]].", "", "open"),
        ("REX> See [[A|a]] of 2026 (UTC).", "See [[A|a]] of 2026 (UTC).", "", "open"),
        (f"REX> Why?\n: Because. {SIGNED}", "Why?", "Because.", "answered"),
        ("REX> Why?\n: Because.\n: And so.", "Why?", "Because.\nAnd so.", "answered"),
        ("REX> Why?\n: Because.\nREX> And how?", "Why?\nAnd how?", "Because.", "open"),
        ("REX> Why?\n: Because.\nREX> settled", "Why?", "Because.", "settled"),
        ("REX> Why?\nREX> settled\n: Thank you.", "Why?", "Thank you.", "settled"),
        ("REX> Why?\nREX> Settled, thank you.", "Why?", "", "settled"),
        ("REX> Why?\nREX> settled\nREX> But still.", "Why?\nBut still.", "", "open"),
        ("| REX> in a table", "in a table", "", "open"),
        ("REX> Why?\n\n: not under it", "Why?", "", "open"),
        ("REX> Settled debts?\n: Yes.", "Settled debts?", "Yes.", "answered"),
        (f"REX> Why?\nREX> settled {SIGNED}", "Why?", "", "settled"),
    ],
)
def test_a_remark_has_text_answer_and_state(
    lines: str, text: str, answer: str, state: State
) -> None:
    """A run of lines is one remark; what stands directly under it says what became of it."""
    [found] = threads.parse(f"Before.\n\n{lines}\n\nAfter.")
    assert (found.text, found.answer, found.state) == (text, answer, state)
    end = 2 + len(lines.partition("\n\n")[0].split("\n"))
    assert (found.first, found.last) == (3, end)


def test_remarks_that_an_empty_line_divides_are_two() -> None:
    """The assignment's page has such pairs."""
    found = threads.parse("REX> a\n\nREX> b\nwords\nREX> c")
    assert [(remark.number, remark.text) for remark in found] == [(1, "a"), (2, "b"), (3, "c")]


def test_a_remark_knows_where_it_stands() -> None:
    """In a block, under the last heading of a block, in a person's own section, before everything;
    under the list of remarks it is about no block."""
    body = ROOTFS.text.replace("Slim.", "Slim.\nREX> inside")
    text = (
        f"REX> first\n\n{body}\nREX> under it\n\n== Ours ==\nREX> own\n\n"
        f"{WEB.text}\n\nREX> last\n\n{LIST.text}\nREX> of all"
    )
    assert [(r.text, r.block, r.section) for r in threads.parse(text)] == [
        ("first", "", ""),
        ("inside", "02-rootfs", "Docker"),
        ("under it", "02-rootfs", "Docker"),
        ("own", "", "Ours"),
        ("last", "05-web", "Web sites"),
        ("of all", "", "Remarks"),
    ]


@pytest.mark.parametrize(
    ("text", "block"),
    [
        (ROOTFS.text.replace("Slim.\n", "Slim.\nREX> inside "), "02-rootfs"),
        (f"{ROOTFS.text} REX> inside", "02-rootfs"),
        (ROOTFS.text.replace("<!-- labkit:end", "REX> inside\n<!-- labkit:begin"), ""),
    ],
)
def test_a_fence_on_a_remarks_line_is_no_part_of_it(text: str, block: str) -> None:
    """Nor does a damaged fence hide a remark: its page only has no blocks."""
    [found] = threads.parse(text)
    assert (found.text, found.block) == ("inside", block)


@pytest.mark.parametrize("line", ["a REX> b", "REX&gt; b", "<pre>REX> b</pre>", "REX: b", "R > b"])
def test_other_lines_are_no_remarks(line: str) -> None:
    """A remark begins its line, and what labkit shows of somebody's REX> is none."""
    assert threads.parse(line) == ()


def test_a_section_is_named_by_its_headings_words() -> None:
    """Marks, anchors and references of a rendered heading are no part of its name."""
    heading = "=== <span id=\"02-rootfs-a\"></span>Sizes ''of'' <code>a&#124;b</code> ==="
    [thread] = threads.parse(f"{heading}\nREX> why?\n")
    assert thread.section == "Sizes of a|b"


@pytest.mark.parametrize(
    ("lines", "state", "ignored"),
    [
        ("REX> Why?\nREX> settled", "open", (2,)),
        ("REX> Why?\n: So.\nREX> settled", "answered", (3,)),
        ("REX> Why?\nREX> settled\n: So.", "answered", (2,)),
        ("REX> Why?\nREX> settled\nREX> settled!", "settled", ()),
        ("REX> Why?\nREX> settled!\nREX> settled", "settled", (3,)),
    ],
)
def test_a_line_that_does_not_count_settles_nothing(
    lines: str, state: State, ignored: tuple[int, ...]
) -> None:
    """The remark stays what it was; the line is told by its number."""
    texts = lines.split("\n")
    [found] = threads.parse(lines, lambda line, asking: texts[line - 1].endswith("!"))
    assert (found.state, found.ignored) == (state, ignored)
