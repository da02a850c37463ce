"""The audit: what labkit took away is found, what people took away or wrote is no finding."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from labkit import Lab
from labkit.wiki.client.protocol import Revision
from labkit.wiki.publish import last_written
from labkit.wiki.remarks import audit
from labkit.wiki.remarks.audit import Audit, LineHistory
from tests.desks import WEB, Writers, run_stage, writers
from tests.test_dialogue import of_its_own

BOT = "Labkit"
BLOCK = run_stage(250).text
TOUCHED = BLOCK.replace("All: 250 MB.", "All: 250 MB.\nREX> why?")
#: What labkit writes next, and the same with the remark kept.
NEXT = run_stage(171).text
KEPT = NEXT.replace("All: 171 MB.", "All: 171 MB.\nREX> why?")

BOTH = pytest.mark.parametrize("wiki_on", ["sqlite", "mariadb"], indirect=True)


def losses(*history: tuple[str, str]) -> list[tuple[str, str, int, int]]:
    """What the bot took away in a history of (user, text): line, author, revision, how often."""
    lines = LineHistory("Report", BOT, lambda name, digest: None)
    for number, (user, text) in enumerate(history, 1):
        lines.add(Revision(number=number, text=text, user=user))
    return [(loss.line, loss.author, loss.revision, loss.times) for loss in lines.lost]


@pytest.mark.parametrize(
    "history",
    [
        ((BOT, BLOCK), (BOT, NEXT)),
        ((BOT, BLOCK), ("T", TOUCHED), (BOT, KEPT)),
        ((BOT, BLOCK), ("T", TOUCHED), ("T", BLOCK), (BOT, NEXT)),
        ((BOT, BLOCK), ("T", TOUCHED), (BOT, KEPT), ("T", TOUCHED), (BOT, KEPT)),
        ((BOT, BLOCK), ("T", f"{BLOCK}\nREX> below"), (BOT, f"REX> below\n{NEXT}")),
        ((BOT, BLOCK), ("T", f"{BLOCK}\nREX> x"), (BOT, NEXT), (BOT, f"{NEXT}\nREX> x")),
        ((BOT, BLOCK), ("T", f"{BLOCK}\nREX> x"), (BOT, NEXT), ("T", f"{NEXT}\nREX> x"), ("T", NEXT)),
        (("T", "All: 250 MB."), (BOT, f"All: 250 MB.\n{BLOCK}"), (BOT, f"All: 250 MB.\n{NEXT}")),
        ((BOT, BLOCK), ("T", BLOCK.replace("labkit:end", "labkit:ende")), (BOT, NEXT)),
        ((BOT, BLOCK), ("T", f"{BLOCK}\n{BLOCK}"), (BOT, NEXT)),
    ],
    ids=["publication", "kept", "by-its-writer", "reverted", "moved", "put-back", "put-back-by-another",
         "equal-to-labkits", "mended", "doubled"],
)  # fmt: skip
def test_a_clean_history_has_no_finding(history: tuple[tuple[str, str], ...]) -> None:
    """Machine's lines come and go, people take away their own, and what came back is not gone."""
    assert losses(*history) == []


@pytest.mark.parametrize(
    ("history", "found"),
    [
        (((BOT, BLOCK), ("T", TOUCHED), (BOT, NEXT)), ("REX> why?", "T", 3, 1)),
        (((BOT, BLOCK), ("T", f"{BLOCK}\nmine"), (BOT, BLOCK)), ("mine", "T", 3, 1)),
        (((BOT, BLOCK), ("T", BLOCK.replace("250 MB", "251 MB")), (BOT, NEXT)), ("All: 251 MB.", "T", 3, 1)),
        (((BOT, BLOCK), ("T", TOUCHED), ("S", f"{TOUCHED}\nREX> why?"), (BOT, TOUCHED)), ("REX> why?", "T", 4, 1)),
        (((BOT, BLOCK), ("T", f"{BLOCK}\na\na"), (BOT, NEXT)), ("a", "T", 3, 2)),
        (((BOT, BLOCK), ("T", f"{BLOCK}\na\na"), (BOT, NEXT), ("T", f"{NEXT}\na")), ("a", "T", 3, 1)),
        (((BOT, BLOCK), ("T", "<!-- labkit:end x -->\nmine"), (BOT, NEXT)), ("mine", "T", 3, 1)),
        (((BOT, TOUCHED), ("T", f"{TOUCHED}\nx"), (BOT, f"{NEXT}\nx")), ("REX> why?", BOT, 3, 1)),
    ],
    ids=["in-a-block", "outside", "changed-line", "one-of-two", "twice", "half-back", "damaged", "absorbed"],
)  # fmt: skip
def test_what_the_bot_took_away_is_found(
    history: tuple[tuple[str, str], ...], found: tuple[str, str, int, int]
) -> None:
    """With the line, who wrote it first, the revision, and how often."""
    assert losses(*history) == [found]


def test_a_hidden_revision_blames_nobody() -> None:
    """What it changed cannot be told; what was lost before is still known."""
    lines = LineHistory("Report", BOT, lambda name, digest: None)
    texts = [(BOT, BLOCK), ("T", f"{BLOCK}\na\nb"), (BOT, f"{BLOCK}\nb"), ("T", ""), (BOT, BLOCK)]
    for number, (user, text) in enumerate(texts, 1):
        lines.add(Revision(number=number, text=text, user=user, hidden=number == 4))
    assert [loss.line for loss in lines.lost] == ["a"]
    assert lines.hidden == 1


def test_an_unknown_pristine_text_is_guessed_from_who_brought_what() -> None:
    """The wiki may have merged a person's line into the block while it was saved: nobody ever saw it whole."""
    merged = BLOCK.replace("The end.", "The end.\nREX> merged in")
    between = ("T", "The old end.\nREX> merged in")
    clean = NEXT.replace("The end.", "The end.\nREX> merged in")
    assert losses(between, (BOT, f"The old end.\n{merged}"), (BOT, f"The old end.\n{clean}")) == []
    assert losses(between, (BOT, f"The old end.\n{merged}"), (BOT, f"The old end.\n{NEXT}")) == [
        ("REX> merged in", "T", 3, 1)
    ]


@pytest.fixture
def page(wiki_on: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Writers]:
    """A page of the test's own."""
    title = request.node.originalname.removeprefix("test_").replace("_", " ").capitalize()
    with writers(wiki_on, title, tmp_path / "wiki") as made:
        yield made


def audited(page: Writers) -> Audit:
    """The audit of the page, as this machine makes it."""
    return audit.walk(page.bot, page.page, folder=page.folder)


def edits(page: Writers, rng: random.Random, number: int) -> list[Callable[[], object]]:
    """What a teacher may do to the page."""
    machine = next((line for line in page.lines if line.startswith("All: ")), "")
    mine = [line for line in page.lines if line.startswith("REX> ")]
    return [
        lambda: page.after(machine, f"REX> {number}"),
        lambda: page.after("Six pages.", f"A word, {number}.\n: and another"),
        lambda: page.write(lambda text: f"{text}\n== Mine {number} ==\nMore."),
        lambda: page.write(lambda text: text.replace(f"{rng.choice(mine)}\n", "", 1)) if mine else None,
        lambda: page.write(lambda text: text.replace("The end.", f"The end, {number}.")),
        lambda: page.write(lambda text: rng.choice(list(page.teacher.history(page.title))[1:]).text),
    ]  # fmt: skip


@BOTH
@pytest.mark.root
def test_many_publications_with_a_teacher_in_between_take_nothing_away(page: Writers) -> None:
    """Remarks, words, sections, deletions, rewritten lines, reverts; a state folder that is lost; a move."""
    rng = random.Random(7)  # noqa: S311 - no secret
    page.publish(run_stage(0), WEB)
    for number in range(12):
        with suppress(AssertionError):  # what it would change is not there any more
            rng.choice(edits(page, rng, number))()
        if number == 6:
            page.folder = page.folder / "elsewhere"
        if number == 9:
            move(page, f"{page.page} elsewhere")
        page.publish(run_stage(rng.randrange(900), number % 10), WEB)
    found = audited(page)
    assert found.lost == ()
    assert found.pages == (f"{page.page} elsewhere", page.page)
    assert found.saved >= 12
    assert found.revisions > found.saved + 6


def move(page: Writers, title: str, **options: object) -> None:
    """The teacher moves the page."""
    token = page.teacher.get_token("csrf")
    page.teacher.post("move", **{"from": page.page}, to=title, token=token, **options)


@BOTH
@pytest.mark.root
def test_a_line_that_the_bot_really_removed_is_found(page: Writers) -> None:
    """Also when the wiki merged that edit with another's, and after the page was published again."""
    page.publish(run_stage(250), WEB)
    page.after("All: 250 MB.", "REX> inside")
    page.write(lambda text: f"{text}\nREX> at the end")
    base = page.revision
    page.after("Six pages.", "REX> meanwhile")
    without = base.text.replace("REX> inside\n", "")
    saved = page.bot.save(page.page, without, base=base.number, summary="")
    assert saved is not None
    assert saved.before != base.number  # the wiki has merged
    page.publish(run_stage(171, 2), WEB)
    [loss] = audited(page).lost
    assert (loss.line, loss.author, loss.revision) == ("REX> inside", "Teacher", saved.revision)
    page.after("All: 171 MB.", "REX> inside")
    assert audited(page).lost == ()


@pytest.mark.root
def test_what_labkit_wrote_is_known_from_its_state_pages_history(page: Writers) -> None:
    """On another machine too: an old block that never stood untouched is no person's."""
    page.publish(run_stage(0), WEB)
    page.after("The end.", "REX> always here")
    for number in range(1, 6):
        page.publish(run_stage(number, number), WEB)
    page.folder = page.folder / "elsewhere"
    known = last_written.EverWritten(page.bot, page.page, page.folder / "pristine")
    assert known.find("02-rootfs", run_stage(1, 1).digest) == run_stage(1, 1)
    assert known.find("02-rootfs", "0" * 16) is None
    assert audited(page).lost == ()


@pytest.mark.root
def test_an_audit_says_what_it_read(wiki_lab: Lab, tmp_path: Path) -> None:
    """A check that holds, or one that fails with a table of what was taken away; what others than labkit made of a
    remark is told and is no loss of labkit's. The history of a page that was moved without a redirect is read, too."""
    lab = of_its_own(wiki_lab, tmp_path, "Audited by an action")
    never = audit.audit(lab).value
    assert (never.revisions, never.lost) == (0, ())
    with writers(lab, lab.wiki.page, tmp_path / "wiki") as page:
        page.publish(run_stage(250))
        page.after("All: 250 MB.", "REX> inside\n\nREX> another")
        clean = audit.audit(lab)
        page.write(lambda text: text.replace("REX> inside\n", ""), page.bot)
        page.write(lambda text: text.replace("REX> another", "REX> beside"), page.student)
        move(page, f"{page.page} elsewhere", noredirect=1)
        page.publish(run_stage(250))
    assert clean.holds
    assert clean.summary == (
        "labkit has taken away none of the lines that people wrote on Audited by an action, "
        "in 2 revisions, 1 of them by Labkit."
    )
    found = audit.audit(lab)
    assert not found.holds
    assert [row[:2] for row in found.table("lost").rows] == [("REX> inside", "Teacher")]
    told = [(gone.line, gone.author, gone.became, gone.by.user) for gone in found.value.vanished]
    assert told == [
        ("REX> inside", "Teacher", "deleted", "Labkit"),
        ("REX> another", "Teacher", "rewritten", "Student"),
    ]
    assert found.value.pages == ("Audited by an action elsewhere", "Audited by an action")
