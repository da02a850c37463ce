"""A bundle that umoci unpacked, and how it and its layout point to each other. Pure reading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from labkit import reading
from labkit.farm.images import store
from labkit.records import Record


class Bundle(Record):
    """What a bundle holds: its files' names, the manifest that umoci.json names, args and
    environment of config.json, the files in rootfs."""

    files: tuple[str, ...]
    manifest: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    content: tuple[str, ...]


class Pointer(Record):
    """One file that names another by its hash, or is made from it."""

    source: str
    target: str
    role: str
    bytes: int


def read(folder: Path) -> Bundle:
    """The bundle in a folder."""
    root = folder / "rootfs"
    try:
        said = reading.json_of(folder / "umoci.json")
        process = reading.json_of(folder / "config.json")["process"]
        return Bundle(
            files=tuple(sorted(path.name for path in folder.iterdir())),
            manifest=said["from_descriptor_path"]["descriptor_walk"][-1]["digest"],
            args=tuple(process.get("args") or ()),
            env=tuple(process.get("env") or ()),
            content=tuple(sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise reading.damaged(
            folder, error, "call it again: the bundle is made anew each time"
        ) from None


def pointers(layout: Path, folder: Path, name: str) -> Iterator[Pointer]:
    """Who points to whom: all of a layout, then the bundle that was unpacked from its tag ``name``."""
    bundle = read(folder)
    sizes = store.blobs(layout)
    for each in sorted(store.tags(layout)):
        tag = store.tag(layout, each)
        manifest = f"manifest {store.short(tag.manifest)}"
        parts = [("configuration", tag.config), *(("layer", digest) for digest in tag.layers)]
        yield _pointer("index.json", manifest, f"tag {each}", sizes[tag.manifest])
        for role, digest in parts:
            yield _pointer(manifest, f"{role} {store.short(digest)}", role, sizes[digest])
    first = store.tag(layout, name)
    mtree = next(file for file in bundle.files if file.endswith(".mtree"))
    manifest = f"manifest {store.short(bundle.manifest)}"
    size = (folder / "umoci.json").stat().st_size
    yield _pointer("bundle: umoci.json", manifest, "names", size)
    size = (folder / mtree).stat().st_size
    yield _pointer(
        "bundle: *.mtree", manifest, "named after; lists rootfs as it was unpacked", size
    )
    config = f"configuration {store.short(first.config)}"
    size = (folder / "config.json").stat().st_size
    yield _pointer("bundle: config.json", config, "made from", size)
    weight = sum(p.stat().st_size for p in (folder / "rootfs").rglob("*") if p.is_file())
    for digest in first.layers:
        yield _pointer("bundle: rootfs", f"layer {store.short(digest)}", "unpacked from", weight)


def _pointer(source: str, target: str, role: str, size: int) -> Pointer:
    return Pointer(source=source, target=target, role=role, bytes=size)
