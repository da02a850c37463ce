"""Asking a wiki without an account, quickly: with nothing but the standard library."""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any
from urllib.parse import urlencode

from pydantic import Field

import labkit
from labkit import reading
from labkit.display import curl
from labkit.errors import WikiError
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client.folders import Folders, api_url

#: The reply header in which the lab's own web server names its configuration.
MARK = "X-Labkit-Configuration"
#: Seconds for a reply; the first one after a start fills PHP's caches.
TIMEOUT = 30.0


#: What to do about a certificate that nobody vouches for.
TRUST = (
    "have the machine trust who issued it (Debian: put that authority's certificate into "
    "/usr/local/share/ca-certificates and call update-ca-certificates), or export SSL_CERT_FILE with it"
)


@dataclass(frozen=True)
class Reply:
    """An HTTP reply."""

    status: int
    body: bytes
    headers: Message


class SiteInfo(Record):
    """What a wiki says of itself; ``readonly`` is the reason why nothing can be saved, '' if it can;
    ``mark`` names the configuration that the lab's own runs with; sizes in bytes, None where it says
    none. A ``private`` wiki tells a stranger nothing of this."""

    name: str = ""
    version: str = "MediaWiki (private)"
    address: str
    uploads: bool = True
    readonly: str = ""
    mark: str = ""
    server: str = ""
    articlepath: str = ""
    largest_page: int | None = None
    largest_file: int | None = None
    namespaces: dict[int, str] = Field(default_factory=dict)
    extensions: tuple[str, ...] = ()
    private: bool = False


def site_info(lab: Lab) -> SiteInfo:
    """What the lab's wiki says of itself (API: Siteinfo); :class:`WikiError` when it does not answer."""
    wanted = "general|namespaces|extensions"
    reply = call(lab, {"action": "query", "meta": "siteinfo", "siprop": wanted})
    answer = parsed(reply)
    try:
        if answer.get("error", {}).get("code") == "readapidenied":
            return SiteInfo(address=api_url(lab), private=True)
        return _described(answer["query"], reply.headers.get(MARK, ""))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise not_a_wiki(lab, "its answer has no site information") from None


def _described(said: Mapping[str, Any], mark: str) -> SiteInfo:
    general = said["general"]
    return SiteInfo(
        name=general["sitename"],
        version=general["generator"],
        address=general["base"],
        uploads=bool(general["uploadsenabled"]),
        readonly=(general.get("readonlyreason") or "no reason given")
        if general["readonly"]
        else "",
        mark=mark,
        server=general["server"],
        articlepath=general["articlepath"],
        largest_page=general.get("maxarticlesize"),
        largest_file=general.get("maxuploadsize"),
        namespaces={item["id"]: item["name"] for item in said["namespaces"].values()},
        extensions=tuple(item["name"] for item in said["extensions"]),
    )


def query(lab: Lab, parameters: Mapping[str, str], *, post: bool = False, cookie: str = "") -> Any:
    """The API's answer to an anonymous request, an error of the wiki's own included."""
    return parsed(call(lab, parameters, post=post, cookie=cookie))


def parsed(reply: Reply) -> Any:
    """The JSON of a reply that :func:`call` returned: an object."""
    answer = reading.parsed(reply.body)
    if not isinstance(answer, dict):
        raise ValueError("no object")
    return answer


def call(lab: Lab, parameters: Mapping[str, str], *, post: bool = False, cookie: str = "") -> Reply:
    """The API's reply, in JSON; :class:`WikiError` when it is none."""
    url = api_url(lab)
    words = urlencode({**parameters, "format": "json", "formatversion": "2"})
    address, data = (url, words) if post else (f"{url}?{words}", None)
    reply = fetch(lab, address, data=data, cookie=cookie)
    if reply.status != 200:
        raise not_a_wiki(lab, f"HTTP status {reply.status}")
    try:
        parsed(reply)
    except ValueError:
        raise not_a_wiki(lab, "its answer is no JSON") from None
    return reply


def fetch(lab: Lab, url: str, *, data: str | None = None, cookie: str = "") -> Reply:
    """What an address answers, whatever its status; :class:`WikiError` when nobody does.

    The lab's own wiki is on loopback: no proxy of the environment is asked for it.
    """
    proxies = [] if lab.wiki.url else [urllib.request.ProxyHandler({})]
    headers = {
        "User-Agent": f"labkit/{labkit.__version__}",
        **({"Cookie": cookie} if cookie else {}),
    }
    request = urllib.request.Request(  # noqa: S310 - the configuration allows http(s) alone
        url, data.encode() if data is not None else None, headers
    )
    try:
        with urllib.request.build_opener(*proxies).open(request, timeout=TIMEOUT) as reply:
            return Reply(reply.status, _body(reply), reply.headers)
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, _body(error), error.headers)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, ssl.SSLError):
            raise WikiError(
                url, distrust(str(reason)), TRUST, curl(url), code="wiki.certificate"
            ) from None
        raise down(lab, url, str(reason)) from None


def _body(reply: IO[bytes]) -> bytes:
    """The reply's body, and no more of it than an answer may have."""
    return reply.read(reading.MOST + 1)


def distrust(said: str) -> str:
    """Why an https wiki is not talked to, from OpenSSL's words."""
    inner = re.sub(r"\[SSL[^\]]*\] |certificate verify failed: |\s*\(_ssl\.c:\d+\)", "", said)
    return f"its certificate cannot be verified: {inner or said}"


def not_a_wiki(lab: Lab, seen: str) -> WikiError:
    """The error for an address at which no MediaWiki answers."""
    url = api_url(lab)
    remedy = (
        "correct wiki.url: the full address, which ends in /api.php"
        if lab.wiki.url
        else f"the logs in {Folders.of(lab).logs} say why; then run the stage 01-wiki"
    )
    return WikiError(
        url,
        f"no MediaWiki answers there: {seen}",
        remedy,
        curl(url, options="--include"),
        code="wiki.not-a-wiki",
    )


def down(lab: Lab, url: str, reason: str) -> WikiError:
    """The error for a wiki that does not answer."""
    remedy = (
        "see that this wiki is up and that wiki.url names it"
        if lab.wiki.url
        else "bring it up: run the stage 01-wiki"
    )
    return WikiError(
        url, f"the wiki does not answer: {reason}", remedy, curl(url), code="wiki.down"
    )
