"""What of a lab is up on this machine: looked at, checked, taken down."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack

from labkit import groups, undo
from labkit.checks import Check
from labkit.errors import LabkitError
from labkit.farm import container, dns, host, network, proxy
from labkit.farm.links import topology
from labkit.farm.names import question
from labkit.farm.names.zone import mark
from labkit.journal import Entry, Journal, lock
from labkit.lab import Lab
from labkit.report.ending import end_notebooks, markers
from labkit.result import Cell, Outcome, Record, Table, action
from labkit.wiki import server

#: How long a watch may take with the mend that is under way, in seconds.
MEND = 3.0


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
    states = container.states(lab)
    seen = network.observe(lab)
    wiki = server.status(lab)
    names = [name for name, state in states.items() if state.status == "running"]
    zone = question.knows(lab, mark(lab))
    balancer = _holds(proxy.checks, lab)
    rows: list[dict[str, Cell]] = [
        {
            "part": "bridge",
            "state": "up" if seen.up else "down",
            "detail": ", ".join(seen.addresses),
        },
        {"part": "links", "state": _of(len(seen.ports), len(lab.farm)), "detail": ""},
        {"part": "containers", "state": _of(len(names), len(lab.farm)), "detail": " ".join(names)},
        {"part": "DNS", "state": "up" if zone else "down", "detail": lab.domain},
        {"part": "balancer", "state": "up" if balancer else "down", "detail": str(lab.gateway.ip)},
        {"part": "wiki", "state": "up" if wiki.up else "down", "detail": wiki.address},
    ]
    standing = len(Journal.of(lab).standing())
    running = [
        str(row["part"]) for row in rows if row["state"] not in ("down", _of(0, len(lab.farm)))
    ]
    return Outcome(
        value=Standing(running=tuple(running), journal=standing),
        subject=lab.name,
        summary=f"Up in lab {lab.name}: {', '.join(running) or 'nothing'}.",
        tables=(Table.of("status", f"Lab {lab.name}", rows),),
    )


@action("farm.checks")
def checks(lab: Lab) -> Outcome[tuple[Check, ...]]:
    """Every check that can be made on what is up, without changing anything."""
    # which can build images: more to import than `status` needs
    from labkit.farm import privilege, up, upkeep

    found = (
        *host.checks(lab),
        *topology.checks(lab, network.observe(lab)),
        *network.namespace_checks(lab),
        *up.replica_checks(lab),
        *privilege.checks(lab),
        *_made(dns.checks, lab, "dns"),
        *_made(proxy.checks, lab, "proxy"),
        *upkeep.checks(lab),
        *_made(server.checks, lab, "wiki"),
    )
    held = sum(check.holds for check in found)
    return Outcome(
        value=found,
        subject=lab.name,
        summary=f"{held} of {len(found)} checks hold on what is up now.",
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
        summary=f"{len(unmade)} things were unmade ({', '.join(kinds) or nothing}).",
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
    group = container.cgroup(lab)
    configs = [
        str(item.config) for item in (dns.server(lab), proxy.server(lab), *server.daemons(lab))
    ]
    return (
        *(f"mount {point}" for point in sorted(mounts) if point not in known),
        *(f"cgroup {group}" for _ in groups.folders(group)[:1] if group not in known),
        *(f"process {pid} ({config})" for config in configs if config not in known
          for pid in undo.daemon_pids(config)),
    )  # fmt: skip


def _kill_all(lab: Lab) -> bool:
    """SIGKILL to every process of every container, so that all end at the same time. Whether one ran."""
    return bool(groups.kill(container.cgroup(lab)))


def _holds(look: Callable[[Lab], tuple[Check, ...]], lab: Lab) -> bool:
    try:
        found = look(lab)
    except LabkitError:
        return False
    return bool(found) and all(check.holds for check in found)


def _made(look: Callable[[Lab], tuple[Check, ...]], lab: Lab, part: str) -> tuple[Check, ...]:
    """The part's checks; one that fails in their place when it is not there to be looked at."""
    try:
        return look(lab)
    except LabkitError as error:
        return (Check(name=f"{part}.up", expected=f"{part} is up", seen=error.reason, holds=False),)


def _of(count: int, total: int) -> str:
    return f"{count} of {total} up"
