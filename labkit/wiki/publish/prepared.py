"""Prepares the pages that the wiki has before anything is reported: the assignment, and a main page."""

from __future__ import annotations

import hashlib
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field

from labkit import reading
from labkit.checks import Check
from labkit.core import journal
from labkit.core.files import write_atomically
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import quoted
from labkit.errors import ConfigError, StateError
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki import server
from labkit.wiki.client import session
from labkit.wiki.client.protocol import Revision, Wiki
from labkit.wiki.client.refusals import ConflictError
from labkit.wiki.client.session import api_url
from labkit.wiki.publish.editor import text_of
from labkit.wiki.render import markdown, writing
from labkit.wiki.server.configuration import Folders

ASSIGNMENT, MAIN = "Assignment", "Main Page"
#: The endings of a file's name by which its format is known.
MARKDOWN, WIKITEXT = (".md", ".markdown"), (".wiki", ".wikitext", ".mediawiki", ".txt")
#: The account by which MediaWiki's installer writes the main page.
INSTALLER = "MediaWiki default"

State = Literal["created", "updated", "unchanged", "left as people wrote it"]


class Page(Record):
    """A page and what became of it; ``revision`` is its last, ``size`` its length in bytes."""

    title: str
    url: str
    state: State
    revision: int
    size: int


class Pages(Record):
    """The prepared pages."""

    pages: tuple[Page, ...]


class SentPage(Record):
    """The hashes of what labkit sent for a page and of what the wiki then had."""

    sent: str
    saved: str


class SentPages(Record):
    """What labkit wrote, by wiki and title."""

    pages: dict[str, SentPage] = Field(default_factory=dict)


@action("wiki.prepare")
def prepare(lab: Lab) -> Outcome[Pages]:
    """Writes the assignment's page and, into the lab's own wiki, a main page that leads to it.

    The assignment is labkit's own wording, or the file ``wiki.assignment`` (Markdown or wikitext).
    A page that a person has written in is left as it is. Brings the lab's own wiki up.

    :returns: each page with what became of it (``value.pages``), and the table ``pages``.
    :raises ConfigError: the given file cannot be used, or ``wiki.page`` is one of these pages.
    :raises WikiError: the wiki does not answer or refuses.
    """
    texts = {ASSIGNMENT: assignment(lab)}
    if not lab.wiki.url:
        texts[MAIN] = main_page(lab)
    if lab.wiki.page in texts:
        raise ConfigError(
            f"wiki.page = {quoted(lab.wiki.page)}",
            "is a page that labkit prepares",
            "choose another title",
            code="config.page",
        )
    server.up(lab)
    with journal.lock(lab.run_dir, "wiki"):
        store = _read(Folders(lab).pages)
        with closing(session.open(lab)) as wiki:
            pages = tuple(_converge(lab, wiki, title, text, store) for title, text in texts.items())
    done = ", ".join(f"{page.title} ({page.state})" for page in pages)
    return Outcome(
        value=Pages(pages=pages),
        subject=pages[0].url,
        summary=f"The wiki has {done}.",
        changed=any(page.state in ("created", "updated") for page in pages),
        checks=tuple(_check(page) for page in pages),
        tables=(
            Table.of("pages", "Prepared pages", [page.model_dump() for page in pages],
                     units={"size": "bytes"}),
        ),
    )  # fmt: skip


def assignment(lab: Lab) -> str:
    """The assignment as wikitext; :class:`ConfigError` when the given file cannot be used."""
    if not lab.wiki.assignment:
        return resources.files("labkit.wiki.publish").joinpath("assignment.wiki").read_text("utf-8")
    path, text = Path(lab.wiki.assignment), ""
    wrong, remedy = "", "name the file that has the assignment"
    try:
        text = reading.content(path).decode("utf-8-sig")
        wrong = "" if text.strip() else "is empty"
    except UnicodeDecodeError:
        wrong, remedy = "is not UTF-8 text", "convert it (iconv)"
    except ValueError as error:
        wrong = str(error)
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    if path.suffix.lower() not in MARKDOWN + WIKITEXT:
        wrong = "its name does not tell what is in it"
        remedy = f"let it end in one of {', '.join(MARKDOWN + WIKITEXT)}"
    if wrong:
        key = f"wiki.assignment = {path}"
        raise ConfigError(key, wrong, remedy, code="config.assignment")
    return writing.write(markdown.read(text)).text if path.suffix.lower() in MARKDOWN else text


def main_page(lab: Lab) -> str:
    """The main page: what this wiki is for, and where to go. Pure."""
    return "\n".join(
        (
            f"This wiki belongs to the lab '''{lab.name}'''.",
            "",
            f"* [[{ASSIGNMENT}]]: what is to be built and answered",
            f"* [[:{lab.wiki.page}]]: what was built, and what was measured of it",
            "",
            "The report is written by the lab itself, each time that it runs. Anybody with an account"
            " may write in it: a remark is a line that begins with <code>REX&gt;</code>, and it is"
            " still there when the report has been published anew.",
        )
    )


def decide(revision: Revision | None, wanted: str, kept: SentPage | None) -> State:
    """What becomes of a page that has ``revision`` and should have the text ``wanted``. Pure.

    Only what labkit itself saved, or MediaWiki's installer, is ever written over.
    """
    if revision is None:
        return "created"
    ours = kept is not None and digest(revision.text) == kept.saved
    if same(revision.text, wanted) or (ours and kept is not None and digest(wanted) == kept.sent):
        return "unchanged"
    return "updated" if ours or revision.user == INSTALLER else "left as people wrote it"


def same(one: str, other: str) -> bool:
    """Whether two texts are one page: the wiki trims a page's end."""
    return one.rstrip() == other.rstrip()


def digest(text: str) -> str:
    """The hash of a page's text."""
    return hashlib.sha256(text.rstrip().encode()).hexdigest()


def _converge(lab: Lab, wiki: Wiki, title: str, text: str, store: SentPages) -> Page:
    """One page as it should be, or as people wrote it; what was saved goes to the store."""
    key = f"{api_url(lab)} {lab.wiki.database} {title}"
    snapshot = wiki.read(title)
    state = decide(snapshot.revision, text, store.pages.get(key))
    if snapshot.title != title:  # a redirect is somebody's decision
        state = "left as people wrote it"
    if state in ("created", "updated"):
        base = snapshot.revision.number if snapshot.revision else None
        try:
            saved = wiki.save(title, text, base=base, summary="The lab's own wording")
        except ConflictError:  # somebody saved it just now: it is theirs
            state, saved = "left as people wrote it", None
        if saved and saved.before == (base or 0):
            now = text_of(wiki, saved.revision)
            store.pages[key] = SentPage(sent=digest(text), saved=digest(now))
            write_atomically(Folders(lab).pages, store.model_dump_json(indent=1) + "\n")
        snapshot = wiki.read(title)
    return Page(
        title=title,
        url=wiki.url(title),
        state=state,
        revision=snapshot.revision.number if snapshot.revision else 0,
        size=len(snapshot.revision.text.encode()) if snapshot.revision else 0,
    )


def _read(path: Path) -> SentPages:
    try:
        return SentPages.model_validate(reading.json_of(path))
    except FileNotFoundError:
        return SentPages()
    except (OSError, ValueError):
        raise StateError(
            str(path),
            "is damaged: not what labkit wrote",
            "move it away: pages that differ from labkit's wording then count as a person's",
            f"cat {path}",
            code="state.damaged-pages",
        ) from None


def _check(page: Page) -> Check:
    name = "assignment" if page.title == ASSIGNMENT else "main"
    return Check(
        name=f"wiki.page.{name}",
        expected=f"a page {page.title}",
        seen=f"revision {page.revision}, {page.size:,} bytes, {page.state}",
        holds=page.size > 0,
        rows=("E1",),
        again=page.url,
    )
