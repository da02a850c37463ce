"""What a container's processes write, in a file system of its own size: logs, and their output.

It is in memory (tmpfs), mounted on the host before the container starts. That works on every machine on which a
container can be started: a project quota has to be turned on in the machine's own file system (ext4: while it is
not mounted), and a loop device needs nodes in /dev, a program that makes a file system, and that for each
container. Its bytes count as memory of the container that writes them, and it is no folder of the disk that
somebody walks through: what a container leaves in it goes with the mount.

It stays when the container ends or is started again, and when labkit is killed; it goes with ``down`` and with
the machine's boot.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from labkit.errors import of_system
from labkit.farm.containers import logs
from labkit.farm.containers.places import console, sshd_log, written
from labkit.kernel import calls
from labkit.model.lab import Lab

#: As much at a time is copied.
BLOCK = 1 << 20
FLAGS = calls.MS_NOSUID | calls.MS_NODEV | calls.MS_NOEXEC


def told(lab: Lab) -> str:
    """How much a container may write, in words. Pure."""
    return f"{lab.containers.written_mib} MiB in {lab.containers.written_files} files"


def seen(lab: Lab, name: str, mounted: Collection[str]) -> str:
    """How much it may write as its file system is now, in the same words; 'none' without one, or with one that
    labkit was killed in the midst of."""
    place = written(lab, name)
    with suppress(FileNotFoundError):
        if str(place.resolve()) in mounted and (place / "log").stat().st_uid:
            found = os.statvfs(place)
            return f"{found.f_blocks * found.f_frsize // 2**20} MiB in {found.f_files} files"
    return "none"


def full(lab: Lab, name: str) -> bool:
    """Whether a container has written as much as it may: what its server wants to log is lost."""
    with suppress(OSError):
        found = os.statvfs(written(lab, name))
        return not (found.f_bavail and found.f_favail)
    return False


def lay(lab: Lab, name: str, owner: int, mounted: Collection[str]) -> None:
    """The file system is mounted as the lab says, and ``owner`` writes into its folder of logs.

    The logs of one that was there stay; of one of another size, as much of them as may stay in a full one.
    """
    if seen(lab, name, mounted) == told(lab):
        _give(lab, name, owner)
    else:
        _renew(lab, name, owner)


def make_room(lab: Lab, name: str) -> None:
    """A container that is about to be started can write half as much as it may, and its logs, whatever an earlier
    one left there: that stays only if it is a log. The caller sees to it that none runs."""
    logs.make_room(lab, name)
    for output in (console(lab, name), sshd_log(lab, name)):
        with suppress(FileNotFoundError):
            os.truncate(output, 0)
    folder = written(lab, name) / "log"
    with suppress(FileNotFoundError):
        if not _is_sound(folder):
            _renew(lab, name, folder.stat().st_uid)


def _is_sound(folder: Path) -> bool:
    """Whether there is nothing but logs in the folder, plain files, and their owner can write them."""
    known = {f"{kind}.log" for kind in logs.KINDS}
    modes = [stat.S_IFREG | folder.stat().st_mode & 0o700]
    with os.scandir(folder) as entries:
        for entry in entries:
            modes.append(entry.stat(follow_symlinks=False).st_mode if entry.name in known else 0)
    return all(stat.S_ISREG(mode) and mode & 0o600 == 0o600 for mode in modes)


def _renew(lab: Lab, name: str, owner: int) -> None:
    """A new file system with nothing in it but the logs."""
    place, asked = written(lab, name), lab.containers
    place.mkdir(parents=True, exist_ok=True)
    logs.make_room(lab, name)
    with logs.held(lab, name) as kept:
        try:
            calls.detach(place)
            options = f"mode=0755,size={asked.written_mib}m,nr_inodes={asked.written_files}"
            calls.mount("tmpfs", place, "tmpfs", flags=FLAGS, options=options)
        except OSError as error:
            raise of_system(error, str(place)) from None
        (place / "log").mkdir()
        for output in (console(lab, name), sshd_log(lab, name)):
            output.touch()  # a container that fills the rest does not keep them from being there
        for kind, descriptor in kept.items():
            with logs.place(lab, name, kind).open("wb") as file:
                while block := os.read(descriptor, BLOCK):
                    file.write(block)
    _give(lab, name, owner)


def _give(lab: Lab, name: str, owner: int) -> None:
    """The logs and, last, their folder belong to the owner; what else is in it stays the former one's."""
    with logs.held(lab, name) as found:
        for descriptor in found.values():
            os.fchown(descriptor, owner, owner)
    os.chown(written(lab, name) / "log", owner, owner)
