"""Questions to a server's pages: what it serves, and what it says when it cannot."""

from __future__ import annotations

import html
import http.client
import re
import time
from collections.abc import Callable
from contextlib import suppress

from labkit import cancellation
from labkit.display import quoted
from labkit.errors import FarmError
from labkit.farm.network.netns import inside
from labkit.farm.study import given
from labkit.farm.study.stand import Stand
from labkit.model.sites import REPLICA_HEADER, TRACE_HEADER
from labkit.records import Record

#: How long a server may take to begin to answer, or to do what it was told (seconds).
PATIENCE = 10.0
#: Between two looks (seconds).
PAUSE = 0.02
#: Pages that no site has: one that stays so, and one whose error is told anew after a reload.
NOWHERE, CHANGING = "/survival/nowhere", "/survival/changing"


class Reply(Record):
    """What a server answered."""

    status: int
    replica: str
    body: str

    @property
    def title(self) -> str:
        """The page's title."""
        found = re.search(r"<title>(.*?)</title>", self.body, re.DOTALL)
        return html.unescape(found[1]).strip() if found else ""


def ask(stand: Stand, path: str = "/", *, address: str = "127.0.0.1", trace: str = "") -> Reply:
    """The answer to one request over a connection of its own, from within the container's network."""
    return inside(stand.replica.netns, fetch, path, address, trace)


def fetch(path: str, address: str = "127.0.0.1", trace: str = "") -> Reply:
    """The same from where the caller is; raises OSError or HTTPException when there is none."""
    connection = http.client.HTTPConnection(address, 80, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Connection": "close", TRACE_HEADER: trace or "-"})
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        return Reply(status=answer.status, replica=answer.getheader(REPLICA_HEADER, ""), body=body)
    finally:
        connection.close()


def first(stand: Stand) -> Reply:
    """The answer of a server that may just have begun; :class:`FarmError` when it ends or is silent."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            return ask(stand)
        stand.require()
        cancellation.pause(PAUSE)
    raise FarmError(
        stand.replica.name,
        f"no answer on port 80 within {PATIENCE:g} s",
        code="farm.replica-silent",
    )


def until(holds: Callable[[], bool]) -> bool:
    """Whether it holds within the patience."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            return False
        cancellation.pause(PAUSE)
    return True


def page(stand: Stand) -> str:
    """The site's page, in which mod_include has put the replica's name, and the header with that name."""
    reply = first(stand)
    shown = f'id="replica">{stand.replica.name}<' in reply.body
    return f"{reply.status} {quoted(reply.title)}, header {reply.replica}, {'its' if shown else 'no'} name in it"


def page_expected(stand: Stand) -> str:
    """What :func:`page` says of a server that does its job."""
    title = stand.lab.title(stand.lab.site(stand.trial.site))
    return f"200 {quoted(title)}, header {stand.replica.name}, its name in it"


def not_found(stand: Stand) -> str:
    """The server's answer for a page that is not there."""
    return _error(stand, NOWHERE)


def failing(stand: Stand) -> str:
    """The server's answer where it cannot work: the folder's own configuration is none."""
    return _error(stand, given.BROKEN)


def _error(stand: Stand, path: str) -> str:
    first(stand)
    said = ask(stand, path).title
    return f"{said}, and then {ask(stand).status}"


def named(stand: Stand, by: str) -> str:
    """What is served at the address that a virtual host's name stands for."""
    first(stand)
    reply = ask(stand, given.NAMED, address=given.NAMES[by])
    name = given.host_name(stand.lab, by)
    known = (reply.status, reply.body) == (200, f"{by}\n")
    return f"{name} {'is' if known else 'is not'} resolved"
