"""Lines of labkit's that people change: each is told, with who and when, until labkit's line is back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pytest

from labkit import Lab
from labkit.wiki.client.mediawiki import MediaWiki
from labkit.wiki.client.protocol import Revision
from labkit.wiki.merge import fences, page_merge, repair
from labkit.wiki.merge.fences import Block
from labkit.wiki.merge.page_merge import Altered, Authorship
from labkit.wiki.remarks.provenance import Provenance, advance
from labkit.wiki.render import wikitext
from tests.desks import WEB, Writers, parsed, writers

BOT = "Labkit"


def traffic(requests: str, *more: str, lost: int = 0) -> Block:
    """A stage's block: a number in a paragraph, two in a table, an end."""
    rows = wikitext.grid(["site", "requests", "lost"], [["one", requests, str(lost)], *([] if not more else [list(more)])])  # fmt: skip
    body = f"'''Passed.'''\n\nAll {requests} requests were answered.\n\n{rows}\n\nThe end."
    return fences.block("06-balancer", "== Balancer ==", body)


OLD = traffic("1,800")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("All 1,800", "All 9,900", [("All 1,800 requests were answered.", "All 9,900 requests were answered.", True)]),
        ("| one || 1,800", "| one || 9,900", [("| one || 1,800 || 0", "| one || 9,900 || 0", True)]),
        ("All 1,800 requests were answered.\n", "", [("All 1,800 requests were answered.", "", True)]),
        ("All 1,800 requests were answered.", "None.", [("All 1,800 requests were answered.", "None.", True)]),
        ("== Balancer ==", "== Balancing ==", [("== Balancer ==", "== Balancing ==", True)]),
        ("The end.", "REX> The end.", [("The end.", "REX> The end.", True)]),
        ("|}", "|-\n| two || 1,700 || 0\n|}", [("", "| two || 1,700 || 0", True)]),
        ("The end.", "The end.\nREX> why?\n: so", []),
        ("|}", "|}\nREX> why?", []),
        ("The end.", "The end.\nA word of mine.", [("", "A word of mine.", False)]),
        ("The end.", "The end.  \n\n", []),
    ],
    ids=["number", "cell", "deleted", "replaced", "heading", "made-a-remark", "row", "remark", "remark-below",
         "words", "blanks"],
)  # fmt: skip
def test_what_a_change_of_labkits_line_is(
    old: str, new: str, expected: list[tuple[str, str, bool]]
) -> None:
    """Words of a person's beside labkit's lines are none; in a table of labkit's they are."""
    text = OLD.text.replace(old, new, 1)
    found = fences.parse(text, "").blocks[0].block
    assert [tuple(one) for one in page_merge.differences(OLD.lines, found.lines)] == expected


def followed(*history: tuple[str, str], hidden: tuple[int, ...] = ()) -> list[tuple[str, str, str]]:
    """Who changed what in a history of (user, text)."""
    known = {(b.name, b.digest): b for b in (OLD, traffic("2,000"), traffic("2,000", lost=7))}
    revisions = [
        Revision(number=n, user=user, text=text, hidden=n in hidden)
        for n, (user, text) in enumerate(history, 1)
    ]
    found = reduce(
        lambda found, one: advance(found, one, lambda name, digest: known.get((name, digest))),
        revisions, Provenance(bot=BOT),
    )  # fmt: skip
    return [
        (item.ours, item.theirs, " < ".join(step.user for step in (item.by, *item.before[::-1])))
        for item in found.altered
    ]


LISTED = f"{fences.listed(('06-balancer',))}\n{OLD.text}"
S1 = LISTED.replace("All 1,800", "All 9,900")
LINE = "All 1,800 requests were answered."


@pytest.mark.parametrize(
    ("history", "found"),
    [
        (((BOT, LISTED), ("S", S1)), [(LINE, LINE.replace("1,8", "9,9"), "S")]),
        (((BOT, LISTED), ("S", S1), ("T", f"{S1}\nREX> why?")), [(LINE, LINE.replace("1,8", "9,9"), "S")]),
        (((BOT, LISTED), ("S", S1), ("T", LISTED)), []),
        (((BOT, LISTED), ("S", S1), ("T", LISTED.replace("All 1,800", "All 5"))),
         [(LINE, "All 5 requests were answered.", "T < S")]),
        (((BOT, LISTED), ("S", S1), (BOT, fences.fenced(fences.parse(S1, "").blocks[0].block, traffic("2,000").digest))),
         [("All 2,000 requests were answered.", LINE.replace("1,8", "9,9"), "S"), ("| one || 2,000 || 0", "| one || 1,800 || 0", BOT)]),
        (((BOT, LISTED), ("S", LISTED.replace(f"{LINE}\n", "")),
          (BOT, traffic("2,000").text.replace("All 2,000 requests were answered.\n", ""))),
         [("All 2,000 requests were answered.", "", "S")]),
        (((BOT, LISTED), ("S", S1.replace("labkit:end", "labkit:ende")), ("T", S1)),
         [(LINE, LINE.replace("1,8", "9,9"), "S or T")]),
        (((BOT, LISTED), ("S", S1.replace("labkit:end", "labkit:ende")), (BOT, S1)),
         [(LINE, LINE.replace("1,8", "9,9"), "S")]),
        (((BOT, LISTED), ("S", fences.listed(("06-balancer",)))), [("", "", "S")]),
        (((BOT, LISTED), ("S", fences.listed(("06-balancer",))), ("T", LISTED)), []),
        (((BOT, LISTED), ("S", "nothing")), []),
        (((BOT, LISTED), ("S", S1.replace(OLD.digest, fences.parse(S1, "").blocks[0].block.digest)), ("T", "REX> x\n" + S1)),
         [(LINE, LINE.replace("1,8", "9,9"), "S")]),
        (((BOT, LISTED), (BOT, traffic("2,000").text), ("S", S1)), [(LINE, LINE.replace("1,8", "9,9"), "S")]),
    ],
    ids=["changed", "others-later", "put-back", "two-persons", "rerun", "deleted-rerun", "damaged", "mended",
         "block", "block-back", "emptied", "hash-too", "restored"],
)  # fmt: skip
def test_who_changed_a_line_is_told_by_the_history(
    history: tuple[tuple[str, str], ...], found: list[tuple[str, str, str]]
) -> None:
    """Whoever saved the page since, and whatever labkit writes there now; where a revision cannot be read, all
    who may have done it."""
    assert followed(*history) == found
    hidden = ((BOT, LISTED), ("S", ""), ("T", S1))
    assert [who for _, _, who in followed(*hidden, hidden=(2,))] == ["S or T"]


def test_a_notice_is_no_part_of_the_block() -> None:
    """It is taken off when the page is read, wherever in the block it was put; one with other words is a line of
    a person's."""
    said = page_merge.altered_notice(
        [Altered(block="b", ours="a", theirs="REX> b -->", by=Authorship(user="S"))]
    )
    assert "\n" not in said
    text = fences.fenced(OLD, OLD.digest, said)
    [found] = fences.parse(text, "").blocks
    assert (found.block, found.notice, found.touched) == (OLD, said, False)
    moved = text.replace(f"{said}\n", "").replace("The end.", f"{said}\nThe end.")
    assert fences.parse(moved, "").blocks[0].block == OLD
    [other] = fences.parse(text.replace("labkit wrote", "a fool wrote"), "").blocks
    assert (other.notice, other.touched) == ("", True)
    assert page_merge.altered_notice(()) == ""
    damaged = text.replace("<!-- labkit:end 06-balancer -->", "")
    mended = repair.repair(damaged, "", versions=(OLD,), last_wrote=lambda name, digest: OLD).text
    assert fences.parse(mended, "").blocks[0].block == OLD
    assert "labkit-notice" not in mended


def test_a_long_line_is_shown_where_it_differs() -> None:
    """And what only the markup tells apart is shown with its markup."""
    long = "x" * 400
    ours, theirs = page_merge.altered_shown(
        Altered(
            block="b", ours=f"{long} 1,800 {long}", theirs=f"{long} 9,900 {long}", by=Authorship()
        )
    )
    assert "1,800" in ours
    assert "9,900" in theirs
    assert max(len(ours), len(theirs)) < 200
    same = Altered(block="b", ours="'''a'''", theirs="a", by=Authorship())
    assert page_merge.altered_shown(same) == ("'''a'''", "a")


@pytest.fixture
def page(wiki_on: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Writers]:
    """A page of the test's own."""
    title = (
        request.node.name.removeprefix("test_")
        .replace("_", " ")
        .translate(str.maketrans("[]", "()"))
    )
    with writers(wiki_on, title.capitalize(), tmp_path / "wiki") as made:
        yield made


def told(page: Writers) -> list[tuple[str, str, str, str]]:
    """What is told of the page: block, who, labkit's line, theirs; each has a date."""
    found = page.remarks().altered
    assert all(item.by.time for item in found)
    return [(item.block, item.by.user, item.ours, item.theirs) for item in found]


@pytest.mark.root
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("All 1,800", "All 9,900"),
        ("| one || 1,800", "| one || 9,900"),
        ("All 1,800 requests were answered.\n", ""),
        ("|}", "|-\n| two || 9,900 || 0\n|}"),
        ("== Balancer ==", "== Balancing =="),
    ],
    ids=["number", "cell", "deleted", "row", "heading"],
)
def test_every_change_is_told(page: Writers, old: str, new: str) -> None:
    """By the publication, the listing and a notice on the page, also after a new run; published again, nothing is
    written; and when labkit's line is back, nothing is said any more."""
    page.publish(OLD, WEB)
    page.write(lambda text: text.replace(old, new, 1), page.student)
    [before] = told(page)
    assert before[:2] == ("06-balancer", "Student")
    done = page.publish(OLD, WEB)
    assert [item.by.user for item in done.altered] == ["Student"]
    assert done.left == ()
    assert told(page) == [before]
    [found, other] = fences.parse(page.text, "").blocks
    assert "Student, 20" in found.notice
    assert other.notice == ""
    page.wire.bodies.clear()
    assert not page.publish(OLD, WEB).changed
    assert len(page.wire.bodies) == 1
    rerun = page.publish(traffic("2,000"), WEB)
    assert [item.by.user for item in rerun.altered] == ["Student"]
    assert rerun.left == ()
    [now] = rerun.altered
    assert (now.theirs, now.by) == (before[3], done.altered[0].by)
    assert now.ours == before[2].replace("1,800", "2,000")
    here = fences.parse(page.text, "").blocks[0]
    page.write(
        lambda text: text.replace(
            text[here.start : here.end],
            fences.fenced(traffic("2,000"), here.digest, here.notice),
        )
    )
    assert told(page) == []
    assert page.publish(traffic("2,000"), WEB).altered == ()
    assert "labkit-notice" not in page.text


@pytest.mark.root
def test_two_persons_change_one_line(page: Writers) -> None:
    """The last is told, and who had before; from another machine the same, and also when labkit writes the line no
    more: a reader would take it for labkit's all the same."""
    page.publish(OLD, WEB)
    page.write(lambda text: text.replace("All 1,800", "All 9,900"), page.student)
    page.write(lambda text: text.replace("All 9,900", "All 5"))
    page.publish(OLD, WEB)
    [found] = page.remarks().altered
    assert (found.by.user, [step.user for step in found.before]) == ("Teacher", ["Student"])
    assert "9,900" in found.before[0].line
    notice = fences.parse(page.text, "").blocks[0].notice
    assert "Teacher, 20" in notice
    assert "before: Student, 20" in notice
    html = parsed(page.bot, notice)
    assert '<div class="labkit-notice"' in html
    assert "</code>, the page has <code>All 5 requests were answered.</code>" in html
    page.folder = page.folder / "elsewhere"
    assert page.remarks().altered == (found,)
    assert not page.publish(OLD, WEB).changed
    without = fences.block("06-balancer", "== Balancer ==", "'''Passed.'''\n\nThe end.")
    done = page.publish(without, WEB)
    assert [(item.ours, item.by.user) for item in done.altered] == [("", "Teacher")]
    assert done.left == ()
    assert "All 5" in fences.parse(page.text, "").blocks[0].notice


@pytest.mark.root
@pytest.mark.parametrize("change", ["delete", "rewrite", "damage"])
def test_a_notice_cannot_be_taken_away(page: Writers, change: str) -> None:
    """Deleted or rewritten, the next publication writes it; words that a person wrote into it are theirs."""
    page.publish(OLD, WEB)
    page.write(lambda text: text.replace("All 1,800", "All 9,900"), page.student)
    page.publish(OLD, WEB)
    notice = fences.parse(page.text, "").blocks[0].notice
    new = {"delete": "", "rewrite": notice.replace("Student", "Nobody"), "damage": notice[:90]}[
        change
    ]
    page.write(lambda text: text.replace(notice, new), page.student)
    done = page.publish(OLD, WEB)
    assert done.left == ()
    assert done.people == done.there
    found = fences.parse(page.text, "").blocks[0]
    assert "Student, 20" in found.notice
    assert "All 1,800" in found.notice
    assert new in found.block.body
    assert not page.publish(OLD, WEB).changed


@pytest.mark.root
def test_a_change_while_labkit_publishes_is_told(page: Writers) -> None:
    """It is in the page that the next attempt reads, or that the wiki merges."""
    page.publish(OLD, WEB)
    save = MediaWiki.save

    def meanwhile(*given, **named):  # type: ignore[no-untyped-def]
        if "state" not in given[1] and not done:
            done.append(1)
            page.write(lambda text: text.replace("Six pages.", "Nine pages."), page.student)
        return save(*given, **named)

    done: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MediaWiki, "save", meanwhile)
        page.publish(traffic("2,000"), WEB)
    found = page.publish(traffic("2,000"), WEB)
    assert [(item.block, item.by.user) for item in found.altered] == [("05-web", "Student")]
    assert found.left == ()
