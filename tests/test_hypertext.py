"""What a notebook shows as HTML of the review site: in its own form, and unable to act."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from typing import Any

import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings

from labkit.report.site import hypertext, pages
from labkit.report.site.hypertext import Hypertext
from labkit.wiki.render import markdown, notebook
from labkit.wiki.render.tree import Paragraph, Text
from tests import inert
from tests.rendered import PIXEL, rows

#: The elements and attributes that a page may have.
ELEMENTS = frozenset((
    "a", "blockquote", "br", "caption", "code", "details", "div", "em", "figcaption", "figure", "h2", "h3",
    "h4", "h5", "h6", "hr", "img", "kbd", "li", "mark", "ol", "p", "pre", "s", "small", "span",
    "strong", "sub", "summary", "sup", "table", "tbody", "td", "th", "thead", "tr", "u", "ul",
))  # fmt: skip

ATTRIBUTES = frozenset((
    "alt", "class", "colspan", "height", "href", "id", "rowspan", "src",
    "start", "style", "tabindex", "width",
))  # fmt: skip


def expect_inert(html: str) -> list[str]:
    """The addresses in HTML that has the elements and attributes of a page alone."""
    found = BeautifulSoup(html, "html.parser").find_all(True)
    assert {tag.name for tag in found} <= ELEMENTS
    assert {name for tag in found for name in tag.attrs} <= ATTRIBUTES
    return [str(tag[name]) for tag in found for name in ("href", "src") if name in tag.attrs]


def shown(text: str, **given: Any) -> str:
    """A Markdown text as HTML."""
    return str(Hypertext(**given).show(markdown.read(text)))


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# A b", '<h2 id="h-a-b">A b</h2>'),
        ("###### deep", '<h6 id="h-deep">deep</h6>'),
        ("**R10** *a* ~~b~~ `<c>`", "<p><strong>R10</strong> <em>a</em> <s>b</s> <code>&lt;c&gt;</code></p>"),
        ("<b>x</b> <i onclick=a>y</i> <lab>", "<p><strong>x</strong> <em>y</em></p>"),
        ("<script>alert(1)</script>", ""),
        ("![alt](http://192.0.2.1/a.png)", "<p>[alt]</p>"),
        ("[x](javascript:a) [y](data:text/html,a)", "<p>[x](javascript:a) [y](data:text/html,a)</p>"),
        ("[x](http://a.test/?b&c\"d)", '<p><a href="http://a.test/?b&amp;c%22d">x</a></p>'),
        ("[x](a.md) [y](05-web.ipynb#z)", '<p>x <a href="05-web.html">y</a></p>'),
        ("[x](#Part-One) [y](#none)", '<p><a href="#h-part-one">x</a> y</p>'),
        ("3. a\n4. b\n   - [x] c", '<ol start="3"><li>a</li><li>b<ul><li>☑ c</li></ul></li></ol>'),
        ("- a\n\n  b", "<ul><li><p>a</p>\n<p>b</p></li></ul>"),
        ("> # a", "<blockquote><p><strong>a</strong></p></blockquote>"),
        ("| a | b |\n|---|--:|\n| x\\|y | 1 |", '<div class="scroll" tabindex="0"><table class="data"><thead>'
         '<tr><th>a</th><th class="n">b</th></tr></thead><tbody><tr><td>x|y</td><td class="n">1</td></tr>'
         "</tbody></table></div>"),
        ("```json\n{}\n```", '<pre><code><span class="p">{}</span>\n</code></pre>'),
        ("```\n<a>\n```", "<pre><code>&lt;a&gt;</code></pre>"),
        ("<details><summary>S</summary>\n\n*a*\n\n</details>", "<details><summary>S</summary><p><em>a</em></p></details>"),
        ("$\\foo$", "<p><code>\\foo</code></p>"),
        ("a\\\nb\n\n---", "<p>a<br>b</p>\n<hr>"),
    ],
)  # fmt: skip
def test_markdown_in_its_own_form(text: str, html: str) -> None:
    """Each construct as plain HTML; headings one level lower, links where they lead somewhere."""
    known = {"05-web.ipynb": "05-web.html"}
    assert shown(text, headings=frozenset({"part-one"}), pages=known) == html


def test_a_formula_is_drawn_in_the_page() -> None:
    """It is a picture on the line of its words, with its source as the text for who cannot see it."""
    assert re.fullmatch(
        r'<p>a <img src="pictures/[0-9a-f]{16}\.png" alt="x\^2" width="\d+" class="tex"'
        r' style="vertical-align:-[\d.]+px"> b</p>',
        shown("a $x^2$ b"),
    )


def test_pictures_are_files_of_the_site() -> None:
    """A picture in the text or attached to it becomes a file named by its content."""
    writer = Hypertext()
    told = markdown.read(f'![a"b](data:image/png;base64,{PIXEL} "C")')
    html = writer.show(told)
    [name] = writer.files
    assert re.fullmatch(r"pictures/[0-9a-f]{16}\.png", name)
    assert html == f'<figure><img src="{name}" alt="a&quot;b"><figcaption>C</figcaption></figure>'
    assert writer.files[name] == base64.b64decode(PIXEL)


def test_a_notebook_gives_blocks() -> None:
    """Its words in their order; what other programs showed stands below its code."""
    told = {"cell_type": "markdown", "metadata": {}}
    frame = (
        '<table class="dataframe"><tr><th></th><th>n</th></tr><tr><th>0</th><td>1</td></tr></table>'
    )
    stream = {"output_type": "stream", "name": "stderr", "text": "\x1b[31mno\x1b[0m"}
    data = {"output_type": "display_data", "data": {"text/html": frame}, "metadata": {}}
    sections, _ = pages.of_notebook(
        {
            "cells": [
                {**told, "source": "a"},
                {
                    "cell_type": "code",
                    "source": "x",
                    "execution_count": 4,
                    "outputs": [stream, data],
                },
                {**told, "source": "b"},
            ]
        },
        {},
    )
    prose = [str(block.prose) for block in sections if block.prose is not None]
    assert prose == ["<p>a</p>", "<p>b</p>"]
    assert [str(block.shown) for block in sections if block.shown is not None] == [
        '<pre class="ansi stderr"><span style="color:#b3261e">no</span></pre>',
        '<div class="scroll" tabindex="0"><table class="data"><thead><tr><th class="n"></th>'
        '<th class="n">n</th></tr></thead><tbody><tr><th class="n">0</th><td class="n">1</td></tr>'
        "</tbody></table></div>",
    ]


@pytest.mark.parametrize("table", ["markdown", "outputs"])
def test_all_that_the_wiki_shows_can_be_shown(table: str) -> None:
    """Every row of the wiki's tables gives HTML with no element or attribute that could act, and no
    address outside but links."""
    for row in rows(table):
        if table == "markdown":
            html = shown(row.written)
        else:
            html = str(Hypertext().show(notebook.outputs(json.loads(row.written))))
        assert all(re.match(r"https?://|mailto:|pictures/|#", a) for a in expect_inert(html)), (
            row.name
        )
        assert bool(html) == bool(row.wikitext), row.name


@settings(deadline=None, derandomize=True, database=None, max_examples=200)
@given(text=inert.TEXT)
def test_any_text_is_shown_as_itself(text: str) -> None:
    """Arbitrary texts in each place: no element or attribute of theirs, and in a paragraph their own
    characters, but for those that steer a terminal."""
    for place in inert.PLACES:
        part = place.part(text)
        assert not isinstance(part, str)
        html = str(Hypertext().show([part]))
        assert {a for a in expect_inert(html) if a[:9] != "pictures/"} <= {"http://x.test/"}
    said = unescape(re.sub(r"<[^<>]*>", "", str(Hypertext().show([Paragraph((Text(text),))]))))
    assert said.replace("\n", "") == hypertext.plain(text).replace("\n", "")
