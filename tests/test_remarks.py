"""Remarks: what people write in the report, read back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import mwclient
import pytest

from labkit import Lab
from labkit.wiki import accounts, api, fences, publish, remarks, session
from labkit.wiki.api import Revision
from labkit.wiki.folders import Folders, api_url
from labkit.wiki.remarks import State

SIGNED = "[[User:Teacher|Teacher]] ([[User talk:Teacher|talk]]) 10:32, 23 November 2026 (UTC)"
ROOTFS = fences.block(
    "02-rootfs", "== Root file systems ==", "All: 250 MB.\n\n=== Docker ===\nSlim."
)
WEB = fences.block("05-web", "== Web sites ==", "Six pages.")


@pytest.mark.parametrize(
    ("lines", "text", "answer", "state"),
    [
        ("REX> Why?", "Why?", "", "open"),
        ("REX> Why?\nREX> And how?", "Why?\nAnd how?", "", "open"),
        (f"REX> Why? {SIGNED}", "Why?", "", "open"),
        (f"REX> Why?\n: Because. {SIGNED}", "Why?", "Because.", "answered"),
        ("REX> Why?\n: Because.\nREX> And how?", "Why?\nAnd how?", "Because.", "open"),
        ("REX> Why?\n: Because.\nREX> settled", "Why?", "Because.", "settled"),
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
    [found] = remarks.parse(f"Before.\n\n{lines}\n\nAfter.", "Report")
    assert (found.text, found.answer, found.state) == (text, answer, state)


def test_remarks_that_an_empty_line_divides_are_two() -> None:
    """The assignment's page has such pairs."""
    found = remarks.parse("REX> a\n\nREX> b\nwords\nREX> c", "Report")
    assert [(remark.number, remark.text) for remark in found] == [(1, "a"), (2, "b"), (3, "c")]


def test_a_remark_knows_where_it_stands() -> None:
    """In a block, under the last heading of a block, in a person's own section, before everything."""
    body = ROOTFS.text.replace("Slim.", "Slim.\nREX> inside")
    text = f"REX> first\n\n{body}\nREX> under it\n\n== Ours ==\nREX> own\n\n{WEB.text}\n\nREX> last"
    assert [(r.text, r.block, r.section) for r in remarks.parse(text, "Report")] == [
        ("first", "", ""),
        ("inside", "02-rootfs", "Docker"),
        ("under it", "02-rootfs", "Docker"),
        ("own", "", "Ours"),
        ("last", "05-web", "Web sites"),
    ]


@pytest.mark.parametrize("line", ["a REX> b", "REX&gt; b", "<pre>REX> b</pre>", "REX: b", "R > b"])
def test_other_lines_are_no_remarks(line: str) -> None:
    """A remark begins its line, and what labkit shows of somebody's REX> is none."""
    assert remarks.parse(line, "Report") == ()


def revision(number: int, *lines: str) -> Revision:
    """A revision of a page of these lines."""
    return Revision(number=number, text="\n".join(lines), user=f"user {number}")


def test_a_line_is_traced_to_who_brought_it() -> None:
    """Each of two equal lines has its own author; an old page's lines came with its oldest revision."""
    history = [
        revision(4, "REX> a", "x", "REX> a", "REX> b"),
        revision(3, "REX> a", "REX> a", "REX> b"),
        revision(2, "REX> a", "REX> b"),
        revision(1, "REX> b"),
    ]
    found = remarks.trace(history, ["REX> a", "REX> a", "REX> b", "REX> c"])
    assert [item and item.number for item in found] == [2, 3, 1, None]


def test_history_is_read_no_further_than_needed() -> None:
    """Once each line's revision is known, no older one is asked for."""

    def history() -> Iterator[Revision]:
        yield revision(3, "REX> a")
        yield revision(2)
        raise AssertionError("read too far")

    [found] = remarks.trace(history(), ["REX> a"])
    assert found is not None
    assert found.number == 3


@pytest.fixture
def teacher(wiki_lab: Lab) -> Iterator[mwclient.Site]:
    """The teacher's session with a real wiki."""
    site = session.connect(api_url(wiki_lab), own=True)
    site.login(
        accounts.TEACHER, accounts.read(Folders.of(wiki_lab).passwords).teacher.get_secret_value()
    )
    with closing(site.connection):
        yield site


@pytest.mark.root
def test_remarks_are_read_back_from_the_wiki(
    wiki_lab: Lab, teacher: mwclient.Site, tmp_path: Path
) -> None:
    """Author and date are the page's history's, whoever saved it since; a changed block makes stale."""
    page = wiki_lab.wiki.page
    with closing((bot := session.open(wiki_lab)).connection):
        publish.apply(bot, page, (ROOTFS, WEB), folder=tmp_path)
        assert "No" not in remarks.read(wiki_lab).summary
        now = api.read(teacher, page).revision
        assert now is not None
        text = now.text.replace("250 MB.", "250 MB.\nREX> Quantify. ~~~~").replace("Six pages.", "Six pages.\nREX> Good.\nREX> settled")  # fmt: skip
        api.edit(teacher, page, text, base=now.number, summary="")
        small = fences.block(ROOTFS.name, ROOTFS.heading, ROOTFS.body.replace("250", "68"))
        publish.apply(bot, page, (small, WEB), folder=tmp_path)
    result = remarks.read(wiki_lab)
    one, other = result.value.remarks
    assert result.summary == f"2 remarks on the page {page}: 1 open, 0 answered, 1 settled."
    assert (one.author, one.thread.text, one.thread.block, one.stale) == (
        "Teacher", "Quantify.", "02-rootfs", True,
    )  # fmt: skip
    assert (other.author, other.thread.state, other.stale) == ("Teacher", "settled", False)
    assert one.written is not None
    assert abs((datetime.now(UTC) - one.written).total_seconds()) < 600
    assert result.table("remarks").rows[0][:3] == ("open", "02-rootfs", "Quantify.")
    assert not result.changed


@pytest.mark.root
def test_a_page_that_is_not_there_has_no_remarks(wiki_lab: Lab) -> None:
    """Nothing was published yet: nothing to read, and no error."""
    other = wiki_lab.wiki.model_copy(update={"page": "Not there"})
    assert remarks.read(wiki_lab.model_copy(update={"wiki": other})).value.remarks == ()
