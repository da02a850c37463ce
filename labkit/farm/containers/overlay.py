"""Makes containers' bundles: config.json, and a root file system on overlayfs over an image's layers.

All bundles of a lab are made at once. The existing ones are read first; what has to be made is written into the
journal in one go, before the first of it is made. Below a root file system are the image's layers and the lab's
files for it, above is a layer of the container's, where the host or the container has to write. With user
namespaces, the kernel shows the owners of all layers below by the container's ids (id-mapped mounts), so that
containers with different ids share them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import reading
from labkit.core import cache, probes, run
from labkit.core.files import beside, existing, put, text_of, write_atomically
from labkit.core.journal import Journal, not_root
from labkit.core.undo import delete_container, mount_points, unmount
from labkit.errors import MachineError, StateError
from labkit.farm.containers import lab_namespaces, runc, written
from labkit.farm.containers.bundle import Json, Spec, configure, marked, text
from labkit.kernel import calls, netns, users
from labkit.kernel.users import IDS
from labkit.model.lab import Lab

if TYPE_CHECKING:  # reading the state of containers needs no image
    from labkit.farm.images.unpacking import Unpacked

#: The uid and gid of Debian's www-data (base-passwd, static ids).
WWW_DATA = 33
#: The least number of layers of an overlay without a writable one (the kernel's overlayfs).
LEAST = 2
#: Threads that mount at a time.
WORKERS = 4
#: What to do where the kernel refuses.
REMEDY = (
    "load the kernel's module (modprobe overlay); in a container, give that one the right to mount, and "
    "put the lab's state (lab.toml: state) on a file system that is not an overlay"
)
_writing = threading.Lock()


@dataclass(frozen=True)
class Wanted:
    """A bundle to make: the unpacked image, the lab's ``files`` above its layers (path below the root -> text), and
    whether the host or the container writes into the root file system."""

    spec: Spec
    unpacked: Unpacked
    files: Mapping[str, str] = field(default_factory=dict)
    writable: bool = False


def require(lab: Lab) -> Path:
    """Tries whether the kernel mounts an overlay where the lab's would be, in a mount namespace that ends with it.

    Returns the existing folder in which it was tried; nothing is left there. Raises :class:`MachineError`.
    """
    if os.geteuid():
        raise not_root(f"a mount below {lab.state_dir}")
    place = existing(lab.state_dir)
    with probes.folder(lab) as folder:
        for part in ("lower", "upper", "scratch", "target"):
            (folder / part).mkdir()
        netns.alone(_try, folder, place)
    return place


def _try(folder: Path, place: Path) -> None:
    options, target = _options((folder / "lower",), folder), folder / "target"
    with _explained(place, options, target):
        calls.leave_mounts()
        calls.mount("overlay", target, "overlay", options=options)


def prepare(lab: Lab, wanted: Sequence[Wanted]) -> tuple[str, ...]:
    """Makes the bundles, with ids for each container (:mod:`labkit.farm.containers.lab_namespaces`).

    Returns the names of those of which something had to be made. The caller holds the ``farm`` lock.
    """
    ids = lab_namespaces.allot(lab, [item.spec.name for item in wanted])
    wanted = [
        replace(item, spec=lab_namespaces.with_ids(lab, item.spec, ids[item.spec.name]))
        for item in wanted
    ]
    mounted = mount_points()
    new = [item for item in wanted if not _is_made(lab, item, mounted)]
    things = [("folder", {"path": str(runc.folder(lab, item.spec.name))}) for item in new]
    things += [("mount", {"target": str(target)}) for item in new for target in _targets(lab, item)]
    files = {place: item.files for item in new for place in _files_layer(lab, item.files)}
    things += [("folder", {"path": str(place.parents[1])}) for place in files]
    if new:
        Journal.of(lab).intend_all(things)
    for place, content in files.items():
        _write_layer(place, content)
    run.spread(functools.partial(_lay, lab, mounted=mounted), new)
    for item in new:
        _mount_users(item.spec)
    mount_all(lab, new)
    for item in new:
        write_atomically(runc.folder(lab, item.spec.name) / "lower", _made_of(lab, item))
    configured = [item for item in wanted if _configure(lab, item)]
    return tuple(item.spec.name for item in wanted if item in new or item in configured)


def lower(lab: Lab, unpacked: Unpacked, files: Mapping[str, str]) -> tuple[Path, ...]:
    """The lower folders of a root file system with these files, the topmost first. Pure."""
    return (*_files_layer(lab, files), *unpacked.lower)


def made_of(lower: Sequence[Path], ids: int = 0, *, writable: bool = False) -> str:
    """A text that changes when a root file system has to be mounted anew: the folders, their seals
    (:mod:`labkit.core.cache`), the container's first id."""
    sealed = " ".join(filter(None, (cache.sealed(place.parent) for place in lower)))
    more = [*(["writable"] if writable else []), *([f"ids {ids}"] if ids else [])]
    more += [f"sealed {sealed}"] if sealed else []
    return "\n".join([*map(str, lower), *more, ""])


def recorded(file: Path) -> str | None:
    """The text of :func:`made_of` that a file has, None without one; '' when a folder that it names is gone."""
    text = text_of(file)
    folders = [Path(line) for line in (text or "").splitlines() if line.startswith("/")]
    return text if all(folder.is_dir() for folder in folders) else ""


def ids_of(text: str) -> int:
    """The first id that such a text names, 0 for none. Pure."""
    found = re.search(r"^ids (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _made_of(lab: Lab, item: Wanted) -> str:
    below = lower(lab, item.unpacked, item.files)
    return made_of(below, item.spec.ids, writable=_upper(lab, item) is not None)


def _root(lab: Lab, item: Wanted) -> Path:
    return runc.bundle(lab, item.spec.name) / "rootfs"


def _targets(lab: Lab, item: Wanted) -> list[Path]:
    """The mount points of the container."""
    users_file = [Path(item.spec.users)] if item.spec.users else []
    return [written.folder(lab, item.spec.name), _root(lab, item), *users_file]


def _upper(lab: Lab, item: Wanted) -> Path | None:
    """The folder with the container's own layer; a single layer below cannot be mounted without one."""
    few = len(lower(lab, item.unpacked, item.files)) < LEAST
    return runc.folder(lab, item.spec.name) if item.writable or few else None


def _is_made(lab: Lab, item: Wanted, mounted: frozenset[str]) -> bool:
    """Whether root file system, user namespace and the folder for what is written are mounted as wanted."""
    name = item.spec.name
    return (
        has_files(lab, item.files)
        and all(str(target.resolve()) in mounted for target in _targets(lab, item))
        and written.mounted_limit(lab, name, mounted) == written.limit(lab)
        and recorded(runc.folder(lab, name) / "lower") == _made_of(lab, item)
        and _has_users(item.spec)
    )


def _lay(lab: Lab, item: Wanted, *, mounted: frozenset[str]) -> None:
    """Makes the container's folders and the file system that it writes into; an older root is unmounted."""
    name, ids = item.spec.name, item.spec.ids
    place = runc.folder(lab, name)
    for stale in (_root(lab, item), runc.users_file(lab, name)):
        if str(stale.resolve()) in mounted:
            delete_container(lab, root=str(runc.root(lab)), container=name)
            unmount(lab, target=str(stale))
    layer = ("upper", "scratch") if _upper(lab, item) else ()
    for part in (*layer, "bundle/rootfs"):
        (place / part).mkdir(parents=True, exist_ok=True)
    before = ids_of(text_of(place / "lower") or "")
    for part in layer:
        shift(place / part, before, ids)
    written.mount(lab, name, ids + WWW_DATA, mounted)


def shift(place: Path, before: int, now: int) -> None:
    """Gives the files that belong to ids from ``before`` on, or to the machine's first ones, to the same ids
    from ``now`` on; links are not followed."""
    if before == now == 0:
        return
    for path in (place, *place.rglob("*")):
        there = path.lstat()
        owners = [_shifted(number, before, now) for number in (there.st_uid, there.st_gid)]
        if owners != [there.st_uid, there.st_gid]:
            os.chown(path, *owners, follow_symlinks=False)
            if stat.S_ISREG(there.st_mode):
                path.chmod(stat.S_IMODE(there.st_mode))  # chown(2) removes set-uid bits


def _shifted(number: int, before: int, now: int) -> int:
    start = next((first for first in (before, 0) if first <= number < first + IDS), None)
    return number if start is None else number - start + now


# -- the lab's files above an image --------------------------------------------------------------


def _files_layer(lab: Lab, files: Mapping[str, str]) -> tuple[Path, ...]:
    """The folder with these files, one for all containers that have the same; () without files. Pure."""
    if not files:
        return ()
    name = hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:16]
    return (lab.state_dir / "layers" / name / "rootfs",)


def has_files(lab: Lab, files: Mapping[str, str]) -> bool:
    """Whether the folder with these files exists as it was made (:mod:`labkit.core.cache`)."""
    return not cache.fault(place.parent for place in _files_layer(lab, files))


def _write_layer(place: Path, files: Mapping[str, str]) -> None:
    """Makes the folder with the files, whole or not at all; only root reads a private key."""
    folder = place.parent
    with _writing:  # else one thread removes a folder that another has made, and mounted
        if cache.whole(folder):
            return
        part = beside(folder)
        for path, content in files.items():
            mode = 0o600 if "PRIVATE KEY" in content else 0o644
            write_atomically(part / place.name / path, content, mode=mode)
        cache.seal(part)
        shutil.rmtree(folder, ignore_errors=True)
        put(part, folder)


# -- config.json ---------------------------------------------------------------------------------


def configuration(image_own: Json, spec: Spec) -> str:
    """The text of the bundle's config.json, made from the image's; it names its own fingerprint."""
    return _configuration(json.dumps(image_own), spec.model_dump_json())


@functools.lru_cache(maxsize=1024)  # a farm is read more than once while it is brought up
def _configuration(image_own: str, spec: str) -> str:
    return text(marked(configure(json.loads(image_own), Spec.model_validate_json(spec))))


def image_configuration(unpacked: Unpacked) -> Json:
    """The runtime configuration that umoci made from the image's own; raises :class:`FileNotFoundError` when the
    unpacked image has been removed meanwhile."""
    return reading.json_object(unpacked.config, "remove it, and call `labkit apply`")


def _configure(lab: Lab, item: Wanted) -> bool:
    """Writes config.json; returns whether it was another one."""
    path = runc.bundle(lab, item.spec.name) / "config.json"
    wanted = configuration(image_configuration(item.unpacked), item.spec)
    if text_of(path) == wanted:
        return False
    write_atomically(path, wanted)
    return True


# -- the user namespace --------------------------------------------------------------------------


def _mount_users(spec: Spec) -> None:
    """Mounts the user namespace that the container's network belongs to on the file where runC looks for it."""
    if not spec.users:
        return
    place = Path(spec.users)
    place.touch()
    with netns.opened(spec.netns) as network, users.owner(network) as found:
        if users.first_of(found, place.parent) != spec.ids:
            raise StateError(
                f"network namespace {spec.netns}",
                f"does not belong to the user namespace of {spec.name}, which could not be entered again",
                "remove it, and `labkit apply` makes a new one",
                f"ip netns delete {spec.netns}",
                code="state.namespace-owner",
            )
        calls.mount(f"/proc/self/fd/{found}", place, flags=calls.MS_BIND)


def _has_users(spec: Spec) -> bool:
    """Whether the mounted user namespace is the one that the container's network belongs to."""
    if not spec.users or not netns.stands(spec.netns):
        return True
    with netns.opened(spec.netns) as network, users.owner(network) as found:
        return os.path.samestat(os.fstat(found), Path(spec.users).stat())


# -- mounting ------------------------------------------------------------------------------------


def mount_all(lab: Lab, wanted: Sequence[Wanted]) -> None:
    """Mounts the root file systems, without set-uid programs; those with ids share the layers below, too."""
    run.spread(functools.partial(_mount, lab), [item for item in wanted if not item.spec.ids])
    shifted = [item for item in wanted if item.spec.ids]
    groups = [shifted[place::WORKERS] for place in range(WORKERS)]
    run.spread(
        lambda group: netns.alone(_mount_shifted, lab, group), [part for part in groups if part]
    )


def _mount(lab: Lab, item: Wanted) -> None:
    options = _options(lower(lab, item.unpacked, item.files), _upper(lab, item))
    target = _root(lab, item)
    with _explained(target, options, target):
        calls.mount("overlay", target, "overlay", flags=calls.MS_NOSUID, options=options)


def _mount_shifted(lab: Lab, wanted: Sequence[Wanted]) -> None:
    """Mounts root file systems with shifted owners, in a thread that ends.

    The folders below are mounted over themselves, with their owners shifted, in a mount namespace that ends
    with the thread: an overlay keeps copies of the mounts that it was made on. Then the overlays are moved to
    their places in the caller's namespace.
    """
    made: list[tuple[int, Path]] = []
    with ExitStack() as opened:
        home = _descriptor(opened, "/proc/thread-self/ns/mnt", os.O_RDONLY)
        calls.leave_mounts()
        layers = [lower(lab, item.unpacked, item.files) for item in wanted]
        below = {place: _descriptor(opened, place, os.O_PATH) for own in layers for place in own}
        for item, own in zip(wanted, layers, strict=True):
            target = _root(lab, item)
            with _explained(target, _options(own, _upper(lab, item)), target):
                with _users(item.spec) as namespace:
                    for place in own:
                        mounted = calls.mount_copied(below[place])
                        try:
                            calls.mount_shifted(mounted, namespace)
                            calls.mount_placed(mounted, place)
                        finally:
                            os.close(mounted)
                _mount(lab, item)
                made.append((copy_mount(opened, target), target))
        calls.setns(home, calls.CLONE_NEWNS)
        for mounted, target in made:
            calls.mount_placed(mounted, target)


def copy_mount(opened: ExitStack, place: Path) -> int:
    """A descriptor of a copy of the mount at ``place``, which ``opened`` closes."""
    with ExitStack() as passing:
        mounted = calls.mount_copied(_descriptor(passing, place, os.O_PATH))
    opened.callback(os.close, mounted)
    return mounted


@contextmanager
def _users(spec: Spec) -> Iterator[int]:
    """A descriptor of the user namespace by which owners are shifted: the mounted one, or a new one."""
    with ExitStack() as opened:
        yield (
            _descriptor(opened, spec.users, os.O_RDONLY)
            if spec.users
            else opened.enter_context(users.opened(spec.ids))
        )


def _descriptor(opened: ExitStack, path: str | Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor


def _options(lower: Sequence[Path], own: Path | None) -> str:
    above = f",upperdir={own / 'upper'},workdir={own / 'scratch'}" if own else ""
    return f"lowerdir={':'.join(map(str, lower))}{above}"


@contextmanager
def _explained(place: Path, options: str, target: Path) -> Iterator[None]:
    """Turns the kernel's refusal to mount an overlay into a :class:`MachineError`."""
    try:
        yield
    except OSError as error:
        words = ["mount", "--types", "overlay", "overlay", "--options", options, str(target)]
        raise MachineError(
            "overlayfs",
            f"cannot be mounted at {place}: {error.strerror}",
            REMEDY,
            shlex.join(words),
            code="machine.overlayfs",
        ) from None
