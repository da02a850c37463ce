"""The host's side: the network namespace that bridge, DNS, balancer, browser and load live in.

By default it is the machine's own, and then labkit adds one thing: an ``unreachable`` route to
the farm's subnet behind every other. As long as the bridge stands its own route goes before; when
it is gone, requests to the farm fail at once instead of leaving by the machine's default route.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from labkit.checks import Check, equal
from labkit.core.journal import Journal, lock, other_owner
from labkit.core.link_removal import FENCE_METRIC, fenced, renamed_bridge
from labkit.core.result import Outcome, action
from labkit.errors import MachineError
from labkit.farm.containers.lab_namespaces import create_namespace, namespace_inode
from labkit.farm.network.netlink import within
from labkit.kernel import netns as namespaces
from labkit.kernel import requests, seen
from labkit.kernel.netlink import Netlink
from labkit.model.lab import Lab
from labkit.records import Record


class HostSide(Record):
    """Where the host's side lives: a namespace's name, '' for the machine's own, and its inode."""

    netns: str
    inode: int


@action("host.up")
def up(lab: Lab) -> Outcome[HostSide]:
    """The namespace exists, its loopback is up, and requests to the subnet cannot leave it.

    Raises :class:`MachineError` when the machine already routes (a part of) the subnet elsewhere,
    :class:`StateError` when the namespace's name is taken by something else.
    """
    with lock(lab.run_dir, "farm"):
        made = make(lab)
    value = HostSide(netns=lab.host.netns, inode=namespace_inode(lab.netns))
    where = f"network namespace {lab.netns}" if lab.netns else "the machine's own network namespace"
    return Outcome(
        value=value,
        subject=lab.netns or "machine",
        changed=made,
        summary=f"The host's side lives in {where} (inode {value.inode}).",
        checks=checks(lab),
    )


def make(lab: Lab) -> bool:
    """The same for who holds the lab's ``farm`` lock already; whether anything had to be done."""
    made = _namespace(lab)
    return within(lab.netns, _fence, lab) or made


def checks(lab: Lab) -> tuple[Check, ...]:
    """Whether the namespace stands and nothing to the subnet can leave the machine."""
    if lab.netns and not namespaces.stands(lab.netns):
        return (equal("host.namespace", lab.netns, "missing", again="ip netns list"),)
    stands = within(lab.netns, fenced, lab.subnet)
    return (
        Check(
            name="host.fence",
            expected=f"an unreachable route to {lab.subnet} behind the bridge's own",
            seen="present" if stands else "missing",
            holds=stands,
            again=_again(lab, "ip route show type unreachable"),
        ),
    )


def refuse_taken_subnet(lab: Lab, netlink: Netlink) -> None:
    """Raises :class:`MachineError` when another interface than the lab's bridge has the subnet, or another
    lab is about to have it."""
    if other := other_owner(lab, "route", subnet=str(lab.subnet), netns=lab.host.netns):
        raise MachineError(
            f"network.subnet = {lab.subnet}",
            f"is lab {other}'s on this host side",
            f"take down lab {other}, or set network.subnet to a free private network",
            f"labkit status --lab-name {other}",
            code="machine.subnet-taken",
        )
    links = seen.links(netlink)
    names = {link.index: link.name for link in links.values()}
    bridge = links.get(lab.bridge) or renamed_bridge(netlink, lab, links)
    journal = Journal.of(lab)
    for interface, network in routed(netlink):
        if (bridge and interface == bridge.index) or not network.overlaps(lab.subnet):
            continue
        name = names.get(interface, f"number {interface}")
        if journal.owns("link", name=name, netns=lab.host.netns):
            continue  # an address on a port of the lab's own: it is removed
        other = other_owner(lab, "link", name=name, netns=lab.host.netns)
        raise MachineError(
            f"network.subnet = {lab.subnet}",
            f"the machine already routes {network} through interface {name}"
            + (f", which is lab {other}'s" if other else ""),
            "set network.subnet to a free private network, for example 10.61.0.0/24",
            _again(lab, f"ip route show dev {name}"),
            code="machine.subnet-taken",
        )


def routed(netlink: Netlink) -> list[tuple[int, IPv4Network]]:
    """The (interface index, network) pairs of the main table's IPv4 routes, default routes aside."""
    return [
        (route.link, route.network)
        for route in seen.routes(netlink)
        if route.link and route.network.prefixlen
    ]


def _again(lab: Lab, command: str) -> str:
    return f"ip netns exec {lab.netns} {command}" if lab.netns else command


def _namespace(lab: Lab) -> bool:
    return create_namespace(lab, lab.netns) if lab.netns else False


def _fence(netlink: Netlink, lab: Lab) -> bool:
    refuse_taken_subnet(lab, netlink)
    if fenced(netlink, lab.subnet):
        return False
    Journal.of(lab).intend("route", subnet=str(lab.subnet), netns=lab.host.netns)
    netlink.ask(requests.unreachable(lab.subnet, FENCE_METRIC))
    return True
