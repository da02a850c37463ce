"""The whole farm: every replica of every site up, linked and answering."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from labkit import run
from labkit.checks import Check, equal
from labkit.display import counted
from labkit.errors import FarmError
from labkit.farm import container, host, network, ssh
from labkit.farm.links import endpoint
from labkit.farm.links.netns import inside
from labkit.farm.measuring import answers
from labkit.farm.measuring.answers import Head
from labkit.farm.runc import overlay, roots, surplus
from labkit.farm.runc.roots import Wanted
from labkit.farm.site import REPLICA_HEADER
from labkit.journal import lock
from labkit.lab import Lab, Replica
from labkit.result import Cell, Outcome, Record, Table, action
from labkit.undo import mount_points

#: How long a started replica may take until it answers, in seconds.
PATIENCE = 15.0
#: What the replicas are made with, once their image is there.
PROGRAMS = (
    "runc", "umoci", "nsenter", "ssh-keygen", "dpkg", "dpkg-query",
)  # fmt: skip


class Farm(Record):
    """The replicas by name, with the process id of each one's first process (0: it is not running)."""

    pids: dict[str, int]


@action("farm.replicas")
def replicas(lab: Lab) -> Outcome[Farm]:
    """Every replica of the lab answers HTTP 200 at its own address; those that do are left alone."""
    _require(lab)
    made_side = host.up(lab).changed
    images = container.unpack_all(lab)
    with lock(lab.run_dir, "farm"):
        removed = surplus.remove(lab)
        wired = network.wire(lab)
        files = ssh.files(ssh.keys(lab))
        wanted = [
            Wanted(container.replica_spec(lab, replica), images[replica.site], files)
            for replica in lab.farm
        ]
        made = roots.prepare(lab, wanted)
        states = container.states(lab)
        idle = [r for r in lab.farm if r.name in made or not _stands(r, states)]
        if idle:
            container.intend(lab, (replica.name for replica in idle))
        run.spread(lambda replica: container.launch(lab, replica.name), idle)
        _await(lab, lab.farm if wired else idle)
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
    return problems(lab, [replica])[replica.name]


def problems(lab: Lab, farm: Sequence[Replica]) -> dict[str, str | None]:
    """The same of several replicas, by name, all asked at the same time."""
    there = [(replica.address, 80) for replica in farm]
    hosts = [lab.host_name(replica.name) for replica in farm]
    found = inside(lab.netns, answers.heads, there, hosts) if farm else []
    return {
        replica.name: _problem(replica, head) for replica, head in zip(farm, found, strict=True)
    }


def _problem(replica: Replica, head: Head) -> str | None:
    if head.fault:
        return f"no answer: {head.fault}"
    who = head.headers.get(REPLICA_HEADER.lower(), "")
    if head.status != 200 or who != replica.name:
        return f"answered HTTP {head.status} as {who or 'nobody'}"
    return None


def replica_checks(lab: Lab) -> tuple[Check, ...]:
    """Whether each replica's container runs and answers for itself at its own address."""
    states = container.states(lab)
    alive = [r for r in lab.farm if r.name in states and states[r.name].status == "running"]
    faults = {r.name: "its container is not running" for r in lab.farm} | problems(lab, alive)
    return tuple(_replica_check(lab, replica, faults[replica.name]) for replica in lab.farm)


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


def _replica_check(lab: Lab, replica: Replica, fault: str | None) -> Check:
    expected = f"{replica.name} answers HTTP 200 at {replica.address}"
    return Check(
        name=f"farm.replica.{replica.name}",
        expected=expected,
        seen=fault or expected,
        holds=fault is None,
        rows=("R11", "E4"),
        again=endpoint.again(lab, f"curl --include http://{replica.address}/"),
    )


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


def _await(lab: Lab, farm: Sequence[Replica]) -> None:
    """The replicas answer; a first process that died is the error, with its own words."""
    deadline, pause = time.monotonic() + PATIENCE, 0.002
    waiting = list(farm)
    while faults := {k: v for k, v in problems(lab, waiting).items() if v is not None}:
        waiting = [replica for replica in waiting if replica.name in faults]
        for replica in waiting:
            state = container.state(lab, replica.name)
            if state is None or state.status == "stopped":
                raise container.death(lab, replica.name)
        if time.monotonic() > deadline:
            raise _silent(lab, waiting[0], faults[waiting[0].name])
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _silent(lab: Lab, replica: Replica, reason: str | None) -> FarmError:
    return FarmError(
        f"replica {replica.name}",
        f"{reason} after {PATIENCE:g} s",
        "its own logs say why",
        f"tail {container.console(lab, replica.name)} {container.folder(lab, replica.name)}/log/*",
    )
