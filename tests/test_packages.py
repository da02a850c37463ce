"""Packages: dpkg's database, read, and who needs whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.core import run
from labkit.errors import StateError
from labkit.farm.rootfs import packages
from labkit.farm.rootfs.packages import Package

STATUS = """\
Package: web
Status: install ok installed
Priority: optional
Section: httpd
Installed-Size: 20
Architecture: amd64
Version: 1.0-1
Depends: libssl (>= 3), mta | mail-transport-agent, perl:any
Pre-Depends: libc
Description: a web server
 with a long description
 .
 of several lines

Package: libssl
Status: install ok installed
Priority: optional
Section: libs
Installed-Size: 6
Architecture: amd64
Multi-Arch: same
Version: 3.0
Depends: libc (>= 2)

Package: libc
Essential: yes
Status: install ok installed
Priority: required
Section: libs
Installed-Size: 13
Architecture: amd64
Version: 2.36

Package: postfix
Status: install ok installed
Priority: extra
Section: mail
Architecture: amd64
Version: 3.7
Provides: mail-transport-agent, default-mta (= 1)
Depends: libc

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: lonely
Status: install ok installed
Architecture: all
Version: 2:1.0~rc1
"""


@pytest.fixture
def listed() -> tuple[Package, ...]:
    """The packages of :data:`STATUS`."""
    return packages.parse_status(STATUS)


def test_reads_what_is_installed(listed: tuple[Package, ...]) -> None:
    """By name, without what was removed; sizes in bytes; continuation lines belong to their field."""
    assert [package.name for package in listed] == ["libc", "libssl", "lonely", "postfix", "web"]
    assert listed[0] == Package(
        name="libc",
        version="2.36",
        architecture="amd64",
        installed=13 * 1024,
        priority="required",
        section="libs",
        essential=True,
    )
    assert listed[-1].depends == (
        ("libc",), ("libssl",), ("mta", "mail-transport-agent"), ("perl",),
    )  # fmt: skip


def test_the_list_is_dpkgs_own(tmp_path: Path, listed: tuple[Package, ...]) -> None:
    """dpkg, asked of the same database, selects the same packages; a folder without one is an error that names it."""
    (tmp_path / "status").write_text(STATUS)
    said = run.run(["dpkg", f"--admindir={tmp_path}", "--get-selections"]).stdout
    assert packages.parse_selections(said) == tuple(package.name for package in listed)
    with pytest.raises(StateError) as caught:
        packages.read(tmp_path)
    assert caught.value.value == str(tmp_path / "var/lib/dpkg/status")


def test_reads_relations() -> None:
    """Names alone: versions, architectures and profiles are left out."""
    text = "a (>= 1:2~3), b:any | c [amd64] <!nocheck>"
    assert packages.parse_relations(text) == (("a",), ("b", "c"))
    assert packages.parse_relations("") == ()


def test_dependants_count_what_a_package_provides(listed: tuple[Package, ...]) -> None:
    """A virtual package's user is a user of who provides it."""
    assert packages.dependants(listed) == {
        "libc": ("libssl", "postfix", "web"),
        "libssl": ("web",),
        "lonely": (),
        "postfix": ("web",),
        "web": (),
    }


def test_closure_has_all_that_the_roots_need(listed: tuple[Package, ...]) -> None:
    """Through alternatives and provided names; what is not installed is left out."""
    for roots, found in (
        (["libssl"], {"libssl", "libc"}),
        (["web"], {"web", "libssl", "libc", "postfix"}),
        (["lonely", "missing"], {"lonely"}),
    ):
        assert packages.closure(listed, roots) == found


def test_the_table_begins_with_the_largest(listed: tuple[Package, ...]) -> None:
    """Sizes are bytes; long lists of dependants are cut and counted."""
    table = packages.table(listed)
    assert [row[0] for row in table.rows][:3] == ["web", "libc", "libssl"]
    assert {column.name: column.unit for column in table.columns}["installed"] == "bytes"
    assert packages.naming([f"p{n}" for n in range(9)]) == "p0, p1, p2, p3, p4, p5 and 3 more"
