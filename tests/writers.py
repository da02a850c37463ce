"""Those who write on one page of a real wiki, and the remarks on it: the bot, the teacher, the student."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from labkit import Lab
from labkit.wiki.client import protocol, session
from labkit.wiki.merge import fences
from labkit.wiki.merge.fences import Block
from labkit.wiki.merge.page_merge import Altered
from labkit.wiki.publish import publishing
from labkit.wiki.publish.publishing import Published
from labkit.wiki.remarks import listing
from labkit.wiki.remarks.listing import Remarks
from tests.desks import WEB as WEB  # noqa: PLC0414 - offered here, too
from tests.desks import Desk


class Writers(Desk):
    """The sessions of one page; ``folder`` stands for the machine that publishes."""

    def __init__(self, lab: Lab, page: str, folder: Path) -> None:
        super().__init__(lab, page, folder)
        self.student = session.open(lab, student=True)

    def publish(self, *blocks: Block) -> Published:  # type: ignore[override]
        """Publishes as the bot."""
        folder = self.folder / "pristine"
        return publishing.apply(self.bot, self.page, blocks, folder=folder, changed=self.changed)

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


@contextmanager
def writers(lab: Lab, page: str, folder: Path) -> Iterator[Writers]:
    """Such writers, whose sessions are closed afterwards."""
    found = Writers(lab, page, folder)
    with closing(found.bot), closing(found.teacher), closing(found.student):
        yield found


def stage(megabytes: int, run: int = 1) -> Block:
    """A stage's block of a run, with one measured number."""
    small = f"<small>2026-01-02 03:04 UTC · {run}.5 s · run {run_id(run)}</small>"
    body = f"'''Passed.''' {small}\n\nAll: {megabytes} MB.\n\nThe end."
    return fences.block("02-rootfs", "== Root file systems ==", body)


def run_id(run: int) -> str:
    """The id of a stage's run."""
    return f"20260102T03040{run}Z-00ff"
