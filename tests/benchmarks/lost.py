"""What visitors lose while replicas end, restart, stand still or are cut off, one after the other; run by hand, as
root (a lab of the benchmark's own, in a namespace of its own):

.venv/bin/python -m tests.benchmarks.lost [--rounds 8] [--events kill stop …] [--replicas 2] [--sticky]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labkit import Lab
from tests import visitors
from tests.visitors import EVENTS, Found
from tests.whole_farm import standing


def event(lab: Lab, name: str, number: int) -> tuple[Found, dict[str, int]]:
    """What became of the requests around one event."""
    found, own = Found(), lab.replicas_of("red")
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(1) as pool,
        visitors.visiting(lab, "red", found) as trace,
    ):
        seconds = 4 if name in {"freeze", "cut"} else 3
        heavy = pool.submit(visitors.wrk, lab, "red", seconds, Path(folder, "count.lua"))
        time.sleep(0.7)
        EVENTS[name](lab, own[number % len(own)])
        visitors.serving(lab, "red")
        found.update(heavy.result())
    time.sleep(0.2)
    return found, visitors.executed(lab, "red", trace)


def main() -> int:
    """Prints a line for each event, and the sum of each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--events", nargs="+", default=list(EVENTS), choices=list(EVENTS))
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--sticky", action="store_true")
    given = parser.parse_args()
    sums: dict[str, Found] = {name: Found() for name in given.events}
    with standing(replicas=given.replicas, sticky=given.sticky) as lab:
        for number in range(given.rounds):
            for name in given.events:
                found, posts = event(lab, name, number)
                sums[name] += Found(
                    {**found, "POST doubled": posts["doubled"], "POST turned": posts["turned"]}
                )
                print(
                    f"{name:18} {found.safe():7} GET, HEAD; lost: {found.lost() or 0}; POST: {posts}",
                    flush=True,
                )
    for name, found in sums.items():
        post = {what: times for what, times in found.items() if what.startswith("POST")}
        print(
            f"{given.rounds} x {name}: {found.safe()} GET, HEAD, lost: {found.lost() or 0}; {post}"
        )
    return int(any(found.lost() for found in sums.values()))


if __name__ == "__main__":
    sys.exit(main())
