"""The wiki as a stranger sees it: its main page in a browser that nobody has logged in with."""

from __future__ import annotations

from labkit.checks import Check
from labkit.core.result import Outcome, action
from labkit.display import quoted
from labkit.farm.services import browser
from labkit.farm.services.browsing import Page, Visits
from labkit.model.lab import Lab
from labkit.wiki import server

#: The link that MediaWiki's skins show to who is not logged in.
MARKS = {"login": "[id^=pt-login] a"}


@action("wiki.shown")
def main_page(lab: Lab) -> Outcome[Visits]:
    """What Chromium shows of the wiki's main page, with a screenshot (``figures/page-wiki.png``).

    Raises :class:`WikiError` when the wiki does not answer, :class:`FarmError` when the browser does
    not work, and :class:`MachineError` when none is installed.
    """
    browser.require()
    address = server.describe(lab).address
    visits = browser.at_home(lab, {"page-wiki": address}, MARKS)
    (page,) = visits.pages
    return Outcome(
        value=visits,
        subject=address,
        summary=f"{visits.browser} shows {quoted(page.heading or 'nothing')} at {address}.",
        checks=(check(page),),
    )


def check(page: Page) -> Check:
    """Whether the page was shown, and to a stranger. Pure."""
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
