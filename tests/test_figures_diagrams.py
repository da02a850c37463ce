"""The diagrams of images and of the network: no box lies on another, and the alt text has what the picture shows."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from labkit import Lab, Result
from labkit.core.result import picture
from labkit.farm.network.topology import Port, Topology
from labkit.report.figures import diagrams, topology
from labkit.report.figures.diagrams import BOX, arrange_links


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab of three sites on two servers each that writes into the test's folder."""
    return Lab.of({"outputs": str(tmp_path)})


def wired(lab: Lab) -> Topology:
    """The lab's network as it is when everything is right."""
    return Topology(
        bridge=lab.bridge,
        up=True,
        addresses=(str(lab.gateway),),
        ports=tuple(replica.link for replica in lab.farm),
        links=tuple(
            Port(
                replica=replica.name, link=replica.link, bridge=lab.bridge, up=True, peer="eth0",
                addresses=(f"{replica.address}/{lab.subnet.prefixlen}",), mac=replica.mac,
            )
            for replica in lab.farm
        ),
    )  # fmt: skip


def connected(seen: Topology) -> Result[Topology]:
    """The result that says so."""
    return Result[Topology](
        action="network.connect", subject=seen.bridge, summary="A result.", changed=False,
        value=seen, run="r", started=datetime(2024, 1, 1, tzinfo=UTC), seconds=0.0,
    )  # fmt: skip


def sites(shape: tuple[int, int]) -> dict[str, object]:
    """The configuration of so many sites of so many replicas each."""
    return {"sites": [{"name": f"site{n}"} for n in range(1, shape[0] + 1)], "replicas": shape[1]}


@pytest.mark.parametrize("shape", [(3, 2), (10, 3), (1, 1)])
def test_the_same_network_gives_the_same_bytes(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Both formats are written, and a second drawing changes neither, for few links and for many."""
    lab = Lab.of({"outputs": str(tmp_path), **sites(shape)})
    drawn = []
    for _ in range(2):
        figure = topology(lab, connected(wired(lab)))
        drawn.append((picture(lab, figure.png).read_bytes(), picture(lab, figure.svg).read_bytes()))
    assert drawn[0][0].startswith(b"\x89PNG")
    assert drawn[0] == drawn[1]


def test_the_alt_text_names_the_counts_and_every_link(tmp_path: Path) -> None:
    """Somebody who does not see the picture learns the bridge, its namespace, and both ends of a link."""
    lab = Lab.of({"outputs": str(tmp_path), "host": {"netns": "apart"}})
    alt = topology(lab, connected(wired(lab))).alt
    assert f"Bridge {lab.bridge} ({lab.gateway}) in namespace apart, with 6 ports" in alt
    assert "6 of 6 containers of 3 sites" in alt
    for replica in lab.farm:
        assert f"{replica.link} to eth0 of {replica.name}, {replica.address}/24" in alt


def test_a_missing_link_and_a_strange_port_are_told(lab: Lab) -> None:
    """A container without a link is counted as not linked; a port that is no container's is drawn last and named."""
    seen = wired(lab)
    lost = seen.links[0].model_copy(update={"link": "", "bridge": "", "peer": "", "addresses": ()})
    left = {"ports": ("eth0", *seen.ports[1:]), "links": (lost, *seen.links[1:])}
    wrong = seen.model_copy(update=left)
    assert arrange_links(lab, wrong)[-1].link.link == "eth0"
    alt = topology(lab, connected(wrong)).alt
    assert "in the machine" in alt
    assert "5 of 6 containers" in alt
    assert "no link to no peer of site1-1, no address" in alt
    assert "No container's: eth0." in alt


@pytest.mark.parametrize("shape", [(3, 2), (10, 3)])
def test_no_row_lies_on_another(shape: tuple[int, int]) -> None:
    """Boxes of neighbours keep apart, and sites keep further apart than the containers of one."""
    lab = Lab.of(sites(shape))
    rows = arrange_links(lab, wired(lab))
    within: set[float] = set()
    across: set[float] = set()
    for above, below in pairwise(rows):
        (within if above.site == below.site else across).add(round(below.y - above.y, 3))
    assert min(within) > BOX
    assert min(across) > max(within)


POINTERS = [
    {"from": source, "to": target, "as": "tag"}
    for source, target in (
        ("index.json", "manifest aa"), ("manifest aa", "configuration bb"), ("manifest aa", "layer cc"),
        ("index.json", "manifest dd"), ("manifest dd", "configuration ee"), ("manifest dd", "layer cc"),
        ("manifest dd", "layer ff"), ("bundle: umoci.json", "manifest aa"), ("bundle: *.mtree", "manifest aa"),
        ("bundle: config.json", "configuration bb"), ("bundle: rootfs", "layer cc"),
    )
]  # fmt: skip


def test_no_box_of_an_image_lies_on_another() -> None:
    """And the bundle's files stand in one column, beside what they were made from."""
    places = diagrams.arrange_files(POINTERS)
    for (ax, ay), (bx, by) in combinations(places.values(), 2):
        assert abs(ax - bx) >= 2 * diagrams.HALF or abs(ay - by) >= 2 * diagrams.RISE
    assert places["bundle: config.json"][1] == places["configuration bb"][1]
    assert places["bundle: rootfs"][1] == places["layer cc"][1]
    assert len({x for name, (x, _) in places.items() if name.startswith("bundle")}) == 1
