"""Arbitrary texts in every place of a page, by the thousand, on a wiki of the benchmark's own.

As root, from the project's folder: ``python -m tests.benchmarks.rendering [TEXTS [SEED]]``. It prints the
number of texts, of boxes (a text in a place) and of requests, the seconds that they took, and each box
that did not come back as it went in; it exits 1 when there is one.
"""

from __future__ import annotations

import sys
import time

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from labkit import Lab
from labkit.wiki import server
from labkit.wiki.client import session
from tests import inert
from tests.conftest import lab_maker, open_place

#: Texts in one page.
BATCH = 64


def main(texts: int = 20_000, first: int = 1) -> int:
    """Runs the benchmark; returns the exit status."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make()
        server.up(lab)
        report, took = measure(lab, texts, first)
    print(
        f"{report.examples} texts, {report.boxes} boxes, {report.requests} requests, "
        f"{took:.0f} s, {len(report.wrong)} failures (seed {first})"
    )
    for wrong in report.wrong[:20]:
        print(wrong)
    return 1 if report.wrong else 0


def measure(lab: Lab, texts: int, first: int) -> tuple[inert.Report, float]:
    """Asks the lab's wiki about so many texts; what came back, and the seconds that it took."""
    site = session.open(lab)
    inert.put_picture(site)
    report, begun = inert.Report(), time.monotonic()

    @seed(first)
    @settings(
        max_examples=-(-texts // BATCH), phases=[Phase.generate], deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(batch=st.lists(inert.TEXT, min_size=BATCH, max_size=BATCH))
    def ask(batch: list[str]) -> None:
        inert.examine(site, batch, report)
        if report.requests % 50 == 0:
            print(f"{report.examples} texts, {len(report.wrong)} failures", flush=True)

    ask()
    site.connection.close()
    return report, time.monotonic() - begun


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
