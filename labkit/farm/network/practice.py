"""A small network to make mistakes in: a farm of two containers' namespaces, without containers.

It is made by the code that makes the real one, of a Lab of its own, in a network namespace of its own, and
so neither the machine nor the farm sees anything of it. Beyond it lies one more namespace, at the
far end of an interface ``eth0``: the machine's way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

from labkit.core import undo
from labkit.core.journal import Entry, Journal
from labkit.farm.containers import lab_namespaces
from labkit.farm.network import actions as network
from labkit.farm.network import echo, neighbours
from labkit.farm.network.echo import Echo
from labkit.farm.network.netlink import within
from labkit.farm.network.topology import Topology
from labkit.kernel import netns as namespaces
from labkit.kernel import requests, seen
from labkit.kernel.netlink import Netlink
from labkit.model.lab import Lab
from labkit.records import Record

#: The host's address on its eth0, and the one at the far end of it (RFC 5737, TEST-NET-1).
HERE, THERE = IPv4Interface("192.0.2.2/24"), IPv4Interface("192.0.2.1/24")
#: The smallest subnet that has room for two replicas is a /27.
SMALLEST = 27
#: How long each ping waits for an answer, and a namespace until it asks for a neighbour again.
WAIT, AGAIN_MS = 0.15, 10


class Model(Record):
    """The small farm, as a Lab, and the namespace beyond it."""

    lab: Lab
    far: str

    @property
    def namespaces(self) -> tuple[str, ...]:
        """All of its namespaces: the host's side, the replicas', and the one beyond."""
        return (self.lab.host.netns, *(replica.netns for replica in self.lab.farm), self.far)


class Look(Record):
    """The network as it is observed, and pings: those of the farm, and ``beyond``, from the first
    replica to the host's eth0 and from the host to the far end of it."""

    topology: Topology
    echoes: tuple[Echo, ...]
    beyond: tuple[Echo, ...]


def describe(lab: Lab) -> Model:
    """The model of a lab: its names are no site's, no replica's and no namespace's of the lab. Pure."""
    site = "model"
    taken = {item.name for item in lab.sites}
    while site in taken or lab.host.netns.startswith(f"{lab.name}-{site}"):
        site += "x"
    subnet = lab.subnet
    if subnet.prefixlen > SMALLEST:
        subnet = subnet.supernet(new_prefix=SMALLEST)
    small = Lab.of(
        {
            **lab.model_dump(),
            "sites": [{"name": site}],
            "replicas": 2,
            "network": {"subnet": str(subnet)},
            "host": {"netns": f"{lab.name}-{site}"},
        },
        "the model of the network",
    )
    return Model(lab=small.allotted(lab.allotment), far=f"{lab.name}-{site}-far")


@contextmanager
def standing(lab: Lab) -> Iterator[Model]:
    """The model stands while the block runs; nothing of it is left. The caller holds the ``farm`` lock.

    It has the lab's own journal, in which a model is found that a killed labkit left behind.
    """
    model = describe(lab)
    unmake(model)
    try:
        lab_namespaces.create_namespaces(model.lab, model.namespaces)
        network.wire(model.lab)
        _uplink(model)
        yield model
    finally:
        unmake(model)


def look(model: Model) -> Look:
    """What is there now, as the farm's own code sees it, and pings of one request each."""
    small = model.lab
    for name in model.namespaces:
        within(name, _forget)
    seen = network.observe(small)
    first, outside = small.farm[0], (str(HERE.ip), str(THERE.ip))
    here, far = ("host", small.netns), ("the outside", model.far)
    return Look(
        topology=seen,
        echoes=echo.both_ways(small, count=1, wait=WAIT),
        beyond=(
            echo.ask((first.name, first.netns), here, outside[0], count=1, wait=WAIT),
            echo.ask(here, far, outside[1], count=1, wait=WAIT),
        ),
    )


def unmake(model: Model) -> None:
    """Nothing of the model is left."""
    journal = Journal.of(model.lab)
    for entry in reversed(journal.standing()):
        if _belongs(model, entry):
            undo.unmake(entry, model.lab)
            journal.forget(entry.kind, **entry.what)


def _belongs(model: Model, entry: Entry) -> bool:
    if entry.kind == "link":
        return entry.what["netns"] == model.lab.host.netns
    return entry.kind == "netns" and entry.what["name"] in model.namespaces


def _uplink(model: Model) -> None:
    """The host's side has an eth0, and its other end is in the namespace beyond."""
    name = model.lab.host.netns
    Journal.of(model.lab).intend("link", name="eth0", netns=name)
    with namespaces.opened(model.far) as outer:
        within(name, Netlink.ask, requests.pair("eth0", "far0", namespace=outer))
    within(name, _address, "eth0", HERE)
    within(model.far, _address, "far0", THERE)


def _address(netlink: Netlink, name: str, address: IPv4Interface) -> None:
    index = seen.links(netlink)[name].index
    netlink.ask(requests.address(index, address))
    netlink.ask(requests.link_up(index))


def _forget(netlink: Netlink) -> None:
    """The namespace knows no neighbour, and is quick to give up on one that does not answer."""
    neighbours.forget(netlink)
    for file in Path("/proc/sys/net/ipv4/neigh").glob("*/retrans_time_ms"):
        if file.parent.name != "default":  # where there is one, it is the machine's
            file.write_text(str(AGAIN_MS), encoding="utf-8")
