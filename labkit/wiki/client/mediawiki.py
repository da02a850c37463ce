"""The adapter for MediaWiki: mwclient's ``Site``, with what it lacks for publishing among people who edit.

:class:`MediaWiki` logs in, edits and uploads by mwclient's own methods. What it overrides or adds, and why:

- ``raw_call``: mwclient retries for hours and its errors hold passwords; here requests go through
  :mod:`labkit.wiki.client.transport`. Everything that writes also names the account that it must be made by
  (``assertuser``, which mwclient never sends: with its cookies lost, a session would edit anonymously) and how far the
  wiki's database may lag behind (``maxlag``).
- ``site_init``: asks for a token together with the account's rights, one request less.
- :meth:`MediaWiki.save` gives ``Page.edit`` the revision that the text was made from (``baserevid``), or that there
  must be none (``createonly``). ``Page.text`` is not called: after it mwclient sends ``basetimestamp``, which has a
  resolution of one second and loses what is saved within it, and it does not tell the revision's number.
- :meth:`MediaWiki.read` and the history ask through ``Site.post``: ``pages[...]`` takes a request for the page,
  one for its text and one for each picture, between which people save.
"""

from __future__ import annotations

import functools
import io
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import mwclient
from mwclient import errors
from mwclient.page import Page

from labkit.errors import WikiError
from labkit.wiki.client import transport
from labkit.wiki.client.protocol import Features, Revision, Saved, SiteInfo, Snapshot, Upload
from labkit.wiki.client.refusals import SessionEndedError, refusal, unsaved

T = TypeVar("T")
#: Titles or revisions that one request may name, and events of a title's log that are looked through.
BATCH = 50
#: How often a page that was moved again and again is looked for.
MOVES = 5
#: The names of labkit's pictures: nothing else is ever uploaded.
PICTURE = re.compile(r"Labkit-[A-Za-z0-9-]{1,60}-[0-9a-f]{16}\.(?:png|jpg)")
#: Namespaces that a page may be moved to and is still published in: articles, users' pages and the
#: project's own pages. A page of any other is the wiki's interface, a template, a file.
PLAIN = (0, 2, 4)
INTERFACE = 8
_ILLEGAL = re.compile(r"[\x00-\x1f\x7f#<>\[\]{|}]")
_CONTENT = {"rvprop": "ids|timestamp|user|content", "rvslots": "main"}


class MediaWiki(mwclient.Site):  # type: ignore[misc]
    """A session with the MediaWiki whose ``api.php`` is at ``url``, the lab's ``own`` or another one; it implements
    :class:`labkit.wiki.client.protocol.Wiki`.

    With ``info``, what the wiki has just said about itself, nothing is asked: the session reads anonymously until
    :meth:`sign_in`. ``renew`` logs in (again), which one of several threads does while it holds ``renewing``.
    """

    def __init__(self, url: str, *, own: bool, bot: str = "", info: SiteInfo | None = None) -> None:
        parts = urlsplit(url)
        self.own, self.bot, self.account = own, bot, ""
        self.late = info is not None
        self.renew: Callable[[], None] | None = None
        self.renewing, self.renewals = threading.Lock(), 0
        self.extensions = info.extensions if info else None
        super().__init__(
            parts.netloc,
            path=parts.path.removesuffix("api.php"),
            scheme=parts.scheme,
            pool=transport.pool(own=own),
            max_retries=0,
            do_init=info is None,
        )
        self.connection.headers["User-Agent"] += f" mwclient/{mwclient.__version__}"
        self.chunk_size = sys.maxsize  # one request for a picture, which is sent again as a whole
        if info:
            self.site, self.namespaces = dict(info.general), dict(info.namespaces)
            self.version = self.version_tuple_from_generator(info.version)
            self.initialized = True

    def site_init(self) -> None:
        """Asks for the wiki's site information once, and after each login for the account, its rights and an edit
        token."""
        if self.initialized:
            answer = self.get("query", meta="userinfo|tokens", uiprop="groups|rights")["query"]
            user = answer["userinfo"]
            self.username, self.groups, self.rights = user["name"], user["groups"], user["rights"]
            self.tokens = {"csrf": answer["tokens"]["csrftoken"]}
        else:
            super().site_init()
        self.account = str(self.username) if self.logged_in else ""

    def raw_call(
        self,
        script: str,
        data: Mapping[str, Any],
        files: Any = None,
        retry_on_error: bool = True,
        http_method: str = "POST",
    ) -> str:
        """Sends a request; returns the reply's JSON text. Raises :class:`WikiError` if there is no readable reply."""
        url = f"{self.scheme}://{self.host}{self.path}{script}{self.ext}"
        if self.account and data.get("action") not in transport.ASKING:
            data = {**data, "assertuser": self.account}
        return transport.call(self.connection, url, data, files=files, method=http_method).text

    # -- the session -----------------------------------------------------------------------------

    @property
    def features(self) -> Features:
        """Optional features of the wiki. The lab's own wiki has all; an existing wiki is asked once."""
        if self.own:
            return Features()
        if self.extensions is None:
            answer = self._query("the wiki's extensions", meta="siteinfo", siprop="extensions")
            self.extensions = tuple(str(item["name"]) for item in answer["extensions"])
        return Features.of(self.extensions)

    @property
    def limits(self) -> tuple[int, int]:
        """The maximum sizes of a page and of a file in bytes, as far as the wiki states them."""
        names = ("maxarticlesize", "maxuploadsize")
        page, file = (int(self.site.get(name, sys.maxsize)) for name in names)
        return page, file

    def sign_in(self) -> bool:
        """Logs in a session that has read anonymously so far; returns whether it had to."""
        with self.renewing:
            late = self.late
            if late and self.renew:
                self.renew()
            self.late = False
        return late

    def close(self) -> None:
        """Ends the session's connections."""
        self.connection.close()

    def url(self, title: str) -> str:
        """Where a browser finds a page."""
        server = str(self.site["server"])
        server = f"{self.scheme}:{server}" if server.startswith("//") else server
        name = quote(title.replace(" ", "_"), safe="/:")
        return server + str(self.site["articlepath"]).replace("$1", name)

    # -- reading ---------------------------------------------------------------------------------

    def read(self, title: str, *, files: Sequence[str] = ()) -> Snapshot:
        """The page as it is now, in one request (and one more for each 50 files); one that is no longer
        under its title is looked for. Raises :class:`WikiError` where it is not a page of text."""
        if not title.strip(" _:") or _ILLEGAL.search(title):  # Manual: $wgLegalTitleChars
            raise _no_name(title)
        found = self._read(title, files)
        seen, deleted = [found.title], ""
        while found.revision is None and len(seen) <= MOVES:
            target, gone = fate(self._log(found.title))
            deleted = deleted or gone
            if not target or target in seen:
                return found.model_copy(update={"deleted": deleted})
            found = self._read(target, files)
            seen.append(found.title)
        return found

    def history(
        self, title: str, *, limit: int = 500, oldest: bool = False, start: int = 0
    ) -> Iterator[Revision]:
        """The page's revisions with their texts, at most ``limit``, 50 a request and only as needed.

        The last comes first, or with ``oldest`` the first, or the one of number ``start``.
        """
        order: dict[str, Any] = {"rvdir": "newer"} if oldest else {}
        order |= {"rvstartid": start} if start else {}
        size = min(BATCH, limit)
        for answer in self._parts(title, limit, titles=title, **_CONTENT, **order, rvlimit=size):
            for item in answer["pages"][0].get("revisions", ())[:limit]:
                limit -= 1
                yield _revision(item)

    def texts(self, numbers: Iterable[int]) -> dict[int, str]:
        """The texts of revisions, 50 a request; those that are hidden or gone are left out."""
        found: dict[int, str] = {}
        for some in _batches(sorted(numbers)):
            for answer in self._parts("the page's history", sys.maxsize, revids=some, **_CONTENT):
                pages = answer.get("pages", ())
                read = [_revision(item) for page in pages for item in page.get("revisions", ())]
                found |= {item.number: item.text for item in read if not item.hidden}
        return found

    def moves(self, title: str) -> tuple[str, ...]:
        """The titles to which a page of that title was ever moved, the last first."""
        found = (item.get("params", {}) for item in self._log(title, letype="move"))
        return tuple(item["target_title"] for item in found if "target_title" in item)

    def members(self, names: Iterable[str], group: str) -> frozenset[str]:
        """Those of the accounts that are in a group of the wiki, in one request for each 50."""
        found = set[str]()
        for some in _batches(sorted(names)):
            answer = self._query(f"the group {group}", list="users", ususers=some, usprop="groups")
            found |= {user["name"] for user in answer["users"] if group in user.get("groups", ())}
        return frozenset(found)

    def require_editable(self, title: str) -> None:
        """Raises the error with which the wiki would refuse an edit of this page: a protection, a block, a right that
        the account lacks. A filter of texts it cannot foresee."""
        answer = self._query(
            title, titles=title, prop="info", intestactions="edit|create",
            intestactionsdetail="full", errorformat="plaintext",
        )  # fmt: skip
        page = answer["pages"][0]
        for action in ("edit", "create") if page.get("missing") else ("edit",):
            for error in page.get("actions", {}).get(action, ()):
                raise refusal(title, str(error["code"]), str(error.get("text", "")))

    # -- writing ---------------------------------------------------------------------------------

    def save(self, title: str, text: str, *, base: int | None, summary: str) -> Saved | None:
        """Saves the page's whole text; None when the wiki had that text already.

        :param base: the revision that the text was made from; None when there must be no page yet.
        :raises ConflictError: somebody saved, made or deleted the page since.
        :raises UnansweredError: no reply came; the text may have been saved.
        """
        ground = {"createonly": 1} if base is None else {"baserevid": base, "nocreate": 1}
        page = Page(self, title, info={"title": title})  # nothing is asked: the base is known
        self.blocked = False  # a block may be of other pages: the wiki decides, not mwclient
        answer = self._write(
            title, lambda: page.edit(text, summary[:480], bot=True, formatversion=2, **ground)
        )
        if answer.get("result") != "Success":
            raise unsaved(title, answer)
        if answer.get("nochange"):
            return None
        return Saved(revision=answer["newrevid"], before=answer["oldrevid"])

    def send(self, item: Upload) -> bool:
        """Uploads the picture unless the wiki has it; returns whether it was uploaded.

        :raises UnansweredError: no reply came; the wiki may have it.
        """
        what = f"File:{item.name}"
        if not PICTURE.fullmatch(item.name):
            reason = "is not the name of a picture of labkit"
            raise WikiError(item.name, reason, "report this", code="wiki.picture-name")
        try:
            answer = self._write(
                what,
                lambda: self.upload(
                    io.BytesIO(item.data), item.name, item.text, ignore=True, comment="A picture of the report"
                ),
            )  # fmt: skip
        except WikiError as error:
            if "fileexists" in error.reason:  # its name is the hash of its content: it is the same
                return False
            raise
        if answer.get("result") != "Success":
            raise unsaved(what, answer)
        return True

    # -- requests --------------------------------------------------------------------------------

    def _write(self, what: str, once: Callable[[], T]) -> T:
        """Calls ``once`` as the session's account and returns its value. Renews an ended session once."""
        self.sign_in()
        renewals = self.renewals
        try:
            return asked(what, once)
        except SessionEndedError:
            if self.renew is None:
                raise
        with self.renewing:
            if self.renewals == renewals:  # and no other thread has renewed it
                self.renew()
                self.renewals += 1
        return asked(what, once)

    def _query(self, what: str, **words: Any) -> Any:
        """The answer to a query."""
        return asked(what, lambda: self.post("query", formatversion=2, **words)["query"])

    def _parts(self, what: str, most: int, **words: Any) -> Iterator[Any]:
        """The answers to a query for revisions, part by part."""
        more: Mapping[str, str] = {"continue": ""}
        while more and most > 0:
            given = {"prop": "revisions", "formatversion": 2, **words, **more}
            answer = asked(what, functools.partial(self.post, "query", **given))
            yield answer["query"]
            more, most = answer.get("continue", {}), most - BATCH

    def _log(self, title: str, **words: Any) -> Any:
        """The events of a title's log, the last first (API: Logevents)."""
        fields = "type|user|timestamp|comment|details"
        return self._query(title, list="logevents", letitle=title, leprop=fields, lelimit=BATCH, **words)["logevents"]  # fmt: skip

    def _pages(self, titles: Sequence[str]) -> Any:
        """Pages, files and a token at once."""
        answer = self._query(
            titles[0], titles="|".join(titles), prop="revisions|imageinfo|info", meta="tokens",
            iiprop="size", redirects=1, **_CONTENT,
        )  # fmt: skip
        self.tokens["csrf"] = answer["tokens"]["csrftoken"]
        return answer

    def _read(self, title: str, files: Sequence[str]) -> Snapshot:
        names = [f"File:{name}" for name in files]
        answer = self._pages([title, *names[: BATCH - 1]])
        pages = {page["title"]: page for page in answer.get("pages", ())}
        real = _landed(answer, title)
        if real not in pages:
            reason = "leads to itself or to another wiki"
            raise WikiError(title, reason, "correct its redirect", code="wiki.redirect")
        self._require_plain(title, pages[real])
        have = _files(answer, names[: BATCH - 1])
        for start in range(BATCH - 1, len(names), BATCH):
            more = names[start : start + BATCH]
            have |= _files(self._pages(more), more)
        revisions = pages[real].get("revisions")
        return Snapshot(
            title=real,
            revision=_revision(revisions[0]) if revisions else None,
            files=frozenset(name.removeprefix("File:") for name in have),
        )

    def _require_plain(self, title: str, found: Mapping[str, Any]) -> None:
        """Raises :class:`WikiError` for a page of a kind that labkit does not edit; ``found`` is the API's
        description of the page that ``title`` leads to."""
        if found.get("invalid") or found.get("special"):
            raise _no_name(title)
        real, model = str(found["title"]), found.get("contentmodel", "wikitext")
        code, remedy = "wiki.page-kind", "name another page in wiki.page"
        if model != "wikitext" or found["ns"] == INTERFACE:
            raise WikiError(real, f"is not a page of text ({model})", remedy, code=code)
        prefix = title.partition(":")[0].replace("_", " ").casefold()
        named = (n for n, name in self.namespaces.items() if name and name.casefold() == prefix)
        if found["ns"] not in (*PLAIN, next(named, 0)):
            remedy = f"let its redirect lead to a page of text, or {remedy}"
            raise WikiError(title, f"leads to {real}, which cannot be the report's page", remedy, code=code)  # fmt: skip


def fate(events: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """The title that a page was moved to, and who deleted it when and why ('' for neither), from the events of its
    title, the last first. Pure.

    A page that was moved leaves a redirect or nothing; either way the log of its old title says where it went.
    """
    deleted = ""
    for event in events:
        kind, action = event.get("type"), event.get("action")
        target = str(event.get("params", {}).get("target_title", ""))
        if kind == "move" and target:
            return target, ""
        if kind == "delete" and action in ("delete", "delete_redir", "delete_redir2"):
            deleted = deleted or _deletion(event)
        elif kind == "create" or action == "restore":
            break  # earlier events are of another page
    return "", deleted


def asked(what: str, once: Callable[[], T]) -> T:
    """Calls ``once`` and returns its value. Turns mwclient's exceptions into labkit's errors, without a token in text
    or context."""
    try:
        return once()
    except (errors.APIError, errors.ProtectedPageError) as error:
        wrong = refusal(what, str(error.code or "permissiondenied"), str(error.info or error))
    except errors.InsufficientPermission:
        wrong = refusal(what, "permissiondenied", "the account lacks the right to upload")
    except errors.AssertUserFailedError:
        wrong = refusal(what, "assertuserfailed", "")
    except errors.EditError as error:  # of a conflict, or of an answer that is a failure
        said = error.args[-1]
        wrong = (
            unsaved(what, said)
            if isinstance(said, Mapping)
            else refusal(what, "editconflict", str(said))
        )
    except (errors.MwClientError, AttributeError, KeyError, ValueError, IndexError, TypeError) as e:
        reason = f"the wiki's answer cannot be read: {type(e).__name__}"
        wrong = WikiError(what, reason, code="wiki.answer")
    raise wrong  # here, where what mwclient raised is not its context


def _no_name(title: str) -> WikiError:
    """The error for a title that is not the name of one page."""
    return WikiError(title, "is not a page's name", "correct wiki.page", code="wiki.page-name")


def _batches(items: Sequence[object]) -> Iterator[str]:
    """The items in batches for one request each, joined by ``|``."""
    for start in range(0, len(items), BATCH):
        yield "|".join(str(item) for item in items[start : start + BATCH])


def _landed(answer: Mapping[str, Any], title: str) -> str:
    """The title after normalisation and redirects, from an answer."""
    for item in answer.get("normalized", ()):
        title = item["to"] if item["from"] == title else title
    moved = {item["from"]: item["to"] for item in answer.get("redirects", ())}
    for _ in moved:
        title = moved.get(title, title)
    return title


def _files(answer: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """The names under which the wiki has a file."""
    there = {page["title"] for page in answer.get("pages", ()) if page.get("imageinfo")}
    return {name for name in names if _landed(answer, name) in there}


def _revision(item: Mapping[str, Any]) -> Revision:
    main = item.get("slots", {}).get("main", {})
    return Revision(
        number=item["revid"],
        text=main.get("content", ""),
        user=item.get("user", ""),
        time=item.get("timestamp"),
        hidden="texthidden" in main,
        parent=item.get("parentid", 0),
    )


def _deletion(event: Mapping[str, Any]) -> str:
    who = event.get("user", "somebody")
    said = " ".join(str(event.get("comment", "")).split())
    why = f" ({said[:60]}{'…' if len(said) > 60 else ''})" if said else ""
    when = f" on {event['timestamp'][:10]}" if event.get("timestamp") else ""
    return f"by {who}{when}{why}"
