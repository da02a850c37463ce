"""Common mistakes made on purpose in a small model of the network, seen in a ping that fails, caught by a check, and mended.

The model is a farm of two replicas' network namespaces, without containers, made by the code that makes the real
network, from a Lab and a host namespace of its own: neither the machine nor the farm sees anything of it. One more
namespace, at the far end of an interface ``eth0``, stands for what is beyond the machine. The model is observed by the
code that observes the farm, and no check here knows what was done to it.
"""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from labkit.checks import Check, failed
from labkit.core import run, undo
from labkit.core.journal import Entry, Journal, lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.farm.containers import lab_namespaces
from labkit.farm.network import links, pings, topology
from labkit.farm.network.pings import Echo
from labkit.farm.network.topology import Topology
from labkit.kernel.links import Netlink, address
from labkit.kernel.netns import within
from labkit.model.lab import Lab
from labkit.records import Record

#: The host's address on its eth0, and the one at the far end of it (RFC 5737, TEST-NET-1).
HERE, THERE = IPv4Interface("192.0.2.2/24"), IPv4Interface("192.0.2.1/24")
#: The smallest subnet that has room for two replicas is a /27.
SMALLEST = 27
#: How long each ping waits for an answer, in seconds, and a namespace until it asks for a neighbour again.
WAIT, AGAIN_MS = 0.15, 10
#: How long a mended network may take until nothing fails in it, in seconds.
PATIENCE = 2.0


#: The common mistakes: name, the check that has to catch it, story, the commands that make it and those that mend it
#: (with the fields of :func:`known`), and the address that is pinged instead of the first container's.
MISTAKES = (
    ("eth0-in-bridge", "network.ports", "the host's eth0 put into the bridge, instead of the container's link",
     "{host} link set {link} nomaster; {host} link set eth0 master {bridge}",
     "{host} link set eth0 nomaster; {host} link set {link} master {bridge}"),
    ("not-in-bridge", "network.ports", "the link made, and not put into the bridge",
     "{host} link set {link} nomaster",
     "{host} link set {link} master {bridge}"),
    ("bridge-down", "network.bridge", "the bridge made, and not brought up",
     "{host} link set {bridge} down",
     "{host} link set {bridge} up"),
    ("bridge-no-address", "network.one-network", "no address on the bridge",
     "{host} address del {gateway} dev {bridge}",
     "{host} address add {gateway} dev {bridge}"),
    ("no-address", "network.targets", "no address on eth0",
     "{take}",
     "{give}; {routed}"),
    ("same-as-bridge", "network.addresses", "one and the same address on the bridge and on eth0",
     "{take}; {inner} address add {gateway} dev eth0",
     "{inner} address del {gateway} dev eth0; {give}; {routed}"),
    ("same-twice", "network.addresses", "the address of another container on eth0",
     "{take_other}; {second} address add {own} dev eth0",
     "{second} address del {own} dev eth0; {give_other}; {second} route add default via {gateway.ip}"),
    ("wrong-prefix", "network.one-network", "an address without its network: a prefix of 32 bits",
     "{take}; {inner} address add {first.address}/32 dev eth0",
     "{inner} address del {first.address}/32 dev eth0; {give}; {routed}"),
    ("other-network", "network.one-network", "an address in another network",
     "{take}; {inner} address add {elsewhere} dev eth0",
     "{inner} address del {elsewhere} dev eth0; {give}; {routed}"),
    ("peer-not-moved", "network.peers", "the link's other end left on the host",
     "{inner} link set eth0 netns {netns} name peer1",
     "{host} link set peer1 netns {first.netns} name eth0; {give}; {inner} link set eth0 up; {routed}"),
    ("eth0-down", "network.peers", "eth0 moved into the container, and not brought up there",
     "{inner} link set eth0 down",
     "{inner} link set eth0 up; {routed}"),
    ("link-down", "network.peers", "the link's end on the host not brought up",
     "{host} link set {link} down",
     "{host} link set {link} up"),
    ("no-route", "network.routes", "no default route in the container",
     "{inner} route del default",
     "{routed}"),
    ("loopback", "network.ping.{first.name}.out", "127.0.0.1 pinged as if it were the container, whose link is down",
     "{host} link set {link} down",
     "{host} link set {link} up", "127.0.0.1"),
)  # fmt: skip


class Model(Record):
    """The small farm, as a Lab, and the namespace beyond it."""

    lab: Lab
    far: str

    @property
    def namespaces(self) -> tuple[str, ...]:
        """All of its namespaces: the host's side, the replicas', and the one beyond."""
        return (self.lab.host.netns, *(replica.netns for replica in self.lab.farm), self.far)


class Observation(Record):
    """The model's topology, and pings: those of the farm, and ``beyond``, from the first replica to the host's eth0
    and from the host to the far end of it."""

    topology: Topology
    echoes: tuple[Echo, ...]
    beyond: tuple[Echo, ...]


class Mistake(Record):
    """A way to get the network wrong: the commands that make it and those that mend it, and the check that has to
    catch it. ``pinged`` is an address that is taken for the first container's."""

    name: str
    story: str
    made: tuple[str, ...]
    mended: tuple[str, ...]
    check: str
    pinged: str = ""


class Tried(Record):
    """A mistake that was made and mended: the pings that failed, the checks that failed and what they
    say, and whatever failed still after it was mended."""

    mistake: Mistake
    symptoms: tuple[Echo, ...]
    caught: tuple[Check, ...]
    left: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether its check caught it, a ping showed it, and nothing was left of it."""
        named = any(check.name == self.mistake.check for check in self.caught)
        return named and bool(self.symptoms) and not self.left


@action("network.mistakes")
def mistakes(lab: Lab) -> Outcome[tuple[Tried, ...]]:
    """Makes each common mistake in a model of the network, catches and mends it; nothing is left of it.

    The farm is not touched, and need not be up. Returns a :class:`~labkit.core.result.Result` whose value has a
    :class:`Tried` for each mistake; its tables are ``mistakes`` and ``made``.

    >>> [tried.mistake.name for tried in network.mistakes(lab).value if not tried.holds]
    []
    """
    with lock(lab.run_dir, "farm"), standing(lab) as model:
        before = _settled(model)
        found = tuple(_try(model, mistake) for mistake in known(model))
    held = sum(item.holds for item in found)
    return Outcome(
        value=found,
        subject=lab.bridge,
        summary=f"{len(found)} mistakes were made in a network of their own: {held} of them were "
        "caught by name, seen in a ping that failed, and mended.",
        checks=(_sound(before), *(_check(item) for item in found)),
        tables=(_table(found), _commands(found)),
    )


def known(model: Model) -> tuple[Mistake, ...]:
    """The common mistakes, with the commands for this model. Pure."""
    small = model.lab
    (first, second), length = small.farm, small.subnet.prefixlen
    inner, own = f"ip -n {first.netns}", f"{first.address}/{length}"
    routed = f"{inner} route add default via {small.gateway.ip}"
    other = f"ip -n {second.netns} address {{}} {second.address}/{length} dev eth0"
    fields = {
        "host": f"ip -n {small.netns}", "netns": small.netns, "bridge": small.bridge, "gateway": small.gateway,
        "inner": inner, "first": first, "link": first.link, "own": own, "routed": routed,
        "take": f"{inner} address del {own} dev eth0", "give": f"{inner} address add {own} dev eth0",
        "elsewhere": f"{IPv4Address(int(first.address) ^ (1 << (32 - length)))}/{length}",
        "second": f"ip -n {second.netns}", "take_other": other.format("del"), "give_other": other.format("add"),
    }  # fmt: skip
    filled = ([text.format(**fields) for text in row] for row in MISTAKES)
    return tuple(
        Mistake(
            name=name,
            story=story,
            check=check,
            made=tuple(made.split("; ")),
            mended=tuple(mended.split("; ")),
            pinged="".join(pinged),
        )
        for name, check, story, made, mended, *pinged in filled
    )


# -- the model -------------------------------------------------------------------------------------------------


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
    return Model(lab=small, far=f"{lab.name}-{site}-far")


@contextmanager
def standing(lab: Lab) -> Iterator[Model]:
    """The model is there while the block runs; nothing of it is left. The caller holds the ``farm`` lock.

    It uses the lab's own journal, in which a model is found that a killed labkit left behind.
    """
    model = describe(lab)
    _unmake(model)
    try:
        lab_namespaces.create_namespaces(model.lab, model.namespaces)
        links.wire(model.lab)
        Journal.of(model.lab).intend("link", name="eth0", netns=model.lab.host.netns)
        within(model.lab.host.netns, _uplink, "eth0", HERE, peer=model.far)
        within(model.far, _uplink, "far0", THERE)
        yield model
    finally:
        _unmake(model)


def _unmake(model: Model) -> None:
    journal = Journal.of(model.lab)
    for entry in reversed(journal.standing()):
        if _belongs(model, entry):
            undo.unmake(entry, model.lab)
            journal.forget(entry.kind, **entry.what)


def _belongs(model: Model, entry: Entry) -> bool:
    if entry.kind == "link":
        return bool(entry.what["netns"] == model.lab.host.netns)
    return entry.kind == "netns" and entry.what["name"] in model.namespaces


def _uplink(netlink: Netlink, name: str, given: IPv4Interface, *, peer: str = "") -> None:
    """Brings one end of the link to the namespace beyond up with its address; with ``peer``, that namespace, the
    link is made first."""
    ipr = netlink.ipr
    if peer:
        netlink.do(ipr.link("add", ifname=name, kind="veth", peer={"ifname": "far0", "net_ns_fd": peer}))  # fmt: skip
    index = socket.if_nametoindex(name)
    netlink.do(ipr.addr("add", **address(index, given)), ipr.link("set", index=index, state="up"))


def _observed(model: Model) -> Observation:
    """The model as the farm's own code observes it, and pings of one request each."""
    small = model.lab
    for name in model.namespaces:
        within(name, _forget)
    first, (here, there) = small.farm[0], (str(HERE.ip), str(THERE.ip))
    host, far = ("host", small.netns), ("the outside", model.far)
    return Observation(
        topology=links.observe(small),
        echoes=pings.both_ways(small, count=1, wait=WAIT),
        beyond=(
            pings.ask((first.name, first.netns), host, here, count=1, wait=WAIT),
            pings.ask(host, far, there, count=1, wait=WAIT),
        ),
    )


def _forget(netlink: Netlink) -> None:
    """Lets the namespace forget its neighbours, and give up soon on one that does not answer."""
    links.forget_neighbours(netlink)
    for file in Path("/proc/sys/net/ipv4/neigh").glob("*/retrans_time_ms"):
        if file.parent.name != "default":  # where there is one, it is the machine's
            file.write_text(str(AGAIN_MS), encoding="utf-8")


# -- made, caught, mended --------------------------------------------------------------------------------------


def _try(model: Model, mistake: Mistake) -> Tried:
    """Makes the mistake, observes, mends it, and observes again."""
    first, host = model.lab.farm[0], ("host", model.lab.netns)
    for command in mistake.made:
        run.run(shlex.split(command))
    seen = _observed(model)
    if mistake.pinged:
        there = (first.name, first.netns)
        mistaken = pings.ask(host, there, mistake.pinged, count=1, wait=WAIT)
        seen = seen.model_copy(update={"echoes": (mistaken, *seen.echoes[1:])})
    for command in mistake.mended:
        run.run(shlex.split(command))
    after = _settled(model)
    symptoms = tuple(item for item in (*seen.echoes, *seen.beyond) if not item.arrives)
    return Tried(
        mistake=mistake,
        symptoms=symptoms[:1] if mistake.pinged else symptoms,
        caught=tuple(check for check in _wrong(model.lab, seen) if _catches(mistake, check)),
        left=tuple(f"{check.name}: {check.seen}" for check in after),
    )


def _settled(model: Model) -> tuple[Check, ...]:
    """What fails once the network has had a moment to come up; a busy machine may need two."""
    deadline = time.monotonic() + PATIENCE
    while (fails := _wrong(model.lab, _observed(model))) and time.monotonic() < deadline:
        pass  # every observation pings, and so takes its time
    return fails


def _wrong(lab: Lab, seen: Observation) -> tuple[Check, ...]:
    """The farm's own checks that fail: of the topology, of its pings, and of the pings beyond. Pure."""
    beyond = (pings.check(f"network.ping.beyond.{item.source}", item, "") for item in seen.beyond)
    checks = topology.checks(lab, seen.topology), pings.checks(lab, seen.echoes), beyond
    return failed(tuple(check for group in checks for check in group))


def _catches(mistake: Mistake, check: Check) -> bool:
    """Whether a failing check tells the mistake: the pings are its symptoms, but where one is the check."""
    return check.name == mistake.check or not check.name.startswith("network.ping.")


def told(symptoms: Iterable[Echo]) -> str:
    """What the pings said, each thing once, after those who were told it. Pure."""
    by_word: dict[str, list[str]] = {}
    for item in symptoms:
        silent = f"no answer ({item.target} saw {'the' if item.counted else 'no'} request)"
        word = item.said or silent
        if item.fastest is not None:
            word = f"an answer from {item.address}, and {item.target} saw no request"
        by_word.setdefault(word, []).append(item.path)
    return "; ".join(f"{', '.join(paths)}: {word}" for word, paths in by_word.items())


def _sound(before: tuple[Check, ...]) -> Check:
    """Whether the model was right before anything was done to it: what fails later is the mistake's."""
    return Check(
        name="network.mistake.none",
        expected="without a mistake no check and no ping fails",
        seen="; ".join(f"{check.name}: {check.seen}" for check in before) or "none fails",
        holds=not before,
        rows=("R10",),
        again="./lab run 04-network",
    )


def _check(item: Tried) -> Check:
    names = ", ".join(check.name for check in item.caught) or "no check"
    return Check(
        name=f"network.mistake.{item.mistake.name}",
        expected=f"{item.mistake.check} fails, a ping shows it, and after the remedy none fails",
        seen=f"failed: {names}, and {_count(item)}; {_after(item)}",
        holds=item.holds,
        rows=("R10",),
        again="./lab run 04-network",
    )


def _count(item: Tried) -> str:
    count = len(item.symptoms)
    return f"{count or 'no'} ping{'' if count == 1 else 's'}"


def _after(item: Tried) -> str:
    """What the remedy led to, in words."""
    return f"after the remedy {', '.join(item.left) or 'none'}"


def _table(found: tuple[Tried, ...]) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "mistake": item.mistake.story,
            "symptom": told(item.symptoms),
            "caught by": "; ".join(f"{check.name} ({check.seen})" for check in item.caught),
            "remedy": "; ".join(item.mistake.mended),
        }
        for item in found
    ]
    return Table.of("mistakes", "Mistakes, made and mended in a network of their own", rows)


def _commands(found: tuple[Tried, ...]) -> Table:
    rows: list[dict[str, Cell]] = [
        {"mistake": item.mistake.name, "made by": "; ".join(item.mistake.made)} for item in found
    ]
    return Table.of("made", "The commands by which each mistake was made", rows)
