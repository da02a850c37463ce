"""A publication that is cut off: the page is whole, and the next one finishes."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from labkit import Lab
from labkit.errors import WikiError
from labkit.wiki.client import session, transport
from labkit.wiki.client.mediawiki import MediaWiki
from labkit.wiki.client.protocol import Upload
from labkit.wiki.merge import fences
from labkit.wiki.merge.fences import Block
from labkit.wiki.publish import editor
from tests.desks import SUMMARY, Desk, fresh, opened, picture, stage
from tests.faults import KINDS, Proxy, proxy_to

pytestmark = pytest.mark.root
NUMBERS = itertools.count(1)
REMARKS = ("REX> within", "REX> between")


class Case:
    """One publication that is cut off, on a page that is new, or on one that has changed."""

    def __init__(self, desk: Desk, scenario: str) -> None:
        self.desk = desk
        self.number = next(NUMBERS)
        self.before = "" if scenario == "first" else desk.text
        if scenario == "first":
            desk.page = f"First {self.number}"
        self.uploads: tuple[Upload, ...] = (picture(100 + self.number),)
        self.blocks: tuple[Block, ...] = (SUMMARY, stage(1000 + self.number))

    def publish(self) -> bool:
        """Publishes; returns whether anything was written."""
        return self.desk.publish(*self.blocks, uploads=self.uploads).changed

    def require_whole(self) -> None:
        """The page is as before or as it shall be, every line of a person's there once."""
        text = self.desk.text
        fences.parse(text, self.desk.page)
        left = text
        for remark in REMARKS if self.before else ():
            assert text.count(remark) == 1
            left = left.replace(f"{remark}\n", "")
        assert text == self.before or left == fresh(*self.blocks)

    def require_finished(self) -> None:
        """The next publication, by the wiki itself again, leaves nothing to do; no picture was sent twice."""
        self.desk.bot.host = f"127.0.0.1:{self.desk.lab.wiki.port}"
        self.publish()
        self.require_whole()
        assert fences.parse(self.desk.text, "").find("02-rootfs").block == stage(1000 + self.number) or self.before  # type: ignore[union-attr]  # fmt: skip
        assert not self.publish()
        answer = self.desk.teacher.post(
            "query",
            titles=f"File:{self.uploads[0].name}",
            prop="imageinfo",
            iilimit=9,
            formatversion=2,
        )
        assert len(answer["query"]["pages"][0]["imageinfo"]) == 1


def changed_page(desk: Desk) -> None:
    """The page has been published, and a teacher has written in it."""
    desk.publish(SUMMARY, stage(1))
    desk.after("| package 1 || 10", REMARKS[0])
    desk.after("<!-- labkit:end summary -->", REMARKS[1])


@pytest.fixture(scope="module")
def proxy(wiki_lab: Lab) -> Iterator[Proxy]:
    """A proxy in front of the wiki."""
    with proxy_to(wiki_lab.wiki.port) as made:
        yield made


@pytest.fixture(params=["first", "changed"])
def case(
    wiki_lab: Lab, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Case]]:
    """Makes cases: of pages that are new, or of one page on which people write."""
    monkeypatch.setattr(transport, "PAUSE", 0.01)
    title = f"Changed {next(NUMBERS)}"
    with opened(wiki_lab, title, tmp_path / "pristine") as desk:
        if request.param == "changed":
            changed_page(desk)
        yield lambda: Case(desk, request.param)


def every_place(
    case: Callable[[], Case], proxy: Proxy, kind: Callable[[int], str], *, lasting: bool = False
) -> Iterator[tuple[Case, WikiError | None]]:
    """Cases that are cut off at their first request, at their second, and so on to their last."""
    for place in itertools.count(1):
        made, error = case(), None
        made.desk.bot.host = proxy.host
        proxy.arm(place, kind(place), lasting=lasting)
        try:
            made.publish()
        except WikiError as caught:
            error = caught
        if proxy.count < place:
            assert error is None
            assert (
                place > 6
            )  # read, picture, what labkit wrote, the page, and a look at what was saved
            return
        yield made, error


@pytest.mark.parametrize("any_kind", [False, True], ids=["no reply", "any kind"])
def test_one_fault_is_made_up_for(case: Callable[[], Case], proxy: Proxy, any_kind: bool) -> None:
    """A lost reply of whichever request, or another kind at each request: the publication looks what became of it,
    and goes on to its end."""
    shift = next(NUMBERS)
    kinds = KINDS if any_kind else ("no reply",)
    for made, error in every_place(case, proxy, lambda n: kinds[(n + shift) % len(kinds)]):
        assert error is None
        made.require_whole()
        made.desk.bot.host = f"127.0.0.1:{made.desk.lab.wiki.port}"
        assert not made.publish()
        made.require_finished()


def test_a_wiki_that_is_gone_from_then_on_leaves_the_page_whole(
    case: Callable[[], Case], proxy: Proxy
) -> None:
    """At whichever request: an error that says so, a whole page, and a next publication that finishes."""
    for made, error in every_place(
        case, proxy, lambda n: ("no request", "no reply")[n % 2], lasting=True
    ):
        assert "the wiki does not answer" in str(error)
        made.require_whole()
        made.require_finished()


def publish_in_a_child(lab: Lab, host: str, case: tuple[str, Path, tuple[Block, ...], tuple[Upload, ...]]) -> None:  # fmt: skip
    """What a process does that is going to be killed."""
    from labkit.wiki.publish import publishing

    page, folder, blocks, uploads = case
    with closing((site := session.open(lab)).connection):
        site.host = host
        publishing.apply(site, page, blocks, uploads, folder=folder)


def test_a_killed_publication_leaves_the_page_whole(case: Callable[[], Case], proxy: Proxy) -> None:
    """kill -9 at each request, when the wiki has acted and the process does not know it yet."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(
        ["labkit.wiki.publish.publishing", "labkit.wiki.client.transport", "tests.test_faults"]
    )
    for place in itertools.count(1):
        made = case()
        proxy.arm(place, "hold")
        desk = made.desk
        given = (desk.lab, proxy.host, (desk.page, desk.folder, made.blocks, made.uploads))
        child = server.Process(target=publish_in_a_child, args=given)
        child.start()
        while child.is_alive() and not proxy.held.wait(0.01):
            pass
        child.kill()
        child.join()
        proxy.released.set()
        if child.exitcode == 0:
            assert place > 6
            return
        assert child.exitcode == -9
        made.require_whole()
        made.require_finished()


def busy(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, edits: int) -> None:
    """The wiki's database is locked when so many edits come."""
    left = iter(range(edits))

    def kind(body: bytes) -> str:
        return "given" if b"action=edit" in body and next(left, None) is not None else ""

    locked = b'{"error": {"code": "internal_api_error_DBQueryError", "info": "database is locked"}}'
    proxy.given = (200, locked, {})
    monkeypatch.setattr(proxy, "next", kind)
    monkeypatch.setattr(editor, "LONGEST_PAUSE", 0.01)


def test_a_busy_database_is_waited_for(
    case: Callable[[], Case], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a silence would be, and as often as others' edits would be: the publication goes on when its edit
    is taken, else the page is whole, and the next one finishes."""
    for edits in (8, editor.ATTEMPTS):
        made = case()
        made.desk.bot.host = proxy.host
        busy(proxy, monkeypatch, edits)
        if edits < editor.ATTEMPTS:
            assert made.desk.publish(*made.blocks, uploads=made.uploads).attempts == edits + 1
        else:
            with pytest.raises(WikiError, match="its database fails, or is busy") as caught:
                made.publish()
            assert "publish again" in caught.value.remedy
        made.require_whole()
        made.require_finished()


def test_a_wiki_that_never_answers_is_not_waited_for_long(
    case: Callable[[], Case], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request has its time, and is sent twice at most: the error says how long it was."""
    monkeypatch.setattr(transport, "TIMEOUT", (0.2, 0.2))
    made = case()
    made.desk.bot.host = proxy.host
    proxy.arm(1, "never", lasting=True)
    with pytest.raises(WikiError, match=r"no word within 0\.2 s"):
        made.publish()
    assert proxy.count == 2
    with pytest.raises(WikiError, match=r"no word within 0\.2 s"):
        MediaWiki(f"http://{proxy.host}/w/api.php", own=True)
    assert proxy.count == 4
    proxy.released.set()
    assert made.desk.teacher.read("Main Page").title
