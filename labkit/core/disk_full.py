"""Whose disk is full, when something fails for that: the system's own words often do not say."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

from labkit.core.files import existing
from labkit.display import human_bytes
from labkit.errors import LabkitError, MachineError, excerpt, of_system
from labkit.model.lab import Lab

#: The system's numbers for a full disk, and for one's share of it.
FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: Exception) -> bool:
    """Whether something failed because a disk is full. Pure."""
    if isinstance(error, LabkitError):
        return "no space left on device" in str(error).lower()
    return isinstance(error, OSError) and error.errno in FULL


def key_of(lab: Lab, place: Path) -> str:
    """The key of lab.toml that has the folder in which a place is; '' when it is in none of the lab's. Pure."""
    folders = {
        "state": Path(lab.state),
        "cache": lab.cache_dir,
        "run": Path(lab.run),
        "outputs": Path(lab.outputs),
    }
    held = {key: folder for key, folder in folders.items() if place.is_relative_to(folder)}
    return max(held, key=lambda key: len(held[key].parts), default="")


def remedy(lab: Lab, place: Path, first: str = "make room") -> str:
    """What to do about a place's full disk: ``first``, or to have the folder that it is in elsewhere. Pure."""
    key = key_of(lab, place)
    return f"{first}, or set `{key}` to a folder on a larger disk" if key else first


def explained(error: Exception, lab: Lab) -> Exception:
    """The error; that of a full disk names the lab's folder that is on it, its key, and what to do."""
    if not is_full(error) or getattr(error, "code", "") == "build.disk-full":
        return error
    if isinstance(error, LabkitError) and error.code.endswith("disk-full"):
        place, reason, known = Path(error.value), error.reason, error
    else:
        place = _place(error, lab)
        known = of_system(OSError(errno.ENOSPC, "No space left on device"), str(place))
        left = human_bytes(shutil.disk_usage(existing(place)).free)
        what = excerpt(str(error).partition("\n")[0])
        reason = f"its disk is full ({left} left): {what}"
    if not key_of(lab, place):
        return error
    return MachineError(
        str(place),
        reason,
        f"{remedy(lab, place, known.remedy.partition(';')[0])}; then call it again",
        f"df -h {existing(place)}",
        code=known.code,
    )


def _place(error: Exception, lab: Lab) -> Path:
    """The lab's folder that is full: the one that the error is about, else the one with the least room left."""
    named = getattr(error, "filename", None)
    if isinstance(named, str) and key_of(lab, Path(named)):
        return existing(Path(named))
    return _fullest((lab.state_dir, lab.run_dir, lab.cache_dir, lab.output_dir))


def _fullest(folders: Iterable[Path]) -> Path:
    return min(folders, key=lambda folder: shutil.disk_usage(existing(folder)).free)
