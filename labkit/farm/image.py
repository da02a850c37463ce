"""The lab's images: one OCI layout with the tags ``base``, ``web`` and one for each site.

The layout lies in the lab's state folder. Its large blobs are the cache's own files (hard links:
a blob's name is the hash of its content, so nobody writes into one); ``index.json`` and the sites'
blobs are the lab's alone. It is always made whole beside its place and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import ValidationError

from labkit import run
from labkit.checks import Check, equal
from labkit.display import human_bytes
from labkit.errors import StateError
from labkit.farm import layers, oci, rootfs, tarball
from labkit.farm.building import building
from labkit.farm.layers import Layers, umoci
from labkit.files import write_atomically
from labkit.journal import Journal, lock
from labkit.lab import Lab, Site, unknown
from labkit.result import Outcome, Record, Table, action

#: Goes up with every change of what a build leaves.
EDITION = 1


class Layer(Record):
    """A layer: its blob's hash and weight (compressed), by what it was made, the tags that stand on it."""

    digest: str
    bytes: int
    made_by: str
    tags: tuple[str, ...]


class Tag(Record):
    """A tag: its manifest, its configuration, its layers from the bottom up (hashes)."""

    name: str
    manifest: str
    config: str
    layers: tuple[str, ...]


class Image(Record):
    """The lab's layout."""

    layout: Path
    tags: tuple[Tag, ...]
    layers: tuple[Layer, ...]

    def tag(self, name: str) -> Tag:
        """The tag of that name; raises :class:`~labkit.errors.ConfigError` with the nearest one."""
        known = {tag.name: tag for tag in self.tags}
        if name not in known:
            raise unknown(name, known, "a tag of this lab's image")
        return known[name]


class Unpacked(Record):
    """An image as runC's bundles use it: ``lower`` are overlayfs' lower folders, the topmost first,
    that nobody writes into; ``config`` is the runtime configuration that umoci made from the
    image's own."""

    tag: str
    lower: tuple[Path, ...]
    config: Path


class Inspected(Record):
    """What skopeo(1) says of an image."""

    tag: str
    digest: str
    created: str
    architecture: str
    layers: tuple[str, ...]
    environment: tuple[str, ...]
    labels: dict[str, str]


class Kept(Record):
    """The file beside the layout: what it was made from, and the manifest that each tag had then."""

    key: str
    digests: dict[str, str]


@action("image.build")
def build(lab: Lab) -> Outcome[Image]:
    """The layout has the tags base, web and one a site; a second call finds them as they are.

    Makes the root file system and the two common layers when the cache lacks them (about a
    minute). :raises BuildError: see :func:`labkit.farm.rootfs.build`.
    """
    base = rootfs.build(lab).value
    common, made = layers.made(lab, base)
    with lock(lab.run_dir, "image"):
        changed = not _stands(lab, common)
        if changed:
            _make(lab, common)
        value = read(lab)
    weight = sum(layer.bytes for layer in value.layers)
    return Outcome(
        value=value,
        subject=lab.name,
        changed=changed or made,
        summary=f"{len(value.tags)} images in one layout: {len(value.layers)} layers, "
        f"{human_bytes(weight)} compressed; the {len(lab.sites)} sites share all but "
        f"{human_bytes(sum(layer.bytes for layer in value.layers if len(layer.tags) == 1))}.",
        checks=checks(lab, value),
        tables=(_tag_table(value), _layer_table(value)),
    )


@action("image.inspect")
def inspect(lab: Lab, tag: str) -> Outcome[Inspected]:
    """What skopeo, which shares no code with umoci, reads from the image; builds it if need be."""
    value = build(lab).value
    value.tag(tag)
    found = json.loads(run.run(["skopeo", "inspect", f"oci:{value.layout}:{tag}"]).stdout)
    seen = Inspected(
        tag=tag,
        digest=found["Digest"],
        created=found["Created"],
        architecture=found["Architecture"],
        layers=tuple(found["Layers"]),
        environment=tuple(found["Env"] or ()),
        labels=found["Labels"] or {},
    )
    return Outcome(
        value=seen,
        subject=tag,
        summary=f"skopeo reads {tag}: {len(seen.layers)} layers for {seen.architecture}.",
        checks=(
            equal(
                f"image.inspect.{tag}",
                value.tag(tag).manifest,
                seen.digest,
                rows=("E2",),
                again=f"skopeo inspect oci:{value.layout}:{tag}",
            ),
        ),
    )


def unpacked(lab: Lab, tag: str) -> Unpacked:
    """The image is unpacked, each layer set once: what ``web`` holds in the cache, for all labs, a site's
    own layer in the lab's state folder."""
    value = build(lab).value
    chosen, web = value.tag(tag), value.tag("web")
    whole = chosen if len(chosen.layers) <= len(web.layers) else web
    big = _unpacked_whole(lab, value.layout, whole)
    own = [_extracted(lab, value.layout, d) for d in chosen.layers[len(whole.layers) :]]
    config = _configuration(lab, value.layout, chosen, big)
    return Unpacked(tag=tag, lower=(*reversed(own), big), config=config)


def read(lab: Lab) -> Image:
    """The layout as it lies on the disk; raises :class:`StateError` when it is not there."""
    layout = place(lab) / "layout"
    tags = tuple(_tag(layout, name, found) for name, found in sorted(oci.tags(layout).items()))
    users: dict[str, list[str]] = {}
    for tag in tags:
        for digest in tag.layers:
            users.setdefault(digest, []).append(tag.name)
    by = {digest: who for tag in tags for digest, who in _makers(layout, tag)}
    sizes = oci.blobs(layout)
    return Image(
        layout=layout,
        tags=tags,
        layers=tuple(
            Layer(digest=d, bytes=sizes.get(d, 0), made_by=by.get(d, ""), tags=tuple(names))
            for d, names in users.items()
        ),
    )


def place(lab: Lab) -> Path:
    """Where the lab keeps its layout and what belongs to it."""
    return lab.state_dir / "image"


def checks(lab: Lab, value: Image) -> tuple[Check, ...]:
    """Whether every blob is there, and the sites share all layers but one each."""
    lost = oci.missing(value.layout)
    web = value.tag("web").layers
    apart = [site.name for site in lab.sites if value.tag(site.name).layers[:-1] != web]
    return (
        equal(
            "image.whole",
            "every blob that is pointed to is there",
            f"missing: {', '.join(map(oci.short, lost))}" if lost else
            "every blob that is pointed to is there",
            rows=("E2",),
            again=f"umoci list --layout {value.layout}",
        ),
        equal(
            "image.shared",
            "each site adds one layer to web's",
            f"not so: {', '.join(apart)}" if apart else "each site adds one layer to web's",
            rows=("E2", "E4"),
            again=f"skopeo inspect oci:{value.layout}:{lab.sites[0].name}",
        ),
    )  # fmt: skip


# -- making ----------------------------------------------------------------------------------


def _stands(lab: Lab, common: Layers) -> bool:
    """Whether the layout is the one that this lab and these layers make, and whole."""
    try:
        kept = Kept.model_validate_json((place(lab) / "image.json").read_text(encoding="utf-8"))
        found = {name: pointer.digest for name, pointer in oci.tags(_layout(lab)).items()}
        whole = not oci.missing(_layout(lab))
    except (FileNotFoundError, ValidationError, StateError):
        return False
    return whole and kept == Kept(key=_key(lab, common), digests=found)


def _layout(lab: Lab) -> Path:
    return place(lab) / "layout"


def _key(lab: Lab, common: Layers) -> str:
    """Changes with whatever the layout is made from."""
    parts = {site.name: _files(lab, site) for site in lab.sites}
    text = json.dumps([EDITION, common.key, common.seconds, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _files(lab: Lab, site: Site) -> dict[str, str]:
    from labkit.farm import site as sites

    return sites.files(lab, site)


def _make(lab: Lab, common: Layers) -> None:
    Journal.of(lab).intend("folder", path=str(place(lab)))
    big = _unpacked_whole(
        lab, common.layout, _tag(common.layout, "web", oci.tags(common.layout)["web"])
    )
    with building(lab, place(lab), what=f"images of {lab.name}") as work:
        layout = work / "layout"
        take_over(common.layout, layout)
        created = oci.config(layout, _tag(layout, "web", oci.tags(layout)["web"]).config).created
        for site in lab.sites:
            _add_site(lab, site, work, big, created)
        for digest in oci.unused(layout):
            oci.blob(layout, digest).unlink()
        digests = {name: pointer.digest for name, pointer in oci.tags(layout).items()}
        kept = Kept(key=_key(lab, common), digests=digests)
        write_atomically(work / "image.json", kept.model_dump_json(indent=1))


def take_over(source: Path, target: Path) -> None:
    """``target`` is a layout of its own with ``source``'s content; the blobs are the same files where
    both lie on one file system."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True)
        elif path.parent.parent.name == "blobs":
            _link(path, copy)
        else:
            shutil.copyfile(path, copy)


def _link(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except OSError:  # another file system, or more links than it allows
        shutil.copy2(path, copy)


def _add_site(lab: Lab, site: Site, work: Path, below: Path, created: str) -> None:
    """The layout in ``work`` has the site's tag: web's layers and one with the site's files.

    Nothing in it depends on the time, so the same files give the same image again.
    """
    image = f"{work}/layout:web"
    archive = work / f"{site.name}.tar"
    tarball.write(archive, _files(lab, site), below)
    when = ("--history.created", created)
    by = f"labkit: the files of {site.name}"
    umoci(
        "raw", "add-layer", "--image", image, "--tag", site.name, *layers.told(by), *when, archive
    )
    archive.unlink()
    options = (
        f"--config.label=org.opencontainers.image.title={lab.title(site)}",
        f"--config.label=labkit.lab={lab.name}",
        f"--config.label=labkit.site={site.name}",
        *when,
    )
    layers.configure(f"{work}/layout:{site.name}", options)


# -- unpacking -------------------------------------------------------------------------------


def _unpacked_whole(lab: Lab, layout: Path, tag: Tag) -> Path:
    """The folder in the cache with the whole root file system of a tag."""
    chain = oci.chain_id(oci.config(layout, tag.config).diff_ids)
    folder = lab.cache_dir / "unpacked" / chain.partition(":")[2][:24]
    return _once(
        lab,
        folder,
        lambda work: umoci("raw", "unpack", "--image", f"{layout}:{tag.name}", work / "rootfs"),
    )


def _extracted(lab: Lab, layout: Path, digest: str) -> Path:
    """The folder in the lab's state with the files of one layer, which removes none."""
    folder = lab.state_dir / "unpacked" / oci.short(digest)
    Journal.of(lab).intend("folder", path=str(folder.parent))
    return _once(
        lab,
        folder,
        lambda work: tarball.extract(oci.blob(layout, digest), work / "rootfs"),
    )


def _once(lab: Lab, folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder/rootfs``, made if it is not there."""
    with lock(lab.cache_dir / "locks", f"unpacked-{folder.name}"):
        if not folder.exists():
            with building(lab, folder, what=f"unpacked image {folder.name}") as work:
                make(work)
    return folder / "rootfs"


def _configuration(lab: Lab, layout: Path, tag: Tag, root: Path) -> Path:
    """The file with the runtime configuration of a tag, made by umoci from the image's own."""
    path = lab.state_dir / "unpacked" / f"{oci.short(tag.manifest)}.json"
    if not path.exists():
        Journal.of(lab).intend("folder", path=str(path.parent))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        image = f"{layout}:{tag.name}"
        umoci("raw", "runtime-config", "--image", image, "--rootfs", root, part)
        part.replace(path)
    return path


# -- reading ---------------------------------------------------------------------------------


def _tag(layout: Path, name: str, pointer: oci.Descriptor) -> Tag:
    found = oci.manifest(layout, pointer.digest)
    return Tag(
        name=name,
        manifest=pointer.digest,
        config=found.config.digest,
        layers=tuple(layer.digest for layer in found.layers),
    )


def _makers(layout: Path, tag: Tag) -> list[tuple[str, str]]:
    """By what each layer of a tag was made, from the image's history."""
    history = oci.config(layout, tag.config).history
    made = [step.created_by for step in history if not step.empty]
    return list(zip(tag.layers, made, strict=False))


def _tag_table(value: Image) -> Table:
    rows = [
        {
            "tag": tag.name,
            "manifest": oci.short(tag.manifest),
            "config": oci.short(tag.config),
            "layers": " + ".join(map(oci.short, tag.layers)),
        }
        for tag in value.tags
    ]
    return Table.of("tags", "The tags: each a manifest, a configuration and layers", rows)


def _layer_table(value: Image) -> Table:
    rows: list[Mapping[str, str | int]] = [
        {
            "layer": oci.short(layer.digest),
            "compressed": layer.bytes,
            "made by": layer.made_by,
            "used by": ", ".join(layer.tags),
        }
        for layer in value.layers
    ]
    title = "The layers: stored once, however many images use them"
    return Table.of("layers", title, rows, units={"compressed": "bytes"})
