"""The network's rules, each against a topology that breaks it; no network is made."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.farm.network import topology
from labkit.farm.network.topology import Port, Topology

LAB = Lab.load(None, lab_name="shop", sites=["red"], netns="box")


def sound() -> Topology:
    """The farm's network as it should be seen."""
    links = tuple(
        Port(
            replica=replica.name,
            link=replica.link,
            bridge=LAB.bridge,
            up=True,
            peer="eth0",
            addresses=(f"{replica.address}/24",),
            mac=replica.mac,
            gateway="10.60.0.1",
        )
        for replica in LAB.farm
    )
    return Topology(
        bridge=LAB.bridge,
        up=True,
        addresses=(str(LAB.gateway),),
        ports=tuple(link.link for link in links),
        links=links,
    )


def first_link(**changes: object) -> Callable[[Topology], Topology]:
    """The topology with its first link changed."""

    def change(seen: Topology) -> Topology:
        first, *others = seen.links
        return seen.model_copy(update={"links": (first.model_copy(update=changes), *others)})

    return change


def whole(**changes: object) -> Callable[[Topology], Topology]:
    """The topology with the bridge's own values changed."""
    return lambda seen: seen.model_copy(update=changes)


def names(seen: Topology) -> set[str]:
    """The checks that fail."""
    return {check.name for check in failed(topology.checks(LAB, seen))}


def test_every_check_holds_of_a_sound_network() -> None:
    """All of them, each with the row that it answers, what was seen, and a command inside the lab's namespace."""
    found = topology.checks(LAB, sound())
    assert names(sound()) == set()
    assert [check.name for check in found] == [f"network.{name}" for name in topology.RULES]
    assert all(check.rows and check.again.startswith("ip netns exec box ") for check in found)
    assert all(check.seen != check.expected for check in found)
    assert {"2 ports: shop-red-1, shop-red-2", "red-1 10.60.0.11, red-2 10.60.0.21"} <= {
        check.seen for check in found
    }


@pytest.mark.parametrize(
    ("change", "check", "seen"),
    [
        (whole(ports=("shop-old-1", "shop-red-1", "shop-red-2")), "ports", "shop-old-1 is in the bridge and is no"),
        (whole(foreign=("eth0",)), "ports", "take it out (ip -n box link set eth0 nomaster)"),
        (first_link(outer=("10.60.0.1/24",)), "port-addresses", "on a port: 10.60.0.1/24 is on shop-red-1"),
        (whole(ports=("shop-red-1",)), "ports", "shop-red-2 is not in the bridge"),
        (whole(ports=()), "ports", "shop-red-1, shop-red-2 is not"),
        (first_link(addresses=("10.60.0.21/24",)), "addresses", "10.60.0.21 is on red-1's eth0 and on red-2's eth0"),
        (first_link(addresses=("10.60.0.1/24",)), "addresses", "10.60.0.1 is on br-shop and on red-1's eth0"),
        (first_link(addresses=("10.60.0.21/16", "10.60.0.11/24")), "addresses", "10.60.0.21"),
        (first_link(addresses=("10.61.0.11/24",)), "one-network", "red-1 has no address in 10.60.0.0/24"),
        (first_link(addresses=("10.60.0.11/16",)), "one-network", "no address in 10.60.0.0/24 but 10.60.0.11/16"),
        (whole(addresses=()), "one-network", "br-shop has no address"),
        (first_link(addresses=("127.0.0.1/8", "10.60.0.11/24")), "targets", "pinged at 127.0.0.1"),
        (first_link(addresses=()), "targets", "at no address"),
        (first_link(peer="p0"), "peers", "red-1 has p0"),
        (first_link(peer=""), "peers", "red-1 has no eth0"),
        (first_link(up=False), "peers", "red-1's link is down"),
        (first_link(peer="eth0 of another link"), "peers", "red-1 has eth0 of another link"),
        (whole(up=False), "bridge", "br-shop is down"),
        (first_link(gateway=""), "routes", "red-1's default route is missing"),
        (first_link(gateway="10.60.0.254"), "routes", "red-1's default route leads to 10.60.0.254"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_named(
    change: Callable[[Topology], Topology], check: str, seen: str
) -> None:
    """The rule's check fails and says what was seen."""
    found = {item.name: item for item in topology.checks(LAB, change(sound()))}
    assert not found[f"network.{check}"].holds
    assert seen in found[f"network.{check}"].seen


def test_no_check_holds_of_a_network_that_is_not_there() -> None:
    """Nothing that is missing is taken for sound."""
    missing = Topology(bridge=LAB.bridge, up=False, addresses=(), ports=(), links=())
    found = topology.checks(LAB, missing)
    assert not any(check.holds for check in found)
    assert {check.seen for check in found} == {"there is no bridge br-shop"}


def test_the_table_has_a_row_a_link() -> None:
    """Both ends, the bridge, the address and the MAC address of each."""
    table = topology.link_table(LAB, sound())
    assert table.title == "Bridge br-shop (10.60.0.1/24) and its links"
    assert table.rows[0] == (
        "red-1", "shop-red-1", "br-shop", "eth0", "10.60.0.11/24", "02:12:cf:b1:f9:75", True,
    )  # fmt: skip
    assert len(table.rows) == 2
