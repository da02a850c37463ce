"""What a root file system weighs as an OCI layer, compressed: measured, by making the layer."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from labkit.core import run
from labkit.core.files import proven, write_proven
from labkit.core.journal import lock
from labkit.farm.images import store
from labkit.farm.images.umoci import umoci
from labkit.farm.rootfs.actions import Rootfs, key_of, program_version
from labkit.farm.rootfs.cache import PATIENCE
from labkit.farm.study.scratch import scratch
from labkit.model.lab import Lab
from labkit.records import Record

#: The file beside a root file system that keeps what was measured.
FILE = "layer.json"
#: What packs it.
PROGRAMS = ("umoci", "tar", "zstd")


class Compressed(Record):
    """The bytes of one layer with all of a root file system: gzip as umoci packs it, zstd as tar(1) and
    zstd(1) do at its own level; ``key`` changes with those programs."""

    key: str
    gzip: int
    zstd: int


def compressed(lab: Lab, rootfs: Rootfs) -> Compressed:
    """The weights of a root file system in the cache, measured once and kept beside it."""
    versions = [f"{name} {program_version(name)}" for name in PROGRAMS]
    key = key_of("layer", rootfs.key, *versions)
    kept = rootfs.path.parent / FILE
    with lock(lab.cache_dir / "locks", key, wait=PATIENCE):
        found = _find(kept, key)
        if found is None:
            found = _measure(lab, rootfs.path, key)
            write_proven(kept, found.model_dump_json(indent=1))
    return found


def _find(path: Path, key: str) -> Compressed | None:
    try:
        found = Compressed.model_validate_json(proven(path) or "")
    except ValidationError:
        return None
    return found if found.key == key else None


def _measure(lab: Lab, root: Path, key: str) -> Compressed:
    run.require(*PROGRAMS)
    with scratch(lab, lab.cache_dir / "rootfs" / f".{key}.part") as work:
        layout, packed = work / "layout", work / "layer.tar.zst"
        umoci("init", "--layout", layout)
        umoci("new", "--image", f"{layout}:whole")
        umoci("insert", "--image", f"{layout}:whole", root, "/")
        words = ("--create", "--zstd", "--sort=name", "--numeric-owner")
        run.run(["tar", *words, f"--file={packed}", f"--directory={root}", "."], timeout=600)
        return Compressed(key=key, gzip=_layer(layout), zstd=packed.stat().st_size)


def _layer(layout: Path) -> int:
    """The bytes of a layout's only layer."""
    (digest,) = store.tag(layout, "whole").layers
    return store.blobs(layout)[digest]
