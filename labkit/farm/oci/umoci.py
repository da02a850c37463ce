"""umoci(1), the program that makes OCI images: the one place that starts it for the farm's images."""

from __future__ import annotations

from pathlib import Path

from labkit import run


def umoci(*words: str | Path) -> None:
    """Runs umoci."""
    run.run(["umoci", *words], timeout=600)


def told(by: str) -> tuple[str, ...]:
    """Options that write into an image's history by what a layer was made."""
    return ("--history.created_by", by)


def configure(image: str, options: tuple[str, ...]) -> None:
    """Changes the configuration of ``LAYOUT:TAG``."""
    umoci("config", "--image", image, *options)
