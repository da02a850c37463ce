"""Screenshots of the lab's pages, side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.core.result import Figure, Result, picture
from labkit.display import counted
from labkit.farm.services.browser import SIZE, Page, Visits
from labkit.model.lab import Lab
from labkit.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


#: The most pages beside each other, and a screenshot's height by its width.
MOST = 4
SHAPE = SIZE[1] / SIZE[0]


def pages(lab: Lab, result: Result[Visits], *, name: str = "pages") -> Figure:
    """Shows the screenshot of each address, with the pages of one site together.

    :param result: of :func:`labkit.farm.services.browser.visit`.
    :param name: the figure's name, and its files'.
    """
    shown = result.value.pages
    places = arrange(lab, shown)
    columns = 1 + max(column for _, column in places)
    lines = 1 + max(line for line, _ in places)
    size, letters = style.WIDTH / columns, min(9.0, 27.0 / columns)
    with style.canvas(0.05 + (size * SHAPE + letters / 40) * lines) as figure:
        panels = figure.subplots(lines, columns, squeeze=False)
        for panel in panels.flat:
            panel.set_axis_off()
        for page, place in zip(shown, places, strict=True):
            axes = panels[place]
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=style.FAINT)
            axes.set_title(page.url, fontsize=letters, pad=4, fontweight="normal")
            _picture(lab, page, axes)
        listed = "; ".join(_told(page) for page in shown)
        return style.save(
            lab,
            figure,
            name=name,
            alt=f"Screenshots of {counted(len(shown), 'page')}: {listed}.",
            caption=f"The {'pages' if len(shown) > 1 else 'page'} as {result.value.browser} shows "
            f"{'them' if len(shown) > 1 else 'it'}.",
        )


def arrange(lab: Lab, shown: Sequence[Page]) -> list[tuple[int, int]]:
    """The line and column of each page.

    The replicas of a site stand below each other, a column a site; where that would be too many
    columns, beside each other, a line a site; pages of anything else in lines as they come.
    """
    sites = {lab.url(item.name): item.site for item in lab.farm}
    owners = [sites.get(page.url, "") for page in shown]
    groups = [len(list(own)) for _, own in itertools.groupby(owners)]
    if "" in owners or max(groups) == 1 or len(groups) != len(set(owners)):
        columns = min(len(shown), MOST)
        return [divmod(place, columns) for place in range(len(shown))]
    places = [(group, step) for group, count in enumerate(groups) for step in range(count)]
    if 1 < len(groups) <= MOST:
        return [(step, group) for group, step in places]
    first = [0, *itertools.accumulate(math.ceil(count / MOST) for count in groups)]
    return [(first[group] + step // MOST, step % MOST) for group, step in places]


def _picture(lab: Lab, page: Page, axes: Axes) -> None:
    from matplotlib.image import imread

    file = picture(lab, page.screenshot)
    if page.status and file.exists():
        axes.imshow(imread(file))
    else:
        axes.text(0.5, 0.5, "not reached", ha="center", va="center", transform=axes.transAxes)


def _told(page: Page) -> str:
    if not page.status:
        return f"{page.url}: not reached ({page.error})"
    served = f", served by {page.replica}" if page.replica else ""
    heading = f", {page.heading}" if page.heading not in ("", page.title) else ""
    return f"{page.url}: {page.title}{heading}{served}"
