"""Everything that a notebook can show, as wikitext and as a real wiki reads that: the tables in
``tests/rendering``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import mwclient
import pytest

from labkit import Lab
from labkit.wiki import api, features, markdown, notebook, outputs, session, writing
from labkit.wiki.features import Features
from labkit.wiki.places import Place
from labkit.wiki.tree import Document
from tests.rendered import PLACE, PNG, Row, rows, unnamed

MARKDOWN, OUTPUTS = rows("markdown"), rows("outputs")


def named(row: Row) -> str:
    """A row's name, for pytest."""
    return row.name


@pytest.mark.parametrize("row", MARKDOWN, ids=named)
def test_markdown_becomes_wikitext(row: Row) -> None:
    """Each construct in the wiki's own form, HTML elements where that cannot hold it."""
    written = writing.write(markdown.read(row.written), PLACE)
    assert unnamed(written.text) == row.wikitext


@pytest.mark.parametrize("row", OUTPUTS, ids=named)
def test_outputs_become_wikitext(row: Row) -> None:
    """The richest form that can be shown and cannot act; nothing is passed on as it is."""
    written = writing.write(Document(outputs.read(json.loads(row.written))), PLACE)
    assert unnamed(written.text) == row.wikitext


@pytest.fixture(scope="module")
def site(wiki_lab: Lab) -> Iterator[mwclient.Site]:
    """A session with a real wiki."""
    opened = session.open(wiki_lab)
    with closing(opened.connection):
        yield opened


@pytest.mark.root
@pytest.mark.parametrize("table", [MARKDOWN, OUTPUTS], ids=["markdown", "outputs"])
def test_a_real_wiki_reads_what_was_meant(site: mwclient.Site, table: list[Row]) -> None:
    """The HTML that MediaWiki makes of each row's wikitext."""
    made = {row.name: api.parse(site, row.wikitext) for row in table}
    shown = {
        name: html.removeprefix('<div class="mw-parser-output">').removesuffix("</div>").strip()
        for name, html in made.items()
    }
    assert shown == {row.name: row.html for row in table}


@pytest.mark.root
def test_the_labs_own_wiki_has_what_the_report_uses(site: mwclient.Site) -> None:
    """The lab's own wiki highlights code and knows footnotes."""
    assert features.ask(site) == Features(highlight=True, notes=True)


def test_a_wiki_without_extensions_is_written_for() -> None:
    """Code is preformatted; footnotes are superscript links to a list at the end, and back."""
    place = Place(name="t", features=features.of(["ParserFunctions"]))
    text = "a[^1] b[^1] c[^2]\n\n```python\nx\n```\n\n[^1]: One *x*.\n[^2]: Two.\n\n    More."
    assert writing.write(markdown.read(text), place).text == "\n".join(
        (
            'a<sup id="t-1-mark">[[#t-1|&#91;1&#93;]]</sup> b<sup>[[#t-1|&#91;1&#93;]]</sup>'
            ' c<sup id="t-2-mark">[[#t-2|&#91;2&#93;]]</sup>',
            "",
            "<pre>\nx\n</pre>",
            "",
            "<ol>\n<li id=\"t-1\">One ''x''. [[#t-1-mark|↑]]</li>",
            '<li id="t-2">\n<p>Two.</p>\n\n<p>More.</p>\n [[#t-2-mark|↑]]</li>\n</ol>',
        )
    )


def test_headings_stay_below_the_stages() -> None:
    """Whatever level an author took, no heading is at the level of the one above the text, and
    those in lists, quotes and folds begin no section."""
    text = "# a\n\n## b\n\n* # c\n\n> # d\n\n<details>\n\n# e\n\n</details>"
    shown = writing.write(markdown.read(text), Place(least=3)).text
    assert [line for line in shown.split("\n") if line.startswith("=")] == [
        "=== a ===",
        "=== b ===",
    ]
    assert all(f"'''{name}'''" in shown for name in "cde")


def test_footnotes_are_counted_through_a_notebook() -> None:
    """Two cells may use the same label: their notes stay two."""
    cell = {"cell_type": "markdown", "metadata": {}}
    page = notebook.render(
        {
            "cells": [
                {**cell, "source": "a[^1]\n\n[^1]: one"},
                {**cell, "source": "b[^1]\n\n[^1]: two"},
            ]
        }
    )
    assert page.body.split("\n\n") == [
        'a<ref name="text-1">one</ref>', 'b<ref name="text-2">two</ref>', "<references />",
    ]  # fmt: skip


def test_pictures_are_described_and_named_by_content() -> None:
    """The upload's own text is the picture's description; one content has one name."""
    text = "![a|b](data:image/png;base64,{0}) ![c](data:image/png;base64,{0})"
    import base64

    written = writing.write(markdown.read(text.format(base64.b64encode(PNG).decode())))
    assert [item.text for item in written.uploads] == ["c"]
    assert len({item.name for item in written.uploads}) == 1
