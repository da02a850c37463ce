"""Downloaded files: fetched once, verified, served to builds by a gateway; and the lists of packages."""

from __future__ import annotations

import hashlib
import lzma
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labkit import run
from labkit.errors import CommandError, ConfigError
from labkit.farm.debian import index
from labkit.farm.debian.apt import Source
from labkit.farm.debian.depot import AbsentError, Depot
from labkit.farm.debian.gateway import asked, gateway

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


class _Mirror(SimpleHTTPRequestHandler):
    """A mirror in a folder, which notes what it is asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The mirror's folder, with one suite."""
    folder = tmp_path / "mirror"
    packed = lzma.compress(PACKAGES.encode())
    digest = hashlib.sha256(packed).hexdigest()
    suite = folder / "debian/dists/bookworm"
    by_hash = suite / "main/binary-amd64/by-hash/SHA256" / digest
    by_hash.parent.mkdir(parents=True)
    by_hash.write_bytes(packed)
    (suite / "InRelease").write_text(
        f"Date: Sat, 17 May 2025 09:00:00 UTC\nSHA256:\n {digest} {len(packed)} "
        "main/binary-amd64/Packages.xz\n"
    )
    (folder / "debian/a_1_all.deb").write_bytes(b"a package")
    return folder


@pytest.fixture
def mirror(served: Path) -> Iterator[tuple[str, list[str]]]:
    """Its address, and what was asked of it."""
    handler = type("Mirror", (_Mirror,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(served))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/debian", handler.asked
        server.shutdown()
        thread.join()


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    """An empty depot."""
    return Depot(tmp_path / "depot")


# -- the depot -------------------------------------------------------------------------------


def test_a_file_is_fetched_once(depot: Depot, mirror: tuple[str, list[str]]) -> None:
    """The second time it is there; another depot on the same folder, offline, has it too."""
    address, seen = mirror
    first = depot.get(f"{address}/a_1_all.deb")
    assert first.read_bytes() == b"a package"
    assert depot.get(f"{address}/a_1_all.deb") == first
    assert Depot(depot.folder, offline=True).get(f"{address}/a_1_all.deb") == first
    assert seen == ["/debian/a_1_all.deb"]


def test_a_damaged_file_is_fetched_again(depot: Depot, mirror: tuple[str, list[str]]) -> None:
    """One that was cut off no longer has the content that its name tells."""
    address, seen = mirror
    depot.get(f"{address}/a_1_all.deb").write_bytes(b"a pack")
    assert depot.get(f"{address}/a_1_all.deb").read_bytes() == b"a package"
    assert len(seen) == 2
    assert len(list(depot.place(f"{address}/a_1_all.deb").parent.iterdir())) == 1


@pytest.mark.parametrize(("offline", "status"), [(False, 404), (True, None)])
def test_what_nobody_has_is_named(
    depot: Depot, mirror: tuple[str, list[str]], offline: bool, status: int | None
) -> None:
    """With the mirror's answer, or without asking it; nothing is left of the attempt."""
    address, seen = mirror
    own = Depot(depot.folder, offline=offline)
    with pytest.raises(AbsentError) as caught:
        own.get(f"{address}/none.deb")
    assert caught.value.status == status
    assert own.absent == {f"{address}/none.deb": caught.value}
    assert bool(seen) is not offline
    assert not [path for path in depot.folder.rglob("*") if path.is_file()]


def test_a_silent_mirror_is_an_error_of_its_own(depot: Depot) -> None:
    """No answer is not the answer that there is no such file."""
    with pytest.raises(AbsentError) as caught:
        depot.get("http://127.0.0.1:9/debian/a.deb")
    assert caught.value.status == 0
    assert "does not answer" in caught.value.reason


@pytest.mark.parametrize("address", ["http://m.test/../a", "http://m.test/", "file:///etc/passwd"])
def test_an_address_that_leads_elsewhere_is_refused(depot: Depot, address: str) -> None:
    """Neither out of the depot, nor to a folder."""
    with pytest.raises(ConfigError):
        depot.get(address)


# -- the gateway -----------------------------------------------------------------------------


@pytest.mark.root
def test_a_program_behind_the_gateway_reaches_the_depot_and_nothing_else(
    depot: Depot, mirror: tuple[str, list[str]], tmp_path: Path
) -> None:
    """What it asks for is fetched and kept; the mirror itself is out of its reach."""
    address, seen = mirror
    got = tmp_path / "got"
    fetch = ["wget", "-q", "-t", "1", "-T", "5", "-O", str(got), f"{address}/a_1_all.deb"]
    with gateway(depot) as way:
        run.run([*way.words, *fetch], env=way.env)
        assert got.read_bytes() == b"a package"
        links = run.run([*way.words, "ip", "-brief", "link"]).stdout
        assert [line.split()[0] for line in links.splitlines() if " UP " in f"{line} "] in (
            [],
            ["lo"],
        )
        with pytest.raises(CommandError):
            run.run([*way.words, *fetch], env={"no_proxy": "*"})
    assert seen == ["/debian/a_1_all.deb"]


@pytest.mark.root
def test_what_the_depot_cannot_give_is_refused_with_the_reason(depot: Depot) -> None:
    """Offline the gateway answers without a mirror, and the depot remembers what was wanted."""
    own = Depot(depot.folder, offline=True)
    with gateway(own) as way:
        done = run.run(
            [*way.words, "wget", "-S", "-O-", "-t1", "http://m.test/a.deb"], env=way.env, ok=(4, 8)
        )
    assert "504" in done.stderr
    assert list(own.absent) == ["http://m.test/a.deb"]


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("http://m.test/debian/a.deb", "http://m.test/debian/a.deb"),
        ("http://s.test/debian/a.deb", "https://s.test/debian/a.deb"),
    ],
)
def test_a_secure_mirror_is_asked_securely(target: str, address: str) -> None:
    """Programs name it with http, as otherwise nothing could be kept."""
    assert asked(target, frozenset({"s.test"})) == address


# -- the lists -------------------------------------------------------------------------------


def _names(*wanted: str) -> list[str]:
    return [offer.name for offer in index.closure(index.parse(PACKAGES), wanted)]


def test_what_can_matter_is_what_is_everywhere_and_all_that_it_may_need() -> None:
    """Every alternative counts, and whoever provides one; what nobody may need does not."""
    assert _names() == ["base-files", "bash", "gawk", "libc6", "mawk"]
    assert set(_names("apache2")) - set(_names()) == {"apache2", "libssl"}


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("Version: 2022", "Version: 2023", True),
        ("Version: 2.36-9", "Version: 2.36-10", False),
        ("SHA256: ee", "SHA256: ef", False),
        ("Package: texlive\nVersion: 2022\nPriority: optional",
         "Package: texlive\nVersion: 2022\nPriority: important", False),
    ],
)  # fmt: skip
def test_the_hash_changes_with_what_can_matter(before: str, after: str, same: bool) -> None:
    """A version, a content, a package that is everywhere from now on; nothing else."""
    old = index.summed(index.closure(index.parse(PACKAGES), ()))
    new = index.summed(index.closure(index.parse(PACKAGES.replace(before, after)), ()))
    assert (old.digest == new.digest) is same


def test_the_list_is_the_one_that_the_release_names(
    depot: Depot, mirror: tuple[str, list[str]]
) -> None:
    """It is fetched once; what can matter is worked out once, and is known offline then."""
    address, seen = mirror
    source = Source(mirror=address, suite="bookworm")
    assert index.needed(depot, (source,), "amd64", ()) is None
    index.ensure(depot, source, "amd64")
    found = index.needed(depot, (source,), "amd64", ())
    assert found is not None
    assert found.names == ("base-files", "bash", "gawk", "libc6", "mawk")
    assert index.date(depot, source) == 1747472400
    asked_for = len(seen)
    index.ensure(Depot(depot.folder, offline=True), source, "amd64")
    assert index.needed(depot, (source,), "amd64", ()) == found
    assert len(seen) == asked_for


def test_a_mirror_in_a_folder_is_read_where_it_is(depot: Depot, served: Path) -> None:
    """Nothing of it is copied into the depot but what was worked out."""
    source = Source(mirror=f"file://{served}/debian", suite="bookworm")
    index.ensure(depot, source, "amd64")
    found = index.needed(depot, (source,), "amd64", ())
    assert found is not None
    assert "bash" in found.names
    assert [path.name for path in depot.folder.iterdir()] == ["needed"]


def test_a_list_that_is_forgotten_is_fetched_anew(
    depot: Depot, mirror: tuple[str, list[str]], served: Path
) -> None:
    """The packages stay."""
    address, _ = mirror
    source = Source(mirror=address, suite="bookworm")
    index.ensure(depot, source, "amd64")
    depot.get(f"{address}/a_1_all.deb")
    release = served / "debian/dists/bookworm/InRelease"
    release.write_text(release.read_text().replace("17 May", "18 May"))
    assert index.date(depot, source) == 1747472400
    depot.forget(source)
    assert index.date(depot, source) is None
    index.ensure(depot, source, "amd64")
    assert index.date(depot, source) == 1747472400 + 86400
    assert depot.find(f"{address}/a_1_all.deb")


def test_a_release_without_its_lists_is_no_list(
    depot: Depot, mirror: tuple[str, list[str]]
) -> None:
    """One that was killed between the two, or that fetches them at this moment, leaves just that."""
    address, _ = mirror
    source = Source(mirror=address, suite="bookworm")
    depot.get(f"{address}/dists/bookworm/InRelease")
    assert index.needed(depot, (source,), "amd64", ()) is None
    index.ensure(depot, source, "amd64")
    assert index.needed(depot, (source,), "amd64", ()) is not None


def test_a_file_that_two_builds_ask_for_is_fetched_once(
    depot: Depot, mirror: tuple[str, list[str]]
) -> None:
    """Each has a depot of its own, in the same folder."""
    address, seen = mirror
    depots = [Depot(depot.folder) for _ in range(8)]
    with ThreadPoolExecutor(len(depots)) as pool:
        found = set(pool.map(lambda one: one.get(f"{address}/a_1_all.deb"), depots))
    assert len(found) == 1
    assert len(seen) == 1


def test_offline_without_a_list_says_which_one_is_missing(depot: Depot) -> None:
    """Its address, and the remedy."""
    source = Source(mirror="http://m.test/debian", suite="bookworm")
    with pytest.raises(AbsentError) as caught:
        index.ensure(Depot(depot.folder, offline=True), source, "amd64")
    assert caught.value.value == "http://m.test/debian/dists/bookworm/InRelease"
    assert "--offline" in caught.value.remedy
    assert not os.path.lexists(depot.folder / "m.test")
