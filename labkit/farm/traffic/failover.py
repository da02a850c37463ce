"""Failover: a replica is killed or drained under load and started again, and the clients' view of it is measured."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pandas

from labkit import cancellation
from labkit.checks import Check
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted, curl
from labkit.errors import LabkitError
from labkit.farm.containers import container, written
from labkit.farm.reconcile import answers
from labkit.farm.services import balancer, balancer_server, fetch
from labkit.farm.services.balancer_config import FROM_RESERVED, STATUS_PATH
from labkit.farm.services.dns_server import with_dns
from labkit.farm.traffic import measurements
from labkit.farm.traffic.load import Load, frame
from labkit.model import sites
from labkit.model.lab import Lab, Replica
from labkit.records import Record

__all__ = ["drain", "kill"]

#: Seconds between two starts of requests: 400 a second, whatever the concurrency.
PACE = 0.0025
#: How long the balancer may take to leave a replica out, and to take it back, in seconds.
OUT, BACK = 5.0, 10.0
#: How long the threads of the balancer may take to agree that a replica serves again, in seconds.
GRACE = 0.5
#: The statuses by which the balancer says that a replica was lost, that it has no replica to ask, and that none
#: answered in time.
REFUSALS = (502, 503, 504)
#: The width of a row of the table ``timeline``, in seconds.
BIN = 0.1
UNITS = {"time": "s", "slowest": "s"}
Moments = tuple[float, float | None, float, float | None]


def __dir__() -> list[str]:
    return __all__


class Failover(Record):
    """What happened; moments are seconds since the load's beginning, None: not seen in time.

    ``stopped``: the order to stop the replica (or to drain it) was given. ``out``: the balancer says that it
    sends nothing there any more. ``started``: the order to start it again was given. ``back``: it answered a
    client again. The balancer sent ``again`` requests to a second replica; ``failed`` ones did not get the page,
    ``refused`` of them by the balancer's own answer (:data:`REFUSALS`), ``redirected`` ones by a redirection,
    ``cut`` ones without an answer; and their clients knew it from ``first_failed`` to ``last_failed``. By the
    replicas' logs, ``doubled`` requests were executed more than once, and ``turned`` ones by another ``method``
    than they were sent with; ``unread`` lines of these logs are no requests. ``others`` is the number of the
    site's other replicas: where it is 0, none can take over.
    """

    replica: str
    site: str
    others: int
    drained: bool
    method: str
    requests: int
    failed: int
    refused: int
    redirected: int
    cut: int
    again: int
    doubled: int
    turned: int
    unread: int
    slowest: float
    stopped: float
    out: float | None
    started: float
    back: float | None
    first_failed: float | None
    last_failed: float | None

    @property
    def seconds_out(self) -> float | None:
        """From the stop until the balancer left the replica out."""
        return None if self.out is None else round(self.out - self.stopped, 4)

    @property
    def seconds_back(self) -> float | None:
        """From the start until the replica served again."""
        return None if self.back is None else round(self.back - self.started, 4)

    @property
    def seconds_down(self) -> float:
        """From the end of the first request that failed to the end of the last; 0 when none did."""
        if self.first_failed is None or self.last_failed is None:
            return 0.0
        return round(self.last_failed - self.first_failed, 4)

    @property
    def kind(self) -> str:
        """``kill`` or ``drain``."""
        return "drain" if self.drained else "kill"


@action("failover.kill")
def kill(
    lab: Lab,
    replica: str | None = None,
    concurrency: int | None = None,
    *,
    method: str = "GET",
    kept: bool = True,
) -> Outcome[Failover]:
    """Kills a replica under load without a warning, and starts it again.

    The load lasts about the Lab's ``traffic.seconds`` and the time that the replica needs to come back. The
    table ``timeline-kill-REPLICA`` has a row for each tenth of a second, ``failed-kill-REPLICA`` one for each
    request that failed. Where the replica is its site's only one, nothing can take over: then the checks are
    of the outage.

    :param replica: default: the last one of the first site that has several.
    :param concurrency: clients at a time; default: the Lab's ``traffic.concurrency``.
    :param method: ``GET``, ``HEAD``, or ``POST``, which no proxy may send twice: one that is lost has to be
        answered with an error.
    :param kept: whether each client keeps its connection, or has one for each request.
    :raises FarmError: the name server or the site does not answer, or the replica does not start again.

    Example: ``failover.kill(lab).value.seconds_out``
    """
    return _exercise(lab, replica, concurrency, method, kept)


@action("failover.drain")
def drain(
    lab: Lab, replica: str | None = None, concurrency: int | None = None
) -> Outcome[Failover]:
    """Does the same as :func:`kill`, but drains the replica first: it gets no new requests and becomes idle.

    Example: ``failover.drain(lab, "site1-2").value.failed``
    """
    return _exercise(lab, replica, concurrency, drained=True)


def _exercise(
    lab: Lab,
    name: str | None,
    concurrency: int | None,
    method: str = "GET",
    kept: bool = True,
    *,
    drained: bool = False,
) -> Outcome[Failover]:
    replica = lab.replica(name) if name else lab.replicas_of(measurements.shared(lab))[-1]
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
    requests, unread = logged(lab, load)
    value = evaluated(lab, replica, requests, moments, drained=drained, unread=unread)
    return Outcome(
        value=value,
        subject=replica.name,
        summary=summary(value),
        checks=checks(lab, value),
        tables=(timeline(lab, value, requests), failures(value, requests)),
    )


def logged(lab: Lab, load: Load) -> tuple[pandas.DataFrame, int]:
    """The requests of a load that has ended, :func:`with_logs`; and how many of the replicas' lines about them are
    no requests.

    A server writes its line after it has sent the answer: the lines of all answered requests are waited for.
    """
    answered = {item.number for item in load.sent if item.status}

    def passed() -> dict[int, str]:
        lines, _ = balancer.log(lab, load.trace)
        pairs = ((line.trace, line.replica if line.lost != "-" else "-") for line in lines)
        return measurements.by_number(pairs, load.trace)

    cancellation.until(lambda: answered <= passed().keys(), measurements.PATIENCE)
    executed: list[tuple[int, str]] = []
    unread = 0
    for replica in lab.replicas_of(load.target.label):
        own, bad = sites.parse_log(
            written.lines(written.log(lab, replica.name, "access"), load.trace)
        )
        unread += bad.total()
        methods = ((line.trace, line.request.partition(" ")[0]) for line in own)
        executed += measurements.numbered(methods, load.trace)
    again = [number for number, replica in passed().items() if replica != "-"]
    return with_logs(frame(load.sent), again, executed), unread


def with_logs(
    requests: pandas.DataFrame, again: Sequence[int] = (), executed: Sequence[tuple[int, str]] = ()
) -> pandas.DataFrame:
    """The requests with what logs tell of each: whether it was sent ``again`` to another replica, ``doubled`` (executed
    more than once) or ``turned`` (executed by another method). Pure.

    :param again: the numbers of those that the balancer sent to a second replica.
    :param executed: number and method of each line of the replicas' logs.
    """
    lines = requests.merge(pandas.DataFrame(executed, columns=["number", "logged"]), on="number")
    sets = {
        "again": again,
        "doubled": lines.loc[lines["number"].duplicated(), "number"],
        "turned": lines.loc[lines["method"] != lines["logged"], "number"],
    }
    return requests.assign(**{name: requests["number"].isin(found) for name, found in sets.items()})


def _stop_and_start(lab: Lab, replica: Replica, load: Load, drained: bool) -> Moments:
    """The moments ``stopped``, ``out``, ``started`` and ``back`` of :class:`Failover`."""
    load.wait(lab.traffic.seconds / 4)
    stopped = load.now()
    if drained:
        balancer_server.drain(lab, replica, True)
    else:
        container.kill(lab, replica)
    out = _when(load, lambda: not balancer_server.worker(lab, replica).usable, OUT)
    if drained:
        _when(load, lambda: balancer_server.worker(lab, replica).busy == 0, OUT)
        container.kill(lab, replica)
    load.wait(lab.traffic.seconds / 4)
    started = load.now()
    container.start(lab, replica)
    if drained:
        balancer_server.drain(lab, replica, False)
    back = _when(load, lambda: _served_since(load, replica, started), BACK)
    load.wait(lab.traffic.seconds / 4)
    return stopped, out, started, back


def _served_since(load: Load, replica: Replica, moment: float) -> bool:
    recent = reversed(load.sent[-500:])
    return any(item.replica == replica.name and item.start >= moment for item in recent)


def _when(load: Load, happened: Callable[[], bool], patience: float) -> float | None:
    """The moment at which something had happened; None when it did not within ``patience`` s."""
    return load.now() if cancellation.until(happened, patience) else None


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
            cancellation.until(lambda: answers.problem(lab, replica) is None, BACK)
        if drained:
            with suppress(LabkitError):
                balancer_server.drain(lab, replica, False)
        raise


def evaluated(
    lab: Lab,
    replica: Replica,
    requests: pandas.DataFrame,
    moments: Moments,
    *,
    drained: bool,
    unread: int = 0,
) -> Failover:
    """The record of a stop: what was sent meanwhile (:func:`with_logs`), and the moments ``stopped``, ``out``,
    ``started`` and ``back``."""
    stopped, out, started, back = (m if m is None else round(m, 4) for m in moments)
    failed = requests[requests["failed"]]
    ends = (failed["start"] + failed["took"]).round(6)
    return Failover(
        replica=replica.name,
        site=replica.site,
        others=len(lab.replicas_of(replica.site)) - 1,
        drained=drained,
        method=requests["method"].iloc[0],
        requests=len(requests),
        failed=len(failed),
        refused=failed["status"].isin(REFUSALS).sum(),
        redirected=failed["status"].between(300, 399).sum(),
        cut=(failed["status"] == 0).sum(),
        **requests[["again", "doubled", "turned"]].sum(),
        unread=unread,
        slowest=requests["took"].max(),
        stopped=stopped or 0.0,
        out=out,
        started=started or 0.0,
        back=back,
        first_failed=None if failed.empty else ends.min(),
        last_failed=None if failed.empty else ends.max(),
    )


def timeline(lab: Lab, value: Failover, requests: pandas.DataFrame) -> Table:
    """One row a tenth of a second: how many requests that began in it each replica answered."""
    rows = counted_by(requests, [item.name for item in lab.replicas_of(value.site)], BIN)
    title = f"{value.site} while {value.replica} was stopped and started"
    return Table.of(f"timeline-{value.kind}-{value.replica}", title, rows, units=UNITS)


def counted_by(
    requests: pandas.DataFrame, replicas: Sequence[str], width: float
) -> pandas.DataFrame:
    """One row for each ``width`` seconds, the index ``time``: how many of the requests that began in it each replica
    answered, how many were sent ``again`` (where that is known) and how many ``failed``, and the ``slowest``. Pure."""
    within = (requests["start"] / width).astype(int)
    good = ~requests["failed"]
    served = pandas.crosstab(within[good], requests.loc[good, "replica"])
    sums = {name: (name, "sum") for name in ("again", "failed") if name in requests}
    others = requests.groupby(within).agg(**sums, slowest=("took", "max"))
    bins = pandas.RangeIndex(within.max() + 1)
    rows = served.reindex(index=bins, columns=replicas, fill_value=0)
    rows = rows.join(others.reindex(bins, fill_value=0))
    rows.index = (bins * width).round(3).rename("time")
    return rows


def failures(value: Failover, requests: pandas.DataFrame) -> Table:
    """One row a request that failed, in the order of their ends."""
    failed = requests[requests["failed"]].assign(end=requests["start"] + requests["took"])
    return Table.of(
        f"failed-{value.kind}-{value.replica}",
        "Requests that failed",
        failed.sort_values("end"),
        columns=("start", "took", "status", "error"),
        units={"start": "s", "took": "s"},
    )


def summary(value: Failover) -> str:
    """What happened, in a sentence."""
    how = "drained and stopped" if value.drained else "killed"
    times = (
        f"out after {_said(value.seconds_out)}, "
        f"serving again {_said(value.seconds_back)} after its start."
    )
    if not value.others:
        return (
            f"{value.site} has no other replica than {value.replica}, so nobody could take over: "
            f"it was {how} under {counted(value.requests, 'request')}, and {value.failed:,} failed in an outage "
            f"of {value.seconds_down:.2f} s; {times}"
        )
    return (
        f"{value.replica} was {how} under {counted(value.requests, 'request')}: {value.failed:,} failed "
        f"({value.redirected} redirected, {value.cut} cut off), "
        f"{value.again} sent again, {value.doubled} executed twice; {times}"
    )


def checks(lab: Lab, value: Failover) -> tuple[Check, ...]:
    """Whether the other replicas took over or, where there is none, whether the outage was as short as the stop;
    and whether the balancer noticed both the stop and the start in time."""
    page = lab.url(value.site, STATUS_PATH)
    watch = f"{with_dns(lab)} {curl(page, options=f'-s {FROM_RESERVED}')}"
    name = f"failover.{value.kind}.{value.replica}"
    return tuple(
        Check(name=f"{name}.{what}", expected=wanted, seen=seen, holds=holds, rows=("E5",), again=watch)
        for what, wanted, seen, holds in _expectations(value)
    )  # fmt: skip


def _expectations(value: Failover) -> Iterator[tuple[str, str, str, bool]]:
    """The checks that fit: a name, what is expected, what was seen, and whether it holds."""
    safe = value.method != "POST"
    if safe and value.others:
        wanted = (
            f"{value.requests} of {counted(value.requests, 'request')} get the page, each at once"
        )
        seen = f"{value.failed} did not ({value.redirected} redirected, {value.cut} cut off)"
        yield "served", wanted, seen, not value.failed
    if not value.others:
        wanted = "requests fail, as nobody can take over, but only between the stop and the return"
        yield "outage", wanted, *_outage(value)
    if not (safe and value.others):
        wanted = f"the balancer itself answers those that fail, by {', '.join(map(str, REFUSALS))}"
        cut = value.failed - value.refused
        yield "refused", wanted, f"{value.refused} of {value.failed} so, {cut} not", not cut
    if not safe:
        wanted = f"no {value.method} is executed twice, or by another method"
        again = max(value.again, value.doubled)
        seen = f"{again} twice, {value.turned} otherwise"
        if value.unread:
            seen = f"{seen}; {counted(value.unread, 'line')} of the replicas' logs cannot be read"
        yield "once", wanted, seen, not again + value.turned + value.unread
    out, back = _said(value.seconds_out), _said(value.seconds_back)
    yield "out", f"left out within {OUT:g} s", out, value.out is not None
    yield "back", f"serves again within {BACK:g} s", back, value.back is not None


def _outage(value: Failover) -> tuple[str, bool]:
    """The outage of a site without another replica: there is one, and it ends with the absence."""
    if value.first_failed is None or value.last_failed is None:
        return "none failed", False
    back = "(not seen)" if value.back is None else f"at {value.back:.2f} s"
    seen = (
        f"{value.failed} of {value.requests} failed, from {value.first_failed:.2f} to "
        f"{value.last_failed:.2f} s; stopped at {value.stopped:.2f} s, back {back}"
    )
    ended = value.back is not None and value.last_failed <= value.back + GRACE
    return seen, ended and value.first_failed >= value.stopped


def _said(seconds: float | None) -> str:
    return "(not seen)" if seconds is None else f"{seconds:.2f} s"
