"""Where a page went that is no longer under its title. Pure, but for :func:`of`.

A page that was moved leaves a redirect or nothing; either way the log of its old title says where it
went (API: Logevents).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from labkit.errors import WikiError
from labkit.records import Record

if TYPE_CHECKING:
    import mwclient

#: Namespaces that a page may be moved to and is still published in: articles, users' pages and the
#: project's own pages. A page of any other is the wiki's interface, a template, a file.
PLAIN = (0, 2, 4)
INTERFACE = 8
_ILLEGAL = re.compile(r"[\x00-\x1f\x7f#<>\[\]{|}]")
#: Events of a title's log that are looked through, the last first.
EVENTS = 50


class Fate(Record):
    """What became of a page: the title that it was moved to, or who deleted it when ('' for neither)."""

    target: str = ""
    deleted: str = ""


def of(site: mwclient.Site, title: str) -> Fate:
    """What became of the page that had this title."""
    answer = site.post(
        "query", list="logevents", letitle=title, leprop="type|user|timestamp|comment|details",
        lelimit=EVENTS, formatversion=2,
    )  # fmt: skip
    return fate(answer["query"]["logevents"])


def fate(events: Iterable[Mapping[str, Any]]) -> Fate:
    """What became of a page, from the events of its title, the last first."""
    deleted = ""
    for event in events:
        kind, action = event.get("type"), event.get("action")
        target = event.get("params", {}).get("target_title", "")
        if kind == "move" and target:
            return Fate(target=target)
        if kind == "delete" and action in ("delete", "delete_redir", "delete_redir2"):
            deleted = deleted or _deletion(event)
        elif kind == "create" or action == "restore":
            break  # what was before is another page's
    return Fate(deleted=deleted)


def require_name(title: str) -> None:
    """Raises :class:`WikiError` for what is no page's name (Manual: $wgLegalTitleChars), or names
    several pages or a part of one."""
    if not title.strip(" _:") or _ILLEGAL.search(title):
        raise WikiError(title, "is no page's name", "correct wiki.page", code="wiki.page-name")


def require_plain(site: mwclient.Site, title: str, found: Mapping[str, Any]) -> None:
    """Raises :class:`WikiError` for a page that labkit does not write on; ``found`` is what the API says
    of the page that ``title`` leads to."""
    if found.get("invalid") or found.get("special"):
        raise WikiError(
            title, "is no page's name on this wiki", "correct wiki.page", code="wiki.page-name"
        )
    real, model = str(found["title"]), found.get("contentmodel", "wikitext")
    if model != "wikitext" or found["ns"] == INTERFACE:
        raise WikiError(
            real,
            f"is no page of text ({model})",
            "name another page in wiki.page",
            code="wiki.page-kind",
        )
    prefix = title.partition(":")[0].replace("_", " ").casefold()
    home = next((n for n, name in site.namespaces.items() if name.casefold() == prefix and name), 0)
    if found["ns"] not in (*PLAIN, home):
        raise WikiError(
            title, f"leads to {real}, which is no page for a report",
            "let its redirect lead to a page of text, or name another page in wiki.page", code="wiki.page-kind",
        )  # fmt: skip


def _deletion(event: Mapping[str, Any]) -> str:
    who = event.get("user", "somebody")
    said = " ".join(str(event.get("comment", "")).split())
    why = f" ({said[:60]}{'…' if len(said) > 60 else ''})" if said else ""
    when = f" on {event['timestamp'][:10]}" if event.get("timestamp") else ""
    return f"by {who}{when}{why}"
