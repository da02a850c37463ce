"""Playwright's side of :mod:`labkit.farm.services.browser`, a process of its own: a job in, visits out (JSON)."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from labkit.core import fonts
from labkit.records import Record

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

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


class Job(Record):
    """What to open: ``screenshots`` has a path for each of ``urls``, relative to the lab's outputs;
    ``folder`` is where they wait meanwhile; ``marks`` are the elements whose text is read, a CSS
    selector by its name."""

    program: str
    urls: tuple[str, ...]
    screenshots: tuple[str, ...]
    folder: str
    flags: tuple[str, ...]
    marks: dict[str, str]
    start: float
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


def browse(job: Job) -> Visits:
    """Opens each address in one browser, each in a page of its own, and closes the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=job.program, args=list(job.flags), timeout=job.start * 1000
        )
        width, height = SIZE
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(job.patience * 1000)
        pages = [_open(context, job, place) for place in range(len(job.urls))]
        version = f"Chromium {browser.version}"
        browser.close()
    return Visits(browser=version, pages=tuple(pages))


def _open(context: BrowserContext, job: Job, place: int) -> Page:
    """What came of an address. Where the network was changed while it was opened (an address, how names are
    resolved), Chromium gives up; a person's own opens it again by itself."""
    for _ in range(AGAIN):
        page = _show(context, job, place)
        if CHANGED not in page.error:
            return page
    return _show(context, job, place)


def _show(context: BrowserContext, job: Job, place: int) -> Page:
    from playwright.sync_api import Error

    url, screenshot = job.urls[place], job.screenshots[place]
    name = screenshot.rpartition("/")[2].removeprefix("page-").removesuffix(".png")
    page = context.new_page()
    started = time.monotonic()
    try:
        response = page.goto(url)
        seconds = time.monotonic() - started
        page.screenshot(path=f"{job.folder}/{screenshot.rpartition('/')[2]}")
        heading, *marks = (
            page.evaluate("one => document.querySelector(one)?.textContent.trim() ?? ''", selector)
            for selector in ("h1", *job.marks.values())
        )
        return Page(
            name=name,
            url=url,
            status=response.status if response else 0,
            title=page.title(),
            heading=heading,
            marks=dict(zip(job.marks, marks, strict=True)),
            screenshot=screenshot,
            seconds=round(seconds, 4),
            boxes=page.evaluate(BOXES),
        )
    except Error as error:
        seconds = time.monotonic() - started
        return Page(
            name=name, url=url, status=0, title="", heading="", marks={}, screenshot="",
            seconds=round(seconds, 4), error=error.message.splitlines()[0],
        )  # fmt: skip
    finally:
        page.close()


if __name__ == "__main__":
    sys.tracebacklimit = 0  # what the driver and the browser say is the error
    print(browse(Job.model_validate_json(sys.stdin.read())).model_dump_json())
