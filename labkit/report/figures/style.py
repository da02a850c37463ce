"""The one place for how figures look and where they are written.

A figure's bytes depend on its data alone: no date, no random identifiers, fonts that come with
matplotlib. Colours are Okabe and Ito's, which people with any colour vision tell apart; a figure
never says by colour alone what it also has to say in words, marks or position.
"""

from __future__ import annotations

import functools
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from labkit.core import fonts
from labkit.core.files import write_atomically
from labkit.core.result import Figure, Result, drafts
from labkit.errors import ConfigError, MachineError
from labkit.model.lab import COLOURS, Lab

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

#: A row of a result's table: column -> value.
Row = Mapping[str, Any]
# matplotlib warns that its first search for fonts takes a moment, which would be in a cell's output.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
#: The text's and the lines' colours; ``FAINT`` is for what only frames the data.
INK, GREY, FAINT = "#1f2933", "#52606d", "#d5dae1"
#: Series colours by their meaning; the sites' own are ``lab.colour(site)``.
BLUE, ORANGE, GREEN, PINK, AMBER, SKY, YELLOW = COLOURS
#: How the segments of a bar are told apart, in the order of a site's replicas.
SEGMENTS = (BLUE, SKY, GREEN, AMBER, PINK, YELLOW, ORANGE)
#: A figure's width in inches: a page column of 8 inches, at 150 dots an inch.
WIDTH = 8.0
DPI = 150
#: The colours of kinds of files, the style's own in tints on which dark letters are legible; the
#: last is for all kinds that have none.
TINTS = ("#8fc1e3", "#f0b183", "#8fd0b5", "#ecc3d8", "#f3d489", "#c9e5f7", "#f6f0a0", "#d9dee5")
#: Marks on those tints that are alike to some eyes, in the same order.
HATCHES = ("", "", "", "////", "....", "\\\\\\\\", "xxxx", "")
#: Marks that tell series apart without colour, in the order of the colours.
MARKS = ("o", "s", "^", "D", "v", "P", "X")

_SETTINGS: dict[Any, Any] = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "labkit",
    "svg.fonttype": "path",
}


def frame(result: Result[Any], name: str) -> pandas.DataFrame:
    """A result's table as a DataFrame; raises :class:`ConfigError` when the result has no such table."""
    try:
        return result.table(name).frame()
    except KeyError as error:
        words = (f"the result of {result.action}", f"has no table {error}")
        raise ConfigError(*words, code="config.table") from None


def rows(result: Result[Any], name: str) -> list[Row]:
    """The same, row by row: column -> value."""
    found: list[Row] = frame(result, name).to_dict("records")
    return found


@contextmanager
def canvas(height: float = 4.0, *, width: float = WIDTH) -> Iterator[Canvas]:
    """An empty figure in the lab's style, ``width`` by ``height`` inches; its layout is constrained.

    Draw and :func:`save` within the block: some settings act when the figure is written. The
    figure belongs to no window system and needs no closing.
    """
    from matplotlib.figure import Figure as Empty

    with _styled():
        yield Empty(figsize=(width, height), layout="constrained")


@contextmanager
def axes(height: float = 4.0, *, width: float = WIDTH) -> Iterator[tuple[Canvas, Axes]]:
    """:func:`canvas` with one pair of axes in it."""
    with canvas(height, width=width) as figure:
        yield figure, figure.add_subplot()


def save(lab: Lab, figure: Canvas, *, name: str, alt: str, caption: str) -> Figure:
    """Writes the drafts (:func:`labkit.core.result.drafts`) of ``figures/NAME.png`` (150 dots an inch) and
    ``.svg``, which replace those of the last good run when the stage has passed.

    The same drawing gives the same bytes. ``name`` is of lower-case letters, digits and hyphens;
    ``alt`` says to somebody who does not see the picture what it shows, with its numbers;
    ``caption`` is the line below it. Raises :class:`ConfigError` when one of them is missing.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        words = ("is not a figure's name", "use lower-case letters, digits and hyphens")
        raise ConfigError(repr(name), *words, code="config.figure")
    if not alt.strip() or not caption.strip():
        words = ("a figure without alt text or caption", "say what it shows")
        raise ConfigError(name, *words, code="config.figure")
    try:
        images = {"png": _bytes(figure, "png"), "svg": _bytes(figure, "svg")}
    except UserWarning as glyph:
        number = re.search(r"\d+", str(glyph))
        raise MachineError(
            f"the figure {name}",
            fonts.missing(chr(int(number[0]))) if number else str(glyph),
            "install a font that has it, or use other characters",
            code="machine.no-font",
        ) from None
    for ending, image in images.items():
        write_atomically(drafts(lab) / f"{name}.{ending}", image)
    return Figure(
        name=name, png=f"figures/{name}.png", svg=f"figures/{name}.svg", alt=alt, caption=caption
    ).holding(images["png"])


def _bytes(figure: Canvas, ending: str) -> bytes:
    """The figure in a format, in the lab's style, without the date that SVG writes. Raises
    :class:`UserWarning` for a character that no font has."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if ending == "svg" else {"Software": None}
    with _styled(), warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"Glyph \d+ ")
        figure.savefig(buffer, format=ending, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


@contextmanager
def _styled() -> Iterator[None]:
    """Within, matplotlib has the lab's style and nothing of a matplotlibrc."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_SETTINGS, "font.family": _families()})
        yield


@functools.cache
def _families() -> list[str]:
    """labkit's own font, then installed ones for characters that it does not have, also those that are newer
    than matplotlib's list of fonts."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    for path in {*findSystemFonts()} - {font.fname for font in fontManager.ttflist}:
        with suppress(RuntimeError):  # one that it cannot read
            fontManager.addfont(path)
    there = fontManager.get_font_names()
    return ["DejaVu Sans", *(name for name in fonts.FAMILIES if name in there)]
