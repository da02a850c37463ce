"""The packages that mirrors gave, kept in the cache: each fetched once, for all builds and all labs, by apt.

A package's name ends in the hash of its content (``bash_5.2_amd64.deb@HASH``), which the mirror's list tells: one that
was damaged or cut off no longer has its own name and is fetched again. apt fetches with the machine's own
configuration, as it would for the machine.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from labkit.core import cache, run
from labkit.core.files import beside
from labkit.errors import MachineError
from labkit.farm.rootfs.apt import ENDING, errors, public
from labkit.model.lab import Lab

log = logging.getLogger("labkit.depot")

#: apt's program that fetches files by its methods.
HELPER = "/usr/lib/apt/apt-helper"
#: How long one call of it may take (seconds).
TIMEOUT = 1500.0
#: How it says what it could not fetch, and how the mirror's own answer begins.
FAILED = re.compile(r"^E: Failed to fetch (\S+)  (.*)$", re.M)
STATUS = re.compile(r"\d{3}\b")
#: What it says of a disk that takes no more.
FULL = "No space left on device"
#: Why something was not fetched.
OFFLINE = "is not in the cache, and labkit is to stay offline"
#: One download at a time in this process: the next one finds what this one has fetched.
_fetching = threading.Lock()


class Deb(NamedTuple):
    """A package's file: its address on the mirror, which is apt's, and the hash of its content (SHA-256)."""

    address: str
    digest: str

    @property
    def name(self) -> str:
        """The file's name on the mirror."""
        return self.address.rpartition("/")[2]


class AbsentError(MachineError):
    """A file that is not in the cache and could not be fetched: ``status`` is the mirror's answer, 0
    when it gave none, and None when it was not asked (offline)."""

    code = "machine.mirror"

    def __init__(self, what: str, status: int | None, reason: str) -> None:
        self.status = status
        super().__init__(
            what,
            reason,
            "call it once without --offline, where the mirror can be reached"
            if status is None
            else "check the network; after an update of the archive: labkit refresh",
            "apt-get update",
            code="machine.offline" if status is None else self.code,
        )


class Depot:
    """The packages in one folder; ``offline``: none is fetched.

    ``absent`` has the error of each one that could not be fetched, ``failed`` that of the last one that could not
    be written.
    """

    def __init__(self, folder: Path, *, offline: bool = False) -> None:
        self.folder = folder
        self.offline = offline
        self.absent: dict[str, AbsentError] = {}
        self.failed: OSError | None = None

    @classmethod
    def of(cls, lab: Lab) -> Depot:
        """The depot in a lab's cache."""
        return cls(lab.cache_dir / "debian", offline=lab.offline)

    @property
    def pool(self) -> Path:
        """The folder of the packages."""
        return self.folder / "pool"

    def place(self, deb: Deb) -> Path:
        """Where a package lies."""
        return self.pool / f"{deb.name}@{deb.digest}"

    def find(self, deb: Deb) -> Path | None:
        """The whole file, None when there is none; a damaged one is removed."""
        path = self.place(deb)
        if (found := _sha256(path)) == deb.digest:
            return path
        if found:
            log.warning("%s is damaged: it is fetched again", path)
            path.unlink(missing_ok=True)
        return None

    def get(self, deb: Deb) -> Path:
        """The package, fetched if need be; raises :class:`AbsentError`."""
        return self.find(deb) or self.fetch([deb])[0]

    def fetch(
        self, debs: Sequence[Deb], on_line: Callable[[str], None] | None = None
    ) -> list[Path]:
        """The packages; what is missing is fetched at once. Raises :class:`AbsentError` for the first that
        cannot be fetched.

        :param on_line: called with each line in which apt says what it does.
        """
        with _fetching:
            missing = [deb for deb in debs if not self.find(deb)]
            try:
                self._fetch(missing, on_line)
            except OSError as error:
                self.failed = error
                raise
        for deb in missing:
            if deb.name in self.absent:
                raise self.absent[deb.name]
        return [self.place(deb) for deb in debs]

    def _fetch(self, debs: Sequence[Deb], on_line: Callable[[str], None] | None) -> None:
        """Each of these is in the depot afterwards, or ``absent``."""
        if self.offline:
            self.absent |= {d.name: AbsentError(d.name, None, OFFLINE) for d in debs}
            return
        if not debs:
            return
        told = on_line or log.debug
        told(f"downloading {len(debs)} packages")
        parts = {deb: beside(self.place(deb)) for deb in debs}
        self.pool.mkdir(parents=True, exist_ok=True)
        try:
            said = _download(parts, told)
            for deb, part in parts.items():
                if _sha256(part) == deb.digest:
                    _adopt(part, self.place(deb))
                else:
                    self.absent[deb.name] = _absent(deb, said)
        finally:
            for part in parts.values():
                for path in part.parent.glob(f"{part.name}*"):  # also what apt has put aside
                    path.unlink(missing_ok=True)


def parse_failures(said: str) -> dict[str, tuple[int, str]]:
    """By a file's name, the mirror's answer (0: none) and apt's words of what it could not fetch. Pure."""
    found = {}
    for address, reason in FAILED.findall(said):
        status = STATUS.match(reason)
        found[address.rpartition("/")[2]] = (int(status[0]) if status else 0, public(reason))
    return found


def _download(parts: dict[Deb, Path], on_line: Callable[[str], None]) -> str:
    """apt writes each package into its part, as far as it can get it; returns what it says of the others."""
    words: list[str | Path] = [*ENDING, HELPER, "--option=APT::Sandbox::User=root", "download-file"]
    for deb, part in parts.items():
        words += [deb.address, part, f"SHA256:{deb.digest}"]
    done = run.run(
        words, ok=(0, 100), timeout=TIMEOUT, on_line=on_line, on_output=on_line, quiet=True
    )
    if FULL in done.stderr:
        raise OSError(
            errno.ENOSPC, os.strerror(errno.ENOSPC), str(next(iter(parts.values())).parent)
        )
    return errors(done)


def _adopt(part: Path, place: Path) -> None:
    """The file has its name; of a link, which is what apt makes where the mirror is a folder, it is a copy."""
    if part.is_symlink():
        whole = part.read_bytes()
        part.unlink()
        part.write_bytes(whole)
    part.rename(place)


def _absent(deb: Deb, said: str) -> AbsentError:
    failures = parse_failures(said)
    status, reason = failures.get(deb.name) or next(iter(failures.values()), (0, "did not come"))
    return AbsentError(deb.name, status, f"apt could not fetch it: {reason}")


def _sha256(path: Path) -> str:
    """The hash of a file, '' when there is none; computed once for each state of it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ""
    return _hashed(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=4096)
def _hashed(path: Path, *_state: int) -> str:
    return cache.digest(path)
