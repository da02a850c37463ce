"""What formulas, pictures, colours and other programs' tables are made of, before any page is written."""

from __future__ import annotations

import base64
import struct
import zlib
from itertools import product
from pathlib import Path

import numpy
import pandas
import pytest
from rich.color import Color
from rich.style import Style

from labkit.wiki.render import html_reader, markdown, pictures, terminal
from labkit.wiki.render.tree import Fold, Grid, Paragraph, Run, Screen, plain
from tests.rendered import PNG

DRAWN = '<svg xmlns="http://www.w3.org/2000/svg" {}>{}<rect width="9" height="9"/></svg>'


@pytest.mark.parametrize(
    "tex",
    [
        "x^2", r"\frac12", r"\tfrac{a}{b} \le \ge", r"\displaystyle \sum_{i=1}^n i \implies \infty",
        r"\lVert v \rVert \text{ if } 50\,\% é", r"\begin{align*} a &= b \\ &< c \end{align*}",
        r"\begin{equation}\label{e} x \tag{1} \end{equation}", r"\hat{\beta} \in \mathbb{R}",
    ],
)  # fmt: skip
def test_formulas_that_can_be_drawn(tex: str) -> None:
    """Common TeX becomes outlines within the drawing's own edges, and reaches below its line as it
    should."""
    drawing = pictures.formula(tex)
    assert drawing
    numbers = [
        float(word) for word in drawing.path.translate(str.maketrans("MLQCZ", "     ")).split()
    ]
    xs, ys = numbers[::2], numbers[1::2]
    assert min(xs) >= 0 and max(xs) <= drawing.width * 100 + 10
    assert min(ys) >= -10 and max(ys) <= drawing.height * 100 + 10
    assert 0 < drawing.depth < drawing.height


@pytest.mark.parametrize(
    "tex",
    ["", r"\foo", "x^", "}{", "{" * 900, "a" * 3000, r"\begin{pmatrix}a\end{pmatrix}", "日", "\x00", "$x$", "%"],
)  # fmt: skip
def test_formulas_that_cannot_be_drawn(tex: str) -> None:
    """Whatever matplotlib cannot read, or has no letters for, is no drawing and no exception."""
    assert pictures.formula(tex) is None


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def test_a_pictures_words_are_taken_out() -> None:
    """Texts in a PNG differ from machine to machine, and a wiki refuses markup in them."""
    marked = PNG[:33] + chunk(b"tEXt", b"Title\0<script>") + PNG[33:] + b"<html>"
    assert pictures.checked(marked) == pictures.Picture("png", PNG)


@pytest.mark.parametrize(
    "data", [b"", b"no picture", PNG[:40], PNG[:8], b"\xff\xd8\xff\xe0cut", b"GIF89a", b"<svg/>"]
)
def test_what_is_no_whole_picture_is_none(data: bytes) -> None:
    """A picture that a wiki would refuse is not shown as one."""
    assert pictures.checked(data) is None


@pytest.mark.parametrize(
    ("attributes", "size", "width"),
    [
        ('width="10" height="20"', (20, 40), 10),
        ('width="1in" height="0.5in"', (192, 96), 96),
        ('viewBox="0 0 30 60"', (60, 120), 30),
        ('viewBox="0 0 30 60" width="10"', (20, 40), 10),
        ('width="100%" viewBox="0 0 8 4"', (16, 8), 8),
        ('width="5000" height="100"', (1760, 36), 5000),
    ],
)
def test_a_drawing_is_painted_at_twice_its_size(
    attributes: str, size: tuple[int, int], width: int
) -> None:
    """The size is the drawing's own, in pixels, at most as wide as a page."""
    painted = pictures.of("image/svg+xml", DRAWN.format(attributes, ""))
    assert painted
    assert (struct.unpack(">II", painted.data[16:24]), painted.width) == (size, width)


def test_nothing_is_read_for_a_drawing(tmp_path: Path) -> None:
    """Pictures, styles and scripts that a drawing refers to are left out; those in it are painted."""
    secret = tmp_path / "secret.png"
    red = pictures.painted(DRAWN.format('width="9" height="9" fill="red"', ""))
    assert red
    secret.write_bytes(red.data)
    size = 'width="9" height="9" xmlns:xlink="http://www.w3.org/1999/xlink" fill="none"'
    inside = f"data:image/png;base64,{base64.b64encode(red.data).decode()}"
    nothing = pictures.painted(DRAWN.format(size, ""))
    for address in (secret, f"file://{secret}", "data:image/svg+xml;base64,AAAA"):
        for name in ("href", "xlink:href"):
            hidden = f'<image width="9" height="9" {name}="{address}"/><script>x</script>'
            assert pictures.painted(DRAWN.format(size, hidden)) == nothing
    shown = f'<image width="9" height="9" href="{inside}"/>'
    assert pictures.painted(DRAWN.format(size, shown)) != nothing


@pytest.mark.parametrize(
    "svg",
    [
        "", "<svg/>", "no", '<!DOCTYPE svg [<!ENTITY a "b">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>',
        DRAWN.format('width="1" height="100000"', ""), DRAWN.format('viewBox="0 0 0 0" width="0"', "")[:20],
    ],
)  # fmt: skip
def test_what_is_no_drawing_is_none(svg: str) -> None:
    """Damaged, endless and expanding ones are none, at once."""
    assert pictures.of("image/svg+xml", svg) is None


def test_every_colour_of_a_terminal_can_be_read() -> None:
    """Whatever colours a program takes, characters stand out from what is behind them (WCAG 2.1, 4.5 to
    1)."""
    some = [Color.from_ansi(number) for number in range(0, 256, 7)]
    for ink, ground, reverse in product([None, *some], [None, *some], [True, False]):
        style = Style.from_color(ink, ground) + Style(reverse=reverse)
        shown = dict(item.split(":#") for item in terminal.css(style).split(";") if item)
        if shown:
            behind = rgb(shown.get("background-color", "f8f9fa"))
            assert terminal.contrast(rgb(shown["color"]), behind) >= 4.5


def rgb(text: str) -> terminal.Colour:
    """A colour from its hexadecimal digits."""
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("\x1b[38;5;196mx", [("x", "color:#e60000")]),
        ("\x1b[38;2;255;255;255mx", [("x", "color:#666666")]),
        ("\x1b[48;2;0;0;0mx", [("x", "color:#797a7a;background-color:#000000")]),
        ("\x1b[1m\x1b[3;4mx\x1b[22my", [("x", "font-weight:bold;font-style:italic;text-decoration:underline"),
                                     ("y", "font-style:italic;text-decoration:underline")]),
        ("\x1b[31ma\bb\x1b[0mc", [("b", "color:#b3261e"), ("c", "")]),
        ("\x1b[99;31;77mx\x1b[39my", [("x", "color:#b3261e"), ("y", "")]),
    ],
)  # fmt: skip
def test_a_terminals_styles(text: str, runs: list[tuple[str, str]]) -> None:
    """Styles add up until they are taken back; what is unknown changes nothing."""
    [screen] = terminal.read(text)
    assert isinstance(screen, Screen)
    assert screen.lines == (tuple(Run(*run) for run in runs),)


def test_long_outputs_are_folded_and_the_longest_cut() -> None:
    """A page stays readable whatever a program wrote: too many lines, too long ones, or too much."""
    for text, said in [
        ("\n".join(map(str, range(3000))), "… 1,000 lines left out …"),
        ("x" * 1_000_000, "… 995,000 characters left out …"),
        ("\n".join(["y" * 4999] * 300), "lines left out …"),
    ]:
        [part] = terminal.read(text)
        screen = part.parts[0] if isinstance(part, Fold) else part
        assert isinstance(screen, Screen)
        assert said in screen.text
        assert len(screen.text) < terminal.CHARACTERS + 5000


def frame(data: pandas.DataFrame) -> Grid:
    """A data frame as its HTML is read."""
    return next(part for part in html_reader.read(data._repr_html_()) if isinstance(part, Grid))


def test_a_data_frames_columns() -> None:
    """Numbers are found by column, missing ones among them; a column of words stays one."""
    data = {"n": [1, 2.5], "w": ["1", "x"], "missing": [numpy.nan, 1e-9], "share": ["5 %", "7.5 %"]}
    read = frame(pandas.DataFrame(data))
    assert read.sortable
    assert read.numeric == {0, 1, 3, 4}
    assert [cell.side for cell in read.rows[1]] == ["right", "right", "", "right", "right"]
    assert read.size == "2 rows"


def test_a_data_frames_levels() -> None:
    """An index of two levels spans rows; its names stand in the header's empty cells."""
    index = pandas.MultiIndex.from_product([["a", "b"], [1, 2]], names=["g", "n"])
    read = frame(pandas.DataFrame({"x": range(4)}, index=index))
    assert [plain(cell.line) for cell in read.rows[0]] == ["g", "n", "x"]
    assert [[cell.down for cell in row] for row in read.rows[1:]] == [
        [2, 1, 1],
        [1, 1],
        [2, 1, 1],
        [1, 1],
    ]
    assert read.numeric == {1, 2}


@pytest.mark.parametrize("data", [pandas.DataFrame(), pandas.DataFrame({"a": []})])
def test_an_empty_data_frame_says_so(data: pandas.DataFrame) -> None:
    """It has a header and no rows, and its size is in words."""
    read = frame(data)
    assert (read.head, len(read.rows), read.size) == (1, 1, "0 rows")


def test_the_longest_tables_are_cut_in_their_middle() -> None:
    """The beginning and the end stay, and how many rows there are is said."""
    html = "<table>" + "".join(f"<tr><td>{n}<td>x" for n in range(5000)) + "</table>"
    [read] = html_reader.read(html)
    assert isinstance(read, Grid)
    assert len(read.rows) == 1001
    assert plain(read.rows[500][0].line) == "… 4,000 rows left out …"
    assert (read.size, plain(read.rows[-1][0].line)) == ("5,000 rows", "4999")


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("a<script>b</script>c<style>d</style>e", "ace"),
        ("<p>a<p>b", "ab"),
        ("<div hidden>a<div>b</div></div>c", "c"),
        ("<b style='display: none'>a<b>b</b></b>c", "c"),
        ("a<svg><text>b</text></svg><input value=x>c<img src=x>", "ac"),
        ("<scr<script>ipt>alert(1)</script>", "ipt>alert(1)"),
        ("a</p></div>b<", "ab<"),
        ("<div>" * 5000 + "deep", "deep"),
        ("&lt;b&gt;&#0;&amp;", "<b>\ufffd&"),
    ],
)
def test_other_programs_html_is_read_for_its_text(html: str, text: str) -> None:
    """What is hidden or acts has no text; bad markup and deep nesting are no error."""
    assert html_reader.parsed(html).get_text() == text
    said = "".join(
        plain(part.line) for part in html_reader.read(html) if isinstance(part, Paragraph)
    )
    assert said.replace("[a picture]", "") == text


@pytest.mark.parametrize(
    "text",
    [
        "<b>a</i>",
        "a <b>b",
        "b</b>",
        "<lab> c",
        "<div>\n<x>\n</div>",
        "<!-- a",
        "<? a ?>",
        '<div title="a',
    ],
)
def test_html_that_no_page_shows_is_text(text: str) -> None:
    """In Markdown HTML is read when it is known and whole, and is characters when it is not."""
    [part] = markdown.read(text).parts
    assert isinstance(part, Paragraph)
    assert plain(part.line) == text.replace("\n", " ")
