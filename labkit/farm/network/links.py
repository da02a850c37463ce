"""Makes, observes and mends the bridge and the links: one veth pair for each replica.

One end of each pair is a port of the bridge; the other is ``eth0`` in the replica's network namespace. labkit gives
that namespace a name, so it outlives the container: a container that is started again finds its address, and while
it is stopped, connections to it are refused at once instead of timing out. Whatever is made is in the journal first.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from labkit.checks import Check, equal
from labkit.core.journal import Journal, lock, other_owner
from labkit.core.network_removal import group, renamed_bridge
from labkit.core.result import Outcome, action
from labkit.display import counted
from labkit.errors import StateError
from labkit.farm.containers import lab_namespaces, runc
from labkit.farm.network import firewall, host, isolation, topology
from labkit.farm.network.topology import Port, Topology
from labkit.kernel import netns, proc
from labkit.kernel.links import Link, Netlink, address, is_gone
from labkit.kernel.netns import NamespaceError, each, within
from labkit.model.lab import Lab, Replica, mac_of


@dataclass(frozen=True)
class ReplicaEnd:
    """A link's end in the replica's network namespace: ``eth0`` with its addresses, and the gateways of the
    default routes."""

    eth0: Link | None
    addresses: tuple[IPv4Interface, ...]
    gateways: tuple[IPv4Address, ...]


@action("network.connect")
def connect(lab: Lab) -> Outcome[Topology]:
    """Makes the bridge and the replicas' links, and mends what differs from the lab; changes nothing else.

    Returns a :class:`~labkit.core.result.Result` whose value is the :class:`Topology` observed afterwards; its
    tables are ``links`` and ``refused``. Raises :class:`StateError` when an interface that labkit did not make has
    the name of the bridge or of a link.

    >>> result = network.connect(lab)
    >>> result.value.ports
    ('lab-site1-1', 'lab-site1-2', ...)
    """
    made = host.up(lab).changed
    with lock(lab.run_dir, "farm"):
        made = firewall.widen(lab) or made
        host.remember_addresses(lab, others=True)
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


def wire(lab: Lab) -> bool:
    """Does what :func:`connect` does, for a caller that holds the lab's lock; returns whether anything changed.

    The host forgets the MAC address of a replica whose link was made or mended, so that the next request to that
    replica asks anew instead of failing with the last one.
    """
    made = lab_namespaces.create_namespaces(lab, [replica.netns for replica in lab.farm])
    return within(lab.netns, _wire, lab) or bool(made)


def observe(lab: Lab) -> Topology:
    """The bridge and the links as the kernel has them now; missing ones are empty."""
    try:
        return within(lab.netns, _observe, lab)
    except NamespaceError:
        return _missing(lab)


def remove_stale(lab: Lab) -> None:
    """Removes addresses of the bridge and of each eth0 that the lab does not have (any more).

    The wanted ones are there already: this cuts off only who is still answered by an old address.
    """
    replicas = {replica.netns: replica for replica in lab.farm}
    within(lab.netns, _remove_stale_bridge, lab)
    each(replicas, lambda netlink, name: _only(netlink, "eth0", _address(lab, replicas[name])))


def refuse_foreign(lab: Lab, links: Mapping[str, Link]) -> None:
    """Raises :class:`StateError` for an interface that has one of the lab's names and is not the lab's."""
    journal = Journal.of(lab)
    for name in (lab.bridge, *(replica.link for replica in lab.farm)):
        if name in links and not journal.owns("link", name=name, netns=lab.host.netns):
            other = other_owner(lab, "link", name=name, netns=lab.host.netns)
            raise StateError(
                f"interface {name}",
                "exists already and labkit did not make it for this lab"
                + (f": it is lab {other}'s" if other else ""),
                "choose another lab name (lab.toml: name), or remove the interface yourself",
                f"ip link show {name}",
                code="state.interface-taken",
            )


def forget_neighbours(
    netlink: Netlink, of: Collection[IPv4Address] | None = None, *, index: int | None = None
) -> int:
    """Forgets the MAC addresses of these IP addresses (None: of all that can be asked for again) on the interface
    ``index`` (None: on all); returns how many were known or asked for.

    The next packet asks anew. Without it, a packet waits for the answer to a request that was sent while the other
    end could not hear it, and fails with that (EHOSTUNREACH) after up to three seconds.
    """
    found = [
        item
        for item in netlink.neighbours()
        if (not item.lasting if of is None else item.address in of) and index in (None, item.link)
    ]
    errors = netlink.try_all(
        [netlink.ipr.neigh("del", ifindex=item.link, dst=str(item.address)) for item in found]
    )
    for error in errors:
        if error is not None and not is_gone(error):
            raise error
    return errors.count(None)


def namespace_checks(lab: Lab) -> tuple[Check, ...]:
    """Whether each running container's ``/proc/<pid>/ns/net`` is the namespace that holds its eth0."""
    states, found = runc.states(lab), []
    for replica, state in ((replica, states.get(replica.name)) for replica in lab.farm):
        if state and state.pid:
            named = netns.path(replica.netns)
            check = equal(
                f"network.namespace.{replica.name}",
                named.stat().st_ino if named.exists() else f"an inode of {named}",
                proc.namespace(state.pid, "net") or "its process has ended",
                rows=("I6", "E3"),
                again=f"stat -L /proc/{state.pid}/ns/net {named}",
            )
            found.append(check)
    return tuple(found)


# -- made and mended -------------------------------------------------------------------------------------------


def _wire(netlink: Netlink, lab: Lab) -> bool:
    links = netlink.links()
    refuse_foreign(lab, links)
    if _rename(netlink, lab, links):
        links = netlink.links()
    bridge, changed = _bridge(netlink, lab, links.get(lab.bridge))
    ends = _replica_ends(replica for replica in lab.farm if replica.link in links)
    lost = {r.link for r in lab.farm if r.link in links and not _has_eth0(ends.get(r.netns))}
    netlink.do(*(netlink.ipr.link("del", index=links.pop(name).index) for name in lost))
    new = [replica for replica in lab.farm if replica.link not in links]
    _make(netlink, lab, new, bridge)
    mended = _mend(netlink, lab, links, bridge)
    mended |= _mend_ends(lab, ends, new)
    touched = [replica for replica in lab.farm if replica.name in mended]
    if touched:
        forget_neighbours(netlink, {replica.address for replica in touched}, index=bridge)
    return changed or bool(touched)


def _bridge(netlink: Netlink, lab: Lab, found: Link | None) -> tuple[int, bool]:
    """The bridge's index, and whether it had to be made or mended."""
    ipr, changed = netlink.ipr, found is None
    if found is None:
        Journal.of(lab).intend("link", name=lab.bridge, netns=lab.host.netns)
        # Without a MAC address of its own the bridge takes that of a port, which changes with the ports, and the
        # replicas go on sending to the old one for a while.
        mac = mac_of(lab.bridge)
        netlink.do(
            ipr.link("add", ifname=lab.bridge, kind="bridge", state="up", group=group(lab), address=mac)
        )  # fmt: skip
        found = netlink.links()[lab.bridge]
    there = netlink.addresses().get(found.index, ())
    replicas = {replica.address for replica in lab.farm}
    wanted = [] if lab.gateway in there else [ipr.addr("add", **address(found.index, lab.gateway))]
    # A replica's address on the bridge: the host would answer for the replica.
    wanted += [ipr.addr("del", **address(found.index, a)) for a in there if a.ip in replicas]
    if not found.up:
        wanted.append(ipr.link("set", index=found.index, state="up"))
    netlink.do(*wanted)
    return found.index, changed or bool(wanted)


def _make(netlink: Netlink, lab: Lab, new: Sequence[Replica], bridge: int) -> None:
    """Makes the pairs: the host's ends up in the bridge, their peers in the replicas' namespaces as eth0."""
    if not new:
        return
    Journal.of(lab).intend_all(
        ("link", {"name": replica.link, "netns": lab.host.netns}) for replica in new
    )
    with ExitStack() as opened:
        peers = [
            {
                "ifname": "eth0",
                "address": replica.mac,
                "net_ns_fd": opened.enter_context(netns.opened(replica.netns)),
            }
            for replica in new
        ]
        settings = {"kind": "veth", "state": "up", "master": bridge, "group": group(lab)}
        netlink.do(
            *(
                netlink.ipr.link("add", ifname=replica.link, peer=peer, **settings)
                for replica, peer in zip(new, peers, strict=True)
            )
        )


def _mend(netlink: Netlink, lab: Lab, links: Mapping[str, Link], bridge: int) -> set[str]:
    """Puts the host's ends that were there into the bridge, up and without an address; returns the names of the
    replicas whose end had to be mended."""
    there, ipr, mended = netlink.addresses(), netlink.ipr, set()
    wanted = []
    for replica in lab.farm:
        if link := links.get(replica.link):
            wrong = [ipr.addr("del", **address(link.index, a)) for a in there.get(link.index, ())]
            if not (link.up and link.master == bridge):
                wrong.append(ipr.link("set", index=link.index, state="up", master=bridge))
            wanted += wrong
            mended |= {replica.name} if wrong else set()
    netlink.do(*wanted)
    return mended


def _mend_ends(lab: Lab, known: Mapping[str, ReplicaEnd], new: Sequence[Replica]) -> set[str]:
    """Brings each eth0, those of the ``new`` links first of all, up with its address and the default route; returns
    the names of the replicas where that was not so."""
    made = {replica.netns for replica in new}
    todo = {
        replica.netns: replica
        for replica in lab.farm
        if replica.netns in made or not _is_sound(lab, replica, known.get(replica.netns))
    }
    own = lab.gateway.ip

    def mend(netlink: Netlink, name: str) -> None:
        ipr, replica = netlink.ipr, todo[name]
        if name in made:  # as a rule nothing else is there yet, and then that need not be asked
            index = socket.if_nametoindex("eth0")
            first = [
                ipr.addr("add", **address(index, _address(lab, replica))),
                ipr.link("set", index=index, state="up"),
                ipr.route("add", dst="default", gateway=str(own)),
            ]
            if not any(netlink.try_all(first)):
                return
        end = _replica_end(netlink)
        if end.eth0 is None:
            return
        wrong = [gateway for gateway in end.gateways if gateway != own]
        wanted = []
        if _address(lab, replica) not in end.addresses:
            wanted.append(ipr.addr("add", **address(end.eth0.index, _address(lab, replica))))
        if not end.eth0.up or end.eth0.mac != replica.mac:
            wanted.append(ipr.link("set", index=end.eth0.index, state="up", address=replica.mac))
        # The old one first: a namespace has one default route of a metric. What is sent in between is to the
        # farm's own network, whose route is another.
        wanted += [ipr.route("del", dst="default", gateway=str(gateway)) for gateway in wrong]
        if own not in end.gateways:
            wanted.append(ipr.route("add", dst="default", gateway=str(own)))
        netlink.do(*wanted)

    each(todo, mend)
    return {replica.name for replica in todo.values()}


def _rename(netlink: Netlink, lab: Lab, links: Mapping[str, Link]) -> bool:
    """Gives the bridge and links of the lab's group their names again, where somebody has renamed them; returns
    whether there were any.

    The bridge is known by the gateway's address, a link by its other end: eth0 of the replica's namespace. To be
    renamed they go down for a moment: before Linux 6.2 an interface is not renamed while it is up.
    """
    names = {lab.bridge, *(replica.link for replica in lab.farm)}
    strays = {
        link.index: link
        for name, link in links.items()
        if link.group == group(lab) and name not in names
    }
    if not strays:
        return False
    found = {}
    missing = {replica.netns: replica for replica in lab.farm if replica.link not in links}
    for name, end in _replica_ends(missing.values()).items():
        stray = strays.get(end.eth0.peer) if end.eth0 else None
        if stray and _paired(stray, end.eth0):
            found[stray.index] = missing[name].link
    if lab.bridge not in links and (bridge := renamed_bridge(netlink, lab, links)):
        found[bridge.index] = lab.bridge
    for index, name in found.items():
        if not Journal.of(lab).owns("link", name=name, netns=lab.host.netns):
            Journal.of(lab).intend("link", name=name, netns=lab.host.netns)
        for settings in ({"state": "down"}, {"ifname": name}, {"state": "up"}):
            netlink.do(netlink.ipr.link("set", index=index, **settings))
    return bool(found)


def _remove_stale_bridge(netlink: Netlink, lab: Lab) -> None:
    if (index := _only(netlink, lab.bridge, lab.gateway)) is not None:
        forget_neighbours(netlink, index=index)


def _only(netlink: Netlink, name: str, own: IPv4Interface) -> int | None:
    """Leaves an interface that address alone; returns its index, None when there is no such interface."""
    if (link := netlink.links().get(name)) is None:
        return None
    others = [item for item in netlink.addresses().get(link.index, ()) if item != own]
    netlink.do(*(netlink.ipr.addr("del", **address(link.index, item)) for item in others))
    return link.index


# -- observed --------------------------------------------------------------------------------------------------


def _observe(netlink: Netlink, lab: Lab) -> Topology:
    links = netlink.links()
    if lab.bridge not in links:
        return _missing(lab)
    bridge = links[lab.bridge]
    ends, addresses = _replica_ends(lab.farm), netlink.addresses()
    ports = sorted(name for name, link in links.items() if link.master == bridge.index)
    own = {replica.link for replica in lab.farm}
    return Topology(
        bridge=lab.bridge,
        up=bridge.up,
        addresses=_texts(addresses.get(bridge.index, ())),
        ports=tuple(ports),
        links=tuple(
            _port(replica, links, addresses, ends.get(replica.netns)) for replica in lab.farm
        ),
        foreign=tuple(n for n in ports if n not in own and links[n].group != group(lab)),
    )


def _missing(lab: Lab) -> Topology:
    return Topology(bridge=lab.bridge, up=False, addresses=(), ports=(), links=())


def _port(
    replica: Replica,
    links: Mapping[str, Link],
    addresses: Mapping[int, tuple[IPv4Interface, ...]],
    inner: ReplicaEnd | None,
) -> Port:
    """One link as observed at both of its ends."""
    end, eth0 = links.get(replica.link), inner.eth0 if inner else None
    names = {link.index: name for name, link in links.items()}
    return Port(
        replica=replica.name,
        link=end.name if end else "",
        bridge=names.get(end.master, "") if end else "",
        up=end is not None and end.up and end.carrier,
        peer="" if eth0 is None else "eth0" if _paired(end, eth0) else "eth0 of another link",
        addresses=_texts(inner.addresses) if inner else (),
        mac=eth0.mac if eth0 else "",
        gateway=str(inner.gateways[0]) if inner and eth0 and inner.gateways else "",
        outer=_texts(addresses.get(end.index, ())) if end else (),
    )


def _replica_ends(farm: Iterable[Replica]) -> dict[str, ReplicaEnd]:
    """The replicas' ends of their links, by namespace; a replica without its namespace is left out."""
    return each((replica.netns for replica in farm), lambda netlink, _: _replica_end(netlink))


def _replica_end(netlink: Netlink) -> ReplicaEnd:
    eth0 = netlink.link("eth0")
    return ReplicaEnd(
        eth0=eth0,
        addresses=netlink.addresses(eth0.index).get(eth0.index, ()) if eth0 else (),
        gateways=tuple(
            r.gateway for r in netlink.routes() if not r.network.prefixlen and r.gateway
        ),
    )


def _has_eth0(end: ReplicaEnd | None) -> bool:
    """Whether the namespace has an eth0: else the peer went with a namespace that lost its name."""
    return end is not None and end.eth0 is not None


def _is_sound(lab: Lab, replica: Replica, end: ReplicaEnd | None) -> bool:
    """Whether a replica's end is up with its address, MAC address and default route. Pure."""
    return (
        end is not None
        and end.eth0 is not None
        and end.eth0.up
        and end.eth0.mac == replica.mac
        and _address(lab, replica) in end.addresses
        and set(end.gateways) == {lab.gateway.ip}
    )


def _address(lab: Lab, replica: Replica) -> IPv4Interface:
    return IPv4Interface(f"{replica.address}/{lab.subnet.prefixlen}")


def _paired(end: Link | None, inner: Link | None) -> bool:
    """Whether two interfaces are the ends of one link: each names the other's index (IFLA_LINK)."""
    return bool(end and inner and (end.peer, inner.peer) == (inner.index, end.index))


def _texts(addresses: Iterable[IPv4Interface]) -> tuple[str, ...]:
    return tuple(map(str, addresses))
