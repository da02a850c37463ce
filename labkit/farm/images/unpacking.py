"""Images unpacked for runC's bundles: each layer once, however many containers stand on it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from labkit.core import cache
from labkit.core.files import text_of, write_atomically
from labkit.core.journal import Journal, lock
from labkit.farm.images import store
from labkit.farm.images.store import umoci
from labkit.farm.rootfs.cache_entries import building
from labkit.model.lab import Lab
from labkit.records import Record

log = logging.getLogger("labkit.cache")


class Unpacked(Record):
    """An unpacked image: ``lower`` are overlayfs' lower folders, the topmost first, which are never written;
    ``config`` is the file of the runtime configuration that umoci made from the image's."""

    tag: str
    lower: tuple[Path, ...]
    config: Path


def whole(lab: Lab, layout: Path, name: str) -> Path:
    """Unpacks the whole root file system of a tag into the cache, if it is not there; returns the folder.

    It is named by the hash of the layers' content (ChainID), so that labs with the same layers share it.
    """
    return _shared(
        lab,
        name,
        _folder(lab, layout, name),
        lambda work: umoci("raw", "unpack", "--image", f"{layout}:{name}", work / "rootfs"),
    )


def whole_place(lab: Lab, layout: Path, name: str) -> Path:
    """The folder of :func:`whole`, whether it exists or not."""
    return _folder(lab, layout, name) / "rootfs"


def layer_place(lab: Lab, digest: str) -> Path:
    """The folder of :func:`layer`, whether it exists or not."""
    return lab.state_dir / "unpacked" / store.short(digest) / "rootfs"


def adopt(lab: Lab, layout: Path, name: str, root: Path) -> Path:
    """Makes the folder of :func:`whole` from ``root``, from which the tag has just been packed."""
    return _shared(lab, name, _folder(lab, layout, name), lambda work: root.rename(work / "rootfs"))


def layer(lab: Lab, layout: Path, digest: str) -> Path:
    """Unpacks one layer, which only adds files, into the lab's state, if it is not there; returns the folder."""
    folder = layer_place(lab, digest).parent
    with lock(lab.run_dir, "unpacked"):
        Journal.of(lab).intend("folder", path=str(folder.parent))
        return _once(
            lab,
            folder,
            lambda work: store.extract_layer(store.blob(layout, digest), work / "rootfs"),
        )


def configuration(lab: Lab, layout: Path, name: str, root: Path) -> Path:
    """Makes the file with a tag's runtime configuration by umoci, if it is not there; returns it.

    ``root`` is the unpacked root file system, in which umoci looks users up. The file's name has the hash of its
    content: a changed file is made again.
    """
    folder = lab.state_dir / "unpacked"
    stem = store.short(store.tag(layout, name).manifest)
    with lock(lab.run_dir, "unpacked"):
        found = known_configuration(lab, store.tag(layout, name).manifest)
        if found is not None:
            return found
        for damaged in configurations(lab, stem):
            if not damaged.is_dir():  # which may be somebody's: writing there says so
                damaged.unlink(missing_ok=True)
        Journal.of(lab).intend("folder", path=str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{stem}.part"
        umoci("raw", "runtime-config", "--image", f"{layout}:{name}", "--rootfs", root, part)
        text = part.read_text(encoding="utf-8")
        part.unlink()
        write_atomically(folder / _named(stem, text), text)
        return folder / _named(stem, text)


def known_configuration(lab: Lab, manifest: str) -> Path | None:
    """The file that :func:`configuration` has made for the image of that manifest, None without one."""
    stem = store.short(manifest)
    for path in configurations(lab, stem):
        text = text_of(path)
        if text is not None and is_named(path, text):
            return path
        log.warning("%s is damaged, and made again", path)
    return None


def configurations(lab: Lab, stem: str = "*") -> list[Path]:
    """The files that :func:`configuration` has made, of all images, or of the one whose manifest's hash begins
    with ``stem``."""
    return sorted((lab.state_dir / "unpacked").glob(f"{stem}-*.json"))


def is_named(path: Path, text: str) -> bool:
    """Whether a configuration's file has the hash of its text in its name."""
    return path.name == _named(path.name.partition("-")[0], text)


def _named(stem: str, text: str) -> str:
    return f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"


def _folder(lab: Lab, layout: Path, name: str) -> Path:
    chain = store.chain_id(store.config(layout, store.tag(layout, name).config).diff_ids)
    return lab.cache_dir / "unpacked" / chain.partition(":")[2][:24]


def _shared(lab: Lab, name: str, folder: Path, make: Callable[[Path], object]) -> Path:
    """Makes a folder in the cache, and notes that the lab uses it."""
    with lock(lab.cache_dir / "locks", f"unpacked-{folder.name}"):
        cache.hold(lab, f"unpacked-{name}", folder)
        return _once(lab, folder, make)


def _once(lab: Lab, folder: Path, make: Callable[[Path], object]) -> Path:
    """Makes ``folder/rootfs`` unless it is there complete, and returns it. The caller holds the lock."""
    root = folder / "rootfs"
    if not cache.whole(folder):
        with building(lab, folder, what=f"unpacked image {folder.name}") as work:
            make(work)
    return root
