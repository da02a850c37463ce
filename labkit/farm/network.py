"""The bridge and the links: one veth pair a replica, by netlink alone (pyroute2).

One end of each pair is a port of the bridge; the other is moved into the replica's network namespace and
is named ``eth0`` there. The namespace has a name of labkit's, so it outlives the container: a
container that is started again finds its address, and while it is stopped connections to it are
refused at once instead of timing out. ``/proc/<pid>/ns/net`` of the running container is the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from labkit import undo
from labkit.checks import Check, equal
from labkit.errors import StateError
from labkit.farm import container, host
from labkit.farm.container import State
from labkit.farm.links import echo, neighbours, topology
from labkit.farm.links.echo import Echo
from labkit.farm.links.netlink import within
from labkit.farm.links.topology import Port, Topology
from labkit.journal import Journal, lock
from labkit.lab import Lab, Replica
from labkit.result import Outcome, Record, action

if TYPE_CHECKING:
    from pyroute2 import IPRoute
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

#: netdevice(7): IFF_UP, and IFF_LOWER_UP: the other end is up as well.
UP, CARRIER = 1, 0x10000


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
        changed = wire(lab) or made
        seen = observe(lab)
    return Outcome(
        value=seen,
        subject=lab.bridge,
        changed=changed,
        summary=f"{len(seen.ports)} links are in bridge {lab.bridge}, which has {lab.gateway}.",
        checks=(*topology.checks(lab, seen), *namespace_checks(lab)),
        tables=(topology.link_table(lab, seen),),
    )


@action("network.ping")
def ping(lab: Lab) -> Outcome[Pings]:
    """Each container is pinged from the host, and the bridge from each container's namespace."""
    seen = echo.both_ways(lab)
    times = {item.path: item.fastest for item in seen if item.fastest is not None}
    return Outcome(
        value=Pings(milliseconds=times, echoes=seen),
        subject=lab.bridge,
        summary=f"{sum(item.arrives for item in seen)} of {len(seen)} pings, both ways, were answered "
        "by whom they were meant for.",
        checks=echo.checks(lab, seen),
        tables=(echo.table(seen),),
    )


def wire(lab: Lab) -> bool:
    """What :func:`connect` does, for a caller that holds the lab's lock; whether anything changed.

    What the host remembers of a replica whose link was made or mended is forgotten: the next request
    to it is answered, and does not fail with the last one.
    """
    made = [host.create_namespace(lab, replica.netns) for replica in lab.farm]
    return within(lab.netns, _wire, lab) or any(made)


def _wire(ipr: IPRoute, lab: Lab) -> bool:
    bridge, changed = _bridge(ipr, lab)
    linked = [_link(ipr, lab, replica, bridge) for replica in lab.farm]
    inner = [within(replica.netns, _inner, lab, replica) for replica in lab.farm]
    for replica, *new in zip(lab.farm, linked, inner, strict=True):
        if any(new):
            neighbours.forget(ipr, replica.address, index=bridge)
    return changed or any(linked) or any(inner)


def observe(lab: Lab) -> Topology:
    """The bridge and the links as the kernel has them now; missing ones are empty."""
    if lab.netns and not Path("/run/netns", lab.netns).exists():
        return _missing(lab)
    return within(lab.netns, _observe, lab)


def _observe(ipr: IPRoute, lab: Lab) -> Topology:
    links = {link.get_attr("IFLA_IFNAME"): link for link in ipr.get_links()}
    if lab.bridge not in links:
        return _missing(lab)
    bridge = links[lab.bridge]
    ports = [n for n, link in links.items() if link.get_attr("IFLA_MASTER") == bridge["index"]]
    return Topology(
        bridge=lab.bridge,
        up=bool(bridge["flags"] & UP),
        addresses=_addresses(ipr, bridge["index"]),
        ports=tuple(sorted(ports)),
        links=tuple(_port(lab, replica, links) for replica in lab.farm),
    )


def _missing(lab: Lab) -> Topology:
    return Topology(bridge=lab.bridge, up=False, addresses=(), ports=(), links=())


def namespace_checks(lab: Lab) -> tuple[Check, ...]:
    """Whether each running container's ``/proc/<pid>/ns/net`` is the namespace that holds its eth0."""
    states = container.states(lab)
    return tuple(
        _namespace_check(replica, states[replica.name])
        for replica in lab.farm
        if replica.name in states and states[replica.name].pid
    )


def _namespace_check(replica: Replica, state: State) -> Check:
    named, own = Path("/run/netns", replica.netns), Path(f"/proc/{state.pid}/ns/net")
    return equal(
        f"network.namespace.{replica.name}",
        _inode(named) or f"an inode of {named}",
        _inode(own) or "its process has ended",
        rows=("I6", "E3"),
        again=f"stat -L {own} {named}",
    )


def _inode(path: Path) -> int | None:
    """The number of what the path leads to, None when it leads to nothing."""
    try:
        return path.stat().st_ino
    except (FileNotFoundError, ProcessLookupError):
        return None


def _bridge(ipr: IPRoute, lab: Lab) -> tuple[int, bool]:
    """The bridge's index, and whether it had to be made or put right."""
    changed = False
    found = ipr.link_lookup(ifname=lab.bridge)
    if not found:
        Journal.of(lab).intend("link", name=lab.bridge, netns=lab.host.netns)
        ipr.link("add", ifname=lab.bridge, kind="bridge")
        found, changed = ipr.link_lookup(ifname=lab.bridge), True
    else:
        _require_own(lab, lab.bridge)
    index = found[0]
    if str(lab.gateway) not in _addresses(ipr, index):
        ipr.addr("add", index=index, address=str(lab.gateway.ip), prefixlen=lab.subnet.prefixlen)
        changed = True
    if not ipr.get_links(index)[0]["flags"] & UP:
        ipr.link("set", index=index, state="up")
        changed = True
    return index, changed


def _link(ipr: IPRoute, lab: Lab, replica: Replica, bridge: int) -> bool:
    """The pair exists: its host end up in the bridge, its peer in the namespace as eth0."""
    changed = False
    found = ipr.link_lookup(ifname=replica.link)
    if found:
        _require_own(lab, replica.link)
        # The peer went with a namespace that lost its name, or was never moved.
        if not within(replica.netns, _has_peer):
            undo.remove_link(lab, name=replica.link, netns=lab.host.netns)
            found = []
    if not found:
        Journal.of(lab).intend("link", name=replica.link, netns=lab.host.netns)
        with Path("/run/netns", replica.netns).open("rb") as inner:
            # The peer is born on the host's side and then moved and renamed, as one does by hand.
            peer = f"p{int(replica.address) & 0xFFFFFF:06x}"
            ipr.link("add", ifname=replica.link, kind="veth", peer={"ifname": peer})
            index = ipr.link_lookup(ifname=peer)[0]
            ipr.link(
                "set", index=index, net_ns_fd=inner.fileno(), ifname="eth0", address=replica.mac
            )
        changed = True
    end = ipr.get_links(ipr.link_lookup(ifname=replica.link)[0])[0]
    if end.get_attr("IFLA_MASTER") != bridge or not end["flags"] & UP:
        ipr.link("set", index=end["index"], master=bridge, state="up")
        changed = True
    return changed


def _has_peer(ipr: IPRoute) -> bool:
    """Whether the namespace has an eth0."""
    return bool(ipr.link_lookup(ifname="eth0"))


def _inner(ipr: IPRoute, lab: Lab, replica: Replica) -> bool:
    """eth0 in the namespace is up with its address and the route to everywhere else."""
    changed = False
    index = ipr.link_lookup(ifname="eth0")[0]
    if f"{replica.address}/{lab.subnet.prefixlen}" not in _addresses(ipr, index):
        ipr.addr("add", index=index, address=str(replica.address), prefixlen=lab.subnet.prefixlen)
        changed = True
    if not ipr.get_links(index)[0]["flags"] & UP:
        ipr.link("set", index=index, state="up")
        changed = True
    if not ipr.get_default_routes(family=2):
        ipr.route("add", dst="default", gateway=str(lab.gateway.ip))
        changed = True
    return changed


def _require_own(lab: Lab, name: str) -> None:
    if not Journal.of(lab).owns("link", name=name, netns=lab.host.netns):
        raise StateError(
            f"interface {name}",
            "exists already and labkit did not make it for this lab",
            "choose another lab name (lab.toml: name), or remove the interface yourself",
            f"ip link show {name}",
        )


def _addresses(ipr: IPRoute, index: int) -> tuple[str, ...]:
    return tuple(
        f"{item.get_attr('IFA_ADDRESS')}/{item['prefixlen']}"
        for item in ipr.get_addr(family=2, index=index)
    )


def _port(lab: Lab, replica: Replica, links: dict[str, ifinfmsg]) -> Port:
    """One link as seen from both of its ends."""
    end = links.get(replica.link)
    names = {link["index"]: name for name, link in links.items()}
    inner = Inner()
    if Path("/run/netns", replica.netns).exists():
        inner = within(replica.netns, _inner_end, end)
    return Port(
        replica=replica.name,
        link=replica.link if end is not None else "",
        bridge=names.get(end.get_attr("IFLA_MASTER"), "") if end is not None else "",
        up=end is not None and end["flags"] & (UP | CARRIER) == UP | CARRIER,
        **inner.model_dump(),
    )


class Inner(Record):
    """What of a link is in the container's namespace (see :class:`~labkit.farm.links.topology.Port`)."""

    peer: str = ""
    addresses: tuple[str, ...] = ()
    mac: str = ""
    gateway: str = ""


def _inner_end(ipr: IPRoute, end: ifinfmsg | None) -> Inner:
    for index in ipr.link_lookup(ifname="eth0"):
        inner = ipr.get_links(index)[0]
        return Inner(
            peer="eth0" if _paired(end, inner) else "eth0 of another link",
            addresses=_addresses(ipr, index),
            mac=inner.get_attr("IFLA_ADDRESS"),
            gateway=_gateway(ipr),
        )
    return Inner()


def _paired(end: ifinfmsg | None, inner: ifinfmsg) -> bool:
    """Whether two interfaces are the ends of one link: each names the other's index (IFLA_LINK)."""
    return end is not None and (
        end.get_attr("IFLA_LINK") == inner["index"] and inner.get_attr("IFLA_LINK") == end["index"]
    )


def _gateway(ipr: IPRoute) -> str:
    """Where a namespace's default route leads, '' without one."""
    routes = ipr.get_default_routes(family=2)
    return str(routes[0].get_attr("RTA_GATEWAY")) if routes else ""
