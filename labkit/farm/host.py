"""The host's side: the network namespace that bridge, DNS, balancer, browser and load live in.

By default it is the machine's own, and then labkit adds one thing: an ``unreachable`` route to
the farm's subnet behind every other. As long as the bridge stands its own route goes before; when
it is gone, requests to the farm fail at once instead of leaving by the machine's default route.
"""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.checks import Check, equal
from labkit.errors import MachineError, StateError
from labkit.journal import Journal, lock
from labkit.lab import Lab
from labkit.result import Outcome, Record, action
from labkit.undo import FENCE_METRIC, fenced

if TYPE_CHECKING:
    from pyroute2 import IPRoute


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
        made = _namespace(lab)
        with netlink(lab.netns) as ipr:
            refuse_taken_subnet(lab, ipr)
            made = _fence(lab, ipr) or made
    value = HostSide(netns=lab.host.netns, inode=namespace_inode(lab.netns))
    where = f"network namespace {lab.netns}" if lab.netns else "the machine's own network namespace"
    return Outcome(
        value=value,
        subject=lab.netns or "machine",
        changed=made,
        summary=f"The host's side lives in {where} (inode {value.inode}).",
        checks=checks(lab),
    )


def checks(lab: Lab) -> tuple[Check, ...]:
    """Whether the namespace stands and nothing to the subnet can leave the machine."""
    if lab.netns and not Path("/run/netns", lab.netns).exists():
        return (equal("host.namespace", lab.netns, "missing", again="ip netns list"),)
    with netlink(lab.netns) as ipr:
        stands = fenced(ipr, str(lab.subnet))
    return (
        Check(
            name="host.fence",
            expected=f"an unreachable route to {lab.subnet} behind the bridge's own",
            seen="present" if stands else "missing",
            holds=stands,
            again=_again(lab, "ip route show type unreachable"),
        ),
    )


def netlink(netns: str | None) -> IPRoute:
    """A netlink socket in a named network namespace (None: the machine's own); a context manager.

    Raises :class:`FarmError` when there is no such namespace.
    """
    from pyroute2 import IPRoute

    from labkit.farm.links.netns import missing

    try:
        return IPRoute(netns=netns, flags=0) if netns else IPRoute()  # by default one is made
    except FileNotFoundError:
        raise missing(str(netns)) from None


def namespace_inode(netns: str | None) -> int:
    """The inode that identifies a network namespace."""
    return (Path("/run/netns", netns) if netns else Path("/proc/self/ns/net")).stat().st_ino


def create_namespace(lab: Lab, name: str) -> bool:
    """Makes the named network namespace of the lab's own; returns whether it had to be made.

    IPv6 is off in it: the farm has none, and its duplicate address detection makes each link wait.
    """
    from pyroute2 import netns

    journal = Journal.of(lab)
    if Path("/run/netns", name).exists():
        if not journal.owns("netns", name=name):
            raise StateError(
                f"network namespace {name}",
                "exists already and labkit did not make it for this lab",
                "choose another name (lab.toml: name, host.netns)",
                "ip netns list",
            )
        return False
    journal.intend("netns", name=name)
    netns.create(name)
    _settle(name)
    return True


def refuse_taken_subnet(lab: Lab, ipr: IPRoute) -> None:
    """Raises :class:`MachineError` when another interface than the lab's bridge has the subnet."""
    own = set(ipr.link_lookup(ifname=lab.bridge))
    for interface, network in routed(ipr):
        if interface in own or not network.overlaps(lab.subnet):
            continue
        name = ipr.get_links(interface)[0].get_attr("IFLA_IFNAME")
        raise MachineError(
            f"network.subnet = {lab.subnet}",
            f"the machine already routes {network} through interface {name}",
            "set network.subnet to a free private network, for example 10.61.0.0/24",
            _again(lab, f"ip route show dev {name}"),
        )


def routed(ipr: IPRoute) -> list[tuple[int, IPv4Network]]:
    """The (interface index, network) pairs of the main table's IPv4 routes, default routes aside."""
    found = []
    for route in ipr.get_routes(family=2, table=254):
        destination, interface = route.get_attr("RTA_DST"), route.get_attr("RTA_OIF")
        if destination and interface:
            found.append((interface, IPv4Network(f"{destination}/{route['dst_len']}")))
    return found


def _again(lab: Lab, command: str) -> str:
    return f"ip netns exec {lab.netns} {command}" if lab.netns else command


def _namespace(lab: Lab) -> bool:
    return create_namespace(lab, lab.netns) if lab.netns else False


def _settle(name: str) -> None:
    """Loopback up and IPv6 off in a new namespace."""
    from labkit.farm.links.netns import inside

    def off() -> None:
        for scope in ("all", "default"):
            switch = Path("/proc/sys/net/ipv6/conf", scope, "disable_ipv6")
            if switch.exists():
                switch.write_text("1")

    inside(name, off)
    with netlink(name) as ipr:
        ipr.link("set", index=1, state="up")


def _fence(lab: Lab, ipr: IPRoute) -> bool:
    if fenced(ipr, str(lab.subnet)):
        return False
    Journal.of(lab).intend("route", subnet=str(lab.subnet), netns=lab.host.netns)
    ipr.route("add", dst=str(lab.subnet), type="unreachable", priority=FENCE_METRIC)
    return True
