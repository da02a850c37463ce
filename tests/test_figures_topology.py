"""The figure of the network: drawn from what was seen, with its counts in words."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from labkit import Lab, Result
from labkit.core.result import picture
from labkit.farm.network.topology import Port, Topology
from labkit.report.figures import topology
from labkit.report.figures.diagrams import BOX, arrange_links, short


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


@pytest.mark.parametrize("shape", [(3, 2), (10, 3), (1, 1)])
def test_the_same_network_gives_the_same_bytes(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Both formats are written, and a second drawing changes neither, for few links and for many."""
    sites = [{"name": f"site{n}"} for n in range(1, shape[0] + 1)]
    lab = Lab.of({"outputs": str(tmp_path), "sites": sites, "replicas": shape[1]})
    drawn = []
    for _ in range(2):
        figure = topology(lab, connected(wired(lab)))
        drawn.append((picture(lab, figure.png).read_bytes(), picture(lab, figure.svg).read_bytes()))
    assert drawn[0][0].startswith(b"\x89PNG")
    assert drawn[0] == drawn[1]


def test_the_alt_text_names_the_counts_and_every_link(lab: Lab) -> None:
    """Somebody who does not see the picture learns the bridge, the counts and both ends of a link."""
    alt = topology(lab, connected(wired(lab))).alt
    assert f"Bridge {lab.bridge} ({lab.gateway}) in the machine, with 6 ports" in alt
    assert "6 of 6 containers of 3 sites" in alt
    for replica in lab.farm:
        assert f"{replica.link} to eth0 of {replica.name}, {replica.address}/24" in alt


def test_a_namespace_of_the_host_is_named(tmp_path: Path) -> None:
    """Where the bridge is not the machine's own, the figure says in which namespace it is."""
    lab = Lab.of({"outputs": str(tmp_path), "host": {"netns": "apart"}})
    assert "in namespace apart" in topology(lab, connected(wired(lab))).alt


def test_a_port_that_is_no_containers_is_told(lab: Lab) -> None:
    """The host's own interface in the bridge is drawn last and named, and is not counted as a link."""
    seen = wired(lab)
    wrong = seen.model_copy(update={"ports": ("eth0", *seen.ports[1:])})
    assert arrange_links(lab, wrong)[-1].link.link == "eth0"
    assert "No container's: eth0." in topology(lab, connected(wrong)).alt


def test_a_missing_link_is_told(lab: Lab) -> None:
    """A container without a link is drawn all the same, and counted as not linked."""
    seen = wired(lab)
    lost = seen.links[0].model_copy(update={"link": "", "bridge": "", "peer": "", "addresses": ()})
    left = {"ports": seen.ports[1:], "links": (lost, *seen.links[1:])}
    alt = topology(lab, connected(seen.model_copy(update=left))).alt
    assert "5 of 6 containers" in alt
    assert "no link to no peer of site1-1, no address" in alt


@pytest.mark.parametrize("shape", [(3, 2), (10, 3)])
def test_no_row_lies_on_another(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Boxes of neighbours keep apart, and sites keep further apart than the containers of one."""
    sites = [{"name": f"site{n}"} for n in range(1, shape[0] + 1)]
    lab = Lab.of({"outputs": str(tmp_path), "sites": sites, "replicas": shape[1]})
    rows = arrange_links(lab, wired(lab))
    within: set[float] = set()
    across: set[float] = set()
    for above, below in pairwise(rows):
        (within if above.site == below.site else across).add(round(below.y - above.y, 3))
    assert min(within) > BOX
    assert min(across) > max(within)


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [("site1-1", 12, "site1-1"), ("abcd", 4, "abcd"), ("abcde", 4, "abc…")],
)
def test_a_long_name_is_cut(text: str, most: int, expected: str) -> None:
    """And says so by an ellipsis."""
    assert short(text, most) == expected
