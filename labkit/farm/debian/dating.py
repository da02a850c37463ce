"""A root file system without the time of its making: the same packages and steps give the same bytes.

What packages bring has the times that Debian's builds gave it. What the installation made is dated
like the youngest of these, the root file system's *source date* (reproducible-builds.org,
SOURCE_DATE_EPOCH): so it says how new the packages are, and not when somebody installed them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

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
DAY = 86400


def source_date(root: Path, before: float = math.inf) -> int:
    """The time of a root file system's youngest file, of those older than ``before`` (both in seconds
    since 1970); 0 when there is none."""
    times = (path.lstat().st_mtime for path in _paths(root))
    return int(max((time for time in times if time < before), default=0))


def settle(root: Path, began: float) -> int:
    """What was installed since ``began`` is dated like the youngest file that is older; no password was
    changed later, and no log tells of the installation. Returns that source date."""
    for pattern in TRACES:
        for path in root.glob(pattern):
            path.unlink()
    epoch = source_date(root, began - 1)  # file systems' clocks are coarse
    for path in (root / name for name in SHADOWS):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            path.write_text(changed_by(text, epoch // DAY), encoding="utf-8")
    for path in _paths(root):
        if path.lstat().st_mtime > epoch:
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
