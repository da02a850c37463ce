"""Shows a batch's progress: a live table on a terminal, plain lines elsewhere; and how to go on when it is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

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
    "skipped": ("–", "dim"),
    "failed": ("✘", "bold red"),
    "not run": ("–", "yellow"),
    "ended": ("■", "yellow"),
}


@dataclass
class Line:
    """A stage's state; ``begun`` is 0.0 unless it runs, ``doing`` the file in which it writes what it is doing."""

    state: str = "waiting"
    note: str = ""
    begun: float = 0.0
    seconds: float = 0.0
    doing: Path | None = None

    @property
    def told(self) -> str:
        """Its note and, while it runs, what its cell is doing."""
        now = told(self.doing) if self.doing and self.state == "running" else ""
        return f"{self.note}: {now}" if now else self.note


class Progress(ExitStack):
    """Shows the progress of the stages. A context manager; without a console it only writes the log."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console
        self._lines: dict[str, Line] = {}
        self._plans: Sequence[StagePlan] = ()
        self._seconds: Mapping[str, float] = {}
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Self:
        if self.console and self.console.is_terminal:
            from rich.live import Live

            live = Live(get_renderable=self._table, console=self.console, refresh_per_second=8)
            self.enter_context(live)
        return self

    def expect(self, names: Iterable[str]) -> None:
        """Shows these stages from now on, in this order."""
        self._lines = {name: Line() for name in names}

    def estimate(self, plans: Sequence[StagePlan], seconds: Mapping[str, float]) -> None:
        """Sets how many seconds the stages take; those of ``plans`` without a number need not run."""
        self._plans, self._seconds = plans, seconds

    @property
    def clock(self) -> str:
        """The elapsed and the estimated remaining time; '' if nothing has to run."""
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
        """Writes the running stages' progress, at most every :data:`EVERY` seconds, where there is no live table."""
        if time.monotonic() - self._told > EVERY:
            running = [(name, line) for name, line in self._lines.items() if line.begun]
            said = " · ".join(f"{name}: {line.told[:SHOWN]}" for name, line in running)
            self._say(f"{self.clock} · {said}")

    def begin(self, name: str, why: str, doing: Path | None = None) -> None:
        """Notes that a stage runs now. It writes its progress into the file ``doing``
        (:mod:`labkit.core.progress`)."""
        self._lines[name] = Line("running", why, time.monotonic(), doing=doing)
        self._say(f"{name}: runs, {why}")

    def cell(self, name: str, number: int, total: int) -> None:
        """Notes the number of the cell that a stage executes."""
        self._lines[name].note = f"cell {number} of {total}"
        log.debug("%s: cell %d of %d", name, number, total)

    def note(self, name: str) -> str:
        """The text beside a stage."""
        return self._lines[name].told

    def end(self, name: str, state: str, seconds: float, note: str) -> None:
        """Notes the state in which a stage ended."""
        self._lines[name] = Line(state, note, 0.0, seconds)
        took = f" after {seconds:.1f} s" if seconds else ""
        clock = f" ({self.clock})" if took and self.clock else ""
        self._say(f"{name}: {state}{took}{', ' + note if note else ''}{clock}")

    def say(self, text: str) -> None:
        """Writes a line about the whole batch."""
        self._say(text, table=False)

    def _say(self, text: str, *, table: bool = True) -> None:
        """Writes a line in the log and on the console, unless its ``table`` shows the same."""
        self._told = time.monotonic()
        log.info("%s", text)
        if self.console is None or (table and self.console.is_terminal):
            return
        clock = "" if self.console.is_terminal else time.strftime("%H:%M:%S ")
        try:
            self.console.print(shown(clock + text), markup=False, highlight=False, soft_wrap=True)
        except (
            OSError,
            SystemExit,
        ):  # a broken pipe (``| head``), for which rich exits, ends no batch
            self.console = None

    def _table(self) -> Table:
        from rich.table import Column, Table
        from rich.text import Text

        table = Table(
            Column(no_wrap=True), Column(no_wrap=True), Column(justify="right", no_wrap=True),
            Column(overflow="ellipsis", no_wrap=True),
            box=None, pad_edge=False, show_header=False, caption=self.clock,
        )  # fmt: skip
        for name, line in self._lines.items():
            mark, style = STATES[line.state]
            seconds = time.monotonic() - line.begun if line.begun else line.seconds
            state, note = (
                Text(f"{mark} {line.state}", style=style),
                Text(shown(line.told), style="dim"),
            )
            table.add_row(name, state, f"{seconds:.1f} s" if seconds else "", note)
        return table


def next_steps(lab: Lab, site: Path, *, whole: bool = True) -> tuple[tuple[str, str], ...]:
    """Headings with their texts, without any password: the review site (``site`` is its index) and, for the
    ``whole`` lab once its report was published, how to use it."""
    review = ("Review site", str(site))
    if not whole or not report_address(lab):
        return (review,)
    return (
        ("Report", report_address(lab)),
        *_login(lab),
        *_sites(lab),
        review,
        (
            "Next",
            "write a line that begins with REX> on the report's page; ./lab remarks lists them",
        ),
        ("", "./lab notebook opens the stages in JupyterLab; sudo ./lab down takes the lab down"),
    )


def report_address(lab: Lab) -> str:
    """The address of the last published report; '' if there is none or its record cannot be read."""
    try:
        found = [result for record in records.latest(lab) for result in record.results]
    except StateError:
        return ""
    return next((item.subject for item in found if item.action == "report.publish"), "")


def _login(lab: Lab) -> tuple[tuple[str, str], ...]:
    """How a person logs in to the lab's own wiki."""
    if lab.wiki.url:
        return ()
    page = server.login_page(lab)
    who = f"{', '.join(page.accounts[:-1])} or {page.accounts[-1]}"
    return ("Log in", f"{page.url} as {who}; the passwords:"), ("", f"sudo cat {page.passwords}")


def _sites(lab: Lab) -> tuple[tuple[str, str], ...]:
    """Commands that open the sites. They contain the address, because only the lab's name server knows the sites'
    names."""
    name, url, ip = lab.host_name(lab.sites[0].name), lab.url(lab.sites[0].name), lab.gateway.ip
    rules = f"--no-proxy-server --host-resolver-rules='MAP *.{lab.domain} {ip}'"
    within = "sudo " if lab.netns else ""
    chromium = "chromium --no-sandbox" if lab.netns else "chromium"
    asked = curl(url, options=f"--resolve {name}:{lab.proxy.port}:{ip}")
    return (
        ("Sites", ", ".join(lab.url(site.name) for site in lab.sites)),
        ("", "only the lab's DNS has these names; this looks one up, asks it, and opens it:"),
        ("", f"sudo {dns_server.with_dns(lab)} getent hosts {name}"),
        ("", within + host.again(lab, asked)),
        ("", within + host.again(lab, f"{chromium} {rules} {url}")),
    )
