"""Screenshots of the lab's pages, side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from labkit.farm.browsing import Page, Visits
from labkit.lab import Lab
from labkit.report.figures import style
from labkit.result import Figure, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def pages(lab: Lab, result: Result[Visits], *, name: str = "pages", columns: int = 3) -> Figure:
    """What the browser showed of each address: :func:`labkit.farm.browser.visit`'s screenshots."""
    shown = result.value.pages
    lines = math.ceil(len(shown) / columns)
    with style.canvas(0.05 + 1.72 * lines) as figure:
        for place, page in enumerate(shown, 1):
            axes = figure.add_subplot(lines, columns, place)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set(visible=True, color=style.FAINT)
            axes.set_title(page.url, fontsize=9, pad=4, fontweight="normal")
            _picture(lab, page, axes)
        listed = "; ".join(_told(page) for page in shown)
        return style.save(
            lab,
            figure,
            name=name,
            alt=f"Screenshots of {len(shown)} pages: {listed}.",
            caption=f"The pages as {result.value.browser} shows them.",
        )


def _picture(lab: Lab, page: Page, axes: Axes) -> None:
    from matplotlib.image import imread

    file = lab.output_dir / page.screenshot
    if page.status and file.exists():
        axes.imshow(imread(file))
    else:
        axes.text(0.5, 0.5, "not reached", ha="center", va="center", transform=axes.transAxes)


def _told(page: Page) -> str:
    said = (
        f"{page.title}, served by {page.replica}" if page.status else f"not reached ({page.error})"
    )
    return f"{page.url}: {said}"
