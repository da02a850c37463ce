"""A vulnerability scanner of Debian's own, debsecan, reads the root file systems that labkit makes.

What it knows of faults is written here (the real list is not on a package mirror): which packages it then names
is its own doing, from the list of packages that the root file system has kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run
from labkit.farm import rootfs
from tests.conftest import open_place

#: Debian's scanner, and the library that it compares versions with.
PROGRAMS = ("debsecan", "python3-apt")
#: What it knows of each source package: a fault that no version has mended, and one that the first had.
FAULTS = {"CVE-0000-0001": "999:0", "CVE-0000-0002": "0"}


def known(sources: set[str]) -> bytes:
    """Both faults of every source package, as debsecan reads them: names, then packages, then binaries."""
    names = "".join(f"{name},,made up\n" for name in FAULTS)
    faults = "".join(
        f"{source},{number},SHRF,{mended},\n"
        for source in sorted(sources)
        for number, mended in enumerate(FAULTS.values())
    )
    return zlib.compress(f"VERSION 1\n{names}\n{faults}\n".encode())


@pytest.fixture(scope="module")
def debsecan() -> Iterator[Path]:
    """A folder with the unpacked scanner: nothing is installed, and the machine's own lists stay as they are."""
    with open_place() as folder:
        for name in ("lists/partial", "cache/archives/partial", "programs"):
            (folder / name).mkdir(parents=True)
        apt = [
            "apt-get", "--quiet", "-o", f"Dir::State::Lists={folder}/lists",
            "-o", f"Dir::Cache={folder}/cache", "-o", "APT::Sandbox::User=root",
        ]  # fmt: skip
        run.run([*apt, "update"])
        run.run([*apt, "download", *PROGRAMS], cwd=folder / "programs")
        for package in (folder / "programs").glob("*.deb"):
            run.run(["dpkg-deb", "-x", str(package), str(folder / "programs")])
        yield folder / "programs"


@pytest.fixture
def scan(debsecan: Path, tmp_path: Path) -> Callable[[Path, set[str]], dict[str, set[str]]]:
    """Scans a root file system for the faults of source packages; by fault, the packages that have it."""

    def scan(root: Path, sources: set[str]) -> dict[str, set[str]]:
        (tmp_path / "bookworm").write_bytes(known(sources))
        done = run.run(
            [
                "/usr/bin/python3", str(debsecan / "usr/bin/debsecan"), "--suite", "bookworm",
                "--source", tmp_path.as_uri(), "--status", str(root / "var/lib/dpkg/status"),
                "--format", "simple",
            ],
            env={"PYTHONPATH": str(debsecan / "usr/lib/python3/dist-packages")},
        )  # fmt: skip
        found: dict[str, set[str]] = {}
        for line in done.stdout.splitlines():
            fault, package = line.split()
            found.setdefault(fault, set()).add(package)
        return found

    return scan


@pytest.mark.root
@pytest.mark.parametrize("variant", ["web", "smallest"])
def test_a_scanner_finds_the_faults_of_every_package(
    lab: Lab, scan: Callable[[Path, set[str]], dict[str, set[str]]], variant: str
) -> None:
    """Each package that is there is named for its source's open fault, none for the mended one, and none that
    is not there: not even when the scanner knows of a fault of its."""
    root = rootfs.build(lab, variant).value.path
    listed = run.run(
        [
            "dpkg-query",
            f"--admindir={root}/var/lib/dpkg",
            "-W",
            "-f",
            "${Package} ${source:Package}\n",
        ]
    ).stdout
    sources = dict(line.split() for line in listed.splitlines())
    assert {"apache2-bin", "libc6"} <= sources.keys()
    assert "apr" in sources.values()  # of which the package's own name is another one
    found = scan(root, {*sources.values(), "perl", "linux"})
    assert found == {"CVE-0000-0001": set(sources)}
    assert ("perl-base" in sources) is (variant == "web")
