"""Questions to a server that is told to read its configuration again, or to open its logs anew."""

from __future__ import annotations

import http.client
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

from labkit.core.files import write_atomically
from labkit.display import counted
from labkit.errors import CommandError, FarmError
from labkit.farm.containers import container, written
from labkit.farm.network.netns import inside
from labkit.farm.study import web
from labkit.farm.study.serving import RELOAD
from labkit.farm.study.stand import Stand

REREAD = "the new configuration is served, and no request failed meanwhile"
ROTATED = "the new access log has the next request, the new error log the server's start"

LOGS: tuple[written.Kind, ...] = ("access", "error")
#: What the server writes when it goes on after a reload (AH00489: "... configured -- resuming ...").
STARTED = "configured"


def reread(stand: Stand) -> str:
    """``apachectl graceful`` in the container, while requests go on; whether what it then serves is new."""
    web.first(stand)
    word = f"read-again-{secrets.token_hex(3)}"
    with ThreadPoolExecutor(1) as pool:
        done = threading.Event()
        load = pool.submit(inside, stand.replica.netns, _load, done)
        try:
            write_atomically(stand.conf / "reload.conf", f'ErrorDocument 404 "{word}"\n')
            _apachectl(stand)
            seen = web.until(lambda: web.ask(stand, web.CHANGING).body == word)
        finally:
            done.set()
        failed, asked = load.result()
    if not seen:
        return "the old configuration is still served"
    return (
        f"{failed} of {counted(asked, 'request')} failed meanwhile"
        if failed or not asked
        else REREAD
    )


def rotated(stand: Stand) -> str:
    """Whether the logs are begun anew after they were renamed, as a rotation does it."""
    web.first(stand)
    trace = f"rotation-{secrets.token_hex(4)}"
    if not web.until(lambda: all(_text(stand, kind) for kind in LOGS)):
        return f"nothing in the {' or the '.join(k for k in LOGS if not _text(stand, k))} log"
    for kind in LOGS:
        log = stand.log(kind)
        log.rename(log.with_suffix(".old"))
    stand.signal(RELOAD)
    if not web.until(lambda: bool(web.ask(stand, trace=trace)) and trace in _text(stand, "access")):
        return "nothing in the new access log"
    if not web.until(lambda: STARTED in _text(stand, "error")):
        return "nothing in the new error log"
    return ROTATED


def _apachectl(stand: Stand) -> None:
    try:
        container.execute(stand.lab, stand.replica.name, "apachectl", "graceful")
    except CommandError as error:
        said = " ".join(error.reason.split())
        raise FarmError("apachectl graceful", said, again=error.again, code="farm.reload") from None


def _load(done: threading.Event) -> tuple[int, int]:
    """Requests one after the other until ``done``: how many failed, and how many there were."""
    failed = asked = 0
    while not done.is_set():
        asked += 1
        try:
            failed += web.fetch("/").status != 200
        except (OSError, http.client.HTTPException):
            failed += 1
    return failed, asked


def _text(stand: Stand, kind: written.Kind) -> str:
    log = stand.log(kind)
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
