"""Which numbers the farm's hosts have in its subnet. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from labkit.complaints import Fault

#: The private networks (RFC 1918, section 3).
PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))


def block_width(sites: int) -> int:
    """How far apart the addresses of a site's replicas lie: 10, 20, 40, … above the number of sites."""
    width = 10
    while width <= sites:
        width *= 2
    return width


def check(text: str, counts: Sequence[int]) -> IPv4Network:
    """The subnet of that text, which has an address for the bridge and for each replica; ``counts`` has a
    number of replicas for each site. Raises :data:`~labkit.complaints.Fault`."""
    try:
        subnet = IPv4Network(text)
    except ValueError as error:
        raise Fault("subnet", f"network.subnet: {error}: write it like 10.60.0.0/24") from None
    if not any(subnet.subnet_of(network) for network in PRIVATE):
        raise Fault(
            "subnet",
            f"network.subnet: {subnet} is no private network (RFC 1918): write it like 10.60.0.0/24",
        )
    needed = block_width(len(counts)) * max(counts) + len(counts)
    if needed > subnet.num_addresses - 2:
        prefix = 32 - (needed + 2).bit_length()
        raise Fault(
            "subnet-small",
            f"network.subnet: {subnet} has {max(subnet.num_addresses - 2, 0)} addresses and this farm "
            f"numbers its hosts up to {needed}: use a /{prefix} or fewer replicas",
        )
    return subnet
