"""What formulas, pictures, colours and other programs' tables are made of, before any page is written."""

from __future__ import annotations

import struct
import zlib

import numpy
import pandas
import pytest
from rich.color import Color
from rich.style import Style

from labkit.wiki.render import markdown, pictures, terminal
from labkit.wiki.render.tree import Fold, Grid, Paragraph, Run, Screen, plain
from tests.rendered import PNG


@pytest.mark.parametrize(
    "tex",
    [
        "x^2", r"\tfrac{a}{b} \le \ge", r"\displaystyle \sum_{i=1}^n i \implies \infty",
        r"\left| v \right| \text{ if } 50\,\%", r"\hat{\beta} \in \mathbb{R}", "\na\n + b",
    ],
)  # fmt: skip
def test_formulas_that_can_be_drawn(tex: str) -> None:
    """Common TeX becomes a picture, thrice as fine as it is shown, that reaches below its line."""
    picture = pictures.formula(tex)
    assert picture
    width, height = struct.unpack(">II", picture.data[16:24])
    assert picture.width == width // 3
    assert 0 < picture.depth < height / 3


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


def test_every_colour_of_a_terminal_can_be_read() -> None:
    """Whatever colours a program takes, characters stand out from what is behind them (WCAG 2.1, 4.5 to
    1)."""
    colours = [*(Color.from_ansi(number) for number in range(256)), Color.from_rgb(255, 255, 0)]
    shown = {terminal.css(Style(color=ink, dim=dim)) for ink in colours for dim in (True, False)}
    for style in shown:
        assert contrast(style.removeprefix("color:#"), "f8f9fa") >= 4.5
        assert contrast(style.removeprefix("color:#"), "fff3c4") >= 4.5
    assert "background-color:#fff3c4" in terminal.css(Style(bgcolor="blue"))


def contrast(*colours: str) -> float:
    """The contrast ratio of two colours."""
    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """The relative luminance of a colour."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in bytes.fromhex(colour))]  # fmt: skip
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("\x1b[38;5;196mx", [("x", "color:#b3261e")]),
        ("\x1b[38;2;255;255;255mx", [("x", "color:#5f6368")]),
        ("\x1b[48;2;0;0;0mx", [("x", "background-color:#fff3c4")]),
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
    return next(part for part in markdown.read_html(data._repr_html_()) if isinstance(part, Grid))


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
    assert markdown.parsed(html).get_text() == text
    said = "".join(
        plain(part.line) for part in markdown.read_html(html) if isinstance(part, Paragraph)
    )
    assert said.replace("[a picture]", "") == text
