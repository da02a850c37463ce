"""The one place for how figures look and where they are written.

A figure's bytes depend on its data alone: no date, no random identifiers, fonts that come with
matplotlib. Colours are Okabe and Ito's, which people with any colour vision tell apart; a figure
never says by colour alone what it also has to say in words, marks or position.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from labkit.errors import ConfigError
from labkit.files import write_atomically
from labkit.lab import COLOURS, Lab
from labkit.result import Figure, drafts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

#: The text's and the lines' colours; ``FAINT`` is for what only frames the data.
INK, GREY, FAINT = "#1f2933", "#52606d", "#d5dae1"
#: Series colours by their meaning; the sites' own are ``lab.colour(site)``.
BLUE, ORANGE, GREEN, PINK, AMBER, SKY, YELLOW = COLOURS
#: A figure's width in inches: a page column of 8 inches, at 150 dots an inch.
WIDTH = 8.0
DPI = 150
#: Marks that tell series apart without colour, in the order of the colours.
MARKS = ("o", "s", "^", "D", "v", "P", "X")

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
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


@contextmanager
def canvas(height: float = 4.0, *, width: float = WIDTH) -> Iterator[Canvas]:
    """An empty figure in the lab's style, ``width`` by ``height`` inches; its layout is constrained.

    Draw and :func:`save` within the block: some settings act when the figure is written. The
    figure belongs to no window system and needs no closing.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Empty

    with mpl.rc_context(_SETTINGS):
        yield Empty(figsize=(width, height), layout="constrained")


@contextmanager
def axes(height: float = 4.0, *, width: float = WIDTH) -> Iterator[tuple[Canvas, Axes]]:
    """:func:`canvas` with one pair of axes in it."""
    with canvas(height, width=width) as figure:
        yield figure, figure.add_subplot()


def save(lab: Lab, figure: Canvas, *, name: str, alt: str, caption: str) -> Figure:
    """Writes the drafts (:func:`labkit.result.drafts`) of ``figures/NAME.png`` (150 dots an inch) and
    ``.svg``, which replace those of the last good run when the stage has passed.

    The same drawing gives the same bytes. ``name`` is of lower-case letters, digits and hyphens;
    ``alt`` says to somebody who does not see the picture what it shows, with its numbers;
    ``caption`` is the line below it. Raises :class:`ConfigError` when one of them is missing.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ConfigError(
            repr(name),
            "is no figure's name",
            "lower-case letters, digits, hyphens",
            code="config.figure",
        )
    if not alt.strip() or not caption.strip():
        raise ConfigError(
            name, "a figure without alt text or caption", "say what it shows", code="config.figure"
        )
    images = {"png": _bytes(figure, "png"), "svg": _bytes(figure, "svg")}
    for ending, image in images.items():
        write_atomically(drafts(lab) / f"{name}.{ending}", image)
    return Figure(
        name=name, png=f"figures/{name}.png", svg=f"figures/{name}.svg", alt=alt, caption=caption
    ).holding(images["png"])


def _bytes(figure: Canvas, ending: str) -> bytes:
    """The figure in a format, in the lab's style, without the date that SVG writes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    metadata = {"Date": None} if ending == "svg" else {"Software": None}
    with mpl.rc_context(_SETTINGS):
        figure.savefig(buffer, format=ending, dpi=DPI, metadata=metadata)
    return buffer.getvalue()
