"""Links of the lab under names that are not theirs, since somebody has renamed them, get their own again."""

from __future__ import annotations

from collections.abc import Mapping

from labkit.core.journal import Journal
from labkit.core.link_removal import group, renamed_bridge
from labkit.farm.network.inner import look
from labkit.kernel import requests
from labkit.kernel.netlink import Netlink
from labkit.kernel.seen import Link
from labkit.model.lab import Lab


def restore(netlink: Netlink, lab: Lab, links: Mapping[str, Link]) -> bool:
    """Bridge and links of the lab's group that are known by something else than their names have those again;
    whether there were any.

    The bridge is known by the gateway's address, a replica's link by its other end: eth0 of the replica's namespace.
    For that they go down for a moment: before Linux 6.2 none is renamed while it is up.
    """
    mark = group(lab)
    own = {lab.bridge, *(replica.link for replica in lab.farm)}
    strays = {
        link.index: link for name, link in links.items() if link.group == mark and name not in own
    }
    if not strays:
        return False
    found = _ends(lab, links, strays)
    if lab.bridge not in links and (bridge := renamed_bridge(netlink, lab, links)):
        found[bridge.index] = lab.bridge
    journal = Journal.of(lab)
    for index, name in found.items():
        if not journal.owns("link", name=name, netns=lab.host.netns):
            journal.intend("link", name=name, netns=lab.host.netns)
        for request in (requests.link_down(index), requests.renamed(index, name), requests.link_up(index)):  # fmt: skip
            netlink.ask(request)
    return bool(found)


def _ends(lab: Lab, links: Mapping[str, Link], strays: Mapping[int, Link]) -> dict[int, str]:
    """The host's ends, by index, of pairs whose other end is a replica's eth0; and the names that they are to have."""
    found = {}
    missing = {replica.netns: replica for replica in lab.farm if replica.link not in links}
    for name, inner in look(missing.values()).items():
        stray = strays.get(inner.eth0.peer) if inner.eth0 else None
        if inner.eth0 and stray and stray.peer == inner.eth0.index:
            found[stray.index] = missing[name].link
    return found
