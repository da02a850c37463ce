"""Brings the farm to what its Lab describes, and keeps it so: observe, plan, apply.

:mod:`~labkit.farm.reconcile.up` brings all replicas up, :mod:`~labkit.farm.reconcile.upkeep` plans, applies and
watches the whole farm, :mod:`~labkit.farm.reconcile.answers` asks replicas whether they answer,
:mod:`~labkit.farm.reconcile.preflight` refuses what others have, and
:mod:`~labkit.farm.reconcile.kept` reads all files that the lab keeps on disk.

Example: ``from labkit.farm.reconcile import up``, then ``up.replicas(lab)``
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.farm.reconcile import answers, kept, preflight, up, upkeep

__all__ = ["answers", "kept", "preflight", "up", "upkeep"]


def __getattr__(name: str) -> ModuleType:
    """Imports a module when it is asked for: most commands need few of them."""
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
