"""The few requests of MediaWiki's action API that publishing needs, and their errors.

An edit names the revision that it was made from (``baserevid``), or that there must be none
(``createonly``), and the account that it must be made by (``assertuser``). ``basetimestamp`` has a
resolution of one second and loses what is saved within it; ``section`` and ``append`` meet another
page than the one that was read. So none of the three is ever sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from labkit.errors import WikiError
from labkit.result import Record

if TYPE_CHECKING:
    import mwclient

    from labkit.wiki.notebook import Upload

#: Refusals after which the page is read again and the edit made anew.
CONFLICTS = ("editconflict", "articleexists", "missingtitle", "pagedeleted")
#: Titles that one request may name.
BATCH = 50
#: What the wiki's refusals mean, and what to do.
_REFUSALS = {
    "assertuserfailed": ("the session has ended", "publish again"),
    "assertnameduserfailed": ("the session is another account's", "publish again"),
    "assertanonfailed": ("the session is another account's", "publish again"),
    "badtoken": ("the session has ended", "publish again"),
    "readonly": ("the wiki is read-only now", "publish again when it is not"),
    "protectedpage": ("the page is protected", "let the bot's account edit it, or unprotect it"),
    "cascadeprotected": ("the page is protected", "let the bot's account edit it"),
    "permissiondenied": ("the bot's account may not do that", "grant its bot password that right"),
    "blocked": ("the bot's account is blocked", "unblock it"),
    "ratelimited": ("the wiki limits how often the bot may write", "publish again in a minute"),
    "maxlag": ("the wiki's database lags behind", "publish again in a minute"),
    "contenttoobig": ("the page is larger than the wiki allows", "show shorter outputs"),
    "abusefilter-disallowed": ("an abuse filter of the wiki refuses the text", "exempt the bot"),
    "spamblacklist": ("the wiki refuses an address in the text", "exempt the bot"),
}


class ConflictError(WikiError):
    """Somebody saved the page in between: it has to be read again."""


class Revision(Record):
    """A revision of a page; its number, its text, who saved it and when.

    ``hidden``: the wiki's owners have hidden the text, which is '' then.
    """

    number: int
    text: str
    user: str = ""
    time: datetime | None = None
    hidden: bool = False


class Snapshot(Record):
    """A page as it is now: its title (after a redirect, the target's), its last revision (None: no
    such page), and which of the files that were asked for the wiki has."""

    title: str
    revision: Revision | None
    files: frozenset[str]


class Saved(Record):
    """What the wiki saved: the new revision's number and the one before it (0 for none)."""

    revision: int
    before: int


def read(site: mwclient.Site, title: str, *, files: Sequence[str] = ()) -> Snapshot:
    """The page as it is now, in one request (and one more for each 50 files)."""
    answer = _query(site, [title, *(f"File:{name}" for name in files[: BATCH - 1])])
    names = {item["from"]: item["to"] for item in answer.get("normalized", ())}
    moved = {item["from"]: item["to"] for item in answer.get("redirects", ())}
    real = names.get(title, title)
    real = moved.get(real, real)
    pages = {page["title"]: page for page in answer["pages"]}
    have = _files(answer)
    for start in range(BATCH - 1, len(files), BATCH):
        have |= _files(_query(site, [f"File:{name}" for name in files[start : start + BATCH]]))
    if pages[real].get("invalid"):
        raise WikiError(title, "is no page's name on this wiki", "correct wiki.page")
    revisions = pages[real].get("revisions")
    return Snapshot(
        title=real,
        revision=_revision(revisions[0]) if revisions else None,
        files=frozenset(name for name in files if _same_file(name) in have),
    )


def text_of(site: mwclient.Site, number: int) -> str:
    """The text of a revision."""
    with _asking("the page's history"):
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
            with _asking("the page's history"):
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
        with _asking(title):
            answer = site.post(
                "query", prop="revisions", titles=title, rvprop="ids|timestamp|user|content",
                rvslots="main", rvlimit=min(50, limit - count), formatversion=2, **order, **more,
            )  # fmt: skip
        for item in answer["query"]["pages"][0].get("revisions", ()):
            count += 1
            yield _revision(item)
        more = answer.get("continue", {})


def moves(site: mwclient.Site, title: str) -> tuple[str, ...]:
    """The titles to which a page of that title was ever moved (API: Logevents), the last first."""
    with _asking(title):
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
    """
    ground = {"createonly": 1} if base is None else {"baserevid": base, "nocreate": 1}
    with _asking(title):
        answer = site.post(
            "edit", title=title, text=text, summary=summary[:480], bot=1, assertuser=site.username,
            token=site.get_token("csrf"), formatversion=2, **ground,
        )["edit"]  # fmt: skip
    if answer.get("result") != "Success":
        what = "asks for a captcha" if "captcha" in answer else f"answers {_words(answer)}"
        raise WikiError(title, f"was not saved: the wiki {what}", "exempt the bot's account")
    if answer.get("nochange"):
        return None
    return Saved(revision=answer["newrevid"], before=answer["oldrevid"])


def upload(site: mwclient.Site, item: Upload) -> bool:
    """The wiki has the picture; returns whether it had to be sent."""
    words = {
        "action": "upload", "format": "json", "filename": item.name, "text": item.text,
        "comment": "A picture of the report", "ignorewarnings": "1",
        "assertuser": site.username, "token": site.get_token("csrf"),
    }  # fmt: skip
    try:
        with _asking(f"File:{item.name}"):
            reply = site.raw_call("api", words, files={"file": ("picture", item.data)})
            answer = json.loads(reply)
            site.handle_api_result(answer)
    except WikiError as error:
        if "fileexists" in error.reason:  # its name is the hash of its content: it is the same
            return False
        raise
    if answer.get("upload", {}).get("result") != "Success":
        raise WikiError(item.name, f"was not uploaded: {_words(answer)}", "allow the bot to upload")
    return True


def parse(site: mwclient.Site, text: str) -> str:
    """The HTML that the wiki makes of a text."""
    with _asking("a text"):
        answer = site.post(
            "parse", text=text, contentmodel="wikitext", prop="text", disablelimitreport=1,
            disableeditsection=1, formatversion=2,
        )  # fmt: skip
    return str(answer["parse"]["text"])


def _query(site: mwclient.Site, titles: list[str]) -> Mapping[str, Any]:
    """Pages, files and a token at once."""
    with _asking(titles[0]):
        answer = site.post(
            "query", titles="|".join(titles), prop="revisions|imageinfo", meta="tokens",
            rvprop="ids|timestamp|user|content", rvslots="main", iiprop="size", redirects=1,
            formatversion=2,
        )["query"]  # fmt: skip
    site.tokens["csrf"] = answer["tokens"]["csrftoken"]
    return dict(answer)


def _files(answer: Mapping[str, Any]) -> set[str]:
    return {
        _same_file(page["title"].partition(":")[2])
        for page in answer["pages"]
        if page.get("imageinfo")
    }


def _same_file(name: str) -> str:
    return name.replace("_", " ")


def _revision(item: Mapping[str, Any]) -> Revision:
    return Revision(
        number=item["revid"],
        text=item.get("slots", {}).get("main", {}).get("content", ""),
        user=item.get("user", ""),
        time=item.get("timestamp"),
        hidden="texthidden" in item.get("slots", {}).get("main", {}),
    )


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turns what mwclient and requests raise into labkit's errors; no token is in their text."""
    import requests
    from mwclient.errors import APIError, MwClientError

    try:
        yield
    except APIError as error:
        raise refusal(what, str(error.code), str(error.info)) from None
    except MwClientError as error:
        raise WikiError(what, f"the wiki does not answer as one: {type(error).__name__}") from None
    except requests.RequestException as error:
        raise WikiError(
            what,
            f"the wiki does not answer: {type(error).__name__}",
            "bring it up, then publish again: what was saved is whole, the rest follows",
        ) from None
    except (KeyError, ValueError, IndexError) as error:
        raise WikiError(what, f"the wiki's answer cannot be read: {type(error).__name__}") from None


def refusal(what: str, code: str, info: str) -> WikiError:
    """The error for a refusal of the API's, by its code."""
    if code in CONFLICTS:
        return ConflictError(what, f"was saved by somebody else in between ({code})", "publish again")  # fmt: skip
    reason, remedy = _REFUSALS.get(code, ("the wiki refuses", ""))
    return WikiError(what, f"{reason} ({code}: {info})", remedy)


def _words(answer: Mapping[str, Any]) -> str:
    """A refusal's own words, in short."""
    said: Iterable[str] = (f"{name} {value}" for name, value in answer.items() if name != "token")
    return ", ".join(said)[:300]
