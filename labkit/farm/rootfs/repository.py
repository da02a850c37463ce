"""Gives builds their packages: a cache that apt fills, and a local repository for the programs that build.

Each package is fetched once, for all builds and labs, with the machine's apt configuration. Its file name ends in the
hash of its content (``bash_5.2_amd64.deb@HASH``), which the mirror's list tells: a damaged one is fetched again. apt
has verified the lists (:mod:`labkit.farm.rootfs.apt`), so programs are told to trust the repository. It has the same
address on every machine; at the end the root file system gets the addresses of the machine's mirrors.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from labkit.core import cache, run
from labkit.core.files import beside
from labkit.farm.rootfs import apt
from labkit.farm.rootfs.apt import ENDING, HELPER, OFFLINE, AbsentError, Source, errors, public
from labkit.model.lab import Lab

log = logging.getLogger("labkit.depot")


#: How long one call of it may take (seconds).
TIMEOUT = 1500.0


#: How it says what it could not fetch, and how the mirror's own answer begins.
FAILED = re.compile(r"^E: Failed to fetch (\S+)  (.*)$", re.M)


STATUS = re.compile(r"\d{3}\b")


#: What it says of a disk that takes no more.
FULL = "No space left on device"


#: One download at a time in this process: the next one finds what this one has fetched.
_fetching = threading.Lock()


#: The repository's address: no host has it (RFC 2606, section 2).
ADDRESS = "http://labkit.invalid"
#: A package's place on its mirror, and the hash of its content.
FILENAME, DIGEST = (
    re.compile(r"^Filename: (.+)$", re.M),
    re.compile(r"^SHA256: ([0-9a-f]{64})$", re.M),
)


class Deb(NamedTuple):
    """A package's file: its address on the mirror, which is apt's, and the hash of its content (SHA-256)."""

    address: str
    digest: str

    @property
    def name(self) -> str:
        """The file's name on the mirror."""
        return self.address.rpartition("/")[2]


class PackageCache:
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
    def of(cls, lab: Lab) -> PackageCache:
        """The packages in a lab's cache."""
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
        """Fetches packages; each is in the cache afterwards, or in ``absent``."""
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


@dataclass(frozen=True)
class Repository:
    """The packages that can matter, by source: ``listed`` has the list of each source, ``digest`` is the hash of the
    packages' names, versions and contents. Empty for what is pulled from a registry."""

    sources: tuple[Source, ...] = ()
    listed: tuple[str, ...] = ()
    digest: str = ""

    @property
    def lines(self) -> str:
        """The repository for apt, as lines of sources.list(5)."""
        return self._lines(ADDRESS)

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Its indices, by their paths (Debian's wiki, DebianRepository/Format)."""
        found = {}
        for number, (source, text) in enumerate(zip(self.sources, self.listed, strict=True)):
            listed = f"main/binary-{apt.architecture()}/Packages"
            found[f"/{number}/dists/{source.suite}/{listed}"] = text.encode()
            found[f"/{number}/dists/{source.suite}/Release"] = release(
                source, listed, text
            ).encode()
        return found

    @cached_property
    def debs(self) -> dict[str, Deb]:
        """Its packages, by their paths."""
        return {
            f"/{number}/{path}": Deb(f"{source.mirror}/{path}", digest)
            for number, (source, text) in enumerate(zip(self.sources, self.listed, strict=True))
            for path, digest in parse(text)
        }

    def name_mirrors(self, root: Path) -> None:
        """The sources of a root file system are named as the machine's apt names them."""
        for path in (root / "etc/apt").glob("**/*.list"):
            before = path.read_text(encoding="utf-8")
            text = before.replace(f"[trusted=yes] {ADDRESS}", ADDRESS)
            for number, source in enumerate(self.sources):
                text = text.replace(f"{ADDRESS}/{number} ", f"{apt.public(source.mirror)} ")
            if text != before:
                path.write_text(text, encoding="utf-8")

    def fetch(
        self,
        cached: PackageCache,
        names: Sequence[str],
        work: Path,
        *,
        status: str = "",
        on_line: Callable[[str], None] | None = None,
    ) -> list[Path]:
        """The files of packages and of all that they depend on, fetched if need be; apt decides which these are, and
        knows nothing of the machine: neither what is installed on it nor what its administrator prefers.

        :param work: a folder that this call makes, for itself.
        :param status: dpkg's database of the system that has some of them already.
        """
        for path, data in self.files.items():
            (work / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            (work / path[1:]).write_bytes(data)
        (work / "lists/partial").mkdir(parents=True)
        (work / "sources.list").write_text(
            self._lines(f"copy:{quote(str(work))}"), encoding="utf-8"
        )
        (work / "status").write_text(status, encoding="utf-8")
        (work / "apt.conf").write_text(apt.configuration(alone(work)), encoding="utf-8")
        env = {"APT_CONFIG": str(work / "apt.conf")}
        apt_get = ["apt-get", "--yes", "-qq"]
        run.run([*apt_get, "update"], env=env, timeout=TIMEOUT, quiet=True)
        wanted = [*apt_get, "--no-install-recommends", "--print-uris", "install", *names]
        said = run.run(wanted, env=env, timeout=TIMEOUT, quiet=True).stdout
        paths = [path.removeprefix(str(work)) for path in parse_addresses(said)]
        return cached.fetch([self.debs[path] for path in paths], on_line)

    def _lines(self, address: str) -> str:
        return "".join(
            f"deb [trusted=yes] {address}/{number} {source.suite} main\n"
            for number, source in enumerate(self.sources)
        )


def release(source: Source, path: str, text: str) -> str:
    """A suite's Release file, which names one list."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return (
        f"Suite: {source.suite}\nCodename: {source.suite}\nDate: {formatdate(source.date, usegmt=True)}\n"
        f"Architectures: {path.partition('binary-')[2].partition('/')[0]}\nComponents: main\n"
        f"SHA256:\n {digest} {len(text.encode())} {path}\n"
    )


def parse(text: str) -> list[tuple[str, str]]:
    """The path and the hash of each package in a list."""
    found = []
    for stanza in text.split("\n\n"):
        path, digest = FILENAME.search(stanza), DIGEST.search(stanza)
        if path and digest:
            found.append((path[1].removeprefix("./"), digest[1]))
    return found


def parse_addresses(said: str) -> list[str]:
    """The paths in the addresses that ``apt-get --print-uris`` prints."""
    return [unquote(urlsplit(address).path) for address in re.findall(r"^'([^']+)'", said, re.M)]


def alone(work: Path) -> dict[str, object]:
    """apt's configuration for this work: nothing of the machine's."""
    return {
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::State::extended_states": work / "extended_states",
        "Dir::Cache": work,
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",  # the folder is root's alone
    }
