"""Root file systems on overlayfs: an image's layers below, a container's own files above."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from labkit.core import cache, probes, run
from labkit.core.files import existing, text_of
from labkit.core.journal import not_root
from labkit.errors import MachineError
from labkit.kernel import calls, netns, users
from labkit.model.lab import Lab

#: The first of the ids that are tried with: nobody's, the last that are no negative number anywhere.
FOREIGN = 2**31 - users.IDS
#: How many threads mount at a time.
WORKERS = 4

#: What to do where the kernel refuses.
REMEDY = (
    "load the kernel's module (modprobe overlay); in a container, give that one the right to mount, and "
    "put the lab's state (lab.toml: state) on a file system that is no overlay itself"
)


def require(lab: Lab) -> Path:
    """An overlay can be mounted where the lab's would be: tried in a mount namespace that ends with it.

    Returns the folder that was there to try it in; nothing is left in it. Raises :class:`MachineError`.
    """
    if os.geteuid():
        raise not_root(f"a mount below {lab.state_dir}")
    place = existing(lab.state_dir)
    with probes.folder(lab) as folder:
        for part in ("lower", "upper", "scratch", "target"):
            (folder / part).mkdir()
        netns.alone(_try, folder, place)
    return place


@dataclass(frozen=True)
class Root:
    """A root file system, in which no program gives anybody another's rights: the folders ``lower``, the topmost first, are to be seen at ``target``, below what
    is in ``own/upper`` (None: nobody can write there, and two of them are needed); with ``ids``, every owner
    in ``lower`` as so many ids further on, by the user namespace that is mounted at ``users``, or a new one."""

    lower: Sequence[Path]
    own: Path | None
    target: Path
    ids: int = 0
    users: Path | None = None


def mount_all(roots: Sequence[Root]) -> None:
    """The root file systems are mounted; those with owners of their own share the folders below, too."""
    run.spread(_mount, [root for root in roots if not root.ids])
    shifted = [root for root in roots if root.ids]
    groups = [shifted[place::WORKERS] for place in range(WORKERS)]
    run.spread(lambda group: netns.alone(_mount_shifted, group), [part for part in groups if part])


def require_shifted(*below: Path) -> None:
    """An overlay can be mounted on folders like these with owners of its own: tried on them, in memory, where
    nobody sees it. Nothing is written anywhere.

    Raises :class:`OSError` where the kernel or one of their file systems cannot, with a few words that say
    what of it was tried in its ``filename``.
    """
    netns.alone(_try_shifted, below)


def _mount(root: Root) -> None:
    options = _options(root.lower, root.own)
    try:
        calls.mount("overlay", root.target, "overlay", flags=calls.MS_NOSUID, options=options)
    except OSError as error:
        raise _refused(error, root.target, options, root.target) from None


def _mount_shifted(roots: Sequence[Root]) -> None:
    """In a thread that ends: mounts them where nobody sees it, and puts them in their places then.

    The folders below are mounted over themselves, with their owners shifted, in a mount namespace that ends
    with the thread: an overlay keeps copies of the mounts that it was made on.
    """
    made: list[tuple[int, Root]] = []
    with ExitStack() as opened:
        home = _descriptor(opened, "/proc/thread-self/ns/mnt", os.O_RDONLY)
        calls.leave_mounts()
        below = {place: 0 for root in roots for place in root.lower}
        below = {place: _descriptor(opened, place, os.O_PATH) for place in below}
        for root in roots:
            try:
                made.append((_shifted(opened, root, below), root))
            except OSError as error:
                options = _options(root.lower, root.own)
                raise _refused(error, root.target, options, root.target) from None
        calls.setns(home, calls.CLONE_NEWNS)
        for mounted, root in made:
            calls.mount_placed(mounted, root.target)


def _shifted(opened: ExitStack, root: Root, below: Mapping[Path, int]) -> int:
    """A descriptor of the overlay, which is mounted in the caller's own mount namespace alone; ``below`` are
    open on the folders as they really are."""
    with _users(root) as namespace:
        for place in root.lower:
            mounted = calls.mount_copied(below[place])
            try:
                calls.mount_shifted(mounted, namespace)
                calls.mount_placed(mounted, place)
            finally:
                os.close(mounted)
    options = _options(root.lower, root.own)
    calls.mount("overlay", root.target, "overlay", flags=calls.MS_NOSUID, options=options)
    with ExitStack() as passing:
        found = calls.mount_copied(_descriptor(passing, root.target, os.O_PATH))
    opened.callback(os.close, found)
    return found


@contextmanager
def _users(root: Root) -> Iterator[int]:
    """A descriptor of the user namespace by which owners are shifted."""
    if root.users is None:
        with users.opened(root.ids) as made:
            yield made
        return
    with ExitStack() as opened:
        yield _descriptor(opened, root.users, os.O_RDONLY)


def _descriptor(opened: ExitStack, path: str | Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor


def made_of(lower: Sequence[Path], ids: int = 0, *, writable: bool = False) -> str:
    """What a root file system is made of: another text, and it has to be mounted anew. A folder that was built
    again in its place is another one."""
    sealed = " ".join(filter(None, (cache.sealed(place.parent) for place in lower)))
    more = [*(["writable"] if writable else []), *([f"ids {ids}"] if ids else [])]
    more += [f"sealed {sealed}"] if sealed else []
    return "\n".join([*map(str, lower), *more, ""])


def found(file: Path) -> str | None:
    """What such a text in a file says, None without one; nothing ('') when a folder that it names is gone: what
    is mounted shows less than it did."""
    text = text_of(file)
    folders = [Path(line) for line in (text or "").splitlines() if line.startswith("/")]
    return text if all(folder.is_dir() for folder in folders) else ""


def ids_of(text: str) -> int:
    """The ids that such a text names, 0 when it names none. Pure."""
    found = re.search(r"^ids (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _try(folder: Path, place: Path) -> None:
    """Mounts one where nobody sees it, in a thread that ends and takes it along."""
    options, target = _options((folder / "lower",), folder), folder / "target"
    try:
        calls.leave_mounts()
        calls.mount("overlay", target, "overlay", options=options)
    except OSError as error:
        raise _refused(error, place, options, target) from None


def _try_shifted(below: Sequence[Path]) -> None:
    """In a thread that ends and takes along what is mounted: all of it in a file system in memory."""
    calls.leave_mounts()
    with ExitStack() as opened:
        folders = [_descriptor(opened, place, os.O_PATH) for place in below]
        own = below[0]
        calls.mount("tmpfs", own, "tmpfs")
        namespace = opened.enter_context(users.opened(FOREIGN))
        for number, folder in enumerate(folders):
            mounted = calls.mount_copied(folder)
            opened.callback(os.close, mounted)
            calls.mount_shifted(mounted, namespace)
            (own / str(number)).mkdir()
            calls.mount_placed(mounted, own / str(number))
        for part in ("upper", "scratch", "target"):
            (own / part).mkdir()
        lower = [own / str(number) for number in range(len(folders))]
        calls.mount("overlay", own / "target", "overlay", options=_options(lower, own))


def _options(lower: Sequence[Path], own: Path | None) -> str:
    above = f",upperdir={own / 'upper'},workdir={own / 'scratch'}" if own else ""
    return f"lowerdir={':'.join(map(str, lower))}{above}"


def _refused(error: OSError, place: Path, options: str, target: Path) -> MachineError:
    words = ["mount", "--types", "overlay", "overlay", "--options", options, str(target)]
    return MachineError(
        "overlayfs",
        f"cannot be had at {place}: mount: {error.strerror}",
        REMEDY,
        shlex.join(words),
        code="machine.overlayfs",
    )
