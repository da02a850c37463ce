"""A package of a root file system, for tests that need one of a certain kind."""

from __future__ import annotations

from labkit.farm.rootfs.packages import Package


def package(name: str, *depends: str, **given: object) -> Package:
    """An optional package; ``given`` are other values."""
    values = {
        "name": name, "version": "1", "architecture": "all", "installed": 1, "priority": "optional",
        "section": "admin", "essential": False, "depends": tuple((other,) for other in depends),
    }  # fmt: skip
    return Package.model_validate({**values, **given})
