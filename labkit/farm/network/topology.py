"""The farm's network as observed, the rules that it has to keep, and a check for each rule. Pure.

:mod:`labkit.farm.network.links` reads a :class:`Topology` from the kernel. Each rule stands for a mistake that is easily
made, and has a name.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Interface

from labkit.checks import Check
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.model.lab import Lab
from labkit.records import Record


class Port(Record):
    """One link as seen: on the host, its bridge ('' for none), whether it is up at both ends, and the
    addresses of the host's end (``outer``); in the container's namespace, the peer's name, its
    addresses (with prefix lengths), and where the default route leads ('' without one)."""

    replica: str
    link: str
    bridge: str
    up: bool
    peer: str
    addresses: tuple[str, ...]
    mac: str
    gateway: str = ""
    outer: tuple[str, ...] = ()


class Topology(Record):
    """The bridge (with its addresses, and all of its ports' names: ``foreign`` are those that labkit did
    not make) and every replica's link."""

    bridge: str
    up: bool
    addresses: tuple[str, ...]
    ports: tuple[str, ...]
    links: tuple[Port, ...]
    foreign: tuple[str, ...] = ()


Finding = tuple[bool, str]
Rule = Callable[[Lab, Topology], Finding]


def foreign_ports(lab: Lab, seen: Topology) -> Finding:
    """The bridge holds the containers' links and nothing else: not the machine's own interface."""
    wanted = {replica.link for replica in lab.farm}
    surplus = sorted(set(seen.ports) - wanted - set(seen.foreign))
    lost = sorted(wanted - set(seen.ports))
    if seen.foreign:
        remedy = " && ".join(f"{_ip(lab)} link set {name} nomaster" for name in seen.foreign)
        return False, (
            f"{', '.join(seen.foreign)} is in the bridge and labkit did not make it: "
            f"take it out ({remedy})"
        )
    if surplus:
        return False, f"{', '.join(surplus)} is in the bridge and is no container's link"
    if lost:
        return False, f"{', '.join(lost)} is not in the bridge"
    return True, f"{counted(len(seen.ports), 'port')}: {', '.join(seen.ports)}"


def doubled_addresses(lab: Lab, seen: Topology) -> Finding:
    """No two interfaces have the same address: the bridge has its own, each container another."""
    owners: dict[str, list[str]] = {}
    for name, addresses in [(seen.bridge, seen.addresses)] + [
        (f"{link.replica}'s {link.peer}", link.addresses) for link in seen.links
    ]:
        for address in addresses:
            owners.setdefault(address.partition("/")[0], []).append(name)
    twice = {address: names for address, names in owners.items() if len(names) > 1}
    if twice:
        return False, "; ".join(f"{a} is on {' and on '.join(n)}" for a, n in twice.items())
    return bool(
        owners
    ), f"{counted(len(owners), 'address')}, no two alike" if owners else "no address at all"


def addressed_ports(lab: Lab, seen: Topology) -> Finding:
    """The host's address is on the bridge: a port passes its frames on, and does not speak for itself."""
    wrong = [f"{' and '.join(link.outer)} is on {link.link}" for link in seen.links if link.outer]
    if wrong:
        return False, f"the address stands on a port: {', '.join(wrong)}"
    return True, f"none of {counted(len(seen.links), 'link')} has an address on the host's side"


def loopback_targets(lab: Lab, seen: Topology) -> Finding:
    """What is pinged is the container: an address on its eth0, never 127.0.0.1 (the pinger itself)."""
    targets = []
    for link in seen.links:
        own = [IPv4Interface(address).ip for address in link.addresses]
        if not own or any(address.is_loopback for address in own):
            return False, f"{link.replica} would be pinged at {own[0] if own else 'no address'}"
        targets.append(f"{link.replica} {own[0]}")
    return True, ", ".join(targets)


def other_networks(lab: Lab, seen: Topology) -> Finding:
    """The bridge's address and each eth0's are in one network."""
    every = [
        (seen.bridge, seen.addresses),
        *((link.replica, link.addresses) for link in seen.links),
    ]
    for name, addresses in every:
        if not any(IPv4Interface(address).network == lab.subnet for address in addresses):
            other = f" but {', '.join(addresses)}" if addresses else ""
            return False, f"{name} has no address in {lab.subnet}{other}"
    return True, f"{counted(len(every), 'interface')} with an address in {lab.subnet}"


def misnamed_peers(lab: Lab, seen: Topology) -> Finding:
    """The end in each container is named eth0, and both ends are up."""
    for link in seen.links:
        if link.peer != "eth0":
            return False, f"{link.replica} has {link.peer or 'no eth0'}"
        if not link.up:
            return False, f"{link.replica}'s link is down, at one end or both"
    return True, f"{counted(len(seen.links), 'time')} eth0, up at both ends"


def idle_bridge(lab: Lab, seen: Topology) -> Finding:
    """The bridge forwards: it is up."""
    return seen.up, f"{seen.bridge} is {'up' if seen.up else 'down'}"


def other_gateways(lab: Lab, seen: Topology) -> Finding:
    """Each container reaches what is not in its own network by the bridge."""
    for link in seen.links:
        if link.gateway != str(lab.gateway.ip):
            other = f"leads to {link.gateway}" if link.gateway else "is missing"
            return False, f"{link.replica}'s default route {other}"
    return True, f"{counted(len(seen.links), 'default route')} by {lab.gateway.ip}"


#: Rule's name -> (what holds, the function that says whether and what it saw, the assignment's rows).
RULES: dict[str, tuple[str, Rule, tuple[str, ...]]] = {
    "ports": ("the bridge holds each container's link and nothing else", foreign_ports, ("E3",)),
    "addresses": ("no address is on two interfaces", doubled_addresses, ("R10",)),
    "port-addresses": ("no port of the bridge has an address", addressed_ports, ("E3",)),
    "one-network": ("all addresses are in the farm's network", other_networks, ("R10",)),
    "targets": (
        "each container has an address that is not its loopback",
        loopback_targets,
        ("R10",),
    ),
    "peers": ("each container's end is named eth0, and both ends are up", misnamed_peers, ("I6",)),
    "bridge": ("the bridge is up", idle_bridge, ("E3",)),
    "routes": ("each container's default route leads to the bridge", other_gateways, ("R10",)),
}


def checks(lab: Lab, seen: Topology) -> tuple[Check, ...]:
    """Each rule held against the topology; none holds of a network that is not there."""
    look = f"bridge link show; {_ip(lab)} -br address; {_ip(lab)} -br link"
    return tuple(
        Check(
            name=f"network.{name}",
            expected=expected,
            seen=said,
            holds=holds,
            rows=rows,
            again=in_namespace(lab, look),
        )
        for name, (expected, rule, rows) in RULES.items()
        for holds, said in (
            rule(lab, seen) if seen.links else (False, f"there is no bridge {seen.bridge}"),
        )
    )


def strange(lab: Lab, seen: Topology) -> tuple[Check, ...]:
    """The failing check of interfaces in the bridge that labkit did not make, and leaves there; or none."""
    return tuple(
        check for check in checks(lab, seen) if seen.foreign and check.name == "network.ports"
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


def in_namespace(lab: Lab, command: str) -> str:
    """A command as a person types it, on the host's side of the lab. Pure."""
    return f"ip netns exec {lab.netns} {command}" if lab.netns else command
