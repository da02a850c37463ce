"""The bridge and the links: one veth pair a replica, by netlink alone (pyroute2).

One end of each pair is a port of the bridge; the other is moved into the replica's network namespace and
is named ``eth0`` there. The namespace has a name of labkit's, so it outlives the container: a
container that is started again finds its address, and while it is stopped connections to it are
refused at once instead of timing out. ``/proc/<pid>/ns/net`` of the running container is the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from labkit import run, undo
from labkit.checks import Check, equal
from labkit.errors import CommandError, StateError
from labkit.farm import container, host, topology
from labkit.farm.topology import Port, Topology
from labkit.journal import Journal, lock
from labkit.lab import Lab, Replica
from labkit.result import Cell, Outcome, Record, Table, action

if TYPE_CHECKING:
    from pyroute2 import IPRoute
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

#: rtnetlink(7): IFF_UP.
UP = 1


class Pings(Record):
    """Round-trip times in milliseconds, by 'from -> to'."""

    milliseconds: dict[str, float]


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
    times: dict[str, float] = {}
    checks: list[Check] = []
    for replica in lab.farm:
        for name, netns, target in (
            (f"host -> {replica.name}", lab.netns, str(replica.address)),
            (f"{replica.name} -> bridge", replica.netns, str(lab.gateway.ip)),
        ):
            seconds = _ping(netns, target)
            if seconds is not None:
                times[name] = seconds
            checks.append(_ping_check(replica, name, target=target, netns=netns, ms=seconds))
    rows: list[dict[str, Cell]] = [{"path": name, "time": ms} for name, ms in times.items()]
    return Outcome(
        value=Pings(milliseconds=times),
        subject=lab.bridge,
        summary=f"{len(times)} of {len(checks)} pings were answered, both ways.",
        checks=tuple(checks),
        tables=(Table.of("pings", "Ping, both ways", rows, units={"time": "ms"}),),
    )


@action("network.mistakes")
def mistakes(lab: Lab) -> Outcome[tuple[topology.Mistake, ...]]:
    """The assignment's mistakes, each held against the checks that would have caught it."""
    found = topology.mistakes(observe(lab))
    rows: list[dict[str, Cell]] = []
    checks: list[Check] = []
    for mistake in found:
        failing = [check for check in topology.checks(lab, mistake.topology) if not check.holds]
        rows += [
            {"mistake": mistake.name, "done by": mistake.story, "caught by": c.name, "seen": c.seen}
            for c in failing
        ]
        checks.append(
            Check(
                name=f"network.mistake.{len(checks) + 1}",
                expected=f"a check fails for: {mistake.name}",
                seen=", ".join(check.name for check in failing) or "none fails",
                holds=bool(failing),
                rows=("R10",),
                again="labkit check",
            )
        )
    return Outcome(
        value=found,
        subject=lab.bridge,
        summary=f"Each of {len(found)} mistakes would have been caught by name.",
        checks=tuple(checks),
        tables=(Table.of("mistakes", "Mistakes, and the check that catches each", rows),),
    )


def wire(lab: Lab) -> bool:
    """What :func:`connect` does, for a caller that holds the lab's lock; whether anything changed."""
    made = [host.create_namespace(lab, replica.netns) for replica in lab.farm]
    with host.netlink(lab.netns) as ipr:
        bridge, changed = _bridge(lab, ipr)
        linked = [_link(lab, ipr, bridge, replica) for replica in lab.farm]
    inner = [_inner(lab, replica) for replica in lab.farm]
    return changed or any(made) or any(linked) or any(inner)


def observe(lab: Lab) -> Topology:
    """The bridge and the links as the kernel has them now; missing ones are empty."""
    missing = Topology(bridge=lab.bridge, up=False, addresses=(), ports=(), links=())
    if lab.netns and not Path("/run/netns", lab.netns).exists():
        return missing
    with host.netlink(lab.netns) as ipr:
        links = {link.get_attr("IFLA_IFNAME"): link for link in ipr.get_links()}
        if lab.bridge not in links:
            return missing
        bridge = links[lab.bridge]
        ports = tuple(
            sorted(
                n for n, link in links.items() if link.get_attr("IFLA_MASTER") == bridge["index"]
            )
        )
        return Topology(
            bridge=lab.bridge,
            up=bool(bridge["flags"] & UP),
            addresses=_addresses(ipr, bridge["index"]),
            ports=ports,
            links=tuple(_port(lab, replica, links) for replica in lab.farm),
        )


def namespace_checks(lab: Lab) -> tuple[Check, ...]:
    """Whether each running container's ``/proc/<pid>/ns/net`` is the namespace that holds its eth0."""
    states = container.states(lab)
    return tuple(
        equal(
            f"network.namespace.{replica.name}",
            host.namespace_inode(replica.netns),
            Path(f"/proc/{states[replica.name].pid}/ns/net").stat().st_ino,
            rows=("I6", "E3"),
            again=f"stat -L /proc/{states[replica.name].pid}/ns/net /run/netns/{replica.netns}",
        )
        for replica in lab.farm
        if replica.name in states and states[replica.name].pid
    )


def _bridge(lab: Lab, ipr: IPRoute) -> tuple[int, bool]:
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


def _link(lab: Lab, ipr: IPRoute, bridge: int, replica: Replica) -> bool:
    """The pair exists: its host end up in the bridge, its peer in the namespace as eth0."""
    changed = False
    found = ipr.link_lookup(ifname=replica.link)
    if found:
        _require_own(lab, replica.link)
        if not _has_peer(
            replica
        ):  # it went with a namespace that lost its name, or was never moved
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


def _has_peer(replica: Replica) -> bool:
    """Whether the replica's namespace has an eth0."""
    with host.netlink(replica.netns) as ipr:
        return bool(ipr.link_lookup(ifname="eth0"))


def _inner(lab: Lab, replica: Replica) -> bool:
    """eth0 in the namespace is up with its address and the route to everywhere else."""
    changed = False
    with host.netlink(replica.netns) as ipr:
        index = ipr.link_lookup(ifname="eth0")[0]
        address = f"{replica.address}/{lab.subnet.prefixlen}"
        if address not in _addresses(ipr, index):
            ipr.addr(
                "add", index=index, address=str(replica.address), prefixlen=lab.subnet.prefixlen
            )
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
    master = names.get(end.get_attr("IFLA_MASTER"), "") if end is not None else ""
    peer, mac = "", ""
    addresses: tuple[str, ...] = ()
    if Path("/run/netns", replica.netns).exists():
        with host.netlink(replica.netns) as ipr:
            for index in ipr.link_lookup(ifname="eth0"):
                peer, addresses = "eth0", _addresses(ipr, index)
                mac = ipr.get_links(index)[0].get_attr("IFLA_ADDRESS")
    return Port(
        replica=replica.name,
        link=replica.link if end is not None else "",
        bridge=master,
        up=end is not None and bool(end["flags"] & UP),
        peer=peer,
        addresses=addresses,
        mac=mac,
    )


def _ping(netns: str | None, target: str) -> float | None:
    """The round-trip time in milliseconds of the faster of two echoes, None without an answer."""
    words = ["ping", "-n", "-q", "-c", "2", "-i", "0.05", "-W", "1", target]
    try:
        output = run.run(words, netns=netns, timeout=10).stdout
    except CommandError:
        return None
    return float(output.rpartition("= ")[2].split("/")[0])


def _ping_check(
    replica: Replica, name: str, *, target: str, netns: str | None, ms: float | None
) -> Check:
    way = "out" if name.startswith("host") else "back"
    return Check(
        name=f"network.ping.{replica.name}.{way}",
        expected=f"{name}: an answer from {target}",
        seen="no answer" if ms is None else f"answered in {ms:.3f} ms",
        holds=ms is not None,
        rows=("R10", "E3") if way == "out" else ("R10",),
        again=f"{f'ip netns exec {netns} ' if netns else ''}ping -c 2 {target}",
    )
