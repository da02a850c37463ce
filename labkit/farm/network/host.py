"""The host's side: the network namespace that bridge, DNS, balancer, browser and load live in, and its subnet.

By default it is the machine's own network namespace. There labkit adds one thing, the fence: an ``unreachable``
route to the farm's subnet behind every other route. As long as the bridge is there, its route goes before; without
the bridge, requests to the farm fail at once instead of leaving by the machine's default route.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Network

from labkit.checks import Check, equal
from labkit.core.files import write_atomically
from labkit.core.journal import Journal, lock, other_owner
from labkit.core.network_removal import FENCE_METRIC, fenced, renamed_bridge
from labkit.core.result import Outcome, action
from labkit.errors import FarmError, MachineError
from labkit.farm.containers.lab_namespaces import create_namespace, namespace_inode
from labkit.farm.network.topology import in_namespace
from labkit.kernel import netns as namespaces
from labkit.kernel import proc
from labkit.kernel.links import Netlink
from labkit.kernel.netns import inside, within
from labkit.model import addresses
from labkit.model.addresses import Allotment
from labkit.model.lab import Lab
from labkit.records import Record


class HostSide(Record):
    """Where the host's side lives: a namespace's name, '' for the machine's own, and its inode."""

    netns: str
    inode: int


@action("host.up")
def up(lab: Lab) -> Outcome[HostSide]:
    """Makes the host's network namespace with its loopback, and the fence around the subnet.

    Returns a :class:`~labkit.core.result.Result` whose value is a :class:`HostSide`. Raises :class:`MachineError`
    when the machine already routes (a part of) the subnet elsewhere, :class:`StateError` when the namespace's name is
    taken by something else.

    >>> network.host.up(lab).value.netns
    'lab'
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
    """Does what :func:`up` does, for a caller that holds the lab's ``farm`` lock; returns whether anything changed."""
    made = bool(lab.netns) and create_namespace(lab, lab.host.netns)
    return within(lab.netns, _fence, lab) or made


def remember_addresses(lab: Lab, *, others: bool) -> None:
    """Keeps the replicas' addresses while the farm is up, so that a site that comes or goes moves no other.

    With ``others``, replicas that the lab does not have any more, and that may still run, keep theirs, too. The
    caller holds the lab's ``farm`` lock.
    """
    known = addresses.remembered(lab.addresses_file)
    own = {item.name: int(item.address) - int(lab.subnet.network_address) for item in lab.farm}
    before = known if others else Allotment()
    wanted = Allotment(
        netns=lab.host.netns,
        sites={**before.sites, **lab.numbers},
        hosts={**before.hosts, **own},
    )
    if known != wanted:
        Journal.of(lab).intend("folder", path=str(lab.addresses_file.parent))
        write_atomically(lab.addresses_file, wanted.model_dump_json())


def checks(lab: Lab) -> tuple[Check, ...]:
    """Whether the namespace exists, and the fence keeps requests to the subnet on the machine."""
    if lab.netns and not namespaces.stands(lab.netns):
        return (equal("host.namespace", lab.netns, "missing", again="ip netns list"),)
    stands = within(lab.netns, fenced, lab.subnet)
    return (
        Check(
            name="host.fence",
            expected=f"an unreachable route to {lab.subnet} behind the bridge's own",
            seen="present" if stands else "missing",
            holds=stands,
            again=in_namespace(lab, "ip route show type unreachable"),
        ),
    )


def refuse_taken_subnet(lab: Lab, netlink: Netlink) -> None:
    """Raises :class:`MachineError` when another interface than the lab's bridge has the subnet, or another
    lab is about to have it."""
    if other := other_owner(lab, "route", subnet=str(lab.subnet), netns=lab.host.netns):
        raise MachineError(
            f"network.subnet = {lab.subnet}",
            f"is used by lab {other} on this host side",
            f"take down lab {other}, or set network.subnet to a free private network",
            f"labkit status --lab-name {other}",
            code="machine.subnet-taken",
        )
    links = netlink.links()
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
            in_namespace(lab, f"ip route show dev {name}"),
            code="machine.subnet-taken",
        )


def routed(netlink: Netlink) -> list[tuple[int, IPv4Network]]:
    """The (interface index, network) pairs of the main table's IPv4 routes, default routes aside."""
    return [
        (route.link, route.network)
        for route in netlink.routes()
        if route.link and route.network.prefixlen
    ]


def _fence(netlink: Netlink, lab: Lab) -> bool:
    refuse_taken_subnet(lab, netlink)
    if fenced(netlink, lab.subnet):
        return False
    Journal.of(lab).intend("route", subnet=str(lab.subnet), netns=lab.host.netns)
    netlink.do(
        netlink.ipr.route("add", dst=str(lab.subnet), type="unreachable", priority=FENCE_METRIC)
    )
    return True


def require_address(lab: Lab) -> None:
    """Raises :class:`FarmError` when the bridge's address is on no interface of the host's side."""
    if not inside(lab.netns, _has, str(lab.gateway.ip)):
        raise FarmError(
            f"{lab.gateway.ip}, the address of bridge {lab.bridge}",
            "is on no interface of the host's side, so nothing can answer there",
            "make the network first: `./lab run 04-network`",
            again(lab, "ip -brief address"),
            code="farm.no-bridge",
        )


def is_here(lab: Lab, pid: int | None) -> bool:
    """Whether a process runs in the host's network namespace (``host.netns``)."""
    try:
        return pid is not None and proc.namespace(pid, "net") == namespace_inode(lab.netns)
    except FileNotFoundError:  # the named namespace is gone
        return False


def whereabouts(lab: Lab, pid: int | None) -> str:
    """A server's process in words: 'running' in the host's namespace, 'running in another namespace', or
    'not running'."""
    if pid is None:
        return "not running"
    return "running" if is_here(lab, pid) else "running in another namespace"


def again(lab: Lab, command: str) -> str:
    """A command as a person types it, on the host's side of the lab."""
    return f"nsenter --net=/run/netns/{lab.netns} -- {command}" if lab.netns else command


def _has(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
