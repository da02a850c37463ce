"""Shows a batch's progress: a live table on a terminal, plain lines elsewhere; and how to go on when it is over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from labkit.core.progress import told
from labkit.display import about, curl, shown
from labkit.errors import StateError
from labkit.farm.network import host
from labkit.farm.services import dns_server
from labkit.model.lab import Lab
from labkit.report.batch.schedule import left
from labkit.report.stages import record as records
from labkit.report.stages.assignment import StagePlan
from labkit.wiki import server

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

log = logging.getLogger("labkit.rebuild")

#: Seconds between two lines about what goes on, where the output is not a terminal.
EVERY = 20.0
#: The most characters about each stage in such a line.
SHOWN = 90
#: A stage's states: the mark and the style that go with each word.
STATES = {
    "waiting": ("·", "dim"),
    "running": ("▶", "bold cyan"),
    "passed": ("✔", "bold green"),
    "unchanged": ("=", "green"),
    "failed": ("✘", "bold red"),
    "not run": ("–", "yellow"),
    "ended": ("■", "yellow"),
}


@dataclass
class Line:
    """How far one stage is."""

    state: str = "waiting"
    note: str = ""
    begun: float = 0.0
    seconds: float = 0.0
    doing: Path | None = None

    @property
    def told(self) -> str:
        """Its note, and what the running cell is doing just now."""
        now = told(self.doing) if self.doing and self.state == "running" else ""
        return f"{self.note}: {now}" if now else self.note


class Progress:
    """Shows what the stages do. Used as a context; without a console it only writes the log."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console
        self._lines: dict[str, Line] = {}
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._plans: Sequence[StagePlan] = ()
        self._seconds: Mapping[str, float] = {}
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Progress:
        if self.console and self.console.is_terminal:
            from rich.live import Live

            live = Live(get_renderable=self._table, console=self.console, refresh_per_second=8)
            self._stack.enter_context(live)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stack.close()

    def expect(self, names: Iterable[str]) -> None:
        """These stages will be shown, in this order."""
        self._lines = {name: Line() for name in names}

    def estimate(self, plans: Sequence[StagePlan], seconds: Mapping[str, float]) -> None:
        """These stages take so many seconds each; the others of ``plans`` need not run."""
        self._plans, self._seconds = plans, seconds

    @property
    def clock(self) -> str:
        """How much time has passed, and about how much is left; '' when nothing is to run."""
        if not self._seconds:
            return ""
        now = time.monotonic()
        lines = self._lines.items()
        over = [name for name, line in lines if line.state not in ("waiting", "running")]
        ran = {name: now - line.begun for name, line in lines if line.begun}
        rest = {name: max(0.0, all_ - ran.get(name, 0.0)) for name, all_ in self._seconds.items()}
        seconds, passed = left(self._plans, rest, over), f"{about(now - self._began)} passed"
        if seconds:
            return f"{passed}, about {about(seconds)} left"
        return f"{passed}, longer than expected" if len(over) < len(lines) else passed

    def tick(self) -> None:
        """Writes now and then what goes on: for a log, in which there is no table."""
        if time.monotonic() - self._told > EVERY:
            running = [(name, line) for name, line in self._lines.items() if line.begun]
            said = " · ".join(f"{name}: {line.told[:SHOWN]}" for name, line in running)
            self._say(f"{self.clock} · {said}")

    def begin(self, name: str, why: str) -> None:
        """A stage begins to run."""
        with self._lock:
            self._lines[name] = Line("running", why, time.monotonic())
        self._say(f"{name}: runs, {why}")

    def watch(self, name: str, path: Path) -> None:
        """The stage writes into this file what it is doing (:mod:`labkit.core.progress`)."""
        with self._lock:
            self._lines[name].doing = path

    def cell(self, name: str, number: int, total: int) -> None:
        """A stage's notebook has come to this cell."""
        with self._lock:
            self._lines[name].note = f"cell {number} of {total}"
        log.debug("%s: cell %d of %d", name, number, total)

    def note(self, name: str) -> str:
        """What is shown beside a stage now."""
        return self._lines[name].told

    def end(self, name: str, state: str, seconds: float, note: str) -> None:
        """A stage has this state now."""
        with self._lock:
            self._lines[name] = Line(state, note, 0.0, seconds)
        took = f" after {seconds:.1f} s" if seconds else ""
        clock = f" ({self.clock})" if took and self.clock else ""
        self._say(f"{name}: {state}{took}{', ' + note if note else ''}{clock}")

    def say(self, text: str) -> None:
        """A line about the whole batch."""
        self._say(text)
        if self.console and self.console.is_terminal:
            self._print(text)

    def _say(self, text: str) -> None:
        self._told = time.monotonic()
        log.info("%s", text)
        if self.console and not self.console.is_terminal:
            self._print(f"{time.strftime('%H:%M:%S')} {text}")

    def _print(self, line: str) -> None:
        """A line on the console; a reader that went away (``| head``) is no reason to stop working."""
        try:
            if self.console:
                self.console.print(shown(line), markup=False, highlight=False, soft_wrap=True)
        except (OSError, SystemExit):  # rich makes the latter of a broken pipe
            self.console = None

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="ellipsis", no_wrap=True)
        with self._lock:
            for name, line in self._lines.items():
                mark, style = STATES[line.state]
                seconds = time.monotonic() - line.begun if line.begun else line.seconds
                table.add_row(
                    name,
                    Text(f"{mark} {line.state}", style=style),
                    f"{seconds:.1f} s" if seconds else "",
                    Text(shown(line.told), style="dim"),
                )
            table.caption = self.clock
        return table


def next_steps(lab: Lab, site: Path, *, whole: bool = True) -> tuple[tuple[str, str], ...]:
    """Headings with their texts, without any password: the review site (``site`` is its index) and, for the
    ``whole`` lab once its report was published, how to use it."""
    review = ("Review site", str(site))
    if not whole or not report_address(lab):
        return (review,)
    return (*_report(lab), *_sites(lab), review, *_next())


def report_address(lab: Lab) -> str:
    """Where the report was published last, '' when it never was, or when that cannot be read any more."""
    try:
        found = [result for record in records.latest(lab) for result in record.results]
    except StateError:
        return ""
    return next((item.subject for item in found if item.action == "report.publish"), "")


def _report(lab: Lab) -> Iterator[tuple[str, str]]:
    yield "Report", report_address(lab)
    if not lab.wiki.url:
        login = server.login_page(lab)
        yield (
            "Log in",
            f"{login.url} as {', '.join(login.accounts[:-1])} or {login.accounts[-1]}; the passwords:",
        )
        yield "", f"sudo cat {login.passwords}"


def _sites(lab: Lab) -> Iterator[tuple[str, str]]:
    """The commands bring the address along: only the lab's own name server has the sites' names."""
    name, url, ip = lab.host_name(lab.sites[0].name), lab.url(lab.sites[0].name), lab.gateway.ip
    rules = f"--no-proxy-server --host-resolver-rules='MAP *.{lab.domain} {ip}'"
    within = "sudo " if lab.netns else ""
    chromium = "chromium --no-sandbox" if lab.netns else "chromium"
    asked = curl(url, options=f"--resolve {name}:{lab.proxy.port}:{ip}")
    yield "Sites", ", ".join(lab.url(site.name) for site in lab.sites)
    yield "", "only the lab's DNS has these names; this looks one up, asks it, and opens it:"
    yield "", f"sudo {dns_server.with_dns(lab)} getent hosts {name}"
    yield "", within + host.again(lab, asked)
    yield "", within + host.again(lab, f"{chromium} {rules} {url}")


def _next() -> Iterator[tuple[str, str]]:
    yield (
        "Next",
        "write a line that begins with REX> on the report's page; ./lab remarks lists them",
    )
    yield "", "./lab notebook opens the stages in JupyterLab; sudo ./lab down takes the lab down"
