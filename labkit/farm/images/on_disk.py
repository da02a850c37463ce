"""The lab's images as they lie on disk, read without building or unpacking anything.

A build reads every part of an image and asks programs for their versions, which takes as long as starting the farm.
So the result is remembered, together with a hash of everything that it depends on: the Lab, the machine's packages
and their sources, labkit's recipe. While that hash and the seals of layout and unpacked files
(:mod:`labkit.core.cache`) are the same, nothing is read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from labkit.core import cache
from labkit.core.files import proven, text_of, write_proven
from labkit.errors import StateError
from labkit.farm.images import builder, store, unpacking
from labkit.farm.images.store import Tag
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.rootfs import variants
from labkit.model.lab import Lab
from labkit.model.sites import CONFIGURATION, PAGE, files
from labkit.records import Record

#: The files of the machine's packages and their sources (dpkg(1), sources.list(5)).
MACHINE = (Path("/var/lib/dpkg/status"), Path("/etc/apt"), Path("/etc/apt/sources.list.d"))
#: What determines the common layers, besides the root file system.
RECIPE = (
    builder.EDITION, builder.LAYERS_EDITION, variants.PACKAGES, variants.MODULES, dict(builder.ENVIRONMENT),
    builder.COMMAND,
)  # fmt: skip


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


def remembered(lab: Lab) -> dict[str, Unpacked] | None:
    """The unpacked image of every site, None when anything may have changed since :func:`remember`."""
    try:
        known = Remembered.model_validate_json(proven(_file(lab)) or "")
        same = known.stamp == _stamp(lab)
    except (OSError, ValueError):
        return None
    folders = {root.parent for item in known.sites.values() for root in item.lower}
    texts = [(item.config, text_of(item.config)) for item in known.sites.values()]
    named = all(text is not None and unpacking.is_named(path, text) for path, text in texts)
    whole = same and named and not cache.fault({*folders, builder.place(lab)})
    return known.sites if whole else None


def remember(lab: Lab, unpacked: dict[str, Unpacked]) -> None:
    """Remembers images that have just been built or checked completely."""
    value = Remembered(stamp=_stamp(lab), sites=unpacked)
    write_proven(_file(lab), value.model_dump_json(indent=1))


def _file(lab: Lab) -> Path:
    return lab.state_dir / "unpacked" / "found.json"


def _stamp(lab: Lab) -> str:
    wanted = {site.name: [lab.title(site), files(lab, site)] for site in lab.sites}
    parts = [RECIPE, wanted, lab.rootfs.model_dump(mode="json"), *_stats(lab)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _stats(lab: Lab) -> Iterator[list[object]]:
    paths = [builder.place(lab) / cache.SEAL]
    for place in MACHINE:
        lists = (*place.glob("*.list"), *place.glob("*.sources")) if place.is_dir() else ()
        paths += [place, *sorted(lists)]
    for path in paths:
        stat = path.stat()
        yield [str(path), stat.st_ino, stat.st_size if path.is_file() else 0, stat.st_mtime_ns]


def read(lab: Lab, suite: str) -> Images | None:
    """The lab's images as they are; None without a layout, or with one that cannot be read.

    ``suite`` is the suite that '' in lab.toml stands for.
    """
    known = remembered(lab)
    if known is None:
        return _read(lab)
    sites = {}
    for site in lab.sites:
        text = files(lab, site)
        sites[site.name] = SiteImage(
            page=text[PAGE], host=text[CONFIGURATION], unpacked=known[site.name]
        )
    return Images(layout="whole", rootfs=builder.made_from(lab, suite), sites=sites)


def _read(lab: Lab) -> Images | None:
    place = builder.place(lab)
    layout = place / "layout"
    try:
        damage = cache.damage(place)
        names = store.tags(layout)
        web = store.tag(layout, "web")
        below = unpacking.whole_place(lab, layout, "web")
        sites = {
            site.name: _site(lab, store.tag(layout, site.name), web, below)
            for site in lab.sites
            if site.name in names
        }
    except (StateError, OSError, ValueError):
        return None
    record = builder.recorded(lab)
    return Images(
        layout=f"damaged: {cache.some_names(damage)}" if damage else "whole",
        rootfs=(record.rootfs or "unknown") if record else "none",
        made_by=record.tools if record else "",
        tools=builder.tools(lab),
        sites=sites,
    )


def _site(lab: Lab, tag: Tag, web: Tag, below: Path) -> SiteImage:
    layers = [unpacking.layer_place(lab, digest) for digest in tag.layers[len(web.layers) :]]
    config = unpacking.known_configuration(lab, tag.manifest)
    lower = (*reversed(layers), below)
    damage = cache.fault(root.parent for root in lower)
    usable = tag.layers[: len(web.layers)] == web.layers and not damage
    return SiteImage(
        page=_text(layers, PAGE),
        host=_text(layers, CONFIGURATION),
        unpacked=Unpacked(tag=tag.name, lower=lower, config=config) if usable and config else None,
        damage=damage,
    )


def _text(layers: list[Path], path: str) -> str:
    return next((text for layer in layers if (text := text_of(layer / path)) is not None), "")
