"""The servers that the farm's root file systems have: apache2 and an ssh server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

#: What is installed, and the modules of apache2 that are turned on.
PACKAGES = ("apache2", "openssh-server")
MODULES = ("headers", "include")
#: The packages that have an ssh server.
SSH = ("openssh-server", "dropbear-bin")
#: Folders that the services' start scripts make, with their modes.
FOLDERS: Mapping[str, int] = {"run/apache2": 0o755, "run/lock/apache2": 0o755, "run/sshd": 0o755}


def prepare(root: Path) -> None:
    """The folders are there that the servers' own start scripts would make."""
    for name, mode in FOLDERS.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    os.chown(root / "run/lock/apache2", *_owner(root / "etc/passwd", "www-data"))


def _owner(passwd: Path, name: str) -> tuple[int, int]:
    """The user and group number of a user in a root file system."""
    rows = (line.split(":") for line in passwd.read_text(encoding="utf-8").splitlines())
    return next((int(row[2]), int(row[3])) for row in rows if row[0] == name)
