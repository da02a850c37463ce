"""The tmpfs of a fixed size that holds a container's logs and output: mounted, read, emptied.

It is in memory (tmpfs), mounted on the host before the container starts. That works on every machine on which a
container can be started: a project quota has to be turned on in the machine's own file system (ext4: while it is
not mounted), and a loop device needs nodes in /dev, a program that makes a file system, and that for each
container. Its bytes count as memory of the container that writes them.

It stays when the container ends or is started again, and when labkit is killed; it goes with ``down`` and with
the machine's boot. When it is full, requests are still answered. A program that rotates the logs would be two more
processes in each container. The container owns the folder of logs and may put anything there: only a plain file is
read as a log.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

from labkit import reading
from labkit.errors import of_system
from labkit.farm.containers import runc
from labkit.kernel import calls
from labkit.model.lab import Lab

Kind = Literal["access", "error"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Bytes that are copied at a time.
BLOCK = 1 << 20
FLAGS = calls.MS_NOSUID | calls.MS_NODEV | calls.MS_NOEXEC


def folder(lab: Lab, name: str) -> Path:
    """The folder on which the file system is mounted."""
    return runc.folder(lab, name) / "written"


def console(lab: Lab, name: str) -> Path:
    """The output (standard output and error) of a detached container's first process."""
    return folder(lab, name) / "console.log"


def sshd_log(lab: Lab, name: str) -> Path:
    """The output of the container's ssh server."""
    return folder(lab, name) / "sshd.log"


def log(lab: Lab, name: str, kind: Kind) -> Path:
    """A log of the container's web server (:data:`labkit.model.sites.LOG_FORMAT`)."""
    return folder(lab, name) / "log" / f"{kind}.log"


def lines(path: Path, trace: str = "") -> Iterator[str]:
    """The complete lines of a log that contain ``trace``; none of a file that is missing or not plain."""
    with suppress(OSError), os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
        yield from reading.lines(file, trace)


def end(path: Path, characters: int = 600) -> str:
    """The last characters of a log, '' when there is none; control characters are replaced."""
    with suppress(OSError), os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4 * characters))
        text = file.read(4 * characters).decode(errors="replace").strip()[-characters:]
        return "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in text)
    return ""


@contextmanager
def _logs(lab: Lab, name: str) -> Iterator[dict[Kind, int]]:
    """Open descriptors of the container's logs that exist."""
    found: dict[Kind, int] = {}
    with ExitStack() as opened:
        for kind in KINDS:
            with suppress(OSError):
                found[kind] = _opened(log(lab, name, kind), os.O_RDWR)
                opened.callback(os.close, found[kind])
        yield found


def _opened(path: Path, flags: int) -> int:
    """A descriptor of a plain file; :class:`OSError` for anything else, without waiting for it."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path)
    return descriptor


def empty_large_logs(lab: Lab, name: str) -> None:
    """Empties the container's logs if they take more than half of the space; the server goes on at the beginning.
    The other half holds a measurement's 100,000 lines of some 250 bytes."""
    with _logs(lab, name) as found:
        sizes = [os.fstat(descriptor).st_size for descriptor in found.values()]
        if 2 * sum(sizes) > lab.containers.written_mib * 2**20:
            for descriptor in found.values():
                os.ftruncate(descriptor, 0)


def limit(lab: Lab) -> str:
    """How much a container may write, in words. Pure."""
    return f"{lab.containers.written_mib} MiB in {lab.containers.written_files} files"


def mounted_limit(lab: Lab, name: str, mounted: Collection[str]) -> str:
    """How much the mounted file system holds, in the words of :func:`limit`; 'none' without one, or with one that
    is not complete since labkit was killed."""
    place = folder(lab, name)
    with suppress(FileNotFoundError):
        if str(place.resolve()) in mounted and (place / "log").stat().st_uid:
            found = os.statvfs(place)
            return f"{found.f_blocks * found.f_frsize // 2**20} MiB in {found.f_files} files"
    return "none"


def is_full(lab: Lab, name: str) -> bool:
    """Whether the file system is full, so that the server's further lines are lost."""
    with suppress(OSError):
        found = os.statvfs(folder(lab, name))
        return not (found.f_bavail and found.f_favail)
    return False


def mount(lab: Lab, name: str, owner: int, mounted: Collection[str]) -> None:
    """Mounts the file system with the lab's limit and gives the folder of logs to the uid ``owner``.

    Logs of an earlier one are kept; where the limit has changed, as many bytes of them as a full one may keep.
    """
    if mounted_limit(lab, name, mounted) == limit(lab):
        _give(lab, name, owner)
    else:
        _renew(lab, name, owner)


def make_room(lab: Lab, name: str) -> None:
    """Frees half of the space before the container starts; of earlier files only logs stay. The caller sees to it
    that no process of the container runs."""
    empty_large_logs(lab, name)
    for output in (console(lab, name), sshd_log(lab, name)):
        with suppress(FileNotFoundError):
            os.truncate(output, 0)
    with suppress(FileNotFoundError):
        if not _only_logs(folder(lab, name) / "log"):
            _renew(lab, name, (folder(lab, name) / "log").stat().st_uid)


def _only_logs(place: Path) -> bool:
    """Whether the folder holds plain log files alone that their owner can write."""
    known = {f"{kind}.log" for kind in KINDS}
    modes = [stat.S_IFREG | place.stat().st_mode & 0o700]
    with os.scandir(place) as entries:
        for entry in entries:
            modes.append(entry.stat(follow_symlinks=False).st_mode if entry.name in known else 0)
    return all(stat.S_ISREG(mode) and mode & 0o600 == 0o600 for mode in modes)


def _renew(lab: Lab, name: str, owner: int) -> None:
    """Mounts a new file system that holds the old one's logs alone."""
    place, asked = folder(lab, name), lab.containers
    place.mkdir(parents=True, exist_ok=True)
    empty_large_logs(lab, name)
    with _logs(lab, name) as kept:
        try:
            calls.detach(place)
            options = f"mode=0755,size={asked.written_mib}m,nr_inodes={asked.written_files}"
            calls.mount("tmpfs", place, "tmpfs", flags=FLAGS, options=options)
        except OSError as error:
            raise of_system(error, str(place)) from None
        (place / "log").mkdir()
        for output in (console(lab, name), sshd_log(lab, name)):
            output.touch()  # they exist even if the container fills the rest
        for kind, descriptor in kept.items():
            with log(lab, name, kind).open("wb") as file:
                while block := os.read(descriptor, BLOCK):
                    file.write(block)
    _give(lab, name, owner)


def _give(lab: Lab, name: str, owner: int) -> None:
    """Makes ``owner`` own the logs and, last, their folder; other files in it keep their owner."""
    with _logs(lab, name) as found:
        for descriptor in found.values():
            os.fchown(descriptor, owner, owner)
    os.chown(folder(lab, name) / "log", owner, owner)
