"""Makes builds reproducible: the same packages and steps give the same bytes.

Traces of the installation are removed. What packages bring keeps the times of Debian's builds; what the installation
made is dated like the youngest of these, the root file system's *source date* (reproducible-builds.org,
SOURCE_DATE_EPOCH), which says how new the packages are.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

#: What the tools leave of the machine and of the installation itself, emptied or removed.
CACHES = ("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*_*")


HOST_FILES = ("etc/resolv.conf", "etc/hostname", "etc/machine-id", "var/log/bootstrap.log")


#: What tells of the installation alone, or is made again when it is needed (relative to the root).
TRACES = (
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/*-old",
    "var/log/*.log",
    "var/log/apt/*",
)
#: Where the day of each password's last change is written (shadow(5), field 3).
SHADOWS = ("etc/shadow", "etc/shadow-")
#: Folders that apt gives to a user of its own where that one can get at them, which depends on the folders
#: above the root file system, and to root elsewhere; on its next start it does so again.
PARTIAL = ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial")
DAY = 86400


def tidy(root: Path) -> int:
    """Downloads and indices are gone, and the files that describe the building machine are empty;
    returns how many bytes that was."""
    removed = 0
    for pattern in CACHES:
        for path in root.glob(pattern):
            removed += path.lstat().st_size
            path.unlink()
    for name in HOST_FILES:
        path = root / name
        if path.is_symlink() or path.exists():
            removed += path.lstat().st_size
            path.unlink()
            path.touch(mode=0o644)
    return removed


def source_date(root: Path, before: float = math.inf) -> int:
    """The time of a root file system's youngest file, of those older than ``before`` (both in seconds
    since 1970); 0 when there is none."""
    times = (path.lstat().st_mtime for path in _paths(root))
    return int(max((time for time in times if time < before), default=0))


def settle(root: Path, began: float, *, layer: bool = False) -> int:
    """What was installed since ``began`` is dated like the youngest file that is older; no password was
    changed later, and neither a log nor an owner tells of the installation. Returns that source date.

    Folders get that date, too: of several packages that have one, the last to be unpacked has dated it. In a
    ``layer`` on others those that are older keep their time, else all of them would be in it.
    """
    for pattern in TRACES:
        for path in root.glob(pattern):
            path.unlink()
    for path in (root / name for name in PARTIAL):
        if path.is_dir():
            os.chown(path, 0, 0)
    epoch = source_date(root, began - 1)  # file systems' clocks are coarse
    for path in (root / name for name in SHADOWS):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            path.write_text(changed_by(text, epoch // DAY), encoding="utf-8")
    for path in _paths(root):
        seen = path.lstat()
        if seen.st_mtime > epoch or (stat.S_ISDIR(seen.st_mode) and not layer):
            os.utime(path, (epoch, epoch), follow_symlinks=False)
    return epoch


def changed_by(text: str, day: int) -> str:
    """The lines of a shadow file in which no password was changed later than ``day``, counted from
    1970. Pure."""
    rows = [line.split(":") for line in text.splitlines()]
    for row in rows:
        if len(row) > 2 and row[2].isdigit():
            row[2] = str(min(int(row[2]), day))
    return "".join(":".join(row) + "\n" for row in rows)


def stamp(epoch: int) -> str:
    """The time as OCI images write it (RFC 3339): ``2024-02-10T08:15:00Z``. Pure."""
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _paths(root: Path) -> Iterator[Path]:
    """The root and everything below it."""
    yield root
    for folder, names, files in os.walk(root):
        yield from (Path(folder, name) for name in (*names, *files))
