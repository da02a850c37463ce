"""The lab on Docker Swarm: ``up``, ``plan``, ``check`` and ``down`` through a manager's Engine API.

``experiment`` measures what clients notice while the swarm changes, and ``stack`` writes the lab for Docker's own command ``docker stack deploy``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.cluster.swarm.changes import experiment
    from labkit.cluster.swarm.deploy import check, down, plan, registry_of, up

__all__ = ["changes", "check", "down", "experiment", "plan", "registry_of", "stack", "up"]  # noqa: F822 - its modules


def __getattr__(name: str) -> Any:
    """Imports the actions, and Docker's client, when one is first used: writing a stack needs neither."""
    if name not in {"check", "down", "experiment", "plan", "registry_of", "up"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "changes" if name == "experiment" else "deploy"
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return __all__
