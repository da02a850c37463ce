"""Calls of MediaWiki's action API: what is asked, what is changed, and the errors of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from labkit import reading
from labkit.errors import WikiError
from labkit.wiki.client.refusals import SessionEndedError, refusal

if TYPE_CHECKING:
    import mwclient


def query(site: mwclient.Site, titles: list[str]) -> Mapping[str, Any]:
    """Pages, files and a token at once."""
    with asking(titles[0]):
        answer = site.post(
            "query", titles="|".join(titles), prop="revisions|imageinfo|info", meta="tokens",
            rvprop="ids|timestamp|user|content", rvslots="main", iiprop="size", redirects=1,
            formatversion=2,
        )["query"]  # fmt: skip
        site.tokens["csrf"] = answer["tokens"]["csrftoken"]
    return dict(answer)


def write(
    site: mwclient.Site,
    what: str,
    action: str,
    words: Mapping[str, Any],
    *,
    file: bytes | None = None,
) -> Mapping[str, Any]:
    """A request that changes something, as the session's account: a late session logs in before, one
    that has ended is renewed once."""
    if getattr(site, "late", False):
        site.log_in()
    renewable = getattr(site, "renew", None) is not None
    while True:
        token = ""
        try:
            with asking(what):
                token = site.get_token("csrf")
                given = {
                    **words, "action": action, "format": "json", "formatversion": 2,
                    "assertuser": site.username, "token": token,
                }  # fmt: skip
                sent = {"file": ("picture", file)} if file is not None else None
                answer = reading.parsed(site.raw_call("api", given, files=sent))
                site.handle_api_result(answer)
                return dict(answer)
        except SessionEndedError:
            if not renewable:
                raise
        with site.renewing:
            if site.tokens.get("csrf") in (token, None):  # and no other thread has done so
                site.renew()
        renewable = False  # once


def landed(answer: Mapping[str, Any], title: str) -> str:
    """The title that a title comes to in an answer, normalised and along redirects."""
    for item in answer.get("normalized", ()):
        title = item["to"] if item["from"] == title else title
    moved = {item["from"]: item["to"] for item in answer.get("redirects", ())}
    for _ in moved:
        title = moved.get(title, title)
    return title


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turns what mwclient raises into labkit's errors; no token is in their text or their context."""
    from mwclient.errors import APIError, MwClientError

    wrong: WikiError | None = None
    try:
        yield
    except APIError as error:
        wrong = refusal(what, str(error.code), str(error.info))
    except (MwClientError, AttributeError, KeyError, ValueError, IndexError, TypeError) as error:
        wrong = WikiError(
            what, f"the wiki's answer cannot be read: {type(error).__name__}", code="wiki.answer"
        )
    if wrong is not None:
        raise wrong
