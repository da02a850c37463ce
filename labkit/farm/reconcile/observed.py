"""What was read from the machine, as resources with the facts that are wanted of their kinds. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from labkit.farm.containers.runc import State
from labkit.farm.images.found import Images
from labkit.farm.network.topology import Port, Topology
from labkit.farm.reconcile.wanted import page_facts
from labkit.model.lab import Lab
from labkit.model.resources import Resource, fingerprint, listed


def bridge(seen: Topology, owned: Collection[str]) -> Iterator[Resource]:
    """The bridge; nothing of one that is not there. ``owned`` are the links that labkit made for the lab."""
    if seen.links or seen.up or seen.addresses:
        facts = {
            "made by": _maker(seen.bridge, owned),
            "state": "up" if seen.up else "down",
            "addresses": listed(seen.addresses),
        }
        yield Resource(kind="bridge", name=seen.bridge, facts=facts)


def _maker(link: str, owned: Collection[str]) -> str:
    return "this lab" if link in owned else "somebody else"


def links(
    seen: Topology, owned: Collection[str], *, unnamed: Collection[str] = ()
) -> Iterator[Resource]:
    """The links that have an end on the host; of replicas whose namespace has lost its name (``unnamed``)
    nobody could look at the other end."""
    for port in seen.links:
        if port.link:
            facts = {
                "made by": _maker(port.link, owned),
                "bridge": port.bridge or "none",
                "state": "up" if port.up else "down",
                "addresses on the host": listed(port.outer),
                **({} if port.replica in unnamed else _inner(port)),
            }
            yield Resource(kind="link", name=port.replica, facts=facts)


def _inner(port: Port) -> dict[str, str]:
    return {
        "end": port.peer or "none",
        "addresses": listed(port.addresses),
        "gateway": port.gateway or "none",
        "MAC address": port.mac or "none",
    }


def images(lab: Lab, found: Images | None) -> Iterator[Resource]:
    """The images of the lab's sites that are in its layout."""
    for site in lab.sites if found else ():
        if found and site.name in found.sites:
            seen = found.sites[site.name]
            facts = {
                "layout": found.layout,
                "rootfs": found.rootfs,
                **(page_facts(seen.page, seen.host) if seen.page else {}),
                "unpacked": "yes" if seen.unpacked else seen.damage or "no",
                **({"programs": found.made_by} if found.made_by else {}),
            }
            yield Resource(kind="image", name=site.name, facts=facts)


def keys(lab: Lab, found: Mapping[str, str]) -> Iterator[Resource]:
    """The lab's keys, when there is one of them."""
    if set(found.values()) != {"missing"}:
        yield Resource(kind="keys", name=lab.name, facts=dict(found))


def root(name: str, marker: str | None, *, mounted: bool, written: str) -> Iterator[Resource]:
    """A container's root file system: ``marker`` is the text that names its parts, None for none; and how much
    it may write."""
    if mounted or marker is not None:
        facts = {"mounted": "yes" if mounted else "no", "made of": fingerprint(marker or "")}
        facts["written at most"] = written
        yield Resource(kind="root", name=name, facts=facts)


def container(
    name: str, state: State | None, config: str | None, *, namespace: str, answers: str = ""
) -> Iterator[Resource]:
    """A container: as runC knows it, the text of its config.json, the name of the network namespace that
    its first process is in, and whether its server answers ('' for one that could not be asked)."""
    if state is None and config is None:
        return
    facts = {"process": state.status if state else "none", "file": fingerprint(config or "")}
    if state is not None and state.pid:
        facts |= {"namespace": namespace, "made of": state.made_of or "none"}
        facts |= {"answers": answers} if answers else {}
    yield Resource(kind="container", name=name, facts=facts)
