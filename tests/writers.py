"""One page of a real wiki and those who write on it: the bot, the teacher, the student."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import mwclient
import requests
from requests.adapters import HTTPAdapter

from labkit import Lab
from labkit.wiki.client import protocol, session
from labkit.wiki.merge import fences
from labkit.wiki.merge.fences import Block
from labkit.wiki.merge.page_merge import Altered
from labkit.wiki.publish import publishing
from labkit.wiki.publish.publishing import Published
from labkit.wiki.remarks import listing
from labkit.wiki.remarks.listing import Remarks


class Counting(HTTPAdapter):
    """Keeps what a session asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[str] = []

    def send(self, request: requests.PreparedRequest, *args, **kwargs) -> requests.Response:  # type: ignore[no-untyped-def]
        body = request.body or b""
        self.bodies.append(body.decode(errors="replace") if isinstance(body, bytes) else str(body))
        return super().send(request, *args, **kwargs)


class Writers:
    """The sessions of one page; ``folder`` stands for the machine that publishes."""

    def __init__(self, lab: Lab, page: str, folder: Path) -> None:
        self.lab, self.page, self.folder = lab, page, folder
        self.bot = session.open(lab)
        self.teacher = person(lab, session.TEACHER)
        self.student = session.open(lab, student=True)
        self.wire = Counting()
        self.bot.connection.mount("http://", self.wire)

    def publish(self, *blocks: Block) -> Published:
        """Publishes as the bot."""
        return publishing.apply(
            self.bot, self.page, blocks, folder=self.folder / "pristine", changed=self.changed
        )

    def changed(self, seen: protocol.Snapshot) -> tuple[Altered, ...]:
        """What people changed of labkit's lines, as this machine reads it from the page's history."""
        return listing.of(self.bot, seen, page=self.page, folder=self.folder).altered

    def remarks(self) -> Remarks:
        """The page's remarks, as this machine reads them."""
        self.wire.bodies.clear()
        return listing.collect(self.bot, self.page, self.folder)

    @property
    def revision(self) -> protocol.Revision:
        """The page's last revision."""
        found = self.teacher.read(self.page).revision
        assert found is not None
        return found

    @property
    def title(self) -> str:
        """Where the page is now."""
        return self.teacher.read(self.page).title

    @property
    def text(self) -> str:
        """The page's text now."""
        return self.revision.text

    @property
    def lines(self) -> list[str]:
        """The page's lines now."""
        return self.text.split("\n")

    def write(self, change: Callable[[str], str], who: mwclient.Site | None = None) -> None:
        """The teacher, or another, changes the page's text from the revision that is the last one now."""
        now = self.teacher.read(self.page)
        assert now.revision is not None
        new = change(now.revision.text)
        assert new != now.revision.text
        (who or self.teacher).save(now.title, new, base=now.revision.number, summary="")

    def after(self, line: str, added: str, who: mwclient.Site | None = None) -> None:
        """The teacher, or another, adds lines after a line."""
        self.write(lambda text: text.replace(f"{line}\n", f"{line}\n{added}\n", 1), who)


def person(lab: Lab, account: str) -> mwclient.Site:
    """A session of a person's."""
    site = session.connect(lab)
    site.login(account, password(lab, account))
    return site


def password(lab: Lab, account: str) -> str:
    """An account's password."""
    found = getattr(session.passwords(lab), account.lower())
    return str(found.get_secret_value())


@contextmanager
def writers(lab: Lab, page: str, folder: Path) -> Iterator[Writers]:
    """Such writers, whose sessions are closed afterwards."""
    found = Writers(lab, page, folder)
    with ExitStack() as stack:
        for site in (found.bot, found.teacher, found.student):
            stack.enter_context(closing(site))
        yield found


def stage(megabytes: int, run: int = 1) -> Block:
    """A stage's block of a run, with one measured number."""
    small = f"<small>2026-01-02 03:04 UTC · {run}.5 s · run {run_id(run)}</small>"
    body = f"'''Passed.''' {small}\n\nAll: {megabytes} MB.\n\nThe end."
    return fences.block("02-rootfs", "== Root file systems ==", body)


def run_id(run: int) -> str:
    """The id of a stage's run."""
    return f"20260102T03040{run}Z-00ff"


WEB = fences.block("05-web", "== Web sites ==", "Six pages.")
