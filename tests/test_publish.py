"""Publishing onto a real wiki's page, while people write in it."""

from __future__ import annotations

import io
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from labkit import Lab, Outcome
from labkit.cli import terminal
from labkit.core.result import action
from labkit.errors import WikiError
from labkit.wiki.client import session
from labkit.wiki.merge import fences
from labkit.wiki.publish import last_written, publishing
from labkit.wiki.remarks import listing
from labkit.wiki.render import wikitext
from tests.crowd import crowd
from tests.desks import SUMMARY, WEB, Desk, fresh, opened, parsed, picture, stage

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("wiki_on", ["sqlite", "mariadb"], indirect=True)


@BOTH
def test_first_publication_makes_page_and_pictures(desk: Desk) -> None:
    """The page holds the blocks in their order, the wiki their pictures; the bot is the author."""
    item = picture(1)
    shown = fences.block("05-web", "== Web sites ==", wikitext.image(item.name, alt="a pixel"))
    done = desk.publish(SUMMARY, stage(250), shown, uploads=(item,))
    assert done.edited
    assert [change.state for change in done.changes] == ["added"] * 3
    assert done.uploaded == (item.name,)
    found = fences.parse(desk.text, desk.page)
    assert [part.block for part in found.blocks] == [SUMMARY, stage(250), shown]
    assert desk.revisions[0].user == session.BOT
    html = parsed(desk.teacher, f"{{{{:{desk.page}}}}}")
    assert 'alt="a pixel"' in html
    assert item.name in html


@BOTH
def test_unchanged_report_costs_one_request(desk: Desk) -> None:
    """No revision, no upload, nothing asked but what is there."""
    desk.publish(SUMMARY, stage(250), uploads=(picture(2),))
    before = [revision.number for revision in desk.revisions]
    done = desk.publish(SUMMARY, stage(250), uploads=(picture(2),))
    assert not done.changed
    assert len(desk.wire.bodies) == 1
    assert [revision.number for revision in desk.revisions] == before


@BOTH
def test_a_changed_number_is_one_revision_of_one_line(desk: Desk) -> None:
    """The block's fence and the number's line differ, nothing else."""
    desk.publish(SUMMARY, stage(250), WEB)
    before = desk.text.split("\n")
    done = desk.publish(SUMMARY, stage(171), WEB)
    after = desk.text.split("\n")
    assert [change.state for change in done.changes] == ["unchanged", "changed", "unchanged"]
    assert [b for a, b in zip(before, after, strict=True) if a != b] == [
        f"== Root file systems == <!-- labkit:begin 02-rootfs {stage(171).digest} -->",
        "| all || 171",
    ]
    assert len(desk.revisions) == 2


def test_plan_tells_and_writes_nothing(desk: Desk) -> None:
    """A plan is what publishing then does, block by block with a diff."""
    desk.publish(stage(250))
    plan = publishing.plan(
        desk.bot, desk.page, (stage(171), WEB), (picture(3),), folder=desk.folder
    )
    assert "-| all || 250\n+| all || 171" in plan.changes[0].diff
    assert [change.state for change in plan.changes] == ["changed", "added"]
    assert plan.missing == (picture(3).name,)
    assert len(desk.revisions) == 1
    desk.publish(stage(171), WEB, uploads=(picture(3),))
    assert desk.text == plan.text


@BOTH
def test_remarks_inside_and_outside_survive_changed_results(desk: Desk) -> None:
    """A remark in a table stays at its row, one between blocks stays there, no line is stale."""
    desk.publish(SUMMARY, stage(250), WEB)
    desk.after("| package 1 || 10", "|-\n| REX> why 10? || ~~~~")
    desk.after("<!-- labkit:end 02-rootfs -->", "REX> Quantify smaller.")
    desk.write(lambda text: f"{text}\nREX> at the end")
    done = desk.publish(SUMMARY, stage(171, rows=5), WEB)
    lines = desk.text.split("\n")
    place = next(n for n, line in enumerate(lines) if line.startswith("| REX> why 10?"))
    assert lines[place - 2] == "| package 1 || 10"
    assert lines[lines.index("<!-- labkit:end 02-rootfs -->") + 1] == "REX> Quantify smaller."
    assert lines[-1] == "REX> at the end"
    assert "| all || 250" not in lines
    assert "| package 4 || 40" in lines
    assert len(done.changes[1].kept) == 2


def test_a_person_s_wording_stays_theirs(desk: Desk) -> None:
    """A rewritten sentence and a renamed heading stay, and are not doubled, run after run."""
    desk.publish(stage(250))
    desk.write(lambda text: text.replace("The end.", "The end, I hope.").replace("== Root", "== My root"))  # fmt: skip
    for megabytes in (171, 68):
        desk.publish(stage(megabytes))
        assert f"| all || {megabytes}" in desk.text
        assert "The end, I hope." in desk.text
        assert "The end.\n" not in desk.text
        assert "== My root file systems == <!--" in desk.text


@BOTH
def test_an_edit_between_reading_and_writing_survives(desk: Desk) -> None:
    """Far from what changes, the wiki merges it; at the same line it refuses and is asked again."""
    desk.publish(SUMMARY, stage(250), WEB)
    desk.wire.before_edit = [lambda: desk.after("Six pages.", "REX> far away")]
    far = desk.publish(SUMMARY, stage(171), WEB)
    assert (far.attempts, far.put_back) == (1, ())
    desk.wire.before_edit = [
        lambda: desk.write(lambda text: text.replace("all || 171", "all || 171 REX> right here"))
    ]
    near = desk.publish(SUMMARY, stage(68), WEB)
    assert near.attempts == 2
    lines = desk.text.split("\n")
    assert "| all || 171 REX> right here" in lines
    assert "| all || 68" not in lines
    assert lines[lines.index("REX> far away") - 1] == "Six pages."
    assert not desk.publish(SUMMARY, stage(68), WEB).changed


@BOTH
def test_a_page_made_between_reading_and_writing_survives(desk: Desk) -> None:
    """Two that create the page at once do not overwrite each other."""

    def create() -> None:
        desk.teacher.save(desk.page, "REX> I was first.", base=None, summary="")

    desk.wire.before_edit = [create]
    assert desk.publish(WEB).attempts == 2
    assert "REX> I was first." in desk.text
    assert WEB.text in desk.text


@BOTH
def test_another_machine_publishes_without_stale_or_doubled_lines(desk: Desk) -> None:
    """With the state folder gone, what labkit wrote is known from beside the page."""
    desk.publish(SUMMARY, stage(250))
    desk.after("| all || 250", "REX> kept")
    desk.publish(SUMMARY, stage(171))
    desk.folder = desk.folder / "elsewhere"
    desk.publish(SUMMARY, stage(68))
    assert desk.text.replace("REX> kept\n", "") == fresh(SUMMARY, stage(68))
    assert "| all || 68\nREX> kept\n" in desk.text


def test_a_machine_whose_state_is_gone_publishes_on(desk: Desk) -> None:
    """Between any two publications the folder may go: nothing is stale, nothing doubled."""
    desk.publish(SUMMARY, stage(250))
    desk.after("| all || 250", "REX> kept")
    for megabytes in (171, 68):
        shutil.rmtree(desk.folder)
        desk.publish(SUMMARY, stage(megabytes))
        assert desk.text.replace("REX> kept\n", "") == fresh(SUMMARY, stage(megabytes))
        assert f"| all || {megabytes}\nREX> kept\n" in desk.text


@BOTH
def test_with_both_stores_gone_history_tells_what_labkit_wrote(desk: Desk) -> None:
    """The page's own history has the block as nobody had touched it."""
    desk.publish(stage(250))
    desk.after("| all || 250", "REX> kept")
    token = desk.teacher.get_token("csrf")
    desk.teacher.post("delete", title=last_written.state_title(desk.page), token=token)
    desk.folder = desk.folder / "elsewhere"
    desk.publish(stage(171))
    assert desk.text.replace("REX> kept\n", "") == fresh(stage(171))


def test_a_deleted_block_stays_deleted_until_it_is_wanted(desk: Desk) -> None:
    """The result says so; asked for by name, the block comes back at its place."""
    desk.publish(SUMMARY, stage(250), WEB)
    desk.write(lambda text: text.replace(f"{stage(250).text}\n\n", ""))
    done = desk.publish(SUMMARY, stage(171), fences.block("05-web", WEB.heading, "Seven pages."))
    assert done.deleted == ("02-rootfs",)
    assert "02-rootfs " not in desk.text.partition("\n")[2]
    desk.publish(SUMMARY, stage(171), WEB, restore=("02-rootfs",))
    names = [found.block.name for found in fences.parse(desk.text, desk.page).blocks]
    assert names == ["summary", "02-rootfs", "05-web"]


def test_a_block_that_was_moved_stays_where_it_is(desk: Desk) -> None:
    """People may order the page as they like."""
    desk.publish(SUMMARY, stage(250), WEB)
    desk.write(lambda text: text.replace(f"{stage(250).text}\n\n", "") + f"\n\n{stage(250).text}")
    desk.publish(SUMMARY, stage(171), WEB)
    assert desk.text.endswith(f"{WEB.text}\n\n{stage(171).text}")


def test_a_moved_page_is_followed(desk: Desk) -> None:
    """The redirect that a move leaves behind is followed, what labkit wrote still known."""
    desk.publish(stage(250))
    desk.after("| all || 250", "REX> kept")
    new, token = f"{desk.page} elsewhere", desk.teacher.get_token("csrf")
    desk.teacher.post("move", **{"from": desk.page}, to=new, token=token)
    done = desk.publish(stage(171))
    assert done.page == new
    assert done.url.endswith("_elsewhere")
    assert "| all || 171\nREX> kept\n" in desk.text
    assert "250" not in desk.text


def test_a_reverted_page_is_brought_up_to_date(desk: Desk) -> None:
    """An older revision that a person restored is merged from what labkit wrote then."""
    desk.publish(stage(250))
    desk.after("| all || 250", "REX> kept")
    old = desk.text
    for megabytes in (171, 68):
        desk.publish(stage(megabytes))
    desk.write(lambda text: old)
    desk.publish(stage(5))
    assert "| all || 5\nREX> kept\n" in desk.text
    assert "250" not in desk.text


def test_an_emptied_page_is_written_anew(desk: Desk) -> None:
    """A page without any of labkit's comments is one that labkit never wrote."""
    desk.publish(stage(250))
    desk.write(lambda text: "REX> Start again.")
    desk.publish(stage(171))
    assert "REX> Start again." in desk.text
    assert desk.text.endswith(stage(171).text)


def test_a_damaged_fence_stops_the_page(desk: Desk) -> None:
    """The error names the line; no picture, no revision, nothing was written."""
    desk.publish(stage(250), WEB)
    desk.write(lambda text: text.replace("<!-- labkit:end 02-rootfs -->", ""))
    before = desk.revisions[0]
    line = before.text.split("\n").index(WEB.text.split("\n")[0]) + 1
    with pytest.raises(WikiError, match=f"line {line}: a block begins inside another one"):
        desk.publish(stage(171), WEB, uploads=(picture(4),))
    assert desk.revisions[0] == before
    assert desk.teacher.read(desk.page, files=[picture(4).name]).files == frozenset()


def test_a_lost_session_never_edits_without_the_account(desk: Desk) -> None:
    """Without its cookies the bot is refused, logs in once more, and goes on as itself."""
    desk.publish(stage(250))
    desk.bot.connection.cookies.clear()
    done = desk.publish(stage(171))
    assert done.edited
    assert {revision.user for revision in desk.revisions} == {session.BOT}
    assert len([body for body in desk.wire.bodies if "action=login" in body]) == 1


def test_a_picture_that_is_there_is_not_sent_again(desk: Desk) -> None:
    """Sent twice all the same (a reply was lost), it is found to be there."""
    assert desk.publish(WEB, uploads=(picture(5),)).uploaded == (picture(5).name,)
    assert desk.publish(WEB, uploads=(picture(5),)).uploaded == ()
    assert not desk.bot.send(picture(5))


@pytest.mark.parametrize("database", ["wiki_lab", "mariadb_wiki_lab"])
def test_publishers_and_teachers_at_once(
    tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    """Three machines publish while three teachers write: no remark is lost, none doubled, no line of
    labkit's is stale or missing, in the end and in the whole history."""
    lab = request.getfixturevalue(database)
    seen = crowd(lab, tmp_path, page="At once", remarks=60 if database == "wiki_lab" else 30)
    assert (seen.lost, seen.doubled, seen.stale, seen.missing) == ([], [], [], [])
    assert len(seen.gone) <= seen.put_back
    assert seen.publications >= 3
    assert seen.conflicts > 0


@pytest.mark.parametrize("database", ["wiki_lab", "mariadb_wiki_lab"])
def test_several_first_publishers_at_once(
    tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    """Each comes to its end, whoever made the page in between: it has every line once."""
    lab, many = request.getfixturevalue(database), 4
    for number in range(4):
        begun = threading.Barrier(many)
        with ExitStack() as stack, ThreadPoolExecutor(many) as pool:
            places = [tmp_path / f"{number}-{n}" for n in range(many)]
            desks = [stack.enter_context(opened(lab, f"Together {number}", p)) for p in places]
            for desk in desks:
                desk.wire.before_edit = [partial(begun.wait, 60)]
            done = list(pool.map(lambda desk: desk.publish(SUMMARY, stage(250), WEB), desks))
            assert desks[0].text == fresh(SUMMARY, stage(250), WEB)
        assert max(made.attempts for made in done) > 1


@pytest.mark.parametrize(
    "title",
    [
        "Rapport\u00a0: «\u202fété\u202f» R&D 100\u00a0%",
        "研究室\u3000紹介 e\u0301 👩\u200d🔬",
        "کتاب\u200cخانه\u200f",
        "実" * 80 + "ab",
    ],
    ids=["french", "japanese", "persian", "as long as can be"],
)
def test_a_page_may_be_called_as_people_write(wiki_lab: Lab, tmp_path: Path, title: str) -> None:
    """Whatever characters the wiki takes for others: the page is found again, with what was written on it."""
    page = fences.block("b", "== B ==", "One.")
    asked = "Pourquoi 3 réplicas\u00a0? 研究室\u3000紹介"
    name = Lab.of({"wiki": {"page": title}}).wiki.page
    with opened(wiki_lab, name, tmp_path) as desk:
        assert desk.publish(page).changed
        desk.after("One.", f"REX> {asked}")
        assert not desk.publish(page).changed
        found = listing.collect(desk.bot, name, tmp_path)
    seen = io.StringIO()
    told = action("x")(lambda: Outcome(value=0, summary="", tables=(listing.table(found),)))()
    terminal.show(told, console=Console(file=seen, width=200))
    assert asked in seen.getvalue()
