"""The lab's images: OCI layouts made by umoci, with a layer for each site on two common ones.

``build`` makes the images, ``inspect`` reads one by skopeo, ``steps`` shows what each of umoci's commands does, and
``unpacked`` and ``unpack_all`` give the folders that containers' root file systems are mounted from.

Other rooms use the modules: ``layout`` (the images, made or as they are on disk), ``builder`` (which image a site
needs), ``store`` (the OCI layout), ``unpacking``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.farm.images.layout import build, inspect, unpack_all, unpacked
    from labkit.farm.images.umoci_steps import steps

__all__ = [
    "build", "builder", "inspect", "layout", "steps", "store", "unpack_all", "unpacked", "unpacking",  # noqa: F822 - its modules
]  # fmt: skip
#: The module of each action.
ACTIONS = {
    "build": "layout", "inspect": "layout", "steps": "umoci_steps", "unpack_all": "layout", "unpacked": "layout",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports an action when it is first used: importing one module of this room stays cheap."""
    if name not in ACTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{ACTIONS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
