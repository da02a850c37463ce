"""A farm of any size, from nothing, with nothing to do, one page changed, one site more, and down; run by
hand, as root (a lab of the benchmark's own, in a namespace of its own):

.venv/bin/python -m tests.benchmarks.upkeep [--sites 10] [--replicas 3] [--load]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from labkit import Lab
from labkit.farm.containers import runc
from labkit.farm.images import layout as images
from labkit.farm.reconcile import upkeep
from labkit.farm.reconcile.observe import look
from labkit.farm.services import fetch
from labkit.farm.traffic.failover import running
from labkit.farm.traffic.load import Load
from labkit.report import status
from tests.conftest import lab_maker, open_place


def timed(what: str, function: Callable[[], object]) -> None:
    """Prints how long it took, and what it said."""
    began = time.perf_counter()
    said = function()
    print(
        f"{what:28} {time.perf_counter() - began:8.3f} s  {getattr(said, 'summary', '')}",
        flush=True,
    )


@contextmanager
def loaded(lab: Lab) -> Iterator[None]:
    """Clients send to the last site meanwhile; how many requests failed is printed."""
    load = Load(lab, fetch.front(lab, lab.sites[-1].name), "bench", concurrency=4, pace=0.005)
    with running(load):
        yield
    failed = sum(item.failed for item in load.sent)
    print(f"{'requests meanwhile':28} {len(load.sent):8}    failed: {failed}", flush=True)


def run(lab: Lab, more: Lab, page: Lab, *, load: bool) -> bool:
    """All of it, in order; whether every farm was as its lab said, and nobody was touched in vain."""
    timed("plan from nothing", lambda: upkeep.plan(lab))
    timed("images, for the first time", lambda: images.unpack_all(lab))
    timed("apply from nothing", lambda: upkeep.apply(lab))
    first = runc.states(lab)
    for _ in range(3):
        timed("look and plan", lambda: look(lab).plan(lab))
    timed("apply with nothing to do", lambda: upkeep.apply(lab))
    timed("status", lambda: status.status(lab))
    for what, other in (("one page", page), ("back", lab), ("one site more", more), ("back", lab)):
        with loaded(lab) if load else nullcontext():
            timed(f"apply: {what}", lambda other=other: upkeep.apply(other))  # type: ignore[misc]
    last = runc.states(lab)
    kept = {name for name in first if last[name].pid == first[name].pid}
    rest = set(first) - {replica.name for replica in lab.replicas_of(lab.sites[0].name)}
    whole = upkeep.plan(lab).value.empty
    timed("down", lambda: status.down(lab))
    return whole and kept >= rest


def main() -> int:
    """Prints the times; the exit status is 1 when something was not as it has to be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--load", action="store_true", help="send requests during the changes")
    given = parser.parse_args()
    names = [f"s{number}" for number in range(1, given.sites + 1)]
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make(sites=names, replicas=given.replicas, subnet="10.60.0.0/22")
        more = Lab.of({**lab.model_dump(), "sites": [*names, "one-more"]})
        page = Lab.of({**lab.model_dump(), "sites": [{"name": "s1", "title": "New"}, *names[1:]]})
        return int(not run(lab, more, page, load=given.load))


if __name__ == "__main__":
    sys.exit(main())
