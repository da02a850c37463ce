"""The farm's network as it is seen, and what is wrong with it. Pure.

:class:`Topology` is read from the kernel by :mod:`labkit.farm.network`. The rules are those that the
assignment's readers get wrong, each by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface

from labkit.checks import Check
from labkit.lab import Lab
from labkit.result import Cell, Record, Table


class Port(Record):
    """One end of a link as seen: on the host, its bridge ('' for none) and whether it is up; in the
    container's namespace, the peer's name and addresses (with prefix lengths)."""

    replica: str
    link: str
    bridge: str
    up: bool
    peer: str
    addresses: tuple[str, ...]
    mac: str


class Topology(Record):
    """The bridge (with its addresses and all of its ports' names) and every replica's link."""

    bridge: str
    up: bool
    addresses: tuple[str, ...]
    ports: tuple[str, ...]
    links: tuple[Port, ...]


class Mistake(Record):
    """A way to get the network wrong: how it comes about, and the topology that it leaves."""

    name: str
    story: str
    topology: Topology


def foreign_ports(lab: Lab, seen: Topology) -> str | None:
    """The bridge holds the containers' links and nothing else: not the machine's own interface."""
    wanted = {replica.link for replica in lab.farm}
    strange = sorted(set(seen.ports) - wanted)
    lost = sorted(wanted - set(seen.ports))
    if strange:
        return f"{', '.join(strange)} is in the bridge and is no container's link"
    return f"{', '.join(lost)} is not in the bridge" if lost else None


def doubled_addresses(lab: Lab, seen: Topology) -> str | None:
    """No two interfaces have the same address: the bridge has its own, each container another."""
    owners: dict[str, list[str]] = {}
    for name, addresses in [(seen.bridge, seen.addresses)] + [
        (f"{link.replica}'s {link.peer}", link.addresses) for link in seen.links
    ]:
        for address in addresses:
            owners.setdefault(address.partition("/")[0], []).append(name)
    twice = {address: names for address, names in owners.items() if len(names) > 1}
    return "; ".join(f"{a} is on {' and on '.join(n)}" for a, n in twice.items()) or None


def loopback_targets(lab: Lab, seen: Topology) -> str | None:
    """What is pinged is the container: an address on its eth0, never 127.0.0.1 (the pinger itself)."""
    for link in seen.links:
        own = [IPv4Interface(address).ip for address in link.addresses]
        if not own or any(address.is_loopback for address in own):
            return f"{link.replica} would be pinged at {own[0] if own else 'no address'}"
    return None


def other_networks(lab: Lab, seen: Topology) -> str | None:
    """The bridge's address and each eth0's are in one network."""
    for name, addresses in [(seen.bridge, seen.addresses)] + [
        (link.replica, link.addresses) for link in seen.links
    ]:
        if not any(IPv4Interface(address).network == lab.subnet for address in addresses):
            return f"{name} has no address in {lab.subnet} (has {', '.join(addresses) or 'none'})"
    return None


def misnamed_peers(lab: Lab, seen: Topology) -> str | None:
    """The end in each container is named eth0 and the end on the host is up."""
    for link in seen.links:
        if link.peer != "eth0" or not link.up:
            return f"{link.replica}: {link.peer or 'no peer'}, {'up' if link.up else 'down'}"
    return None


Rule = Callable[[Lab, Topology], str | None]

#: Rule's name -> (what holds, the function that finds the exception, the assignment's rows).
RULES: dict[str, tuple[str, Rule, tuple[str, ...]]] = {
    "ports": ("the bridge holds each container's link and nothing else", foreign_ports, ("E3",)),
    "addresses": ("no address is on two interfaces", doubled_addresses, ("R10",)),
    "one-network": ("all addresses are in the farm's network", other_networks, ("R10",)),
    "targets": (
        "each container has an address that is not its loopback",
        loopback_targets,
        ("R10",),
    ),
    "peers": ("each container's end is named eth0 and is up", misnamed_peers, ("I6",)),
}


def checks(lab: Lab, seen: Topology) -> tuple[Check, ...]:
    """Each rule held against the topology."""
    return tuple(
        Check(
            name=f"network.{name}",
            expected=expected,
            seen=problem or expected,
            holds=problem is None,
            rows=rows,
            again=_inside(lab, f"bridge link show; {_ip(lab)} -br address"),
        )
        for name, (expected, rule, rows) in RULES.items()
        for problem in (rule(lab, seen),)
    )


def mistakes(seen: Topology) -> tuple[Mistake, ...]:
    """The readers' mistakes, each as the topology that it would make of the one that is seen."""
    first, *others = seen.links
    own_address = IPv4Interface(seen.addresses[0])
    return (
        Mistake(
            name="the host's eth0 in the bridge instead of the container's link",
            story="brctl addif br0 eth0",
            topology=seen.model_copy(
                update={"ports": ("eth0", *(p for p in seen.ports if p != first.link))}
            ),
        ),
        Mistake(
            name="one and the same address on the bridge and on eth0",
            story=f"address {own_address.ip} given to both",
            topology=seen.model_copy(
                update={"links": (first.model_copy(update={"addresses": seen.addresses}), *others)}
            ),
        ),
        Mistake(
            name="127.0.0.1 pinged as if it were the container",
            story="ping 127.0.0.1",
            topology=seen.model_copy(
                update={
                    "links": (
                        first.model_copy(update={"addresses": (f"{IPv4Address('127.0.0.1')}/8",)}),
                        *others,
                    )
                }
            ),
        ),
    )


def link_table(lab: Lab, seen: Topology) -> Table:
    """The links, one row each: both ends, the bridge, address and MAC address."""
    rows: list[dict[str, Cell]] = [
        {
            "replica": link.replica,
            "on the host": link.link,
            "bridge": link.bridge,
            "in the container": link.peer,
            "address": ", ".join(link.addresses),
            "MAC address": link.mac,
            "up": link.up,
        }
        for link in seen.links
    ]
    return Table.of(
        "links", f"Bridge {seen.bridge} ({', '.join(seen.addresses)}) and its links", rows
    )


def _ip(lab: Lab) -> str:
    return f"ip -n {lab.netns}" if lab.netns else "ip"


def _inside(lab: Lab, command: str) -> str:
    return f"ip netns exec {lab.netns} {command}" if lab.netns else command
