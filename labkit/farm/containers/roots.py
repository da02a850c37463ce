"""The bundles that containers are made from, all of a lab's at once.

What stands is looked at first; what has to be made is written into the journal in one go, before the
first of it is made.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import reading
from labkit.core import cache, run
from labkit.core.files import beside, put, text_of, write_atomically
from labkit.core.journal import Journal
from labkit.core.undo import delete_container, mount_points, unmount
from labkit.errors import StateError
from labkit.farm.containers import idmap, overlay, places, quota
from labkit.farm.containers.bundle import Json, Spec, configure, marked, text
from labkit.farm.containers.places import bundle, folder, runc_root, users_file
from labkit.kernel import calls, netns, users
from labkit.kernel.users import IDS
from labkit.model.lab import Lab

if TYPE_CHECKING:
    from labkit.farm.images.unpacking import Unpacked

#: Debian's www-data (base-passwd, static ids).
WWW_DATA = 33
#: How many layers an overlay needs that nobody writes into (the kernel's overlayfs).
LEAST = 2


@dataclass(frozen=True)
class Wanted:
    """A container's bundle as it has to be: the image's layers, the files (path below the root -> text, mode
    0600) that the lab puts above them, and whether the host, or the container, is to write into its root."""

    spec: Spec
    unpacked: Unpacked
    files: Mapping[str, str]
    writable: bool = False


def prepare(lab: Lab, wanted: Sequence[Wanted]) -> tuple[str, ...]:
    """The bundles stand: config.json, and the root file system as an overlay on the image's layers.

    Each has ids of its own, where the lab and the machine allow it (:mod:`labkit.farm.containers.idmap`). Returns
    the names of those of which anything had to be made. The caller holds the ``farm`` lock.
    """
    wanted = _with_ids(lab, wanted)
    mounted = mount_points()
    new = [item for item in wanted if not _stands(lab, item, mounted)]
    things = [("folder", {"path": str(folder(lab, item.spec.name))}) for item in new]
    things += [("mount", {"target": str(target)}) for item in new for target in _targets(lab, item)]
    given = {place: item.files for item in new for place in _given(lab, item.files)}
    things += [("folder", {"path": str(place.parents[1])}) for place in given]
    if new:
        Journal.of(lab).intend_all(things)
    for place, files in given.items():
        _give(place, files)
    run.spread(functools.partial(_lay, lab, mounted=mounted), new)
    for item in new:
        _keep_users(item.spec)
    overlay.mount_all([_overlay(lab, item) for item in new])
    for item in new:
        write_atomically(folder(lab, item.spec.name) / "lower", _made_of(lab, item))
    configured = [item for item in wanted if _configure(lab, item)]
    return tuple(item.spec.name for item in wanted if item in new or item in configured)


def lower(lab: Lab, unpacked: Unpacked, files: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders that a root file system with these files is seen through, the topmost first. Pure."""
    return (*_given(lab, files), *unpacked.lower)


def _given(lab: Lab, files: Mapping[str, str]) -> tuple[Path, ...]:
    """The folder with these files, one for all containers that have the same; none for none. Pure.

    Beside it is the list that it is held against (:mod:`labkit.core.cache`)."""
    if not files:
        return ()
    text = json.dumps(sorted(files.items()))
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    return (lab.state_dir / "layers" / name / "rootfs",)


def configuration(image_own: Json, spec: Spec) -> str:
    """The text of the bundle's config.json; it names its own fingerprint, which runC shows again."""
    return _configuration(json.dumps(image_own), spec.model_dump_json())


@functools.lru_cache(maxsize=1024)
def _configuration(image_own: str, spec: str) -> str:
    """The same of both as JSON: a farm is looked at more than once while it is brought up."""
    return text(marked(configure(json.loads(image_own), Spec.model_validate_json(spec))))


def image_configuration(unpacked: Unpacked) -> Json:
    """The runtime configuration that umoci made from the image's own; :class:`FileNotFoundError` when the
    unpacked image was taken away since it was found."""
    return reading.json_object(unpacked.config, "remove it, and call `labkit apply`")


def _root(lab: Lab, item: Wanted) -> Path:
    return bundle(lab, item.spec.name) / "rootfs"


def _targets(lab: Lab, item: Wanted) -> list[Path]:
    """Where something is mounted for the container."""
    users = [Path(item.spec.users)] if item.spec.users else []
    return [places.written(lab, item.spec.name), _root(lab, item), *users]


def _made_of(lab: Lab, item: Wanted) -> str:
    below = lower(lab, item.unpacked, item.files)
    return overlay.made_of(below, item.spec.ids, writable=_has_own(lab, item))


def _has_own(lab: Lab, item: Wanted) -> bool:
    """Whether the container has a layer of its own; a single one below is not shown without."""
    return item.writable or len(lower(lab, item.unpacked, item.files)) < LEAST


def _stands(lab: Lab, item: Wanted, mounted: frozenset[str]) -> bool:
    """Whether root file system, user namespace and the place for what is written are mounted as wanted."""
    there = all(str(target.resolve()) in mounted for target in _targets(lab, item))
    there = there and quota.seen(lab, item.spec.name, mounted) == quota.told(lab)
    if not is_given(lab, item.files):
        return False
    made_of = overlay.found(folder(lab, item.spec.name) / "lower")
    return there and made_of == _made_of(lab, item) and _has_users(item.spec)


def _with_ids(lab: Lab, wanted: Sequence[Wanted]) -> list[Wanted]:
    ids = idmap.allot(lab, [item.spec.name for item in wanted])
    return [replace(item, spec=idmap.given(lab, item.spec, ids[item.spec.name])) for item in wanted]


def _overlay(lab: Lab, item: Wanted) -> overlay.Root:
    return overlay.Root(
        lower=lower(lab, item.unpacked, item.files),
        own=folder(lab, item.spec.name) if _has_own(lab, item) else None,
        target=_root(lab, item),
        ids=item.spec.ids,
        users=Path(item.spec.users) if item.spec.users else None,
    )


def _keep_users(spec: Spec) -> None:
    """The user namespace that the container's network belongs to is mounted where runC looks for it."""
    if spec.users:
        place = Path(spec.users)
        place.touch()
        with netns.opened(spec.netns) as network, users.owner(network) as found:
            if users.first_of(found, place.parent) != spec.ids:
                raise _strange(spec)
            calls.mount(f"/proc/self/fd/{found}", place, flags=calls.MS_BIND)


def _strange(spec: Spec) -> StateError:
    return StateError(
        f"network namespace {spec.netns}",
        f"does not belong to the user namespace of {spec.name}, which could not be entered again",
        "remove it, and `labkit apply` makes a new one",
        f"ip netns delete {spec.netns}",
        code="state.namespace-owner",
    )


def _has_users(spec: Spec) -> bool:
    """Whether what is mounted there is the one that its network belongs to."""
    if not spec.users or not netns.stands(spec.netns):
        return True
    with netns.opened(spec.netns) as network, users.owner(network) as found:
        return os.path.samestat(os.fstat(found), Path(spec.users).stat())


def _lay(lab: Lab, item: Wanted, *, mounted: frozenset[str]) -> None:
    """The container's own folders are there and its own, and so is the place for what it writes; nothing else is
    mounted."""
    place, target, ids = folder(lab, item.spec.name), _root(lab, item), item.spec.ids
    for stale in (target, users_file(lab, item.spec.name)):
        if str(stale.resolve()) in mounted:
            delete_container(lab, root=str(runc_root(lab)), container=item.spec.name)
            unmount(lab, target=str(stale))
    own = ("upper", "scratch") if _has_own(lab, item) else ()
    for part in (*own, "bundle/rootfs"):
        (place / part).mkdir(parents=True, exist_ok=True)
    before = overlay.ids_of(text_of(place / "lower") or "")
    for part in own:
        shift(place / part, before, ids)
    quota.lay(lab, item.spec.name, ids + WWW_DATA, mounted)


def shift(place: Path, before: int, now: int) -> None:
    """What belongs to the ids from ``before`` on, or to the machine's own first ones, belongs to those from
    ``now`` on; links are not followed."""
    if before == now == 0:
        return
    for path in (place, *place.rglob("*")):
        seen = path.lstat()
        owners = [_shifted(number, before, now) for number in (seen.st_uid, seen.st_gid)]
        if owners != [seen.st_uid, seen.st_gid]:
            os.chown(path, *owners, follow_symlinks=False)
            if stat.S_ISREG(seen.st_mode):
                path.chmod(stat.S_IMODE(seen.st_mode))  # which chown(2) takes set-uid bits from


def _shifted(number: int, before: int, now: int) -> int:
    """The id that stands for the same one of the container's. Pure."""
    start = next((first for first in (before, 0) if first <= number < first + IDS), None)
    return number if start is None else number - start + now


def is_given(lab: Lab, files: Mapping[str, str]) -> bool:
    """Whether the folder with these files is there as it was made."""
    return not cache.fault(place.parent for place in _given(lab, files))


def _give(place: Path, files: Mapping[str, str]) -> None:
    """The folder is there with the files, whole or not at all; a private key is root's alone."""
    folder = place.parent
    if cache.whole(folder):
        return
    part = beside(folder)
    for path, content in files.items():
        mode = 0o600 if "PRIVATE KEY" in content else 0o644
        write_atomically(part / place.name / path, content, mode=mode)
    cache.seal(part)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        put(part, folder)
    except OSError:  # another thread was faster
        if not place.is_dir():
            raise
        shutil.rmtree(part)


def _configure(lab: Lab, item: Wanted) -> bool:
    """config.json is as it has to be; whether it was not."""
    path = bundle(lab, item.spec.name) / "config.json"
    wanted = configuration(image_configuration(item.unpacked), item.spec)
    if text_of(path) == wanted:
        return False
    write_atomically(path, wanted)
    return True
