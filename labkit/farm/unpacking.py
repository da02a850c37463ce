"""Images unpacked for runC's bundles: each layer once, however many containers stand on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from labkit.farm import oci, tarball
from labkit.farm.building import building
from labkit.farm.umoci import umoci
from labkit.journal import Journal, lock
from labkit.lab import Lab


def whole(lab: Lab, layout: Path, name: str) -> Path:
    """The folder in the cache with the whole root file system of a tag, for all labs.

    It is named by the hash of the layers' content (ChainID): whoever has the same layers shares it.
    """
    return _once(
        lab,
        _folder(lab, layout, name),
        lambda work: umoci("raw", "unpack", "--image", f"{layout}:{name}", work / "rootfs"),
    )


def adopt(lab: Lab, layout: Path, name: str, root: Path) -> Path:
    """The same folder, where ``root``, from which the tag has just been packed, spares unpacking it."""
    return _once(lab, _folder(lab, layout, name), lambda work: _move(root, work / "rootfs"))


def layer(lab: Lab, layout: Path, digest: str) -> Path:
    """The folder in the lab's state with the files of one layer, which removes none."""
    folder = lab.state_dir / "unpacked" / oci.short(digest)
    Journal.of(lab).intend("folder", path=str(folder.parent))
    return _once(
        lab, folder, lambda work: tarball.extract(oci.blob(layout, digest), work / "rootfs")
    )


def configuration(lab: Lab, layout: Path, name: str, root: Path) -> Path:
    """The file with a tag's runtime configuration, made by umoci from the image's own.

    ``root`` is the unpacked root file system, where umoci looks users up.
    """
    digest = oci.tag(layout, name).manifest
    path = lab.state_dir / "unpacked" / f"{oci.short(digest)}.json"
    with lock(lab.run_dir, "unpacked"):
        if not path.exists():
            Journal.of(lab).intend("folder", path=str(path.parent))
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            umoci("raw", "runtime-config", "--image", f"{layout}:{name}", "--rootfs", root, part)
            part.replace(path)
    return path


def _folder(lab: Lab, layout: Path, name: str) -> Path:
    chain = oci.chain_id(oci.config(layout, oci.tag(layout, name).config).diff_ids)
    return lab.cache_dir / "unpacked" / chain.partition(":")[2][:24]


def _move(root: Path, place: Path) -> None:
    root.rename(place)


def _once(lab: Lab, folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder/rootfs``, made if it is not there."""
    with lock(lab.cache_dir / "locks", f"unpacked-{folder.name}"):
        if not folder.exists():
            with building(lab, folder, what=f"unpacked image {folder.name}") as work:
                make(work)
    return folder / "rootfs"
