"""The lab's pages in a real browser: Debian's Chromium, headless, on the host's side of the lab.

The browser resolves names by the lab's own name server, and lives in a process namespace of its
own: whatever it started ends with it. Playwright drives it from a process of its own
(:mod:`labkit.farm.services.browsing`), because its calls may not run inside a notebook's event loop.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from labkit.checks import Check
from labkit.core import run
from labkit.core.journal import Journal
from labkit.core.result import Outcome, action, drafts
from labkit.core.tables import Cell, Table
from labkit.display import counted, quoted
from labkit.errors import CommandError, ConfigError, FarmError, excerpt
from labkit.farm.services import dns, resolver
from labkit.farm.services.browsing import Job, Page, Visits
from labkit.model.config import LABEL
from labkit.model.lab import Lab

#: Debian's package chromium.
PROGRAM = "chromium"
#: No window, no sandbox (which root may not use; the namespaces are one), and nothing but the
#: pages that are asked for: no updates, no proxy of the machine, no QUIC.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)
#: Seconds for the browser's start, and for each page.
START, PATIENCE = 60.0, 15.0
#: More namespaces of the browser's own: its processes end when the first one does.
_UNSHARED = ("--pid", "--fork", "--kill-child", "--mount-proc")


@action("browser.visit")
def visit(lab: Lab, urls: Sequence[str]) -> Outcome[Visits]:
    """What the browser shows of each address, in their order, with a screenshot of each.

    Screenshots are ``figures/page-HOST.png`` in the lab's outputs, once the stage has passed
    (:func:`labkit.core.result.drafts`). A page that cannot be opened
    is a check that fails; :class:`FarmError` is raised when the name server or the browser itself
    does not work, :class:`MachineError` when no browser is installed.
    """
    if not urls:
        raise ConfigError(
            "no address",
            "there is nothing to visit",
            "give one URL or more",
            code="config.no-address",
        )
    require()
    dns.query(lab, lab.domain, "SOA")  # without the name server no page has an address
    labels = names(urls)
    pages = dict(zip(labels, urls, strict=True))
    visits = _look(lab, pages, script=wrapper(lab, PROGRAM), marks={"replica": "#replica"})
    shown = sum(page.status == 200 for page in visits.pages)
    return Outcome(
        value=visits,
        subject=", ".join(labels),
        summary=f"{visits.browser} opened {shown} of {counted(len(urls), 'page')}.",
        checks=tuple(_check(lab, page) for page in visits.pages),
        tables=(_table(visits),),
    )


def require() -> None:
    """Raises :class:`MachineError` when no browser is installed."""
    if run.which(PROGRAM) is None:
        raise run.missing(PROGRAM)


def sites(lab: Lab) -> tuple[str, ...]:
    """The addresses of all sites (through the balancer)."""
    return tuple(lab.url(site.name) for site in lab.sites)


def replicas(lab: Lab) -> tuple[str, ...]:
    """The addresses of all replicas (directly)."""
    return tuple(lab.url(replica.name) for replica in lab.farm)


def at_home(lab: Lab, pages: Mapping[str, str], marks: Mapping[str, str]) -> Visits:
    """What a browser in the machine's own network shows of addresses, by the names of their
    screenshots (``page-wiki``: ``figures/page-wiki.png``); ``marks`` are the elements to read.

    It reaches the hosts of these addresses and no other. Raises what :func:`visit` raises.
    """
    return _look(lab, pages, script=home_wrapper(tuple(pages.values()), PROGRAM), marks=marks)


def rendered(folder: Path, text: str) -> Visits:
    """What the browser shows of a page with this HTML, opened as :func:`visit` opens pages, without any
    network. All that is written goes into ``folder``.

    Raises :class:`MachineError` when no browser is installed, :class:`FarmError` when it does not work.
    """
    require()
    script = _script(["unshare", "--net", *_UNSHARED, "--", PROGRAM])
    job = _job({"page": f"data:text/html,{text}"}, script, {}, folder, folder)
    return _drive(job, folder)


def wrapper(lab: Lab, program: str) -> str:
    """The script that Playwright starts as the browser: it ends when its parent does. Pure."""
    return _script(resolver.command(lab, [program], unshare=_UNSHARED))


def home_wrapper(urls: Sequence[str], program: str) -> str:
    """The same for a browser in the machine's own network, which finds the hosts of ``urls`` alone. Pure."""
    hosts = sorted({urlsplit(url).hostname or "" for url in urls})
    rules = ", ".join(["MAP * ~NOTFOUND", *(f"EXCLUDE {host}" for host in hosts)])
    return _script(
        ["unshare", "--mount", *_UNSHARED, "--", program, f"--host-resolver-rules={rules}"]
    )


def _script(inner: Sequence[str]) -> str:
    return f'#!/bin/sh\nexec setpriv --pdeathsig KILL -- {shlex.join(inner)} "$@"\n'


def _look(lab: Lab, pages: Mapping[str, str], *, script: str, marks: Mapping[str, str]) -> Visits:
    """The pages as the browser that ``script`` starts shows them; their screenshots are drafts."""
    waiting = drafts(lab)
    waiting.mkdir(parents=True, exist_ok=True)
    with _folder(lab) as folder:
        return _drive(_job(pages, script, marks, folder, waiting), folder)


def _job(
    pages: Mapping[str, str], script: str, marks: Mapping[str, str], folder: Path, pictures: Path
) -> Job:
    """What the driver is told; the browser that it starts is ``script``, written into ``folder``."""
    program = folder / "browser"
    program.write_text(script, encoding="utf-8")
    program.chmod(0o755)
    return Job(
        program=str(program),
        urls=tuple(pages.values()),
        screenshots=tuple(f"figures/{name}.png" for name in pages),
        folder=str(pictures),
        flags=FLAGS,
        marks=dict(marks),
        start=START,
        patience=PATIENCE,
    )


@contextmanager
def _folder(lab: Lab) -> Iterator[Path]:
    """A folder for the browser's profile and other files, which are gone afterwards."""
    base = lab.run_dir / "browser"
    Journal.of(lab).intend("folder", path=str(base))
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _drive(job: Job, folder: Path) -> Visits:
    """The job's visits; the browser keeps all that it writes (HOME, TMPDIR) in ``folder``."""
    package = Path(__file__).parents[3]
    argv = run.module("labkit.farm.services.browsing")
    env = {"PYTHONPATH": str(package), "TMPDIR": str(folder), "HOME": str(folder)}
    limit = job.start + job.patience * len(job.urls)
    try:
        done = run.run(argv, stdin=job.model_dump_json(), env=env, timeout=limit)
    except CommandError as error:
        raise FarmError(
            "the browser",
            f"did not work: {excerpt(error.reason)}",
            "`./lab doctor` opens a page in the same way, and installs what is missing",
            error.again,
            code="farm.browser",
        ) from None
    return Visits.model_validate_json(done.stdout)


def names(urls: Sequence[str]) -> list[str]:
    """A file name for each address: ``page-site1`` of ``http://site1.lab.test/``, numbered if needed."""
    found: list[str] = []
    for url in urls:
        label = url.partition("://")[2].partition("/")[0].partition(".")[0]
        name = f"page-{label if LABEL.fullmatch(label) else len(found) + 1}"
        found.append(name if name not in found else f"{name}-{len(found) + 1}")
    return found


def _check(lab: Lab, page: Page) -> Check:
    return Check(
        name=f"browser.{page.name}",
        expected="status 200, with a title and the replica's name, readable",
        seen=page.error
        or f"status {page.status}, {quoted(page.title)}, replica {page.replica or 'none'}{page.unreadable}",
        holds=page.status == 200 and bool(page.title) and bool(page.replica) and not page.boxes,
        rows=("R11",),
        again=f"{resolver.with_dns(lab)} {PROGRAM} --headless --no-sandbox --no-proxy-server --dump-dom {page.url}",
    )


def _table(visits: Visits) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "address": page.url,
            "status": page.status,
            "title": page.title,
            "heading": page.heading,
            "replica": page.replica,
            "took": page.seconds,
        }
        for page in visits.pages
    ]
    return Table.of("pages", "Pages as the browser shows them", rows, units={"took": "s"})
