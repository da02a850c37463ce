"""Diagrams: an image layout with the bundle unpacked from it, and the network with a veth pair to each container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.core.result import Figure, Result
from labkit.display import counted
from labkit.farm.network.topology import Port, Topology
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.figures import style
from labkit.report.figures.style import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Half a box's width and height, and where the columns stand: index, manifests, blobs, bundle.
HALF, RISE = 0.5, 0.3
ACROSS = {"index.json": 0.0, "manifest": 1.55, "configuration": 3.1, "layer": 3.1, "bundle": 4.95}
#: The files of a bundle whose arrow says from what they were made; the others' is a hash in them.
MADE = ("bundle: config.json", "bundle: rootfs")
Place = tuple[float, float]
#: Across, in inches: the host's side, the boxes at the bridge's address, the bridge, the containers.
HOST, SERVICE, BRIDGE, INSIDE, SITE = (0.1, 4.15), (0.25, 1.35), (1.65, 2.8), (4.6, 7.1), 7.2
#: Down, in inches: what is above the rows, a row of a few and of many, a box, and between two sites.
TOP, ROW, DENSE, BOX, BETWEEN = 0.95, 0.4, 0.29, 0.24, 0.16
#: More links than these stand closer.
FEW = 12
#: The least height in inches: the boxes beside the bridge have room.
LEAST = 2.3


def _box(axes: Axes, across: Place, down: Place, *, rounding: float = 0.06, **look: Any) -> None:
    """A rounded box from one x and y to another."""
    from matplotlib.patches import FancyBboxPatch

    shape = {
        "boxstyle": f"round,pad=0,rounding_size={rounding}",
        "facecolor": "white",
        "linewidth": 1.4,
        **look,
    }
    corner = (across[0], down[0])
    axes.add_patch(FancyBboxPatch(corner, across[1] - across[0], down[1] - down[0], **shape))


# -- image layout and bundle ---------------------------------------------------------------------------


def image_relations(lab: Lab, result: Result[Any]) -> Figure:
    """Draws an image layout and the bundle unpacked from it as boxes and arrows: who points to whom.

    :param result: of :func:`labkit.farm.images.steps`, with table ``pointers``.
    """
    rows = style.rows(result, "pointers")
    places = arrange_files(rows)
    heights = [place[1] for place in places.values()]
    with style.axes(1.2 + 0.72 * (max(heights) - min(heights))) as (figure, axes):
        axes.set_axis_off()
        axes.set(xlim=(-0.6, 5.55), ylim=(min(heights) - 0.5, max(heights) + 1.0))
        for row in rows:
            _arrow(axes, places, row)
        for name, (x, y) in places.items():
            look: dict[str, Any] = {"edgecolor": style.INK, "linewidth": 1.2, "zorder": 3}
            _box(axes, (x - HALF, x + HALF), (y - RISE, y + RISE), rounding=0.08, **look)
            words = "\n".join(name.removeprefix("bundle: ").split(" "))
            axes.text(x, y, words, ha="center", va="center", fontsize=9, linespacing=1.3, zorder=4)
        low, high = min(heights), max(heights) + 0.75
        for x, heading in ((1.55, "image layout"), (4.95, "bundle")):
            axes.text(x, high, heading, ha="center", fontsize=12, fontweight="bold")
        axes.plot([4.05, 4.05], [low - 0.4, high + 0.1], color=style.GREY, linewidth=0.8, ls=":")
        told = "; ".join(f"{row['from']} to {row['to']} ({row['as']})" for row in rows)
        return style.save(
            lab,
            figure,
            name="image-relations",
            alt=f"Boxes and arrows, layout on the left and bundle on the right: {told}.",
            caption="Solid: one file names another by its hash. Dashed: a part of the bundle was made "
            "from it. The two tags share a layer; the bundle belongs to one manifest.",
        )


def arrange_files(rows: Sequence[Row]) -> dict[str, Place]:
    """Where each box stands, so that no arrow crosses a box: blobs from the top down in the order of
    the tags, a manifest in the middle of those that are its alone, the bundle's files beside what they are of."""
    pairs = [(row["from"], row["to"]) for row in rows]
    manifests = [to for source, to in pairs if source == "index.json"]
    places: dict[str, Place] = {}
    height = 0.0
    for manifest in manifests:
        blobs = [to for source, to in pairs if source == manifest and to not in places]
        first = manifest == manifests[0]  # a later tag's layers stand above its configuration
        for name in sorted(blobs, key=kind, reverse=not first):
            places[name] = (ACROSS[kind(name)], height)
            height -= 1
        places[manifest] = (ACROSS["manifest"], height + (len(blobs) + 1) / 2)
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
    """A box's kind, from its name in the table."""
    return name.split(":", maxsplit=1)[0].split(" ", maxsplit=1)[0]


def _arrow(axes: Axes, places: Mapping[str, Place], row: Row) -> None:
    source, target = row["from"], row["to"]
    (x, y), (to_x, to_y) = places[source], places[target]
    bundle, side = kind(source) == "bundle", HALF if x <= to_x else -HALF
    begin, end, route = (x + side, y), (to_x - side, to_y), "arc3"
    if bundle and kind(target) == "manifest":  # along above the blobs, then down onto the manifest
        end = (to_x + 0.2 - 0.4 * (y - 1.0), to_y + RISE)
        route = "angle,angleA=180,angleB=90,rad=6"
    look: dict[str, Any] = {
        "arrowstyle": "-|>", "color": style.ORANGE if bundle else style.BLUE, "connectionstyle": route,
        "linestyle": "--" if source in MADE else "-", "shrinkA": 0, "shrinkB": 0, "linewidth": 1.4,
    }  # fmt: skip
    axes.annotate("", xy=end, xytext=begin, arrowprops=look)
    if (
        bundle or source == "index.json"
    ):  # above the line, left of the file; else in the line's middle
        place = (x - 0.88, y + 0.14) if bundle else ((begin[0] + end[0]) / 2, (y + to_y) / 2)
        axes.text(
            *place, row["as"].split(";")[0], ha="center", va="center", fontsize=8.5, color=style.GREY,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0}, zorder=3,
        )  # fmt: skip


# -- the network ---------------------------------------------------------------------------------------


class Line(Record):
    """Where a link is drawn: ``y`` is its height in inches below the top; ``site`` '' for a port of
    the bridge that is no container's."""

    y: float
    site: str
    link: Port


def topology(lab: Lab, result: Result[Topology]) -> Figure:
    """Draws the bridge on the host's side and the links as seen, a line each.

    :param result: of :func:`labkit.farm.network.connect`.

    A link that is missing, down or no port of the bridge is dotted; a port that is no container's is drawn
    without an end.
    """
    seen = result.value
    rows = arrange_links(lab, seen)
    height = max((rows[-1].y if rows else TOP) + 0.45, LEAST)
    with style.axes(height) as (figure, axes):
        axes.set_axis_off()
        axes.set(xlim=(0, style.WIDTH), ylim=(height, 0))
        _host(axes, lab, height)
        _bridge(axes, lab, seen, height)
        for row in rows:
            _link_line(axes, row, linked=row.link.link in seen.ports)
        for site in lab.sites:
            _site(axes, lab, site.name, [row.y for row in rows if row.site == site.name])
        return style.save(
            lab,
            figure,
            name="topology",
            alt=_network_in_words(lab, seen),
            caption="Each line is a veth pair: one end is a port of the bridge, the other is eth0 in a "
            "container's network namespace. Name server and balancer (dashed) answer at the bridge's "
            "address once their stage has run.",
        )


def arrange_links(lab: Lab, seen: Topology) -> tuple[Line, ...]:
    """Where each link stands, from the top down, site by site; the bridge's other ports at the end."""
    sites = {replica.name: replica.site for replica in lab.farm}
    step = ROW if len(seen.links) <= FEW else DENSE
    rows: list[Line] = []
    y, before = TOP, ""
    for link in (*seen.links, *_strange(seen)):
        site = sites.get(link.replica, "")
        if rows:
            y += step + (BETWEEN if site != before else 0.0)
        rows.append(Line(y=round(y, 3), site=site, link=link))
        before = site
    return tuple(rows)


def _strange(seen: Topology) -> list[Port]:
    """The bridge's ports that are no container's link."""
    own = {link.link for link in seen.links}
    return [
        Port(replica="", link=port, bridge=seen.bridge, up=True, peer="", addresses=(), mac="")
        for port in seen.ports
        if port not in own
    ]


def _host(axes: Axes, lab: Lab, height: float) -> None:
    _box(axes, HOST, (0.1, height - 0.1), edgecolor=style.GREY, facecolor="#f4f6f8", zorder=0)
    name = f"namespace {short(lab.netns, 24)}" if lab.netns else "the machine"
    heading: dict[str, Any] = {"va": "center", "fontsize": 10, "fontweight": "bold"}
    axes.text(HOST[0] + 0.15, 0.34, f"Host's side: {name}", **heading)
    axes.text(INSIDE[0], 0.34, "Containers, a namespace each", **heading)
    for x, text in ((BRIDGE[1] + 0.08, "port"), (INSIDE[0] + 0.08, "its peer")):
        axes.text(x, 0.64, text, va="center", fontsize=8, color=style.GREY)


def _bridge(axes: Axes, lab: Lab, seen: Topology, height: float) -> None:
    """The bridge as a tall box, and beside it who answers at its address."""
    _box(axes, BRIDGE, (0.62, height - 0.25), edgecolor=style.INK, zorder=2)
    address = "\n".join(seen.addresses) or "no address"
    words = f"{seen.bridge}\n{'bridge' if seen.up else 'bridge, down'}\n{address}"
    centre, across = (0.62 + height - 0.25) / 2, sum(BRIDGE) / 2
    axes.text(across, centre, words, ha="center", va="center", fontsize=8.5, linespacing=1.6)
    for text, away in (("name server\nport 53", -0.4), (f"balancer\nport {lab.proxy.port}", 0.4)):
        y = centre + away
        dashed: dict[str, Any] = {"edgecolor": style.GREY, "linestyle": "--"}
        _box(axes, SERVICE, (y - 0.25, y + 0.25), zorder=2, **dashed)
        axes.plot([SERVICE[1], BRIDGE[0]], [y, y], color=style.GREY, linestyle="--", linewidth=1)
        axes.text(sum(SERVICE) / 2, y, text, ha="center", va="center", fontsize=8, linespacing=1.3)


def _link_line(axes: Axes, row: Line, *, linked: bool) -> None:
    """One pair: the port's square, its name, the line, and the container with eth0 and address."""
    link, y = row.link, row.y
    right = linked and link.up and bool(link.peer)
    end = INSIDE[0] if link.replica else HOST[1] - 0.15
    axes.plot(
        [BRIDGE[1], end], [y, y],
        color=style.INK if right else style.ORANGE, linestyle="-" if right else ":",
        linewidth=1.3, zorder=3,
    )  # fmt: skip
    if linked:
        axes.plot(BRIDGE[1], y, marker="s", markersize=5, color=style.INK, zorder=4)
    name = link.link or "no link"
    axes.text(BRIDGE[1] + 0.08, y - 0.03, name, va="bottom", fontsize=7.5, zorder=4)
    if not link.replica:
        axes.text(
            HOST[1] - 0.1, y + 0.1, "no container's", ha="right", va="center", fontsize=7.5,
            color=style.ORANGE,
        )  # fmt: skip
        return
    address = ", ".join(link.addresses) or "no address"
    for x, text, side, weight in (
        (INSIDE[0] + 0.08, link.peer or "no peer", "left", "normal"),
        (INSIDE[0] + 0.5, short(link.replica, 12), "left", "bold"),
        (INSIDE[1] - 0.08, address, "right", "normal"),
    ):
        axes.text(x, y, text, ha=side, va="center", fontsize=8, fontweight=weight, zorder=5)


def _site(axes: Axes, lab: Lab, name: str, heights: list[float]) -> None:
    """The site's containers in its colour, joined by a stroke that its name stands beside."""
    if not heights:
        return
    colour = lab.colour(lab.site(name))
    for y in heights:
        _box(axes, INSIDE, (y - BOX / 2, y + BOX / 2), edgecolor=colour, zorder=4)
    ends = (min(heights) - BOX / 2, max(heights) + BOX / 2)
    axes.plot([SITE, SITE], ends, color=colour, linewidth=4, solid_capstyle="butt", zorder=3)
    axes.text(SITE + 0.1, sum(ends) / 2, short(name, 8), va="center", fontsize=9, fontweight="bold")


def short(text: str, most: int) -> str:
    """The text, cut to ``most`` characters of which the last is then an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _network_in_words(lab: Lab, seen: Topology) -> str:
    """The counts, and every line of the figure in words."""
    linked = sum(link.link in seen.ports for link in seen.links)
    place = f"namespace {lab.netns}" if lab.netns else "the machine"
    listed = "; ".join(
        f"{link.link or 'no link'} to {link.peer or 'no peer'} of {link.replica}, "
        f"{', '.join(link.addresses) or 'no address'}"
        for link in seen.links
    )
    strange = ", ".join(port.link for port in _strange(seen))
    return (
        f"Bridge {seen.bridge} ({', '.join(seen.addresses) or 'no address'}) in {place}, with "
        f"{counted(len(seen.ports), 'port')}; {linked} of {counted(len(seen.links), 'container')} of {counted(len(lab.sites), 'site')} "
        f"are linked to it: {listed}." + (f" No container's: {strange}." if strange else "")
    )
