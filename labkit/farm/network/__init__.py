"""The farm's network: the host's side, a bridge, a link for each replica, and the packet filter between replicas.

In a notebook, :func:`connect` makes and mends it, :func:`ping` tries it both ways, and :func:`mistakes` makes the
common mistakes in a model of it. Other rooms use the modules: ``host`` (namespace, subnet, fence), ``links``,
``topology`` (what is observed, and its rules), ``pings``, ``firewall``, ``isolation``.
"""

from labkit.farm.network import firewall, host, isolation, links, pings, topology
from labkit.farm.network.common_mistakes import mistakes
from labkit.farm.network.links import connect
from labkit.farm.network.pings import ping

__all__ = [
    "connect",
    "firewall",
    "host",
    "isolation",
    "links",
    "mistakes",
    "ping",
    "pings",
    "topology",
]


def __dir__() -> list[str]:
    return __all__
