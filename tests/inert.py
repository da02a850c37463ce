"""Arbitrary texts in every place of a page, as a real wiki's parser reads them.

One request parses a page of many texts, each in a box of its own; what the wiki makes of a box must be
the text's own characters, in the elements of its place and in no others. The page's own text must also
be stored as it was sent, and the wiki must find no template, link, file or category in it.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import mwclient
from hypothesis import strategies as st

from labkit.wiki.render import (
    markdown,
    notebook,
    pictures,
    terminal,
    wikitext,
    writing,
)
from labkit.wiki.render.pictures import Picture
from labkit.wiki.render.tree import (  # fmt: skip
    Cell,
    Code,
    Fold,
    Grid,
    Heading,
    Image,
    Line,
    Link,
    Listing,
    Paragraph,
    Part,
    Parts,
    Piece,
    Quote,
    Source,
    Styled,
    Text,
)
from tests.rendered import PNG

#: What breaks wikitext, in pieces that hypothesis puts together.
DANGEROUS = (
    "a", "[[", "]]", "{{", "}}", "{{{1}}}", "|", "||", "''", "'''", "'", "~~~~", "~~~", "__TOC__", "__", "_",
    "\n", "\n\n", "<nowiki>", "</nowiki>", "<nowiki/>", "<!--", "-->", "REX>", "\nREX> ", "*", "#", ":",
    ";", "=", "==", "----", " ", "  ", "\n ", "\n*", "\n:", "\n#", "\n;", "\n=", "\n|", "\n!", "\n{|",
    "\n|}", "\n|-", "\n----", "http://x.test/y", "//x.test", "mailto:a@b", "RFC 123", "RFC", "ISBN 0123456789",
    "PMID 123", "&nbsp;", "&#65;", "&amp;", "&lt;b&gt;", "</pre>", "<pre>", "</code>", "</div>", "</td>",
    "</ref>", "<ref name=x>", "<references/>", "</syntaxhighlight>", "<syntaxhighlight lang=python>",
    "{|", "|}", "|-", "|+", "!", "!!", "-{", "}-", "-{zh:a;en:b}-", "<script>alert(1)</script>",
    "<style>", "<math>", "<gallery>", "<templatestyles src=x/>", "<onlyinclude>", "<includeonly>",
    "{{PAGENAME}}", "{{subst:PAGENAME}}", "{{:Main Page}}", "{{#if:a|b}}", "#REDIRECT [[X]]",
    "[[Category:C]]", "[[File:X.png]]", "[[:en:X]]", "[[w:X]]", "[[Media:X.png]]", "[http://x.test y]",
    "__NOINDEX__", "__NOTOC__", "__FORCETOC__", "{{DISPLAYTITLE:x}}", "\t", "«", "»", "?", "%", " ?", " !",
    "« a »", "\u0338", "\u0301", "\u00a0", "\u2028", "\u200e", "\u200f", "\u202e", "\u202a", "\u2066",
    "\u2069", "\u200b", "\u200d", "\ufeff", "\x00", "\x01", "\x0b", "\x0c", "\x1f", "\x7f", "\x85", "\r",
    "\r\n", "\x7f'\"`UNIQ--nowiki-00000000-QINU`\"'\x7f", "UNIQ-", "<!-- labkit:end x -->",
    "<!-- labkit:begin a 0123456789abcdef -->", "labkit:page", "b", "1", "thumb", "alt=x", "left",
    "\\", '"', "`", "$", "(", ")", "/", "\ufffe", "\uffff", "\U0001f600", "\U000e0001", "é", "e\u0301",
    "中", "ש", "ﬁ", "a" * 3000, "x_y", "a:b", "a=b", "style=\"x\" |", "~", "^", "[", "]", "{", "}", "<", ">",
    "&", "+", "-", "@",
)  # fmt: skip

#: A text: some of the above, and any other characters (lone surrogates among them).
TEXT = st.lists(
    st.sampled_from(DANGEROUS) | st.characters() | st.text(max_size=12), min_size=1, max_size=8
).map("".join)


@dataclass(frozen=True)
class Place:
    """A place for a text: its part of a page, what is to be found in it, in which elements."""

    name: str
    part: Callable[[str], Part | str]
    elements: frozenset[str]
    expected: Callable[[str], str] = wikitext.clean
    rare: bool = False


def one_line(text: str) -> str:
    """A text as a heading or a caption holds it."""
    return " ".join(wikitext.clean(text).split())


def screen(text: str) -> str:
    """A text as a terminal shows it."""
    return wikitext.clean(terminal.plain(text))


def unescaped(text: str) -> str:
    """A text that begins no escape sequence with what follows it."""
    return text.replace("\x1b", "")


def collapsed(text: str) -> str:
    """A text as HTML shows it: blanks as one, and what HTML has no character for replaced."""
    return wikitext.clean(re.sub(r"[ \t\n\r\f]+", " ", html.unescape(escaped(text))).strip(" "))


def escaped(text: str) -> str:
    """A text as a program writes it into HTML."""
    return html.escape(text).replace("\0", "\ufffd")


def paragraph(*line: Piece) -> Paragraph:
    """A paragraph of these pieces."""
    return Paragraph(line)


def words(text: str) -> Line:
    """A line of a text; its line breaks are breaks."""
    return (Text(text),)


def coloured(text: str) -> Part | str:
    """A text that a program wrote in colours, with some before and behind it."""
    return next(iter(notebook.outputs([{"output_type": "stream", "name": "stderr", "text": f"\x1b[31mA\x1b[0m{unescaped(text)}\x1b[1mB"}])))  # fmt: skip


def frame(text: str) -> Part | str:
    """A text in a table of another program's HTML."""
    return markdown.read_html(f"<table class='dataframe'><tr><th>h</th></tr><tr><td>{escaped(text)}</td></tr></table>")[0]  # fmt: skip


def table(cell: Line) -> Grid:
    """A table with a row above and one below, and a cell at each side."""
    sides = (Cell(words("q")),)
    return Grid((sides, (*sides, Cell(cell), *sides), sides), head=0)


IMAGE = Picture("png", PNG)
INLINE = frozenset({"p", "br"})
TABLE = frozenset({"table", "tbody", "tr", "td", "th", "caption", "br", "p"})
PLACES = (
    Place("paragraph", lambda t: paragraph(Text(t)), INLINE),
    Place("emphasis", lambda t: paragraph(Text("q"), Styled("em", words(t)), Text("q")), INLINE | {"i"}, lambda t: f"q{wikitext.clean(t)}q"),
    Place("strong", lambda t: paragraph(Styled("strong", words(t))), INLINE | {"b"}),
    Place("code", lambda t: paragraph(Text("q"), Code(t), Text("q")), INLINE | {"code"}, lambda t: f"q{wikitext.clean(t)}q"),
    Place("link", lambda t: paragraph(Link("http://x.test/", (Text("q"), Text(t)))), INLINE | {"a"}, lambda t: f"q{wikitext.clean(t)}"),
    Place("internal link", lambda t: paragraph(Link("known.ipynb", (Text("q"), Text(t))), Text("q")), INLINE | {"a"}, lambda t: f"q{wikitext.clean(t)}q"),
    Place("cell", lambda t: table(words(t)), TABLE, lambda t: f"q\nq|{wikitext.clean(t)}|q\nq"),
    Place("caption", lambda t: Grid(((Cell(words("q")),),), caption=t), TABLE, lambda t: f"{one_line(t)}|q"),
    Place("header", lambda t: Grid(((Cell(words(t), head=True),), (Cell(words("q")),))), TABLE, lambda t: f"{wikitext.clean(t)}|q"),
    Place("item", lambda t: Listing(((paragraph(Text(t)),), (paragraph(Text("q")),))), frozenset({"ul", "li", "br"}), lambda t: f"{wikitext.clean(t)}\nq"),
    Place("deep item", lambda t: Listing(((paragraph(Text("q")), paragraph(Text(t))),), 3), frozenset({"ol", "li", "br", "p"}), lambda t: f"q\n{wikitext.clean(t)}"),
    Place("quote", lambda t: Quote((paragraph(Text(t)),)), frozenset({"blockquote", "p", "br"})),
    Place("heading", lambda t: Heading(2, words(one_line(t))), frozenset({"h3", "span"}), one_line),
    Place("label", lambda t: Fold(t, (paragraph(Text("q")),)), frozenset({"div", "small", "p", "br"}), lambda t: f"{wikitext.clean(t)}\u00a0\nq"),
    Place("pre", Source, frozenset({"pre"})),
    Place("source", lambda t: Source(t, "python"), frozenset({"pre", "div", "span"}), rare=True),
    Place("screen", coloured, frozenset({"pre", "span", "div"}), lambda t: screen(f"A{unescaped(t)}B")),
    Place("foreign cell", frame, TABLE, lambda t: f"h|{collapsed(t)}"),
    Place("foreign text", lambda t: (markdown.read_html(f"<p>q{escaped(t)}q</p>"))[0], INLINE, lambda t: collapsed(f"q{t}q")),
    Place("picture's caption", lambda t: paragraph(Image("q", IMAGE, caption=t)), frozenset({"div", "figure", "figcaption", "a", "img", "i"}), one_line),
    Place("picture's description", lambda t: paragraph(Text("q"), Image(t, IMAGE)), frozenset({"p", "span", "a", "img"}), lambda t: f"q{{{one_line(t)}}}"),
)  # fmt: skip


class Boxes(HTMLParser):
    """The text in each ``<section>`` of a page, and the elements in it; a picture is shown by its
    description in braces where the page has no caption for it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: dict[str, str] = {}
        self.elements: dict[str, set[str]] = {}
        self._open: list[str] = []
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = given.get("id") or ""
        if not self._open and tag == "div" and re.fullmatch(r"box\d+", name):
            self._open, self._depth = [name], 1
            self.texts[name], self.elements[name] = "", set()
        elif self._open:
            self._depth += tag == "div"
            self.elements[self._open[0]].add(tag)
            self._begin(tag, given)

    def _begin(self, tag: str, given: dict[str, str | None]) -> None:
        """MediaWiki 1.39 has a framed picture and its caption in boxes, with blanks between; 1.43 in a figure."""
        name, kind = self._open[0], given.get("class") or ""
        if "thumbcaption" in kind:
            self.texts[name] = self.texts[name].rstrip(" ")
        if tag == "img" and "thumbimage" not in kind and "figure" not in self.elements[name]:
            self.texts[name] += f"{{{given.get('alt')}}}"
        self.texts[name] += {"br": "\n", "td": "|", "th": "|"}.get(tag, "")

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag == "div":
            self._depth -= 1
            self._open = self._open if self._depth else []

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[0]] += data


def boxes(texts: Sequence[str], places: Sequence[Place], share: int) -> list[tuple[Place, str]]:
    """Every text in every place, or in one of ``share``; the rare places take one text of many."""
    return [
        (place, text)
        for n, text in enumerate(texts)
        for m, place in enumerate(places)
        if (n % 16 == 0 if place.rare else (n + m) % share == 0)
    ]


def written(place: Place, text: str) -> str:
    """The wikitext of a text in its place."""
    part = place.part(text)
    parts: Parts = () if isinstance(part, str) else (part,)
    where = writing.Place(link={"known.ipynb": "#Known"}.get)
    return writing.write(parts, where).text


def examine(
    site: mwclient.Site, texts: Sequence[str], *, places: Sequence[Place] = PLACES, share: int = 1
) -> list[str]:
    """The differences between each text in each place, or one of ``share``, and what the wiki shows."""
    wrong: list[str] = []
    asked = boxes(texts, places, share)
    shown = [written(place, text) for place, text in asked]
    page = "__NOTOC__\n" + "\n\n".join(f'<div id="box{n}">\n{text}\n</div>' for n, text in enumerate(shown))  # fmt: skip
    answer = parsed(site, page)
    reader = Boxes()
    reader.feed(answer["text"])
    reader.close()
    for n, (place, text) in enumerate(asked):
        found = reader.texts.get(f"box{n}", "(lost)")
        used = reader.elements.get(f"box{n}", set()) - place.elements
        same = bare(found, place.rare) == bare(place.expected(text), place.rare)
        if not same or used:
            wrong.append(f"{place.name}: {text!r}\n  wikitext {shown[n]!r}\n  found {found!r} in {used or 'its elements'}")  # fmt: skip
    wrong += [f"the page has {name}: {answer[name]}" for name in LINKS if answer[name]]
    outside = set(answer["externallinks"]) - {"http://x.test/"}
    wrong += [f"a live address: {address}" for address in outside]
    stored = site.post("parse", text=page, onlypst=1, contentmodel="wikitext", formatversion=2)
    if stored["parse"]["text"] != page:
        wrong.append("the page is not stored as it was sent")
    return wrong


#: What a wiki finds in a page, none of which a text may make.
LINKS = ("langlinks", "categories", "links", "templates", "iwlinks")


def parsed(site: mwclient.Site, page: str) -> dict[str, Any]:
    """What the wiki makes of a page that is saved (signatures and all)."""
    answer = site.post(
        "parse", text=page, contentmodel="wikitext", pst=1, disablelimitreport=1,
        disableeditsection=1, formatversion=2, title="Report",
        prop="text|externallinks|properties|" + "|".join(LINKS),
    )["parse"]  # fmt: skip
    return dict(answer)


def bare(text: str, loose: bool) -> str:
    """The text composed (an accent's reference is composed by nobody), without the line breaks and
    cells' ends that HTML's own layout adds; where it is ``loose``, without blanks at its end."""
    composed = unicodedata.normalize("NFC", text)
    shown = re.sub(r"[\n|]+", "\n", composed).strip("\n")
    return shown.rstrip() if loose else shown


#: What Markdown and HTML make of texts, in pieces that hypothesis puts together with the dangerous ones.
MARKUP = (
    "\n- ", "\n1. ", "\n> ", "\n# ", "*", "**", "~~", "`", "```", "\n```\n", "![a](", "[a](", ")", "](#a)",
    "$", "$$", "[^1]", "\n[^1]: ", "^[", "\n|---|\n", "\n: ", "<b>", "</b>", "<sub>", "<details>", "</details>",
    "<summary>", "</summary>", "<table>", "<tr>", "<td rowspan=99999>", "<th colspan=3>", "<li>", "<ul>",
    "<a href=javascript:x>", "<a href='{{x}}'>", "<img src=x onerror=y alt='[[x]]'>", "<br>", "<h2>", "<p>",
    "<caption>", "<dl><dt>", "<dd>", "<blockquote>", "<kbd>", "[a](http://x.test/", "[a]([[x]])", "<http://x.test/",
    "\\begin{align}", "\\end{align}", "\n\n", "\n    ",
)  # fmt: skip
MARKED = st.lists(
    st.sampled_from(MARKUP) | st.sampled_from(DANGEROUS) | st.characters(), min_size=1, max_size=20
).map("".join)
#: All elements that a text may become on a page.
SHOWN = frozenset((
    "a", "b", "blockquote", "br", "caption", "code", "div", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img",
    "kbd", "li", "mark", "ol", "p", "pre", "s", "small", "span", "strong", "sub", "sup", "table", "tbody",
    "td", "th", "tr", "u", "ul",
))  # fmt: skip


def documents(text: str) -> list[Parts]:
    """What a text is read as: Markdown, HTML, and outputs of both."""
    shown = [{"text/markdown": text}, {"text/html": text}]
    made = [{"output_type": "display_data", "data": data, "metadata": {}} for data in shown]
    return [markdown.read(text), markdown.read_html(text), notebook.outputs(made)]


def expect_inert(site: mwclient.Site, texts: Sequence[str]) -> None:
    """Whatever Markdown or HTML the texts are, nothing of the page is the wiki's own markup."""
    page = "\n\n".join(writing.write(told).text for text in texts for told in documents(text))
    answer = parsed(site, f"__NOTOC__\n{page}")
    found = set(re.findall(r"<([a-z0-9]+)", answer["text"]))
    assert found <= SHOWN, texts
    # pictures are not uploaded, which the wiki says in a category
    assert not [name for name in LINKS if name != "categories" and answer[name]], texts
    assert {item["category"] for item in answer["categories"]} <= {
        "Pages_with_broken_file_links"
    }, texts
    assert all(re.match(r"(https?://|mailto:)", a) for a in answer["externallinks"]), texts
    stored = site.post("parse", text=page, onlypst=1, contentmodel="wikitext", formatversion=2)
    assert stored["parse"]["text"].rstrip() == page.rstrip(), texts


def put_picture(site: mwclient.Site) -> None:
    """The wiki has the picture that the texts stand beside."""
    item = pictures.upload("picture", IMAGE.data, ending="png", text="")
    site.send(item)
