"""A replica is stopped under load and started again: what the clients notice, and for how long."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from labkit import cancellation
from labkit.core.result import Outcome, action
from labkit.errors import LabkitError
from labkit.farm.containers import container, written
from labkit.farm.reconcile import up
from labkit.farm.services import fetch, proxy, workers
from labkit.farm.traffic import counts, measure, outage
from labkit.farm.traffic.load import Load, Sent
from labkit.farm.traffic.outage import BACK, OUT, Failover, Moments
from labkit.model import sites
from labkit.model.lab import Lab, Replica

#: Seconds between two starts of requests: 400 a second, whatever the concurrency.
PACE = 0.0025


@action("failover.kill")
def kill(
    lab: Lab,
    replica: str | None = None,
    concurrency: int | None = None,
    *,
    method: str = "GET",
    kept: bool = True,
) -> Outcome[Failover]:
    """A replica was killed under load without a warning, and started again: all is as before.

    The load lasts about the Lab's ``traffic.seconds`` and the time that the replica needs to come
    back. The table ``timeline-kill-REPLICA`` has a row for each tenth of a second. Where the
    replica is its site's only one nobody can take over: then the checks are of the outage.

    :param replica: default: the last one of the first site that has several.
    :param concurrency: so many clients at a time; default: the Lab's ``traffic.concurrency``.
    :param method: ``GET``, ``HEAD``, or ``POST``, which no proxy may send twice: one that is lost has to be
        answered with an error.
    :param kept: whether each client keeps its connection, or has one for each request.
    """
    return _exercise(lab, _chosen(lab, replica), concurrency, method, kept, drained=False)


@action("failover.drain")
def drain(
    lab: Lab,
    replica: str | None = None,
    concurrency: int | None = None,
    *,
    method: str = "GET",
    kept: bool = True,
) -> Outcome[Failover]:
    """The same as :func:`kill`, but the balancer was told first, and the replica had become idle."""
    return _exercise(lab, _chosen(lab, replica), concurrency, method, kept, drained=True)


def _chosen(lab: Lab, replica: str | None) -> Replica:
    return lab.replica(replica) if replica else lab.replicas_of(measure.shared(lab))[-1]


def _exercise(
    lab: Lab, replica: Replica, concurrency: int | None, method: str, kept: bool, *, drained: bool
) -> Outcome[Failover]:
    there = fetch.target(lab, replica.site)
    fetch.reach(lab, there)
    threads = lab.traffic.concurrency if concurrency is None else concurrency
    limit = lab.traffic.seconds + 30  # in case that the exercise hangs
    trace = secrets.token_hex(6)
    load = Load(
        lab, there, trace, concurrency=threads, pace=PACE, limit=limit, method=method, kept=kept
    )
    with running(load), _restored(lab, replica, drained):
        moments = _stop_and_start(lab, replica, load, drained)
    sent, unread = logged(lab, load)
    value = outage.value(lab, replica, sent, moments, drained=drained, unread=unread)
    return Outcome(
        value=value,
        subject=replica.name,
        summary=outage.summary(value),
        checks=outage.checks(lab, value),
        tables=(outage.timeline(lab, value, sent), outage.failures(value, sent)),
    )


def logged(lab: Lab, load: Load) -> tuple[list[Sent], int]:
    """What a load that has ended has sent, with what the balancer's and the replicas' logs say of it; and how
    many of the replicas' lines about it are no requests.

    A server writes its line after it has sent the answer: the lines of all answered requests are waited for.
    """
    answered = {item.number for item in load.sent if item.status}

    def second() -> dict[int, str]:
        lines, _ = proxy.log(lab, load.trace)
        pairs = ((line.trace, line.replica if line.lost != "-" else "-") for line in lines)
        return counts.by_log(pairs, load.trace)

    _until(lambda: answered <= second().keys(), measure.PATIENCE)
    again, methods, unread = second(), dict[int, tuple[str, ...]](), 0
    for replica in lab.replicas_of(load.target.label):
        own, bad = sites.parse_log(written.lines(container.access_log(lab, replica), load.trace))
        unread += bad.total()
        for line in own:
            method = line.request.partition(" ")[0]
            for number in counts.by_log([(line.trace, method)], load.trace):
                methods[number] = (*methods.get(number, ()), method)
    sent = [
        item.model_copy(
            update={
                "again": int(again.get(item.number, "-") != "-"),
                "logged": methods.get(item.number, ()),
            }
        )
        for item in load.sent
    ]
    return sent, unread


def _stop_and_start(lab: Lab, replica: Replica, load: Load, drained: bool) -> Moments:
    """The moments ``stopped``, ``out``, ``started`` and ``back`` of :class:`Failover`."""
    load.wait(lab.traffic.seconds / 4)
    stopped = load.now()
    if drained:
        workers.drain(lab, replica, True)
        out = _when(load, lambda: not workers.worker(lab, replica).usable, OUT)
        _when(load, lambda: workers.worker(lab, replica).busy == 0, OUT)
        container.kill(lab, replica)
    else:
        container.kill(lab, replica)
        out = _when(load, lambda: not workers.worker(lab, replica).usable, OUT)
    load.wait(lab.traffic.seconds / 4)
    started = load.now()
    container.start(lab, replica)
    if drained:
        workers.drain(lab, replica, False)
    back = _when(load, lambda: _served_since(load, replica, started), BACK)
    load.wait(lab.traffic.seconds / 4)
    return stopped, out, started, back


def _served_since(load: Load, replica: Replica, moment: float) -> bool:
    recent = reversed(load.sent[-500:])
    return any(item.replica == replica.name and item.start >= moment for item in recent)


def _when(load: Load, happened: Callable[[], bool], patience: float) -> float | None:
    """The moment at which something had happened; None when it did not within ``patience`` s."""
    return load.now() if _until(happened, patience) else None


def _until(happened: Callable[[], bool], patience: float) -> bool:
    """Waits until something has happened; returns whether it did within ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not happened():
        if time.monotonic() > deadline:
            return False
        cancellation.pause(0.01)
    return True


@contextmanager
def running(load: Load) -> Iterator[None]:
    """The load runs while the block does; an error of the load is one of the block."""
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(load.run)
        try:
            yield
        finally:
            load.stop()
        work.result()


@contextmanager
def _restored(lab: Lab, replica: Replica, drained: bool) -> Iterator[None]:
    """However the block ends, the replica runs and the balancer uses it; the block's error counts."""
    try:
        yield
    except BaseException:
        with suppress(LabkitError):
            container.start(lab, replica)
            _until(lambda: up.problem(lab, replica) is None, BACK)
        if drained:
            with suppress(LabkitError):
                workers.drain(lab, replica, False)
        raise
