"""The adapter for MediaWiki: what it sends of an edit and an upload, and what it makes of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from labkit.errors import WikiError
from labkit.wiki.client import transport
from labkit.wiki.client.mediawiki import MediaWiki
from labkit.wiki.client.protocol import Saved, Upload, Wiki
from labkit.wiki.client.refusals import ConflictError, SessionEndedError
from tests.servers import served

GENERAL = {"generator": "MediaWiki 1.39.17", "server": "http://w", "articlepath": "/wiki/$1"}
PAGE = {"ns": 0, "title": "A page", "contentmodel": "wikitext"}
REVISION = {
    "revid": 7, "parentid": 6, "user": "Teacher", "timestamp": "2026-01-02T03:04:05Z",
    "slots": {"main": {"content": "one\ntwo"}},
}  # fmt: skip


class Api(ThreadingHTTPServer):
    """An api.php that logs everybody in, has one page, and answers an edit or upload as it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.words: list[dict[str, str]] = []
        self.answers: list[dict[str, Any]] = []
        self.user: dict[str, Any] = {"id": 0, "name": "127.0.0.1", "anon": ""}

    def answer(self, words: dict[str, str]) -> dict[str, Any]:
        """What it says to a request."""
        self.words.append(words)
        if words["action"] == "login":
            self.user = {"id": 1, "name": "Labkit"}
            return {"login": {"result": "Success"}}
        if words["action"] != "query":
            return self.answers.pop(0)
        user = {**self.user, "groups": [], "rights": ["read", "edit", "upload"]}
        found: dict[str, Any] = {"userinfo": user, "tokens": {"csrftoken": "t", "logintoken": "l"}}
        if "siteinfo" in words.get("meta", ""):
            names = {"0": {"id": 0, "*": ""}, "6": {"id": 6, "*": "File"}}
            found |= {"general": GENERAL, "namespaces": names}
        missing = {"-1": {"ns": 6, "title": words.get("titles", ""), "missing": ""}}
        second = words.get("formatversion") == "2"
        return {
            "query": {**found, "pages": [{**PAGE, "revisions": [REVISION]}] if second else missing}
        }


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        self._say(urlsplit(self.path).query)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"])).decode(errors="replace")
        parts = data.split('form-data; name="')[1:] if "form-data" in data else []
        fields = (part.split('"\r\n\r\n') for part in parts if '"\r\n\r\n' in part)
        self._say({name: value.split("\r\n")[0] for name, value in fields} if parts else data)

    def _say(self, words: str | dict[str, str]) -> None:
        given = {k: v[0] for k, v in parse_qs(words).items()} if isinstance(words, str) else words
        body = json.dumps(self.server.answer(given)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def api() -> Iterator[Api]:
    """Such a server."""
    with served(Api()) as server:
        yield server


@pytest.fixture
def wiki(api: Api) -> Iterator[MediaWiki]:
    """A session with it, logged in."""
    made = MediaWiki(f"http://127.0.0.1:{api.server_address[1]}/w/api.php", own=True, bot="Labkit")
    made.renew = lambda: made.login("Labkit@publish", "secret")
    assert made.account == ""
    made.renew()
    yield made
    made.close()


def edit(wiki: Wiki, base: int | None = 7) -> Saved | None:
    """An edit of the page, through the protocol."""
    return wiki.save("A page", "new", base=base, summary="s")


@pytest.mark.parametrize(
    ("base", "ground"), [(7, {"baserevid": "7", "nocreate": "1"}), (None, {"createonly": "1"})]
)
def test_an_edit_names_its_base_and_its_account(
    api: Api, wiki: MediaWiki, base: int | None, ground: dict[str, str]
) -> None:
    """And nothing by which the wiki could lose what another one saves meanwhile."""
    api.answers = [{"edit": {"result": "Success", "oldrevid": 7, "newrevid": 9}}]
    assert edit(wiki, base) == Saved(revision=9, before=7)
    sent = api.words[-1]
    assert (
        sent.items()
        >= {"assertuser": "Labkit", "maxlag": str(transport.LAG), "token": "t", **ground}.items()
    )
    assert sent.keys().isdisjoint({"basetimestamp", "starttimestamp", "section", "appendtext"})
    api.answers = [{"edit": {"result": "Success", "nochange": True}}]
    assert edit(wiki, base) is None  # the wiki had that text


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (
            {"error": {"code": "editconflict", "info": "x"}},
            ConflictError,
            "saved by another person",
        ),
        (
            {"error": {"code": "articleexists", "info": "x"}},
            ConflictError,
            "saved by another person",
        ),
        ({"error": {"code": "protectedpage", "info": "x"}}, WikiError, "the page is protected"),
        ({"edit": {"result": "Failure", "captcha": {}}}, WikiError, "the wiki asks for a captcha"),
        ({"error": {"code": "internal_api_error_DBQueryError", "info": "x"}}, WikiError, "is busy"),
        ({"edit": []}, WikiError, "cannot be read"),
        ({}, WikiError, "its answer is not JSON"),
    ],
)
def test_each_refusal_is_an_error_of_its_own(
    api: Api, wiki: MediaWiki, answer: dict[str, Any], kind: type[WikiError], said: str
) -> None:
    """Whatever mwclient raises for it; neither password nor token is in it."""
    api.answers = [answer]
    with pytest.raises(kind, match=said) as caught:
        edit(wiki)
    assert caught.value.__context__ is None


def test_a_session_that_has_ended_is_renewed_once(api: Api, wiki: MediaWiki) -> None:
    """The edit is made then; when it ends again, that is an error."""
    ended = {"error": {"code": "assertnameduserfailed", "info": "x"}}
    api.answers = [ended, {"edit": {"result": "Success", "oldrevid": 7, "newrevid": 9}}]
    assert edit(wiki)
    api.answers = [ended, ended]
    with pytest.raises(SessionEndedError):
        edit(wiki)
    assert [words["action"] for words in api.words].count("login") == 3


def test_a_session_without_its_cookies_does_not_edit(api: Api, wiki: MediaWiki) -> None:
    """What the wiki takes for an anonymous reader logs in before it sends an edit."""
    api.user = {"id": 0, "name": "127.0.0.1", "anon": ""}
    assert wiki.read("A page").revision
    api.answers = [{"edit": {"result": "Success", "oldrevid": 7, "newrevid": 9}}]
    assert edit(wiki)
    assert [words["action"] for words in api.words[-4:]] == ["query", "login", "query", "edit"]


def test_a_picture_is_sent_under_the_account_and_once(api: Api, wiki: MediaWiki) -> None:
    """One that the wiki has is not sent anew; a name that is not labkit's is never sent."""
    item = Upload(name=f"Labkit-x-{'0' * 16}.png", text="a pixel", data=b"x" * 2_000_000)
    api.answers = [
        {"upload": {"result": "Success"}},
        {"error": {"code": "fileexists-no-change", "info": "x"}},
    ]
    assert wiki.send(item)
    assert (
        api.words[-1].items()
        >= {"assertuser": "Labkit", "filename": item.name, "text": "a pixel"}.items()
    )
    assert not wiki.send(item)
    with pytest.raises(WikiError, match="not the name of a picture"):
        wiki.send(item.model_copy(update={"name": "Logo.png"}))


def test_a_page_is_read_with_its_revision(wiki: MediaWiki) -> None:
    """Text and number come from one answer."""
    revision = wiki.read("A page").revision
    assert revision is not None
    assert (revision.number, revision.text, revision.user) == (7, "one\ntwo", "Teacher")
    assert wiki.texts([7]) == {7: "one\ntwo"}
    assert wiki.url("A page/b") == "http://w/wiki/A_page/b"
