"""How long it takes to publish the whole report, and how many requests; run by hand:

    .venv/bin/python -m tests.benchmarks.publisher

A report of seven stages and twenty figures is published onto a wiki of the lab's own (as root): first,
with one number changed, unchanged. The same page and pictures are written by plain mwclient calls one
after the other on the same wiki. Each is repeated, in turns, and the medians are told: seconds, requests,
and the ratio to plain mwclient within this run.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mwclient
import requests
from requests.adapters import HTTPAdapter

from labkit import Lab
from labkit.wiki import server
from labkit.wiki.client import session
from labkit.wiki.client.protocol import Upload
from labkit.wiki.merge import fences
from labkit.wiki.merge.fences import Block
from labkit.wiki.publish import publishing
from labkit.wiki.render import wikitext
from labkit.wiki.render.pictures import upload
from tests.conftest import lab_maker, open_place

STAGES = (
    "01-wiki",
    "02-rootfs",
    "03-containers",
    "04-network",
    "05-web",
    "06-balancer",
    "07-report",
)
FIGURES = 20


class Counting(HTTPAdapter):
    """Counts a session's requests."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=10)
        self.count = 0

    def send(self, request: requests.PreparedRequest, *args, **kwargs) -> requests.Response:  # type: ignore[no-untyped-def]
        self.count += 1
        return super().send(request, *args, **kwargs)


def pictures(run: int) -> tuple[Upload, ...]:
    """Twenty figures of some 30 KB as the stages draw them, other ones in each run."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    made = []
    for n in range(FIGURES):
        figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=100)
        axes.bar(range(12), [(n * k + run) % 17 + 1 for k in range(12)])
        axes.set_xlabel(f"figure {n} of run {run}")
        axes.set_ylabel("MB")
        data = io.BytesIO()
        figure.savefig(data, format="png")
        pyplot.close(figure)
        made.append(upload(f"figure-{n}", data.getvalue(), ending="png", text=f"Figure {n}"))
    return tuple(made)


def report(number: int, shown: tuple[Upload, ...]) -> tuple[Block, ...]:
    """The report's blocks: narrative, code, tables and three figures a stage; one number is given."""
    blocks = [fences.block("summary", "", f"Seven stages. It weighs {number} MB.")]
    for place, name in enumerate(STAGES):
        mine = shown[place::7]
        parts = [f"'''Passed''': {20 + place} checks hold.", "What is done, and ''why''. " * 12]
        for part in range(4):
            rows = [[f"{name} {part} {row}", f"{row * 17 % 101}.5", "✔ holds"] for row in range(25)]
            parts.append(wikitext.grid(["what", "MB", "state"], rows, caption="Measured"))
            parts.append(
                wikitext.folded(
                    "Code", wikitext.source("import labkit\nlab = labkit.Lab()\n" * 4, "python")
                )
            )
        parts += [wikitext.image(item.name, alt=item.text, caption=item.text) for item in mine]
        if place == 1:
            parts.append(f"The smallest weighs {number} MB.")
        blocks.append(fences.block(name, f"== Stage {name} ==", "\n\n".join(parts)))
    return tuple(blocks)


class Bench:
    """One wiki, on which both ways publish."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.wire, self.plain_wire = Counting(), Counting()
        self.bot = session.open(lab)
        self.bot.connection.mount("http://", self.wire)
        self.plain = mwclient.Site(f"127.0.0.1:{lab.wiki.port}", path="/w/", scheme="http")
        self.plain.connection.mount("http://", self.plain_wire)
        word = session.passwords(lab).publish.get_secret_value()
        self.plain.login(f"{session.BOT}@{session.APP}", word)
        self.plain.get_token("csrf")

    def timed(self, wire: Counting, act: Callable[[], object]) -> tuple[float, int]:
        """Seconds and requests of an act."""
        wire.count, start = 0, time.perf_counter()
        act()
        return time.perf_counter() - start, wire.count

    def ours(self, run: int, number: int, shown: tuple[Upload, ...]) -> tuple[float, int]:
        """labkit publishes."""
        return self.timed(
            self.wire,
            lambda: publishing.apply(
                self.bot, f"Report {run}", report(number, shown), shown, folder=self.folder
            ),
        )

    def theirs(self, run: int, number: int, shown: tuple[Upload, ...]) -> tuple[float, int]:
        """mwclient uploads each picture and saves the page."""

        def act() -> None:
            for item in shown:
                self.plain.upload(
                    io.BytesIO(item.data), item.name, description=item.text, ignore=True
                )
            text = "\n\n".join(block.text for block in report(number, shown))
            self.plain.pages[f"Plain {run}"].edit(text, summary="report")

        return self.timed(self.plain_wire, act)


def measure(lab: Lab, folder: Path, runs: int) -> dict[str, list[tuple[float, int]]]:
    """Each way's times, run after run."""
    bench = Bench(lab, folder)
    found: dict[str, list[tuple[float, int]]] = {}

    def note(name: str, value: tuple[float, int]) -> None:
        found.setdefault(name, []).append(value)
        print(f"  {name}: {value[0]:.2f} s, {value[1]} requests", file=sys.stderr)

    with closing(bench.bot.connection), closing(bench.plain.connection):
        for run in range(runs + 1):
            one, two = pictures(2 * run), pictures(2 * run + 1)
            if run % 2:
                plain = bench.theirs(run, 250, two)
                first = bench.ours(run, 250, one)
            else:
                first = bench.ours(run, 250, one)
                plain = bench.theirs(run, 250, two)
            if run == 0:
                continue  # fills PHP's caches
            note("plain mwclient, first", plain)
            note("labkit, first", first)
            note("plain mwclient, one number changed", bench.theirs(run, 171, ()))
            note("labkit, one number changed", bench.ours(run, 171, one))
            note("labkit, unchanged", bench.ours(run, 171, one))
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--database", choices=("sqlite", "mariadb"), default="sqlite")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with (
        open_place() as folder,
        lab_maker(folder, folder / "outputs") as make,
        tempfile.TemporaryDirectory() as state,
    ):
        lab = make(wiki_database=given.database)
        server.up(lab)
        found = measure(lab, Path(state), given.runs)
    base = {name: statistics.median(seconds for seconds, _ in rows) for name, rows in found.items()}
    print(f"{'':40} seconds  requests  ratio")
    for name, rows in found.items():
        what = name.partition(", ")[2]
        ratio = (
            base[name] / base[f"plain mwclient, {what}"]
            if f"plain mwclient, {what}" in base
            else float("nan")
        )
        print(
            f"{name:40} {base[name]:7.2f}  {statistics.median(n for _, n in rows):8.0f}  {ratio:5.2f}"
        )


if __name__ == "__main__":
    main()
