"""The lab's balancer: an apache2 of the lab's own in front of the sites.

It listens on the bridge's address, has a virtual host for each site, and serves as www-data. Its
configuration is accepted by apache2 before it takes the running one's place, and is taken over by
a graceful reload, which ends no request (apache2(8), ``graceful``).
"""

from __future__ import annotations

import json
import signal
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path

from labkit import daemon, run, undo
from labkit.checks import Check, equal
from labkit.daemon import Daemon
from labkit.display import counted
from labkit.errors import CommandError, FarmError
from labkit.farm.balancer import accesslog, balancing, workers
from labkit.farm.balancer.balancing import FINGERPRINT_PATH
from labkit.farm.balancer.workers import Worker
from labkit.farm.links.endpoint import is_here, require_address
from labkit.farm.measuring import fetch
from labkit.farm.names import resolver
from labkit.farm.site import as_json
from labkit.files import put, text_of, write_atomically
from labkit.journal import Journal, lock
from labkit.lab import Lab
from labkit.result import Outcome, Record, Table, action

#: The assignment's row that the checks of this module answer.
ROWS = ("E5",)


class Balancer(Record):
    """The balancer that runs: where it listens, how it chooses, and the workers of all sites."""

    address: IPv4Address
    port: int
    lbmethod: str
    sticky: bool
    configuration: str
    workers: tuple[Worker, ...]


class Line(Record):
    """One line of the balancer's access log; ``replica`` is '-' when no worker answered."""

    time: datetime
    site: str
    replica: str
    client: str
    request: str
    status: int
    microseconds: int
    trace: str


@action("proxy.up")
def up(lab: Lab) -> Outcome[Balancer]:
    """The balancer answers for every site, configured as the Lab says.

    Raises :class:`MachineError` naming the process that has the port, :class:`FarmError` when
    apache2 refuses the configuration (the running balancer then goes on with the old one), when
    the bridge has no address, or when the balancer does not come up.
    """
    with lock(lab.run_dir, "farm"):
        changed = converge(lab)
    value = observe(lab)
    return Outcome(
        value=value,
        subject=lab.host_name("balancer"),
        changed=changed,
        summary=(
            f"{value.address}:{value.port} balances {counted(len(lab.sites), 'site')} over "
            f"{counted(len(value.workers), 'replica')} ({value.lbmethod})."
        ),
        checks=checks(lab),
        tables=(_table(value),),
    )


@action("proxy.down")
def down(lab: Lab) -> Outcome[str]:
    """The balancer does not run and its configuration is gone; its logs stay, and the next one goes on
    writing them."""
    with lock(lab.run_dir, "farm"):
        ran = daemon.stop(lab, server(lab))
        server(lab).config.unlink(missing_ok=True)
    said = "was ended" if ran else "did not run"
    name = lab.host_name("balancer")
    return Outcome(value=name, subject=name, changed=ran, summary=f"The balancer {said}.")


def observe(lab: Lab) -> Balancer:
    """The balancer as it answers now; :class:`FarmError` when it does not."""
    found = [workers.members(lab, site.name) for site in lab.sites]
    return Balancer(
        address=lab.gateway.ip,
        port=lab.proxy.port,
        lbmethod=", ".join(sorted({item.method for item in found})),
        sticky=lab.proxy.sticky,
        configuration=fetch.reach(lab, fetch.front(lab), FINGERPRINT_PATH).configuration,
        workers=tuple(worker for item in found for worker in item.workers),
    )


def checks(lab: Lab) -> tuple[Check, ...]:
    """Whether the balancer runs as the Lab says, and every site and every worker answers."""
    try:
        found = observe(lab)
    except FarmError as error:
        return (_down(lab, error),)
    known = {worker.replica: worker for worker in found.workers}
    return (
        equal(
            "proxy.configuration",
            _wanted(lab),
            found.configuration,
            rows=ROWS,
            again=_again(lab, "balancer", FINGERPRINT_PATH),
        ),
        equal("proxy.method", lab.proxy.lbmethod, found.lbmethod, rows=ROWS),
        *(_worker_check(lab, item.name, known.get(item.name)) for item in lab.farm),
        *(_site_check(lab, site.name) for site in lab.sites),
    )


def log(lab: Lab, trace: str = "") -> tuple[Line, ...]:
    """The lines of the balancer's access log that contain ``trace``; none when there is no log."""
    return tuple(parse(line) for line in accesslog.lines(logs(lab) / "access.log", trace))


def parse(line: str) -> Line:
    """A line of the access log; Apache's ``\\xhh`` escapes are kept as they are."""
    return Line.model_validate(json.loads(as_json(line)))


def folder(lab: Lab) -> Path:
    """Where the balancer's configuration and its pid file are."""
    return lab.run_dir / "proxy"


def logs(lab: Lab) -> Path:
    """Where the balancer's logs are: ``access.log`` (in parts) and ``error.log``."""
    return lab.state_dir / "proxy"


def server(lab: Lab) -> Daemon:
    """How the lab's apache2 is started."""
    file = folder(lab) / "apache2.conf"
    return Daemon(
        name="balancer",
        argv=("apache2", "-f", str(file), "-k", "start"),
        config=file,
        pidfile=folder(lab) / "apache2.pid",
        log=logs(lab) / "error.log",
        netns=lab.netns,
    )


def converge(lab: Lab) -> bool:
    """Makes the balancer run as the Lab says; returns whether anything had to change.

    The caller holds the lab's ``farm`` lock.
    """
    text = balancing.config(lab, folder(lab), logs(lab))
    return install(lab, text)


def install(lab: Lab, text: str) -> bool:
    """Makes the balancer run with this configuration, if apache2 accepts it; the old one stays else."""
    if run.which(accesslog.PROGRAM) is None:
        raise run.missing("rotatelogs")
    run.require("apache2", "ss")
    instance = server(lab)
    running = is_here(lab, daemon.pid(instance))
    current = text_of(instance.config) or ""
    if running and current == text:
        daemon.wait(instance, lambda: _problem(lab, text), 10.0)
        return False
    if not running:
        daemon.stop(lab, instance)  # one in another namespace, or children of a killed parent
    _require_port(lab, running and balancing.listens(current) == balancing.listens(text))
    for path in (folder(lab), logs(lab)):
        Journal.of(lab).intend("folder", path=str(path))
        path.mkdir(parents=True, exist_ok=True)
    _accept(instance.config, text)
    if running:
        daemon.send(instance, signal.SIGUSR1)
        daemon.wait(instance, lambda: _problem(lab, text), 15.0)
    else:
        daemon.start(lab, instance, lambda: _problem(lab, text))
    return True


def _require_port(lab: Lab, listening: bool) -> None:
    """Refuses a port that somebody else has, unless the running balancer already listens there."""
    require_address(lab)
    if not listening:
        daemon.require_free(
            lab.proxy.port,
            netns=lab.netns,
            address=str(lab.gateway.ip),
            key="proxy.port",
            own=undo.daemon_pids(str(server(lab).config)),
        )


def _accept(file: Path, text: str) -> None:
    """The configuration is in its place, if apache2 accepts it; else the old one stays there."""
    candidate = file.with_suffix(".candidate")
    write_atomically(candidate, text)
    try:
        run.run(["apache2", "-t", "-f", candidate])
    except CommandError as error:
        raise FarmError(
            str(candidate),
            f"apache2 refuses this configuration: {error.stderr.strip()}",
            "the running balancer was left as it is",
            error.again,
        ) from None
    put(candidate, file)


def _wanted(lab: Lab) -> str:
    text = balancing.config(lab, folder(lab), logs(lab))
    return balancing.running_fingerprint(text)


def _problem(lab: Lab, text: str) -> str | None:
    """Why the running balancer does not serve by this configuration; None when it does."""
    try:
        running = fetch.reach(lab, fetch.front(lab), FINGERPRINT_PATH).configuration
    except FarmError as error:
        return error.reason
    wanted = balancing.running_fingerprint(text)
    return None if running == wanted else f"serves configuration {running}, not {wanted}"


def _worker_check(lab: Lab, name: str, worker: Worker | None) -> Check:
    weight = lab.replica(name).weight
    seen = f"weight {worker.weight:g}, {worker.status}" if worker else "unknown to the balancer"
    return Check(
        name=f"proxy.worker.{name}",
        expected=f"weight {weight}, Ok",
        seen=seen,
        holds=worker is not None and worker.usable and worker.weight == weight,
        rows=ROWS,
        again=_again(lab, lab.replica(name).site, balancing.STATUS_PATH),
    )


def _site_check(lab: Lab, site: str) -> Check:
    own = {item.name for item in lab.replicas_of(site)}
    try:
        reply = fetch.fetch(lab, site)
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
    return f"{resolver.with_dns(lab)} curl -si {lab.url(label, path)}"


def _down(lab: Lab, error: FarmError) -> Check:
    return Check(
        name="proxy.up",
        expected=f"answers at {lab.gateway.ip}:{lab.proxy.port}",
        seen=error.reason,
        holds=False,
        rows=ROWS,
        again=error.again,
    )


def _table(value: Balancer) -> Table:
    rows = [worker.model_dump() for worker in value.workers]
    return Table.of("workers", "The balancer's workers", rows)
