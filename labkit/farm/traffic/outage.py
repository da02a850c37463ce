"""What the clients of a site noticed while one of its replicas was stopped and started. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.checks import Check
from labkit.core.tables import Cell, Table
from labkit.display import counted, curl
from labkit.farm.services import balancing, resolver
from labkit.farm.traffic.load import Sent
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: How long the balancer may take to leave a replica out, and to take it back, in seconds.
OUT, BACK = 5.0, 10.0
#: How long the threads of the balancer may take to agree that a replica serves again, in seconds.
GRACE = 0.5
#: The statuses by which the balancer says that a replica was lost, that it has nobody to ask, and that nobody
#: answered in time.
REFUSALS = (502, 503, 504)
#: The width of a row of the table ``timeline``, in seconds.
BIN = 0.1
Moments = tuple[float, float | None, float, float | None]


class Failover(Record):
    """What happened; moments are seconds since the load's beginning, None: not seen in time.

    ``stopped``: the order to stop the replica (or to drain it) was given. ``out``: the balancer says that it
    sends nothing there any more. ``started``: the order to start it again was given. ``back``: it answered a
    client again. The balancer sent ``again`` requests to a second replica; ``failed`` ones did not get the page,
    ``refused`` of them by the balancer's own answer (:data:`REFUSALS`), ``redirected`` ones by a redirection,
    ``cut`` ones without an answer; and their clients knew it from ``first_failed`` to ``last_failed``. By the
    replicas' logs, ``doubled`` requests were executed more than once, and ``turned`` ones by another ``method``
    than they were sent with; ``unread`` lines of these logs are no requests. ``others`` is the number of the
    site's other replicas: where it is 0, nobody can take over.
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


def value(
    lab: Lab,
    replica: Replica,
    sent: Sequence[Sent],
    moments: Moments,
    *,
    drained: bool,
    unread: int = 0,
) -> Failover:
    """The record of a stop: what was sent meanwhile, and the moments ``stopped``, ``out``,
    ``started`` and ``back``."""
    stopped, out, started, back = (m if m is None else round(m, 4) for m in moments)
    failed = [item for item in sent if item.failed]
    ends = [round(item.start + item.seconds, 6) for item in failed]
    return Failover(
        replica=replica.name,
        site=replica.site,
        others=len(lab.replicas_of(replica.site)) - 1,
        drained=drained,
        method=sent[0].method if sent else "GET",
        requests=len(sent),
        failed=len(failed),
        refused=sum(item.status in REFUSALS for item in failed),
        redirected=sum(300 <= item.status < 400 for item in failed),
        cut=sum(item.status == 0 for item in failed),
        again=sum(item.again > 0 for item in sent),
        doubled=sum(len(item.logged) > 1 for item in sent),
        turned=sum(any(method != item.method for method in item.logged) for item in sent),
        unread=unread,
        slowest=max((item.seconds for item in sent), default=0.0),
        stopped=stopped or 0.0,
        out=out,
        started=started or 0.0,
        back=back,
        first_failed=min(ends, default=None),
        last_failed=max(ends, default=None),
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
    return Table.of(f"timeline-{value.kind}-{value.replica}", title, rows, units=units)


def failures(value: Failover, sent: Sequence[Sent]) -> Table:
    """One row a request that failed, in the order of their ends."""
    rows: list[dict[str, Cell]] = [
        {"start": i.start, "took": i.seconds, "status": i.status, "error": i.error}
        for i in sent
        if i.failed
    ]
    columns, units = ("start", "took", "status", "error"), {"start": "s", "took": "s"}
    name = f"failed-{value.kind}-{value.replica}"
    return Table.of(name, "Requests that failed", rows, columns=columns, units=units)


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
    """Whether the others took over or, where there is no other, what the outage was like; and
    whether the balancer noticed both the stop and the start in time."""
    name = f"failover.{value.kind}.{value.replica}"
    page = lab.url(value.site, balancing.STATUS_PATH)
    watch = f"{resolver.with_dns(lab)} {curl(page, options=f'-s {balancing.FROM_RESERVED}')}"
    safe = value.method != "POST"
    rows = (
        *((_taken_over(value),) if safe and value.others else ()),
        *((_limited(value),) if not value.others else ()),
        *((_refused(value),) if not (safe and value.others) else ()),
        *((_once(value),) if not safe else ()),
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


def _taken_over(value: Failover) -> tuple[str, str, str, bool]:
    wanted = f"{value.requests} of {counted(value.requests, 'request')} get the page, each at once"
    seen = f"{value.failed} did not ({value.redirected} redirected, {value.cut} cut off)"
    return "served", wanted, seen, not value.failed


def _limited(value: Failover) -> tuple[str, str, str, bool]:
    """The outage of a site without another replica: there is one, and it ends with the absence."""
    wanted = "requests fail, as nobody can take over, but only between the stop and the return"
    if value.first_failed is None or value.last_failed is None:
        return "outage", wanted, "none failed", False
    back = "(not seen)" if value.back is None else f"at {value.back:.2f} s"
    seen = (
        f"{value.failed} of {value.requests} failed, from {value.first_failed:.2f} to "
        f"{value.last_failed:.2f} s; stopped at {value.stopped:.2f} s, back {back}"
    )
    ended = value.back is not None and value.last_failed <= value.back + GRACE
    return "outage", wanted, seen, ended and value.first_failed >= value.stopped


def _refused(value: Failover) -> tuple[str, str, str, bool]:
    wanted = f"the balancer itself answers those that fail, by {', '.join(map(str, REFUSALS))}"
    cut = value.failed - value.refused
    return "refused", wanted, f"{value.refused} of {value.failed} so, {cut} not", not cut


def _once(value: Failover) -> tuple[str, str, str, bool]:
    wanted = f"no {value.method} is executed twice, or by another method"
    again = max(value.again, value.doubled)
    seen = f"{again} twice, {value.turned} otherwise"
    if value.unread:
        seen = f"{seen}; {counted(value.unread, 'line')} of the replicas' logs cannot be read"
    return "once", wanted, seen, not again + value.turned + value.unread


def _said(seconds: float | None) -> str:
    return "(not seen)" if seconds is None else f"{seconds:.2f} s"
