"""The lab's images: OCI layouts made by umoci, with a layer for each site on two common ones.

``build`` makes the images, ``inspect`` reads one by skopeo, ``steps`` shows what each of umoci's commands does, and
``unpacked`` and ``unpack_all`` give the folders that containers' root file systems are mounted from.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.farm.images.layout import build, inspect, unpack_all, unpacked
    from labkit.farm.images.umoci_steps import steps

__all__ = ["build", "inspect", "steps", "unpack_all", "unpacked"]


def __getattr__(name: str) -> Any:
    """Imports an action when it is first used: importing one module of this room stays cheap."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from labkit.farm.images import layout, umoci_steps

    return getattr(umoci_steps if name == "steps" else layout, name)


def __dir__() -> list[str]:
    return __all__
