"""The lab on Kubernetes: ``up``, ``plan``, ``check`` and ``down`` through the cluster's API server.

``manifests`` writes the lab's objects for Kubernetes' own command ``kubectl apply -k``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.cluster.kubernetes.deploy import check, down, plan, up

__all__ = ["check", "down", "manifests", "plan", "up"]  # noqa: F822 - its module


def __getattr__(name: str) -> Any:
    """Imports the actions, and Kubernetes' client, when one is first used: writing the objects needs neither."""
    if name not in {"check", "down", "plan", "up"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.deploy"), name)


def __dir__() -> list[str]:
    return __all__
