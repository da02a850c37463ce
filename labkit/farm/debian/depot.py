"""What Debian's mirrors gave, kept in the cache: each file fetched once, for all builds and all labs.

A file lies under its address, and its name ends in the hash of its content (``bash_5.2_amd64.deb@HASH``):
one that was damaged or cut off no longer has its own name and is fetched again. A mirror's list of
its indices (``dists/SUITE/InRelease``) is kept like everything else, so all builds see the same
packages until :func:`Depot.forget` is called. Nothing here is trusted: the programs that install
packages check signatures and hashes as if they had come from the mirror itself.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import logging
import shutil
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.response import addinfourl

from labkit.errors import ConfigError, MachineError
from labkit.farm.debian import apt
from labkit.farm.debian.apt import Source
from labkit.files import beside
from labkit.lab import Lab

log = logging.getLogger("labkit.depot")

#: How long a mirror may be silent (seconds).
PATIENCE = 30.0
#: Bytes that are read at a time.
CHUNK = 1 << 20
#: What a disk says that takes no more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
#: One for each file that builds of this process ask for: one fetches it, the others wait.
_locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)


class AbsentError(MachineError):
    """A file that is not in the depot and could not be fetched: ``status`` is the mirror's answer, 0
    when it gave none, and None when it was not asked (offline)."""

    code = "machine.mirror"

    def __init__(self, address: str, status: int | None, reason: str) -> None:
        self.address = address
        self.status = status
        super().__init__(
            address,
            reason,
            "call it once without --offline, where the mirror can be reached"
            if status is None
            else "check the network; after an update of the archive: labkit refresh",
            f"wget -q -O /dev/null {address}",
            code="machine.offline" if status is None else self.code,
        )


class Depot:
    """The files of all mirrors below one folder; ``offline``: none is fetched.

    ``absent`` collects the addresses that nobody could give, ``failed`` is what kept the last file from
    being written, ``fetched`` how many bytes came from mirrors.
    """

    def __init__(self, folder: Path, *, offline: bool = False, proxy: str = "") -> None:
        self.folder = folder
        self.offline = offline
        self.fetched = 0
        self.absent: dict[str, AbsentError] = {}
        self.failed: OSError | None = None
        self._proxy = proxy

    @classmethod
    def of(cls, lab: Lab) -> Depot:
        """The depot in a lab's cache, which fetches through apt's own HTTP proxy if there is one."""
        proxy = "" if lab.offline else apt.proxy().get("http_proxy", "")
        return cls(lab.cache_dir / "debian", offline=lab.offline, proxy=proxy)

    def place(self, address: str) -> Path:
        """Where a file lies, without the hash at its end; raises :class:`ConfigError` for an address that
        leads out of the depot."""
        parts = urlsplit(address)
        names = [name for name in parts.path.split("/") if name]
        if not parts.netloc or not names or any(name in (".", "..") for name in names):
            raise ConfigError(
                address, "is no address of a file on a mirror", "", code="config.address"
            )
        return self.folder.joinpath(parts.netloc, *names)

    def find(self, address: str) -> Path | None:
        """The whole file of that address, None when there is none; a damaged one is removed."""
        place = self.place(address)
        for path in place.parent.glob(f"{glob.escape(place.name)}@*"):
            if _sha256(path) == path.name.rpartition("@")[2]:
                return path
            log.warning("%s is damaged: it is fetched again", path)
            path.unlink(missing_ok=True)
        return None

    def get(self, address: str) -> Path:
        """The file of that address, fetched if need be; raises :class:`AbsentError`."""
        with _locks[self.place(address)]:
            try:
                return self.find(address) or self._fetch(address)
            except AbsentError as error:
                self.absent[address] = error
                raise
            except OSError as error:
                self.failed = error
                raise

    def forget(self, source: Source) -> None:
        """The suite's indices are gone, its packages are not; what it has is asked of the mirror anew."""
        if not source.in_folder:
            shutil.rmtree(self.place(f"{source.mirror}/dists/{source.suite}"), ignore_errors=True)

    def _fetch(self, address: str) -> Path:
        if self.offline:
            raise AbsentError(address, None, "is not in the cache, and labkit is to stay offline")
        place = self.place(address)
        place.parent.mkdir(parents=True, exist_ok=True)
        with _part(place) as part:
            digest = self._copy(address, part)
            path = place.with_name(f"{place.name}@{digest}")
            part.rename(path)
        self.fetched += path.stat().st_size
        return path

    def _copy(self, address: str, part: Path) -> str:
        """Writes the mirror's file into ``part``; returns its hash."""
        total = hashlib.sha256()
        try:
            with self._open(address) as answer, part.open("wb") as file:
                expected = answer.headers.get("Content-Length")
                while chunk := answer.read(CHUNK):
                    total.update(chunk)
                    file.write(chunk)
                if expected and file.tell() != int(expected):
                    raise AbsentError(address, 0, f"ended after {file.tell()} of {expected} bytes")
        except urllib.error.HTTPError as error:
            error.close()
            raise AbsentError(address, error.code, f"the mirror answers {error.code}") from None
        except OSError as error:
            if error.errno in FULL:
                raise
            raise AbsentError(address, 0, f"the mirror does not answer: {error}") from None
        return total.hexdigest()

    def _open(self, address: str) -> addinfourl:
        given = {"http": self._proxy, "https": self._proxy} if self._proxy else None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(given))
        request = urllib.request.Request(address, headers={"User-Agent": "labkit"})  # noqa: S310
        answer: addinfourl = opener.open(request, timeout=PATIENCE)
        return answer


@contextmanager
def _part(place: Path) -> Iterator[Path]:
    """A name beside a place; what a killed process left under such a name is nobody's, and gc's."""
    part = beside(place)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    """The hash of a file, '' when it is gone; computed once for each state of it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ""
    return _hashed(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hashed(path: Path, *_state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
