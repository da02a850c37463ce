"""Status of a lab on this machine: observe what is up, run the checks on it, take it down."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack

from labkit.checks import Check
from labkit.core import undo
from labkit.core.journal import Entry, Journal, lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.errors import FarmError, LabkitError
from labkit.farm.containers import runc
from labkit.farm.network import host, links, topology
from labkit.farm.reconcile import answers
from labkit.farm.services import balancer, balancer_server, dns, dns_server
from labkit.farm.services.dns_server import difference, mark
from labkit.kernel import cgroups
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki import server

#: How long a watch may take with the mend that is under way, in seconds.
MEND = 3.0


#: A part of the lab, its state in a word or two, and the details.
Part = tuple[str, str, str]


class Standing(Record):
    """What is up, by kind (container, link, mount, daemon, …), as the journal has it and as seen."""

    running: tuple[str, ...]
    journal: int


class Down(Record):
    """How many things were unmade, and those that could not be, with the reason."""

    unmade: int
    failed: tuple[str, ...]


@action("farm.status")
def status(lab: Lab) -> Outcome[Standing]:
    """What of the lab is up now, as observed; nothing is changed."""
    parts = (*_network(lab), _containers(lab), _names(lab), _balancer(lab), _wiki(lab))
    rows: list[dict[str, Cell]] = [
        {"part": part, "state": state, "detail": detail} for part, state, detail in parts
    ]
    standing = len(Journal.of(lab).standing())
    running = [part for part, state, _ in parts if state.endswith("up") and state[0] != "0"]
    return Outcome(
        value=Standing(running=tuple(running), journal=standing),
        subject=lab.name,
        summary=f"Up in lab {lab.name}: {', '.join(running) or 'nothing'}.",
        tables=(Table.of("status", f"Lab {lab.name}", rows),),
    )


@action("farm.checks")
def checks(lab: Lab, *, deep: bool = False) -> Outcome[tuple[Check, ...]]:
    """Every check that can be made on what is up, without changing anything.

    :param deep: also :func:`labkit.farm.reconcile.kept.checks`, which reads some hundred megabytes.
    """
    # which can build images: more to import than `status` needs
    from labkit.farm.containers import confinement
    from labkit.farm.reconcile import kept, up, upkeep

    found = (
        *host.checks(lab),
        *topology.checks(lab, links.observe(lab)),
        *links.namespace_checks(lab),
        *up.replica_checks(lab),
        *confinement.checks(lab),
        *_made(dns.checks, lab, "dns"),
        *_made(balancer.checks, lab, "proxy"),
        *upkeep.checks(lab),
        *_made(server.checks, lab, "wiki"),
        *(kept.checks(lab) if deep else ()),
    )
    held = sum(check.holds for check in found)
    return Outcome(
        value=found,
        subject=lab.name,
        summary=f"{held} of {counted(len(found), 'check', 'hold')} on what is up now.",
        checks=found,
    )


@action("farm.down")
def down(lab: Lab) -> Outcome[Down]:
    """Nothing that labkit made for this lab is left: no process, mount, link, namespace, cgroup.

    Outputs, cached root file systems and the wiki's content stay. What could not be removed is
    told, with the reason, and the result's check fails; so is what stands in the lab's own folders
    and is not in its journal. Raises :class:`LockError` while a rebuild of the lab runs; notebooks
    of one that was killed are ended.
    """
    # which can run notebooks: more to import than `status` needs
    from labkit.report.batch.notebook import end_notebooks, markers

    if not (lab.run_dir.exists() or lab.journal_file.exists()):
        return _taken_down(lab, (), (), changed=False)
    journal = Journal.of(lab, lenient=True)
    with lock(lab.run_dir, "session", wait=MEND):
        end_notebooks(str(lab.run_dir / "rebuild"), markers(journal.standing()))
        shutil.rmtree(lab.run_dir / "rebuild", ignore_errors=True)
        with ExitStack() as held:
            for name in ("farm", "wiki", "image", "unpacked"):
                held.enter_context(lock(lab.run_dir, name))
            killed = _kill_all(lab)
            unmade, failed = undo.unmake_all(lab)
            problems = [f"{entry.kind} {entry.what}: {error}" for entry, error in failed]
            problems += [f"{what} stands, and is not in the journal" for what in _left(lab)]
            problems += [f"{error.value} {error.reason}" for error in journal.damage()]
    return _taken_down(lab, unmade, tuple(problems), changed=killed or bool(unmade))


def _taken_down(
    lab: Lab, unmade: tuple[Entry, ...], problems: tuple[str, ...], *, changed: bool
) -> Outcome[Down]:
    kinds = sorted({entry.kind for entry in unmade})
    nothing = "nothing of it is in the journal" if problems or changed else "nothing was up"
    return Outcome(
        value=Down(unmade=len(unmade), failed=problems),
        subject=lab.name,
        changed=changed,
        summary=f"{counted(len(unmade), 'thing', 'were')} removed ({', '.join(kinds) or nothing}).",
        checks=(
            Check(
                name="farm.down",
                expected="nothing of the lab is left",
                seen="; ".join(problems) or "nothing of the lab is left",
                holds=not problems,
                again=f"cat {lab.journal_file}",
            ),
        ),
    )


def _left(lab: Lab) -> tuple[str, ...]:
    """What stands in the lab's own folders and groups, and in no entry of its journal: it was lost."""
    known = {
        value for entry in Journal.of(lab, lenient=True).standing() for value in entry.what.values()
    }
    folders = tuple(f"{folder.resolve()}/" for folder in (lab.run_dir, lab.state_dir))
    mounts = [point for point in undo.mount_points() if point.startswith(folders)]
    group = runc.cgroup(lab)
    configs = [
        str(item.config)
        for item in (dns_server.server(lab), balancer_server.server(lab), *server.daemons(lab))
    ]
    return (
        *(f"mount {point}" for point in sorted(mounts) if point not in known),
        *(f"cgroup {group}" for _ in cgroups.folders(group)[:1] if group not in known),
        *(f"process {pid} ({config})" for config in configs if config not in known
          for pid in undo.daemon_pids(config)),
    )  # fmt: skip


def _kill_all(lab: Lab) -> bool:
    """SIGKILL to every process of every container, so that all end at the same time. Whether one ran."""
    return bool(cgroups.kill(runc.cgroup(lab)))


def _network(lab: Lab) -> tuple[Part, Part]:
    seen = links.observe(lab)
    linked = [link for link in seen.links if link.up and link.bridge == lab.bridge]
    more = ", ".join(sorted({*seen.ports} - {replica.link for replica in lab.farm}))
    return (
        ("bridge", "up" if seen.up else "down", ", ".join(seen.addresses)),
        ("links", _of(len(linked), len(lab.farm)), f"also in the bridge: {more}" if more else ""),
    )


def _containers(lab: Lab) -> Part:
    running = [name for name, state in runc.states(lab).items() if state.status == "running"]
    own = [replica.name for replica in lab.farm if replica.name in running]
    more = [name for name in running if name not in own]
    besides = f"; not of this lab.toml: {' '.join(more)}" if more else ""
    return "containers", _of(len(own), len(lab.farm)), " ".join(own) + besides


def _names(lab: Lab) -> Part:
    """Whether the name server answers for the lab's zone, and what it says otherwise."""
    if dns_server.knows(lab, mark(lab)):
        return "DNS", "up", lab.domain
    try:
        return "DNS", "differs", f"{lab.domain}: {difference(lab) or 'it was slow to answer'}"
    except FarmError:
        return "DNS", "down", lab.domain


def _balancer(lab: Lab) -> Part:
    """Whether the lab's own balancer answers, known by what only it says, and for how many replicas."""
    place = f"{lab.gateway.ip}:{lab.proxy.port}"
    try:
        balancer_server.answer(lab)
    except FarmError as error:
        foreign = error.code == balancer_server.FOREIGN
        return "balancer", "somebody else's" if foreign else "down", f"{place}: {error.reason}"
    faults = answers.problems(lab, lab.farm)
    usable = {item.replica for item in balancer_server.workers(lab) if item.usable}
    idle = [name for name, fault in faults.items() if fault or name not in usable]
    served = f"{len(faults) - len(idle)} of {counted(len(faults), 'replica')} in service"
    return "balancer", "up", f"{place}: {served}" + (f", not {' '.join(idle)}" if idle else "")


def _wiki(lab: Lab) -> Part:
    seen = server.status(lab)
    state = "up" if seen.up else "differs" if seen.answers else "down"
    return "wiki", state, seen.address if seen.up else f"{seen.address}: {seen.reason}"


def _made(look: Callable[[Lab], tuple[Check, ...]], lab: Lab, part: str) -> tuple[Check, ...]:
    """The part's checks; one that fails in their place when it is not there to be looked at."""
    try:
        return look(lab)
    except LabkitError as error:
        return (Check(name=f"{part}.up", expected=f"{part} is up", seen=error.reason, holds=False),)


def _of(count: int, total: int) -> str:
    return f"{count} of {total} up"
