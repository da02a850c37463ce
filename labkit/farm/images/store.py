"""An OCI image layout as it lies on the disk: who points to whom.

The format is the OCI image specification's (image-layout.md, manifest.md, config.md):
``index.json`` names a manifest for each tag, a manifest names a configuration and layers, and each of
these is a file below ``blobs/sha256`` whose name is the hash of its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from labkit import reading
from labkit.core import cache
from labkit.core.files import write_atomically
from labkit.errors import StateError
from labkit.records import Record

#: The annotation of a manifest in ``index.json`` that holds its tag (annotations.md).
REF_NAME = "org.opencontainers.image.ref.name"


class Descriptor(Record):
    """A pointer to a blob: its hash (``sha256:…``), its size in bytes, its media type."""

    digest: str
    size: int
    media_type: str = ""


class Manifest(Record):
    """What an image consists of: the layers from the bottom up."""

    config: Descriptor
    layers: tuple[Descriptor, ...] = ()


class Made(Record):
    """One line of an image's history; ``empty`` ones changed the configuration alone."""

    created_by: str = ""
    comment: str = ""
    empty: bool = False


class Config(Record):
    """How an image wants to be run, and the hashes of its layers when uncompressed (``diff_ids``)."""

    created: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    diff_ids: tuple[str, ...] = ()
    history: tuple[Made, ...] = ()


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
        listed = _json(path).get("manifests") or []
        return {item.get("annotations", {}).get(REF_NAME, ""): _descriptor(item) for item in listed}


def tag(layout: Path, name: str) -> Tag:
    """One tag and what it stands for; raises :class:`StateError` when the layout has none of that name."""
    pointer = tags(layout).get(name)
    if pointer is None:
        raise StateError(
            str(layout),
            f"has no tag {name}",
            "remove the image and build again",
            code="state.no-tag",
        )
    found = manifest(layout, pointer.digest)
    return Tag(
        name=name,
        manifest=pointer.digest,
        config=found.config.digest,
        layers=tuple(layer.digest for layer in found.layers),
    )


def manifest(layout: Path, digest: str) -> Manifest:
    """The manifest of that hash."""
    path = blob(layout, digest)
    with _reading(path):
        read = _json(path)
        return Manifest(
            config=_descriptor(read["config"]),
            layers=tuple(_descriptor(item) for item in read.get("layers") or ()),
        )


def config(layout: Path, digest: str) -> Config:
    """The image configuration of that hash."""
    path = blob(layout, digest)
    with _reading(path):
        return _config(_json(path))


def _config(read: dict[str, Any]) -> Config:
    own = read.get("config") or {}
    return Config(
        created=read.get("created", ""),
        env=tuple(own.get("Env") or ()),
        entrypoint=tuple(own.get("Entrypoint") or ()),
        cmd=tuple(own.get("Cmd") or ()),
        ports=tuple(own.get("ExposedPorts") or ()),
        labels=own.get("Labels") or {},
        diff_ids=tuple(read["rootfs"].get("diff_ids") or ()),
        history=tuple(
            Made(
                created_by=item.get("created_by", ""),
                comment=item.get("comment", ""),
                empty=item.get("empty_layer", False),
            )
            for item in read.get("history") or ()
        ),
    )


def blob(layout: Path, digest: str) -> Path:
    """Where the blob of that hash lies."""
    kind, _, name = digest.partition(":")
    return layout / "blobs" / kind / name


def blobs(layout: Path) -> dict[str, int]:
    """All blobs of a layout, pointed to or not: hash -> size in bytes."""
    found = sorted((layout / "blobs").glob("*/*"))
    return {f"{path.parent.name}:{path.name}": path.stat().st_size for path in found}


def pointers(layout: Path) -> dict[str, int]:
    """What something in the layout points to: hash -> the size that the pointer promises."""
    found: dict[str, int] = {}
    for pointer in tags(layout).values():
        found[pointer.digest] = pointer.size
        if blob(layout, pointer.digest).exists():
            parts = manifest(layout, pointer.digest)
            found |= {part.digest: part.size for part in (parts.config, *parts.layers)}
    return found


def unused(layout: Path) -> tuple[str, ...]:
    """The hashes of blobs that nothing points to, as a changed configuration leaves them."""
    return tuple(sorted(set(blobs(layout)) - set(pointers(layout))))


def drop_unused(layout: Path) -> None:
    """Removes the blobs that nothing points to from a layout that nobody else uses yet."""
    for digest in unused(layout):
        blob(layout, digest).unlink()


def missing(layout: Path) -> tuple[str, ...]:
    """The hashes that something in the layout points to and whose blob is not there with that content."""
    found = blobs(layout)
    return tuple(
        digest
        for digest, size in pointers(layout).items()
        if found.get(digest) != size or digest != content_digest(blob(layout, digest))
    )


def content_digest(path: Path) -> str:
    """The hash of a file's content, as a blob is named by it."""
    return f"sha256:{cache.digest(path)}"


def blobs_of(layout: Path, name: str) -> tuple[str, ...]:
    """The hashes of all blobs that a tag stands for."""
    found = tag(layout, name)
    return (found.manifest, found.config, *found.layers)


def adopt(source: Path, target: Path, names: Sequence[str]) -> None:
    """``target`` has these tags of ``source``, too; where both lie on one file system, by the same files."""
    if not names:
        return
    for digest in {digest for name in names for digest in blobs_of(source, name)}:
        if not blob(target, digest).exists():
            link(blob(source, digest), blob(target, digest))
    index, other = _json(target / "index.json"), _json(source / "index.json")
    index["manifests"] = [*(index.get("manifests") or []), *(
        item for item in other["manifests"] if item.get("annotations", {}).get(REF_NAME) in names
    )]  # fmt: skip
    write_atomically(target / "index.json", json.dumps(index))


def link(path: Path, copy: Path) -> None:
    """``copy`` is the same file as ``path`` or, on another file system, has the same content."""
    try:
        os.link(path, copy)
    except OSError:  # another file system, or more links than it allows
        shutil.copy2(path, copy)


def chain_id(diff_ids: Sequence[str]) -> str:
    """The one hash that names the root file system which these layers make (config.md, ChainID)."""
    chain = ""
    for diff_id in diff_ids:
        text = f"{chain} {diff_id}" if chain else diff_id
        chain = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if chain else diff_id
    return chain


def short(digest: str) -> str:
    """A hash as a person compares it: twelve digits."""
    return digest.partition(":")[2][:12]


def _descriptor(item: dict[str, Any]) -> Descriptor:
    return Descriptor(
        digest=item["digest"], size=item["size"], media_type=item.get("mediaType", "")
    )


def _json(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = reading.json_of(path)
    return read


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever is wrong with the file that the block reads is a :class:`StateError` that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise StateError(
            str(path),
            f"is no part of an image layout: {said}",
            "remove the image and build again",
            code="state.damaged-image",
        ) from None
