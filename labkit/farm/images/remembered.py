"""The lab's unpacked images as they were found when they were last looked at whole.

Building looks at every part of an image, and asks programs for their versions: as long as the farm takes
to start. All of that is left out when nothing that it depends on has changed since: what the Lab says, the
machine's packages and their sources, labkit's own recipe. Layout and unpacked files are as they were made
(:mod:`labkit.core.cache`), and the configuration has the hash that is in its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from labkit.core import cache
from labkit.core.files import proven, text_of, write_proven
from labkit.farm.images import layers, siteimages, unpacking
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.rootfs import variants
from labkit.model import sites
from labkit.model.lab import Lab
from labkit.records import Record

#: What the machine's packages and their sources are read from (dpkg(1), sources.list(5)).
MACHINE = (Path("/var/lib/dpkg/status"), Path("/etc/apt"), Path("/etc/apt/sources.list.d"))
#: What a build of the common layers is determined by, besides the root file system.
RECIPE = (
    siteimages.EDITION, layers.EDITION, variants.PACKAGES, variants.MODULES, dict(layers.ENVIRONMENT),
    layers.COMMAND,
)  # fmt: skip


class Found(Record):
    """The sites' images by name, and the hash of all that they were found by."""

    stamp: str
    sites: dict[str, Unpacked]


def unpacked(lab: Lab) -> dict[str, Unpacked] | None:
    """Every site's image, None when anything may have changed since :func:`remember`."""
    try:
        found = Found.model_validate_json(proven(_file(lab)) or "")
        same = found.stamp == _stamp(lab)
    except (OSError, ValueError):
        return None
    folders = {root.parent for item in found.sites.values() for root in item.lower}
    whole = all(_stands(item) for item in found.sites.values())
    sealed = same and whole and not cache.fault({*folders, siteimages.place(lab)})
    return found.sites if sealed else None


def remember(lab: Lab, found: dict[str, Unpacked]) -> None:
    """The images have just been looked at whole, and are these."""
    value = Found(stamp=_stamp(lab), sites=found)
    write_proven(_file(lab), value.model_dump_json(indent=1))


def _file(lab: Lab) -> Path:
    return lab.state_dir / "unpacked" / "found.json"


def _stands(item: Unpacked) -> bool:
    text = text_of(item.config)
    return text is not None and unpacking.is_named(item.config, text)


def _stamp(lab: Lab) -> str:
    wanted = {site.name: [lab.title(site), sites.files(lab, site)] for site in lab.sites}
    parts = [RECIPE, wanted, lab.rootfs.model_dump(mode="json"), *_stats(_files(lab))]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _files(lab: Lab) -> Iterator[Path]:
    """What the images were made from and lie in."""
    for path in MACHINE:
        yield path
        yield from sorted(path.glob("*.list")) if path.is_dir() else ()
        yield from sorted(path.glob("*.sources")) if path.is_dir() else ()
    yield siteimages.place(lab) / cache.SEAL


def _stats(paths: Iterable[Path]) -> Iterator[list[object]]:
    for path in paths:
        seen = path.stat()
        yield [str(path), seen.st_ino, seen.st_size if path.is_file() else 0, seen.st_mtime_ns]
