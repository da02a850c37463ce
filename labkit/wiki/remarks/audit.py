"""The audit of the report's page: has labkit ever taken away a line that a person wrote?

Every revision of the page is read, and of every page that it was moved to. Where the bot saved, all
people's lines of the revision before must be there; what the wiki's own merge dropped in that edit
counts as taken away by the bot. A line that came back since, whoever brought it, is not gone.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.checks import Check
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client import api, session
from labkit.wiki.publish import pristine, publishing
from labkit.wiki.remarks import listing, reading
from labkit.wiki.remarks import trail as trails
from labkit.wiki.remarks.ledger import Ledger, Loss
from labkit.wiki.remarks.listing import Vanished
from labkit.wiki.remarks.trail import Trail

if TYPE_CHECKING:
    import mwclient

#: Pages that are followed from move to move, at most.
MOVES = 20


class Audit(Record):
    """What an audit looked at (``saved``: revisions by the ``bot``; ``hidden``: those that the wiki's
    owners have hidden), and what it found: lines that the bot took away, and remarks that others than their
    writers deleted or rewrote (``vanished``)."""

    pages: tuple[str, ...]
    bot: str
    revisions: int
    saved: int
    hidden: int
    lost: tuple[Loss, ...]
    vanished: tuple[Vanished, ...] = ()


@action("remarks.audit")
def audit(lab: Lab) -> Outcome[Audit]:
    """Whether every line that a person ever wrote on the report's page is there, or was removed by a
    person; the wiki is asked and not changed. Raises :class:`WikiError` when it does not answer."""
    site = session.open(lab)
    with closing(site.connection):
        found = walk(site, lab.wiki.page, folder=reading.folder(lab))
        address = publishing.url(site, found.pages[0])
    gone = sum(loss.times for loss in found.lost)
    hidden = f" ({found.hidden} hidden)" if found.hidden else ""
    where = (
        f"in {counted(found.revisions, 'revision')}{hidden}, {found.saved} of them by {found.bot}"
    )
    check = Check(
        name="remarks.audit", expected="no line of a person's taken away by labkit",
        seen=f"{gone or 'none'} taken away {where}", holds=not gone,
        again=f"{address}?action=history",
    )  # fmt: skip
    return Outcome(
        value=found,
        subject=address,
        summary=f"labkit has taken away {gone or 'none'} of the lines that people wrote on "
        f"{', '.join(found.pages)}, {where}.{listing.gone(found.vanished)}",
        checks=(check,),
        tables=tuple(t for t in (table(found), listing.vanished(found.vanished)) if t.rows),
    )


def walk(site: mwclient.Site, page: str, *, folder: Path) -> Audit:
    """The audit of a page and of all pages that it was moved to, by a session of the bot's."""
    written = pristine.Written(site, page, folder / "pristine")
    bot, ledgers = session.account(site), {}
    gone: list[Vanished] = []
    for title in titles(site, page):
        ledgers[title], trail = Ledger(title, bot, written.pristine), Trail(bot=bot)
        for revision in api.history(site, title, limit=pristine.EVERY, oldest=True):
            ledgers[title].add(revision)
            trail = trails.advance(trail, revision, written.pristine)
        gone += reading.vanished(trail)
    every = ledgers.values()
    return Audit(
        pages=tuple(ledgers), bot=bot, vanished=tuple(gone),
        revisions=sum(one.revisions for one in every), saved=sum(one.saved for one in every),
        hidden=sum(one.hidden for one in every),
        lost=tuple(loss for one in every for loss in one.lost),
    )  # fmt: skip


def titles(site: mwclient.Site, page: str) -> tuple[str, ...]:
    """Where the page is now, then all pages that ever stood at one of its names and were moved on: a
    page takes its history along, and another may have been made in its place since."""
    found = list(dict.fromkeys([api.read(site, page).title, page]))
    for title in found:  # grows meanwhile
        more = api.moves(site, title) if len(found) < MOVES else ()
        found += [name for name in dict.fromkeys(more) if name not in found]
    return tuple(found)


def table(found: Audit) -> Table:
    """The lines that the bot took away."""
    rows: list[dict[str, Cell]] = [
        {
            "line": loss.line,
            "written by": loss.author,
            "taken away in revision": str(loss.revision),
            "on (UTC)": f"{loss.time:%Y-%m-%d %H:%M}" if loss.time else None,
            "times": loss.times,
            "page": loss.page,
        }
        for loss in found.lost
    ]
    return Table.of("lost", "Lines of people's that labkit took away", rows)
