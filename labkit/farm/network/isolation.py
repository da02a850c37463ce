"""Tests the isolation of replicas: sends packets that the rules refuse from each namespace, and counts what arrives.

Nothing is sent beyond the host unless the rules are in force.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

from labkit import cancellation
from labkit.checks import Check
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.farm.network import firewall
from labkit.kernel import netns as namespaces
from labkit.kernel.links import Netlink
from labkit.kernel.netns import within
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: How long an answer is waited for, in seconds; between namespaces of one machine it takes a thousandth of one.
PATIENCE = 0.3
#: How many rounds there are at most, and the pause between two, in seconds: the kernel looks at most once a second
#: which links have become ready.
ROUNDS, PAUSE = 3, 0.5
#: How many replicas try at a time: each has a few connections open.
AT_ONCE = 64
#: An address that nobody has (RFC 5737, TEST-NET-2), the discard port, and how many hosts such a packet passes at
#: most: this one.
NOBODY, DISCARD, HOPS = "198.51.100.77", 9, 2
#: linux/if_ether.h: the protocols of the frames that are sent by hand.
IPV4, ARP, VLAN, IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD
#: What is sent without a connection: kind of socket, protocol, data. A datagram, and an ICMP message that is no ping:
#: a timestamp request (RFC 792).
LOOSE = (
    (socket.SOCK_DGRAM, 0, b"labkit"),
    (socket.SOCK_RAW, socket.IPPROTO_ICMP, struct.pack("!BBHHHIII", 13, 0, 0xF2FF, 0, 0, 0, 0, 0)),
)
#: What each counter's packets are called.
WORDS = {
    "spoofed": "under another name or in another protocol",
    "between": "to another replica",
    "host": "to the host",
    "outwards": "beyond the host",
}


class Probe(Record):
    """How many packets were sent that the rules refuse, and how many were refused, by counter; ``reached`` says
    what arrived all the same."""

    sent: dict[str, int]
    refused: dict[str, int]
    reached: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether each was refused and counted."""
        return not self.reached and not self.uncounted

    @property
    def uncounted(self) -> tuple[str, ...]:
        """What was sent, and neither seen to arrive nor counted as refused, in words."""
        return tuple(
            f"{self.refused.get(name, 0)} of {counted(number, 'packet')} {WORDS[name]} refused"
            for name, number in self.sent.items()
            if self.refused.get(name, 0) < number
        )

    def __str__(self) -> str:
        if not self.holds:
            return "; ".join((*self.reached, *self.uncounted))
        each = ", ".join(f"{number} {WORDS[name]}" for name, number in self.sent.items())
        number = counted(sum(self.sent.values()), "packet")
        return f"each of {number} sent by them to try it was refused and counted: {each}"


class Target(Record):
    """A host that is not to be reached, and the counter of what is sent to it."""

    name: str
    address: str
    port: int
    counter: str


#: Connections that were begun: who began each, and to whom.
Begun = dict[socket.socket, tuple[str, Target]]


def check(lab: Lab) -> Check:
    """Whether the lab's tables are in force as the lab says, and refuse what the replicas try.

    On a kernel without nftables the check holds and says why replicas are not kept apart.
    """
    found = firewall.look(lab)
    facts, wanted = firewall.facts(found), firewall.wanted(lab)
    differing = [f"{fact}: {seen}" for fact, seen in (facts or {}).items() if wanted[fact] != seen]
    if found and found.lacking:
        holds, seen = True, f"nobody is kept from anything: {found.lacking}"
    elif not found or differing:
        holds, seen = False, "; ".join(differing) or "there are no such tables"
    else:
        probe = probed(lab)
        holds, seen = probe.holds, str(probe)
    return Check(
        name="network.isolation",
        expected="replicas are kept from the host, from each other and from what is beyond",
        seen=seen,
        holds=holds,
        again=firewall.again(lab),
    )


def table(lab: Lab) -> Table:
    """How many packets were refused so far, a row for each counter."""
    found = firewall.counts(lab)
    rows: list[dict[str, Cell]] = [
        {"counter": name, "packets": found.get(name), "what is refused": what}
        for name, what in firewall.COUNTERS.items()
    ]
    return Table.of("refused", "What replicas were refused by the lab's tables", rows)


def probed(lab: Lab) -> Probe:
    """Sends from each replica that has its namespace: by TCP, UDP, ICMP, and frames made by hand.

    Sends again where not all was counted: a link that was just made, or a host whose MAC address is not known yet,
    loses packets.
    """
    farm = [replica for replica in lab.farm if namespaces.stands(replica.netns)]
    hosts = _hosts(lab)
    probe = _round(lab, farm, hosts)
    for _ in range(ROUNDS - 1):
        if probe.reached or not probe.uncounted:
            break
        cancellation.pause(PAUSE)
        probe = _round(lab, farm, hosts)
    return probe


def _round(lab: Lab, farm: Sequence[Replica], hosts: Sequence[Target]) -> Probe:
    sent, reached = Counter[str](), list[str]()
    before = firewall.counts(lab)
    for place in range(0, len(farm), AT_ONCE):
        with ExitStack() as stack:
            pairs = [(farm[n], farm[n - 1]) for n in range(place, min(place + AT_ONCE, len(farm)))]
            reached += _reached(namespaces.alone(_send, stack, pairs, hosts, sent))
    after = firewall.counts(lab)
    refused = {name: after.get(name, 0) - before.get(name, 0) for name in sent}
    return Probe(sent=dict(sent), refused=refused, reached=tuple(sorted(reached)))


def _hosts(lab: Lab) -> tuple[Target, ...]:
    """The host's own addresses that a replica might ask, and one beyond, where the host sends packets on."""
    addresses, forwards = within(lab.netns, _addresses)
    gateway = str(lab.gateway.ip)
    places = [(gateway, lab.proxy.port), (gateway, lab.wiki.port)]
    places += [(address, 22) for address in addresses if address != gateway]
    found = [Target(name="the host", address=a, port=p, counter="host") for a, p in places]
    beyond = Target(name="beyond the host", address=NOBODY, port=DISCARD, counter="outwards")
    return (*found, *([beyond] if forwards else []))


def _addresses(netlink: Netlink) -> tuple[list[str], bool]:
    """The namespace's addresses but for loopback's, and whether it forwards packets to an unknown address."""
    every = (item.ip for found in netlink.addresses().values() for item in found)
    forwards = Path("/proc/sys/net/ipv4/ip_forward").read_text(encoding="utf-8").strip() == "1"
    leads = any(IPv4Address(NOBODY) in route.network for route in netlink.routes())
    return sorted(str(item) for item in every if not item.is_loopback), forwards and leads


def _send(
    stack: ExitStack,
    pairs: Sequence[tuple[Replica, Replica]],
    hosts: Sequence[Target],
    sent: Counter[str],
) -> Begun:
    """Sends from each replica to its neighbour and the hosts, and counts what was sent; returns the connections
    that were begun, which the stack closes. The calling thread ends in another namespace."""
    begun: Begun = {}
    for replica, other in pairs:
        others = [other] if other is not replica else []
        near = (Target(name=o.name, address=str(o.address), port=80, counter="between") for o in others)  # fmt: skip
        namespaces.enter(replica.netns)
        for target in (*near, *hosts):
            client = stack.enter_context(_client())
            if _connect(client, target):
                begun[client] = (replica.name, target)
                sent[target.counter] += 1
            sent[target.counter] += sum(_send_to(target, *loose) for loose in LOOSE)
        sent["spoofed"] += sum(map(_send_frame, _frames(replica, others)))
    return begun


def _client(
    kind: int = socket.SOCK_STREAM | socket.SOCK_NONBLOCK, protocol: int = 0
) -> socket.socket:
    client = socket.socket(socket.AF_INET, kind, protocol)
    client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOPS)
    return client


def _connect(client: socket.socket, target: Target) -> bool:
    """Begins a connection; returns whether the replica has a route there at all, as the next two do."""
    try:
        client.connect((target.address, target.port))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _send_to(target: Target, kind: int, protocol: int, data: bytes) -> bool:
    with _client(kind, protocol) as client, suppress(OSError):
        return bool(client.sendto(data, (target.address, DISCARD)))
    return False


def _send_frame(frame: bytes) -> bool:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as client, suppress(OSError):
        client.bind(("eth0", 0))
        return bool(client.send(frame))
    return False


def _reached(begun: Begun) -> Iterator[str]:
    """Which targets were reached: a connection is made, or a replica itself refuses it, where the rules are
    silent."""
    ends = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        for client in begun:
            selector.register(client, selectors.EVENT_WRITE)
        while selector.get_map() and (patience := ends - time.monotonic()) > 0:
            for key, _ in selector.select(patience):
                client = cast(socket.socket, key.fileobj)
                selector.unregister(client)
                source, target = begun[client]
                answer = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if answer == 0 or (answer == errno.ECONNREFUSED and target.counter == "between"):
                    yield f"{source} reaches {target.name}, {target.address}:{target.port}"


def _frames(replica: Replica, others: Sequence[Replica]) -> list[bytes]:
    """What no replica may send: IPv6, and another's address in IPv4, in the same within a virtual network's frame, and
    in ARP."""
    mac = bytes.fromhex(replica.mac.replace(":", ""))
    own, everybody = replica.address.packed, b"\xff" * 6
    another = others[0].address.packed if others else bytes((*own[:3], own[3] ^ 1))
    packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20, 0, 0, 1, 255, 0, another, own)
    tagged = struct.pack("!HH", 1, IPV4) + packet
    answer = struct.pack("!HHBBH6s4s6s4s", 1, IPV4, 6, 4, 2, mac, another, everybody, own)
    kinds = ((IPV6, bytes(40)), (VLAN, tagged), (IPV4, packet), (ARP, answer))
    return [everybody + mac + struct.pack("!H", kind) + body for kind, body in kinds]
