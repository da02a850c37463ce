"""The lab's pages in a real browser: Debian's Chromium, headless, on the host's side of the lab.

The browser resolves names by the lab's name server and lives in a process namespace, which ends with it and
with whatever it started. Playwright's calls may not run inside a notebook's event loop: this module drives it
as a program (``python -m labkit.farm.services.browser``), a :class:`Job` in and :class:`Visits` out, as JSON.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from labkit.checks import Check
from labkit.core import fonts, run
from labkit.core.journal import Journal
from labkit.core.result import Outcome, action, drafts
from labkit.core.tables import Table
from labkit.display import counted, quoted
from labkit.errors import CommandError, ConfigError, FarmError, excerpt
from labkit.farm.services import dns
from labkit.farm.services.dns_server import resolving, with_dns
from labkit.model.config import LABEL
from labkit.model.lab import Lab
from labkit.records import Record

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

__all__ = ["replicas", "visit"]

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
#: The size of a page's window, in pixels of the page.
SIZE = (960, 540)
#: What Chromium says when it gave up because the network was changed, and how often the page is opened again then.
CHANGED, AGAIN = "net::ERR_NETWORK_CHANGED", 2
#: Finds a page's characters that no font has: they are drawn like U+0378, which is not in Unicode.
BOXES = """() => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 48;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const drawn = (text, font) => {
    context.clearRect(0, 0, 48, 48);
    context.font = font;
    context.fillText(text, 4, 36);
    return context.getImageData(0, 0, 48, 48).data.join();
  };
  const blank = /[\\s\\p{Default_Ignorable_Code_Point}]/u;  // a font's box may be blank, too
  const boxes = new Set(), texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    if (!texts.currentNode.parentElement.checkVisibility()) continue;
    const others = [...new Set(texts.currentNode.data)].filter(one => one > '\\u009f' && !blank.test(one));
    const font = `24px ${getComputedStyle(texts.currentNode.parentElement).fontFamily}`;
    const box = others.length ? drawn('\\u0378', font) : '';
    others.filter(one => drawn(one, font) === box).forEach(one => boxes.add(one));
  }
  return [...boxes].join('');
}"""


def __dir__() -> list[str]:
    return __all__


class Job(Record):
    """What to open: ``pages`` are addresses by the names of their screenshots, which are written into
    ``folder``; ``marks`` are the elements whose text is read, a CSS selector by its name; ``patience`` the seconds for each."""

    program: str
    pages: dict[str, str]
    folder: str
    marks: dict[str, str]
    patience: float


class Page(Record):
    """What the browser showed of one address; ``error`` says why there is nothing (status 0).

    ``marks`` has the text of each element that was asked for, '' where there is none;
    ``screenshot`` is relative to the lab's outputs; ``seconds`` until the page was loaded; ``boxes`` are
    the characters that no font has.
    """

    name: str
    url: str
    status: int
    title: str
    heading: str
    marks: dict[str, str]
    screenshot: str
    seconds: float
    error: str = ""
    boxes: str = ""

    @property
    def unreadable(self) -> str:
        """The words about characters in the picture that no font has, '' without any."""
        return f"; boxes in the picture: {fonts.missing(self.boxes)}" if self.boxes else ""

    @property
    def replica(self) -> str:
        """The replica that the page says has served it, '' when it says none."""
        return self.marks.get("replica", "")


class Visits(Record):
    """The browser's name and version, and the pages in the order of their addresses."""

    browser: str
    pages: tuple[Page, ...]


@action("browser.visit")
def visit(lab: Lab, urls: Sequence[str]) -> Outcome[Visits]:
    """Opens each address in the browser, in their order, with a screenshot of each.

    Screenshots are ``figures/page-HOST.png`` in the lab's outputs, once the stage has passed
    (:func:`labkit.core.result.drafts`). The table ``pages`` has one row an address. A page that cannot be
    opened is a check that fails; :class:`FarmError` is raised when the name server or the browser itself
    does not work, :class:`MachineError` when no browser is installed.

    Example: ``browser.visit(lab, browser.replicas(lab)).value.pages[0].title``
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


def replicas(lab: Lab) -> tuple[str, ...]:
    """Returns the URL of each replica at its own name, not through the balancer."""
    return tuple(lab.url(replica.name) for replica in lab.farm)


def at_home(lab: Lab, pages: Mapping[str, str], marks: Mapping[str, str]) -> Visits:
    """Opens addresses in a browser in the machine's network, by the names of their screenshots (``page-wiki``: ``figures/page-wiki.png``); ``marks`` are the elements to read.

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
    return _drive({"page": f"data:text/html,{text}"}, script, {}, folder, folder)


def wrapper(lab: Lab, program: str) -> str:
    """The script that Playwright starts as the browser: it ends when its parent does. Pure."""
    return _script(resolving(lab, [program], unshare=_UNSHARED))


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
        return _drive(pages, script, marks, folder, waiting)


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


def _drive(
    pages: Mapping[str, str], script: str, marks: Mapping[str, str], folder: Path, pictures: Path
) -> Visits:
    """The pages as the browser that ``script`` starts shows them; the browser keeps all that it writes (HOME,
    TMPDIR) in ``folder``, and the screenshots go into ``pictures``."""
    program = folder / "browser"
    program.write_text(script, encoding="utf-8")
    program.chmod(0o755)
    job = Job(
        program=str(program), pages=dict(pages), folder=str(pictures), marks=dict(marks), patience=PATIENCE
    )  # fmt: skip
    argv = run.module("labkit.farm.services.browser")
    env = {
        "PYTHONPATH": str(Path(__file__).parents[3]), "TMPDIR": str(folder), "HOME": str(folder),
    }  # fmt: skip
    limit = START + PATIENCE * len(pages)
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
        again=f"{with_dns(lab)} {PROGRAM} --headless --no-sandbox --no-proxy-server --dump-dom {page.url}",
    )


def _table(visits: Visits) -> Table:
    rows = [
        {**page.model_dump(), "address": page.url, "replica": page.replica, "took": page.seconds}
        for page in visits.pages
    ]
    columns = ("address", "status", "title", "heading", "replica", "took")
    title, units = "Pages as the browser shows them", {"took": "s"}
    return Table.of("pages", title, rows, columns=columns, units=units)


def browse(job: Job) -> Visits:
    """Opens each address in a new page of one browser, and closes the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=job.program, args=list(FLAGS), timeout=START * 1000
        )
        width, height = SIZE
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(job.patience * 1000)
        pages = [_open(context, job, name) for name in job.pages]
        version = f"Chromium {browser.version}"
        browser.close()
    return Visits(browser=version, pages=tuple(pages))


def _open(context: BrowserContext, job: Job, name: str) -> Page:
    """One page. Where the network was changed while it was opened (an address, how names are resolved),
    Chromium gives up; a person's browser opens it again by itself."""
    for _ in range(AGAIN):
        page = _show(context, job, name)
        if CHANGED not in page.error:
            return page
    return _show(context, job, name)


def _show(context: BrowserContext, job: Job, name: str) -> Page:
    from playwright.sync_api import Error

    url, label = job.pages[name], name.removeprefix("page-")
    page = context.new_page()
    started = time.monotonic()
    try:
        response = page.goto(url)
        seconds = time.monotonic() - started
        page.screenshot(path=f"{job.folder}/{name}.png")
        heading, *marks = (
            page.evaluate("one => document.querySelector(one)?.textContent.trim() ?? ''", selector)
            for selector in ("h1", *job.marks.values())
        )
        return Page(
            name=label,
            url=url,
            status=response.status if response else 0,
            title=page.title(),
            heading=heading,
            marks=dict(zip(job.marks, marks, strict=True)),
            screenshot=f"figures/{name}.png",
            seconds=round(seconds, 4),
            boxes=page.evaluate(BOXES),
        )
    except Error as error:
        seconds = time.monotonic() - started
        return Page(
            name=label, url=url, status=0, title="", heading="", marks={}, screenshot="",
            seconds=round(seconds, 4), error=error.message.splitlines()[0],
        )  # fmt: skip
    finally:
        page.close()


if __name__ == "__main__":
    sys.tracebacklimit = 0  # what the driver and the browser say is the error
    print(browse(Job.model_validate_json(sys.stdin.read())).model_dump_json())
