"""Publishing onto a real wiki's page, while people write, move, delete and replace what is there."""

from __future__ import annotations

import io
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from labkit import Lab, Outcome
from labkit.cli import terminal
from labkit.core.result import action
from labkit.errors import ConfigError, WikiError
from labkit.wiki.client import mediawiki, session
from labkit.wiki.client.protocol import Upload
from labkit.wiki.merge import fences
from labkit.wiki.publish import last_written, publishing
from labkit.wiki.remarks import listing
from labkit.wiki.render import wikitext
from labkit.wiki.render.pictures import upload
from tests.crowd import crowd
from tests.desks import SUMMARY, WEB, Desk, fresh, opened, parsed, picture, stage

BOTH = pytest.mark.parametrize("wiki_on", ["sqlite", "mariadb"], indirect=True)


def event(kind: str, action: str = "", target: str = "") -> dict[str, object]:
    """An event of a title's log."""
    moved = {"target_title": target} if target else {}
    return {
        "type": kind, "action": action or kind, "user": "Teacher", "comment": "done\n with it",
        "timestamp": "2026-01-02T03:04:05Z", "params": moved,
    }  # fmt: skip


DELETED = "by Teacher on 2026-01-02 (done with it)"
MOVE = event("move", target="B")


@pytest.mark.parametrize(
    ("events", "target", "deleted"),
    [
        pytest.param([], "", "", id="never there"),
        pytest.param([event("create")], "", "", id="there"),
        pytest.param([MOVE, event("create")], "B", "", id="moved"),
        pytest.param([event("delete"), MOVE], "B", "", id="moved, the redirect deleted"),
        pytest.param([event("delete"), event("create")], "", DELETED, id="deleted"),
        pytest.param([event("delete"), event("create"), MOVE], "", DELETED, id="another page deleted"),
        pytest.param([event("protect"), MOVE], "B", "", id="other events"),
        pytest.param([event("delete", "restore"), event("delete")], "", "", id="undeleted"),
        pytest.param([{"type": "move"}, {"type": "delete", "action": "delete"}], "",
                     "by somebody", id="hidden from the bot"),
    ],
)  # fmt: skip
def test_a_log_tells_where_a_page_went(
    events: list[dict[str, object]], target: str, deleted: str
) -> None:
    """The last event that concerns the page itself counts."""
    assert mediawiki.fate(events) == (target, deleted)


def move(desk: Desk, new: str, *, redirect: bool = True, subpages: bool = False) -> None:
    """The teacher moves the page."""
    given = {"movesubpages": 1} if subpages else {}
    given |= {} if redirect else {"noredirect": 1}
    token = desk.teacher.get_token("csrf")
    desk.teacher.post("move", **{"from": desk.page}, to=new, token=token, **given)


def delete(desk: Desk, title: str, reason: str = "") -> None:
    """The teacher deletes a page."""
    desk.teacher.post("delete", title=title, reason=reason, token=desk.teacher.get_token("csrf"))


def text_of(desk: Desk, title: str) -> str:
    """A page's text, '' when there is none of that very title."""
    answer = desk.teacher.post(
        "query", titles=title, prop="revisions", rvprop="content", rvslots="main", formatversion=2
    )
    found = answer["query"]["pages"][0].get("revisions")
    return found[0]["slots"]["main"]["content"] if found else ""


@pytest.mark.root
@BOTH
def test_a_page_is_published_again_and_again(desk: Desk) -> None:
    """First with its pictures, by the bot; unchanged for one request; a changed number is one revision of its line
    and the block's fence, as the plan has told."""
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
    assert not desk.publish(SUMMARY, stage(250), shown, uploads=(item,)).changed
    assert (len(desk.wire.bodies), len(desk.revisions)) == (1, 1)
    assert not desk.bot.send(item)  # sent twice all the same, it is found to be there
    given = (SUMMARY, stage(171), shown), (item, picture(3))
    plan = publishing.plan(desk.bot, desk.page, *given, folder=desk.folder)
    assert "-| all || 250\n+| all || 171" in plan.changes[1].diff
    assert plan.missing == (picture(3).name,)
    assert len(desk.revisions) == 1
    before = desk.lines
    done = desk.publish(*given[0], uploads=given[1])
    assert [change.state for change in done.changes] == ["unchanged", "changed", "unchanged"]
    assert desk.text == plan.text
    assert [b for a, b in zip(before, desk.lines, strict=True) if a != b] == [
        f"== Root file systems == <!-- labkit:begin 02-rootfs {stage(171).digest} -->",
        "| all || 171",
    ]
    assert len(desk.revisions) == 2


@pytest.mark.root
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


@pytest.mark.root
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


@pytest.mark.root
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


@pytest.mark.root
@BOTH
def test_a_page_made_between_reading_and_writing_survives(desk: Desk) -> None:
    """Two that create the page at once do not overwrite each other."""

    def create() -> None:
        desk.teacher.save(desk.page, "REX> I was first.", base=None, summary="")

    desk.wire.before_edit = [create]
    assert desk.publish(WEB).attempts == 2
    assert "REX> I was first." in desk.text
    assert WEB.text in desk.text


@pytest.mark.root
@BOTH
@pytest.mark.parametrize("lost", ["elsewhere", "folder", "both", "emptied"])
def test_what_labkit_wrote_is_known_from_another_place(desk: Desk, lost: str) -> None:
    """On another machine, or with the state folder gone, from beside the page; with that page deleted or emptied,
    from the page's own history, where it stood untouched once. Nothing is stale, nothing doubled."""
    desk.page += f" {lost}"
    desk.publish(SUMMARY, stage(250))
    desk.after("| all || 250", "REX> kept")
    for megabytes in (171, 68) if lost in ("elsewhere", "folder") else (171,):
        state = last_written.state_title(desk.page)
        if lost == "both":
            delete(desk, state)
        if lost == "emptied":
            now = desk.teacher.read(state).revision
            desk.teacher.save(state, "gone", base=now.number if now else None, summary="")
        if lost == "folder":
            shutil.rmtree(desk.folder)
        else:
            desk.folder /= "elsewhere"
        desk.publish(SUMMARY, stage(megabytes))
        assert desk.text.replace("REX> kept\n", "") == fresh(SUMMARY, stage(megabytes))
        assert f"| all || {megabytes}\nREX> kept\n" in desk.text
        assert stage(megabytes).digest in text_of(desk, state)


@pytest.mark.root
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


@pytest.mark.root
def test_a_block_that_was_moved_stays_where_it_is(desk: Desk) -> None:
    """People may order the page as they like."""
    desk.publish(SUMMARY, stage(250), WEB)
    desk.write(lambda text: text.replace(f"{stage(250).text}\n\n", "") + f"\n\n{stage(250).text}")
    desk.publish(SUMMARY, stage(171), WEB)
    assert desk.text.endswith(f"{WEB.text}\n\n{stage(171).text}")


@pytest.mark.root
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


@pytest.mark.root
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


@pytest.mark.root
def test_a_lost_session_never_edits_without_the_account(desk: Desk) -> None:
    """Without its cookies the bot is refused, logs in once more, and goes on as itself."""
    desk.publish(stage(250))
    desk.bot.connection.cookies.clear()
    done = desk.publish(stage(171))
    assert done.edited
    assert {revision.user for revision in desk.revisions} == {session.BOT}
    assert len([body for body in desk.wire.bodies if "action=login" in body]) == 1


@pytest.mark.root
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


@pytest.mark.root
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


@pytest.mark.root
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


@pytest.mark.root
@BOTH
def test_a_deleted_line_stays_deleted(desk: Desk) -> None:
    """Also in the form that labkit writes now; the lines around it are brought up to date."""
    desk.publish(stage(250), WEB)
    desk.write(lambda text: text.replace("|-\n| all || 250\n", ""))
    desk.publish(stage(171, rows=4), WEB)
    assert "all ||" not in desk.text
    assert "| package 3 || 30" in desk.text
    assert not desk.publish(stage(171, rows=4), WEB).changed


@pytest.mark.root
def test_a_remark_that_was_moved_stays_where_it_is_now(desk: Desk) -> None:
    """Into another block, out of blocks: it is there once, wherever its author put it."""
    desk.publish(SUMMARY, stage(250), WEB)
    desk.after("| all || 250", "REX> why?")
    desk.publish(SUMMARY, stage(171), WEB)
    desk.write(
        lambda t: t.replace("REX> why?\n", "").replace("Six pages.", "Six pages.\nREX> why?")
    )
    desk.publish(SUMMARY, stage(68), WEB)
    assert desk.text.replace("\nREX> why?", "") == fresh(SUMMARY, stage(68), WEB)
    desk.write(lambda text: text.replace("\nREX> why?", "") + "\n\nREX> why?")
    desk.publish(SUMMARY, stage(5), WEB)
    assert desk.text == f"{fresh(SUMMARY, stage(5), WEB)}\n\nREX> why?"


@pytest.mark.root
def test_a_rewritten_caption_stays_under_the_new_picture(desk: Desk) -> None:
    """The words are the person's, the picture is the one that labkit drew last."""

    def shown(shade: int, caption: str) -> tuple[fences.Block, Upload]:
        item = picture(shade)
        line = wikitext.image(item.name, alt="a pixel of grey in a figure", caption=caption)
        return fences.block("05-web", "== Web sites ==", f"{line}\n\nSix pages."), item

    old, new = shown(21, "Grey 21"), shown(22, "Grey 22")
    desk.publish(old[0], uploads=(old[1],))
    desk.write(lambda text: text.replace("Grey 21", "Grey. Why so dark?"))
    done = desk.publish(new[0], uploads=(new[1],))
    assert (done.people, done.there) == (1, 1)
    line = next(line for line in desk.text.split("\n") if "File:" in line)
    assert new[1].name in line
    assert "<i>Grey. Why so dark?</i>" in line
    assert not desk.publish(new[0], uploads=(new[1],)).changed


@pytest.mark.root
@BOTH
def test_a_section_between_blocks_is_copied_as_it_is(desk: Desk) -> None:
    """Whatever it holds: headings, tables, comments, blanks at lines' ends within it."""
    own = '== Ours ==\n{| class="x"\n| a  \n|}\n<!-- note -->\n<nowiki>~~~</nowiki>\n\n\nwords'
    desk.publish(SUMMARY, stage(250), WEB)
    end = "<!-- labkit:end 02-rootfs -->"
    desk.write(lambda text: text.replace(end, f"{end}\n{own}"))
    desk.publish(SUMMARY, stage(171), WEB)
    assert f"{end}\n{own}\n\n== Web sites ==" in desk.text
    assert desk.text.replace(f"\n{own}", "") == fresh(SUMMARY, stage(171), WEB)


@pytest.mark.root
def test_a_line_that_its_author_takes_back_meanwhile_is_not_missed(desk: Desk) -> None:
    """What counts is what stood in the revision that was saved onto: there it was gone already."""
    desk.publish(SUMMARY, stage(250), WEB)
    desk.after("Six pages.", "REX> a\nREX> b")
    desk.wire.before_edit = [lambda: desk.write(lambda text: text.replace("REX> a\n", ""))]
    done = desk.publish(SUMMARY, stage(171), WEB)
    assert (done.people, done.there, done.put_back) == (1, 1, ())
    assert "REX> a" not in desk.text
    assert "REX> b" in desk.text


@pytest.mark.root
@pytest.mark.parametrize("subpages", [False, True], ids=["alone", "with what is beside it"])
@pytest.mark.parametrize("redirect", [True, False], ids=["with a redirect", "without one"])
def test_a_moved_page_is_followed(
    desk: Desk, tmp_path: Path, redirect: bool, subpages: bool
) -> None:
    """From this machine and from another one, what labkit wrote still known, the old title left alone."""
    desk.page += f" {redirect} {subpages}"
    new = f"{desk.page} elsewhere"
    desk.publish(stage(250))
    desk.after("| all || 250", "REX> kept")
    move(desk, new, redirect=redirect, subpages=subpages)
    before = text_of(desk, desk.page)
    for megabytes, folder in ((171, desk.folder), (68, tmp_path / "another machine")):
        desk.folder = folder
        done = desk.publish(stage(megabytes))
        assert (done.page, done.people, done.there) == (new, 1, 1)
        assert done.url.endswith("_elsewhere")
        assert text_of(desk, new).replace("REX> kept\n", "") == fresh(stage(megabytes))
        assert not desk.publish(stage(megabytes)).changed
    assert text_of(desk, desk.page) == before


@pytest.mark.root
@BOTH
def test_a_page_that_was_moved_twice_is_followed(desk: Desk) -> None:
    """Along a chain of moves of which some left a redirect and some did not."""
    desk.publish(stage(250))
    first, home = desk.page, desk.page
    for n, redirect in enumerate((False, True, False)):
        move(desk, f"{home} {n}", redirect=redirect)
        desk.page = f"{home} {n}"
    desk.page = first
    assert desk.publish(stage(171)).page == f"{home} 2"
    assert text_of(desk, f"{home} 2") == fresh(stage(171))


@pytest.mark.root
@BOTH
def test_a_deleted_page_stays_deleted_until_it_is_wanted(desk: Desk) -> None:
    """The error says who deleted it and why; asked for by name, the page is made anew."""
    desk.publish(stage(250), WEB)
    delete(desk, desk.page, "not needed")
    item = picture(23)
    with pytest.raises(WikiError, match=r"was deleted by Teacher on .*\(not needed\)") as caught:
        desk.publish(stage(171), WEB, uploads=(item,))
    assert f"--restore '{desk.page}'" in caught.value.remedy
    assert desk.teacher.read(desk.page, files=[item.name]).files == frozenset()
    with pytest.raises(WikiError, match="was deleted"):
        publishing.plan(desk.bot, desk.page, (WEB,), folder=desk.folder)
    desk.publish(stage(171), WEB, restore=(desk.page,))
    assert desk.text == fresh(stage(171), WEB)
    assert not desk.publish(stage(171), WEB).changed


@pytest.mark.root
def test_what_was_moved_and_then_deleted_is_deleted(desk: Desk) -> None:
    """A redirect that leads to a deleted page makes no new page there."""
    desk.publish(stage(250))
    move(desk, f"{desk.page} 2")
    delete(desk, f"{desk.page} 2")
    with pytest.raises(WikiError, match=f"{desk.page} 2: was deleted"):
        desk.publish(stage(171))


@pytest.mark.root
@pytest.mark.parametrize("words", ["", "Something else.", "== Ours ==\nREX> start again"])
def test_an_emptied_or_replaced_page_is_published_anew_below_what_is_there(
    desk: Desk, words: str
) -> None:
    """Without one of labkit's comments it is a page that labkit never wrote: people's words come first."""
    desk.page += f" {len(words)}"
    desk.publish(SUMMARY, stage(250))
    desk.write(lambda text: words)
    done = desk.publish(SUMMARY, stage(171))
    assert [change.state for change in done.changes] == ["added", "added"]
    blocks = f"{SUMMARY.text}\n\n{stage(171).text}"
    listed = fences.listed(("summary", "02-rootfs"))
    assert desk.text == (f"{listed}\n{words}\n\n{blocks}" if words else fresh(SUMMARY, stage(171)))


@pytest.mark.root
def test_a_page_replaced_by_a_redirect_leads_to_where_it_says(desk: Desk) -> None:
    """A person's redirect is followed as a move is, below what is in its place."""
    target = f"{desk.page} target"
    desk.publish(stage(250))
    desk.teacher.save(target, "REX> here, please", base=None, summary="")
    desk.write(lambda text: f"#REDIRECT [[{target}]]")
    done = desk.publish(stage(171))
    assert done.page == target
    assert text_of(desk, target).startswith(f"{fences.listed(('02-rootfs',))}\nREX> here, please\n")
    assert text_of(desk, desk.page) == f"#REDIRECT [[{target}]]"


@pytest.mark.root
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("MediaWiki:Sidebar", "is not a page of text"),
        ("Template:Labkit", "which cannot be the report's page"),
        ("User:Student/common.js", "is not a page of text"),
        ("Special:Version", "not a page's name|is deleted|leads to"),
        ("A page that leads to itself", "leads to itself"),
    ],
)
def test_a_redirect_does_not_lead_labkit_astray(desk: Desk, target: str, reason: str) -> None:
    """Not into the wiki's interface, templates or scripts, whatever rights the bot has."""
    desk.page += f" {target.partition(':')[0]}"
    title = desk.page if "itself" in target else target
    text = f"#REDIRECT [[{title}]]"
    desk.teacher.save(desk.page, text, base=None, summary="")
    with pytest.raises(WikiError, match=reason):
        desk.publish(stage(171))
    assert text_of(desk, desk.page) == text
    assert stage(171).text not in text_of(desk, title)


@given(name=st.text(max_size=80), data=st.binary(max_size=20))
def test_a_picture_is_always_called_as_labkit_s_are(name: str, data: bytes) -> None:
    """Whatever a figure or an attachment is called, its page keeps the report's prefix."""
    item = upload(name, data, ending="png", text="")
    assert mediawiki.PICTURE.fullmatch(item.name)


@pytest.mark.root
def test_what_is_no_name_is_refused_before_anything_is_written(desk: Desk) -> None:
    """A picture that is not called as labkit's are, a block that the report does not have, a title that no report's
    page can have."""
    names = ["Main.png", "../x.png", "Labkit-a.png", "Labkit-a|b-0123456789abcdef.png",
             "Labkit-a-0123456789abcdef.svg", "Labkit-a-0123456789abcdef.png\n"]  # fmt: skip
    for name in names:
        with pytest.raises(WikiError, match="is not the name of a picture"):
            desk.bot.send(Upload(name=name, text="", data=b"x"))
    with pytest.raises(ConfigError, match="did you mean '05-web'"):
        desk.publish(WEB, restore=("05-wed",))
    assert desk.wire.bodies == []
    before = text_of(desk, "Main Page")
    for page in ("Special:Version", "MediaWiki:Sidebar", "Report|Main Page", "User:Student/common.js", ":", "A#b"):  # fmt: skip
        desk.page = page
        with pytest.raises(WikiError):
            desk.publish(WEB)
        assert not [body for body in desk.wire.bodies if "action=edit" in body]
    assert text_of(desk, "Main Page") == before
