"""What a root file system holds beside its packages: where they come from, and the servers made ready."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from labkit.core import run
from labkit.farm.rootfs import variants
from labkit.farm.rootfs.sandbox import sealed
from labkit.farm.rootfs.unpacking import Unpacked

#: Where dpkg is told what was left out (dpkg.cfg(5)).
LEFT_OUT = "etc/dpkg/dpkg.cfg.d/99labkit"


def finish(root: Path, modules: Sequence[str]) -> None:
    """The modules of apache2 are on, and its folders are there."""
    if modules:
        run.run(sealed(("a2enmod", "--quiet", *modules), root=root), timeout=60)
    variants.prepare(root)


def note(root: Path, sources: str, left_out: str, automatic: str) -> None:
    """apt and dpkg in ``root`` know what the new system was made from."""
    for name, text in (
        ("etc/apt/sources.list", sources),
        (LEFT_OUT, left_out),
        ("var/lib/apt/extended_states", automatic),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def automatic(packages: Iterable[Unpacked], asked: Sequence[str], architecture: str) -> str:
    """apt's note of what nobody asked for, so that it goes when nothing needs it any more. Pure."""
    names = (item.name for item in packages if item.name not in asked)
    return "\n".join(
        f"Package: {name}\nArchitecture: {architecture}\nAuto-Installed: 1\n" for name in names
    )
