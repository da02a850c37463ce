"""The host's side: its namespace, the fence around the subnet, and what is refused."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from pyroute2 import netns as namespaces

from labkit import Lab
from labkit.checks import failed
from labkit.core import network_removal
from labkit.core.journal import Journal
from labkit.errors import FarmError, MachineError, StateError
from labkit.farm.containers import lab_namespaces
from labkit.farm.network import host
from labkit.kernel.netns import inside, within
from tests.netlink import netlink


def add_link(netns: str | None, name: str, address: str) -> int:
    """An interface that is not labkit's, up and with an address; its index."""
    with netlink(netns) as ipr:
        ipr.link("add", ifname=name, kind="veth", peer={"ifname": f"{name[:10]}-peer"})
        index = int(ipr.link_lookup(ifname=name)[0])
        for end in (index, ipr.link_lookup(ifname=f"{name[:10]}-peer")[0]):
            ipr.link("set", index=end, state="up")
        ip, _, length = address.partition("/")
        ipr.addr("add", index=index, address=ip, prefixlen=int(length))
    return index


@contextmanager
def foreign_namespace(name: str) -> Iterator[int]:
    """A namespace of that name that labkit did not make, and its inode."""
    namespaces.create(name)
    try:
        yield lab_namespaces.namespace_inode(name)
    finally:
        namespaces.remove(name)


def connecting(address: str) -> int:
    """The error number that a connection to the address gets."""
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex((address, 80))


@pytest.mark.root
def test_the_host_s_side_is_made_once_and_anew_where_a_hand_removed_it(lab: Lab) -> None:
    """Namespace, loopback and fence; looking makes none, a second run changes nothing, and a third just what is missing."""
    assert [check.seen for check in host.checks(lab)] == ["missing"]
    assert not Path("/run/netns", lab.host.netns).exists()
    result = host.up(lab)
    assert result.changed
    assert [check.name for check in result.checks if check.holds] == ["host.fence"]
    assert result.value.inode == Path("/run/netns", lab.host.netns).stat().st_ino
    with netlink(lab.netns) as ipr:
        assert ipr.get_links(1)[0]["flags"] & 1
    off = inside(lab.netns, Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").read_text)
    assert off.strip() == "1"
    journal = lab.journal_file.read_bytes()
    second = host.up(lab)
    assert (second.changed, second.value) == (False, result.value)
    assert lab.journal_file.read_bytes() == journal
    network_removal.remove_route(lab, subnet=str(lab.subnet), netns=lab.host.netns)
    assert [check.name for check in failed(host.checks(lab))] == ["host.fence"]
    third = host.up(lab)
    assert (third.changed, third.holds, third.value) == (True, True, result.value)
    namespaces.remove(lab.host.netns)
    assert [check.seen for check in host.checks(lab)] == ["missing"]
    assert host.up(lab).holds


@pytest.mark.root
def test_code_is_inside_a_namespace_and_the_caller_stays(lab: Lab) -> None:
    """The function sees the namespace, the calling thread does not move, and a missing namespace is not made."""
    with pytest.raises(FarmError, match="there is no network namespace"):
        inside(lab.netns, int)
    assert not Path("/run/netns", lab.host.netns).exists()
    lab_namespaces.create_namespace(lab, lab.host.netns)
    own = Path("/proc/thread-self/ns/net").stat().st_ino

    def here() -> int:
        return Path("/proc/thread-self/ns/net").stat().st_ino

    assert inside(lab.netns, here) == lab_namespaces.namespace_inode(lab.netns)
    assert inside(None, here) == own == here()


@pytest.mark.root
def test_requests_to_the_subnet_fail_at_once_without_a_bridge(lab: Lab) -> None:
    """Even where there is a default route, by which they would leave."""
    host.up(lab)
    index = add_link(lab.netns, "out0", "192.168.77.2/24")
    with netlink(lab.netns) as ipr:
        ipr.route("add", dst="default", gateway="192.168.77.1", oif=index)
    assert inside(lab.netns, connecting, str(lab.farm[0].address)) in (
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
    )


@pytest.mark.root
@pytest.mark.parametrize("address", ["10.60.0.77/24", "10.60.0.130/25", "10.1.2.3/8"])
def test_a_subnet_routed_elsewhere_is_refused_by_the_interface_s_name(
    lab: Lab, address: str
) -> None:
    """The same network, a part of it, or one around it; the interface keeps its address."""
    lab_namespaces.create_namespace(lab, lab.host.netns)
    index = add_link(lab.netns, "other7", address)
    with pytest.raises(MachineError, match="through interface other7") as caught:
        host.up(lab)
    assert caught.value.value == "network.subnet = 10.60.0.0/24"
    assert "other7" in caught.value.again
    assert not host.checks(lab)[0].holds
    assert (index, IPv4Network(address, strict=False)) in within(lab.netns, host.routed)


@pytest.mark.root
def test_a_neighbouring_network_is_no_hindrance(lab: Lab) -> None:
    """Only networks that overlap are in the way."""
    lab_namespaces.create_namespace(lab, lab.host.netns)
    add_link(lab.netns, "other7", "10.60.1.1/24")
    assert host.up(lab).holds


@pytest.mark.root
def test_a_foreign_namespace_of_the_name_is_refused(make_lab: Callable[..., Lab]) -> None:
    """It stays as it was, and is not written into the journal: down would remove it."""
    lab = make_lab()
    with foreign_namespace(lab.host.netns) as inode:
        with pytest.raises(StateError, match="labkit did not make it"):
            host.up(lab)
        assert lab_namespaces.namespace_inode(lab.netns) == inode
        assert Journal.of(lab).standing() == ()
        assert not within(lab.netns, network_removal.fenced, lab.subnet)
    other = make_lab(netns=lab.host.netns)  # another lab's is foreign, too
    host.up(other)
    with pytest.raises(StateError, match="did not make it for this lab"):
        host.up(lab)
    assert host.up(other).changed is False
