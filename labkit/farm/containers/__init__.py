"""Containers: bundles for runC made from the lab's images, started and ended, and tried out.

Each action asks one question of the assignment on real containers: ``configuration`` compares a replica's config.json
with its image's, ``start_modes``, ``instances`` and ``listing`` start containers in several ways, ``without_path``
starts one whose configuration has no PATH, ``control_groups`` reads a container's limits from the kernel, and
``confined`` tries what no container may do.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.farm.containers.config_changes import configuration
    from labkit.farm.containers.confinement import confined
    from labkit.farm.containers.lifecycle import (
        control_groups,
        instances,
        listing,
        start_modes,
        without_path,
    )

__all__ = [
    "configuration", "confined", "control_groups", "instances", "listing", "start_modes", "without_path",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports an action when it is first used: reading the state of containers needs no image."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from labkit.farm.containers import config_changes, confinement, lifecycle

    modules = {"configuration": config_changes, "confined": confinement}
    return getattr(modules.get(name, lifecycle), name)


def __dir__() -> list[str]:
    return __all__
