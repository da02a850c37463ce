"""Whether replicas answer for themselves, and the wait until they do."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from functools import partial

from labkit import cancellation
from labkit.errors import FarmError
from labkit.farm.containers import container, runc, written
from labkit.farm.network.endpoint import again
from labkit.farm.network.netns import inside
from labkit.farm.reconcile import answers
from labkit.farm.reconcile.answers import Head
from labkit.model.lab import Lab, Replica
from labkit.model.sites import REPLICA_HEADER

#: How long a started replica may take until it answers, in seconds.
PATIENCE = 15.0
#: What connect(2) says when the host's own rules and routes, and nobody else, keep a request from its way.
OWN = frozenset(
    os.strerror(number)
    for number in (errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENETUNREACH, errno.EADDRNOTAVAIL)
)
#: As much is told of who has answered.
NAME = 100
#: How long a replica that is up and connected may be silent until it counts as hung, in seconds.
GRACE = 5.0


def silent(lab: Lab, farm: Sequence[Replica], *, grace: float) -> dict[str, str]:
    """The replicas that have answered nothing at all within ``grace`` seconds, by name, and why. All are
    asked at once, and a connection that was refused again; whatever comes back is an answer."""
    deadline, pause = time.monotonic() + grace, 0.01
    waiting, found = list(farm), dict[str, str]()
    while waiting and (left := deadline - time.monotonic()) > 0:
        there = [(replica.address, 80) for replica in waiting]
        hosts = [lab.host_name(replica.name) for replica in waiting]
        seen = inside(lab.netns, partial(answers.heads, patience=left), there, hosts)
        pairs = zip(waiting, seen, strict=True)
        found = {replica.name: head.fault for replica, head in pairs if head.fault}
        waiting = [replica for replica in waiting if replica.name in found]
        if waiting:
            cancellation.pause(min(pause, left))
            pause = min(2 * pause, 0.2)
    return {name: f"nothing within {grace:g} s: {fault}" for name, fault in found.items()}


def problems(lab: Lab, farm: Sequence[Replica]) -> dict[str, str | None]:
    """What is wrong with the answers of several replicas at their own addresses, all asked at the same
    time: by name, None for one that is HTTP 200 and its own."""
    there = [(replica.address, 80) for replica in farm]
    hosts = [lab.host_name(replica.name) for replica in farm]
    found = inside(lab.netns, answers.heads, there, hosts) if farm else []
    return {
        replica.name: _problem(replica, head) for replica, head in zip(farm, found, strict=True)
    }


def _problem(replica: Replica, head: Head) -> str | None:
    if head.fault:
        return f"no answer: {head.fault}"
    who = head.headers.get(REPLICA_HEADER.lower(), "")[:NAME]
    if head.status != 200 or who != replica.name:
        return f"answered HTTP {head.status} as {who or 'nobody'}"
    return None


def wait(lab: Lab, farm: Sequence[Replica]) -> None:
    """The replicas answer; a first process that died is the error, with its own words."""
    deadline, pause = time.monotonic() + PATIENCE, 0.002
    waiting = list(farm)
    while faults := {k: v for k, v in problems(lab, waiting).items() if v is not None}:
        waiting = [replica for replica in waiting if replica.name in faults]
        for replica in waiting:
            state = runc.state(lab, replica.name)
            if state is None or state.status == "stopped":
                raise container.death(lab, replica.name)
        if time.monotonic() > deadline:
            raise _silent(lab, waiting[0], faults[waiting[0].name])
        cancellation.pause(pause)
        pause = min(2 * pause, 0.05)


def _silent(lab: Lab, replica: Replica, reason: str | None) -> FarmError:
    if reason and reason.endswith(tuple(OWN)):
        return FarmError(
            f"replica {replica.name}",
            f"{reason} after {PATIENCE:g} s: the host has no way to {replica.address}",
            "remove the rule or the route that keeps it from there",
            again(lab, f"ip route get {replica.address}"),
            code="farm.replica-unreachable",
        )
    return FarmError(
        f"replica {replica.name}",
        f"{reason} after {PATIENCE:g} s",
        "its own logs say why",
        f"tail {written.console(lab, replica.name)} {container.access_log(lab, replica).parent}/*",
        code="farm.replica-silent",
    )
