"""The bridge and the farm's links made and mended, in as few steps as there are kinds of things.

What is there is looked at, what is missing or different is asked of the kernel in one go: first on the
host's side, then in each replica's namespace. Whatever is made is in the journal before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Interface

from labkit.core.journal import Journal, other_owner
from labkit.core.link_removal import group
from labkit.errors import StateError
from labkit.farm.network import inner, neighbours, renaming
from labkit.farm.network.inner import Inner
from labkit.farm.network.netlink import each
from labkit.kernel import netns, requests, seen
from labkit.kernel.messages import Request
from labkit.kernel.netlink import Netlink
from labkit.kernel.seen import Link
from labkit.model.lab import Lab, Replica, mac_of


def wire(netlink: Netlink, lab: Lab) -> bool:
    """Bridge and links are as the Lab says; whether anything had to change."""
    links = seen.links(netlink)
    refuse_foreign(lab, links)
    if renaming.restore(netlink, lab, links):
        links = seen.links(netlink)
    bridge, changed = _bridge(netlink, lab, links.get(lab.bridge))
    ends = inner.look(replica for replica in lab.farm if replica.link in links)
    lost = {r.link for r in lab.farm if r.link in links and not _has_peer(ends.get(r.netns))}
    _drop(netlink, [links.pop(name) for name in lost])
    new = [replica for replica in lab.farm if replica.link not in links]
    _make(netlink, lab, new, bridge)
    mended = _mend(netlink, lab, links, bridge)
    inside = _inside(lab, ends)
    touched = [r for r in lab.farm if r in new or r.name in inside or r.name in mended]
    if touched:
        neighbours.forget(netlink, {replica.address for replica in touched}, index=bridge)
    return changed or bool(touched)


def refuse_foreign(lab: Lab, links: dict[str, Link]) -> None:
    """Raises :class:`StateError` for an interface of the lab's names that is not the lab's."""
    journal = Journal.of(lab)
    for name in (lab.bridge, *(replica.link for replica in lab.farm)):
        if name in links and not journal.owns("link", name=name, netns=lab.host.netns):
            other = other_owner(lab, "link", name=name, netns=lab.host.netns)
            raise StateError(
                f"interface {name}",
                "exists already and labkit did not make it for this lab"
                + (f": it is lab {other}'s" if other else ""),
                "choose another lab name (lab.toml: name), or remove the interface yourself",
                f"ip link show {name}",
                code="state.interface-taken",
            )


def _bridge(netlink: Netlink, lab: Lab, found: Link | None) -> tuple[int, bool]:
    """The bridge's index, and whether it had to be made or put right."""
    changed = found is None
    if found is None:
        Journal.of(lab).intend("link", name=lab.bridge, netns=lab.host.netns)
        # its own: that of a port would change with the port, and the replicas know the old one for a while
        netlink.ask(requests.bridge(lab.bridge, group=group(lab), mac=mac_of(lab.bridge)))
        found = seen.links(netlink)[lab.bridge]
    there = seen.addresses(netlink).get(found.index, ())
    if lab.gateway not in there:
        netlink.ask(requests.address(found.index, lab.gateway))
        changed = True
    replicas = {replica.address for replica in lab.farm}
    for address in there:
        if address.ip in replicas:  # that one could not be reached: the host would answer for it
            netlink.ask(requests.no_address(found.index, address))
            changed = True
    if not found.up:
        netlink.ask(requests.link_up(found.index))
        changed = True
    return found.index, changed


def _has_peer(end: Inner | None) -> bool:
    """Whether the namespace has an eth0: else the peer went with one that lost its name."""
    return end is not None and end.eth0 is not None


def _drop(netlink: Netlink, links: Sequence[Link]) -> None:
    _all_done(netlink.try_all([requests.no_link(link.index) for link in links]))


def _make(netlink: Netlink, lab: Lab, new: Sequence[Replica], bridge: int) -> None:
    """The pairs exist: the host's ends up in the bridge, their peers in the namespaces as eth0."""
    if not new:
        return
    Journal.of(lab).intend_all(
        ("link", {"name": replica.link, "netns": lab.host.netns}) for replica in new
    )
    with ExitStack() as opened:
        made = [
            requests.pair(
                replica.link,
                "eth0",
                mac=replica.mac,
                namespace=opened.enter_context(netns.opened(replica.netns)),
                master=bridge,
                group=group(lab),
            )
            for replica in new
        ]
        _all_done(netlink.try_all(made))


def _mend(netlink: Netlink, lab: Lab, links: dict[str, Link], bridge: int) -> set[str]:
    """Links that were there are up, in the bridge and without an address; the replicas of those that were not."""
    there = seen.addresses(netlink)
    wanted: dict[str, list[Request]] = {}
    for replica in lab.farm:
        if link := links.get(replica.link):
            wrong = [requests.no_address(link.index, item) for item in there.get(link.index, ())]
            if not (link.up and link.master == bridge):
                wrong.append(requests.link_up(link.index, master=bridge))
            if wrong:
                wanted[replica.name] = wrong
    _all_done(netlink.try_all([request for asked in wanted.values() for request in asked]))
    return set(wanted)


def _inside(lab: Lab, known: dict[str, Inner]) -> set[str]:
    """Each eth0 is up with its address and the route to everywhere else; the replicas where it was not."""
    todo = {
        replica.netns: replica
        for replica in lab.farm
        if not _has_peer(known.get(replica.netns)) or _missing(lab, replica, known[replica.netns])
    }

    def settle(netlink: Netlink, name: str) -> None:
        wanted = _missing(lab, todo[name], inner.inner(netlink))
        _all_done(netlink.try_all(wanted))

    if todo:
        each(todo, settle)
    return {replica.name for replica in todo.values()}


def _missing(lab: Lab, replica: Replica, end: Inner) -> list[Request]:
    """What is to be asked so that the container's end is as it has to be. Pure."""
    own = IPv4Interface(f"{replica.address}/{lab.subnet.prefixlen}")
    if end.eth0 is None:
        return []
    wanted = []
    if own not in end.addresses:
        wanted.append(requests.address(end.eth0.index, own))
    if not end.eth0.up or end.eth0.mac != replica.mac:
        wanted.append(requests.link_up(end.eth0.index, mac=replica.mac))
    if end.gateway is None:
        wanted.append(requests.default_route(lab.gateway.ip))
    return wanted


def _all_done(errors: Iterable[OSError | None]) -> None:
    """Raises the first error of several requests, after all were tried."""
    for error in errors:
        if error is not None:
            raise error
