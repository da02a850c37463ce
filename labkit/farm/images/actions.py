"""Builds, checks, inspects and unpacks the lab's images: an OCI layout with the tags base, web and one for each site."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted, human_bytes
from labkit.farm import rootfs
from labkit.farm.images import (
    builder,
    on_disk,
    store,
    unpacking,
)
from labkit.farm.images.builder import Layers
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.rootfs import packages, reproducible, variants
from labkit.farm.rootfs.buildplan import Rootfs
from labkit.model import sites
from labkit.model.config import unknown
from labkit.model.lab import Lab
from labkit.records import Record


class Layer(Record):
    """A layer: its blob's hash and size (compressed), by what it was made, the tags that use it."""

    digest: str
    bytes: int
    made_by: str
    tags: tuple[str, ...]


class Image(Record):
    """The lab's layout."""

    layout: Path
    tags: tuple[store.Tag, ...]
    layers: tuple[Layer, ...]

    def tag(self, name: str) -> store.Tag:
        """The tag of that name; raises :class:`~labkit.errors.ConfigError` with the nearest one."""
        known = {tag.name: tag for tag in self.tags}
        if name not in known:
            raise unknown(name, known, "a tag of this lab's image")
        return known[name]


class Inspected(Record):
    """What skopeo(1) says of an image."""

    tag: str
    digest: str
    created: str
    architecture: str
    layers: tuple[str, ...]
    environment: tuple[str, ...]
    labels: dict[str, str]


@action("image.build")
def build(lab: Lab) -> Outcome[Image]:
    """Builds the lab's images: one layout with the tags base, web and one for each site.

    Makes the root file system and the two common layers if the cache lacks them (about a minute); a second call
    changes nothing.

    :return: the tags, and the layers with their sizes in bytes.
    :raises BuildError: see :func:`labkit.farm.rootfs.build`.

    >>> images.build(lab).frames["layers"]  # doctest: +SKIP
    """
    builder.refuse_common_names(lab)
    base = rootfs.build(lab).value
    common, made = builder.common_layers(lab, base)
    with lock(lab.run_dir, "image"):
        changed = not builder.is_current(lab, common)
        if changed:
            builder.make(lab, common)
        value = read(lab)
    weight = sum(layer.bytes for layer in value.layers)
    return Outcome(
        value=value,
        subject=lab.name,
        changed=changed or made,
        summary=f"{counted(len(value.tags), 'image')} in one layout: {counted(len(value.layers), 'layer')}, "
        f"{human_bytes(weight)} compressed; the {counted(len(lab.sites), 'site', 'share')} all but "
        f"{human_bytes(sum(layer.bytes for layer in value.layers if len(layer.tags) == 1))}.",
        checks=checks(lab, value),
        tables=(_input_table(lab, base, common), _tag_table(value), _layer_table(value)),
    )


@action("image.inspect")
def inspect(lab: Lab, tag: str) -> Outcome[Inspected]:
    """Reads an image by skopeo, which shares no code with umoci; builds it if need be.

    :param tag: a site's name, ``base`` or ``web``.
    :raises ConfigError: the lab has no such tag.

    >>> images.inspect(lab, "web").value.architecture  # doctest: +SKIP
    'amd64'
    """
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
        summary=f"skopeo reads {tag}: {counted(len(seen.layers), 'layer')} for {seen.architecture}.",
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
    """The unpacked image of a tag: a site, ``base`` or ``web``; it is built and unpacked if need be.

    Each layer is unpacked once: those of ``web`` in the cache, for all labs, a site's own in the lab's state folder.
    """
    known = on_disk.remembered(lab) or {}
    return known.get(tag) or _unpacked(lab, build(lab).value, tag)


def unpack_all(lab: Lab) -> dict[str, Unpacked]:
    """The unpacked image of every site, by the site's name; built and unpacked if need be."""
    known = on_disk.remembered(lab)
    if known is None:
        value = build(lab).value
        known = {site.name: _unpacked(lab, value, site.name) for site in lab.sites}
        on_disk.remember(lab, known)
    return known


def _unpacked(lab: Lab, value: Image, tag: str) -> Unpacked:
    chosen, web = value.tag(tag), value.tag("web")
    whole = chosen if len(chosen.layers) <= len(web.layers) else web
    below = unpacking.whole(lab, value.layout, whole.name)
    own = [unpacking.layer(lab, value.layout, d) for d in chosen.layers[len(whole.layers) :]]
    config = unpacking.configuration(lab, value.layout, tag, below)
    return Unpacked(tag=tag, lower=(*reversed(own), below), config=config)


def read(lab: Lab) -> Image:
    """The layout as it lies on disk; raises :class:`StateError` without one."""
    layout = builder.place(lab) / "layout"
    tags = tuple(store.tag(layout, name) for name in sorted(store.tags(layout)))
    users: dict[str, list[str]] = {}
    for tag in tags:
        for digest in tag.layers:
            users.setdefault(digest, []).append(tag.name)
    by = {
        digest: who
        for tag in tags
        for digest, who in zip(tag.layers, store.config(layout, tag.config).made_by, strict=False)
    }
    sizes = store.blobs(layout)
    return Image(
        layout=layout,
        tags=tags,
        layers=tuple(
            Layer(digest=d, bytes=sizes.get(d, 0), made_by=by.get(d, ""), tags=tuple(names))
            for d, names in users.items()
        ),
    )


def checks(lab: Lab, value: Image) -> tuple[Check, ...]:
    """Whether the layout is whole, the sites share what they can, and web has the servers and no keys."""
    lost = [store.short(digest) for digest in store.missing(value.layout)]
    web = value.tag("web").layers
    apart = [site.name for site in lab.sites if value.tag(site.name).layers[:-1] != web]
    pathless = [
        tag.name
        for tag in value.tags
        if not any(v.startswith("PATH=") for v in store.config(value.layout, tag.config).env)
    ]
    show = f"skopeo inspect oci:{value.layout}:{lab.sites[0].name}"
    return (
        _all("image.whole", "every blob that is pointed to is there", lost, ("E2",), show),
        _all("image.path", "each image's own configuration has a PATH", pathless, ("I4",), show),
        _all("image.shared", "each site adds one layer to web's", apart, ("E2", "E4"), show),
        *_web_checks(unpacking.whole(lab, value.layout, "web")),
    )


def _web_checks(root: Path) -> tuple[Check, ...]:
    versions = {package.name: package.version for package in packages.read(root)}
    known = ("apache2", *variants.SSH)
    seen = [f"{name} {versions[name]}" for name in known if name in versions]
    off = [
        name
        for name in variants.MODULES
        if not (root / f"etc/apache2/mods-enabled/{name}.load").exists()
    ]
    keys = [path.name for path in root.glob("etc/ssh/ssh_host_*")]
    return (
        Check(
            name="image.web",
            expected="apache2 and an ssh server installed",
            seen=", ".join(seen) or "neither",
            holds="apache2" in versions and len(seen) == 2,
            rows=("E4",),
            again=f"dpkg --root={root} --list apache2 openssh-server",
        ),
        _all(
            "image.modules",
            f"apache2's modules {' and '.join(variants.MODULES)} are on",
            off,
            ("E4",),
            f"ls {root}/etc/apache2/mods-enabled",
        ),
        _all(
            "image.no-keys",
            "no ssh host key is in the image: the lab has one, laid above it",
            keys,
            ("E4",),
            f"ls {root}/etc/ssh",
        ),
    )


def _all(
    name: str, statement: str, exceptions: list[str], rows: tuple[str, ...], again: str
) -> Check:
    """A check of a statement without exceptions."""
    seen = f"not so: {', '.join(exceptions)}" if exceptions else statement
    return equal(name, statement, seen, rows=rows, again=again)


def _tag_table(value: Image) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "tag": tag.name,
            "manifest": store.short(tag.manifest),
            "config": store.short(tag.config),
            "layers": " + ".join(map(store.short, tag.layers)),
        }
        for tag in value.tags
    ]
    return Table.of("tags", "The tags: each a manifest, a configuration and layers", rows)


def _layer_table(value: Image) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "layer": store.short(layer.digest),
            "compressed": layer.bytes,
            "made by": layer.made_by,
            "used by": ", ".join(layer.tags),
        }
        for layer in value.layers
    ]
    title = "The layers: stored once, however many images use them"
    return Table.of("layers", title, rows, units={"compressed": "bytes"})


def _input_table(lab: Lab, base: Rootfs, common: Layers) -> Table:
    files = {site.name: [lab.title(site), sites.files(lab, site)] for site in lab.sites}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    values = {
        "suite and architecture": f"{base.suite}, {base.architecture}",
        "root file system": f"{base.variant}, {base.origin}",
        "packages and their versions": f"{common.packages}, {common.listed}",
        "umoci": store.umoci_version(),
        "the sites' files": digest[:12],
        "source date (the youngest file of a package)": reproducible.stamp(common.epoch),
    }
    rows: list[dict[str, Cell]] = [
        {"input": name, "value": value} for name, value in values.items()
    ]
    return Table.of("inputs", "What determines the hashes: the same gives the same again", rows)
