"""Root file systems assembled from packages: what is read of a package, what is unpacked, what dpkg then knows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.core import run
from labkit.farm.rootfs import assembly, packages
from labkit.farm.rootfs.assembly import Selection, Unpacked

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
def package(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a package by dpkg-deb, with a configuration file, a link and a second name of a file."""

    def build(script: str) -> Path:
        source = tmp_path / "source"
        for name, text in {**FILES, "DEBIAN/control": CONTROL}.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text)
        (source / "DEBIAN/conffiles").write_text("/etc/sample.conf\n")
        (source / "usr/bin/sample").chmod(0o755)
        (source / "usr/bin/link").symlink_to("sample")
        (source / "usr/bin/again").hardlink_to(source / "usr/bin/sample")
        if script:
            (source / "DEBIAN" / script).write_text("#!/bin/sh\n")
            (source / "DEBIAN" / script).chmod(0o755)
        made = tmp_path / "sample.deb"
        run.run(["dpkg-deb", "--build", "--root-owner-group", source, made])
        return made

    return build


def test_what_is_left_out_and_what_stays() -> None:
    """Exceptions count more; a star matches slashes, as dpkg's does; dpkg is told the same, exceptions last."""
    chosen = Selection(("/usr/share/doc/*",), ("/usr/share/doc/*/copyright",))
    assert not chosen.has("/usr/share/doc/a/changelog")
    for path in ("/usr/share/doc/a/copyright", "/usr/share/docs", "/usr/bin/a"):
        assert chosen.has(path)
    assert chosen.configuration == (
        "path-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\n"
    )


@pytest.mark.root
@pytest.mark.parametrize("script", ["", "postinst", "preinst"])
def test_unpacked_packages_are_known_to_dpkg(
    package: Callable[[str], Path], tmp_path: Path, script: str
) -> None:
    """What was left out is missing and listed all the same, as dpkg itself does it; all else is as packaged. A
    package with a script for its configuration waits for dpkg to run it."""
    root, made = tmp_path / "root", package(script)
    root.mkdir()
    (found,) = assembly.unpack([made], root, Selection(("/usr/share/doc/*",), ("*/copyright",)))
    assert (found.name, found.stem, found.preinst) == ("sample", "sample", script == "preinst")
    assert not (root / "usr/share/doc/sample/changelog").exists()
    assert (root / "usr/share/doc/sample/copyright").read_text() == "free\n"
    assert (root / "usr/bin/link").readlink() == Path("sample")
    assert (root / "usr/bin/again").samefile(root / "usr/bin/sample")
    assert (root / "bin").readlink() == Path("usr/bin")
    listed = run.run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--listfiles", "sample"])
    assert "/usr/share/doc/sample/changelog" in listed.stdout.splitlines()
    digest = hashlib.md5(b"colour = blue\n", usedforsecurity=False).hexdigest()
    status = "unpacked" if script == "postinst" else "installed"
    first, _, rest = run.run(["dpkg-deb", "--field", made]).stdout.partition("\n")
    conffiles = f"Conffiles:\n /etc/sample.conf {digest}\n"
    assert found.entry == f"{first}\nStatus: install ok {status}\n{rest}{conffiles}"
    assert [item.name for item in packages.read(root)] == ["sample"] * (status == "installed")


def test_the_users_are_made_first_and_apt_knows_what_nobody_asked_for() -> None:
    """base-passwd's script comes before others, which give files to users; a package that is there for another one goes
    when nothing needs it any more."""
    names = ("adduser", "base-passwd", "plain")
    items = [Unpacked(name, name, "", name != "plain", 0) for name in names]
    assert [item.name for item in assembly.ordered(items)] == ["base-passwd", "adduser"]
    text = assembly.automatic(items, names[:2], "amd64")
    assert text == "Package: plain\nArchitecture: amd64\nAuto-Installed: 1\n"
