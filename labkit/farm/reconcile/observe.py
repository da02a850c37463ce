"""The lab's resources as they are now, read from the machine. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from labkit.checks import Check
from labkit.core import network_removal
from labkit.core.files import text_of
from labkit.core.journal import Entry, Journal, boot_id
from labkit.core.undo import mount_points
from labkit.farm.containers import bundle, container, lab_namespaces, overlay, runc, written
from labkit.farm.containers.runc import State
from labkit.farm.images import layout
from labkit.farm.images.layout import Images
from labkit.farm.network import firewall as guard
from labkit.farm.network import links
from labkit.farm.network import topology as topologies
from labkit.farm.network.topology import Topology
from labkit.farm.reconcile import answers, plan
from labkit.farm.reconcile.plan import Plan
from labkit.farm.rootfs import apt, variants
from labkit.farm.services import balancer_server, dns_server
from labkit.kernel import netns as namespaces
from labkit.kernel import proc
from labkit.kernel.links import UNREACHABLE, Netlink
from labkit.kernel.netns import NamespaceError, within
from labkit.model.lab import Lab, Replica
from labkit.model.resources import KINDS, Known, Resource, fingerprint, of_kinds
from labkit.records import Record

#: How often an observation is begun anew when the lab changes meanwhile.
AGAIN = 2


class Observation(Record):
    """The observed resources; what of the wanted ones the machine tells (``known``); each container as runC
    knows it; what is wrong with the answers of the replicas that could be asked (``problems``, None: nothing); and
    the failing checks of what somebody else did, which no step puts right (``strange``)."""

    resources: tuple[Resource, ...]
    known: Known
    states: dict[str, State]
    problems: dict[str, str | None]
    strange: tuple[Check, ...] = ()

    def plan(self, lab: Lab, kinds: Sequence[str] = KINDS) -> Plan:
        """The steps from here to the Lab, of some kinds of resources."""
        wanted = plan.wanted(lab, self.known)
        return plan.difference(of_kinds(wanted, kinds), of_kinds(self.resources, kinds))


def observe(lab: Lab, kinds: Sequence[str] = KINDS) -> Observation:
    """The lab's resources as they are now, the two servers only if their kinds are asked for.

    It holds no lock: what an `apply` or a `down` beside it took away meanwhile is observed again.
    """
    for _ in range(AGAIN):
        with suppress(FileNotFoundError, NamespaceError):
            return _observe(lab, kinds)
    return _observe(lab, kinds)


def _observe(lab: Lab, kinds: Sequence[str]) -> Observation:
    states = runc.states(lab)
    entries = tuple(e for e in Journal.of(lab).standing() if e.boot == boot_id())
    variants.of_lab(lab)  # raises for a word that names none, before anything is made of it
    suite = apt.suite(lab)
    images = layout.observe(lab, suite)
    unnamed = frozenset(item.name for item in lab.farm if is_unnamed(item, states))
    topology = links.observe(lab)
    mounted = mount_points()
    firewall = guard.facts(guard.look(lab))
    asked = [] if guard.differs(lab, firewall) else _reachable(lab, kinds, topology, states)
    heads = answers.persistent(lab, asked, grace=answers.GRACE)
    told = {
        name: f"nothing within {answers.GRACE:g} s: {head.fault}" if head.fault else "yes"
        for name, head in heads.items()
    }
    made = frozenset(
        entry.what.get("name", "")
        for entry in entries
        if entry.kind == "link" and entry.what.get("netns") == lab.host.netns
    )
    resources = (
        *_namespaces(lab, entries, states, unnamed),
        *_routes(lab, entries),
        *_firewalls(lab, entries, firewall),
        *plan.observed_bridge(topology, made),
        *plan.observed_images(lab, images),
        *_keys(lab),
        *plan.observed_links(topology, made, unnamed=unnamed),
        *(
            found
            for item in lab.farm
            for found in _contained(lab, item, states, mounted, answers=told.get(item.name, ""))
        ),
        *_servers(lab, kinds),
        *_surplus(lab, entries, states, topology.ports, mounted),
    )
    return Observation(
        resources=resources,
        known=_known(lab, images, suite),
        states=states,
        problems={name: answers.problem_of(name, head) for name, head in heads.items()},
        strange=topologies.strange(lab, topology),
    )


def _known(lab: Lab, images: Images | None, suite: str) -> Known:
    """The wanted facts of each replica that follow from the images and keys that are there."""
    files = _key_files(lab)
    ids = lab_namespaces.preview(lab, [replica.name for replica in lab.farm])
    made_of: dict[str, str] = {}
    texts: dict[str, str] = {}
    whole = [] if overlay.has_files(lab, files) else ["damaged"]
    for site in lab.sites:
        image = images.sites.get(site.name) if images and files else None
        unpacked = image.unpacked if image else None
        if unpacked is None:
            continue
        own = overlay.image_configuration(unpacked)
        below = overlay.lower(lab, unpacked, files)
        for replica in lab.replicas_of(site.name):
            first = ids[replica.name]
            made_of[replica.name] = fingerprint(overlay.made_of(below, first), *whole)
            spec = lab_namespaces.with_ids(lab, container.replica_spec(lab, replica), first)
            texts[replica.name] = overlay.configuration(own, spec)
    return Known(
        suite=suite,
        tools=images.tools if images else "",
        roots=made_of,
        configurations={name: bundle.made_of(text) for name, text in texts.items()},
        files={name: fingerprint(text) for name, text in texts.items()},
    )


def is_unnamed(replica: Replica, states: dict[str, State]) -> bool:
    """Whether the replica's container runs in a namespace that has lost its name, and so can have it back."""
    state = states.get(replica.name)
    return bool(state and state.pid and not namespaces.stands(replica.netns))


def _key_files(lab: Lab) -> dict[str, str]:
    """The files of the containers' layers; none when a key is not sound."""
    if set(container.key_states(lab).values()) != {"sound"}:
        return {}
    folder = lab.state_dir / "ssh"
    user, own = ((text_of(folder / f"{name}.pub") or "").strip() for name in ("student", "host"))
    return dict(container.replica_files(lab, container.Keys(folder=folder, user=user, host=own)))


def _keys(lab: Lab) -> Iterator[Resource]:
    """The lab's keys, when there is one of them."""
    state = container.key_states(lab)
    if set(state.values()) != {"missing"}:
        yield Resource(kind="keys", name=lab.name, facts=dict(state))


def _namespaces(
    lab: Lab, entries: Sequence[Entry], states: dict[str, State], unnamed: frozenset[str]
) -> Iterator[Resource]:
    owned = {entry.what.get("name", "") for entry in entries if entry.kind == "netns"}
    asked = {item.netns: item for item in lab.farm}
    for name in dict.fromkeys((*filter(None, [lab.netns]), *asked, *sorted(owned))):
        if namespaces.stands(name):
            said = name if name in owned else f"{name}, made by somebody else"
            yield Resource(kind="namespace", name=name, facts={"name": said})
        elif name in asked and asked[name].name in unnamed:
            process = states[asked[name].name].pid
            said = f"none, but process {process} is in it"
            yield Resource(kind="namespace", name=name, facts={"name": said})


def _routes(lab: Lab, entries: Sequence[Entry]) -> Iterator[Resource]:
    """The unreachable routes that labkit made, wherever it did, and the wanted one if it is there."""
    made = {(e.what["netns"], e.what["subnet"]) for e in entries if e.kind == "route"}
    made.add((lab.host.netns, str(lab.subnet)))
    for netns in sorted({netns for netns, _ in made}):
        if not netns or namespaces.stands(netns):
            there = within(netns or None, _unreachable)
            for _, subnet in sorted(item for item in made if item[0] == netns):
                if subnet in there:
                    name = subnet + _elsewhere(lab, netns)
                    yield Resource(kind="route", name=name, facts={"type": "unreachable"})


def _firewalls(
    lab: Lab, entries: Sequence[Entry], facts: dict[str, str] | None
) -> Iterator[Resource]:
    """The lab's tables, and those that it still has on another host side."""
    name = network_removal.table_name(lab)
    if facts is not None:
        yield Resource(kind="firewall", name=name, facts=facts)
    for netns in dict.fromkeys(e.what["netns"] for e in entries if e.kind == "table"):
        if netns != lab.host.netns and (not netns or namespaces.stands(netns)):
            yield Resource(kind="firewall", name=name + _elsewhere(lab, netns), facts={})


def _unreachable(netlink: Netlink) -> frozenset[str]:
    routes = netlink.routes()
    return frozenset(str(route.network) for route in routes if route.kind == UNREACHABLE)


def _elsewhere(lab: Lab, netns: str) -> str:
    """The end of a resource's name when it is on another host side than the lab's."""
    if netns == lab.host.netns:
        return ""
    return f" in {netns}" if netns else " on the machine itself"


def _contained(
    lab: Lab,
    replica: Replica,
    states: dict[str, State],
    mounted: frozenset[str],
    *,
    answers: str,
) -> Iterator[Resource]:
    folder, name = runc.folder(lab, replica.name), replica.name
    marker = overlay.recorded(folder / "lower")
    is_mounted = str((folder / "bundle" / "rootfs").resolve()) in mounted
    if is_mounted or marker is not None:
        facts = {
            "mounted": "yes" if is_mounted else "no",
            "made of": fingerprint(marker or ""),
            "written at most": written.mounted_limit(lab, name, mounted),
        }
        yield Resource(kind="root", name=name, facts=facts)
    state = states.get(name)
    inside = replica.netns if _is_inside(state, replica) else "another one"
    if state and inside != replica.netns and not proc.lives(state.pid):  # it ended meanwhile
        state = state.model_copy(update={"pid": 0, "status": "stopped"})
    config = text_of(folder / "bundle" / "config.json")
    yield from plan.observed_container(name, state, config, namespace=inside, answers=answers)


def _reachable(
    lab: Lab, kinds: Sequence[str], topology: Topology, states: dict[str, State]
) -> list[Replica]:
    """The replicas that run and that the network reaches: the fault of a missing answer is in the replica."""
    if "container" not in kinds or not topology.up or str(lab.gateway) not in topology.addresses:
        return []
    linked = {
        port.replica: (port.mac, port.addresses)
        for port in topology.links
        if port.up and port.bridge == lab.bridge and port.peer == "eth0"
    }
    hosts = {address.partition("/")[0] for address in topology.addresses}
    return [
        item
        for item in lab.farm
        if item.name in states
        and states[item.name].status == "running"
        and item.name in linked
        and linked[item.name][0] == item.mac
        and f"{item.address}/{lab.subnet.prefixlen}" in linked[item.name][1]
        and str(item.address) not in hosts
        and _is_inside(states[item.name], item)
    ]


def _is_inside(state: State | None, replica: Replica) -> bool:
    """Whether the container's first process is in the replica's namespace, or in one that can have its name."""
    if state is None or not state.pid:
        return False
    if not namespaces.stands(replica.netns):
        return True
    try:
        return proc.namespace(state.pid, "net") == lab_namespaces.namespace_inode(replica.netns)
    except FileNotFoundError:  # removed since
        return False


def _servers(lab: Lab, kinds: Sequence[str]) -> Iterator[Resource]:
    for kind, name, server in (
        ("names", lab.domain, dns_server),
        ("balancer", lab.host_name("balancer"), balancer_server),
    ):
        facts = server.observed(lab) if kind in kinds else None
        if facts is not None:
            yield Resource(kind=kind, name=name, facts=facts)


def _surplus(
    lab: Lab,
    entries: Sequence[Entry],
    states: dict[str, State],
    ports: Sequence[str],
    mounted: frozenset[str],
) -> Iterator[Resource]:
    """The resources of replicas that the lab does not have (without their namespaces), and those on another host
    side than the lab's."""
    for name in container.surplus(lab, tuple(entries)):
        there = {
            "container": name in states,
            "root": str((runc.bundle(lab, name) / "rootfs").resolve()) in mounted,
            "link": lab.link_name(name) in ports,
        }
        yield from (
            Resource(kind=kind, name=name, facts={}) for kind, found in there.items() if found
        )
    for entry in entries:
        netns = entry.what.get("netns", "")
        if entry.kind == "link" and netns != lab.host.netns and _has(netns, entry.what["name"]):
            yield Resource(kind="link", name=entry.what["name"] + _elsewhere(lab, netns), facts={})


def _has(netns: str, link: str) -> bool:
    return (not netns or namespaces.stands(netns)) and link in within(netns or None, Netlink.links)
