"""Containers that serve are replaced one part of a site after the other, so that no request is lost.

Before a replica goes, the balancer sends it nothing new and it has answered what it was asked. A site
that has only one gets a second one for the time (:func:`surging`).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from labkit import cancellation
from labkit.core import daemon
from labkit.core.files import text_of
from labkit.errors import ConfigError, FarmError
from labkit.farm.containers.runc import State
from labkit.farm.reconcile.difference import Plan
from labkit.farm.services import balancer_instance, workers
from labkit.model.lab import Lab, Replica, Site

#: How long a replica may take to answer what it was asked before it goes, in seconds.
PATIENCE = 10.0


def waves(lab: Lab, names: Sequence[str]) -> tuple[tuple[Replica, ...], ...]:
    """The replicas of these names in the order in which they are replaced: at most the half of a site's
    at a time (or its only one), all sites side by side. Pure."""
    found: list[list[Replica]] = []
    for site in lab.sites:
        own = lab.replicas_of(site.name)
        asked = [item for item in own if item.name in names]
        width = max(1, len(own) // 2)
        for place in range(0, len(asked), width):
            number = place // width
            if number == len(found):
                found.append([])
            found[number] += asked[place : place + width]
    return tuple(map(tuple, found))


def surging(lab: Lab, plan: Plan, states: dict[str, State]) -> Lab:
    """The Lab with one replica more for each site whose only one is to be replaced while it serves; the Lab
    itself where that cannot be, or need not."""
    renewed = {*plan.named("root"), *plan.named("container", "restart", "replace")}
    alive = {name for name, state in states.items() if state.pid} - plan.hung()
    only = {
        site.name
        for site in lab.sites
        if len(own := lab.replicas_of(site.name)) == 1 and own[0].name in renewed & alive
    }
    if not only & {name.rpartition("-")[0] for name in _known(lab, only)}:
        return lab
    try:
        sites = [_wider(site, only) for site in lab.sites]
        return Lab.of({**lab.model_dump(), "sites": sites}).allotted(lab.allotment)
    except ConfigError:  # no address, or no name, is left for another one
        return lab


def _wider(site: Site, only: set[str]) -> dict[str, object]:
    values = site.model_dump()
    if site.name in only:
        values |= {"replicas": 2, "weights": site.weights and (*site.weights, *site.weights)}
    return values


def replace(lab: Lab, names: Sequence[str], act: Callable[[Sequence[Replica]], None]) -> None:
    """``act`` is called for each wave of replicas while the balancer leaves them out; it makes them serve
    again."""
    for wave in waves(lab, names):
        with withdrawn(lab, wave):
            act(wave)


@contextmanager
def withdrawn(lab: Lab, replicas: Sequence[Replica]) -> Iterator[None]:
    """The balancer, if it runs, sends these replicas nothing while the block runs, and they are idle when
    it begins."""
    known = set(_known(lab, {item.site for item in replicas}))
    gone = [item for item in replicas if item.name in known]
    with ExitStack() as after:
        for item in gone:
            workers.stop(lab, item, True)
            after.callback(_again, workers.stop, lab, item, False)
        _until(lambda: not _busy(lab, gone))
        yield


def taken_back(lab: Lab) -> None:
    """The balancer, if it runs, sends requests to every replica again that nobody withdrew: it looks once a
    second whether one answers that had not."""
    if daemon.pid(balancer_instance.server(lab)) is not None:
        names = {replica.name for replica in lab.farm}
        _until(lambda: not any(_is_out(item) for item in _workers(lab) if item.replica in names))


def _workers(lab: Lab) -> Iterator[workers.Worker]:
    return (item for members in workers.everyone(lab) for item in members.workers)


def _is_out(item: workers.Worker) -> bool:
    return not (item.usable or item.withdrawn)


def _known(lab: Lab, sites: set[str]) -> Iterator[str]:
    """The workers of some sites that the running balancer has in service; none when it does not run."""
    if daemon.pid(balancer_instance.server(lab)) is None:
        return
    for site in sorted(sites):
        with suppress(FarmError):
            yield from (w.replica for w in workers.members(lab, site).workers if w.usable)


def _busy(lab: Lab, replicas: Sequence[Replica]) -> bool:
    """Whether one of them still has a request to answer."""
    asked = {item.name for item in replicas}
    return any(
        worker.busy
        for site in sorted({item.site for item in replicas})
        for worker in workers.members(lab, site).workers
        if worker.replica in asked
    )


def _again(function: Callable[..., None], *given: object) -> None:
    """Called on the way out: a balancer that has gone meanwhile has nothing to be told."""
    with suppress(FarmError):
        function(*given)


def begun_anew(lab: Lab) -> None:
    """The balancer, if it runs, has read its configuration again, and its counts of each replica begin at zero."""
    before = serving(lab)
    if before:
        daemon.send(balancer_instance.server(lab), signal.SIGUSR1)
        finished(lab, before)


def finished(lab: Lab, processes: Sequence[int]) -> None:
    """The balancer's processes of before a reload have answered what they were asked, and have ended."""
    _until(lambda: all(map(_ended, processes)))


def serving(lab: Lab) -> tuple[int, ...]:
    """The balancer's processes that answer requests now: those that an orderly reload lets end."""
    leader = daemon.pid(balancer_instance.server(lab))
    if leader is None:
        return ()
    children = text_of(Path(f"/proc/{leader}/task/{leader}/children")) or ""
    return tuple(int(pid) for pid in children.split() if _name(int(pid)) == "apache2")


def _name(pid: int) -> str:
    return (text_of(Path(f"/proc/{pid}/comm")) or "").strip()


def _ended(pid: int) -> bool:
    return _name(pid) != "apache2"


def _until(holds: Callable[[], bool]) -> bool:
    """Waits until something holds, at most :data:`PATIENCE` seconds; whether it does."""
    deadline, pause = time.monotonic() + PATIENCE, 0.002
    while not holds():
        if time.monotonic() > deadline:
            return False
        cancellation.pause(pause)
        pause = min(pause * 1.5, 0.05)
    return True
