"""A replica is stopped under load and started again: what the clients notice, and for how long."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from labkit.checks import Check
from labkit.errors import ConfigError, LabkitError
from labkit.farm import balancing, container, fetch, resolver, up, workers
from labkit.farm.load import Load, Sent
from labkit.lab import Lab, Replica
from labkit.result import Cell, Outcome, Record, Table, action

#: Seconds between two starts of requests: 400 a second, whatever the concurrency.
PACE = 0.0025
#: How long the balancer may take to leave a replica out, and to take it back, in seconds.
OUT, BACK = 5.0, 10.0
#: The part of the requests that may fail when a replica is killed, and when it is drained first.
TOLERATED = {False: 0.01, True: 0.0}
#: The width of a row of the table ``timeline``, in seconds.
BIN = 0.1


class Failover(Record):
    """What happened; moments are seconds since the load's beginning, None: not seen in time.

    ``stopped``: the order to stop the replica (or to drain it) was given. ``out``: the balancer
    says that it sends nothing there any more. ``started``: the replica runs again. ``back``: it
    answered a client again. ``again`` requests were sent a second time because the balancer asked
    for it; ``failed`` ones did not get the page at all.
    """

    replica: str
    site: str
    drained: bool
    requests: int
    failed: int
    again: int
    slowest: float
    stopped: float
    out: float | None
    started: float
    back: float | None

    @property
    def seconds_out(self) -> float | None:
        """From the stop until the balancer left the replica out."""
        return None if self.out is None else round(self.out - self.stopped, 4)

    @property
    def seconds_back(self) -> float | None:
        """From the start until the replica served again."""
        return None if self.back is None else round(self.back - self.started, 4)


@action("failover.kill")
def kill(lab: Lab, replica: str, concurrency: int | None = None) -> Outcome[Failover]:
    """A replica was killed under load without a warning, and started again: all is as before.

    The load lasts about the Lab's ``traffic.seconds`` and the time that the replica needs to come
    back. The table ``timeline`` has a row for each tenth of a second. Raises
    :class:`ConfigError` when the site has no other replica.
    """
    return _exercise(lab, lab.replica(replica), concurrency, drained=False)


@action("failover.drain")
def drain(lab: Lab, replica: str, concurrency: int | None = None) -> Outcome[Failover]:
    """The same as :func:`kill`, but the balancer was told first, and the replica had become idle."""
    return _exercise(lab, lab.replica(replica), concurrency, drained=True)


def _exercise(
    lab: Lab, replica: Replica, concurrency: int | None, *, drained: bool
) -> Outcome[Failover]:
    if len(lab.replicas_of(replica.site)) < 2:
        raise ConfigError(
            replica.name, "is the only replica of its site", "give the site a second one: replicas"
        )
    there = fetch.target(lab, replica.site)
    fetch.reach(lab, there)
    threads = lab.traffic.concurrency if concurrency is None else concurrency
    limit = lab.traffic.seconds + 30  # in case that the exercise hangs
    trace = secrets.token_hex(6)
    load = Load(lab, there, trace, concurrency=threads, pace=PACE, limit=limit)
    with running(load), _restored(lab, replica, drained):
        moments = _stop_and_start(lab, replica, load, drained)
    value = _value(replica, load.sent, moments, drained)
    return Outcome(
        value=value,
        subject=replica.name,
        summary=_summary(value),
        checks=_checks(lab, value),
        tables=(timeline(lab, value, load.sent), _failed(value, load.sent)),
    )


def _stop_and_start(
    lab: Lab, replica: Replica, load: Load, drained: bool
) -> tuple[float, float | None, float, float | None]:
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
    container.start(lab, replica)
    if drained:
        workers.drain(lab, replica, False)
    started = load.now()
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
        time.sleep(0.01)
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


def _value(
    replica: Replica,
    sent: Sequence[Sent],
    moments: tuple[float, float | None, float, float | None],
    drained: bool,
) -> Failover:
    stopped, out, started, back = (m if m is None else round(m, 4) for m in moments)
    return Failover(
        replica=replica.name,
        site=replica.site,
        drained=drained,
        requests=len(sent),
        failed=sum(item.failed for item in sent),
        again=sum(item.again > 0 for item in sent),
        slowest=max((item.seconds for item in sent), default=0.0),
        stopped=stopped or 0.0,
        out=out,
        started=started or 0.0,
        back=back,
    )


def timeline(lab: Lab, value: Failover, sent: Sequence[Sent]) -> Table:
    """One row a tenth of a second: how many requests that began in it each replica answered."""
    names = [item.name for item in lab.replicas_of(value.site)]
    end = max((item.start for item in sent), default=0.0)
    rows: list[dict[str, Cell]] = []
    for place in range(int(end / BIN) + 1):
        within = [item for item in sent if int(item.start / BIN) == place]
        rows.append(
            {
                "time": round(place * BIN, 3),
                **{name: sum(i.replica == name and not i.failed for i in within) for name in names},
                "again": sum(item.again > 0 for item in within),
                "failed": sum(item.failed for item in within),
                "slowest": max((item.seconds for item in within), default=0.0),
            }
        )
    units = {"time": "s", "slowest": "s"}
    title = f"{value.site} while {value.replica} was stopped and started"
    return Table.of(f"timeline-{_kind(value)}-{value.replica}", title, rows, units=units)


def _failed(value: Failover, sent: Sequence[Sent]) -> Table:
    rows: list[dict[str, Cell]] = [
        {"start": i.start, "seconds": i.seconds, "status": i.status, "error": i.error}
        for i in sent
        if i.failed
    ]
    columns, units = ("start", "seconds", "status", "error"), {"start": "s", "seconds": "s"}
    name = f"failed-{_kind(value)}-{value.replica}"
    return Table.of(name, "Requests that failed", rows, columns=columns, units=units)


def _kind(value: Failover) -> str:
    return "drain" if value.drained else "kill"


def _summary(value: Failover) -> str:
    how = "drained and stopped" if value.drained else "killed"
    return (
        f"{value.replica} was {how} under {value.requests} requests: {value.failed} failed, "
        f"{value.again} were sent again; out after {_said(value.seconds_out)}, "
        f"serving again {_said(value.seconds_back)} after its start."
    )


def _said(seconds: float | None) -> str:
    return "(not seen)" if seconds is None else f"{seconds:.2f} s"


def _checks(lab: Lab, value: Failover) -> tuple[Check, ...]:
    name = f"failover.{_kind(value)}.{value.replica}"
    most = int(TOLERATED[value.drained] * value.requests)
    watch = f"{resolver.with_dns(lab)} curl -s {lab.url(value.site, balancing.STATUS_PATH)}"
    rows = (
        ("served", f"at most {most} of {value.requests} requests fail", f"{value.failed} failed",
         value.failed <= most),
        ("out", f"left out within {OUT:g} s", _said(value.seconds_out), value.out is not None),
        ("back", f"serves again within {BACK:g} s", _said(value.seconds_back),
         value.back is not None),
    )  # fmt: skip
    return tuple(
        Check(
            name=f"{name}.{what}",
            expected=wanted,
            seen=seen,
            holds=holds,
            rows=("E5",),
            again=watch,
        )
        for what, wanted, seen, holds in rows
    )
