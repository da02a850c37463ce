"""Everything that a notebook can show, as wikitext and as a real wiki reads that: the tables in
``tests/rendering``."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mwclient
import pytest

from labkit import Lab
from labkit.core import run
from labkit.core.result import RESULT_MIME
from labkit.wiki.client import session
from labkit.wiki.client.protocol import Features
from labkit.wiki.render import markdown, notebook, writing
from labkit.wiki.render.tree import Parts
from labkit.wiki.render.writing import Place
from tests.desks import parsed
from tests.rendered import FOLDER, PIXEL, PLACE, Row, inner, rows, unnamed

MARKDOWN, OUTPUTS = rows("markdown"), rows("outputs")


def document(row: Row) -> Parts:
    """What a row's text is read as: outputs are JSON."""
    if row in OUTPUTS:
        return notebook.outputs(json.loads(row.written))
    return markdown.read(row.written)


def named(row: Row) -> str:
    """A row's name, for pytest."""
    return row.name


@pytest.mark.parametrize("row", MARKDOWN, ids=named)
def test_markdown_becomes_wikitext(row: Row) -> None:
    """Each construct in the wiki's own form, HTML elements where that cannot hold it."""
    written = writing.write(document(row), PLACE)
    assert unnamed(written.text) == row.wikitext


@pytest.mark.parametrize("row", OUTPUTS, ids=named)
def test_outputs_become_wikitext(row: Row) -> None:
    """The richest form that can be shown and cannot act; nothing is passed on as it is."""
    written = writing.write(document(row), PLACE)
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
    """The HTML that MediaWiki makes of each row, its pictures uploaded."""
    wrong = []
    for row in table:
        written = writing.write(document(row), PLACE)
        for item in written.uploads:
            site.send(item)
        shown = unnamed(inner(parsed(site, written.text)))
        if shown != row.html:
            wrong.append(f"{row.name}: {shown}\n  expected {row.html}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.root
def test_code_is_coloured_where_the_wiki_can(site: mwclient.Site) -> None:
    """The lab's own wiki highlights code; another one is asked once, and code is preformatted where it cannot."""
    assert site.features == Features(highlight=True)
    site.own = False
    assert site.features == Features(highlight=True)
    place = Place(features=Features.of(["ParserFunctions"]))
    assert writing.write(markdown.read("```python\nx\n```"), place).text == "<pre>\nx\n</pre>"


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


def test_pictures_are_described_and_named_by_content() -> None:
    """The upload's own text is the picture's description; one content has one name."""
    text = f"![a|b](data:image/png;base64,{PIXEL}) ![c](data:image/png;base64,{PIXEL})"
    written = writing.write(markdown.read(text))
    assert [item.text for item in written.uploads] == ["c"]
    assert written.text.count(f"[[File:{written.uploads[0].name}|") == 2


# -- the same results, the same page ----------------------------------------------------------


RESULTS = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


def page(results: list[Any]) -> list[str]:
    """The lines of the page that shows these results of a stage."""
    shown = [{"output_type": "display_data", "data": {RESULT_MIME: item}} for item in results]
    cells = [{"cell_type": "code", "source": "act()", "outputs": [item]} for item in shown]
    return notebook.render({"cells": cells}).text.split("\n")


def numbers() -> list[tuple[int, int, int, int]]:
    """Where each number of the results' tables is: result, table, row, column."""
    return [
        (n, t, r, c)
        for n, item in enumerate(RESULTS)
        for t, table in enumerate(item["tables"])
        for r, row in enumerate(table["rows"])
        for c, cell in enumerate(row)
        if isinstance(cell, (int, float)) and not isinstance(cell, bool)
    ]


def test_a_changed_number_changes_its_line_alone() -> None:
    """Of a real stage's results (names, balancer, failover, throughput), whichever number differs in
    another run, one line of the page does."""
    before = page(RESULTS)
    places = numbers()
    assert len(places) > 150
    for n, t, r, c in places:
        results = [*RESULTS[:n], copy.deepcopy(RESULTS[n]), *RESULTS[n + 1 :]]
        results[n]["tables"][t]["rows"][r][c] += 1000
        after = page(results)
        assert len(after) == len(before)
        changed = [
            number for number, (a, b) in enumerate(zip(before, after, strict=True)) if a != b
        ]
        assert len(changed) == 1, (n, t, r, c)


#: Renders all that the tables hold, and says a hash of every text and picture.
SCRIPT = """
import hashlib, json
from labkit.wiki.render import markdown, notebook, writing
from tests.rendered import rows
seen = hashlib.sha256()
told = [markdown.read(row.written) for row in rows("markdown")]
told += [notebook.outputs(json.loads(row.written)) for row in rows("outputs")]
for document in told:
    written = writing.write(document)
    seen.update(written.text.encode())
    for item in written.uploads:
        seen.update(item.name.encode() + item.data)
print(seen.hexdigest())
"""


def test_two_runs_give_the_same_bytes() -> None:
    """Texts and painted pictures are the same in another process, whatever order its sets have."""
    root = str(Path(__file__).parents[1])
    made = {
        run.run(
            [sys.executable, "-c", SCRIPT], env={"PYTHONPATH": root, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(made) == 1
