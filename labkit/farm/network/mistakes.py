"""The mistakes that are easily made in this network, as the commands that a person would type. Pure.

They are made, seen and mended by :mod:`labkit.farm.network.rehearsal`.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from labkit.farm.network.practice import Model
from labkit.records import Record


class Mistake(Record):
    """A way to get the network wrong: the commands that make it and those that mend it, and the check
    that is to catch it. ``pinged`` is an address that is taken for the first container's."""

    name: str
    story: str
    made: tuple[str, ...]
    mended: tuple[str, ...]
    check: str
    pinged: str = ""


def known(model: Model) -> tuple[Mistake, ...]:
    """The mistakes, with the commands for this model. Pure."""
    return (*_wrong_ports(model), *_wrong_addresses(model), *_wrong_ends(model))


def _wrong_ports(model: Model) -> tuple[Mistake, ...]:
    small = model.lab
    first, bridge = small.farm[0], small.bridge
    side = f"ip -n {small.netns}"
    return (
        Mistake(
            name="eth0-in-bridge",
            story="the host's eth0 put into the bridge, instead of the container's link",
            made=(
                f"{side} link set {first.link} nomaster",
                f"{side} link set eth0 master {bridge}",
            ),
            mended=(
                f"{side} link set eth0 nomaster",
                f"{side} link set {first.link} master {bridge}",
            ),
            check="network.ports",
        ),
        Mistake(
            name="not-in-bridge",
            story="the link made, and not put into the bridge",
            made=(f"{side} link set {first.link} nomaster",),
            mended=(f"{side} link set {first.link} master {bridge}",),
            check="network.ports",
        ),
        Mistake(
            name="bridge-down",
            story="the bridge made, and not brought up",
            made=(f"{side} link set {bridge} down",),
            mended=(f"{side} link set {bridge} up",),
            check="network.bridge",
        ),
        Mistake(
            name="bridge-no-address",
            story="no address on the bridge",
            made=(f"{side} address del {small.gateway} dev {bridge}",),
            mended=(f"{side} address add {small.gateway} dev {bridge}",),
            check="network.one-network",
        ),
    )


def _wrong_addresses(model: Model) -> tuple[Mistake, ...]:
    """Whatever is wrong with the address of a container's eth0, its only one is taken away for it,
    and with that its routes go."""
    small = model.lab
    first, second = small.farm
    length = small.subnet.prefixlen
    own, other = f"{first.address}/{length}", f"{second.address}/{length}"
    elsewhere = f"{IPv4Address(int(first.address) ^ (1 << (32 - length)))}/{length}"

    def readdressed(name: str, story: str, check: str, given: str, at: int = 0) -> Mistake:
        netns = small.farm[at].netns
        right = (own, other)[at]
        side = f"ip -n {netns}"
        add = (f"{side} address add {given} dev eth0",) if given else ()
        remove = (f"{side} address del {given} dev eth0",) if given else ()
        return Mistake(
            name=name,
            story=story,
            made=(f"{side} address del {right} dev eth0", *add),
            mended=(
                *remove,
                f"{side} address add {right} dev eth0",
                f"{side} route add default via {small.gateway.ip}",
            ),
            check=check,
        )

    return (
        readdressed("no-address", "no address on eth0", "network.targets", ""),
        readdressed(
            "same-as-bridge", "one and the same address on the bridge and on eth0",
            "network.addresses", str(small.gateway),
        ),
        readdressed(
            "same-twice", "the address of another container on eth0", "network.addresses", own, 1
        ),
        readdressed(
            "wrong-prefix", "an address without its network: a prefix of 32 bits",
            "network.one-network", f"{first.address}/32",
        ),
        readdressed(
            "other-network", "an address in another network", "network.one-network", elsewhere
        ),
    )  # fmt: skip


def _wrong_ends(model: Model) -> tuple[Mistake, ...]:
    small = model.lab
    first = small.farm[0]
    outer, inner = f"ip -n {small.netns}", f"ip -n {first.netns}"
    routed = f"{inner} route add default via {small.gateway.ip}"
    return (
        Mistake(
            name="peer-not-moved",
            story="the link's other end left on the host",
            made=(f"{inner} link set eth0 netns {small.netns} name peer1",),
            mended=(
                f"{outer} link set peer1 netns {first.netns} name eth0",
                f"{inner} address add {first.address}/{small.subnet.prefixlen} dev eth0",
                f"{inner} link set eth0 up",
                routed,
            ),
            check="network.peers",
        ),
        Mistake(
            name="eth0-down",
            story="eth0 moved into the container, and not brought up there",
            made=(f"{inner} link set eth0 down",),
            mended=(f"{inner} link set eth0 up", routed),
            check="network.peers",
        ),
        Mistake(
            name="link-down",
            story="the link's end on the host not brought up",
            made=(f"{outer} link set {first.link} down",),
            mended=(f"{outer} link set {first.link} up",),
            check="network.peers",
        ),
        Mistake(
            name="no-route",
            story="no default route in the container",
            made=(f"{inner} route del default",),
            mended=(routed,),
            check="network.routes",
        ),
        Mistake(
            name="loopback",
            story="127.0.0.1 pinged as if it were the container, whose link is down",
            made=(f"{outer} link set {first.link} down",),
            mended=(f"{outer} link set {first.link} up",),
            check=f"network.ping.{first.name}.out",
            pinged="127.0.0.1",
        ),
    )
