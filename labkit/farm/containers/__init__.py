"""Containers: bundles for runC made from the lab's images, started and ended, and tried out.

Each action asks one question of the assignment on real containers: ``configuration`` compares a replica's config.json
with its image's, ``start_modes``, ``instances`` and ``listing`` start containers in several ways, ``without_path``
starts one whose configuration has no PATH, ``control_groups`` reads a container's limits from the kernel, and
``confined`` tries what no container may do.

Other rooms use the modules: ``container`` and ``runc`` start, end and list containers, ``bundle`` writes what runC reads,
``overlay`` and ``written`` make what a container sees and where it writes, ``lab_namespaces`` its namespaces;
``lifecycle`` and ``confinement`` try containers out.
"""

from importlib import import_module
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
    "bundle", "configuration", "confined", "confinement", "container", "control_groups", "instances", "lab_namespaces",  # noqa: F822 - its modules
    "lifecycle", "listing", "overlay", "runc", "start_modes", "without_path", "written",  # noqa: F822 - its modules
]  # fmt: skip
#: The module of each action.
ACTIONS = {
    "configuration": "config_changes", "confined": "confinement", "control_groups": "lifecycle",
    "instances": "lifecycle", "listing": "lifecycle", "start_modes": "lifecycle", "without_path": "lifecycle",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports an action when it is first used: reading the state of containers needs no image."""
    if name not in ACTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{ACTIONS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
