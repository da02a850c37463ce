"""What a lab uses of the cache that all labs share: links that keep it from being collected.

A lab's state folder has a link for each thing it uses (``uses/rootfs-minbase`` -> the folder in the
cache); the cache has a link to each such state folder, wherever it is. A thing that is made anew under
another name takes over the link; a lab that was taken down, or whose state is gone, uses nothing.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from labkit.core.files import beside
from labkit.core.journal import Journal
from labkit.model.lab import Lab


def hold(lab: Lab, what: str, place: Path) -> None:
    """The lab uses ``place``, a folder in the cache, as its ``what``; nothing else any more."""
    folder = lab.state_dir / "uses"
    if _leads(folder / what, place) and _leads(_known(lab), lab.state_dir):
        return
    Journal.of(lab).intend("folder", path=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    _known(lab).parent.mkdir(parents=True, exist_ok=True)
    _link(_known(lab), lab.state_dir)
    _link(folder / what, place)


def held(cache: Path, *labs: Path) -> dict[Path, tuple[str, ...]]:
    """What is used of a cache, each with the names of the labs that use it.

    :param labs: state folders to look into, beside those that the cache knows of.
    """
    known = [path.readlink() for path in (cache / "labs").glob("*") if path.is_symlink()]
    found: dict[Path, tuple[str, ...]] = {}
    for state in sorted({*known, *labs}):
        for link in (state / "uses").glob("*"):
            with suppress(OSError):
                place = link.readlink()
                found[place] = (*found.get(place, ()), state.name)
    return found


def states(cache: Path) -> tuple[Path, ...]:
    """The state folders of the labs that use a cache and are still there."""
    known = [path.readlink() for path in (cache / "labs").glob("*") if path.is_symlink()]
    return tuple(sorted(state for state in known if state.is_dir()))


def _known(lab: Lab) -> Path:
    name = hashlib.sha256(os.fsencode(lab.state_dir)).hexdigest()[:12]
    return lab.cache_dir / "labs" / f"{lab.name}-{name}"


def _leads(link: Path, place: Path) -> bool:
    try:
        return link.readlink() == place
    except OSError:
        return False


def _link(link: Path, place: Path) -> None:
    """A link made whole or not at all, over one that leads elsewhere: only then is one beside it first,
    which who is killed leaves there."""
    with suppress(FileExistsError):
        link.symlink_to(place)
    if not _leads(link, place):
        part = beside(link)
        part.symlink_to(place)
        part.replace(link)
