"""Debian's MediaWiki, unpacked beside the system: no service is installed, /etc stays as it was.

Installing the package would bring apache2's service and a job runner with it. Here apt downloads
and verifies the same two packages, and dpkg-deb unpacks them into the cache that all labs share.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from labkit.core import cache, journal, run
from labkit.errors import CommandError, MachineError, StateError, excerpt

PACKAGES = ("mediawiki", "mediawiki-classes")
#: Where the packages keep MediaWiki, below the folder they are unpacked to.
INSIDE = "usr/share/mediawiki"


def fetch(shared: Path, *, offline: bool = False) -> Path:
    """The folder of MediaWiki's newest version that apt offers, unpacked in the cache if need be.

    A version that is there already serves when apt has nothing to offer (no package lists, no network).
    """
    with journal.lock(shared / "locks", "mediawiki"):
        known = candidate()
        if known and whole(installation(shared, known)):
            return installation(shared, known)
        present = versions(shared)
        if offline and present:
            return installation(shared, present[-1])
        if offline:
            raise MachineError(
                "mediawiki",
                f"no version of it is in {shared}, and labkit is to stay offline",
                "call it once without --offline, where the machine's Debian mirror can be reached",
                "apt-get download --print-uris mediawiki",
                code="machine.offline",
            )
        try:
            return installation(shared, _download(shared))
        except CommandError as error:
            if present:
                return installation(shared, present[-1])
            raise MachineError(
                "mediawiki",
                f"apt cannot download Debian's package: {excerpt(error.stderr)}",
                "call `apt-get update` and see that the machine's Debian mirror answers",
                "apt-get download --print-uris mediawiki",
                code="machine.mirror",
            ) from None


def installation(shared: Path, version: str) -> Path:
    """The folder that MediaWiki calls its installation path."""
    return shared / "mediawiki" / version / INSIDE


def whole(program: Path) -> bool:
    """Whether MediaWiki is in an :func:`installation` as it was unpacked."""
    return cache.whole(_unpacked(program))


def version(program: Path) -> str:
    """The package's version of an :func:`installation`, without its epoch."""
    return _unpacked(program).name


def _unpacked(program: Path) -> Path:
    return program.parents[INSIDE.count("/")]


def versions(shared: Path) -> list[str]:
    """The versions that are unpacked in the cache, the oldest unpacked first."""
    folder = shared / "mediawiki"
    found = [item for item in folder.glob("[!.]*") if whole(item / INSIDE)]
    return [item.name for item in sorted(found, key=cache.sealed)]


def candidate() -> str:
    """The version that apt would install, without its epoch; '' when apt knows none."""
    return parse_policy(run.run(["apt-cache", "policy", PACKAGES[0]]).stdout)


def parse_policy(text: str) -> str:
    """The candidate's version, without its epoch, in what ``apt-cache policy`` wrote."""
    found = re.search(r"^\s*Candidate: (?:\d+:)?(\S+)$", text, re.MULTILINE)
    return found[1] if found and found[1] != "(none)" else ""


def package_version(filename: str) -> str:
    """The version in a package file's name, without its epoch (``a_1%3a2.3-1_all.deb``: 2.3-1)."""
    return filename.split("_")[1].rpartition("%3a")[2]


def _download(shared: Path) -> str:
    """Downloads and unpacks the packages; returns their version, whose folder is whole or not there."""
    folder = shared / "mediawiki"
    for killed in folder.glob(".*.part"):
        shutil.rmtree(killed)
    aside = folder / f".{os.getpid()}.part"
    tree = aside / "tree"
    tree.mkdir(parents=True)
    for path in (folder, tree):
        path.chmod(0o755)  # whatever root's umask is: the web server reads it
    try:
        sandbox = "APT::Sandbox::User=root"  # the account _apt cannot write into the cache
        run.run(["apt-get", "-o", sandbox, "download", *PACKAGES], cwd=aside, timeout=600)
        packages = sorted(aside.glob("*.deb"))
        for package in packages:
            run.run(["dpkg-deb", "--extract", package, tree], timeout=300)
        relink(tree)
        cache.seal(tree)
        got = package_version(packages[0].name)
        if not whole(installation(shared, got)):
            shutil.rmtree(folder / got, ignore_errors=True)  # damaged
            tree.rename(folder / got)
        return got
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def relink(tree: Path) -> None:
    """Makes the packages' absolute links relative, so that they lead within ``tree``; those that
    then lead nowhere (to configuration and data, which each lab has of its own) are removed."""
    links = [path for path in tree.rglob("*") if path.is_symlink()]
    for link in links:
        target = link.readlink()
        if target.is_absolute():
            inside = tree / target.relative_to("/")
            link.unlink()
            link.symlink_to(os.path.relpath(inside, link.parent))
    for link in links:
        if not link.exists():
            link.unlink()
    if not (tree / INSIDE / "api.php").is_file():
        raise StateError(
            str(tree),
            "the package does not hold MediaWiki where Debian 12 and 13 do",
            "report this",
            code="state.mediawiki-package",
        )
