"""umoci(1), the program that makes OCI images: the one place that starts it for the farm's images."""

from __future__ import annotations

from pathlib import Path

from labkit.core import run
from labkit.farm.rootfs.plans import program_version
from labkit.farm.rootfs.reproducible import stamp


def umoci(*words: str | Path) -> None:
    """Runs umoci."""
    run.run(["umoci", *words], timeout=600)


def version() -> str:
    """Its version, which decides how layers are written."""
    return program_version("umoci")


def told(by: str, epoch: int) -> tuple[str, ...]:
    """Options that write into an image's history by what a layer was made, and its source date."""
    return ("--history.created_by", by, "--history.created", stamp(epoch))


def dated(epoch: int) -> tuple[str, ...]:
    """Options that date an image's configuration, and this change of it."""
    return ("--created", stamp(epoch), "--history.created", stamp(epoch))


def configure(image: str, options: tuple[str, ...]) -> None:
    """Changes the configuration of ``LAYOUT:TAG``."""
    umoci("config", "--image", image, *options)
