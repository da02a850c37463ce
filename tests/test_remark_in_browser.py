"""A teacher's remark, made in a real browser in MediaWiki's plain text editor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from labkit import Figure, Lab
from labkit.report.batch.notebook import write_lab_file
from labkit.report.page import publication
from labkit.wiki.client.session import origin
from tests import executed
from tests.desks import password
from tests.test_cli import labkit
from tests.test_dialogue import of_its_own
from tests.test_publication import PNG, ran, result

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.root


def published(lab: Lab, megabytes: int, run: str) -> None:
    """The stage has run, with a figure, and the report is published."""
    executed.draw(lab, run, "sizes.png", PNG)
    figure = Figure(name="sizes", png="figures/sizes.png", svg="", alt="Sizes as bars", caption="")
    ran(lab, result(megabytes, run), figure, run=run)
    assert publication.publish(lab).holds


def log_in(page: Page, lab: Lab) -> None:
    """The teacher logs in by the wiki's own form."""
    page.goto(f"{origin(lab)}/w/index.php?title=Special:UserLogin")
    page.fill("#wpName1", "Teacher")
    page.fill("#wpPassword1", password(lab, "Teacher"))
    page.click("#wpLoginAttempt")
    page.wait_for_selector("#pt-userpage")


def remark(page: Page, lab: Lab, heading: str, line: str, words: str) -> None:
    """The teacher opens that section in the plain text editor, adds a line below another, and saves."""
    page.goto(f"{origin(lab)}/wiki/{lab.wiki.page.replace(' ', '_')}")
    page.click(f"h2:has(#{heading}) .mw-editsection a")
    page.wait_for_selector("#wpTextbox1")
    text = page.input_value("#wpTextbox1")
    assert f"{line}\n" in text
    page.fill("#wpTextbox1", text.replace(f"{line}\n", f"{line}\n{words}\n", 1))
    with page.expect_navigation():
        page.click("#wpSave")
    assert "action=" not in page.url


def shown(page: Page, lab: Lab) -> str:
    """The published page's text; its table and its figure are there, and the figure's picture loads."""
    page.goto(f"{origin(lab)}/wiki/{lab.wiki.page.replace(' ', '_')}")
    assert page.locator("table.wikitable td code", has_text="rootfs.reduced").count() == 1
    picture = page.locator('img[alt="Sizes as bars"]')
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    return page.inner_text("#mw-content-text")


def test_a_teacher_remarks_in_the_browser(wiki_lab: Lab, tmp_path: Path, page: Page) -> None:
    """Log in, edit a section, save, see the report; published again with another number, the remark is
    there, and labkit lists it with the teacher's name and what has changed."""
    lab = of_its_own(wiki_lab, tmp_path, "Remarked in a browser")
    runs = ("20260102T030405Z-0001", "20260102T030405Z-0002")
    published(lab, 300, runs[0])
    log_in(page, lab)
    heading = "Root_file_systems_and_images"
    remark(page, lab, heading, "'''It weighs 300 MB.'''", "REX> Quantify ''smaller''. ~~~~")
    text = shown(page, lab)
    assert "REX> Quantify smaller. Teacher (talk)" in text
    assert "It weighs 300 MB." in text
    published(lab, 171, runs[1])
    text = shown(page, lab)
    assert "REX> Quantify smaller. Teacher (talk)" in text
    assert "It weighs 171 MB." in text
    assert "It weighs 300 MB." not in text
    [found] = json.loads(labkit("remarks", "--json", "-c", write_lab_file(lab)).stdout)["value"]["remarks"]  # fmt: skip
    assert (found["author"], found["thread"]["block"]) == ("Teacher", "02-rootfs")
    assert (found["stale"], found["run"], found["now"]) == (True, *runs)
