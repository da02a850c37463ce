"""The report: stages and their records, figures, the batch, the review site, the wiki's page; and the lab's status."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.report import figures, stages, status
    from labkit.report.stages.stage import Stage

__all__ = ["Stage", "figures", "stages", "status"]


def __getattr__(name: str) -> object:
    """What the notebooks import from here, when it is asked for: commands that draw nothing start without it."""
    if name == "Stage":
        return import_module("labkit.report.stages.stage").Stage
    if name in __all__:
        return import_module(f"labkit.report.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
