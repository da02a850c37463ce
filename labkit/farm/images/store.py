"""OCI image layouts on disk: reads them, and changes them by umoci(1).

The format is the OCI image specification's (image-layout.md, manifest.md, config.md, layer.md): ``index.json`` names
a manifest for each tag, a manifest names a configuration and layers, and each of these is a file below
``blobs/sha256`` whose name is the hash of its content.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from labkit import reading
from labkit.core import cache, run
from labkit.core.files import write_atomically
from labkit.errors import StateError
from labkit.farm.rootfs.buildplan import program_version
from labkit.records import Record

#: The annotation of a manifest in ``index.json`` that holds its tag (annotations.md).
REF_NAME = "org.opencontainers.image.ref.name"
#: The beginning of a file's name in a layer that removes a file of the layers below.
WHITEOUT = ".wh."


class Descriptor(NamedTuple):
    """A pointer to a blob: its hash (``sha256:…``) and its size in bytes."""

    digest: str
    size: int


class Config(Record):
    """An image's configuration: when it was made, environment and command, the hashes of its layers when
    uncompressed (``diff_ids``), and by what each of them was made."""

    created: str = ""
    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()
    made_by: tuple[str, ...] = ()


class Tag(Record):
    """A tag: its manifest, its configuration, its layers from the bottom up (hashes)."""

    name: str
    manifest: str
    config: str
    layers: tuple[str, ...]


def tags(layout: Path) -> dict[str, Descriptor]:
    """The manifest of each tag of a layout."""
    path = layout / "index.json"
    with _reading(path):
        listed = reading.json_of(path).get("manifests") or []
        return {item.get("annotations", {}).get(REF_NAME, ""): _descriptor(item) for item in listed}


def tag(layout: Path, name: str) -> Tag:
    """One tag of a layout; raises :class:`StateError` when the layout has none of that name."""
    pointer = tags(layout).get(name)
    if pointer is None:
        raise StateError(
            str(layout),
            f"has no tag {name}",
            "remove the image and build again",
            code="state.no-tag",
        )
    config, *layers = manifest(layout, pointer.digest)
    return Tag(
        name=name,
        manifest=pointer.digest,
        config=config.digest,
        layers=tuple(layer.digest for layer in layers),
    )


def manifest(layout: Path, digest: str) -> tuple[Descriptor, ...]:
    """The blobs of the image with that manifest: its configuration, and its layers from the bottom up."""
    path = blob(layout, digest)
    with _reading(path):
        read = reading.json_of(path)
        return tuple(map(_descriptor, (read["config"], *(read.get("layers") or ()))))


def config(layout: Path, digest: str) -> Config:
    """The image configuration of that hash."""
    path = blob(layout, digest)
    with _reading(path):
        read = reading.json_of(path)
        image = read.get("config") or {}
        history = [item for item in read.get("history") or () if not item.get("empty_layer")]
        return Config(
            created=read.get("created", ""),
            env=tuple(image.get("Env") or ()),
            cmd=tuple(image.get("Cmd") or ()),
            diff_ids=tuple(read["rootfs"].get("diff_ids") or ()),
            made_by=tuple(item.get("created_by", "") for item in history),
        )


def blob(layout: Path, digest: str) -> Path:
    """The file of the blob of that hash."""
    kind, _, name = digest.partition(":")
    return layout / "blobs" / kind / name


def blobs(layout: Path) -> dict[str, int]:
    """All blobs of a layout, pointed to or not: hash -> size in bytes."""
    found = sorted((layout / "blobs").glob("*/*"))
    return {f"{path.parent.name}:{path.name}": path.stat().st_size for path in found}


def pointers(layout: Path) -> dict[str, int]:
    """The blobs that something in the layout points to: hash -> the size that the pointer promises."""
    found: dict[str, int] = {}
    for pointer in tags(layout).values():
        found[pointer.digest] = pointer.size
        if blob(layout, pointer.digest).exists():
            found |= dict(manifest(layout, pointer.digest))
    return found


def drop_unused(layout: Path) -> None:
    """Removes the blobs without a pointer, as a changed configuration leaves them; the caller alone uses the layout."""
    for digest in blobs(layout).keys() - pointers(layout).keys():
        blob(layout, digest).unlink()


def missing(layout: Path) -> tuple[str, ...]:
    """The hashes of blobs that are pointed to and that are missing or have another content."""
    found = blobs(layout)
    return tuple(
        digest
        for digest, size in pointers(layout).items()
        if found.get(digest) != size or digest != content_digest(blob(layout, digest))
    )


def content_digest(path: Path) -> str:
    """The hash of a file's content, in the form of a blob's hash."""
    return f"sha256:{cache.digest(path)}"


def blobs_of(layout: Path, name: str) -> tuple[str, ...]:
    """The hashes of all blobs of a tag."""
    found = tag(layout, name)
    return (found.manifest, found.config, *found.layers)


def adopt(source: Path, target: Path, names: Sequence[str]) -> None:
    """Adds tags of the layout ``source`` to the layout ``target``; their blobs are linked, not copied, on one file
    system."""
    if not names:
        return
    for digest in {digest for name in names for digest in blobs_of(source, name)}:
        if not blob(target, digest).exists():
            link(blob(source, digest), blob(target, digest))
    index, other = (reading.json_of(layout / "index.json") for layout in (target, source))
    index["manifests"] = [*(index.get("manifests") or []), *(
        item for item in other["manifests"] if item.get("annotations", {}).get(REF_NAME) in names
    )]  # fmt: skip
    write_atomically(target / "index.json", json.dumps(index))


def copy_layout(source: Path, target: Path) -> None:
    """Copies a layout; its blobs are linked, not copied, on one file system."""
    shutil.copytree(source / "blobs", target / "blobs", copy_function=link)
    for name in ("index.json", "oci-layout"):
        shutil.copyfile(source / name, target / name)


def link(path: str | Path, copy: str | Path) -> None:
    """Makes a hard link or, on another file system, a copy."""
    try:
        os.link(path, copy)
    except OSError:  # another file system, or more links than it allows
        shutil.copy2(path, copy)


def chain_id(diff_ids: Sequence[str]) -> str:
    """The hash that names the root file system of these layers (config.md, ChainID). Pure."""
    chain = "".join(diff_ids[:1])
    for diff_id in diff_ids[1:]:
        chain = f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}"
    return chain


def short(digest: str) -> str:
    """The first twelve digits of a hash, for people. Pure."""
    return digest.partition(":")[2][:12]


def _descriptor(item: dict[str, Any]) -> Descriptor:
    digest, size = item["digest"], item["size"]
    if not (isinstance(digest, str) and isinstance(size, int)):
        raise TypeError(f"{item} is not a descriptor")
    return Descriptor(digest, size)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever is wrong with the file that the block reads into a :class:`StateError` that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise StateError(
            str(path),
            f"is not part of an image layout: {said}",
            "remove the image and build again",
            code="state.damaged-image",
        ) from None


# -- umoci ---------------------------------------------------------------------------------------


def umoci(*words: str | Path) -> None:
    """Runs umoci."""
    run.run(["umoci", *words], timeout=600)


def umoci_version() -> str:
    """Its version, which decides how layers are written."""
    return program_version("umoci")


def made_by(by: str, epoch: int) -> tuple[str, ...]:
    """umoci's options that write into an image's history by what a layer was made, and its source date."""
    return ("--history.created_by", by, "--history.created", stamp(epoch))


def dated(epoch: int) -> tuple[str, ...]:
    """umoci's options that date an image's configuration, and this change of it."""
    return ("--created", stamp(epoch), "--history.created", stamp(epoch))


def configure(image: str, options: tuple[str, ...]) -> None:
    """Changes the configuration of ``LAYOUT:TAG``."""
    umoci("config", "--image", image, *options)


# -- layers as tar archives ----------------------------------------------------------------------


def write_layer(path: Path, files: Mapping[str, str], below: Path) -> None:
    """Writes an archive of text files (path below the root -> content), owned by root, all with one date.

    Their folders are in it with the owner and mode that they have in ``below``, the root file system
    of the layers under this one: the topmost layer's folder is the one that counts.
    """
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for folder in parent_folders(files):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            if (below / folder).is_dir():
                known = (below / folder).stat()
                member.mode, member.uid, member.gid = (
                    known.st_mode & 0o7777,
                    known.st_uid,
                    known.st_gid,
                )
            archive.addfile(member)
        for name, text in sorted(files.items()):
            data = text.encode()
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755 if text.startswith("#!") else 0o644
            archive.addfile(member, io.BytesIO(data))


def extract_layer(blob: Path, target: Path) -> None:
    """Unpacks a layer that only adds files; raises :class:`StateError` for one that removes files."""
    target.mkdir()
    with tarfile.open(blob, "r:*") as archive:
        names = archive.getnames()
    gone = [name for name in names if PurePosixPath(name).name.startswith(WHITEOUT)]
    if gone:
        raise StateError(
            str(blob),
            f"the layer removes {gone[0]}",
            "unpack the image whole instead",
            code="state.whiteout",
        )
    # tar(1) refuses to leave the folder, which Python's own extraction before 3.11.4 does not
    run.run(["tar", "--extract", f"--file={blob}", f"--directory={target}", "--numeric-owner"])


def parent_folders(files: Mapping[str, str]) -> list[str]:
    """The folders above the files, each before those in it. Pure."""
    found = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    return sorted(found - {"."})


def stamp(epoch: int) -> str:
    """The time as OCI images write it (RFC 3339): ``2024-02-10T08:15:00Z``. Pure."""
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%dT%H:%M:%SZ}"
