"""labkit killed at every step, and what becomes of it; run by hand, as root:

    .venv/bin/python -m tests.benchmarks.killed [apply] [change] [down] [--every N] [--sample N] [--seed S] [--both] [--signal TERM]

Killed (SIGKILL, or SIGTERM, or interrupted as by Ctrl-C: INT) at each point of :mod:`tests.killing`, its children left as they are: ``apply`` of a farm
from nothing; ``apply`` of a change (a site more, a replica less, another subnet); ``down``. After each point
of the journal, once, ``apply`` again and ``down``; and once ``down`` alone; at the points between, either of
them in turn (``--both``: both). The farm must answer after the one, and the machine have the
same after the other as before the first, by the inventory of :mod:`tests.inventory`. All of it on a machine of
its own (:mod:`tests.own_machine`), on which the lab is on *the machine itself*.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labkit import Lab
from labkit.core import undo
from labkit.core.journal import Journal
from labkit.farm.images import layout as images
from labkit.farm.reconcile import answers, upkeep
from labkit.report import status
from tests import inventory, killing
from tests.benchmarks import points
from tests.conftest import CACHE
from tests.inventory import Inventory
from tests.killing import INTERRUPTED
from tests.own_machine import PLACE

#: How the process that is cut off may end: by SIGKILL or SIGTERM, by KeyboardInterrupt, or before its point.
ENDS = {"KILL": (-9,), "TERM": (-15,), "INT": (INTERRUPTED, 0)}
#: What can be killed, in the order in which it is.
WORKS = ("apply", "change", "down")
#: Control groups and the cache are shared with the machine that this one is on.
NAME = f"k{secrets.token_hex(3)}"


def lab_of(**parameters: object) -> Lab:
    """The lab as it is to be."""
    given: dict[str, object] = {
        "lab_name": NAME,
        "state": str(PLACE / "state"),
        "run": str(PLACE / "run"),
        "cache": CACHE,
        "outputs": str(PLACE / "outputs"),
        "subnet": "10.91.0.0/24",
        "offline": True,
    }
    return Lab.load(None, **{**given, **parameters})


SITES = [{"name": "red", "replicas": 1}, {"name": "blue", "replicas": 1}]
FIRST = [{"name": "red", "replicas": 3}, {"name": "blue", "replicas": 1}]
CHANGED = [*SITES, {"name": "green", "replicas": 1}]


def up(lab: Lab) -> None:
    """The farm is as the lab says, nothing is left to do, and every site answers through the balancer."""
    result = upkeep.apply(lab)
    assert result.holds, result.checks
    again = upkeep.apply(lab)
    assert not again.changed, again.summary
    names = [lab.host_name(site.name) for site in lab.sites]
    heads = answers.heads([(lab.gateway.ip, lab.proxy.port)] * len(names), names)
    assert [head.status for head in heads] == [200] * len(names), heads


def down(lab: Lab) -> None:
    """Nothing is left of it, as labkit says."""
    result = status.down(lab)
    assert result.holds, result.value.failed
    assert Journal.of(lab).standing() == ()


def wiped(lab: Lab) -> None:
    """Not even its folders are left."""
    folders = (lab.state_dir, lab.run_dir)
    below = tuple(f"{folder}/" for folder in folders)
    assert not [place for place in undo.mount_points() if place.startswith(below)]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def taken(lab: Lab) -> Inventory:
    """What the machine has; of keys, which are made anew after :func:`wiped`, the names and rights."""
    found = inventory.take(PLACE, lab.state_dir.parent, groups=f"labkit-{lab.name}")
    files = {
        name: said.rpartition(" ")[0] if "/ssh/" in name else said
        for name, said in found["file"].items()
    }
    shared = {str(path): "" for path in Path(CACHE, "labs").glob(f"*{lab.name}*")}
    return {**found, "file": files, "file of the cache": shared}


@dataclass(frozen=True)
class Work:
    """What is killed: what is done before it, and itself; ``wanted`` is the lab that is applied afterwards."""

    name: str
    before: Callable[[], object]
    act: Callable[[], object]
    wanted: Lab


def works() -> dict[str, Work]:
    """All of them by name."""
    small = lab_of(sites=SITES)
    first = lab_of(sites=FIRST)
    changed = lab_of(sites=CHANGED, subnet="10.92.0.0/24")
    found = (
        Work("apply", lambda: wiped(small), lambda: upkeep.apply(small), small),
        Work("change", lambda: upkeep.apply(first), lambda: upkeep.apply(changed), changed),
        Work("down", lambda: upkeep.apply(small), lambda: status.down(small), small),
    )
    return {work.name: work for work in found}


def points_of(work: Work) -> list[str]:
    """What its points are called, in a run that is not killed; the machine is down before and after."""

    def recorded() -> list[str]:
        stroke = killing.Recorded()
        killing.install(stroke)
        work.act()
        return stroke.points

    done(work.before)
    found: list[str] = done(recorded)
    done(lambda: down(work.wanted))
    return found


def done(action: Callable[[], object]) -> object:
    """Does it in a process of its own; raises what went wrong."""
    ended = killing.apart(lambda: _said(action()))
    if ended.status:
        raise AssertionError(ended.said or f"ended with {ended.status}")
    return ended.said


def _said(value: object) -> object:
    return value if isinstance(value, list) else None


@dataclass
class Tally:
    """What came of the runs."""

    runs: int = 0
    unkilled: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, where: str, problem: str) -> None:
        """Tells of a run that did not come out as it must."""
        self.failures.append(where)
        print(f"FAILED {where}\n{problem}", flush=True)


def one(
    work: Work, number: int, *, sig: str, again: bool, baseline: Baseline, where: str, tally: Tally
) -> None:
    """One run: killed there; then applied again (or not), and taken down; and what is left."""
    done(work.before)

    def strike() -> None:
        os.kill(os.getpid(), signal.Signals[f"SIG{sig}"])

    def cut() -> None:
        # a shell starts what runs in its background with this signal ignored, and Python leaves it so
        signal.signal(signal.SIGINT, signal.default_int_handler)
        killing.install(killing.Cut(number, strike))
        work.act()

    ended = killing.apart(lambda: _said(cut()))
    tally.runs += 1
    tally.unkilled += ended.status == 0  # threads take turns: there were fewer points this time
    fine = ended.status in (0, *ENDS[sig])
    problems = [] if fine else [f"ended with {ended.status}: {ended.said}"]
    for action in (up, down) if again else (down,):
        found = killing.apart(lambda action=action: action(work.wanted))  # type: ignore[misc]
        if found.status:
            problems.append(f"{action.__name__}: {found.said}")
    left = inventory.settled(baseline.after, lambda: taken(work.wanted), baseline.may_be)
    problems += left
    if problems:
        tally.note(where, "\n".join(problems))
        killing.apart(lambda: undo.unmake_all(work.wanted) and None)
        baseline.after = taken(work.wanted)  # the next run is told of its own leftovers alone


@dataclass
class Baseline:
    """What is there when everything was up once and is down again, and what of it may be or not."""

    after: Inventory
    may_be: frozenset[str]


def baseline_of(found: Sequence[Work]) -> Baseline:
    """What stays after everything was up, which is told; who was killed early has not made all of it."""
    done(lambda: wiped(found[0].wanted))
    virgin = taken(found[0].wanted)
    for work in found:
        done(work.before)
        done(work.act)
        done(lambda work=work: down(work.wanted))  # type: ignore[misc]
    after = taken(found[0].wanted)
    stays = inventory.difference(virgin, after)
    print("What stays after down:", *stays, sep="\n    ", flush=True)
    new = [line[1:] for line in stays if line.startswith("+")]
    return Baseline(after, frozenset(f"{sign}{text}" for sign in "+-" for text in new))


def measure(given: argparse.Namespace) -> int:
    """All runs; the number of those that failed."""
    names = given.works or WORKS
    found = [work for name, work in works().items() if name in names]
    done(lambda: images.unpack_all(found[0].wanted) and None)
    done(lambda: down(found[0].wanted))
    before = baseline_of(list(works().values()))
    tally = Tally()
    for work in found:
        listed, began, first = points_of(work), time.monotonic(), tally.runs
        steps = [point for point in listed if "journal:" in point]
        numbers = points.chosen(range(1, len(listed) + 1), given)
        for place, number in enumerate(numbers):
            if place % 50 == 49:
                print(f"{work.name}: {place + 1} of {len(numbers)} points", flush=True)
            both = given.both or "journal:" in listed[number - 1]
            for again in (True, False) if both else (number % 2 == 0,):
                then = "apply and down" if again else "down"
                where = f"{work.name}, point {number}: {listed[number - 1]}; then {then}"
                if given.verbose:
                    print(where, flush=True)
                one(
                    work,
                    number,
                    sig=given.signal,
                    again=again,
                    baseline=before,
                    where=where,
                    tally=tally,
                )
        took = time.monotonic() - began
        print(
            f"{work.name}: {len(listed)} points, {len(steps)} of them of the journal; killed at "
            f"{len(numbers)}, {tally.runs - first} runs in {took:.0f} s", flush=True,
        )  # fmt: skip
    print(
        f"{tally.runs} runs, {tally.unkilled} of them over before their point; {len(tally.failures)} differ"
    )
    return len(tally.failures)


def forgotten() -> None:
    """The cache, which is the machine's, does not know of the lab any more."""
    for link in Path(CACHE, "labs").glob(f"{NAME}-*"):
        link.unlink()


def main() -> None:
    """Prints what came of it; the exit status is 1 when a run failed."""
    parser = points.parser(__doc__, WORKS)
    parser.add_argument("--signal", choices=ENDS, default="KILL")
    points.measured(__spec__.name, parser.parse_args(), measure, forgotten)


if __name__ == "__main__":
    main()
