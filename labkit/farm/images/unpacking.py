"""Images unpacked for runC's bundles: each layer once, however many containers stand on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from labkit.core import cache
from labkit.core.journal import Journal, lock
from labkit.farm.images import store
from labkit.farm.images.store import umoci
from labkit.farm.rootfs.cache_entries import building
from labkit.model.lab import Lab
from labkit.records import Record


class Unpacked(Record):
    """An unpacked image: ``lower`` are overlayfs' lower folders, the topmost first, which are never written;
    ``config`` is the file of the runtime configuration that umoci made from the image's. Each of them lies in a sealed
    folder (:mod:`labkit.core.cache`)."""

    tag: str
    lower: tuple[Path, ...]
    config: Path


def whole_place(lab: Lab, layout: Path, name: str) -> Path:
    """The folder of :func:`whole`, whether it exists or not."""
    chain = store.chain_id(store.config(layout, store.tag(layout, name).config).diff_ids)
    return lab.cache_dir / "unpacked" / chain.partition(":")[2][:24] / "rootfs"


def layer_place(lab: Lab, digest: str) -> Path:
    """The folder of :func:`layer`, whether it exists or not."""
    return lab.state_dir / "unpacked" / store.short(digest) / "rootfs"


def configuration_place(lab: Lab, manifest: str) -> Path:
    """The file of :func:`configuration` for the image with that manifest, whether it exists or not."""
    return lab.state_dir / "configurations" / store.short(manifest) / "config.json"


def whole(lab: Lab, layout: Path, name: str, packed: Path | None = None) -> Path:
    """Unpacks the whole root file system of a tag into the cache, if it is not there; returns the folder.

    It is named by the hash of the layers' content (ChainID), so that labs with the same layers share it.

    :param packed: a folder from which the tag has just been packed: it is moved there instead.
    """
    root = whole_place(lab, layout, name)
    with lock(lab.cache_dir / "locks", f"unpacked-{root.parent.name}"):
        cache.hold(lab, f"unpacked-{name}", root.parent)
        if packed:
            return _once(lab, root, packed.rename)
        return _once(
            lab, root, lambda part: umoci("raw", "unpack", "--image", f"{layout}:{name}", part)
        )


def layer(lab: Lab, layout: Path, digest: str) -> Path:
    """Unpacks one layer, which only adds files, into the lab's state, if it is not there; returns the folder."""
    blob = store.blob(layout, digest)
    return _own(lab, layer_place(lab, digest), lambda part: store.extract_layer(blob, part))


def configuration(lab: Lab, layout: Path, name: str, root: Path) -> Path:
    """Makes the file with a tag's runtime configuration by umoci, if it is not there; returns it.

    ``root`` is the unpacked root file system, in which umoci looks users up.
    """
    image = ("--image", f"{layout}:{name}", "--rootfs", root)
    place = configuration_place(lab, store.tag(layout, name).manifest)
    return _own(lab, place, lambda part: umoci("raw", "runtime-config", *image, part))


def _own(lab: Lab, place: Path, make: Callable[[Path], object]) -> Path:
    """Makes a file or folder of the lab's state."""
    with lock(lab.run_dir, "unpacked"):
        Journal.of(lab).intend("folder", path=str(place.parent.parent))
        return _once(lab, place, make)


def _once(lab: Lab, place: Path, make: Callable[[Path], object]) -> Path:
    """Makes ``place`` in a sealed folder, unless it is there whole, and returns it. The caller holds the lock."""
    if not cache.whole(place.parent):
        with building(lab, place.parent, what=f"unpacked image {place.parent.name}") as work:
            make(work / place.name)
    return place
