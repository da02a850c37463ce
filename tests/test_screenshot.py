"""The wiki's main page in Chromium, as somebody who is not logged in sees it."""

from __future__ import annotations

import shlex
from http.server import ThreadingHTTPServer

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core.result import picture
from labkit.errors import WikiError
from labkit.farm.services import browser
from labkit.farm.services.browser import Page
from labkit.report import figures
from labkit.report.page import publication
from labkit.wiki.publish import prepared
from tests.servers import saying, served


@pytest.mark.root
def test_main_page_is_shown_to_a_stranger(wiki_lab: Lab) -> None:
    """Its heading and the link to log in are read from what the browser drew; the picture is kept, and
    the figure tells it in words."""
    prepared.prepare(wiki_lab)
    result = publication.main_page(wiki_lab)
    assert failed(result.checks) == ()
    (page,) = result.value.pages
    assert page.heading == "Main Page"
    assert page.marks == {"login": "Log in"}
    assert picture(wiki_lab, page.screenshot).read_bytes().startswith(b"\x89PNG")
    figure = figures.pages(wiki_lab, result, name="wiki")
    assert f"{page.url}: {page.title}, Main Page" in figure.alt
    assert "served by" not in figure.alt


def test_browser_at_home_finds_no_other_host() -> None:
    """The names of the given addresses alone are looked up, in no network namespace of the lab's."""
    urls = ("http://127.0.0.1:8060/wiki/", "https://wiki.example.test/w/")
    words = shlex.split(browser.home_wrapper(urls, "chromium"))
    rules = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE wiki.example.test"
    assert f"--host-resolver-rules={rules}" in words
    assert "--kill-child" in words
    assert not any(word.startswith("--net") for word in words)


@pytest.mark.parametrize(
    ("status", "heading", "login", "holds"),
    [
        (200, "Main Page", "Log in", True),
        (200, "Main Page", "", False),
        (200, "", "Log in", False),
        (404, "Main Page", "Log in", False),
    ],
)
def test_check_needs_the_page_and_a_stranger(
    status: int, heading: str, login: str, holds: bool
) -> None:
    """A page that shows no link to log in was shown to somebody."""
    page = Page(
        name="wiki", url="http://127.0.0.1/", status=status, title="", heading=heading,
        marks={"login": login}, screenshot="", seconds=0.1,
    )  # fmt: skip
    assert publication.shown_check(page).holds is holds


@pytest.mark.root
def test_characters_that_no_font_has_are_a_failed_check(lab: Lab) -> None:
    """What the picture has boxes for is named, with its number and the package to install; what it shows,
    also by another font than the page's, is not."""
    words = "R&amp;D «\u00a0réplicas\u202f? » ✔ 研究室\u3000紹介 한국 کتاب\u200cخانه e\u0301 <script>'\ue001'</script>"

    def page(path: str) -> str:
        lost = "\ue000\U0001fae9" if path == "/lost" else ""
        return f"<title>x</title><h1>{words}{lost}</h1>"

    with served(ThreadingHTTPServer(("127.0.0.1", 0), saying(page))) as server:
        here = f"http://127.0.0.1:{server.server_port}"
        seen = browser.at_home(lab, {"page-a": f"{here}/", "page-b": f"{here}/lost"}, {})
    assert [page.boxes for page in seen.pages] == ["", "\ue000\U0001fae9"]
    check = publication.shown_check(seen.pages[1])
    assert not check.holds
    assert (
        "boxes in the picture: no font here has \ue000 (U+E000) \U0001fae9 (U+1FAE9)" in check.seen
    )
    assert "apt-get install fonts-" in check.seen


@pytest.mark.root
def test_wiki_that_is_down_has_no_picture(lab: Lab) -> None:
    """The wiki's silence is the error, before a browser is started."""
    with pytest.raises(WikiError):
        publication.main_page(lab)
