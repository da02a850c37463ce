"""Questions to a server that is told to stop: whether it finishes what it has begun, and how it ends."""

from __future__ import annotations

import contextvars
import http.client
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

from labkit import cancellation
from labkit.core import run
from labkit.errors import FarmError, excerpt
from labkit.farm.containers import runc, trial
from labkit.farm.network.netns import inside
from labkit.farm.study import given, web
from labkit.farm.study.serving import STOP
from labkit.farm.study.stand import Stand

#: How long a container may live that is started to be stopped (seconds).
LIFE = 20.0
STOPPED = "the answer under way came whole, later requests are refused, exit status 0"
TERMINATED = "exit status 0"


def stopped(stand: Stand) -> str:
    """Apache's graceful stop while it sends a long answer (stopping.html of its manual)."""
    with _foreground(stand) as ended:
        whole, refused = inside(stand.replica.netns, _interrupted, lambda: stand.signal(STOP))
        status = ended.result().status
    said = (
        f"the answer under way came {'whole' if whole else 'cut off'}",
        f"later requests are {'refused' if refused else 'answered'}",
        f"exit status {status}",
    )
    return ", ".join(said)


def terminated(stand: Stand) -> str:
    """What a container's runtime sends by default."""
    with _foreground(stand) as ended:
        stand.signal("TERM")
        return f"exit status {ended.result().status}"


@contextmanager
def _foreground(stand: Stand) -> Iterator[Future[run.Done]]:
    """The container's server answers; its end is the future's."""
    with ThreadPoolExecutor(1) as pool:
        work = partial(trial.foreground, stand.lab, stand.replica.name, LIFE)
        ended = pool.submit(contextvars.copy_context().run, work)
        try:
            _wait(stand, ended)
            yield ended
        except BaseException:
            if not ended.done():
                words = runc.command(stand.lab, "kill", stand.replica.name, "KILL")
                run.run(words, ok=range(256))
            raise


def _wait(stand: Stand, ended: Future[run.Done]) -> None:
    """Returns when the server answers; :class:`FarmError` when it has ended or is silent."""
    deadline = time.monotonic() + web.PATIENCE
    while time.monotonic() < deadline and not ended.done():
        with suppress(OSError, http.client.HTTPException):
            web.ask(stand)
            return
        cancellation.pause(web.PAUSE)
    if not ended.done():
        raise FarmError(
            stand.replica.name,
            f"no answer on port 80 within {web.PATIENCE:g} s",
            code="farm.replica-silent",
        )
    done = ended.result()
    said = excerpt(" ".join((done.stderr or done.stdout).split())) or stand.last_words()
    raise FarmError(
        stand.replica.name, f"has ended (status {done.status}): {said}", code="farm.container-died"
    )


def _interrupted(interrupt: Callable[[], None]) -> tuple[bool, bool]:
    """Whether a long answer comes whole whose sender is told to stop meanwhile; whether it then refuses
    other requests."""
    with socket.socket() as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        channel.settimeout(web.PATIENCE)
        channel.connect(("127.0.0.1", 80))
        channel.sendall(f"GET {given.LARGE} HTTP/1.0\r\n\r\n".encode())
        answer = http.client.HTTPResponse(channel)
        answer.begin()
        received = len(answer.read(1000))
        interrupt()
        refused = _refuses()
        while part := answer.read1(2**20):
            received += len(part)
    return received == given.LARGE_SIZE, refused


def _refuses() -> bool:
    """Whether connections are refused within the patience."""
    deadline = time.monotonic() + web.PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", 80), timeout=1).close()
        except ConnectionRefusedError:
            return True
        time.sleep(web.PAUSE)
    return False
