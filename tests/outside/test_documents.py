"""nbconvert reads the notebooks, and axe the pages that labkit leaves for people."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.outside.asking import said
from tests.outside.axe import obstacles

if TYPE_CHECKING:
    from playwright.sync_api import Page

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
PAGES = sorted((PROJECT / "outputs/example/review").glob("*.html"))


@pytest.mark.parametrize("kind", ["html", "script", "markdown"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.stem))
def test_nbconvert_reads_each_notebook(path: Path, kind: str, tmp_path: Path) -> None:
    """And warns of nothing: no cell without an id, no attachment that is not there."""
    words = (sys.executable, "-I", "-m", "nbconvert", "--to", kind, "--output-dir", tmp_path, path)
    text = said(*words, HOME=str(tmp_path), PYDEVD_DISABLE_FILE_VALIDATION="1")
    assert "Warning" not in text
    assert [made.stat().st_size > 1000 for made in tmp_path.glob("*.*")] == [True]


@pytest.mark.root  # as the browser is started everywhere else
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.stem))
def test_no_page_of_the_example_is_in_anybody_s_way(page: Page, path: Path, scheme: str) -> None:
    """Of those who do not see it as others do, by axe's rules."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(path.as_uri())
    assert obstacles(page) == []
