"""Every kind of fault at every request of a publication, once and for good; run by hand, as root:

    .venv/bin/python -m tests.benchmarks.faults

The tests take a sample of these. Each case checks that the page is whole, that a single fault is made up
for, and that the next publication finishes and leaves nothing to do; a case that fails ends the run.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path

from labkit.wiki import server
from labkit.wiki.client import transport
from tests.conftest import lab_maker, open_place
from tests.desks import Desk, opened
from tests.faults import KINDS, Proxy, proxy_to
from tests.test_faults import Case, changed_page, every_place


def cases(desk: Desk, proxy: Proxy, scenario: str, *, kind: str, lasting: bool) -> int:
    """All places of one kind of fault; how many there are."""
    count = 0
    for made, error in every_place(
        lambda: Case(desk, scenario), proxy, lambda place: kind, lasting=lasting
    ):
        assert (error is not None) == lasting, (scenario, kind, count + 1, error)
        made.require_whole()
        made.require_finished()
        count += 1
    return count


def main() -> None:
    """Prints the number of cases, all of which hold."""
    warnings.simplefilter("ignore")
    transport.PAUSE = 0.01
    begun, total = time.monotonic(), 0
    with (
        open_place() as folder,
        lab_maker(folder, folder / "outputs") as make,
        tempfile.TemporaryDirectory() as state,
    ):
        lab = make()
        server.up(lab)
        with proxy_to(lab.wiki.port) as proxy:
            for scenario in ("first", "changed"):
                for kind in KINDS:
                    for lasting in (False, True):
                        title = f"{scenario} {kind} {lasting}"
                        with opened(lab, title, Path(state) / title) as desk:
                            if scenario == "changed":
                                changed_page(desk)
                            count = cases(desk, proxy, scenario, kind=kind, lasting=lasting)
                        total += count
                        print(
                            f"{scenario:8} {kind:13} {'for good' if lasting else 'once':9} {count:3} places"
                        )
    print(f"{total} cases hold, {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
