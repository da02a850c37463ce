"""One request at a time, bounded: in time, in tries, and in what an error may tell.

mwclient, left to itself, sends a request again for hours and sleeps as long as a reply's ``Retry-After``
says; what it raises holds the request, and with it the password or token. Here

- a request that only asks is sent at most :data:`TRIES` times; one that writes is sent once, for its
  reply may be lost after the wiki has acted: who sent it looks (:class:`UnansweredError`);
- a reply that says that nothing was done (too often, too much lag) is waited for, :data:`LONGEST_WAIT`
  seconds at most;
- no redirect is followed, so that no password leaves for another address;
- an error has no cause and no context, and names neither the request's words nor its headers.
"""

from __future__ import annotations

import itertools
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mwclient
import requests

import labkit
from labkit import reading
from labkit.display import curl
from labkit.errors import WikiError
from labkit.wiki.client import ask
from labkit.wiki.client.ask import SiteInfo
from labkit.wiki.client.refusals import LATER, BusyError, UnansweredError

#: How often a request is sent that only asks, or that the wiki did not act upon.
TRIES = 3
#: The same where the wiki answers that its database fails: SQLite has one writer at a time.
BUSY_TRIES = 6
#: Seconds for the connection and between two bytes of a reply, and for a whole reply.
TIMEOUT, PATIENCE = (5.0, 60.0), 120.0
#: Seconds between two tries: the first, and the most that a reply may ask for.
PAUSE, LONGEST_WAIT = 0.5, 10.0
#: Seconds that a replica of the wiki's database may lag behind when something is written.
LAG = 5
#: What the API is asked for without anything being changed.
ASKING = ("query", "parse", "compare", "login", "clientlogin")
_SILENT = "the wiki does not answer"
_REMEDY = (
    "see that it is up (the lab's own: run the stage 01-wiki), then publish again: what was saved is "
    "whole, the rest follows"
)
_ADDRESS = "correct wiki.url: the full address, which ends in /api.php"


@dataclass(frozen=True)
class Fault:
    """Why a request has no good reply: in words, with a remedy. ``wait`` is how long the wiki wants to be
    left alone (seconds), ``undone`` that it did not act; ``tries`` how often it is worth trying, ``busy``
    that it may well be another time."""

    reason: str
    remedy: str = _REMEDY
    wait: float = 0.0
    undone: bool = False
    tries: int = TRIES
    busy: bool = False


class Session(mwclient.Site):  # type: ignore[misc]
    """A session with the wiki whose ``api.php`` is at ``url``, the lab's ``own`` or another one.

    ``renew`` logs in again when it has ended; who does so holds ``renewing``. Several threads may write.
    A ``late`` one looks around as a stranger until it is to write. ``bot`` is the account by which labkit
    publishes, whoever's session it is. With ``info``, what the wiki said of
    itself just now, it is not asked for that again.
    """

    def __init__(self, url: str, *, own: bool, info: SiteInfo | None = None) -> None:
        parts = urlsplit(url)
        self.own = own
        self.late = False
        self.bot = ""
        self.renew: Callable[[], None] | None = None
        self.renewing = threading.Lock()
        self.extensions = info.extensions if info else None
        super().__init__(
            parts.netloc,
            path=parts.path.removesuffix("api.php"),
            scheme=parts.scheme,
            pool=_pool(own=own),
            max_retries=0,
            do_init=info is None,
        )
        if info:
            self._learn(info)

    def log_in(self) -> None:
        """A late session is logged in from now on; raises :class:`WikiError` when the wiki refuses."""
        with self.renewing:
            if self.late and self.renew:
                self.renew()
                self.late = False

    def site_init(self) -> None:
        """What the wiki is, once; after each login as whom, what that one may do, and a token to write
        with, in one request."""
        if not self.initialized:
            super().site_init()
            return
        answer = self.get("query", meta="userinfo|tokens", uiprop="groups|rights")["query"]
        self.username, self.groups = answer["userinfo"]["name"], answer["userinfo"]["groups"]
        self.rights = answer["userinfo"]["rights"]
        self.tokens = {"csrf": answer["tokens"]["csrftoken"]}

    def _learn(self, info: SiteInfo) -> None:
        """Takes over what mwclient would ask for first (its ``site_init``), in mwclient's words."""
        said = {
            "server": info.server,
            "articlepath": info.articlepath,
            "maxarticlesize": info.largest_page,
            "maxuploadsize": info.largest_file,
            "readonly": info.readonly or None,
            "readonlyreason": info.readonly,
        }
        self.site = {name: value for name, value in said.items() if value is not None}
        self.namespaces = dict(info.namespaces)
        self.version = self.version_tuple_from_generator(info.version)
        self.initialized = True

    def raw_call(
        self,
        script: str,
        data: Mapping[str, Any],
        files: Any = None,
        retry_on_error: bool = True,
        http_method: str = "POST",
    ) -> str:
        """The reply's text, JSON; raises :class:`WikiError` when there is none, or none that can be read."""
        url = f"{self.scheme}://{self.host}{self.path}{script}{self.ext}"
        asks = data.get("action") in ASKING
        given = dict(data) if asks else {**data, "maxlag": LAG}
        for attempt in itertools.count(1):
            said, fault = self._send(http_method, url, given, files)
            if fault is None:
                return said
            wait = max(fault.wait, PAUSE * (attempt - 1))
            hopeless = wait > LONGEST_WAIT or not (asks or fault.undone)
            if attempt < fault.tries and not hopeless:
                time.sleep(wait)
            elif said:  # the wiki's own refusal, which says more
                return said
            else:
                silence = BusyError if fault.busy else UnansweredError
                kind = WikiError if asks or fault.undone else silence
                raise kind(url, fault.reason, fault.remedy, curl(url, options="--include"))
        raise AssertionError  # the tries have an end

    def _send(
        self, method: str, url: str, data: Mapping[str, Any], files: Any
    ) -> tuple[str, Fault | None]:
        """One request: its reply's text, and what is wrong with it."""
        given = {"params" if method == "GET" else "data": data, "files": files, "timeout": TIMEOUT}
        pool = self.connection
        try:
            with pool.request(
                method, url, allow_redirects=False, stream=True, verify=pool.verify, **given
            ) as reply:
                return _judged(reply, _text(reply))
        except requests.RequestException as error:
            return "", _fault(error)


def authorities() -> str | bool:
    """Who vouches for an https wiki: the machine's own store (or ``SSL_CERT_FILE``), else certifi's."""
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath) if paths.capath else None
    return paths.cafile or (str(folder) if folder and any(folder.iterdir()) else True)


def _pool(*, own: bool) -> requests.Session:
    pool = requests.Session()
    pool.trust_env = not own
    pool.verify = authorities()
    pool.headers["User-Agent"] = f"labkit/{labkit.__version__} mwclient/{mwclient.__version__}"
    return pool


def _text(reply: requests.Response) -> str:
    """The whole reply; raises a timeout when it drips in for too long, and an error when it is too large."""
    until, size = time.monotonic() + PATIENCE, 0
    parts = []
    for part in reply.iter_content(1 << 16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > until:
            raise requests.ReadTimeout
        if size > reading.MOST:
            raise requests.exceptions.ContentDecodingError(f"more than {reading.MOST} bytes")
    return b"".join(parts).decode("utf-8", errors="replace")


def _judged(reply: requests.Response, text: str) -> tuple[str, Fault | None]:
    """A reply's text, if the wiki itself wrote it, and what is wrong with it."""
    status, wait = reply.status_code, _seconds(reply.headers.get("Retry-After", ""))
    code = _code(text)
    if code in LATER:
        return text, Fault(f"{code}", wait=wait, undone=True, tries=TRIES if wait else 1)
    if code is not None and code.startswith("internal_api_error_DB"):
        said = f"{_SILENT}: its database fails, or is busy ({code})"
        return "", Fault(said, tries=BUSY_TRIES, busy=True)
    if code is not None and (code or status == 200):
        return text, None
    if 300 <= status < 400:
        place = urlsplit(reply.headers.get("Location", ""))
        elsewhere = f"{place.scheme}://{place.hostname}{place.path}"
        said = f"the wiki sends on to {elsewhere}"
        return "", Fault(said, "let wiki.url be that address", tries=1)
    if status in (200, 429) or status >= 500:
        said = f"HTTP status {status}" if status != 200 else "its answer is no JSON"
        return "", Fault(f"{_SILENT}: {said}", wait=wait, undone=status == 429)
    return "", Fault(f"no MediaWiki answers there: HTTP status {status}", _ADDRESS, tries=1)


def _code(text: str) -> str | None:
    """The code of the error in an answer of the API's, '' for none; None when it is no such answer, or one that
    would harm its reader: mwclient parses the text again."""
    try:
        answer = reading.parsed(text)
        return str(answer["error"]["code"]) if "error" in answer else "" if answer else None
    except (ValueError, KeyError, TypeError):
        return None


def _seconds(header: str) -> float:
    """A ``Retry-After`` in seconds (RFC 9110: a number, or a date)."""
    if header.isascii() and header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _fault(error: requests.RequestException) -> Fault:
    """What a failed request tells; nothing of the request itself."""
    if isinstance(error, requests.exceptions.SSLError):
        return Fault(ask.distrust(_plainly(error)), ask.TRUST, tries=1, undone=True)
    if isinstance(error, requests.ReadTimeout):
        return Fault(f"{_SILENT}: no word within {TIMEOUT[1]:g} s", tries=2)
    refused = "NewConnectionError" in repr(getattr(error, "args", ""))
    return Fault(
        f"{_SILENT}: {_plainly(error)}",
        undone=refused or isinstance(error, requests.ConnectTimeout),
    )


def _plainly(error: BaseException) -> str:
    """The innermost reason of a connection that failed (``Connection refused``)."""
    inner: BaseException | None = error
    while inner is not None:
        error = inner
        inside = (*error.args, getattr(error, "reason", None))
        inner = next((item for item in inside if isinstance(item, BaseException)), None)
    last = str(error).rpartition(": ")[2] if "SSL" not in str(error) else str(error)
    return last.rpartition("] ")[2].strip() or type(error).__name__
