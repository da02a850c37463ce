"""The bridge and the links: one veth pair a replica, by netlink alone.

One end of each pair is a port of the bridge; the other is born in the replica's network namespace and
is named ``eth0`` there. The namespace has a name of labkit's, so it outlives the container: a
container that is started again finds its address, and while it is stopped connections to it are
refused at once instead of timing out. ``/proc/<pid>/ns/net`` of the running container is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Interface
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core.journal import lock
from labkit.core.link_removal import group
from labkit.core.result import Outcome, action
from labkit.display import counted
from labkit.farm.containers import lab_namespaces, runc
from labkit.farm.containers.runc import State
from labkit.farm.network import allotment, echo, firewall, host, isolation, topology, wiring
from labkit.farm.network import inner as ends
from labkit.farm.network.echo import Echo
from labkit.farm.network.inner import Inner
from labkit.farm.network.netlink import within
from labkit.farm.network.netns import NamespaceError
from labkit.farm.network.topology import Port, Topology
from labkit.kernel import processes, seen
from labkit.kernel.netlink import Netlink
from labkit.kernel.seen import Link
from labkit.model.lab import Lab, Replica
from labkit.records import Record


class Pings(Record):
    """Round-trip times in milliseconds, by 'from → to', and what was counted at both ends."""

    milliseconds: dict[str, float]
    echoes: tuple[Echo, ...]


@action("network.connect")
def connect(lab: Lab) -> Outcome[Topology]:
    """The bridge is up with its address; each replica's link is in it, its peer named and addressed.

    What is missing or different is put right; nothing else is touched. An interface of the bridge's
    or a link's name that labkit did not make is a :class:`StateError`.
    """
    made = host.up(lab).changed
    with lock(lab.run_dir, "farm"):
        made = firewall.widen(lab) or made
        allotment.remember(lab, others=True)
        changed = wire(lab) or made
        seen = observe(lab)
    return Outcome(
        value=seen,
        subject=lab.bridge,
        changed=changed,
        summary=f"{counted(len(seen.ports), 'link', 'are')} in bridge {lab.bridge}, which has {lab.gateway}.",
        checks=(*topology.checks(lab, seen), *namespace_checks(lab), isolation.check(lab)),
        tables=(topology.link_table(lab, seen), isolation.table(lab)),
    )


@action("network.ping")
def ping(lab: Lab) -> Outcome[Pings]:
    """Each container is pinged from the host, and the bridge from each container's namespace."""
    seen = echo.both_ways(lab)
    times = {item.path: item.fastest for item in seen if item.fastest is not None}
    return Outcome(
        value=Pings(milliseconds=times, echoes=seen),
        subject=lab.bridge,
        summary=f"{sum(item.arrives for item in seen)} of {counted(len(seen), 'ping')}, both ways, answered "
        "by whom they were meant for.",
        checks=echo.checks(lab, seen),
        tables=(echo.table(seen),),
    )


def wire(lab: Lab) -> bool:
    """What :func:`connect` does, for a caller that holds the lab's lock; whether anything changed.

    What the host remembers of a replica whose link was made or mended is forgotten: the next request
    to it is answered, and does not fail with the last one.
    """
    made = lab_namespaces.create_namespaces(lab, [replica.netns for replica in lab.farm])
    return within(lab.netns, wiring.wire, lab) or bool(made)


def observe(lab: Lab) -> Topology:
    """The bridge and the links as the kernel has them now; missing ones are empty."""
    try:
        return within(lab.netns, _observe, lab)
    except NamespaceError:
        return _missing(lab)


def _observe(netlink: Netlink, lab: Lab) -> Topology:
    links = seen.links(netlink)
    if lab.bridge not in links:
        return _missing(lab)
    bridge = links[lab.bridge]
    inner, addresses = ends.look(lab.farm), seen.addresses(netlink)
    ports = sorted(name for name, link in links.items() if link.master == bridge.index)
    own = {replica.link for replica in lab.farm}
    return Topology(
        bridge=lab.bridge,
        up=bridge.up,
        addresses=_texts(addresses.get(bridge.index, ())),
        ports=tuple(ports),
        links=tuple(
            _port(replica, links, addresses, inner.get(replica.netns)) for replica in lab.farm
        ),
        foreign=tuple(n for n in ports if n not in own and links[n].group != group(lab)),
    )


def _missing(lab: Lab) -> Topology:
    return Topology(bridge=lab.bridge, up=False, addresses=(), ports=(), links=())


def namespace_checks(lab: Lab) -> tuple[Check, ...]:
    """Whether each running container's ``/proc/<pid>/ns/net`` is the namespace that holds its eth0."""
    states = runc.states(lab)
    return tuple(
        _namespace_check(replica, states[replica.name])
        for replica in lab.farm
        if replica.name in states and states[replica.name].pid
    )


def _namespace_check(replica: Replica, state: State) -> Check:
    named = Path("/run/netns", replica.netns)
    return equal(
        f"network.namespace.{replica.name}",
        _inode(named) or f"an inode of {named}",
        processes.namespace(state.pid, "net") or "its process has ended",
        rows=("I6", "E3"),
        again=f"stat -L /proc/{state.pid}/ns/net {named}",
    )


def _inode(path: Path) -> int | None:
    """The number of what the path leads to, None when it leads to nothing."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _port(
    replica: Replica,
    links: dict[str, Link],
    addresses: dict[int, tuple[IPv4Interface, ...]],
    inner: Inner | None,
) -> Port:
    """One link as seen from both of its ends."""
    end = links.get(replica.link)
    names = {link.index: name for name, link in links.items()}
    eth0 = inner.eth0 if inner else None
    return Port(
        replica=replica.name,
        link=end.name if end else "",
        bridge=names.get(end.master, "") if end else "",
        up=end is not None and end.up and end.carrier,
        peer="" if eth0 is None else "eth0" if _paired(end, eth0) else "eth0 of another link",
        addresses=_texts(inner.addresses) if inner else (),
        mac=eth0.mac if eth0 else "",
        gateway=str(inner.gateway) if inner and eth0 and inner.gateway else "",
        outer=_texts(addresses.get(end.index, ())) if end else (),
    )


def _paired(end: Link | None, inner: Link) -> bool:
    """Whether two interfaces are the ends of one link: each names the other's index (IFLA_LINK)."""
    return end is not None and (end.peer, inner.peer) == (inner.index, end.index)


def _texts(addresses: Iterable[IPv4Interface]) -> tuple[str, ...]:
    return tuple(map(str, addresses))
