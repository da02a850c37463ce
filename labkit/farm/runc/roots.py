"""The bundles that containers are made from, all of a lab's at once.

What stands is looked at first; what has to be made is written into the journal in one go, before the
first of it is made.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import run
from labkit.farm.runc import overlay
from labkit.farm.runc.bundle import Json, Spec, configure, marked, text
from labkit.farm.runc.places import bundle, folder, runc_root
from labkit.files import text_of, write_atomically
from labkit.journal import Journal
from labkit.lab import Lab
from labkit.undo import delete_container, mount_points, unmount

if TYPE_CHECKING:
    from labkit.farm.image import Unpacked

#: Debian's www-data (base-passwd, static ids).
WWW_DATA = 33


@dataclass(frozen=True)
class Wanted:
    """A container's bundle as it has to be: the image's layers, and the files (path below the root -> text,
    mode 0600) of the container's own."""

    spec: Spec
    unpacked: Unpacked
    files: Mapping[str, str]


def prepare(lab: Lab, wanted: Sequence[Wanted]) -> tuple[str, ...]:
    """The bundles stand: config.json, and the root file system as an overlay on the image's layers.

    Returns the names of those of which anything had to be made. The caller holds the ``farm`` lock.
    """
    mounted = mount_points()
    new = [item for item in wanted if not _stands(lab, item, mounted)]
    things = [("folder", {"path": str(folder(lab, item.spec.name))}) for item in new]
    things += [("mount", {"target": str(_root(lab, item))}) for item in new]
    if new:
        Journal.of(lab).intend_all(things)
    run.spread(functools.partial(_make, lab, mounted=mounted), new)
    configured = [item for item in wanted if _configure(lab, item)]
    return tuple(item.spec.name for item in wanted if item in new or item in configured)


def configuration(image_own: Json, spec: Spec) -> str:
    """The text of the bundle's config.json; it names its own fingerprint, which runC shows again."""
    return _configuration(json.dumps(image_own), spec.model_dump_json())


@functools.lru_cache(maxsize=1024)
def _configuration(image_own: str, spec: str) -> str:
    """The same of both as JSON: a farm is looked at more than once while it is brought up."""
    return text(marked(configure(json.loads(image_own), Spec.model_validate_json(spec))))


def image_configuration(unpacked: Unpacked) -> Json:
    """The runtime configuration that umoci made from the image's own."""
    found: Json = json.loads(unpacked.config.read_text())
    return found


def _root(lab: Lab, item: Wanted) -> Path:
    return bundle(lab, item.spec.name) / "rootfs"


def _made_of(item: Wanted) -> str:
    return overlay.made_of(item.unpacked.lower, item.files)


def _stands(lab: Lab, item: Wanted, mounted: frozenset[str]) -> bool:
    """Whether the root file system is mounted as wanted."""
    own = folder(lab, item.spec.name)
    return str(_root(lab, item).resolve()) in mounted and text_of(own / "lower") == _made_of(item)


def _make(lab: Lab, item: Wanted, *, mounted: frozenset[str]) -> None:
    own, target = folder(lab, item.spec.name), _root(lab, item)
    if str(target.resolve()) in mounted:
        delete_container(lab, root=str(runc_root(lab)), container=item.spec.name)
        unmount(lab, target=str(target))
    for part in ("upper", "scratch", "log", "bundle/rootfs"):
        (own / part).mkdir(parents=True, exist_ok=True)
    os.chown(own / "log", WWW_DATA, WWW_DATA)
    for path, content in item.files.items():
        _put(own / "upper" / path, content)
    overlay.mount(item.unpacked.lower, own, target)
    write_atomically(own / "lower", _made_of(item))


def _put(path: Path, content: str) -> None:
    """A file of root's alone. Half of one counts as none: what the root is made of is written last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)


def _configure(lab: Lab, item: Wanted) -> bool:
    """config.json is as it has to be; whether it was not."""
    path = bundle(lab, item.spec.name) / "config.json"
    wanted = configuration(image_configuration(item.unpacked), item.spec)
    if text_of(path) == wanted:
        return False
    write_atomically(path, wanted)
    return True
