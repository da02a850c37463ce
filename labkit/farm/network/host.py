"""The host's side: the network namespace that bridge, DNS, balancer, browser and load live in.

By default it is the machine's own, and then labkit adds one thing: an ``unreachable`` route to
the farm's subnet behind every other. As long as the bridge stands its own route goes before; when
it is gone, requests to the farm fail at once instead of leaving by the machine's default route.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core.journal import Journal, lock
from labkit.core.link_removal import FENCE_METRIC, fenced, remove_link, renamed_bridge
from labkit.core.result import Outcome, action
from labkit.errors import MachineError, StateError
from labkit.farm.containers import idmap
from labkit.farm.network import other_labs
from labkit.farm.network.netlink import within
from labkit.kernel import netns as namespaces
from labkit.kernel import requests, seen
from labkit.kernel.netlink import Netlink
from labkit.model.lab import Lab, Replica
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


def namespace_inode(netns: str | None) -> int:
    """The inode that identifies a network namespace."""
    return (Path("/run/netns", netns) if netns else Path("/proc/self/ns/net")).stat().st_ino


def create_namespace(lab: Lab, name: str) -> bool:
    """Makes the named network namespace of the lab's own; returns whether it had to be made."""
    return bool(create_namespaces(lab, (name,)))


def create_namespaces(lab: Lab, names: Sequence[str]) -> tuple[str, ...]:
    """Makes the named network namespaces of the lab's own; returns those that had to be made.

    IPv6 is off in them: the farm has none, and its duplicate address detection makes each link wait. A
    container's belongs to the container's user namespace, where it has one, so that who enters that may
    enter it, too. A name that somebody else's namespace has is a :class:`StateError`, and none is made then.
    """
    taken, journal = refuse_taken_namespaces(lab, names), Journal.of(lab)
    new = tuple(name for name in names if name not in taken or not namespaces.stands(name))
    if new:
        journal.intend_all(("netns", {"name": name}) for name in new)
        for name in set(new) & set(taken):
            namespaces.remove(name)  # its maker was killed before the name was a namespace's
        _make(new, _ids(lab, new))
    return new


def _make(names: Sequence[str], ids: Mapping[str, int]) -> None:
    try:
        namespaces.create(names, _settle, ids)
    except OSError as error:
        if error.filename != "clone":
            raise
        raise MachineError(
            "user namespace",
            f"cannot be made: {error.strerror}",
            'raise the limit user.max_user_namespaces, or set containers.user_namespace to "off" in lab.toml',
            "sysctl user.max_user_namespaces",
            code="machine.user-namespace",
        ) from None


def replica_namespace(lab: Lab, replica: Replica) -> bool:
    """The network namespace of a container that does not serve is there, and the container's own user
    namespace is what it belongs to; whether it had to be made."""
    renew_namespaces(lab, [replica])
    return create_namespace(lab, replica.netns)


def renew_namespaces(lab: Lab, farm: Sequence[Replica], named: Collection[str] = ()) -> bool:
    """Namespaces of replicas that belong to another user namespace than their containers are to have, and those
    of the replicas ``named``, are gone with their links, where no container runs; whether there was one."""
    there = [item for item in farm if namespaces.stands(item.netns)]
    ids = _ids(lab, [item.netns for item in there])
    wrong = [
        replica
        for replica in there
        if replica.name in named
        or namespaces.owner(replica.netns, lab.state_dir) != ids[replica.netns]
    ]
    for replica in wrong:
        remove_link(lab, name=replica.link, netns=lab.host.netns)
        namespaces.remove(replica.netns)
    return bool(wrong)


def _ids(lab: Lab, names: Sequence[str]) -> dict[str, int]:
    """The first of the ids of each namespace's container by its name, 0 for those without their own."""
    own = {name: name.removeprefix(f"{lab.name}-") for name in names if name != lab.host.netns}
    given = idmap.allot(lab, list(own.values())) if own else {}
    return {name: given[container] for name, container in own.items()}


def refuse_taken_namespaces(lab: Lab, names: Sequence[str]) -> list[str]:
    """Those of the names that a network namespace of the lab's own has; :class:`StateError` for one that
    is somebody else's."""
    journal = Journal.of(lab)
    taken = [name for name in names if Path("/run/netns", name).exists()]
    for name in taken:
        if not journal.owns("netns", name=name):
            other = other_labs.owner(lab, "netns", name=name)
            raise StateError(
                f"network namespace {name}",
                "exists already and labkit did not make it for this lab"
                + (f": it is lab {other}'s" if other else ""),
                "choose another name (lab.toml: name, host.netns)",
                "ip netns list",
                code="state.namespace-taken",
            )
    return taken


def name_again(lab: Lab, name: str, pid: int) -> None:
    """The network namespace of the lab's own that a process is in has its name again, which was removed."""
    Journal.of(lab).intend("netns", name=name)
    namespaces.name_again(name, pid)


def refuse_taken_subnet(lab: Lab, netlink: Netlink) -> None:
    """Raises :class:`MachineError` when another interface than the lab's bridge has the subnet, or another
    lab is about to have it."""
    if other := other_labs.owner(lab, "route", subnet=str(lab.subnet), netns=lab.host.netns):
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
        other = other_labs.owner(lab, "link", name=name, netns=lab.host.netns)
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


def _settle() -> None:
    """Loopback up and IPv6 off in the new namespace that the calling thread is in."""
    for scope in ("all", "default"):
        switch = Path("/proc/sys/net/ipv6/conf", scope, "disable_ipv6")
        if switch.exists():
            switch.write_text("1", encoding="utf-8")
    with Netlink() as netlink:
        netlink.ask(requests.link_up(1))


def _fence(netlink: Netlink, lab: Lab) -> bool:
    refuse_taken_subnet(lab, netlink)
    if fenced(netlink, lab.subnet):
        return False
    Journal.of(lab).intend("route", subnet=str(lab.subnet), netns=lab.host.netns)
    netlink.ask(requests.unreachable(lab.subnet, FENCE_METRIC))
    return True
