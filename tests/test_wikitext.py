"""Wikitext of texts, tables, results and notebooks, as it is written."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from labkit.checks import Check
from labkit.core.result import FIGURE_MIME, RESULT_MIME, Command, Figure, Result
from labkit.core.tables import Column, Table
from labkit.wiki.merge import fences
from labkit.wiki.render import notebook, wikitext
from labkit.wiki.render.writing import Place
from tests.rendered import PNG


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words, 10:20, a=b", "plain words, 10:20, a=b"),
        ("a | b", "a &#124; b"),
        ("{{x}} [[y]]", "&#123;&#123;x&#125;&#125; &#91;&#91;y&#93;&#93;"),
        ("~~~~", "&#126;&#126;&#126;&#126;"),
        ("<!-- labkit:end x -->", "&lt;!-- labkit&#58;end x --&gt;"),
        ("&nbsp;", "&amp;nbsp;"),
        ("don't ''do''", "don't &#39;&#39;do&#39;&#39;"),
        ("a_b __TOC__", "a_b &#95;&#95;TOC&#95;&#95;"),
        ("* a\n# b\n: c", "&#42; a<br />&#35; b<br />&#58; c"),
        ("= a =", "&#61; a ="),
        (" indented ", "&#32;indented&#32;"),
        ("REX> a", "REX&gt; a"),
        ("http://a.test mailto:x", "http&#58;//a.test mailto&#58;x"),
        ("RFC 2119, ISBN 1", "RF&#67; 2119, ISB&#78; 1"),
        ("a !! b", "a&#32;&#33;&#33; b"),
        ("e\u0301", "é"),
        ("\u0338x", "&#824;x"),
        ("a\x00b\x7f\x85", "a␀b␡&#65533;"),
        ("a\r\nb", "a<br />b"),
        ("\u202ea\u2069", "&#91;U+202E&#93;a&#91;U+2069&#93;"),
        ("a\ud800", "a&#65533;"),
    ],
)
def test_text_becomes_characters_that_are_no_markup(text: str, expected: str) -> None:
    """Each character that could be markup where it stands is a character reference."""
    assert wikitext.literal(text) == expected
    assert wikitext.literal(" a ", begins=False, ends=False) == " a "  # between other pieces


def test_source_is_highlighted_unless_it_would_break_out() -> None:
    """Code that holds the element's end, a comment or a remark is shown as preformatted text."""
    assert wikitext.source("print(1)\n", "python3") == (
        '<syntaxhighlight lang="python">\nprint(1)\n</syntaxhighlight>'
    )
    for unsafe in ("'</syntaxhighlight>'", "# <!-- labkit:end x -->", "a\nREX> b", "labkit:page"):
        shown = wikitext.source(unsafe, "python")
        assert shown.startswith("<pre>\n")
        assert "REX>" not in shown
        assert fences.parse(shown, "Report").blocks == ()
    assert wikitext.source("x", "no-such-language").startswith("<pre>")


def test_a_table_has_units_in_its_header_and_numbers_to_the_right() -> None:
    """A humanised number keeps its exact value for sorting; text is inert."""
    table = Table.of(
        "sizes",
        "Sizes",
        [{"name": "a|b", "size": 171_300_000, "took": 1.5, "count": 12_000, "same": True}],
        units={"size": "bytes", "took": "s"},
    )
    assert wikitext.table(table) == "\n".join(
        (
            '{| class="wikitable sortable"',
            '|+ style="text-align:left;white-space:nowrap" | Sizes',
            "! name !! size !! took (s) !! count !! same",
            "|-",
            '| a&#124;b || style="text-align:right" data-sort-value="171300000" | 171.3 MB'
            ' || style="text-align:right" | 1.500'
            ' || style="text-align:right" data-sort-value="12000" | 12,000 || yes',
            "|}",
        )
    )

    long = Table.of("n", "Numbers", [{"n": n} for n in range(wikitext.LONG + 1)])
    assert wikitext.table(long).split("\n")[:2] == [
        '{| class="wikitable sortable mw-collapsible mw-collapsed"',
        '|+ style="text-align:left;white-space:nowrap" | Numbers (21 rows)',
    ]


def result(**changes: object) -> Result[Any]:
    """A result with one check, one table and one command."""
    values: dict[str, Any] = {
        "action": "network.connect",
        "subject": "lab",
        "summary": "6 of 6 replicas answer {{PAGENAME}}.",
        "changed": True,
        "value": None,
        "checks": (
            Check(
                name="network.ping.site1-1", expected="0 lost", seen="0 lost", holds=True,
                rows=("R10",), again="ping -c1 10.60.0.11 | cat",
            ),
        ),
        "tables": (Table(name="t", title="T", columns=(Column(name="n"),), rows=((1,),)),),
        "commands": (Command(command="echo '<b>'", status=0, seconds=0.5),),
        "run": "r1",
        "started": datetime(2026, 1, 1, tzinfo=UTC),
        "seconds": 1.25,
    }  # fmt: skip
    return Result[Any].model_validate({**values, **changes})


def test_a_result_shows_summary_checks_tables_and_folded_commands() -> None:
    """All that a result holds is on the page, each in its own form, in this order."""
    shown = wikitext.result(result())
    places = [
        shown.index(part)
        for part in (
            "'''6 of 6 replicas answer &#123;&#123;PAGENAME&#125;&#125;.'''",
            "| 1 of 1 check holds",
            "✔ holds || <code>network.ping.site1-1</code> || 0 lost || 0 lost || R10"
            " || <code>ping -c1 10.60.0.11 &#124; cat</code>",
            'nowrap" | T',
            '<div class="mw-collapsible mw-collapsed" style=',
            "echo '&lt;b&gt;'  # 0, 0.50 s",
            "<small>network.connect · changed · 1.25 s · run r1</small>",
        )
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("caption", ["left", "thumb", "alt=x", "200px", "a | b ]] c"])
def test_a_caption_is_never_an_option(caption: str) -> None:
    """Whatever a caption says, it is the last parameter and no word of the link's own."""
    shown = wikitext.image("Labkit-x.png", alt="y", caption=caption)
    assert shown.startswith("[[File:Labkit-x.png|thumb|none|880px|alt=y|<i>")
    assert shown.endswith("</i>]]")
    assert shown.count("|") == 5


def cells(*many: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook of these cells."""
    return {"cells": list(many), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def code(source: str, *outputs: Mapping[str, Any]) -> dict[str, Any]:
    """A code cell."""
    return {"cell_type": "code", "source": source, "outputs": list(outputs), "metadata": {}}


def shown(**data: object) -> dict[str, Any]:
    """A display output; a name's ``__`` stands for ``/`` in the MIME type."""
    return {
        "output_type": "display_data",
        "data": {name.replace("__", "/"): value for name, value in data.items()},
        "metadata": {},
    }


def test_a_notebook_gives_title_body_and_pictures() -> None:
    """The first heading is the title; code is folded or shown in a line; outputs follow it."""
    figure = Figure(name="sizes", png="figures/s.png", svg="", alt="bars", caption="Sizes")
    page = notebook.render(
        cells(
            {"cell_type": "markdown", "source": ["# Stage\n", "\n", "Intro **R1**."]},
            code("a = 1"),
            code("b = 2"),
            {"cell_type": "markdown", "source": "## Part"},
            code("act()", {"output_type": "display_data", "metadata": {},
                           "data": {RESULT_MIME: result().model_dump(mode="json"), "text/plain": "-"}}),
            code("draw()", {"output_type": "execute_result", "metadata": {},
                            "data": {FIGURE_MIME: figure.model_dump(), "text/plain": "-"}}),
        ),
        place=Place(read={"figures/s.png": PNG}.get),
    )  # fmt: skip
    order = ["Intro '''R1'''.", "a = 1\n\nb = 2\n</syntaxhighlight>", "=== Part ===",
             "<small><code>act()</code></small>", "6 of 6 replicas",
             f"[[File:{page.uploads[0].name}|thumb|none|880px|alt=bars|<i>Sizes</i>]]"]  # fmt: skip
    assert [page.text.index(part) for part in order] == sorted(map(page.text.index, order))
    assert re.fullmatch(r"Labkit-sizes-[0-9a-f]{16}\.png", page.uploads[0].name)
    assert page.uploads[0].data == PNG


def test_pictures_are_named_by_their_content() -> None:
    """A picture in an output and the same one attached to a cell are one upload; its name is the hash
    of what it holds, and an attachment is found by its name as Markdown writes it."""
    data = base64.b64encode(PNG).decode()
    page = notebook.render(
        cells(
            {"cell_type": "markdown", "source": "x ![y](attachment:a%20p.png)",
             "attachments": {"a p.png": {"image/png": data}}},
            code("", shown(image__png=data, text__plain="<Figure>")),
        ),
    )  # fmt: skip
    [item] = page.uploads
    assert re.fullmatch(r"Labkit-picture-[0-9a-f]{16}\.png", item.name)
    assert page.text.count(f"[[File:{item.name}|") == 2
