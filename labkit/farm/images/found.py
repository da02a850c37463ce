"""The lab's images as they lie there, read without building or unpacking anything."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from labkit.core import cache
from labkit.core.files import text_of
from labkit.errors import StateError
from labkit.farm.images import remembered, siteimages, store, unpacking
from labkit.farm.images.store import Tag
from labkit.farm.images.unpacking import Unpacked
from labkit.model.lab import Lab
from labkit.model.sites import CONFIGURATION, PAGE, files
from labkit.records import Record


class Site(Record):
    """A site's image: the text of its page and of its virtual host ('' for none), and the unpacked
    image, None when a part of that is missing or damaged (``damage``: in words)."""

    page: str
    host: str
    unpacked: Unpacked | None
    damage: str = ""


class Images(Record):
    """The lab's layout in words ('whole'), what root file system it stands on, and the sites' images; by
    which versions of programs they were made, and would be now ('' where nothing has changed)."""

    layout: str
    rootfs: str
    made_by: str = ""
    tools: str = ""
    sites: dict[str, Site] = Field(default_factory=dict)


def images(lab: Lab, suite: str) -> Images | None:
    """What is there of the lab's images; None when there is no layout, or one that cannot be read.

    Where nothing has changed since they were looked at whole (:mod:`labkit.farm.images.remembered`), they are
    not read. ``suite`` is what '' stands for.
    """
    known = remembered.unpacked(lab)
    return _read(lab) if known is None else _as_wanted(lab, known, suite)


def _as_wanted(lab: Lab, known: dict[str, Unpacked], suite: str) -> Images:
    texts = {site.name: files(lab, site) for site in lab.sites}
    sites = {
        name: Site(page=text[PAGE], host=text[CONFIGURATION], unpacked=known[name])
        for name, text in texts.items()
    }
    return Images(layout="whole", rootfs=siteimages.made_from(lab, suite), sites=sites)


def _read(lab: Lab) -> Images | None:
    layout = siteimages.place(lab) / "layout"
    try:
        wrong = cache.damage(siteimages.place(lab))
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
    return Images(
        layout=f"damaged: {cache.some_names(wrong)}" if wrong else "whole",
        rootfs=siteimages.recorded(lab),
        made_by=siteimages.made_by(lab),
        tools=siteimages.tools(lab),
        sites=sites,
    )


def _site(lab: Lab, tag: Tag, web: Tag, below: Path) -> Site:
    own = [unpacking.layer_place(lab, digest) for digest in tag.layers[len(web.layers) :]]
    config = unpacking.found_configuration(lab, tag.manifest)
    lower = (*reversed(own), below)
    damage = cache.fault(root.parent for root in lower)
    there = tag.layers[: len(web.layers)] == web.layers and not damage
    return Site(
        page=_text(own, PAGE),
        host=_text(own, CONFIGURATION),
        unpacked=Unpacked(tag=tag.name, lower=lower, config=config) if there and config else None,
        damage=damage,
    )


def _text(layers: list[Path], path: str) -> str:
    return next((text for layer in layers if (text := text_of(layer / path)) is not None), "")
