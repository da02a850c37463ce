"""Root file systems on overlayfs: an image's layers below, a container's own files above."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit import run
from labkit.errors import CommandError, MachineError
from labkit.journal import not_root
from labkit.lab import Lab

#: What to do where the kernel refuses.
REMEDY = (
    "load the kernel's module (modprobe overlay); in a container, give that one the right to mount, and "
    "put the lab's state (lab.toml: state) on a file system that is no overlay itself"
)


def require(lab: Lab) -> Path:
    """An overlay can be mounted where the lab's would be: tried in a mount namespace that ends with it.

    Returns the folder that was there to try it in; nothing is left in it. Raises :class:`MachineError`.
    """
    state = lab.state_dir
    place = next(folder for folder in (state, *state.parents) if folder.is_dir())
    if os.geteuid():
        raise not_root(f"a mount below {place}")
    with tempfile.TemporaryDirectory(prefix=".labkit-", dir=place) as name:
        folder = Path(name)
        for part in ("lower", "upper", "scratch", "target"):
            (folder / part).mkdir()
        words = _mount((folder / "lower",), folder, folder / "target")
        _run(["unshare", "--mount", "--", *words], place)
    return place


def mount(lower: Sequence[Path], own: Path, target: Path) -> None:
    """The folders ``lower``, the topmost first, are seen at ``target``, below what is in ``own/upper``."""
    _run(_mount(lower, own, target), own)


def made_of(lower: Sequence[Path], files: Mapping[str, str]) -> str:
    """What a root file system is made of: another text, and it has to be mounted anew."""
    given = hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:16]
    return "\n".join([*map(str, lower), given, ""])


def _mount(lower: Sequence[Path], own: Path, target: Path) -> list[str]:
    options = (
        f"lowerdir={':'.join(map(str, lower))},upperdir={own / 'upper'},workdir={own / 'scratch'}"
    )
    return ["mount", "--types", "overlay", "overlay", "--options", options, str(target)]


def _run(words: list[str], place: Path) -> None:
    try:
        run.run(words)
    except CommandError as error:
        said = " ".join((error.stderr or error.reason).split())
        raise MachineError(
            "overlayfs", f"cannot be had at {place}: {said}", REMEDY, error.again
        ) from None
