"""The prepared pages: the assignment, the main page, and what a person wrote on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import mwclient
import pytest

from labkit import Lab
from labkit.errors import ConfigError, StateError
from labkit.wiki.client import session
from labkit.wiki.client.protocol import Revision
from labkit.wiki.publish import prepared
from labkit.wiki.publish.prepared import SentPage, State, decide, digest
from labkit.wiki.server.configuration import Folders

ROWS = [f"{kind}{n}" for kind, last in (("E", 5), ("I", 6), ("R", 12)) for n in range(1, last + 1)]


def revision(text: str, user: str = "Labkit") -> Revision:
    """A page's last revision."""
    return Revision(number=7, text=text, user=user)


def kept(sent: str, saved: str = "") -> SentPage:
    """What labkit remembers of a page that it wrote."""
    return SentPage(sent=digest(sent), saved=digest(saved or sent))


@pytest.mark.parametrize(
    ("page", "memory", "state"),
    [
        (None, None, "created"),
        (None, kept("new"), "created"),
        (revision("new"), None, "unchanged"),
        (revision("new\n"), kept("new"), "unchanged"),
        (revision("signed by Labkit"), kept("new", "signed by Labkit"), "unchanged"),
        (revision("old"), kept("old"), "updated"),
        (revision("MediaWiki has been installed.", prepared.INSTALLER), None, "updated"),
        (revision("old"), None, "left as people wrote it"),
        (revision("old, and more", "Teacher"), kept("old"), "left as people wrote it"),
        (revision("old, and more"), kept("old"), "left as people wrote it"),
    ],
)
def test_decision(page: Revision | None, memory: SentPage | None, state: State) -> None:
    """Only what labkit itself saved, or the installer, is written over."""
    assert decide(page, "new", memory) == state


def test_assignment_is_wikitext(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """A file in Markdown is rendered; labkit's own wording names each row of the assignment."""
    own = prepared.assignment(make_lab())
    assert [row for row in ROWS if f"\n| {row} || " not in own] == []
    (tmp_path / "task.md").write_text("# Task\n\n- build *it*\n")
    text = prepared.assignment(make_lab(assignment=str(tmp_path / "task.md")))
    assert "* build ''it''" in text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("task.pdf", b"%PDF", "does not tell what is in it"),
        ("task.wiki", b"\xff\xfe", "not UTF-8 text"),
        ("task.md", b" \n", "is empty"),
        ("missing.md", None, "No such file"),
    ],
)
def test_unusable_assignment_is_refused(
    make_lab: Callable[..., Lab], tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    """A file that cannot be the assignment is refused before a wiki is installed."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    lab = make_lab(assignment=str(tmp_path / name))
    with pytest.raises(ConfigError, match=reason):
        prepared.prepare(lab)
    assert not Folders(lab).root.exists()


def test_report_cannot_be_a_prepared_page(lab: Lab) -> None:
    """A report that would go onto the assignment's page is refused."""
    same = lab.wiki.model_copy(update={"page": prepared.ASSIGNMENT})
    with pytest.raises(ConfigError, match="is a page that labkit prepares"):
        prepared.prepare(lab.model_copy(update={"wiki": same}))


@pytest.fixture
def given(wiki_lab: Lab, tmp_path: Path) -> Iterator[tuple[Lab, Path]]:
    """The shared wiki with an assignment's file of the test's own, and no page of it yet."""
    path = tmp_path / "task.wiki"
    path.write_text("the first wording")
    lab = wiki_lab.model_copy(
        update={"wiki": wiki_lab.wiki.model_copy(update={"assignment": str(path)})}
    )
    site = as_administrator(lab)
    for title in (prepared.ASSIGNMENT, prepared.MAIN):
        if site.pages[title].exists:
            site.pages[title].delete()
    Folders(lab).pages.unlink(missing_ok=True)
    yield lab, path


def as_administrator(lab: Lab) -> mwclient.Site:
    """A session of the administrator's."""
    site = session.connect(lab)
    word = session.passwords(lab).administrator.get_secret_value()
    site.clientlogin(username=session.ADMINISTRATOR, password=word)
    site.site_init()
    return site


def states(lab: Lab) -> list[str]:
    """What became of each page."""
    return [page.state for page in prepared.prepare(lab).value.pages]


@pytest.mark.root
def test_pages_are_made_once_and_follow_the_file_until_people_write(
    given: tuple[Lab, Path],
) -> None:
    """The second run saves nothing; a changed file replaces the text that labkit saved; a page in which a person wrote
    stays, whatever the file says then."""
    lab, path = given
    first = prepared.prepare(lab)
    assert [page.state for page in first.value.pages] == ["created", "created"]
    assert {check.rows for check in first.checks if check.holds} == {("E1",)}
    second = prepared.prepare(lab)
    assert not second.changed
    assert [p.revision for p in second.value.pages] == [p.revision for p in first.value.pages]
    path.write_text("the second wording")
    assert states(lab) == ["updated", "unchanged"]
    page = as_administrator(lab).pages[prepared.ASSIGNMENT]
    assert page.text() == "the second wording"
    page.save("the second wording, explained")
    path.write_text("the third wording")
    assert states(lab) == ["left as people wrote it", "unchanged"]
    assert page.text(cache=False) == "the second wording, explained"


@pytest.mark.root
def test_damaged_memory_is_named(given: tuple[Lab, Path]) -> None:
    """A damaged file of what labkit wrote is an error that says what moving it away means."""
    lab, _ = given
    Folders(lab).pages.write_text('{"pages": 1}')
    try:
        with pytest.raises(StateError, match="is damaged") as error:
            prepared.prepare(lab)
    finally:
        Folders(lab).pages.unlink()
    assert "move it away" in error.value.remedy
