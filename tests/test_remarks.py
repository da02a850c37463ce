"""Remarks, read back from a real wiki: who wrote each, when, about which run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from labkit import Lab
from labkit.wiki.client.mediawiki import MediaWiki
from labkit.wiki.publish import last_written, publishing
from labkit.wiki.remarks import listing, threads
from labkit.wiki.remarks.listing import Addressed, Remark, Remarks
from labkit.wiki.remarks.threads import State
from tests.desks import WEB, Writers, run_id, run_stage, writers

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

BOTH = pytest.mark.parametrize("wiki_on", ["sqlite", "mariadb"], indirect=True)


def remark(text: str, **other: object) -> Remark:
    """A remark as it stands on a page."""
    [thread] = threads.parse(text)
    values = {"id": "0badcafe", "author": "Teacher", "asked": NOON, "written": NOON, "stale": False}
    return Remark.model_validate({**values, "thread": thread, "state": thread.state, **other})


@pytest.mark.parametrize(
    ("text", "holds", "minutes", "state"),
    [
        ("REX> Why?", True, 1, "answered"),
        ("REX> Why?", False, 1, "open"),
        ("REX> Why?", True, -1, "open"),
        ("REX> Why?\nREX> settled", True, 1, "settled"),
        ("REX> Why?\n: So.", False, 1, "answered"),
    ],
)
def test_a_result_answers(text: str, holds: bool, minutes: int, state: State) -> None:
    """One whose checks hold and that is younger than the question; it never unsettles a remark."""
    given = Addressed(
        stage="02-rootfs", cell=3, run="r", summary="171 MB.", holds=holds,
        started=NOON + timedelta(minutes=minutes),
    )  # fmt: skip
    page = Remarks(page="Report", url="", remarks=(remark(text),), revision=1)
    [found] = listing.addressed(page, [("0badcafe", given), ("another", given)]).remarks
    assert found.state == state
    assert found.addressed == (given,)
    assert "02-rootfs: 171 MB." in listing.answers(found)


def test_the_table_reads_as_the_page_does() -> None:
    """References, line breaks, emphasis and links are resolved, what is written as itself is not; what stands in
    it is told where it is shown stale."""
    words = "a &lt; b<br />''c'' <code>d</code> [[E|f]] [[G]] [https://h.test/ i] &lt;b&gt; [j]"
    old = remark(f"REX> {words}", stale=True, run="r1", now="r2")
    [row] = listing.table(Remarks(page="", url="", remarks=(old,))).rows
    assert row[3] == "a < b c d f G i <b> [j]"
    assert row[-1] == "was made on run r1, block now of run r2"


@pytest.fixture
def page(wiki_on: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Writers]:
    """A page of the test's own."""
    title = request.node.originalname.removeprefix("test_").replace("_", " ").capitalize()
    with writers(wiki_on, title, tmp_path / "wiki") as made:
        yield made


@BOTH
@pytest.mark.root
def test_author_date_and_run_are_the_historys(page: Writers) -> None:
    """They stay what they were when others saved the page since. The remark is stale while a reader sees a change:
    another run with the same numbers, and other people's lines, change nothing of the kind. A damaged comment hides
    no remark: only where the blocks are cannot be told."""
    page.publish(run_stage(250, 1), WEB)
    page.after("All: 250 MB.", "REX> Quantify. ~~~~")
    page.after("Six pages.", "REX> Good.\nREX> settled")
    page.publish(run_stage(68, 2), WEB)
    found = page.remarks()
    one, other = found.remarks
    assert (one.author, one.thread.text, one.thread.block) == ("Teacher", "Quantify.", "02-rootfs")
    assert (one.stale, one.run, one.now) == (True, run_id(1), run_id(2))
    assert one.since == f"was made on run {run_id(1)}, block now of run {run_id(2)}"
    assert (other.author, other.state, other.stale) == ("Teacher", "settled", False)
    assert one.written == one.asked
    assert one.written is not None
    assert abs((datetime.now(UTC) - one.written).total_seconds()) < 600
    said = f"2 remarks on the page {page.page}: 1 open, 0 answered, 1 settled."
    assert listing.sentence(found) == said
    page.after("The end.", "A word of mine.")
    page.publish(run_stage(250, 3), WEB)
    assert [item.stale for item in page.remarks().remarks] == [False, False]
    page.write(lambda text: text.replace("<!-- labkit:end 02-rootfs -->", ""))
    damaged = page.remarks().remarks[0]
    assert (damaged.author, damaged.thread.block, damaged.run) == ("Teacher", "", run_id(1))


@pytest.mark.root
def test_an_identifier_stays(page: Writers) -> None:
    """Over publications, answers, other remarks above, a move of the line or the page, and on another machine."""
    page.publish(run_stage(250, 1), WEB)
    page.after("All: 250 MB.", "REX> Why?")
    [first] = page.remarks().remarks
    page.publish(run_stage(171, 2), WEB)
    page.after("REX> Why?", ": Because.")
    page.after("'''Passed.''' " + run_stage(171, 2).body.split("\n")[0].partition("''' ")[2], "\nREX> Why?\n")  # fmt: skip
    page.folder = page.folder / "elsewhere"
    same = [remark.id for remark in page.remarks().remarks]
    assert len(set(same)) == 2
    assert first.id in same
    page.write(lambda text: text.replace("REX> Why?\n: Because.\n", "") + "\nREX> Why?\n: Because.")
    new, token = f"{page.page} elsewhere", page.teacher.get_token("csrf")
    page.teacher.post("move", **{"from": page.page}, to=new, token=token)
    found = page.remarks()
    assert found.page == new
    assert {remark.id for remark in found.remarks} == set(same)


@pytest.mark.root
def test_an_unchanged_page_costs_one_request(page: Writers) -> None:
    """And a page that was saved since costs its new revisions alone."""
    page.publish(run_stage(250, 1))
    page.after("All: 250 MB.", "REX> Why?")
    before = page.remarks()
    assert page.remarks() == before
    assert len(page.wire.bodies) == 1
    start = page.revision.number
    page.after("REX> Why?", "REX> And how?")
    page.after("REX> And how?", "REX> And when?")
    page.remarks()
    asked = [body for body in page.wire.bodies if "rvdir=newer" in body]
    assert len(asked) == 1
    assert f"rvstartid={start}" in asked[0]


@pytest.mark.root
def test_what_was_kept_of_another_page_is_not_used(page: Writers) -> None:
    """A page made anew under the same name has a history of its own."""
    page.publish(run_stage(250, 1))
    page.after("All: 250 MB.", "REX> Why?")
    [old] = page.remarks().remarks
    for title in (page.page, last_written.state_title(page.page)):
        page.teacher.post("delete", title=title, token=page.teacher.get_token("csrf"))
    publishing.apply(
        page.bot, page.page, [run_stage(250, 1)], folder=page.folder, restore=[page.page]
    )
    page.after("All: 250 MB.", "REX> Why?", page.student)
    [new] = page.remarks().remarks
    assert (old.author, new.author) == ("Teacher", "Student")
    assert old.id != new.id


@pytest.mark.root
def test_a_page_that_is_not_there_has_no_remarks(page: Writers) -> None:
    """Nothing was published yet: nothing to read, and no error."""
    found = page.remarks()
    assert (found.remarks, found.revision) == ((), 0)
    said = f"The wiki has no page {page.page} yet: nothing was published there."
    assert listing.sentence(found) == said


@pytest.mark.root
def test_a_remark_is_settled_by_who_asked_alone(page: Writers) -> None:
    """Or by a teacher, who is in the wiki's group; anybody else's line is told and settles nothing."""
    page.publish(run_stage(250, 1))
    page.after("All: 250 MB.", "REX> Quantify.\n: 250.")
    page.after(": 250.", "REX> settled", page.student)
    [found] = page.remarks().remarks
    assert (found.state, found.told) == ("answered", "answered; settled by Student (not the asker)")
    page.publish(run_stage(171, 2))
    [found] = page.remarks().remarks
    assert found.state == "answered"
    page.write(lambda text: text.replace(": 250.\nREX> settled", "REX> settled"))
    [found] = page.remarks().remarks
    assert (found.state, [step.user for step in found.claims]) == ("open", ["Student"])
    page.after("REX> settled", "REX> settled.")
    [found] = page.remarks().remarks
    assert (found.state, found.claims) == ("settled", ())
    page.write(lambda text: f"{text}\n\nREX> May I?", page.student)
    page.write(lambda text: f"{text}\nREX> settled")
    [_, asked] = page.remarks().remarks
    assert (asked.author, asked.state) == ("Student", "settled")


@pytest.mark.root
def test_a_settling_line_cannot_be_borrowed(page: Writers) -> None:
    """Moved, or one more like it above: it settles what its writer put it under, and nothing else."""
    page.publish(run_stage(250, 1))
    page.after("All: 250 MB.", "REX> One?\nREX> settled\n\nREX> Two?")
    page.after("The end.", "REX> Three?\n")
    assert [item.state for item in page.remarks().remarks] == ["settled", "open", "open"]
    page.write(
        lambda text: text.replace("REX> settled\n", "").replace("Two?", "Two?\nREX> settled"),
        page.student,
    )
    found = page.remarks()
    assert [item.state for item in found.remarks] == ["open", "open", "open"]
    assert [(item.line, item.by.user) for item in found.vanished] == [("REX> settled", "Student")]
    page.write(
        lambda text: text.replace("Two?\nREX> settled", "Two?").replace(
            "One?", "One?\nREX> settled"
        )
    )
    assert [item.state for item in page.remarks().remarks] == ["settled", "open", "open"]
    page.write(
        lambda text: text.replace("REX> One?", "REX> Mine?\nREX> settled\n\nREX> One?"),
        page.student,
    )
    found = page.remarks()
    assert [item.state for item in found.remarks] == ["settled", "settled", "open", "open"]
    assert found.vanished == ()
    page.write(
        lambda text: text.replace("REX> Two?", "REX> Mine too.\nREX> Two?\nREX> settled"),
        page.student,
    )
    assert [item.state for item in page.remarks().remarks] == ["settled", "settled", "open", "open"]


@BOTH
@pytest.mark.root
def test_what_another_made_of_a_remark_is_told(page: Writers) -> None:
    """Deleted or rewritten, with who, when and the former text; rewritten, it stays its writer's to settle. What
    its own writer takes away is not told, nor is what is back."""
    page.publish(run_stage(250, 1), WEB)
    page.after("All: 250 MB.", "REX> Why 250 MB?\n\nREX> Mine to delete.")
    page.after("Six pages.", "REX> Show all six.")
    page.write(lambda text: text.replace("REX> Mine to delete.\n", ""))
    assert page.remarks().vanished == ()
    page.write(lambda text: text.replace("REX> Show all six.\n", ""), page.student)
    page.write(
        lambda text: text.replace("Why 250 MB?", "Why not 250 MB?\nREX> settled"), page.student
    )
    page.publish(run_stage(171, 2), WEB)
    found = page.remarks()
    assert [
        (item.line, item.author, item.block, item.became, item.by.user) for item in found.vanished
    ] == [
        ("REX> Show all six.", "Teacher", "05-web", "deleted", "Student"),
        ("REX> Why 250 MB?", "Teacher", "02-rootfs", "rewritten", "Student"),
    ]
    assert all(item.written and item.by.time for item in found.vanished)
    [rewritten] = found.remarks
    assert (rewritten.signed, rewritten.state) == ("Student, rewriting Teacher's", "open")
    assert (
        "2 lines of remarks deleted or rewritten by others than the writers."
        in listing.sentence(found)
    )
    titles = [table.name for table in listing.tables(found)]
    assert titles == ["remarks", "vanished"]
    page.folder = page.folder / "elsewhere"
    assert page.remarks().vanished == found.vanished
    page.after("Six pages.", "REX> Show all six.", page.student)
    page.write(lambda text: text.replace("Why not 250 MB?", "Why 250 MB?"))
    again = page.remarks()
    assert again.vanished == ()
    assert {item.author for item in again.remarks} == {"Teacher"}


@pytest.mark.root
def test_who_is_a_teacher_is_asked_again(page: Writers) -> None:
    """By the listing, where somebody settled another's remark: a group changes without the page being saved. A page
    on which nobody did still costs one request."""
    page.publish(run_stage(250, 1))
    page.after("All: 250 MB.", "REX> Quantify.", page.student)
    page.after("REX> Quantify.", "REX> settled")
    assert page.remarks().remarks[0].state == "settled"
    page.remarks()
    assert ["list=users" in body for body in page.wire.bodies] == [False, True]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MediaWiki, "members", lambda *given: frozenset())
        assert page.remarks().remarks[0].told == "open; settled by Teacher (not the asker)"
    assert page.remarks().remarks[0].state == "settled"
