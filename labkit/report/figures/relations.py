"""The figure of an image layout and the bundle that was unpacked from it: who points to whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.core.result import Figure, Result
from labkit.core.tables import Cell
from labkit.model.lab import Lab
from labkit.report.figures import style
from labkit.report.figures.rootfs import table_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Half a box's width and height, and where the columns stand: index, manifests, blobs, bundle.
HALF, RISE = 0.5, 0.3
ACROSS = {"index.json": 0.0, "manifest": 1.55, "configuration": 3.1, "layer": 3.1, "bundle": 4.95}
#: The files of a bundle whose arrow says from what they were made; the others' is a hash in them.
MADE = ("bundle: config.json", "bundle: rootfs")
Place = tuple[float, float]
#: What every function that draws a result looks like.
Drawing = Callable[[Lab, Result[Any]], Figure]


def image_relations(lab: Lab, result: Result[Any]) -> Figure:
    """Layout and bundle as boxes and arrows; ``result`` is :func:`labkit.farm.images.actions.steps`'s."""
    rows = table_rows(result, "pointers")
    places = arrange(rows)
    heights = [place[1] for place in places.values()]
    with style.canvas(1.2 + 0.72 * (max(heights) - min(heights))) as figure:
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.set_xlim(-0.6, 5.55)
        axes.set_ylim(min(heights) - 0.5, max(heights) + 1.0)
        for row in rows:
            _arrow(axes, places, row)
        for name, place in places.items():
            _box(axes, name, place)
        _headings(axes, min(heights), max(heights) + 0.75)
        told = "; ".join(f"{row['from']} to {row['to']} ({row['as']})" for row in rows)
        return style.save(
            lab,
            figure,
            name="image-relations",
            alt=f"Boxes and arrows, layout on the left and bundle on the right: {told}.",
            caption="Solid: one file names another by its hash. Dashed: a part of the bundle was made "
            "from it. The two tags share a layer; the bundle belongs to one manifest.",
        )


def arrange(rows: Sequence[Mapping[str, Cell]]) -> dict[str, Place]:
    """Where each box stands, so that no arrow crosses a box: blobs from the top down in the order of
    the tags, a manifest in the middle of its own blobs, the bundle's files beside what they are of."""
    pairs = [(str(row["from"]), str(row["to"])) for row in rows]
    manifests = [to for source, to in pairs if source == "index.json"]
    blobs = _blobs(pairs, manifests)
    places = {name: (ACROSS[kind(name)], -float(down)) for down, name in enumerate(blobs)}
    for manifest in manifests:
        own = [places[to][1] for source, to in pairs if source == manifest]
        fresh = [y for y in own if y not in _seen(places, manifests, pairs, manifest)]
        places[manifest] = (ACROSS["manifest"], sum(fresh) / len(fresh))
    middle = sum(places[manifest][1] for manifest in manifests) / len(manifests)
    places["index.json"] = (ACROSS["index.json"], middle)
    above = 1.0
    for source, to in pairs:
        if kind(source) == "bundle" and source not in places:
            down = places[to][1]
            if kind(to) == "manifest":
                down, above = above, above + 0.85
            places[source] = (ACROSS["bundle"], down)
    return places


def kind(name: str) -> str:
    """What a box is, from its name in the table."""
    return name.split(":", maxsplit=1)[0].split(" ", maxsplit=1)[0]


def _blobs(pairs: Sequence[tuple[str, str]], manifests: Sequence[str]) -> list[str]:
    """The configurations and layers, the first tag's first; a later tag's layers before its configuration."""
    found: list[str] = []
    for place, manifest in enumerate(manifests):
        own = [to for source, to in pairs if source == manifest and to not in found]
        found += sorted(own, key=kind, reverse=place > 0)
    return found


def _seen(
    places: Mapping[str, Place],
    manifests: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    manifest: str,
) -> set[float]:
    """The heights of the blobs that an earlier manifest has too."""
    earlier = manifests[: manifests.index(manifest)]
    return {places[to][1] for source, to in pairs if source in earlier}


def _headings(axes: Axes, low: float, high: float) -> None:
    axes.text(1.55, high, "image layout", ha="center", fontsize=12, fontweight="bold")
    axes.text(4.95, high, "bundle", ha="center", fontsize=12, fontweight="bold")
    axes.plot([4.05, 4.05], [low - 0.4, high + 0.1], color=style.GREY, linewidth=0.8, linestyle=":")


def _box(axes: Axes, name: str, place: Place) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (place[0] - HALF, place[1] - RISE)
    shape = "round,pad=0,rounding_size=0.08"
    axes.add_patch(
        FancyBboxPatch(
            corner, 2 * HALF, 2 * RISE, boxstyle=shape,
            facecolor="white", edgecolor=style.INK, linewidth=1.2, zorder=3,
        )
    )  # fmt: skip
    words = "\n".join(name.removeprefix("bundle: ").split(" "))
    axes.text(*place, words, ha="center", va="center", fontsize=9, linespacing=1.3, zorder=4)


def _arrow(axes: Axes, places: Mapping[str, Place], row: Mapping[str, Cell]) -> None:
    source, target = str(row["from"]), str(row["to"])
    (x, y), (to_x, to_y) = places[source], places[target]
    backwards = x > to_x
    over = kind(source) == "bundle" and kind(target) == "manifest"
    begin = (x - HALF if backwards else x + HALF, y)
    end = (to_x + HALF if backwards else to_x - HALF, to_y)
    if over:  # along above the blobs, then down onto the manifest
        end = (to_x + 0.2 - 0.4 * (y - 1.0), to_y + RISE)
    axes.annotate(
        "",
        xy=end,
        xytext=begin,
        arrowprops={
            "arrowstyle": "-|>",
            "color": style.ORANGE if kind(source) == "bundle" else style.BLUE,
            "linestyle": "--" if source in MADE else "-",
            "connectionstyle": "angle,angleA=180,angleB=90,rad=6" if over else "arc3",
            "shrinkA": 0,
            "shrinkB": 0,
            "linewidth": 1.4,
        },
    )
    if kind(source) == "bundle":  # above the line, left of the file
        _word(axes, _said(row), (x - 0.88, y + 0.14))
    elif source == "index.json":
        _word(axes, _said(row), ((begin[0] + end[0]) / 2, (y + to_y) / 2))


def _said(row: Mapping[str, Cell]) -> str:
    return str(row["as"]).split(";")[0]


def _word(axes: Axes, text: str, place: Place) -> None:
    axes.text(
        *place, text, ha="center", va="center", fontsize=8.5, color=style.GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0}, zorder=3,
    )  # fmt: skip
