"""The whole farm: every replica of every site up, linked and answering."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from labkit import run
from labkit.checks import Check, equal
from labkit.display import counted
from labkit.errors import FarmError
from labkit.farm import container, host, network, ssh
from labkit.farm.image import Unpacked
from labkit.farm.links import endpoint
from labkit.farm.links.netns import inside
from labkit.farm.measuring import fetch
from labkit.farm.runc import overlay, surplus
from labkit.farm.runc.bundle import Spec
from labkit.journal import lock
from labkit.lab import Lab, Replica
from labkit.result import Cell, Outcome, Record, Table, action
from labkit.undo import mount_points

#: How long a started replica may take until it answers, in seconds.
PATIENCE = 15.0
#: What the replicas are made with, once their image is there.
PROGRAMS = (
    "runc", "umoci", "mount", "umount", "unshare", "nsenter", "ssh-keygen", "dpkg", "dpkg-query",
)  # fmt: skip


class Farm(Record):
    """The replicas by name, with the process id of each one's first process (0: it is not running)."""

    pids: dict[str, int]


@action("farm.replicas")
def replicas(lab: Lab) -> Outcome[Farm]:
    """Every replica of the lab answers HTTP 200 at its own address; those that do are left alone."""
    _require(lab)
    made_side = host.up(lab).changed
    images = {site.name: container.unpack(lab, site.name) for site in lab.sites}
    with lock(lab.run_dir, "farm"):
        removed = surplus.remove(lab)
        wired = network.wire(lab)
        keys = ssh.keys(lab)
        prepare = partial(_prepare, lab, images, keys)
        made = run.spread(prepare, lab.farm)
        states = container.states(lab)
        idle = [
            replica
            for replica, changed in zip(lab.farm, made, strict=True)
            if changed or not _stands(replica, states)
        ]
        run.spread(partial(_restart, lab), idle)
        run.spread(partial(_await, lab), lab.farm if wired else idle)
    pids = {name: state.pid for name, state in container.states(lab).items()}
    value = Farm(pids={replica.name: pids.get(replica.name, 0) for replica in lab.farm})
    return Outcome(
        value=value,
        subject=lab.name,
        changed=made_side or wired or bool(idle or removed),
        summary=(
            f"Up at their own addresses: {counted(len(lab.farm), 'replica')} of "
            f"{counted(len(lab.sites), 'site')}, each answering for itself."
        ),
        checks=(*replica_checks(lab), *privilege_checks(value)),
        tables=(replica_table(lab, value),),
    )


def _require(lab: Lab) -> None:
    """Refuses a machine that lacks what the farm is made with, before anything is made."""
    run.require(*PROGRAMS)
    mounted = mount_points()
    if any(
        str(container.bundle(lab, r.name).resolve() / "rootfs") not in mounted for r in lab.farm
    ):
        overlay.require(lab)


def problem(lab: Lab, replica: Replica) -> str | None:
    """What is wrong with the replica's answer at its own address; None when it is HTTP 200 and its own."""
    there = fetch.Target(
        label=replica.name, host=lab.host_name(replica.name), address=replica.address, port=80
    )
    try:
        reply = inside(lab.netns, fetch.get, there, patience=2.0)
    except fetch.ERRORS as error:
        return f"no answer: {fetch.reason(error)}"
    if reply.status != 200 or reply.replica != replica.name:
        return f"answered HTTP {reply.status} as {reply.replica or 'nobody'}"
    return None


def replica_checks(lab: Lab) -> tuple[Check, ...]:
    """Whether each replica's container runs and answers for itself at its own address."""
    states = container.states(lab)
    return tuple(_replica_check(lab, replica, states) for replica in lab.farm)


def privilege_checks(value: Farm) -> tuple[Check, ...]:
    """Whether each replica's process is www-data's and has no capability (proc(5), CapEff)."""
    return tuple(
        equal(
            f"farm.privileges.{name}",
            f"user {container.WWW_DATA}, no capability",
            _privileges(Path(f"/proc/{pid}/status").read_text()),
            rows=("E4",),
            again=f"grep -E 'Uid|CapEff' /proc/{pid}/status",
        )
        for name, pid in value.pids.items()
        if pid
    )


def _privileges(status: str) -> str:
    fields = dict(line.split(":", 1) for line in status.splitlines())
    effective = int(fields["CapEff"], 16)
    held = f"capabilities {effective:#x}" if effective else "no capability"
    return f"user {fields['Uid'].split()[1]}, {held}"


def replica_table(lab: Lab, value: Farm) -> Table:
    """The farm, a row a replica."""
    rows: list[dict[str, Cell]] = [
        {
            "replica": replica.name,
            "site": replica.site,
            "address": str(replica.address),
            "name": lab.host_name(replica.name),
            "process": str(value.pids[replica.name]),  # a name, not a number to group
        }
        for replica in lab.farm
    ]
    return Table.of("replicas", "The farm's replicas", rows)


def _replica_check(lab: Lab, replica: Replica, states: dict[str, container.State]) -> Check:
    state = states.get(replica.name)
    alive = state is not None and state.status == "running"
    fault = problem(lab, replica) if alive else "its container is not running"
    expected = f"{replica.name} answers HTTP 200 at {replica.address}"
    return Check(
        name=f"farm.replica.{replica.name}",
        expected=expected,
        seen=fault or expected,
        holds=fault is None,
        rows=("R11", "E4"),
        again=endpoint.again(lab, f"curl --include http://{replica.address}/"),
    )


def _prepare(lab: Lab, images: dict[str, Unpacked], keys: ssh.Keys, replica: Replica) -> bool:
    spec: Spec = container.replica_spec(lab, replica)
    return container.prepare(lab, spec, images[replica.site], ssh.files(keys))


def _stands(replica: Replica, states: dict[str, container.State]) -> bool:
    """Whether its first process lives, in the namespace that has the replica's name and eth0."""
    state = states.get(replica.name)
    if state is None or not state.pid:
        return False
    try:
        inode = Path(f"/proc/{state.pid}/ns/net").stat().st_ino
    except FileNotFoundError:
        return False
    return inode == host.namespace_inode(replica.netns)


def _restart(lab: Lab, replica: Replica) -> None:
    container.create(lab, replica.name)
    container.begin(lab, replica.name)


def _await(lab: Lab, replica: Replica) -> None:
    """The replica answers; a first process that died is the error, with its own words."""
    deadline = time.monotonic() + PATIENCE
    while (reason := problem(lab, replica)) is not None:
        state = container.states(lab).get(replica.name)
        if state is None or state.status == "stopped":
            raise container.death(lab, replica.name)
        if time.monotonic() > deadline:
            raise FarmError(
                f"replica {replica.name}",
                f"{reason} after {PATIENCE:g} s",
                "its own logs say why",
                f"tail {container.console(lab, replica.name)} {container.folder(lab, replica.name)}/log/*",
            )
        time.sleep(0.01)
