"""A student's way in: a stage's notebook, opened in JupyterLab in a real browser and run cell by cell."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from labkit import Lab
from labkit.core import run
from labkit.farm.services import browser
from labkit.report import Stage, status
from tests import proc, stage_notebooks
from tests.conftest import free_port, lab_maker, open_place

if TYPE_CHECKING:
    from playwright.sync_api import Page

STAGE = "04-network"
#: Milliseconds for one step in the browser, and for all cells of the notebook.
STEP, CELLS = 300_000, 600_000
#: The kind of an output, as JupyterLab has chosen it.
MIME = "element => element.dataset.mimeType"


@dataclass(frozen=True)
class Seen:
    """What was there after all cells had run: on the page, and in the notebook that was saved."""

    lab: Lab
    mimes: list[str]
    picture: Path
    asked: list[str]
    notebook: dict[str, Any]


@contextmanager
def jupyterlab(file: Path, home: Path) -> Iterator[str]:
    """``labkit notebook`` on a lab's file; yields the address with the token that it prints."""
    log = home / "jupyterlab.log"
    argv = [sys.executable, "-m", "labkit", "notebook", "--port", str(free_port()), "-c", str(file)]  # fmt: skip
    enter = ["env", f"--chdir={file.parent}", *argv]
    with log.open("wb") as output:
        server = run.start(enter, env={"HOME": str(home), "PYTHONPATH": str(file.parent)}, output=output)  # fmt: skip
    try:
        until = time.monotonic() + STEP / 1000
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/lab\?token=\w+", log.read_text())):
            assert server.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        yield found[0]
    finally:
        os.kill(server.pid, signal.SIGTERM)
        server.wait(30)


@contextmanager
def chromium(home: Path) -> Iterator[Page]:
    """A page of a browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=run.which(browser.PROGRAM),
            args=list(browser.FLAGS),
            env={"HOME": str(home), "TMPDIR": str(home)},
        )
        page = started.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(STEP)
        yield page
        started.close()


def run_all_cells(page: Page, address: str) -> None:
    """Opens the notebook and chooses Run, Run All Cells; returns when the last one shows its output."""
    page.goto(address.replace("/lab?", f"/lab/tree/{STAGE}.ipynb?"))
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last = page.locator(".jp-Notebook .jp-CodeCell").last.locator(".jp-OutputArea-output")
    failed = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    last.or_(failed).first.wait_for(timeout=CELLS)


def save(page: Page, file: Path) -> dict[str, Any]:
    """Saves the notebook as a student would; what is in the file then."""
    before = file.stat().st_mtime_ns
    page.keyboard.press("Control+s")
    until = time.monotonic() + STEP / 1000
    while file.stat().st_mtime_ns == before:
        assert time.monotonic() < until
        page.wait_for_timeout(50)
    page.locator(".jp-mod-dirty").wait_for(state="detached")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """One stage's notebook run once, on a machine where no stage ran before."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make()
        file = stage_notebooks.clone(folder / "project", lab)
        with jupyterlab(file, folder) as address, chromium(folder) as page:
            run_all_cells(page, address)
            picture = folder / "figure.png"
            page.locator("[data-mime-type='image/png'] img").screenshot(path=picture)
            yield Seen(
                lab=lab,
                mimes=page.locator(".jp-OutputArea-output").evaluate_all(f"all => all.map({MIME})"),
                picture=picture,
                asked=page.locator(".jp-Dialog, .Toastify__toast").all_text_contents(),
                notebook=save(page, file.parent / "notebooks" / f"{STAGE}.ipynb"),
            )
        left = proc.command_lines(str(folder)).values()
        assert not [words for words in left if "ipykernel_launcher" in " ".join(words)]
        status.down(lab)  # faster than one container after the other


@pytest.mark.root
def test_all_cells_run_in_order(seen: Seen) -> None:
    """The saved notebook has every cell's number, one after the other, and no error. A notebook run by hand leaves the
    record that the report is made from."""
    cells = [cell for cell in seen.notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds == {"execute_result"}
    record = Stage.load(seen.lab, STAGE)
    assert (record.state, record.closed) == ("passed", True)
    assert record.held == len(record.checks)
    recorded = [n for n, cell in enumerate(cells, 1) if "stage.record(" in "".join(cell["source"])]
    assert [entry.cell for entry in record.entries] == recorded


@pytest.mark.root
def test_page_shows_results_and_asks_nothing(seen: Seen) -> None:
    """Each result, and what a cell computes of one, is a table or a picture on the page; nothing is red. JupyterLab
    asks neither for a kernel nor whether it may fetch news from outside."""
    cells = [cell for cell in seen.notebook["cells"] if cell["cell_type"] == "code"]
    assert len(seen.mimes) == len(cells) - 2  # the parameters and the imports show nothing
    assert set(seen.mimes) == {"text/html", "image/png"}
    assert seen.asked == []


@pytest.mark.root
def test_figure_is_drawn(seen: Seen) -> None:
    """The screen has the figure, across the cell's width, in its colours: it is no blank one."""
    from matplotlib import image

    pixels = image.imread(seen.picture)[:, :, :3]
    height, width, _ = pixels.shape
    assert width > 600
    assert len({tuple(colour) for colour in pixels.reshape(height * width, 3).tolist()}) > 100
