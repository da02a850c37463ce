"""Wikitext from texts, Markdown, terminal output, results and notebooks: as written, and as a real
wiki's parser reads it."""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import mwclient
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from labkit import Lab
from labkit.checks import Check
from labkit.result import FIGURE_MIME, RESULT_MIME, Column, Command, Figure, Result, Table
from labkit.wiki import api, fences, markdown, notebook, session, terminal, wikitext

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
)


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
    ],
)
def test_text_becomes_characters_that_are_no_markup(text: str, expected: str) -> None:
    """Each character that could be markup where it stands is a character reference."""
    assert wikitext.literal(text) == expected


def test_text_between_other_pieces_keeps_its_blanks() -> None:
    """A blank beside another piece of the line is no blank at the line's edge."""
    assert wikitext.literal(" a ", begins=False, ends=False) == " a "


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


def test_a_long_table_is_collapsed() -> None:
    """More rows than a screen holds are folded, and their number is said."""
    table = Table.of("n", "Numbers", [{"n": n} for n in range(wikitext.LONG + 1)])
    head = wikitext.table(table).split("\n")[:2]
    assert head == [
        '{| class="wikitable sortable mw-collapsible mw-collapsed"',
        '|+ style="text-align:left;white-space:nowrap" | Numbers (21 rows)',
    ]


def test_a_changed_number_changes_one_line() -> None:
    """The page's history shows what changed: rows are lines."""
    one, other = (
        wikitext.table(Table.of("t", "T", [{"a": "x", "n": n}, {"a": "y", "n": 2.0}]))
        for n in (1.0, 1.5)
    )
    pairs = zip(one.split("\n"), other.split("\n"), strict=True)
    assert [place for place, (a, b) in enumerate(pairs) if a != b] == [4]


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
            "| 1 of 1 checks hold",
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# A\n\n## B", "== A ==\n\n=== B ==="),
        ("###### deep", "====== deep ======"),
        ("a *b* **c** `d`", "a ''b'' '''c''' <code>d</code>"),
        ("***both***", "<i><b>both</b></i>"),
        ("*a***b**", "<i>a</i><b>b</b>"),
        ("a\nb\\\nc", "a b<br />c"),
        ("* a\n* b\n  1. c\n  2. d", "* a\n* b\n*# c\n*# d"),
        ("3. a", '<ol start="3">\n<li>\na\n</li>\n</ol>'),
        ("* a\n\n      code", "<ul>\n<li>\na\n\n<pre>\ncode\n</pre>\n</li>\n</ul>"),
        ("> a", "<blockquote>\na\n</blockquote>"),
        ("---", "----"),
        ("```json\n{}\n```", '<syntaxhighlight lang="json">\n{}\n</syntaxhighlight>'),
        ("[a](http://x.test/?b=1&c='d')", "[http://x.test/?b=1&amp;c=%27d%27 a]"),
        ("[a](javascript:alert(1))", "&#91;a&#93;(javascript&#58;alert(1))"),
        ("[a](gopher://x.test)", "a"),
        ("[**a**](other.ipynb)", "<b>a</b>"),
        ("![a [b]](missing.png)", "&#91;a &#91;b&#93;&#93;"),
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("{{a}} [[b]] ~~~~", "&#123;&#123;a&#125;&#125; &#91;&#91;b&#93;&#93; &#126;&#126;&#126;&#126;"),
        (
            "| a | b |\n|---|--:|\n| 1 \\| 2 | 3 |",
            '{| class="wikitable"\n! a !! b\n|-\n| 1 &#124; 2 || style="text-align:right" | 3\n|}',
        ),
    ],
)  # fmt: skip
def test_markdown_becomes_wikitext(text: str, expected: str) -> None:
    """Each construct in the wiki's own form, HTML elements where that cannot hold it."""
    assert markdown.render(text) == expected


def test_markdown_takes_links_and_images_that_the_wiki_has() -> None:
    """A link to another stage becomes an internal one; an uploaded picture is shown."""
    here = markdown.Context(
        image={"a.png": "Labkit-a.png"}.get, link={"05-web.ipynb": "#Web | sites"}.get
    )
    text = markdown.render('[there](05-web.ipynb) ![alt](a.png "left")', here)
    assert text == (
        "[[#Web sites|there]]<nowiki /> [[File:Labkit-a.png|thumb|none|880px|alt=alt|<i>left</i>]]"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb", "<pre>\na\nb\n</pre>"),
        ("10%\r50%\rdone", "<pre>\ndone\n</pre>"),
        ("\x1b[2Ka\x1b]0;title\x07b", "<pre>\nab\n</pre>"),
        (
            "\x1b[1;31mError\x1b[0m: {{x}}\n* y",
            ' <span style="color:#b3261e;font-weight:bold">Error</span>: &#123;&#123;x&#125;&#125;\n * y',
        ),
    ],
)  # fmt: skip
def test_terminal_output_is_what_the_screen_shows(text: str, expected: str) -> None:
    """Escape sequences are carried out or dropped; colours stay."""
    assert terminal.render(text) == expected


def test_long_output_is_folded_and_the_longest_cut() -> None:
    """A page stays readable whatever a program wrote."""
    shown = terminal.render("\n".join(map(str, range(3000))))
    assert "3000 lines of output" in shown
    assert "… 1000 lines left out …" in shown
    assert len(shown.split("\n")) < terminal.LIMIT + 20


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


def missing(path: str) -> bytes | None:
    """Reads no file."""
    return None


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
        read={"figures/s.png": PNG}.get,
    )  # fmt: skip
    assert page.title == "Stage"
    order = ["Intro '''R1'''.", "a = 1\n\nb = 2\n</syntaxhighlight>", "=== Part ===",
             "<small><code>act()</code></small>", "6 of 6 replicas",
             f"[[File:{page.uploads[0].name}|thumb|none|880px|alt=bars|<i>Sizes</i>]]"]  # fmt: skip
    assert [page.body.index(part) for part in order] == sorted(map(page.body.index, order))
    assert re.fullmatch(r"Labkit-sizes-[0-9a-f]{16}\.png", page.uploads[0].name)
    assert page.uploads[0].data == PNG


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ({"output_type": "stream", "name": "stdout", "text": ["a\n", "{{b}}"]}, "<pre>\na\n{{b}}\n</pre>"),
        (
            {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["T", "\x1b[31mE\x1b[0m: v"]},
            ' T\n <span style="color:#b3261e">E</span>: v',
        ),
        (shown(text__plain="1 < 2"), "<pre>\n1 &lt; 2\n</pre>"),
        (shown(text__markdown="*a*", text__plain="a"), "''a''"),
        (shown(text__html="<b>x</b>", text__plain="x"), "<pre>\nx\n</pre>"),
        (
            shown(text__html='<table class="dataframe"><tr><th></th><th>a|b</th></tr>'
                  "<tr><th>0</th><td>1.5</td></tr></table>", text__plain="x"),
            '{| class="wikitable sortable"\n!  !! a&#124;b\n|-\n| style="text-align:right" | 0'
            ' || style="text-align:right" | 1.5\n|}',
        ),
    ],
)  # fmt: skip
def test_outputs_take_their_richest_safe_form(output: Mapping[str, Any], expected: str) -> None:
    """HTML is never passed on; a DataFrame becomes a native table."""
    assert notebook.render(cells(code("", output)), read=missing).body == expected


def test_pictures_are_named_by_their_content() -> None:
    """An inline picture and an attached one are uploaded under the hash of what they hold."""
    data = base64.b64encode(PNG).decode()
    page = notebook.render(
        cells(
            {"cell_type": "markdown", "source": "x ![y](attachment:p.png)",
             "attachments": {"p.png": {"image/png": data}}},
            code("", shown(image__png=data, text__plain="<Figure>")),
        ),
        read=missing,
    )  # fmt: skip
    hashes = {re.sub(r".*-|\.png", "", item.name) for item in page.uploads}
    assert len(page.uploads) == 2
    assert len(hashes) == 1
    assert all(f"[[File:{item.name}|" in page.body for item in page.uploads)


# -- as the real wiki's parser reads it ------------------------------------------------------


@pytest.fixture(scope="module")
def site(wiki_lab: Lab) -> Iterator[mwclient.Site]:
    """A session with a real wiki."""
    opened = session.open(wiki_lab)
    with closing(opened.connection):
        yield opened


#: What breaks wikitext, in pieces that hypothesis puts together.
PIECES = (
    "[[", "]]", "{{", "}}", "{{{1}}}", "|", "||", "''", "'''", "'", "~~~~", "__TOC__", "__", "_", "\n",
    "<nowiki>", "</nowiki>", "<!--", "-->", "REX>", "*", "#", ":", ";", "=", "==", "----", " ", "  ",
    "http://x.test/y", "mailto:a@b", "RFC 123", "RFC", "ISBN 0123456789", "PMID ", "&nbsp;", "&#65;",
    "</pre>", "<pre>", "</code>", "</div>", "</td>", "{|", "|}", "|-", "|+", "!", "!!", "-{", "}-",
    "<ref>", "<script>alert(1)</script>", "{{PAGENAME}}", "#REDIRECT [[X]]", "\t", "«", "»", "?", "%",
    "\u0338", "\u0301", "\u00a0", "\u200e", "\x00", "\x7f", "\x7f'\"`UNIQ--nowiki-00000000-QINU`\"'\x7f",
    "<!-- labkit:end x -->", "a", "1", "thumb", "alt=x", "\\", '"', "`", "$", "(", "/", "\ufffe",
)  # fmt: skip
#: 600 texts in twelve pages for each context.
TEXTS = st.lists(
    st.lists(st.sampled_from(PIECES) | st.characters(codec="utf-8"), min_size=1, max_size=8).map(
        "".join
    ),
    min_size=50,
    max_size=50,
)


class Boxes(HTMLParser):
    """The text in each ``<div id="tN">``, and the elements in it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: dict[str, str] = {}
        self.elements: dict[str, set[str]] = {}
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = dict(attrs).get("id") or ""
        if tag == "div" and re.fullmatch(r"t\d+", name):
            self._open.append(name)
            self.texts[name], self.elements[name] = "", set()
        elif self._open:
            self.elements[self._open[-1]].add(tag)
            self.texts[self._open[-1]] += "\n" if tag == "br" else ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self._open:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]] += data


def boxes(site: mwclient.Site, shown: Sequence[str]) -> list[tuple[str, set[str]]]:
    """What the wiki makes of each text, in one request: its characters, its elements."""
    page = "\n".join(f'<div id="t{n}">\n{text}\n</div>' for n, text in enumerate(shown))
    reader = Boxes()
    reader.feed(api.parse(site, f"__NOTOC__\n{page}"))
    reader.close()
    return [(reader.texts.get(f"t{n}", "(lost)"), reader.elements.get(f"t{n}", set())) for n in range(len(shown))]  # fmt: skip


def expect_same(
    site: mwclient.Site, texts: list[str], shown: list[str], *, elements: set[str]
) -> None:
    """Each text is found again, character by character, with none but these elements in it."""
    for text, source, (found, used) in zip(texts, shown, boxes(site, shown), strict=True):
        composed = unicodedata.normalize(
            "NFC", found
        )  # an accent's reference is composed by nobody
        assert composed.strip("\n") == wikitext.clean(text).strip("\n"), source
        assert used <= elements, source


many = settings(
    max_examples=12, phases=[Phase.generate], deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example,
                           HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.mark.root
@many
@given(texts=TEXTS)
def test_any_text_in_a_paragraph_is_read_as_itself(site: mwclient.Site, texts: list[str]) -> None:
    """500 arbitrary texts come back from the wiki's parser character by character, as no markup."""
    expect_same(site, texts, [wikitext.literal(text) for text in texts], elements={"p", "br"})


@pytest.mark.root
@many
@given(texts=TEXTS)
def test_any_text_in_pre_is_read_as_itself(site: mwclient.Site, texts: list[str]) -> None:
    """500 arbitrary texts in preformatted blocks."""
    expect_same(site, texts, [wikitext.pre(text) for text in texts], elements={"pre"})


@pytest.mark.root
@many
@given(texts=TEXTS)
def test_any_text_in_a_table_is_read_as_itself(site: mwclient.Site, texts: list[str]) -> None:
    """500 arbitrary texts in cells, with another cell after them."""
    rows = [wikitext.grid([], [[wikitext.literal(text), "z"]]) for text in texts]
    used = {"table", "tbody", "tr", "td", "p", "br"}
    for text, (found, elements) in zip(texts, boxes(site, rows), strict=True):
        assert elements <= used
        assert re.sub(r"\n+z\n*$", "", found).strip("\n") == wikitext.clean(text).strip("\n")


@pytest.mark.root
@many
@given(texts=TEXTS)
def test_any_text_from_a_terminal_is_read_as_itself(site: mwclient.Site, texts: list[str]) -> None:
    """500 arbitrary texts between coloured words: lines in which markup is read."""
    plain = [re.sub("[\x1b\r]", "", text) for text in texts]
    shown = [terminal.render(f"\x1b[31mA\x1b[0m{text}\x1b[1mB") for text in plain]
    expect_same(site, [f"A{text}B" for text in plain], shown, elements={"pre", "span"})


@pytest.mark.root
@many
@given(texts=TEXTS)
def test_any_text_in_markdown_is_read_as_itself(site: mwclient.Site, texts: list[str]) -> None:
    """500 arbitrary texts as inline code, emphasis and link labels of Markdown."""
    words = [re.sub(r"[\s`\x00-\x1f\x7f\x80-\x9f]+|[^\w\s<>\[\]{}|'~_=:;#!&*/-]", "", unicodedata.normalize("NFC", text)) or "x" for text in texts]  # fmt: skip
    shown = [markdown.render(f"a `{word}` b") for word in words]
    expect_same(site, [f"a {word} b" for word in words], shown, elements={"p", "code"})


@pytest.mark.root
def test_highlighted_code_is_read_as_itself(site: mwclient.Site) -> None:
    """Markup in highlighted code is code."""
    text = "a = {{PAGENAME}} | [[b]]  # ~~~~ ''c'' __TOC__\n* {| </pre> &nbsp;"
    [(found, elements)] = boxes(site, [wikitext.source(text, "python")])
    assert found.strip("\n") == text
    assert elements <= {"pre", "span", "div"}


@pytest.mark.root
def test_nothing_of_a_hostile_notebook_is_live(site: mwclient.Site) -> None:
    """Templates, links, scripts, files and fences in every place of a notebook stay text."""
    evil = (
        "{{PAGENAME}} [[Main Page]] <script>alert(1)</script> </pre></code> <!-- labkit:end x -->"
    )
    check = Check(name=evil, expected=evil, seen=evil, holds=True, rows=(evil,), again=evil)
    table = Table(name="t", title=evil, columns=(Column(name=evil, unit=evil),), rows=((evil,),))
    bad = result(summary=evil, checks=(check,), tables=(table,), run=evil,
                 commands=(Command(command=evil, status=0, seconds=1),))  # fmt: skip
    stream = {"output_type": "stream", "name": "stdout", "text": f"\x1b[31m{evil}\n* {evil}"}
    page = notebook.render(
        cells(
            {"cell_type": "markdown", "source": f"# {evil}\n\n{evil}\n\n* `{evil}`\n\n> {evil}"},
            code(f"'''{evil}'''\n{evil}", shown(**{RESULT_MIME: bad.model_dump(mode="json")}), stream,
                 shown(text__html=f'<table class="dataframe"><tr><td>{evil}</td></tr></table>')),
        ),
        read=missing,
    )  # fmt: skip
    html = api.parse(site, f"== {page.title} ==\n{page.body}")
    assert fences.parse(page.body, "Report").blocks == ()
    assert "<script" not in html
    assert 'href="/wiki/Main_Page"' not in html
    assert html.count("{{PAGENAME}}") + html.count("&#123;&#123;PAGENAME") >= 12
