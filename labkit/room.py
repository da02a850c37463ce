"""Whose disk is full, when something fails for that: the system's own words often do not say."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

from labkit.display import human_bytes
from labkit.errors import LabkitError, MachineError, of_system
from labkit.lab import Lab

#: The system's numbers for a full disk, and for one's share of it.
FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: Exception) -> bool:
    """Whether something failed because a disk is full. Pure."""
    if isinstance(error, LabkitError):
        return "no space left on device" in str(error).lower()
    return isinstance(error, OSError) and error.errno in FULL


def explained(error: Exception, lab: Lab) -> Exception:
    """The error; that of a full disk names the lab's folder that is on it, and what to do."""
    if not is_full(error) or str(getattr(error, "code", "")).endswith("disk-full"):
        return error
    folder = _fullest((lab.state_dir, lab.run_dir, lab.cache_dir, lab.output_dir))
    known = of_system(OSError(errno.ENOSPC, "No space left on device"), str(folder))
    what = str(error).partition("\n")[0][-300:]
    left = human_bytes(shutil.disk_usage(_standing(folder)).free)
    return MachineError(
        str(folder),
        f"its disk is full ({left} left): {what}",
        f"{known.remedy}; then call it again",
        f"df -h {_standing(folder)}",
        code=known.code,
    )


def _fullest(folders: Iterable[Path]) -> Path:
    return min(folders, key=lambda folder: shutil.disk_usage(_standing(folder)).free)


def _standing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())
