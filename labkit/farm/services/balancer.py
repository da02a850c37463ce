"""The lab's balancer: brought up, observed, checked, ended, and its access log.

It is an apache2 that listens on the bridge's address, has a virtual host for each site, and serves as
www-data. apache2 accepts a configuration before it takes the running one's place, and takes it over by
a graceful reload, which ends no request (apache2(8), ``graceful``).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from ipaddress import IPv4Address

from labkit import cancellation, reading
from labkit.checks import Check, equal
from labkit.core import accesslog, daemon
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted, curl
from labkit.errors import FarmError
from labkit.farm.services import balancer_config, fetch
from labkit.farm.services.balancer_server import Worker, answer, converge, members, server
from labkit.farm.services.dns_server import with_dns
from labkit.model.lab import Lab
from labkit.model.sites import Microseconds, Status, as_json
from labkit.records import Record

__all__ = ["checks", "down", "log", "observe", "up"]

#: The assignment's row that the checks of this module answer.
ROWS = ("E5",)


def __dir__() -> list[str]:
    return __all__


class Balancer(Record):
    """The balancer that runs: where it listens, how it chooses, and the workers of all sites."""

    address: IPv4Address
    port: int
    lbmethod: str
    sticky: bool
    configuration: str
    workers: tuple[Worker, ...]


class Line(Record):
    """One line of the balancer's access log; ``replica`` is '-' when no worker answered, ``lost`` when none
    had lost the request before."""

    time: datetime
    site: str
    replica: str
    lost: str = "-"
    client: str
    request: str
    status: Status
    microseconds: Microseconds
    trace: str


@action("proxy.up")
def up(lab: Lab) -> Outcome[Balancer]:
    """Makes the balancer answer for every site, configured as the Lab says.

    The table ``workers`` has one row a replica. Raises :class:`MachineError` naming the process that has
    the port, :class:`FarmError` when apache2 refuses the configuration (the running balancer then goes on
    with the old one), when the bridge has no address, or when the balancer does not come up.

    Example: ``balancer.up(lab).value.workers``
    """
    with lock(lab.run_dir, "farm"):
        changed = converge(lab)
    value = observe(lab)
    rows = [worker.model_dump() for worker in value.workers]
    return Outcome(
        value=value,
        subject=lab.host_name("balancer"),
        changed=changed,
        summary=(
            f"{value.address}:{value.port} balances {counted(len(lab.sites), 'site')} over "
            f"{counted(len(value.workers), 'replica')} ({value.lbmethod})."
        ),
        checks=checks(lab),
        tables=(Table.of("workers", "The balancer's workers", rows),),
    )


@action("proxy.down")
def down(lab: Lab) -> Outcome[str]:
    """Ends the balancer and removes its configuration; its logs stay, and the next one goes on writing them."""
    with lock(lab.run_dir, "farm"):
        ran = daemon.stop(lab, server(lab))
        server(lab).config.unlink(missing_ok=True)
    said = "was ended" if ran else "did not run"
    name = lab.host_name("balancer")
    return Outcome(value=name, subject=name, changed=ran, summary=f"The balancer {said}.")


def observe(lab: Lab) -> Balancer:
    """Asks the balancer for its state and workers; :class:`FarmError` when it does not answer, or another server does."""
    configuration = answer(lab).configuration
    found = [members(lab, site.name) for site in lab.sites]
    return Balancer(
        address=lab.gateway.ip,
        port=lab.proxy.port,
        lbmethod=", ".join(sorted({item.method for item in found})),
        sticky=lab.proxy.sticky,
        configuration=configuration,
        workers=tuple(worker for item in found for worker in item.workers),
    )


def checks(lab: Lab) -> tuple[Check, ...]:
    """Checks that the balancer runs as the Lab says, and that every site and every worker answers."""
    try:
        found = _settled(lab)
    except FarmError as error:
        expected = f"answers at {lab.gateway.ip}:{lab.proxy.port}"
        return (equal("proxy.up", expected, error.reason, rows=ROWS, again=error.again),)
    known = {worker.replica: worker for worker in found.workers}
    return (
        equal(
            "proxy.configuration",
            balancer_config.running_fingerprint(balancer_config.config(lab)),
            found.configuration,
            rows=ROWS,
            again=_again(lab, "balancer", balancer_config.FINGERPRINT_PATH),
        ),
        equal("proxy.method", lab.proxy.lbmethod, found.lbmethod, rows=ROWS),
        *(_worker_check(lab, item.name, known.get(item.name)) for item in lab.farm),
        *(_site_check(lab, site.name) for site in lab.sites),
    )


def _settled(lab: Lab) -> Balancer:
    """The balancer as it answers now; where a worker has failed, after its next health check."""
    deadline = time.monotonic() + balancer_config.SETTLES
    while True:
        found = observe(lab)
        if not any(item.failed for item in found.workers) or time.monotonic() > deadline:
            return found
        cancellation.pause(0.1)


def log(lab: Lab, trace: str = "") -> tuple[list[Line], Counter[str]]:
    """Reads the balancer's access log: the requests whose lines contain ``trace``, and how many lines are damaged.

    There are none without a log. The damaged lines are counted by the fault in them.
    """
    return parse(accesslog.lines(balancer_config.logs(lab) / "access.log", trace))


def parse(lines: Iterable[str]) -> tuple[list[Line], Counter[str]]:
    """The requests of the log's lines, and the faults; Apache's ``\\xhh`` escapes stay as they are."""
    return reading.records(map(as_json, lines), Line)


def _worker_check(lab: Lab, name: str, worker: Worker | None) -> Check:
    weight = lab.replica(name).weight
    seen = f"weight {worker.weight:g}, {worker.status}" if worker else "unknown to the balancer"
    return Check(
        name=f"proxy.worker.{name}",
        expected=f"weight {weight}, Ok",
        seen=seen,
        holds=worker is not None and worker.usable and worker.weight == weight,
        rows=ROWS,
        again=_again(lab, lab.replica(name).site, balancer_config.STATUS_PATH),
    )


def _site_check(lab: Lab, site: str) -> Check:
    own = {item.name for item in lab.replicas_of(site)}
    try:
        reply = fetch.reach(lab, fetch.target(lab, site))
        seen = f"{reply.status} from {reply.replica or 'nobody'}"
        holds = reply.status == 200 and reply.replica in own
    except FarmError as error:
        seen, holds = error.reason, False
    return Check(
        name=f"proxy.site.{site}",
        expected=f"200 from one of {', '.join(sorted(own))}",
        seen=seen,
        holds=holds,
        rows=ROWS,
        again=_again(lab, site, "/"),
    )


def _again(lab: Lab, label: str, path: str) -> str:
    options = (
        f"-si {balancer_config.FROM_RESERVED}" if path == balancer_config.STATUS_PATH else "-si"
    )
    return f"{with_dns(lab)} {curl(lab.url(label, path), options=options)}"
