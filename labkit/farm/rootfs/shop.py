"""What builds take their packages from: a mirror of labkit's own, with what can matter to them and nothing else.

apt has fetched and verified the lists (:mod:`labkit.farm.rootfs.lists`), so a program that builds is told to trust them;
each package still has to have the hash that the list tells. The mirror has the same neutral address on every machine;
in the end the root file system is given the addresses of the machine's own mirrors.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from email.utils import formatdate
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from labkit.core import run
from labkit.farm.rootfs import apt
from labkit.farm.rootfs.apt import Source
from labkit.farm.rootfs.depot import Deb, Depot

#: The shop's address: no host has it (RFC 2606, section 2).
ADDRESS = "http://labkit.invalid"
#: A package's place on its mirror, and the hash of its content.
FILENAME, DIGEST = (
    re.compile(r"^Filename: (.+)$", re.M),
    re.compile(r"^SHA256: ([0-9a-f]{64})$", re.M),
)
TIMEOUT = 900.0


class Shop:
    """The packages that can matter, by source; ``listed`` has the list of each source."""

    def __init__(self, sources: Sequence[Source], listed: Sequence[str]) -> None:
        self.sources = tuple(sources)
        self.listed = tuple(listed)

    @property
    def lines(self) -> str:
        """The shop for apt, as lines of sources.list(5)."""
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

    def told(self, root: Path) -> None:
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
        depot: Depot,
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
        return depot.fetch([self.debs[path] for path in paths], on_line)

    def _lines(self, address: str) -> str:
        return "".join(
            f"deb [trusted=yes] {address}/{number} {source.suite} main\n"
            for number, source in enumerate(self.sources)
        )


# -- pure ------------------------------------------------------------------------------------


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
