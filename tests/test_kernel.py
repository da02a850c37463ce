"""What is asked of the kernel with no program between, held against what pyroute2 sees by its own sockets and the kernel's own files."""

from __future__ import annotations

import errno
import os
import secrets
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from pyroute2 import netns as other
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from labkit.core import run
from labkit.kernel import calls, messages, netns, requests, seen
from labkit.kernel.messages import Request, written
from labkit.kernel.netlink import Netlink, is_gone
from tests.netlink import netlink

OWN = IPv4Interface("10.7.0.1/24")


def settle() -> None:
    """Loopback up."""
    with Netlink() as own:
        own.ask(requests.link_up(1))


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    """Two namespaces of the test's own."""
    names = (f"t{secrets.token_hex(3)}", f"t{secrets.token_hex(3)}")
    netns.create(names, settle)
    yield names
    for name in names:
        netns.remove(name)


def within(name: str, *asked: requests.Request) -> list[OSError | None]:
    """What the kernel says to these requests in a namespace."""

    def entered() -> list[OSError | None]:
        netns.enter(name)
        with Netlink() as own:
            return own.try_all(asked)

    return netns.alone(entered)


def test_requests_are_numbered_and_read_as_they_were_written() -> None:
    """By pyroute2 itself: type, flags, number, fields and attributes, the nested ones too."""
    asked = (requests.pair("v0", "eth0", mac="02:60:0a:07:00:02", master=7), requests.no_link(3))
    one, other = MarshalRtnl().parse(b"".join(written(asked, flags=5, first=8)))
    assert one["header"]["sequence_number"] == 8
    assert one["header"]["flags"] == requests.CREATE | requests.EXCLUSIVE | 5
    assert (one.get_attr("IFLA_IFNAME"), one.get_attr("IFLA_MASTER"), one["flags"]) == ("v0", 7, 1)
    peer = one.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert (peer.get_attr("IFLA_IFNAME"), peer.get_attr("IFLA_ADDRESS")) == ("eth0", "02:60:0a:07:00:02")  # fmt: skip
    assert (other["header"]["type"], other["index"]) == (requests.DELLINK, 3)


def forms(number: int) -> list[Request]:
    """A request of each kind, with values of its own for each number from 1 to 9."""
    inside, subnet = IPv4Interface(f"10.7.{number}.1/24"), IPv4Network(f"10.{number}.0.0/16")
    return [
        requests.links(),
        requests.bridge(f"br{number}"),
        requests.pair(f"v{number}", f"p{number}"),
        requests.pair(
            f"v{number}",
            "eth0",
            mac=f"02:60:0a:07:00:0{number}",
            namespace=number,
            master=number,
            group=number << 16,
        ),
        requests.link_up(number),
        requests.link_up(number, master=number, mac=f"02:60:0a:07:00:0{number}"),
        requests.no_link(number),
        requests.no_group(number),
        requests.addresses(),
        requests.address(number, inside),
        requests.no_address(number, inside),
        requests.routes(),
        requests.default_route(inside.ip),
        requests.no_default_route(inside.ip),
        requests.unreachable(subnet, number),
        requests.not_unreachable(subnet, number),
        requests.neighbours(),
        requests.no_neighbour(number, inside.ip),
    ]


def test_a_request_with_other_values_is_written_as_pyroute2_writes_it() -> None:
    """Byte for byte, whatever was written of its form before."""
    list(written(forms(1), flags=1, first=1))
    for number in range(2, 10):
        own = list(written(forms(number), flags=5, first=number))
        assert own == [
            bytes(messages._encoded(request, 5, place).data)
            for place, request in enumerate(forms(number), number)
        ]
    assert all(
        messages._forms.values()
    )  # none of labkit's requests is one that pyroute2 writes each time


def test_of_an_answer_the_attributes_that_are_asked_for_are_read() -> None:
    """By pyroute2, as it reads them among the others."""
    (data,) = written([requests.pair("v0", "eth0", mac="02:60:0a:07:00:02", master=7, group=3)], flags=5, first=8)  # fmt: skip
    kinds = messages.kinds(requests.NEWLINK, ("IFLA_IFNAME", "IFLA_MASTER"))
    assert messages.attributes(messages.read(data, kinds)) == {"IFLA_IFNAME": "v0", "IFLA_MASTER": 7}  # fmt: skip
    whole = messages.attributes(messages.read(data))
    assert (whole["IFLA_IFNAME"], whole["IFLA_MASTER"], whole["IFLA_GROUP"]) == ("v0", 7, 3)


def test_options_that_the_kernel_would_cut_are_refused(tmp_path: Path) -> None:
    """mount(2) takes one page of them, and says nothing of the rest."""
    with pytest.raises(OSError, match="do not fit into a page"):
        calls.mount("overlay", tmp_path, "overlay", options="x" * 4096)


@pytest.mark.root
def test_a_namespace_is_seen_by_others_and_stands_until_it_is_removed(
    pair: tuple[str, str],
) -> None:
    """Its name is in /run/netns, settled; removing it twice is no error."""
    assert set(pair) <= set(other.listnetns())
    assert [netns.stands(name) for name in pair] == [True, True]
    with netlink(pair[0]) as ipr:
        assert ipr.get_links(1)[0]["flags"] & 1
    for _ in range(2):
        netns.remove(pair[0])
        assert not netns.stands(pair[0])
    assert pair[0] not in other.listnetns()


@pytest.mark.root
def test_the_callers_stay_where_they_are(pair: tuple[str, str]) -> None:
    """Only threads of their own go into a namespace, and new ones are made in such a thread."""
    here = Path("/proc/thread-self/ns/net").stat().st_ino
    inside = netns.alone(lambda: (netns.enter(pair[0]), Path("/proc/thread-self/ns/net").stat())[1])
    assert inside.st_ino == netns.path(pair[0]).stat().st_ino != here
    assert Path("/proc/thread-self/ns/net").stat().st_ino == here


@pytest.mark.root
def test_a_name_without_a_namespace_is_told_and_removed() -> None:
    """As a process leaves it that was killed between the file and the mount on it."""
    name = f"t{secrets.token_hex(3)}"
    netns.prepare()
    netns.path(name).touch()
    assert not netns.stands(name)
    netns.remove(name)
    assert not netns.path(name).exists()


@pytest.mark.root
def test_a_name_that_is_taken_is_an_error(pair: tuple[str, str]) -> None:
    """The namespace that has it stays."""
    inode = netns.path(pair[0]).stat().st_ino
    with pytest.raises(FileExistsError):
        netns.create([pair[0]])
    assert netns.path(pair[0]).stat().st_ino == inode


def connect(first: str, second: str) -> None:
    """A bridge with an address in the first namespace, and a pair from there into the second."""
    assert within(first, requests.bridge("br0")) == [None]
    index = look(first)["br0"].index
    with netns.opened(second) as there:
        made = requests.pair(
            "v0", "eth0", mac="02:60:0a:07:00:02", namespace=there, master=index, group=77
        )
        assert within(first, requests.address(index, OWN), made) == [None, None]
    inner = look(second)["eth0"].index
    address = requests.address(inner, IPv4Interface("10.7.0.2/24"))
    asked = (address, requests.link_up(inner), requests.default_route(OWN.ip))
    assert within(second, *asked) == [None] * 3


def look(name: str) -> dict[str, seen.Link]:
    """The links of a namespace as labkit sees them."""

    def entered() -> dict[str, seen.Link]:
        netns.enter(name)
        with Netlink() as own:
            return seen.links(own)

    return netns.alone(entered)


@pytest.mark.root
def test_links_are_made_as_asked_and_read_as_pyroute2_reads_them(pair: tuple[str, str]) -> None:
    """Bridge, port, group, the peer's name and address, and what leads where."""
    connect(*pair)
    for name in pair:
        with netlink(name) as ipr:
            theirs = {
                link.get_attr("IFLA_IFNAME"): (
                    link["index"],
                    link["flags"],
                    link.get_attr("IFLA_MASTER") or 0,
                    link.get_attr("IFLA_LINK") or 0,
                    link.get_attr("IFLA_GROUP"),
                    link.get_attr("IFLA_ADDRESS"),
                )
                for link in ipr.get_links()
            }
        ours = {
            link.name: (link.index, link.flags, link.master, link.peer, link.group, link.mac)
            for link in look(name).values()
        }
        assert ours == theirs
    assert look(pair[1])["eth0"].mac == "02:60:0a:07:00:02"
    assert look(pair[0])["v0"].carrier


@pytest.mark.root
def test_addresses_and_routes_are_read_as_they_were_asked_for(pair: tuple[str, str]) -> None:
    """With their prefix lengths, broadcast addresses and gateways."""
    connect(*pair)

    def entered() -> tuple[object, ...]:
        netns.enter(pair[1])
        with Netlink() as own:
            own.ask(requests.unreachable(IPv4Network("10.8.0.0/16"), 99))
            return seen.addresses(own), seen.routes(own)

    addresses, routes = netns.alone(entered)
    index = look(pair[1])["eth0"].index
    assert addresses[index] == (IPv4Interface("10.7.0.2/24"),)  # type: ignore[index]
    assert set(routes) == {  # type: ignore[call-overload]
        seen.Route(1, IPv4Network("0.0.0.0/0"), index, OWN.ip, 0),
        seen.Route(1, OWN.network, index, None, 0),
        seen.Route(7, IPv4Network("10.8.0.0/16"), 0, None, 99),
    }
    with netlink(pair[1]) as ipr:
        (address,) = ipr.get_addr(family=2, index=index)
        assert address.get_attr("IFA_BROADCAST") == "10.7.0.255"


@pytest.mark.root
def test_a_group_of_links_goes_at_once_with_its_peers(pair: tuple[str, str]) -> None:
    """Others stay; of a group without links it says so."""
    connect(*pair)
    assert within(pair[0], requests.no_group(77)) == [None]
    assert set(look(pair[0])) == {"lo", "br0"}
    assert set(look(pair[1])) == {"lo"}
    assert is_gone(within(pair[0], requests.no_group(77))[0])


@pytest.mark.root
def test_each_request_has_its_own_answer(pair: tuple[str, str]) -> None:
    """More than the socket takes at once: what fails is told with its words, what follows is done."""
    names = [f"b{number}" for number in range(450)]
    wrong = requests.link_up(9999)
    asked = [requests.bridge(name) for name in names[:2]] + [wrong] * 440
    found = within(pair[0], *asked, requests.bridge("b0"), requests.bridge("b2"))
    assert [error.errno if error else 0 for error in found] == [
        0, 0, *([errno.ENODEV] * 440), errno.EEXIST, 0,
    ]  # fmt: skip
    assert {"b0", "b1", "b2"} <= set(look(pair[0]))


@pytest.mark.root
def test_a_neighbour_that_was_asked_for_is_seen_and_forgotten(pair: tuple[str, str]) -> None:
    """By its address and its link."""
    connect(*pair)

    def entered() -> tuple[seen.Neighbour, ...]:
        netns.enter(pair[0])
        os.system("ping -c 1 -W 1 10.7.0.2 >/dev/null")  # noqa: S605
        with Netlink() as own:
            found = [n for n in seen.neighbours(own) if not n.lasting]
            assert [own.try_all([requests.no_neighbour(n.link, n.address)]) for n in found]
            return (*found, *(n for n in seen.neighbours(own) if not n.lasting))

    (known,) = netns.alone(entered)
    assert known == seen.Neighbour(look(pair[0])["br0"].index, IPv4Address("10.7.0.2"), False)


#: In a fresh Python: threads that ask the kernel their first questions at once, and what was imported for them.
MEETING = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from labkit.kernel import nftables; from labkit.kernel import requests
from labkit.kernel.netlink import Netlink
def look():
    with Netlink() as own:
        own.ask(requests.link_up(1))
asked = (nftables.generation, look, nftables.generation, look)
door = threading.Barrier(len(asked))
def enter(question):
    door.wait()
    question()
with ThreadPoolExecutor(len(asked)) as pool:
    list(pool.map(enter, asked))
print("netlink" in str(sys.modules), "pyroute2.ndb" in sys.modules)
"""


@pytest.mark.root
def test_threads_may_ask_their_first_questions_at_once() -> None:
    """pyroute2's modules import each other, and Python ends one of two threads that wait for each other there;
    nor is the package as a whole imported, which takes longer than a farm to be looked at."""
    for _ in range(5):
        done = run.run([sys.executable, "-c", MEETING], ok=range(256))
        assert (done.status, done.stdout) == (0, "True False\n"), done.stderr
