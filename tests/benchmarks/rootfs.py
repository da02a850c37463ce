"""How long each variant of a root file system takes, and how small it is; by hand, as root:

    python -m tests.benchmarks.rootfs [--only NAME]... [--folder FOLDER]

Measured in one run, so that the ratios hold on a machine whose speed drifts: plain debootstrap (minbase)
and plain mmdebstrap, straight from the mirror; all variants together from nothing; each variant by
itself with its packages downloaded before; all of them found in the cache. The load of the machine
stands beside it. Everything is made in a folder of its own and removed at the end: where files were
just removed, ext4 makes new ones some ten times slower for minutes, as it looks for others' places.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from labkit import Lab
from labkit.core import run, undo
from labkit.display import human_bytes
from labkit.farm import rootfs
from labkit.farm.rootfs import apt, variants
from labkit.farm.study import comparison


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="a variant; may be repeated")
    parser.add_argument("--folder", default=None, help="where to build (default: a temporary one)")
    given = parser.parse_args()
    names = given.only or list(variants.VARIANTS)
    folder = Path(tempfile.mkdtemp(prefix="labkit-bench-", dir=given.folder))
    try:
        measure(folder, names)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, names: list[str]) -> None:
    """All of it, in this order."""
    lab = _lab(folder, "cold")
    print(f"load before: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}", flush=True)
    plain = {tool: _timed(lambda tool=tool: _plain(lab, tool, folder)) for tool in PLAIN}
    for tool, seconds in plain.items():
        print(f"plain {tool}: {seconds:.1f} s (load {os.getloadavg()[0]:.1f})", flush=True)
    alone = _timed(lambda: _all(folder, names))
    print(
        f"all {len(names)} variants, cold: {alone:.1f} s (load {os.getloadavg()[0]:.1f})",
        flush=True,
    )
    cold = _timed(lambda: comparison.compare(lab, names))
    print(f"the same, with each one's layer packed twice and weighed: {cold:.1f} s", flush=True)
    built = {name: rootfs.build(lab, name).value for name in names}
    found = {name: _timed(lambda name=name: rootfs.build(lab, name)) for name in names}
    warm = {name: _warm(folder, lab, name) for name in names}
    print(f"load after: {os.getloadavg()[0]:.1f}")
    print("variant | side by side, cold, s | alone, packages there, s | / debootstrap | / mmdebstrap"
          " | found, s | size | gzip | zstd")  # fmt: skip
    for name in sorted(names, key=lambda name: -built[name].bytes):
        weight = comparison.compressed(lab, built[name])
        ratios = [warm[name] / plain[tool] for tool in PLAIN]
        cells = (
            name, f"{built[name].seconds:.1f}", f"{warm[name]:.1f}",
            *(f"{ratio:.2f}" for ratio in ratios), f"{found[name]:.3f}",
            *map(human_bytes, (built[name].bytes, weight.gzip, weight.zstd)),
        )  # fmt: skip
        print(" | ".join(cells), flush=True)
    undo.unmake_all(lab)


#: The plain tools: what a person would type.
PLAIN: dict[str, tuple[str, ...]] = {
    "debootstrap": ("debootstrap", "--variant=minbase"),
    "mmdebstrap": ("mmdebstrap", "--quiet", "--variant=minbase"),
}


def _plain(lab: Lab, tool: str, folder: Path) -> None:
    """A tool without labkit: its minimal system, from the mirror onto the disk."""
    source = apt.ensure_lists(lab).main
    target = folder / f"plain-{tool}"
    run.run([*PLAIN[tool], source.suite, target, source.mirror], timeout=900, quiet=True)


def _all(folder: Path, names: list[str]) -> None:
    """All variants from nothing, side by side as a comparison builds them."""
    lab = _lab(folder, "all")
    chosen = comparison.in_order([variants.named(name) for name in names])
    run.spread(lambda one: rootfs.build(lab, one.name), chosen, workers=comparison.workers())
    undo.unmake_all(lab)


def _warm(folder: Path, cold: Lab, name: str) -> float:
    """A variant, and what it is made from, by itself in a new cache that has the downloads."""
    lab = _lab(folder, f"warm-{name}")
    lab.cache_dir.mkdir(parents=True)
    for place in ("debian", "lists"):
        (lab.cache_dir / place).symlink_to(cold.cache_dir / place)
    seconds = _timed(lambda: rootfs.build(lab, name))
    undo.unmake_all(lab)
    return seconds


def _lab(folder: Path, name: str) -> Lab:
    return Lab.of(
        {
            "name": name,
            "state": str(folder / "state"),
            "run": str(folder / "run"),
            "cache": str(folder / name),
            "outputs": str(folder / "outputs"),
        }
    )


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


if __name__ == "__main__":
    print(f"workers: {comparison.workers()}")
    main()
