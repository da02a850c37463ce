"""What a test needs of the host's side when it needs no containers: the bridge's address alone."""

from __future__ import annotations

from labkit import Lab
from labkit.farm.containers import lab_namespaces
from tests.netlink import netlink


def give_address(lab: Lab) -> Lab:
    """The lab's namespace stands and has the bridge's address, on its loopback."""
    lab_namespaces.create_namespace(lab, lab.host.netns)
    length = lab.gateway.network.prefixlen
    with netlink(lab.netns) as ipr:
        ipr.addr("add", index=1, address=str(lab.gateway.ip), prefixlen=length)
    return lab
