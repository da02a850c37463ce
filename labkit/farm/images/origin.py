"""Whether a container stands on the image that it is said to stand on: the hashes, made again.

An image layout names each blob by the hash of its content, so an edited blob no longer has its
own name; a container's root file system names, in the kernel's list of mounts, the folders that its
layers were unpacked into; and umoci, asked again, gives the runtime configuration once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.errors import CommandError, FarmError
from labkit.farm.images import store
from labkit.farm.images.unpacking import Unpacked
from labkit.kernel import proc
from labkit.records import Record

#: The assignment's row: the configuration comes from the image.
ROWS = ("I5",)


class Blob(Record):
    """A blob of an image: what it is, the hash that names it, and that of what lies in its file now
    ('' when there is no file); size in bytes."""

    role: str
    named: str
    found: str
    bytes: int

    @property
    def intact(self) -> bool:
        """Whether its content has the hash that names it."""
        return self.named == self.found


class Origin(Record):
    """What a tag of a layout stands for, and what the container with first process ``pid`` stands on.

    ``wanted`` and ``mounted`` are overlay folders, the topmost first: of the lab's files and the tag's
    layers, and those of the container's root as mounted. ``made`` is the hash of the runtime configuration
    that umoci gives now, or what it says when it refuses; ``used`` the hash of the file that the bundle was
    made from.
    """

    tag: str
    pid: int
    blobs: tuple[Blob, ...]
    wanted: tuple[str, ...]
    mounted: tuple[str, ...]
    made: str
    used: str


def look(
    layout: Path, unpacked: Unpacked, lower: Sequence[Path], pid: int, scratch: Path
) -> Origin:
    """The origin of the container whose first process is ``pid``, and which is to be seen through ``lower``;
    ``scratch`` is a file that may be written and is gone afterwards."""
    return Origin(
        tag=unpacked.tag,
        pid=pid,
        blobs=blobs(layout, unpacked.tag),
        wanted=tuple(map(str, lower)),
        mounted=_mounted(pid),
        made=_configuration(layout, unpacked, scratch),
        used=store.content_digest(unpacked.config),
    )


def blobs(layout: Path, name: str) -> tuple[Blob, ...]:
    """A tag's manifest, configuration and layers, each hashed anew."""
    tag = store.tag(layout, name)
    parts = [("manifest", tag.manifest), ("configuration", tag.config)]
    parts += [(f"layer {number}", digest) for number, digest in enumerate(tag.layers, 1)]
    return tuple(_blob(layout, role, digest) for role, digest in parts)


def lower_folders(mountinfo: str) -> tuple[str, ...]:
    """The lower folders of the overlay that is mounted at ``/``, the topmost first (proc(5)). Pure."""
    for mount in proc.mounts(mountinfo):
        if mount.kind == "overlay" and mount.place == "/":
            values = dict(item.partition("=")[::2] for item in mount.special)
            return tuple(proc.plain(values.get("lowerdir", "")).split(":"))
    return ()


def checks(layout: Path, seen: Origin) -> tuple[Check, ...]:
    """Whether image, root file system and configuration are the ones that the tag names. Pure."""
    return (
        Check(
            name="container.source.blobs",
            expected=f"each of {counted(len(seen.blobs), 'blob')} of {seen.tag} has the sha256 that names it",
            seen="; ".join(_altered(blob) for blob in seen.blobs if not blob.intact)
            or f"sha256 of {counted(len(seen.blobs), 'blob')} computed anew: each as named",
            holds=all(blob.intact for blob in seen.blobs),
            rows=ROWS,
            again=f"cd {layout}/blobs/sha256 && sha256sum *",
        ),
        Check(
            name="container.source.layers",
            expected=f"the root is an overlay of the lab's own files and {seen.tag}'s layers: "
            f"{_folders(seen.wanted)}",
            seen=_folders(seen.mounted) or "no overlay",
            holds=seen.mounted == seen.wanted,
            rows=ROWS,
            again=f"grep overlay /proc/{seen.pid}/mountinfo",
        ),
        equal(
            "container.source.configuration",
            f"what the bundle was made from: {_told(seen.used)}",
            f"what the bundle was made from: {_told(seen.made)}"
            if seen.made == seen.used
            else f"umoci, asked again: {_told(seen.made)}",
            rows=ROWS,
            again=f"cd {Path(seen.wanted[-1]).parent} && umoci raw runtime-config "
            f"--image {layout}:{seen.tag} --rootfs rootfs /dev/stdout | sha256sum",
        ),
    )


def table(seen: Origin) -> Table:
    """The image's blobs, a row each: the hash that names it and the one made again."""
    rows: list[dict[str, Cell]] = [
        {
            "blob": blob.role,
            "named": store.short(blob.named),
            "hashed again": store.short(blob.found) or "missing",
            "size": blob.bytes,
        }
        for blob in seen.blobs
    ]
    title = (
        f"The image {seen.tag} that the container stands on (the first 12 digits of each sha256)"
    )
    return Table.of("origin", title, rows, units={"size": "bytes"})


def _blob(layout: Path, role: str, digest: str) -> Blob:
    path = store.blob(layout, digest)
    there = path.is_file()
    return Blob(
        role=role,
        named=digest,
        found=store.content_digest(path) if there else "",
        bytes=path.stat().st_size if there else 0,
    )


def _altered(blob: Blob) -> str:
    if not blob.found:
        return f"{blob.role} {store.short(blob.named)} is missing"
    return f"{blob.role} {store.short(blob.named)} holds something else: {store.short(blob.found)}"


def _told(hashed: str) -> str:
    """A hash as a person compares it; anything else as it is."""
    return store.short(hashed) if hashed.startswith("sha256:") else hashed


def _folders(folders: tuple[str, ...]) -> str:
    """Overlay folders by what tells them apart: a layer's is ``HASH/rootfs``, the lab's ``HASH``."""
    return " over ".join(Path(folder.removesuffix("/rootfs")).name for folder in folders)


def _mounted(pid: int) -> tuple[str, ...]:
    """What the root of the process' own mount namespace stands on."""
    try:
        return lower_folders(proc.mountinfo(pid))
    except (FileNotFoundError, ProcessLookupError):
        raise FarmError(
            f"process {pid}", "has ended", "", f"ps -fp {pid}", code="farm.process-ended"
        ) from None


def _configuration(layout: Path, unpacked: Unpacked, scratch: Path) -> str:
    """The hash of what umoci makes now, or its last words."""
    words = ["umoci", "raw", "runtime-config", "--image", f"{layout}:{unpacked.tag}"]
    try:
        run.run([*words, "--rootfs", unpacked.lower[-1], scratch])
        return store.content_digest(scratch)
    except CommandError as error:
        return error.stderr.strip().rpartition("\n")[2] or error.reason
    finally:
        scratch.unlink(missing_ok=True)
