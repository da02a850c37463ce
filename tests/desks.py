"""Those who write on one page of a real wiki, and the remarks on it: the bot, the teacher, the student."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter

from labkit import Lab
from labkit.wiki.client import protocol, session
from labkit.wiki.client.mediawiki import MediaWiki
from labkit.wiki.client.protocol import Upload
from labkit.wiki.merge import fences
from labkit.wiki.merge.fences import Block
from labkit.wiki.merge.page_merge import Altered
from labkit.wiki.publish import publishing
from labkit.wiki.publish.publishing import Published
from labkit.wiki.remarks import listing
from labkit.wiki.remarks.listing import Remarks
from labkit.wiki.render import wikitext
from labkit.wiki.render.pictures import upload


class Wire(HTTPAdapter):
    """Counts a session's requests, and lets somebody else go first."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[str] = []
        self.before_edit: list[Callable[[], object]] = []

    def send(self, request: requests.PreparedRequest, *args, **kwargs) -> requests.Response:  # type: ignore[no-untyped-def]
        body = request.body or b""
        text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
        self.bodies.append(text)
        if "action=edit" in text and "labkit+state" not in text and self.before_edit:
            self.before_edit.pop(0)()
        return super().send(request, *args, **kwargs)


class Desk:
    """One page of a wiki, the bot that publishes on it, and the teacher who writes in it."""

    def __init__(self, lab: Lab, page: str, folder: Path) -> None:
        self.lab, self.page, self.folder = lab, page, folder
        self.wire = Wire()
        self.bot = session.open(lab)
        self.bot.connection.mount("http://", self.wire)
        self.teacher = log_in(lab, session.TEACHER)

    def publish(self, *blocks: Block, uploads: tuple[Upload, ...] = (), restore: tuple[str, ...] = ()) -> Published:  # fmt: skip
        """Publishes as the bot."""
        self.wire.bodies.clear()
        return publishing.apply(
            self.bot, self.page, blocks, uploads, folder=self.folder, restore=restore
        )

    @property
    def text(self) -> str:
        """The page's text now."""
        revision = self.teacher.read(self.page).revision
        return revision.text if revision else ""

    @property
    def lines(self) -> list[str]:
        """The page's lines now."""
        return self.text.split("\n")

    @property
    def revisions(self) -> list[protocol.Revision]:
        """The page's history, the last first."""
        return list(self.teacher.history(self.page))

    def write(self, change: Callable[[str], str], who: MediaWiki | None = None) -> None:
        """The teacher, or another, changes the page's text, as in the editor: from the revision now."""
        now = self.teacher.read(self.page)
        assert now.revision is not None
        new = change(now.revision.text)
        assert new != now.revision.text
        (who or self.teacher).save(now.title, new, base=now.revision.number, summary="")

    def after(self, line: str, added: str, who: MediaWiki | None = None) -> None:
        """The teacher, or another, adds lines after a line."""
        self.write(lambda text: text.replace(f"{line}\n", f"{line}\n{added}\n", 1), who)


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


def log_in(lab: Lab, account: str) -> MediaWiki:
    """A session of a person's."""
    site = session.connect(lab)
    site.login(account, password(lab, account))
    return site


def password(lab: Lab, account: str) -> str:
    """An account's password."""
    found = getattr(session.passwords(lab), account.lower())
    return str(found.get_secret_value())


@contextmanager
def opened(lab: Lab, page: str, folder: Path) -> Iterator[Desk]:
    """A desk whose sessions are closed afterwards."""
    desk = Desk(lab, page, folder)
    with closing(desk.bot), closing(desk.teacher):
        yield desk


@contextmanager
def writers(lab: Lab, page: str, folder: Path) -> Iterator[Writers]:
    """Such writers, whose sessions are closed afterwards."""
    found = Writers(lab, page, folder)
    with closing(found.bot), closing(found.teacher), closing(found.student):
        yield found


def stage(megabytes: int, *, rows: int = 3) -> Block:
    """A stage's block with a table, one of whose numbers is given."""
    lines = [[f"package {row}", str(row * 10)] for row in range(rows)]
    body = [
        "'''Measured.'''",
        "",
        wikitext.grid(["name", "MB"], [["all", str(megabytes)], *lines]),
        "",
        "The end.",
    ]
    return fences.block("02-rootfs", "== Root file systems ==", "\n".join(body))


def run_stage(megabytes: int, run: int = 1) -> Block:
    """A stage's block of a run, with one measured number."""
    small = f"<small>2026-01-02 03:04 UTC · {run}.5 s · run {run_id(run)}</small>"
    body = f"'''Passed.''' {small}\n\nAll: {megabytes} MB.\n\nThe end."
    return fences.block("02-rootfs", "== Root file systems ==", body)


def run_id(run: int) -> str:
    """The id of a stage's run."""
    return f"20260102T03040{run}Z-00ff"


SUMMARY = fences.block("summary", "", "Two stages.")
WEB = fences.block("05-web", "== Web sites ==", "Six pages.")


def parsed(site: MediaWiki, text: str) -> str:
    """The HTML that the wiki makes of a text."""
    answer = site.post(
        "parse", text=text, contentmodel="wikitext", prop="text", disablelimitreport=1,
        disableeditsection=1, formatversion=2,
    )  # fmt: skip
    return str(answer["parse"]["text"])


def fresh(*blocks: Block) -> str:
    """A page that nobody but labkit wrote on."""
    names = fences.listed(tuple(block.name for block in blocks))
    return names + "\n" + "\n\n".join(block.text for block in blocks)


def picture(shade: int) -> Upload:
    """A real PNG picture, one pixel of one of 65,536 greys."""
    header = struct.pack(">IIBBBBB", 1, 1, 16, 0, 0, 0, 0)
    line = b"\0" + struct.pack(">H", shade)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(line)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return upload("shade", data, ending="png", text="a pixel")
