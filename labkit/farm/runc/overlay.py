"""Root file systems on overlayfs: an image's layers below, a container's own files above."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.errors import MachineError
from labkit.farm.runc import attempt
from labkit.journal import not_root
from labkit.kernel import calls, netns
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
    with attempt.folder(lab) as folder:
        for part in ("lower", "upper", "scratch", "target"):
            (folder / part).mkdir()
        netns.alone(_try, folder, place)
    return place


def mount(lower: Sequence[Path], own: Path, target: Path) -> None:
    """The folders ``lower``, the topmost first, are seen at ``target``, below what is in ``own/upper``."""
    options = _options(lower, own)
    try:
        calls.mount("overlay", target, "overlay", options=options)
    except OSError as error:
        raise _refused(error, own, options, target) from None


def made_of(lower: Sequence[Path], files: Mapping[str, str]) -> str:
    """What a root file system is made of: another text, and it has to be mounted anew."""
    given = hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:16]
    return "\n".join([*map(str, lower), given, ""])


def _try(folder: Path, place: Path) -> None:
    """Mounts one where nobody sees it, in a thread that ends and takes it along."""
    options, target = _options((folder / "lower",), folder), folder / "target"
    try:
        calls.unshare(calls.CLONE_NEWNS)
        calls.mount("", Path("/"), flags=calls.MS_REC | calls.MS_PRIVATE)
        calls.mount("overlay", target, "overlay", options=options)
    except OSError as error:
        raise _refused(error, place, options, target) from None


def _options(lower: Sequence[Path], own: Path) -> str:
    return (
        f"lowerdir={':'.join(map(str, lower))},upperdir={own / 'upper'},workdir={own / 'scratch'}"
    )


def _refused(error: OSError, place: Path, options: str, target: Path) -> MachineError:
    words = ["mount", "--types", "overlay", "overlay", "--options", options, str(target)]
    return MachineError(
        "overlayfs", f"cannot be had at {place}: mount: {error.strerror}", REMEDY, shlex.join(words)
    )
