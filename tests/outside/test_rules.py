"""What keeps replicas apart, by nft's own reading of it and by packets of other programs from inside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from labkit import Lab
from tests.outside.asking import needs, said

pytestmark = pytest.mark.root
#: An address that is no replica's, nor the host's.
WORLD = "192.0.2.1"


def refused(lab: Lab) -> Counter[str]:
    """How many packets each of the namespace's named counters has counted, by nft."""
    found = json.loads(said("nft", "--json", "list", "counters", netns=lab.netns))["nftables"]
    return Counter({i["counter"]["name"]: i["counter"]["packets"] for i in found if "counter" in i})


@needs("nft")
def test_nft_reads_the_rules_as_its_own(farm: Lab) -> None:
    """What it lists, it would take."""
    rules = said("nft", "list", "ruleset", netns=farm.netns)
    assert "drop" in rules
    said("sh", "-c", 'printf "flush ruleset\n%s" "$RULES" | nft --check --file -', netns=farm.netns, RULES=rules)  # fmt: skip


#: Somebody else's ways out of a replica: the words of a program, made of the lab, and the counter that counts it.
WAYS: dict[str, tuple[Callable[[Lab], tuple[str, ...]], str]] = {
    "tcp to a neighbour": (lambda lab: ("curl", "-sS", "--max-time", "2", f"http://{lab.farm[1].address}/"), "between"),
    "udp to a neighbour": (lambda lab: ("curl", "-sS", "--max-time", "2", f"tftp://{lab.farm[1].address}/a"), "between"),
    "tcp to a site": (lambda lab: ("curl", "-sS", "--max-time", "2", f"http://{lab.gateway.ip}/"), "host"),
    "udp to the host": (lambda lab: ("curl", "-sS", "--max-time", "2", f"tftp://{lab.gateway.ip}/a"), "host"),
    "ping to the world": (lambda lab: ("ping", "-c1", "-W1", WORLD), "outwards"),
    "tcp to the world": (lambda lab: ("curl", "-sS", "--max-time", "2", f"http://{WORLD}/"), "outwards"),
    "udp to the world": (lambda lab: ("curl", "-sS", "--max-time", "2", f"tftp://{WORLD}/a"), "outwards"),
    "ipv6 to everybody": (lambda lab: ("ping", "-6", "-c1", "-W1", "ff02::1%eth0"), ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(farm: Lab) -> Iterator[None]:
    """The lab's host has a network besides, and sends packets on to it."""
    said("ip", "-n", farm.netns, "link", "add", "world", "type", "veth", "peer", "name", "beyond")
    said("ip", "-n", farm.netns, "address", "add", "192.0.2.254/24", "dev", "world")
    for end in ("world", "beyond"):
        said("ip", "-n", farm.netns, "link", "set", end, "up")
    said("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", netns=farm.netns)
    yield
    said("ip", "-n", farm.netns, "link", "delete", "world")


@needs("nft", "curl", "ping", "sysctl")
@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("way", WAYS)
def test_no_program_gets_out_of_a_replica(farm: Lab, way: str) -> None:
    """And what it sent is counted."""
    words, counter = WAYS[way]
    before = refused(farm)
    said(*words(farm), netns=farm.farm[0].netns, fails=True)
    found = refused(farm) - before
    assert set(found) == ({counter} if counter else set()), found


@needs("curl")
def test_the_host_gets_into_each(farm: Lab) -> None:
    """Which is what they are for."""
    for replica in farm.farm:
        said("curl", "-sSf", "--max-time", "5", f"http://{replica.address}/", netns=farm.netns)
