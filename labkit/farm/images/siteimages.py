"""A lab's own layout: the common layers taken over from the cache, and a tag for each site.

The large blobs are the cache's own files (hard links: a blob's name is the hash of its content,
so nobody writes into one); ``index.json`` and the sites' blobs are the lab's alone. The layout is
always made whole beside its place and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from pydantic import Field

from labkit import reading
from labkit.core import cache
from labkit.core.files import write_atomically
from labkit.core.journal import Journal
from labkit.errors import ConfigError, MachineError, StateError
from labkit.farm.images import store, tarball, unpacking
from labkit.farm.images.layers import Layers
from labkit.farm.images.umoci import configure, dated, told, umoci
from labkit.farm.rootfs.cache_entries import building
from labkit.farm.rootfs.plans import program_version
from labkit.model import sites
from labkit.model.lab import Lab, Site
from labkit.records import Record

#: Goes up with every change of what a build leaves.
EDITION = 3
#: The tags that are no site's.
COMMON = ("base", "web")


class Kept(Record):
    """The file beside the layout: what it was made from (``rootfs``: in words, :func:`made_from`;
    ``tools``: by which versions of programs; ``parts``: for each site by itself), and the manifest that each
    tag had then."""

    key: str
    rootfs: str = ""
    tools: str = ""
    parts: dict[str, str] = Field(default_factory=dict)
    digests: dict[str, str]


def place(lab: Lab) -> Path:
    """The folder of the lab's ``layout`` and the record of how it was made."""
    return lab.state_dir / "image"


def refuse_common_names(lab: Lab) -> None:
    """Raises :class:`ConfigError` when a site has the name of a tag that is for all sites."""
    for site in lab.sites:
        if site.name in COMMON:
            raise ConfigError(
                f"sites: {site.name!r}",
                f"is the name of the image that all sites stand on ({', '.join(COMMON)})",
                "give the site another name",
                code="config.site-name",
            )


def made_from(lab: Lab, suite: str) -> str:
    """The root file system that the Lab's images are to stand on, in words; ``suite`` is what '' stands
    for. Pure."""
    asked = lab.rootfs
    more = f" and {' '.join(sorted(set(asked.packages)))}" if asked.packages else ""
    mirror = " from the lab's own mirror" if asked.mirror else ""
    return f"{asked.variant} of {asked.suite or suite} by {asked.tool}{more}{mirror}"


def tools(lab: Lab) -> str:
    """The machine's versions of the programs that images are made by, which decide their bytes."""
    return ", ".join(f"{name} {_version(name)}" for name in ("umoci", lab.rootfs.tool))


def _version(program: str) -> str:
    try:
        return program_version(program)
    except MachineError:
        return "(not installed)"


def made_by(lab: Lab) -> str:
    """The same of the images that lie there; '' when there are none, or nobody wrote it down."""
    kept = _read(lab)
    return kept.tools if kept else ""


def recorded(lab: Lab) -> str:
    """The same of the images that lie there; 'none' when there are none, or their record is damaged."""
    kept = _read(lab)
    return (kept.rootfs or "unknown") if kept else "none"


def stands(lab: Lab, common: Layers) -> bool:
    """Whether the layout is the one that this lab and these layers make, and whole."""
    if not cache.whole(place(lab)):
        return False
    try:
        found = _digests(place(lab) / "layout")
    except StateError:  # removed since
        return False
    return _read(lab) == _kept(lab, common, found)


def make(lab: Lab, common: Layers) -> None:
    """The lab's layout is made anew, of the images that are as they have to be already and those that it
    lacks; the caller holds its lock."""
    Journal.of(lab).intend("folder", path=str(place(lab)))
    below = unpacking.whole(lab, common.layout, "web")
    with building(lab, place(lab), what=f"images of {lab.name}") as work:
        layout = work / "layout"
        take_over(common.layout, layout)
        kept_ones = _reusable(lab, common)
        store.adopt(place(lab) / "layout", layout, kept_ones)
        for site in lab.sites:
            if site.name not in kept_ones:
                _add(lab, site, work, below, common.epoch)
        store.drop_unused(layout)
        kept = _kept(lab, common, _digests(layout))
        write_atomically(work / "image.json", kept.model_dump_json(indent=1))


def take_over(source: Path, target: Path) -> None:
    """``target`` is a layout of its own with ``source``'s content; the blobs are the same files where
    both lie on one file system."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True)
        elif path.parent.parent.name == "blobs":
            store.link(path, copy)
        else:
            shutil.copyfile(path, copy)


def _reusable(lab: Lab, common: Layers) -> tuple[str, ...]:
    """The sites whose image in the layout is whole, and the one that would be made again."""
    kept, layout = _read(lab), place(lab) / "layout"
    try:
        lost, found = set(store.missing(layout)), _digests(layout)
        return tuple(
            site.name
            for site in lab.sites
            if kept is not None
            and kept.parts.get(site.name) == _part(lab, common, site)
            and kept.digests.get(site.name) == found.get(site.name, "none")
            and lost.isdisjoint(store.blobs_of(layout, site.name))
        )
    except (OSError, ValueError, StateError):
        return ()


def _read(lab: Lab) -> Kept | None:
    """The record of the layout, None when there is none, or a damaged one."""
    try:
        return Kept.model_validate_json(reading.content(place(lab) / "image.json"))
    except (OSError, ValueError):
        return None


def _add(lab: Lab, site: Site, work: Path, below: Path, epoch: int) -> None:
    """The layout in ``work`` has the site's tag: web's layers and one with the site's files.

    Nothing in it depends on the time, so the same files give the same image again.
    """
    archive = work / f"{site.name}.tar"
    tarball.write(archive, sites.files(lab, site), below)
    history = told(f"labkit: the files of {site.name}", epoch)
    image = ("--image", f"{work}/layout:web", "--tag", site.name)
    umoci("raw", "add-layer", *image, *history, archive)
    archive.unlink()
    options = (
        f"--config.label=org.opencontainers.image.title={lab.title(site)}",
        f"--config.label=labkit.model.lab={lab.name}",
        f"--config.label=labkit.site={site.name}",
        *dated(epoch),
    )
    configure(f"{work}/layout:{site.name}", options)


def _digests(layout: Path) -> dict[str, str]:
    return {name: pointer.digest for name, pointer in store.tags(layout).items()}


def _kept(lab: Lab, common: Layers, digests: dict[str, str]) -> Kept:
    rootfs = made_from(lab, common.suite)
    parts = {site.name: _part(lab, common, site) for site in lab.sites}
    return Kept(
        key=_key(lab, common), rootfs=rootfs, tools=tools(lab), parts=parts, digests=digests
    )


def _part(lab: Lab, common: Layers, site: Site) -> str:
    """Changes with whatever one site's image is made from."""
    web = store.tag(common.layout, "web").manifest
    parts = [EDITION, common.key, web, lab.name, lab.title(site), sites.files(lab, site)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _key(lab: Lab, common: Layers) -> str:
    """Changes with whatever the layout is made from."""
    web = store.tag(common.layout, "web")
    parts = {site.name: [lab.title(site), sites.files(lab, site)] for site in lab.sites}
    text = json.dumps([EDITION, common.key, web.manifest, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
