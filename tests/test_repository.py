"""Packages: which can matter, fetched once, verified, and shown to builds as a mirror."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from labkit.farm.rootfs import buildplan, repository
from labkit.farm.rootfs.apt import AbsentError, Source
from labkit.farm.rootfs.repository import ADDRESS, Deb, PackageCache, Repository

PACKAGES = """\
Package: libc6
Version: 2.36-9
Priority: optional
SHA256: aa

Package: bash
Essential: yes
Version: 5.2-1
Priority: required
Pre-Depends: libc6 (>= 2.36)
Depends: base-files (>= 2.1), awk | mawk
SHA256: bb

Package: base-files
Version: 12
Priority: required
SHA256: cc

Package: gawk
Version: 1
Priority: optional
Provides: awk (= 1), posix-awk
SHA256: dd

Package: mawk
Version: 1
Priority: optional
SHA256: ee

Package: apache2
Version: 2.4
Priority: optional
Depends: libssl:any (>= 3)
SHA256: ff

Package: libssl
Version: 3
Priority: optional
SHA256: 00

Package: texlive
Version: 2022
Priority: optional
Depends: apache2
SHA256: 11
"""


#: What apt says of packages that it could not fetch.
FAILURES = """\
E: Failed to fetch http://m.test/debian/pool/a_1_all.deb  404  Not Found [IP: 127.0.0.1 80]
E: Failed to fetch http://m.test/debian/pool/b_1_all.deb  Temporary failure resolving 'm.test'
E: Download Failed
"""


def test_what_apt_could_not_fetch_is_read() -> None:
    """The mirror's answer, or none."""
    assert repository.parse_failures(FAILURES) == {
        "a_1_all.deb": (404, "404  Not Found [IP: 127.0.0.1 80]"),
        "b_1_all.deb": (0, "Temporary failure resolving 'm.test'"),
    }


def test_offline_what_nobody_has_is_named_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    """Without asking a mirror; nothing is left of the attempt. A file that was cut off no longer has the content that its
    name tells."""
    cached = PackageCache(tmp_path / "cached", offline=True)
    with pytest.raises(AbsentError) as caught:
        cached.get(Deb("http://m.test/debian/none.deb", "0" * 64))
    assert caught.value.status is None
    assert cached.absent == {"none.deb": caught.value}
    assert not cached.folder.exists()
    deb = Deb("http://m.test/debian/a_1_all.deb", hashlib.sha256(b"a package").hexdigest())
    path = cached.place(deb)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a package")
    assert cached.get(deb) == path
    path.write_bytes(b"a pack")
    assert cached.find(deb) is None
    assert not path.exists()


# -- the lists -------------------------------------------------------------------------------


def _names(*wanted: str) -> list[str]:
    return [offer.name for offer in buildplan.closure(buildplan.parse(PACKAGES), wanted)]


def test_what_can_matter_is_what_is_everywhere_and_all_that_it_may_need() -> None:
    """Every alternative counts, and whoever provides one; what nobody may need does not."""
    assert _names() == ["base-files", "bash", "gawk", "libc6", "mawk"]
    assert set(_names("apache2")) - set(_names()) == {"apache2", "libssl"}


def test_the_hash_changes_with_what_can_matter() -> None:
    """A version, a content, a package that is everywhere from now on; nothing else."""

    def summed(text: str) -> str:
        return buildplan.summed(buildplan.closure(buildplan.parse(text), ()))

    for before, after, same in (
        ("Version: 2022", "Version: 2023", True),
        ("Version: 2.36-9", "Version: 2.36-10", False),
        ("SHA256: ee", "SHA256: ef", False),
        ("2022\nPriority: optional", "2022\nPriority: important", False),
    ):
        assert (summed(PACKAGES) == summed(PACKAGES.replace(before, after))) is same


# -- the repository --------------------------------------------------------------------------------

MAIN = Source(mirror="https://me:secret@m.test/debian", suite="bookworm", date=1747472400)
LISTED = f"Package: a\nFilename: pool/a_1_all.deb\nSHA256: {'0' * 64}\n\n"


def test_the_repository_has_the_packages_of_each_source() -> None:
    """Below a number; where they are on the mirror is the cached's business. A release names its list, with the list's
    hash and the mirror's date."""
    found = Repository((MAIN, MAIN), (LISTED, ""))
    assert found.debs == {"/0/pool/a_1_all.deb": Deb(f"{MAIN.mirror}/pool/a_1_all.deb", "0" * 64)}
    assert found.lines.splitlines() == [
        f"deb [trusted=yes] {ADDRESS}/{number} bookworm main" for number in (0, 1)
    ]
    text = repository.release(MAIN, "main/binary-amd64/Packages", LISTED)
    digest = hashlib.sha256(LISTED.encode()).hexdigest()
    assert f"\nSHA256:\n {digest} {len(LISTED)} main/binary-amd64/Packages\n" in text
    assert "Date: Sat, 17 May 2025 09:00:00 GMT\n" in text
    assert "Architectures: amd64\n" in text


def test_a_root_file_system_is_told_the_machines_mirror(tmp_path: Path) -> None:
    """Without a login, wherever a tool has written the repository's address; other files stay untouched."""
    made = Repository((MAIN, MAIN.model_copy(update={"mirror": "http://s.test/x"})), ("", ""))
    for name in ("sources.list", "sources.list.d/0000source.list"):
        path = tmp_path / "etc/apt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made.lines)
        made.name_mirrors(tmp_path)
        assert path.read_text() == (
            "deb https://m.test/debian bookworm main\ndeb http://s.test/x bookworm main\n"
        )


def test_the_addresses_that_apt_prints_are_read() -> None:
    """A name's signs are quoted there, and not on the mirror."""
    said = "'copy:/w/0/pool/g%2b%2b_4%7e1_amd64.deb' g++_4~1_amd64.deb 3 SHA256:00\n"
    assert repository.parse_addresses(said) == ["/w/0/pool/g++_4~1_amd64.deb"]


def test_apt_asks_nothing_of_the_machine(tmp_path: Path) -> None:
    """Its configuration, its sources, its preferences and what is installed on it are not read."""
    found = repository.alone(tmp_path)
    nothing = {name for name, value in found.items() if value == "/dev/null"}
    assert {"Dir::Etc::main", "Dir::Etc::parts", "Dir::Etc::preferencesparts"} < nothing
    assert found["Dir::State::status"] == tmp_path / "status"
