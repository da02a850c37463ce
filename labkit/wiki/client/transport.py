"""HTTP requests to a wiki, bounded: in time, in tries, in size, and in what an error may tell.

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
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

import labkit
from labkit import reading
from labkit.display import curl
from labkit.errors import WikiError
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
_FINISH = "; what was saved is whole: publish again, and the rest follows"
#: What to do about a certificate that cannot be verified.
_TRUST = (
    "have the machine trust who issued it (Debian: put that authority's certificate into "
    "/usr/local/share/ca-certificates and call update-ca-certificates), or export SSL_CERT_FILE with it"
)


@dataclass(frozen=True)
class Fault:
    """Why a request failed. ``wait``: seconds until the wiki accepts a retry; ``undone``: the request had no effect;
    ``tries``: the maximum number of attempts; ``busy``: the cause is temporary."""

    reason: str
    code: str = "wiki.down"
    remedy: str = ""
    wait: float = 0.0
    undone: bool = False
    tries: int = TRIES
    busy: bool = False


@dataclass(frozen=True)
class Reply:
    """The text of a reply and its headers; without text, ``fault`` gives the reason."""

    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Fault | None = None


def pool(*, own: bool) -> requests.Session:
    """A connection pool for a wiki; the environment's proxy is not used for the lab's ``own`` wiki on loopback."""
    made = requests.Session()
    made.trust_env = not own
    made.verify = authorities()
    made.headers["User-Agent"] = f"labkit/{labkit.__version__}"
    return made


def authorities() -> str | bool:
    """The certificate authorities: the machine's store (or ``SSL_CERT_FILE``), else certifi's."""
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath) if paths.capath else None
    return paths.cafile or (str(folder) if folder and any(folder.iterdir()) else True)


def call(
    connections: requests.Session,
    url: str,
    data: Mapping[str, Any],
    *,
    files: Any = None,
    method: str = "POST",
    most: int = BUSY_TRIES,
) -> Reply:
    """The reply of ``api.php`` at ``url``, whose text is JSON; raises :class:`WikiError` when there is none.

    :param data: the words of the request; :param most: how often it is sent, at most.
    """
    asks = data.get("action") in ASKING
    given = dict(data) if asks else {**data, "maxlag": LAG}
    for attempt in itertools.count(1):
        reply = _sent(connections, method, url, given, files)
        fault = reply.fault
        if fault is None:
            return reply
        wait = max(fault.wait, PAUSE * (attempt - 1))
        hopeless = wait > LONGEST_WAIT or not (asks or fault.undone)
        if attempt < min(fault.tries, most) and not hopeless:
            time.sleep(wait)
        elif reply.text:  # the wiki's own refusal, which says more
            return reply
        else:
            raise _error(url, fault, own=not connections.trust_env, surely=asks or fault.undone)
    raise AssertionError  # the tries have an end


def not_a_wiki(url: str, seen: str, *, own: bool) -> WikiError:
    """The error for an address at which another server than MediaWiki answers."""
    remedy = (
        "the wiki's logs say why; then run the stage 01-wiki"
        if own
        else "correct wiki.url: the full address, which ends in /api.php"
    )
    reason, again = f"no MediaWiki answers there: {seen}", curl(url, options="--include")
    return WikiError(url, reason, remedy, again, code="wiki.not-a-wiki")


def _error(url: str, fault: Fault, *, own: bool, surely: bool = True) -> WikiError:
    """The error for a request without a good reply; ``surely``: the wiki has changed nothing for it."""
    down = (
        "bring it up: run the stage 01-wiki"
        if own
        else "see that this wiki is up and that wiki.url names it"
    )
    remedy, again = fault.remedy or down, curl(url, options="--include")
    if surely:
        return WikiError(url, fault.reason, remedy, again, code=fault.code)
    kind = BusyError if fault.busy else UnansweredError
    return kind(url, fault.reason, remedy + _FINISH, again)


def _sent(
    connections: requests.Session, method: str, url: str, data: Mapping[str, Any], files: Any
) -> Reply:
    """Sends one request; returns the reply, or its fault."""
    given = {"params" if method == "GET" else "data": data, "files": files, "timeout": TIMEOUT}
    verify = connections.verify
    try:
        with connections.request(
            method, url, allow_redirects=False, stream=True, verify=verify, **given
        ) as reply:
            return _judged(reply, _text(reply), own=not connections.trust_env)
    except requests.RequestException as error:
        return Reply(fault=_fault(error))


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


def _judged(reply: requests.Response, text: str, *, own: bool) -> Reply:
    """Examines a reply: its text if the wiki itself wrote it, and its fault."""
    status, wait = reply.status_code, _seconds(reply.headers.get("Retry-After", ""))
    code = _code(text)
    if code in LATER:
        return Reply(
            text, fault=Fault(f"{code}", wait=wait, undone=True, tries=TRIES if wait else 1)
        )
    if code is not None and code.startswith("internal_api_error_DB"):
        said = f"{_SILENT}: its database fails, or is busy ({code})"
        return Reply(fault=Fault(said, tries=BUSY_TRIES, busy=True))
    if code is not None and (code or status == 200):
        return Reply(text, reply.headers)
    if 300 <= status < 400:
        place = urlsplit(reply.headers.get("Location", ""))
        said = f"the wiki sends on to {place.scheme}://{place.hostname}{place.path}"
        return Reply(fault=Fault(said, remedy="let wiki.url be that address", tries=1))
    if status in (200, 429) or status >= 500:
        said = f"HTTP status {status}" if status != 200 else "its answer is not JSON"
        return Reply(fault=Fault(f"{_SILENT}: {said}", wait=wait, undone=status == 429))
    wrong = not_a_wiki("", f"HTTP status {status}", own=own)
    return Reply(fault=Fault(wrong.reason, wrong.code, wrong.remedy, tries=1))


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
    """The fault of a failed request, without any part of the request."""
    if isinstance(error, requests.exceptions.SSLError):
        pattern = r"\[SSL[^\]]*\] |certificate verify failed: |\s*\(_ssl\.c:\d+\)"
        said = f"its certificate cannot be verified: {re.sub(pattern, '', _plainly(error))}"
        return Fault(said, "wiki.certificate", _TRUST, tries=1, undone=True)
    if isinstance(error, requests.ReadTimeout):
        return Fault(f"{_SILENT}: no word within {TIMEOUT[1]:g} s", tries=2)
    refused = "NewConnectionError" in repr(getattr(error, "args", ""))
    undone = refused or isinstance(error, requests.ConnectTimeout)
    return Fault(f"{_SILENT}: {_plainly(error)}", undone=undone)


def _plainly(error: BaseException) -> str:
    """The innermost reason of a failed connection (``Connection refused``)."""
    inner: BaseException | None = error
    while inner is not None:
        error = inner
        inside = (*error.args, getattr(error, "reason", None))
        inner = next((item for item in inside if isinstance(item, BaseException)), None)
    last = str(error).rpartition(": ")[2] if "SSL" not in str(error) else str(error)
    return last.rpartition("] ")[2].strip() or type(error).__name__
