"""The figure of the network: the bridge on the host's side, and a veth pair to each container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.core.result import Figure, Result
from labkit.display import counted
from labkit.farm.network.topology import Port, Topology
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Across, in inches: the host's side, the boxes at the bridge's address, the bridge, the containers.
HOST, SERVICE, BRIDGE, INSIDE, SITE = (0.1, 4.15), (0.25, 1.35), (1.65, 2.8), (4.6, 7.1), 7.2
#: Down, in inches: what is above the rows, a row of a few and of many, a box, and between two sites.
TOP, ROW, DENSE, BOX, BETWEEN = 0.95, 0.4, 0.29, 0.24, 0.16
#: More links than these stand closer.
FEW = 12
#: The least height in inches: the boxes beside the bridge have room.
LEAST = 2.3


class Row(Record):
    """Where a link is drawn: ``y`` is its height in inches below the top; ``site`` '' for a port of
    the bridge that is no container's."""

    y: float
    site: str
    link: Port


def topology(lab: Lab, result: Result[Topology]) -> Figure:
    """The links as seen, a line each; ``result`` is :func:`labkit.farm.network.actions.connect`'s.

    A link that is missing, down or no port of the bridge is dotted; a port that is no container's is drawn
    without an end.
    """
    seen = result.value
    rows = arrange(lab, seen)
    height = max((rows[-1].y if rows else TOP) + 0.45, LEAST)
    with style.canvas(height) as figure:
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.set_xlim(0, style.WIDTH)
        axes.set_ylim(height, 0)
        _host(axes, lab, height)
        _bridge(axes, lab, seen, height)
        for row in rows:
            _link(axes, row, linked=row.link.link in seen.ports)
        for site in lab.sites:
            _site(axes, lab, site.name, [row.y for row in rows if row.site == site.name])
        return style.save(
            lab,
            figure,
            name="topology",
            alt=_told(lab, seen),
            caption="Each line is a veth pair: one end is a port of the bridge, the other is eth0 in a "
            "container's network namespace. Name server and balancer (dashed) answer at the bridge's "
            "address once their stage has run.",
        )


def arrange(lab: Lab, seen: Topology) -> tuple[Row, ...]:
    """Where each link stands, from the top down, site by site; the bridge's other ports at the end."""
    sites = {replica.name: replica.site for replica in lab.farm}
    step = ROW if len(seen.links) <= FEW else DENSE
    rows: list[Row] = []
    y, before = TOP, ""
    for link in (*seen.links, *_strange(seen)):
        site = sites.get(link.replica, "")
        if rows:
            y += step + (BETWEEN if site != before else 0.0)
        rows.append(Row(y=round(y, 3), site=site, link=link))
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
    _box(axes, HOST, (0.1, height - 0.1), edge=style.GREY, fill="#f4f6f8", layer=0)
    name = f"namespace {short(lab.netns, 24)}" if lab.netns else "the machine"
    axes.text(
        HOST[0] + 0.15, 0.34, f"Host's side: {name}", va="center", fontsize=10, fontweight="bold"
    )
    axes.text(
        INSIDE[0], 0.34, "Containers, a namespace each", va="center", fontsize=10, fontweight="bold"
    )
    for x, text in ((BRIDGE[1] + 0.08, "port"), (INSIDE[0] + 0.08, "its peer")):
        axes.text(x, 0.64, text, va="center", fontsize=8, color=style.GREY)


def _bridge(axes: Axes, lab: Lab, seen: Topology, height: float) -> None:
    """The bridge as a tall box, and beside it who answers at its address."""
    _box(axes, BRIDGE, (0.62, height - 0.25), edge=style.INK, fill="white", layer=2)
    address = "\n".join(seen.addresses) or "no address"
    words = f"{seen.bridge}\n{'bridge' if seen.up else 'bridge, down'}\n{address}"
    centre, across = (0.62 + height - 0.25) / 2, sum(BRIDGE) / 2
    axes.text(across, centre, words, ha="center", va="center", fontsize=8.5, linespacing=1.6)
    for text, away in (
        ("name server\nport 53", -0.4),
        (f"balancer\nport {lab.proxy.port}", 0.4),
    ):
        y = centre + away
        _box(
            axes, SERVICE, (y - 0.25, y + 0.25),
            edge=style.GREY, fill="white", line="--", layer=2,
        )  # fmt: skip
        axes.plot([SERVICE[1], BRIDGE[0]], [y, y], color=style.GREY, linestyle="--", linewidth=1)
        axes.text(sum(SERVICE) / 2, y, text, ha="center", va="center", fontsize=8, linespacing=1.3)


def _link(axes: Axes, row: Row, *, linked: bool) -> None:
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
        _box(axes, INSIDE, (y - BOX / 2, y + BOX / 2), edge=colour, fill="white", layer=4)
    ends = (min(heights) - BOX / 2, max(heights) + BOX / 2)
    axes.plot([SITE, SITE], ends, color=colour, linewidth=4, solid_capstyle="butt", zorder=3)
    axes.text(SITE + 0.1, sum(ends) / 2, short(name, 8), va="center", fontsize=9, fontweight="bold")


def short(text: str, most: int) -> str:
    """The text, cut to ``most`` characters of which the last is then an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _box(
    axes: Axes,
    across: tuple[float, float],
    down: tuple[float, float],
    *,
    edge: str,
    fill: str,
    line: str = "-",
    layer: int,
) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (across[0], down[0]), across[1] - across[0], down[1] - down[0],
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=fill, edgecolor=edge, linestyle=line, linewidth=1.4, zorder=layer,
        )
    )  # fmt: skip


def _told(lab: Lab, seen: Topology) -> str:
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
