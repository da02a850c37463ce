"""What labkit needs fails at every step, and what becomes of it; run by hand, as root:

    .venv/bin/python -m tests.benchmarks.failing [programs] [disk] [--every N] [--sample N] [--seed S]

``programs``: runc, apache2, dnsmasq and others that ``apply`` calls, one at a time, end with status 1, are
killed, or hang, at their first call, at their second, and so on to their last. ``disk``: the file system of
the lab's state is full from a point of :mod:`tests.killing` on. Either ``apply`` does without, or its error names
the program or the folder; ``down`` leaves the machine as it was, even on the full disk; and with what had
failed in order again, ``apply`` goes on to its end. As in :mod:`tests.benchmarks.killed`.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator

from labkit import Lab
from labkit.core import run
from labkit.errors import LabkitError
from labkit.farm.images import layout as images
from labkit.farm.reconcile import upkeep
from labkit.kernel import calls
from tests import inventory, killing
from tests.benchmarks import points
from tests.benchmarks.killed import (
    SITES,
    Baseline,
    Tally,
    done,
    down,
    forgotten,
    lab_of,
    taken,
    up,
    wiped,
)
from tests.own_machine import PLACE

#: What is made to fail, in the order in which it is.
WORKS = ("programs", "disk")
#: The programs of which calls fail, and how.
PROGRAMS = (
    "runc", "apache2", "dnsmasq", "nft", "umoci", "ssh-keygen",
    "setpriv", "ss", "tar", "dpkg", "dpkg-query", "chroot",
)  # fmt: skip
KINDS = ("exits with 1", "is killed", "hangs")
#: How long a program may take here, in seconds.
PATIENCE = 4.0
#: The size of the file system that will be full, in bytes.
DISK = 200 << 20
WRAPPER = """#!/bin/sh
n=1
while ! mkdir "{calls}/{name}.$n" 2>/dev/null; do n=$((n + 1)); done
if [ "$n" = {number} ]; then
    case "{kind}" in
    exits*) echo "{name} was made to fail" >&2; exit 1 ;;
    is*) kill -KILL $$ ;;
    *) exec sleep 1000 ;;
    esac
fi
exec {program} "$@"
"""


def tried(lab: Lab) -> list[str]:
    """Applies the lab; what went wrong, or nothing."""
    try:
        upkeep.apply(lab)
    except LabkitError as error:
        return [str(error)]
    return []


def with_failing(lab: Lab, name: str, number: int, kind: str) -> list[str]:
    """The same while a program fails at one of its calls (0: at none, and how many there were is returned)."""
    folder = PLACE / "failing"
    (folder / "calls").mkdir(parents=True)
    text = WRAPPER.format(
        calls=folder / "calls", name=name, number=number, kind=kind, program=run.which(name)
    )
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    path, run.PATH = run.PATH, f"{folder}:{run.PATH}"
    whole = run.run

    def short(*given: object, **named: object) -> run.Done:
        timeout = min(float(str(named.get("timeout", 60.0))), PATIENCE)
        return whole(*given, **{**named, "timeout": timeout})  # type: ignore[arg-type]

    run.run = short
    try:
        found = tried(lab)
        count = len(list((folder / "calls").iterdir()))
        return found if number else [str(count)]
    finally:
        run.PATH, run.run = path, whole
        run.run(["rm", "-r", folder])


def failing(
    lab: Lab, given: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], list[str]], str]]:
    """Every case of a program: what it is called, what is done, and the word that its error must have."""
    for name in PROGRAMS:
        if not run.which(name):
            continue
        done(lambda: wiped(lab))
        (count,) = done(lambda name=name: with_failing(lab, name, 0, ""))  # type: ignore[misc]
        done(lambda: down(lab))
        for number in range(1, int(count) + 1):
            for kind in KINDS:
                where = f"{name} {kind} at its call {number} of {count}"
                yield where, (lambda n=name, k=number, how=kind: with_failing(lab, n, k, how)), name  # type: ignore[misc]


def full(lab: Lab, number: int) -> list[str]:
    """Applies the lab; from that point on nothing can be written to its state's file system."""

    def fill() -> None:
        size = 1 << 20
        with (lab.state_dir.parent / "filler").open("wb", buffering=0) as file:
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2

    killing.install(killing.Cut(number, fill, within=False))
    return tried(lab)


def filling(lab: Lab) -> Iterator[tuple[str, Callable[[], list[str]], str]]:
    """Every case of a full disk."""

    def recorded() -> list[str]:
        stroke = killing.Recorded()
        killing.install(stroke)
        upkeep.apply(lab)
        return stroke.points

    done(lambda: wiped(lab))
    listed = done(recorded)
    done(lambda: down(lab))
    for number, point in enumerate(listed, 1):
        where = f"full from point {number} on: {point}"
        yield where, (lambda number=number: full(lab, number)), str(lab.state_dir.parent)  # type: ignore[misc]


def one(
    lab: Lab, act: Callable[[], list[str]], word: str, baseline: Baseline, *, again: bool
) -> tuple[str, list[str]]:
    """One run: the error of the action ('' for none), and what is not as it must be."""
    filler = lab.state_dir.parent / "filler"
    done(lambda: wiped(lab))
    filler.unlink(missing_ok=True)
    ended = killing.apart(act)
    problems = []
    said = ended.said[0] if ended.status == 0 and ended.said else ""
    if ended.status:
        problems.append(f"ended with {ended.status}: {ended.said}")
    if said and (word not in said or "remedy:" not in said):
        problems.append(f"an error without {word} or a remedy: {said}")
    if again:
        filler.unlink(missing_ok=True)
    for action in (up, down) if again else (down,):
        found = killing.apart(lambda action=action: action(lab))  # type: ignore[misc]
        if found.status:
            problems.append(f"{action.__name__}: {found.said}")
    filler.unlink(missing_ok=True)
    problems += inventory.settled(baseline.after, lambda: taken(lab), baseline.may_be)
    if problems:
        killing.apart(lambda: down(lab))
        baseline.after = taken(lab)
    return said, problems


def baseline_of(lab: Lab) -> Baseline:
    """What stays after the lab was up."""
    done(lambda: down(lab))
    done(lambda: wiped(lab))
    virgin = taken(lab)
    done(lambda: up(lab))
    done(lambda: down(lab))
    after = taken(lab)
    new = [line[1:] for line in inventory.difference(virgin, after)]
    return Baseline(after, frozenset(f"{sign}{text}" for sign in "+-" for text in new))


def measure(given: argparse.Namespace) -> int:
    """All runs; the number of those that failed."""
    (PLACE / "state").mkdir()
    calls.mount("tmpfs", PLACE / "state", "tmpfs", options=f"size={DISK},mode=755")
    lab = lab_of(sites=SITES)
    done(lambda: images.unpack_all(lab) and None)
    baseline, tally = baseline_of(lab), Tally()
    for name in given.works or WORKS:
        cases = list(failing(lab, given) if name == "programs" else filling(lab))
        began, first = time.monotonic(), tally.runs
        errors: Counter[str] = Counter()
        for place, (where, act, word) in enumerate(points.chosen(cases, given)):
            for again in (True, False) if given.both else (place % 2 == 0,):
                said, problems = one(lab, act, word, baseline, again=again)
                tally.runs += 1
                errors[said.partition("\n")[0][:160]] += 1
                if given.verbose:
                    print(f"{where}: {said or 'no error'}", flush=True)
                if problems:
                    tally.note(where, "\n".join(map(str, problems)))
        took = time.monotonic() - began
        print(f"{name}: {len(cases)} cases; {tally.runs - first} runs in {took:.0f} s, "
              f"{errors['']} without an error", flush=True)  # fmt: skip
    print(f"{tally.runs} runs; {len(tally.failures)} differ")
    return len(tally.failures)


def main() -> None:
    """Prints what came of it; the exit status is 1 when a run failed."""
    given = points.parser(__doc__, WORKS).parse_args()
    points.measured(__spec__.name, given, measure, forgotten)


if __name__ == "__main__":
    main()
