"""What becomes of the report's page when a person moves, deletes, rewrites or replaces something on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import ConfigError, WikiError
from labkit.wiki.client import mediawiki
from labkit.wiki.client.protocol import Upload
from labkit.wiki.merge import fences
from labkit.wiki.publish import last_written, publishing
from labkit.wiki.render import wikitext
from labkit.wiki.render.pictures import upload
from tests.desks import SUMMARY, WEB, Desk, fresh, picture, stage

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


# -- on the page -----------------------------------------------------------------------------------


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


# -- the page itself -------------------------------------------------------------------------------


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


# -- names -----------------------------------------------------------------------------------------


@given(name=st.text(max_size=80), data=st.binary(max_size=20))
def test_a_picture_is_always_called_as_labkit_s_are(name: str, data: bytes) -> None:
    """Whatever a figure or an attachment is called, its page keeps the report's prefix."""
    item = upload(name, data, ending="png", text="")
    assert mediawiki.PICTURE.fullmatch(item.name)


@pytest.mark.root
@pytest.mark.parametrize("name", ["Main.png", "../x.png", "Labkit-a.png", "Labkit-a|b-0123456789abcdef.png",
                                  "Labkit-a-0123456789abcdef.svg", "Labkit-a-0123456789abcdef.png\n"])  # fmt: skip
def test_nothing_else_is_ever_uploaded(desk: Desk, name: str) -> None:
    """A name that is not one of labkit's is refused before the wiki is asked."""
    desk.wire.bodies.clear()
    with pytest.raises(WikiError, match="is not the name of a picture"):
        desk.bot.send(Upload(name=name, text="", data=b"x"))
    assert desk.wire.bodies == []


@pytest.mark.root
@pytest.mark.parametrize("page", ["Special:Version", "MediaWiki:Sidebar", "Report|Main Page", "User:Student/common.js", ":", "A#b"])  # fmt: skip
def test_a_page_s_name_that_is_none_is_refused(desk: Desk, page: str) -> None:
    """Nothing is written, on that page or beside it."""
    before = text_of(desk, "Main Page")
    desk.page = page
    with pytest.raises(WikiError):
        desk.publish(WEB)
    assert text_of(desk, "Main Page") == before
    assert not [body for body in desk.wire.bodies if "action=edit" in body]


@pytest.mark.root
def test_what_is_to_be_restored_has_to_be_known(desk: Desk) -> None:
    """A block or page that the report does not have is refused before anything is asked."""
    desk.wire.bodies.clear()
    with pytest.raises(ConfigError, match="did you mean '05-web'"):
        desk.publish(WEB, restore=("05-wed",))
    assert desk.wire.bodies == []


@pytest.mark.root
def test_a_state_page_that_a_person_emptied_is_made_up_for(desk: Desk, tmp_path: Path) -> None:
    """What labkit keeps beside the page is written again; from a second machine history helps."""
    desk.publish(stage(250))
    desk.after("| all || 250", "REX> kept")
    state = desk.teacher.read(last_written.state_title(desk.page)).revision
    assert state
    desk.teacher.save(last_written.state_title(desk.page), "gone", base=state.number, summary="")
    desk.folder = tmp_path / "another machine"
    desk.publish(stage(171))
    assert desk.text.replace("REX> kept\n", "") == fresh(stage(171))
    assert stage(171).digest in text_of(desk, last_written.state_title(desk.page))
