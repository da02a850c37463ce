"""Publishes the report on the wiki, or shows what that would change; and visits the wiki's main page in a browser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from labkit.checks import Check
from labkit.core import journal
from labkit.core.result import Outcome, action, run_id
from labkit.core.tables import Cell, Table
from labkit.display import counted, quoted
from labkit.farm.services import browser
from labkit.farm.services.browser import Page, Visits
from labkit.model.lab import Lab
from labkit.report.page.blocks import Pages, stages, with_remarks
from labkit.report.site import discussion
from labkit.wiki import server
from labkit.wiki.client import session
from labkit.wiki.client.protocol import Snapshot, Wiki
from labkit.wiki.merge import page_merge
from labkit.wiki.merge.page_merge import Altered
from labkit.wiki.publish import publishing
from labkit.wiki.publish.editor import Changed, PagePlan
from labkit.wiki.publish.publishing import Mended, Published
from labkit.wiki.remarks import listing
from labkit.wiki.remarks.listing import Remarks


@action("report.publish")
def publish(lab: Lab, *, restore: Sequence[str] = (), repair: bool = False) -> Outcome[Published]:
    """The wiki's page ``wiki.page`` shows all stages as they last ran; people's lines are kept.

    A stage that never ran has a block that says what it will answer. A block that a person deleted
    is left out unless ``restore`` names it. Damaged comments are mended first with ``repair``. The
    lab's own wiki is brought up. Raises :class:`WikiError` when the wiki refuses or a comment of the
    page is damaged (the page stays as it is then), :class:`StateError` when a stage's record is
    damaged, :class:`ConfigError` for a block that the report does not have.
    """
    info = server.ready(lab)
    with journal.lock(lab.run_dir, "wiki"), closing(session.open(lab, info=info)) as wiki:
        mended = _mended(lab, wiki, dry=False) if repair else None
        ground = _ground(lab, wiki)
        made = ground.pages
        done = publishing.apply(
            wiki, lab.wiki.page, made.blocks, made.uploads, folder=folder(lab), restore=restore,
            note=f"run {run_id()}", snapshot=ground.snapshot, changed=ground.changed,
        )  # fmt: skip
        discussion.keep(lab, ground.read[-1], made.latest)
    done = done.model_copy(update={"mended": mended.diff}) if mended else done
    return Outcome(
        value=done,
        subject=done.url,
        summary=sentence(done),
        changed=done.changed,
        checks=checks(done, made),
        tables=(table(done), *([page_merge.altered_table(done.altered)] if done.altered else [])),
    )


@action("report.plan")
def plan(lab: Lab, *, restore: Sequence[str] = ()) -> Outcome[PagePlan]:
    """What :func:`publish` would write on the page as it is now, block by block; nothing is written."""
    with closing(session.open(lab, info=session.site_info(lab))) as wiki:
        ground = _ground(lab, wiki)
        made = ground.pages
        found = publishing.plan(
            wiki, lab.wiki.page, made.blocks, made.uploads,
            folder=folder(lab), restore=restore, snapshot=ground.snapshot, changed=ground.changed,
        )  # fmt: skip
    address = wiki.url(found.page)
    return Outcome(value=found, subject=address, summary=planned(found, address))


@action("report.mend")
def mend(lab: Lab) -> Outcome[Mended]:
    """What ``publish(repair=True)`` would mend of the page's comments; nothing is written."""
    with closing(session.open(lab, info=session.site_info(lab))) as wiki:
        found = _mended(lab, wiki, dry=True)
    said = "are whole" if not found.diff else "are damaged, and would be mended"
    return Outcome(
        value=found, subject=found.url, summary=f"labkit's comments on {found.url} {said}."
    )


class Ground(NamedTuple):
    """What a publication starts from: the report as this wiki can show it, with the remarks that are on its
    page; the page as it is, read once for both; what was read of its history, the last at the end, and what
    reads there who changed labkit's lines."""

    pages: Pages
    snapshot: Snapshot
    read: list[Remarks]
    changed: Changed


def _ground(lab: Lab, wiki: Wiki) -> Ground:
    drawn = stages(lab, wiki.features)
    page, files = lab.wiki.page, [item.name for item in drawn.uploads]
    snapshot = wiki.read(page, files=files)
    found = [listing.of(wiki, snapshot, page=page, folder=listing.folder(lab))]

    def changed(snapshot: Snapshot) -> tuple[Altered, ...]:
        found.append(listing.of(wiki, snapshot, page=page, folder=listing.folder(lab)))
        return found[-1].altered

    return Ground(with_remarks(drawn, found[0]), snapshot, found, changed)


def _mended(lab: Lab, wiki: Wiki, *, dry: bool) -> Mended:
    nothing = Remarks(page=lab.wiki.page, url="", remarks=())
    made = with_remarks(stages(lab, wiki.features), nothing)
    return publishing.mend(wiki, lab.wiki.page, made.blocks, folder=folder(lab), dry=dry)


def folder(lab: Lab) -> Path:
    """Where this machine keeps what labkit wrote on the wiki."""
    return lab.state_dir / "wiki" / "pristine"


def checks(done: Published, made: Pages) -> tuple[Check, ...]:
    """What holds of the page after the publication."""
    left_out = f", {len(done.deleted)} deleted by people" if done.deleted else ""
    put_back = f", {len(done.put_back)} of them put back" if done.put_back else ""
    pictures = len(made.uploads) - len(done.missing)
    onto = f"that stood in revision {done.base}" if done.base else "(there was no page)"
    return (
        Check(
            name="publish.blocks", expected=f"{counted(len(made.blocks), 'block')} on the page",
            seen=f"{done.standing} on it{left_out}",
            holds=done.standing + len(done.deleted) == len(made.blocks),
            rows=("E1", "R12"), again=done.url,
        ),
        Check(
            name="publish.pictures", expected=f"{counted(len(made.uploads), 'picture')} in the wiki",
            seen=f"{pictures} in it", holds=pictures == len(made.uploads), again=done.url,
        ),
        Check(
            name="publish.people", expected=f"all {counted(done.people, 'line')} of people's {onto}",
            seen=f"{done.there} in revision {done.revision}{put_back}",
            holds=done.there == done.people, again=f"{done.url}?action=history",
        ),
        Check(
            name="publish.unchanged", expected="nothing is left to write",
            seen=", ".join(done.left) or "nothing is left to write",
            holds=not done.left, rows=("E1",), again="labkit publish",
        ),
    )  # fmt: skip


def planned(found: PagePlan, address: str) -> str:
    """What a publication would do, in a sentence."""
    if not found.changed:
        return f"The report at {address} is as it should be: publishing would write nothing."
    counts = Counter(change.state for change in found.changes)
    states = [f"{number} {state}" for state, number in counts.items()]
    return (
        f"Publishing to {address} would leave the {counted(len(found.changes), 'block')} so: {', '.join(states)}; "
        f"{counted(len(found.missing), 'picture', 'are')} missing."
    )


def sentence(done: Published) -> str:
    """What the publication did, in a sentence."""
    said = f" {page_merge.altered_sentence(done.altered)}" if done.altered else ""
    if not done.changed:
        return f"The report at {done.url} was as it should be: nothing was written.{said}"
    counts = Counter(change.state for change in done.changes)
    states = [f"{counts[state]} {state}" for state in ("added", "changed", "unchanged", "deleted") if counts[state]]  # fmt: skip
    return (
        f"The report is at {done.url}: of {counted(len(done.changes), 'block')} {', '.join(states)}; "
        f"{counted(len(done.uploaded), 'picture')} uploaded, {counted(done.people, 'line')} of people's kept.{said}"
    )


def table(done: Published) -> Table:
    """What happened to each block."""
    rows: list[dict[str, Cell]] = [
        {"block": change.name, "state": change.state, "people's lines in it": len(change.kept)}
        for change in done.changes
    ]
    return Table.of("blocks", "Blocks of the report's page", rows)


# -- the main page in a browser -----------------------------------------------------------------

#: The link that MediaWiki's skins show to who is not logged in.
MARKS = {"login": "[id^=pt-login] a"}


@action("wiki.shown")
def main_page(lab: Lab) -> Outcome[Visits]:
    """What Chromium shows of the wiki's main page, with a screenshot (``figures/page-wiki.png``).

    Raises :class:`WikiError` when the wiki does not answer, :class:`FarmError` when the browser does
    not work, and :class:`MachineError` when none is installed.
    """
    browser.require()
    address = session.site_info(lab).address
    visits = browser.at_home(lab, {"page-wiki": address}, MARKS)
    (page,) = visits.pages
    return Outcome(
        value=visits,
        subject=address,
        summary=f"{visits.browser} shows {quoted(page.heading or 'nothing')} at {address}.",
        checks=(shown_check(page),),
    )


def shown_check(page: Page) -> Check:
    """Checks that the page was shown to a reader without a login. Pure."""
    login = page.marks.get("login", "")
    link = f"the link {quoted(login)}" if login else "no link to log in"
    return Check(
        name="wiki.shown",
        expected="status 200, with a heading, and a link to log in",
        seen=page.error or f"status {page.status}, {quoted(page.heading)}, {link}{page.unreadable}",
        holds=page.status == 200 and bool(page.heading) and bool(login) and not page.boxes,
        rows=("E1",),
        again=f"{browser.PROGRAM} {page.url}",
    )
