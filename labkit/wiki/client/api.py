"""The few requests of MediaWiki's action API that publishing needs, and their errors.

An edit names the revision that it was made from (``baserevid``), or that there must be none
(``createonly``), and the account that it must be made by (``assertuser``). ``basetimestamp`` has a
resolution of one second and loses what is saved within it; ``section`` and ``append`` meet another
page than the one that was read. So none of the three is ever sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field

from labkit.errors import WikiError
from labkit.records import Record
from labkit.wiki.client import calls, whereabouts
from labkit.wiki.client.refusals import ConflictError, refusal, unsaved

if TYPE_CHECKING:
    import mwclient


__all__ = ["ConflictError", "Revision", "Saved", "Snapshot"]
#: Titles that one request may name.
BATCH = 50
#: How often a page that was moved again and again is looked for.
MOVES = 5
#: What a picture of labkit's is called: nothing else is ever uploaded.
PICTURE = re.compile(r"Labkit-[A-Za-z0-9-]{1,60}-[0-9a-f]{16}\.(?:png|jpg)")


class Revision(Record):
    """A revision of a page; its number, its text, who saved it and when.

    ``hidden``: the wiki's owners have hidden the text, which is '' then. ``parent`` is the number of the
    revision before it (0: none).
    """

    number: int
    text: str
    user: str = ""
    time: datetime | None = None
    hidden: bool = False
    parent: int = 0


class Snapshot(Record):
    """A page as it is now: its title (that of where it was moved, or redirects to), its last revision
    (None: no such page), and which of the files that were asked for the wiki has.

    ``deleted`` says who deleted it, when and why; '' when nobody did.
    """

    title: str
    revision: Revision | None
    files: frozenset[str]
    deleted: str = ""


class Saved(Record):
    """What the wiki saved: the new revision's number and the one before it (0 for none)."""

    revision: int
    before: int


def read(site: mwclient.Site, title: str, *, files: Sequence[str] = ()) -> Snapshot:
    """The page as it is now, in one request (and one more for each 50 files); one that is no longer
    under its title is looked for. Raises :class:`WikiError` where it is no page of text."""
    whereabouts.require_name(title)
    found = _read(site, title, files)
    seen, deleted = [found.title], ""
    while found.revision is None and len(seen) <= MOVES:
        with calls.asking(title):
            fate = whereabouts.of(site, found.title)
        deleted = deleted or fate.deleted
        if not fate.target or fate.target in seen:
            return found.model_copy(update={"deleted": deleted})
        found = _read(site, fate.target, files)
        seen.append(found.title)
    return found


def _read(site: mwclient.Site, title: str, files: Sequence[str]) -> Snapshot:
    names = [f"File:{name}" for name in files]
    answer = calls.query(site, [title, *names[: BATCH - 1]])
    pages = {page["title"]: page for page in answer.get("pages", ())}
    real = calls.landed(answer, title)
    if real not in pages:
        raise WikiError(
            title,
            "leads to itself or to another wiki",
            "correct its redirect",
            code="wiki.redirect",
        )
    whereabouts.require_plain(site, title, pages[real])
    have = _files(answer, names[: BATCH - 1])
    for start in range(BATCH - 1, len(names), BATCH):
        more = names[start : start + BATCH]
        have |= _files(calls.query(site, more), more)
    revisions = pages[real].get("revisions")
    return Snapshot(
        title=real,
        revision=_revision(revisions[0]) if revisions else None,
        files=frozenset(name.removeprefix("File:") for name in have),
    )


def text_of(site: mwclient.Site, number: int) -> str:
    """The text of a revision."""
    with calls.asking("the page's history"):
        answer = site.post(
            "query", prop="revisions", revids=number, rvprop="ids|content", rvslots="main",
            formatversion=2,
        )  # fmt: skip
        return _revision(answer["query"]["pages"][0]["revisions"][0]).text


def texts(site: mwclient.Site, numbers: Iterable[int]) -> dict[int, str]:
    """The texts of revisions, 50 a request; those that are hidden or gone are left out."""
    found: dict[int, str] = {}
    wanted = sorted(numbers)
    for start in range(0, len(wanted), BATCH):
        ids = "|".join(str(number) for number in wanted[start : start + BATCH])
        more: Mapping[str, str] = {"continue": ""}
        while more:
            with calls.asking("the page's history"):
                answer = site.post(
                    "query", prop="revisions", rvprop="ids|content", rvslots="main", revids=ids,
                    formatversion=2, **more,
                )  # fmt: skip
            pages = answer["query"].get("pages", ())
            read = [_revision(item) for page in pages for item in page.get("revisions", ())]
            found |= {revision.number: revision.text for revision in read if not revision.hidden}
            more = answer.get("continue", {})
    return found


def history(
    site: mwclient.Site, title: str, *, limit: int = 500, oldest: bool = False, start: int = 0
) -> Iterator[Revision]:
    """The page's revisions with their texts, at most ``limit``, 50 a request and only as needed.

    The last comes first, or with ``oldest`` the first, or the one of number ``start``.
    """
    order: Mapping[str, Any] = {"rvdir": "newer"} if oldest else {}
    order = {**order, "rvstartid": start} if start else order
    more: Mapping[str, str] = {"continue": ""}
    count = 0
    while more and count < limit:
        with calls.asking(title):
            answer = site.post(
                "query", prop="revisions", titles=title, rvprop="ids|timestamp|user|content",
                rvslots="main", rvlimit=min(50, limit - count), formatversion=2, **order, **more,
            )  # fmt: skip
        for item in answer["query"]["pages"][0].get("revisions", ()):
            count += 1
            yield _revision(item)
        more = answer.get("continue", {})


def members(site: mwclient.Site, names: Iterable[str], group: str) -> frozenset[str]:
    """Those of the accounts that are in a group of the wiki's, in one request for each 50."""
    wanted, found = sorted(names), set[str]()
    for start in range(0, len(wanted), BATCH):
        with calls.asking(f"the group {group}"):
            answer = site.post(
                "query", list="users", ususers="|".join(wanted[start : start + BATCH]), usprop="groups",
                formatversion=2,
            )  # fmt: skip
        users = answer["query"]["users"]
        found |= {user["name"] for user in users if group in user.get("groups", ())}
    return frozenset(found)


def moves(site: mwclient.Site, title: str) -> tuple[str, ...]:
    """The titles to which a page of that title was ever moved (API: Logevents), the last first."""
    with calls.asking(title):
        answer = site.post(
            "query", list="logevents", letype="move", letitle=title, leprop="details",
            lelimit=BATCH, formatversion=2,
        )  # fmt: skip
    found = (item.get("params", {}) for item in answer["query"]["logevents"])
    return tuple(item["target_title"] for item in found if "target_title" in item)


def edit(
    site: mwclient.Site, title: str, text: str, *, base: int | None, summary: str
) -> Saved | None:
    """Saves the page's whole text; None when the wiki had that text already.

    :param base: the revision that the text was made from; None when there must be no page yet.
    :raises ConflictError: somebody saved, made or deleted the page since.
    :raises UnansweredError: no reply came; the text may have been saved.
    """
    ground = {"createonly": 1} if base is None else {"baserevid": base, "nocreate": 1}
    words = {"title": title, "text": text, "summary": summary[:480], "bot": 1, **ground}
    answer = calls.write(site, title, "edit", words)["edit"]
    if answer.get("result") != "Success":
        raise unsaved(title, answer)
    if answer.get("nochange"):
        return None
    return Saved(revision=answer["newrevid"], before=answer["oldrevid"])


def upload(site: mwclient.Site, item: Upload) -> bool:
    """The wiki has the picture; returns whether it had to be sent.

    :raises UnansweredError: no reply came; the wiki may have it.
    """
    if not PICTURE.fullmatch(item.name):
        raise WikiError(
            item.name,
            "is no name of a picture of labkit's",
            "report this",
            code="wiki.picture-name",
        )
    words = {
        "filename": item.name, "text": item.text, "comment": "A picture of the report",
        "ignorewarnings": 1,
    }  # fmt: skip
    try:
        answer = calls.write(site, f"File:{item.name}", "upload", words, file=item.data).get(
            "upload", {}
        )
    except WikiError as error:
        if "fileexists" in error.reason:  # its name is the hash of its content: it is the same
            return False
        raise
    if answer.get("result") != "Success":
        raise unsaved(f"File:{item.name}", answer)
    return True


def require_editable(site: mwclient.Site, title: str) -> None:
    """Raises what the wiki would refuse an edit of this page with: a protection, a block, a right that
    the account lacks. A filter of the text's it cannot foresee."""
    with calls.asking(title):
        answer = site.post(
            "query", titles=title, prop="info", intestactions="edit|create",
            intestactionsdetail="full", errorformat="plaintext", formatversion=2,
        )  # fmt: skip
        page = answer["query"]["pages"][0]
    wanted = ("edit", "create") if page.get("missing") else ("edit",)
    for action in wanted:
        for error in page.get("actions", {}).get(action, ()):
            raise refusal(title, str(error["code"]), str(error.get("text", "")))


def parse(site: mwclient.Site, text: str) -> str:
    """The HTML that the wiki makes of a text."""
    with calls.asking("a text"):
        answer = site.post(
            "parse", text=text, contentmodel="wikitext", prop="text", disablelimitreport=1,
            disableeditsection=1, formatversion=2,
        )  # fmt: skip
    return str(answer["parse"]["text"])


def _files(answer: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """Those of the names under which the wiki has a file."""
    there = {page["title"] for page in answer.get("pages", ()) if page.get("imageinfo")}
    return {name for name in names if calls.landed(answer, name) in there}


def _revision(item: Mapping[str, Any]) -> Revision:
    return Revision(
        number=item["revid"],
        text=item.get("slots", {}).get("main", {}).get("content", ""),
        user=item.get("user", ""),
        time=item.get("timestamp"),
        hidden="texthidden" in item.get("slots", {}).get("main", {}),
        parent=item.get("parentid", 0),
    )


class Upload(Record):
    """A picture that a page shows: ``name`` holds the hash of its content, ``text`` describes it."""

    name: str
    text: str
    data: bytes = Field(repr=False)
