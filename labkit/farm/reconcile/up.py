"""Brings up the whole farm, and checks it: every replica of every site up, linked and answering."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted, curl
from labkit.farm.containers import lab_namespaces, overlay, runc
from labkit.farm.network import host
from labkit.farm.reconcile import answers, apply, preflight
from labkit.kernel import users
from labkit.model.lab import Lab
from labkit.model.resources import FARM
from labkit.records import Record

__all__ = ["replicas"]


def __dir__() -> list[str]:
    return __all__


class Farm(Record):
    """The replicas by name, with the process id of each one's first process (0: it is not running)."""

    pids: dict[str, int]


@action("farm.replicas")
def replicas(lab: Lab) -> Outcome[Farm]:
    """Makes every replica of the lab answer HTTP 200 at its own address; those that do are left alone.

    Does what :func:`labkit.farm.reconcile.upkeep.apply` does, without name server and balancer. The table
    ``replicas`` has one row a replica. Raises :class:`StateError`, and changes nothing, where replicas run
    that the lab does not have (another notebook was given more of them): only apply removes what serves.

    Example: ``up.replicas(lab).value.pids``
    """
    preflight.refuse_surplus(lab)
    done, last = apply.converge(lab, FARM)
    value = Farm(pids={item.name: last.states[item.name].pid for item in lab.farm})
    return Outcome(
        value=value,
        subject=lab.name,
        changed=bool(done),
        summary=(
            f"Up at their own addresses: {counted(len(lab.farm), 'replica')} of "
            f"{counted(len(lab.sites), 'site')}, each answering for itself."
        ),
        checks=(
            *_replica_checks(lab, last.problems),
            *privilege_checks(value),
            users_check(lab, value),
        ),
        tables=(replica_table(lab, value),),
    )


def replica_checks(lab: Lab) -> tuple[Check, ...]:
    """Whether each replica's container runs and answers for itself at its own address."""
    states = runc.states(lab)
    alive = [r for r in lab.farm if r.name in states and states[r.name].status == "running"]
    return _replica_checks(lab, answers.problems(lab, alive))


def privilege_checks(value: Farm) -> tuple[Check, ...]:
    """Whether each replica's process is its www-data's and has no capability (proc(5), CapEff)."""
    return tuple(
        equal(
            f"farm.privileges.{name}",
            f"user {overlay.WWW_DATA}, no capability",
            _privileges(
                pid, Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
            ),
            rows=("E4",),
            again=f"grep -E 'Uid|CapEff' /proc/{pid}/status",
        )
        for name, pid in value.pids.items()
        if pid
    )


def users_check(lab: Lab, value: Farm) -> Check:
    """Whether each replica has user and group ids that stand for others outside (user_namespaces(7)), where the
    lab and the machine allow it."""
    maps = [
        Path(f"/proc/{pid}/uid_map").read_text(encoding="utf-8")
        for pid in value.pids.values()
        if pid
    ]
    own = {text for text in maps if users.outer_of(text, 0) > 0}
    reason = lab_namespaces.why_disabled(lab)
    count = 0 if reason else len(maps)
    because = f": {reason}" if reason else ""
    return equal(
        "farm.user-namespaces",
        f"{count} of {counted(len(maps), 'replica', 'have')} ids of their own{because}",
        f"{len(own)} of {counted(len(maps), 'replica', 'have')} ids of their own{because}",
        rows=("E4",),
        again="cat /proc/PID/uid_map",
    )


def _privileges(pid: int, status: str) -> str:
    fields = dict(line.split(":", 1) for line in status.splitlines())
    effective = int(fields["CapEff"], 16)
    held = f"capabilities {effective:#x}" if effective else "no capability"
    return f"user {users.inner(pid, int(fields['Uid'].split()[1]))}, {held}"


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


def _replica_checks(lab: Lab, faults: Mapping[str, str | None]) -> tuple[Check, ...]:
    """The checks, with what is wrong with the answers of those that could be asked (None: nothing)."""
    return tuple(
        equal(
            f"farm.replica.{replica.name}",
            expected := f"{replica.name} answers HTTP 200 at {replica.address}",
            faults.get(replica.name, "its container is not running") or expected,
            rows=("R11", "E4"),
            again=host.again(lab, curl(f"http://{replica.address}/", options="--include")),
        )
        for replica in lab.farm
    )
