"""The lab's image layout: builds, checks, inspects and unpacks the images, and reads them without building anything.

The layout has the tags ``base``, ``web`` and one for each site. A build reads every part of an image and asks programs
for their versions, which takes as long as starting the farm. So the unpacked images are remembered, together with a hash
of everything that they depend on: the Lab, the machine's packages and their sources, labkit's recipe. While that hash
and the seals of layout and unpacked files (:mod:`labkit.core.cache`) are the same, nothing is read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from labkit.checks import Check, equal
from labkit.core import cache, run
from labkit.core.files import proven, text_of, write_proven
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted, human_bytes
from labkit.errors import StateError
from labkit.farm import rootfs
from labkit.farm.images import builder, store, unpacking
from labkit.farm.images.builder import Layers
from labkit.farm.images.store import Tag
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.rootfs import packages, variants
from labkit.farm.rootfs.buildplan import Rootfs
from labkit.model import sites
from labkit.model.config import unknown
from labkit.model.lab import Lab
from labkit.model.sites import CONFIGURATION, PAGE
from labkit.records import Record

#: The files of the machine's packages and their sources (dpkg(1), sources.list(5)).
MACHINE = (Path("/var/lib/dpkg/status"), Path("/etc/apt"), Path("/etc/apt/sources.list.d"))


class Layer(Record):
    """A layer: its blob's hash and size (compressed), by what it was made, the tags that use it."""

    digest: str
    bytes: int
    made_by: str
    tags: tuple[str, ...]


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


class Inspected(Record):
    """What skopeo(1) says of an image."""

    tag: str
    digest: str
    created: str
    architecture: str
    layers: tuple[str, ...]
    environment: tuple[str, ...]
    labels: dict[str, str]


class Remembered(Record):
    """The unpacked images of the sites by name, and the hash of everything that they depend on."""

    stamp: str
    sites: dict[str, Unpacked]


class SiteImage(Record):
    """A site's image: the text of its page and of its virtual host ('' for none), and the unpacked
    image, None when a part of that is missing or damaged (``damage``: in words)."""

    page: str
    host: str
    unpacked: Unpacked | None
    damage: str = ""


class Images(Record):
    """The lab's layout in words ('whole'), its root file system in words, and the sites' images; the versions of the
    programs that made them, and those of now ('' where nothing has changed)."""

    layout: str
    rootfs: str
    made_by: str = ""
    tools: str = ""
    sites: dict[str, SiteImage] = Field(default_factory=dict)


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
        tables=_tables(lab, value, base, common),
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
    """Returns the unpacked image of a tag (a site, ``base`` or ``web``); builds and unpacks it if need be.

    Each layer is unpacked once: those of ``web`` in the cache, for all labs, a site's own in the lab's state folder.
    """
    known = remembered(lab) or {}
    return known.get(tag) or _unpacked(lab, build(lab).value, tag)


def unpack_all(lab: Lab) -> dict[str, Unpacked]:
    """Returns the unpacked image of every site, by the site's name; builds and unpacks them if need be."""
    known = remembered(lab)
    if known is None:
        value = build(lab).value
        known = {site.name: _unpacked(lab, value, site.name) for site in lab.sites}
        remember(lab, known)
    return known


def _unpacked(lab: Lab, value: Image, tag: str) -> Unpacked:
    chosen, web = value.tag(tag), value.tag("web")
    below = chosen if len(chosen.layers) <= len(web.layers) else web
    root = unpacking.whole(lab, value.layout, below.name)
    for digest in chosen.layers[len(below.layers) :]:
        unpacking.layer(lab, value.layout, digest)
    unpacking.configuration(lab, value.layout, tag, root)
    return _places(lab, chosen, below, root)


def _places(lab: Lab, tag: Tag, below: Tag, root: Path) -> Unpacked:
    """Where a tag's unpacked image lies, which stands on that of the tag ``below`` in ``root``."""
    own = [unpacking.layer_place(lab, digest) for digest in tag.layers[len(below.layers) :]]
    config = unpacking.configuration_place(lab, tag.manifest)
    return Unpacked(tag=tag.name, lower=(*reversed(own), root), config=config)


def read(lab: Lab) -> Image:
    """The layout as it lies on disk; raises :class:`StateError` without one."""
    layout = builder.place(lab) / "layout"
    tags = tuple(store.tag(layout, name) for name in sorted(store.tags(layout)))
    users: dict[str, list[str]] = {}
    by: dict[str, str] = {}
    for tag in tags:
        by |= zip(tag.layers, store.config(layout, tag.config).made_by, strict=False)
        for digest in tag.layers:
            users.setdefault(digest, []).append(tag.name)
    sizes = store.blobs(layout)
    layers = (
        Layer(digest=d, bytes=sizes.get(d, 0), made_by=by.get(d, ""), tags=tuple(names))
        for d, names in users.items()
    )
    return Image(layout=layout, tags=tags, layers=tuple(layers))


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
    root = unpacking.whole(lab, value.layout, "web")
    versions = {package.name: package.version for package in packages.read(root)}
    known = ("apache2", *variants.SSH)
    servers = [f"{name} {versions[name]}" for name in known if name in versions]
    enabled = root / "etc/apache2/mods-enabled"
    off = [name for name in variants.MODULES if not (enabled / f"{name}.load").exists()]
    keys = [path.name for path in root.glob("etc/ssh/ssh_host_*")]
    modules = f"apache2's modules {' and '.join(variants.MODULES)} are on"
    show = f"skopeo inspect oci:{value.layout}:{lab.sites[0].name}"
    found = [
        equal(
            f"image.{name}",
            statement,
            f"not so: {', '.join(exceptions)}" if exceptions else statement,
            rows=rows.split(),
            again=again,
        )
        for name, statement, exceptions, rows, again in (
            ("whole", "every blob that is pointed to is there", lost, "E2", show),
            ("path", "each image's own configuration has a PATH", pathless, "I4", show),
            ("shared", "each site adds one layer to web's", apart, "E2 E4", show),
            ("modules", modules, off, "E4", f"ls {enabled}"),
            ("no-keys", "no ssh host key is in the image: the lab has one, laid above it", keys, "E4", f"ls {root}/etc/ssh"),
        )
    ]  # fmt: skip
    web_check = Check(
        name="image.web",
        expected="apache2 and an ssh server installed",
        seen=", ".join(servers) or "neither",
        holds="apache2" in versions and len(servers) == 2,
        rows=("E4",),
        again=f"dpkg --root={root} --list apache2 openssh-server",
    )
    return (*found[:3], web_check, *found[3:])


def _tables(lab: Lab, value: Image, base: Rootfs, common: Layers) -> tuple[Table, ...]:
    text = json.dumps(builder.contents(lab), sort_keys=True)
    inputs = {
        "suite and architecture": f"{base.suite}, {base.architecture}",
        "root file system": f"{base.variant}, {base.origin}",
        "packages and their versions": f"{common.packages}, {common.listed}",
        "umoci": store.umoci_version(),
        "the sites' files": hashlib.sha256(text.encode()).hexdigest()[:12],
        "source date (the youngest file of a package)": store.stamp(common.epoch),
    }
    tags = [
        {
            "tag": tag.name,
            "manifest": store.short(tag.manifest),
            "config": store.short(tag.config),
            "layers": " + ".join(map(store.short, tag.layers)),
        }
        for tag in value.tags
    ]
    layers: list[dict[str, Cell]] = [
        {
            "layer": store.short(layer.digest),
            "compressed": layer.bytes,
            "made by": layer.made_by,
            "used by": ", ".join(layer.tags),
        }
        for layer in value.layers
    ]
    return (
        Table.of(
            "inputs",
            "What determines the hashes: the same gives the same again",
            [{"input": name, "value": text} for name, text in inputs.items()],
        ),
        Table.of("tags", "The tags: each a manifest, a configuration and layers", tags),
        Table.of(
            "layers",
            "The layers: stored once, however many images use them",
            layers,
            units={"compressed": "bytes"},
        ),
    )


# -- reading without building ------------------------------------------------------------------------


def remembered(lab: Lab) -> dict[str, Unpacked] | None:
    """The unpacked image of every site, None when anything may have changed since :func:`remember`."""
    try:
        known = Remembered.model_validate_json(proven(_file(lab)) or "")
        same = known.stamp == _stamp(lab)
    except (OSError, ValueError):
        return None
    paths = {path for item in known.sites.values() for path in (*item.lower, item.config)}
    whole = same and not cache.fault({builder.place(lab), *(path.parent for path in paths)})
    return known.sites if whole else None


def remember(lab: Lab, unpacked: dict[str, Unpacked]) -> None:
    """Remembers images that have just been built or checked completely."""
    value = Remembered(stamp=_stamp(lab), sites=unpacked)
    write_proven(_file(lab), value.model_dump_json(indent=1))


def _file(lab: Lab) -> Path:
    return lab.state_dir / "unpacked" / "found.json"


def _stamp(lab: Lab) -> str:
    recipe = (builder.EDITION, builder.RECIPE)
    parts = [recipe, builder.contents(lab), lab.rootfs.model_dump(mode="json"), *_stats(lab)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _stats(lab: Lab) -> Iterator[list[object]]:
    paths = [builder.place(lab) / cache.SEAL]
    for place in MACHINE:
        lists = (*place.glob("*.list"), *place.glob("*.sources")) if place.is_dir() else ()
        paths += [place, *sorted(lists)]
    for path in paths:
        stat = path.stat()
        yield [str(path), stat.st_ino, stat.st_size if path.is_file() else 0, stat.st_mtime_ns]


def observe(lab: Lab, suite: str) -> Images | None:
    """The lab's images as they are; None without a layout, or with one that cannot be read.

    ``suite`` is the suite that '' in lab.toml stands for.
    """
    known = remembered(lab)
    if known is None:
        return _observe(lab)
    found = {}
    for site in lab.sites:
        text, item = sites.files(lab, site), known[site.name]
        found[site.name] = SiteImage(page=text[PAGE], host=text[CONFIGURATION], unpacked=item)
    return Images(layout="whole", rootfs=builder.made_from(lab, suite), sites=found)


def _observe(lab: Lab) -> Images | None:
    place = builder.place(lab)
    layout = place / "layout"
    try:
        damage = cache.damage(place)
        names = store.tags(layout)
        web = store.tag(layout, "web")
        below = unpacking.whole_place(lab, layout, "web")
        found = {
            site.name: _site(lab, store.tag(layout, site.name), web, below)
            for site in lab.sites
            if site.name in names
        }
    except (StateError, OSError, ValueError):
        return None
    record = builder.record(lab)
    return Images(
        layout=f"damaged: {cache.some_names(damage)}" if damage else "whole",
        rootfs=(record.rootfs or "unknown") if record else "none",
        made_by=record.tools if record else "",
        tools=builder.tools(lab),
        sites=found,
    )


def _site(lab: Lab, tag: Tag, web: Tag, below: Path) -> SiteImage:
    item = _places(lab, tag, web, below)
    damage = cache.fault(path.parent for path in (*item.lower, item.config))
    usable = tag.layers[: len(web.layers)] == web.layers and not damage
    return SiteImage(
        page=_text(item.lower[:-1], PAGE),
        host=_text(item.lower[:-1], CONFIGURATION),
        unpacked=item if usable else None,
        damage=damage,
    )


def _text(layers: Sequence[Path], path: str) -> str:
    return next((text for layer in layers if (text := text_of(layer / path)) is not None), "")
