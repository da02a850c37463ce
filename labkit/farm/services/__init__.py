"""The servers in front of a farm and the clients that look at it, one module each.

:mod:`~labkit.farm.services.dns` is the name server and :mod:`~labkit.farm.services.balancer` the balancer.
:mod:`~labkit.farm.services.browser` opens pages in Chromium, :mod:`~labkit.farm.services.served` compares the
pages of the replicas, :mod:`~labkit.farm.services.ssh` logs in to them, and
:mod:`~labkit.farm.services.fetch` sends one HTTP request. For other rooms, ``balancer_config`` and ``dns_config`` write
the two servers' configurations, and ``balancer_server`` and ``dns_server`` start, reload and end them.

Example: ``from labkit.farm.services import balancer, dns``
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.farm.services import (
        balancer,
        balancer_config,
        balancer_server,
        browser,
        dns,
        dns_config,
        dns_server,
        fetch,
        served,
        ssh,
    )

__all__ = [
    "balancer", "balancer_config", "balancer_server", "browser", "dns", "dns_config", "dns_server", "fetch", "served", "ssh",
]  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    """Imports a module when it is asked for: most commands need few of them."""
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
