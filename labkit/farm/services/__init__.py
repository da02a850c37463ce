"""The servers in front of a farm (name server, balancer) and its clients (HTTP, ssh, browser), one module each.

:mod:`~labkit.farm.services.dns` is the name server and :mod:`~labkit.farm.services.balancer` the balancer.
:mod:`~labkit.farm.services.browser` opens pages in Chromium, :mod:`~labkit.farm.services.served` compares the
pages of the replicas, :mod:`~labkit.farm.services.ssh` logs in to them, and
:mod:`~labkit.farm.services.fetch` sends one HTTP request. For other rooms, ``balancer_config`` writes the
balancer's configuration, and ``balancer_server`` and ``dns_server`` start, reload and end the two servers.

Example: ``from labkit.farm.services import balancer, dns``
"""

from labkit.farm.services import (
    balancer,
    balancer_config,
    balancer_server,
    browser,
    dns,
    dns_server,
    fetch,
    served,
    ssh,
)

__all__ = [
    "balancer", "balancer_config", "balancer_server", "browser", "dns", "dns_server", "fetch", "served", "ssh",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
