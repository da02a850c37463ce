"""The load generator: threads on the host's side that send requests, each with a trace."""

from __future__ import annotations

import http.client
import select
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import KW_ONLY, dataclass, field
from itertools import count
from typing import NamedTuple

import pandas

from labkit import cancellation
from labkit.farm.services import fetch
from labkit.farm.services.fetch import Target
from labkit.kernel.netns import enter
from labkit.model.lab import Lab
from labkit.model.sites import TRACE_HEADER

#: How long an answer may take, in seconds: longer than the balancer waits for two replicas.
PATIENCE = 25.0
#: What a POST brings.
BODY = "words=labkit"


class Sent(NamedTuple):
    """One request: which replica answered ('' for none), with which status (0: no answer).

    ``start`` counts seconds from the beginning of the load, to the moment at which the request was to be sent;
    ``took`` from then until the answer's end; ``error`` says why there is no answer.
    """

    number: int
    replica: str
    status: int
    start: float
    took: float
    method: str = "GET"
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether a person would have seen something else than the page."""
        return self.status != 200


def frame(sent: Iterable[Sent]) -> pandas.DataFrame:
    """One row a request, in the order of their numbers: the fields of :class:`Sent`, and whether it ``failed``."""
    requests = pandas.DataFrame(sent, columns=Sent._fields).sort_values("number", ignore_index=True)
    return requests.assign(failed=requests["status"] != 200)


@dataclass
class Load:
    """A load on one target: ``concurrency`` threads that send until the numbers or the time end.

    ``pace`` is the least time between two starts in seconds (0: as fast as it goes), ``limit`` the most seconds
    of the whole load. Each thread has one connection that it keeps (``kept``), or one for each request. It
    follows no redirection and sends nothing twice. Whatever is sent is in ``sent`` as soon as it has ended, in
    the order of the ends.
    """

    lab: Lab
    target: Target
    trace: str
    _: KW_ONLY
    concurrency: int
    requests: int | None = None
    pace: float = 0.0
    limit: float = 60.0
    method: str = "GET"
    kept: bool = False
    sent: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self._numbers = count() if self.requests is None else iter(range(self.requests))
        self._turn = threading.Lock()
        self._stopped = threading.Event()

    def run(self) -> tuple[Sent, ...]:
        """Sends until the end; returns all, in the order of their numbers."""
        self.began = time.monotonic()
        with (
            cancellation.ended_by(self.stop),
            ThreadPoolExecutor(self.concurrency) as pool,
            ExitStack() as interrupted,
        ):
            interrupted.callback(self.stop)
            for work in [pool.submit(self._work) for _ in range(self.concurrency)]:
                work.result()
        return tuple(sorted(self.sent, key=lambda item: item.number))

    def stop(self) -> None:
        """No request is begun any more; :meth:`run` returns when the last one has ended."""
        self._stopped.set()

    def wait(self, seconds: float) -> None:
        """Lets the load go on for so long, or until it is stopped, which an interrupt does."""
        with cancellation.ended_by(self.stop):
            self._stopped.wait(seconds)

    def now(self) -> float:
        """Seconds since the beginning of the load."""
        return time.monotonic() - self.began

    def _work(self) -> None:
        enter(self.lab.netns)
        with closing(fetch.connection(self.target, PATIENCE)) as channel:
            for number in iter(self._next, None):
                self.sent.append(self._send(number, channel))

    def _next(self) -> int | None:
        """The number of the next request, when it is its time; None at the end."""
        with self._turn:
            if self.now() > self.limit:
                self._stopped.set()
            number = None if self._stopped.is_set() else next(self._numbers, None)
        if number is not None and self.pace:
            self._stopped.wait(max(0.0, number * self.pace - self.now()))
        return number

    def _send(self, number: int, channel: http.client.HTTPConnection) -> Sent:
        start, error = min(self.now(), number * self.pace) if self.pace else self.now(), ""
        headers = {TRACE_HEADER: f"{self.trace}-{number}"}
        if not self.kept:
            headers["Connection"] = "close"
        body = BODY if self.method == "POST" else None
        replica, status = "", 0
        if not self.kept or _ended(channel):
            channel.close()
        try:
            reply = fetch.answered(channel, self.target, self.method, headers=headers, body=body)
            replica, status = reply.replica, reply.status
        except fetch.ERRORS as problem:
            channel.close()
            error = fetch.reason(problem)
        return Sent(
            number=number,
            replica=replica,
            status=status,
            start=round(start, 6),
            took=round(self.now() - start, 6),
            method=self.method,
            error=error,
        )


def _ended(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed an idle connection: then the next request needs another one."""
    poll = select.poll()
    if connection.sock is None:
        return False
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
