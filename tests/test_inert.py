"""Whatever a program or a person wrote is characters on a wiki's page, and nothing else: arbitrary
texts in every place, read by a real wiki's parser. ``LABKIT_TEXTS`` is how many there are (512)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import mwclient
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from labkit import Lab
from labkit.checks import Check
from labkit.core.result import RESULT_MIME, Command
from labkit.core.tables import Column, Table
from labkit.wiki.client import session
from labkit.wiki.merge import fences
from labkit.wiki.render import notebook, wikitext
from tests import inert
from tests.desks import parsed
from tests.test_wikitext import cells, code, result, shown

TEXTS = int(os.environ.get("LABKIT_TEXTS", "512"))


@pytest.fixture(scope="module")
def site(wiki_lab: Lab) -> Iterator[mwclient.Site]:
    """A session with a real wiki that has the picture which texts describe."""
    opened = session.open(wiki_lab)
    with closing(opened.connection):
        inert.put_picture(opened)
        yield opened


@pytest.mark.root
@settings(
    max_examples=TEXTS // 32, phases=[Phase.generate, Phase.shrink], deadline=None, derandomize=True,
    database=None, suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(texts=st.lists(inert.TEXT, min_size=32, max_size=32))
def test_any_text_is_read_as_itself(site: mwclient.Site, texts: list[str]) -> None:
    """Texts in half of some twenty places each come back from the wiki character by character, in the
    elements of their place alone; the page is stored as it was sent."""
    assert inert.examine(site, texts, share=2) == []


@pytest.mark.root
@settings(
    max_examples=8, phases=[Phase.generate, Phase.shrink], deadline=None, derandomize=True,
    database=None, suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(texts=st.lists(inert.MARKED, min_size=16, max_size=16))
def test_any_markdown_and_html_is_inert(site: mwclient.Site, texts: list[str]) -> None:
    """128 texts, read as Markdown, as HTML and as outputs: no template, category, file of theirs or
    foreign element is on the page, and it is stored as it was sent."""
    inert.expect_inert(site, texts)


@pytest.mark.root
@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        "| " * 5_000,
        "[[" * 5_000,
        "\n".join(["* {{x}}"] * 500),
        "''" * 1_000 + "'" * 1_000,
        "<b>" * 2_000,
        "\ud800\udfff\udc00a",
        "\x00" * 1_000,
        "".join(map(chr, range(0x0, 0x300))),
        "".join(map(chr, range(0x2000, 0x2100))),
    ],
    ids=lambda text: repr(text[:8]),
)
def test_long_and_odd_texts_are_read_as_themselves(site: mwclient.Site, text: str) -> None:
    """Long lines, deep repetitions, and blocks of Unicode that hold what a page must not."""
    whole = [place for place in inert.PLACES if place.name != "screen"]  # which cuts long lines
    found = inert.examine(site, [text], places=whole, share=4)
    assert [wrong[:500] for wrong in found] == []


@pytest.mark.root
def test_a_page_of_texts_is_no_redirect_and_has_no_properties(site: mwclient.Site) -> None:
    """The first line of a page, which alone may redirect, stays text; no switch is thrown."""
    text = wikitext.literal("#REDIRECT [[Main Page]] __NOINDEX__ {{DISPLAYTITLE:x}} [[Category:A]]")
    answer = inert.parsed(site, text)
    assert "redirectMsg" not in answer["text"]
    assert (answer["properties"], answer["categories"]) == ({}, [])


@pytest.mark.root
def test_nothing_of_a_hostile_notebook_is_live(site: mwclient.Site) -> None:
    """Templates, links, scripts, files and fences in every place of a notebook stay text."""
    evil = (
        "{{PAGENAME}} [[Main Page]] <script>alert(1)</script> </pre></code> <!-- labkit:end x -->"
    )
    check = Check(name=evil, expected=evil, seen=evil, holds=True, rows=(evil,), again=evil)
    table = Table(name="t", title=evil, columns=(Column(name=evil, unit=evil),), rows=((evil,),))
    changes: dict[str, Any] = {"summary": evil, "checks": (check,), "tables": (table,), "run": evil}
    bad = result(**changes, commands=(Command(command=evil, status=0, seconds=1),))
    stream = {"output_type": "stream", "name": "stdout", "text": f"\x1b[31m{evil}\n* {evil}"}
    frame = f'<table class="dataframe"><tr><td>{evil}</td></tr></table>'
    page = notebook.render(
        cells(
            {"cell_type": "markdown", "source": f"# {evil}\n\n{evil}\n\n* `{evil}`\n\n> {evil}"},
            code(f"'''{evil}'''\n{evil}", shown(**{RESULT_MIME: bad.model_dump(mode="json")}), stream),
            code("", shown(text__html=frame), shown(text__markdown=evil), shown(text__latex=evil)),
        )
    )  # fmt: skip
    html = parsed(site, page.text)
    assert fences.parse(page.text, "Report").blocks == ()
    assert "<script" not in html
    assert 'href="/wiki/Main_Page"' not in html
    assert html.count("{{PAGENAME}}") + html.count("&#123;&#123;PAGENAME") >= 12
