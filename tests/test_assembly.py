"""Root file systems assembled from packages: what is read of a package, what is unpacked, what dpkg then knows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from labkit.core import run
from labkit.errors import StateError
from labkit.farm.rootfs import configuring, deb, finishing, packages, unpacking
from labkit.farm.rootfs.selection import Selection
from labkit.farm.rootfs.unpacking import Unpacked

CONTROL = """\
Package: sample
Version: 1.0-1
Architecture: all
Maintainer: Nobody <nobody@site.test>
Description: a package for a test
 It has two lines.
"""
FILES = {
    "usr/bin/sample": "#!/bin/sh\n",
    "usr/share/doc/sample/copyright": "free\n",
    "usr/share/doc/sample/changelog": "new\n",
    "etc/sample.conf": "colour = blue\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package as dpkg-deb makes it, with a configuration file, a link and a second name of a file."""
    source = tmp_path / "source"
    for name, text in {**FILES, "DEBIAN/control": CONTROL}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    (source / "DEBIAN/conffiles").write_text("/etc/sample.conf\n")
    (source / "usr/bin/sample").chmod(0o755)
    (source / "usr/bin/link").symlink_to("sample")
    (source / "usr/bin/again").hardlink_to(source / "usr/bin/sample")
    made = tmp_path / "sample.deb"
    run.run(["dpkg-deb", "--build", "--root-owner-group", source, made])
    return made


@pytest.mark.parametrize(
    ("path", "unpacked"),
    [
        ("/usr/share/doc/a/changelog", False),
        ("/usr/share/doc/a/copyright", True),
        ("/usr/share/docs", True),
        ("/usr/bin/a", True),
    ],
)
def test_what_is_left_out_and_what_stays(path: str, unpacked: bool) -> None:
    """What is kept counts more; a star matches slashes, as dpkg's does."""
    assert Selection(("/usr/share/doc/*",), ("/usr/share/doc/*/copyright",)).has(path) is unpacked


def test_dpkg_is_told_the_same() -> None:
    """A package that is installed later is treated alike; exceptions come last, as dpkg takes the last."""
    text = Selection(("/usr/share/doc/*",), ("*/copyright",)).configuration
    assert text == "path-exclude=/usr/share/doc/*\npath-include=*/copyright\n"


def test_a_package_is_read_as_dpkg_deb_reads_it(package: Path) -> None:
    """Its control file to the letter, and the name that its files have in dpkg's database."""
    found = deb.read(package)
    assert found.text == run.run(["dpkg-deb", "--field", package]).stdout
    assert (found.name, found.stem) == ("sample", "sample")
    assert found.control["conffiles"] == (b"/etc/sample.conf\n", 0o644)


def test_several_architectures_are_told_apart() -> None:
    """A package that may be installed for several ones has its own in its files' names."""
    fields = {"Package": "libc6", "Architecture": "amd64", "Multi-Arch": "same"}
    assert deb.Deb(fields, "", {}, b"").stem == "libc6:amd64"


@pytest.mark.parametrize("text", [b"", b"!<arch>\n", b"<html>not found</html>"])
def test_a_file_that_is_no_package_is_refused(tmp_path: Path, text: bytes) -> None:
    """The error names the file."""
    path = tmp_path / "broken.deb"
    path.write_bytes(text)
    with pytest.raises(StateError) as caught:
        deb.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.root
def test_unpacked_packages_are_known_to_dpkg(package: Path, tmp_path: Path) -> None:
    """What was left out is missing and listed all the same, as dpkg itself does it; all else is as packaged."""
    root = tmp_path / "root"
    root.mkdir()
    chosen = Selection(("/usr/share/doc/*",), ("*/copyright",))
    (found,) = unpacking.unpack([package], root, chosen)
    assert found.name == "sample"
    assert not (root / "usr/share/doc/sample/changelog").exists()
    assert (root / "usr/share/doc/sample/copyright").read_text() == "free\n"
    assert (root / "usr/bin/link").readlink() == Path("sample")
    assert (root / "usr/bin/again").samefile(root / "usr/bin/sample")
    assert (root / "bin").readlink() == Path("usr/bin")
    listed = run.run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--listfiles", "sample"])
    assert "/usr/share/doc/sample/changelog" in listed.stdout.splitlines()
    digest = hashlib.md5(b"colour = blue\n", usedforsecurity=False).hexdigest()
    assert f"Conffiles:\n /etc/sample.conf {digest}\n" in found.entry
    assert [item.name for item in packages.read(root)] == ["sample"]


def test_a_package_with_a_script_waits_for_it(package: Path) -> None:
    """dpkg runs what it has not configured yet."""
    assert "Status: install ok unpacked\n" in unpacking.entry(deb.read(package), "unpacked", {})


def test_the_users_are_made_first() -> None:
    """base-passwd's script comes before others, which give files to users."""
    items = [
        Unpacked(name, name, "", name != "plain", 0) for name in ("adduser", "base-passwd", "plain")
    ]
    assert [item.name for item in configuring.ordered(items)] == ["base-passwd", "adduser"]


def test_apt_knows_what_nobody_asked_for() -> None:
    """So that it goes when nothing needs it any more."""
    items = [Unpacked(name, name, "", False, 0) for name in ("apache2", "libc6")]
    text = finishing.automatic(items, ("apache2",), "amd64")
    assert text == "Package: libc6\nArchitecture: amd64\nAuto-Installed: 1\n"
