"""Where packages come from: the machine's apt configuration, read and checked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labkit import Lab
from labkit.errors import ConfigError, MachineError
from labkit.farm.debian import apt
from labkit.farm.debian.apt import Archive, Source

MAIN = "http://mirror.test/debian"
SECURITY = "http://mirror.test/security"
TARGETS = f"""\
Packages {MAIN}/ bookworm bookworm main Debian
Packages {MAIN}/ bookworm bookworm contrib Debian
Translations {MAIN}/ bookworm bookworm main Debian
Packages {MAIN}/ bookworm-updates bookworm-updates main Debian
Packages {SECURITY}/ bookworm-security bookworm-security main Debian
Packages http://vendor.test/apt/ bookworm bookworm main Vendor
Packages cdrom://disc/ bookworm bookworm main Debian
"""


def test_reads_the_sources_of_the_distribution_itself() -> None:
    """One source for each mirror and suite; other makers' and apt's own methods are left out."""
    found = apt.parse_targets(TARGETS)
    assert [(source.mirror, source.suite, source.components, name) for source, name in found] == [
        (MAIN, "bookworm", ("main", "contrib"), "bookworm"),
        (MAIN, "bookworm-updates", ("main",), "bookworm-updates"),
        (SECURITY, "bookworm-security", ("main",), "bookworm-security"),
    ]


def test_reads_sources_whose_origin_is_not_known_yet() -> None:
    """Before the first update apt knows no origin; the sources are taken as they are."""
    found = apt.parse_targets(f"Packages {MAIN}/ bookworm bookworm main $(ORIGIN)\n")
    assert [source.mirror for source, _ in found] == [MAIN]


@pytest.mark.parametrize(
    ("suite", "mirror", "main", "further"),
    [
        ("", "", f"deb {MAIN} bookworm main", ["bookworm-updates", "bookworm-security"]),
        ("trixie", "", f"deb {MAIN} trixie main", []),
        ("", "http://own.test/debian/", "deb http://own.test/debian bookworm main", []),
        ("sid", "http://own.test/debian", "deb http://own.test/debian sid main", []),
    ],
)
def test_chooses_the_suite_and_its_fixes(
    suite: str, mirror: str, main: str, further: list[str]
) -> None:
    """The machine's suite with its fixes; another suite on the same mirror; the lab's own mirror alone."""
    chosen, more = apt.choose(
        apt.parse_targets(TARGETS), codename="bookworm", suite=suite, mirror=mirror
    )
    assert chosen.line == main
    assert [source.suite for source in more] == further


def test_a_release_that_is_named_by_its_state_is_found_by_its_codename() -> None:
    """Sources that say ``stable`` serve the suite that is stable."""
    targets = apt.parse_targets(f"Packages {MAIN}/ stable bookworm main Debian\n")
    chosen, _ = apt.choose(targets, codename="bookworm", suite="", mirror="")
    assert chosen.line == f"deb {MAIN} bookworm main"


def test_a_machine_without_a_mirror_is_told_to_name_one() -> None:
    """No guess is made: the error names the key."""
    with pytest.raises(ConfigError) as caught:
        apt.choose((), codename="bookworm", suite="", mirror="")
    assert "rootfs.mirror" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ('Acquire::http::Proxy "http://cache.test:3142";\n', "http://cache.test:3142"),
        ('Acquire::http::Proxy "DIRECT";\n', ""),
        ("", ""),
    ],
)
def test_reads_apts_proxy(text: str, address: str) -> None:
    """The address, '' when there is none."""
    assert apt.parse_proxy(text) == address


def test_reads_os_release() -> None:
    """Quotes are undone, comments left out."""
    text = '# a comment\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n'
    assert apt.parse_os_release(text) == {
        "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)",
        "ID": "debian",
    }


def test_asks_this_machine() -> None:
    """The machine's own apt names a mirror of the machine's own suite."""
    found = apt.archive(Lab())
    assert found.main.suite == apt.os_release()["VERSION_CODENAME"] == apt.suite(Lab())
    assert found.main.components == ("main",)
    assert found.kind == "the machine's mirror"


# -- a mirror on loopback --------------------------------------------------------------------


class _Mirror(BaseHTTPRequestHandler):
    """A mirror that has the suite ``bookworm`` and nothing else."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/debian/dists/bookworm/InRelease" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[str]:
    """The address of such a mirror."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Mirror) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/debian"
        server.shutdown()
        thread.join()


def _archive(mirror: str, suite: str) -> Archive:
    return Archive(main=Source(mirror=mirror, suite=suite), kind="the lab's own mirror")


def test_a_suite_that_the_mirror_has_is_accepted(mirror: str) -> None:
    """Nothing is raised."""
    apt.require(_archive(mirror, "bookworm"))


def test_an_unknown_suite_names_the_near_one_that_the_mirror_has(mirror: str) -> None:
    """The error says which suite was meant, and no other that the mirror lacks."""
    with pytest.raises(ConfigError) as caught:
        apt.require(_archive(mirror, "bookwrm"))
    assert caught.value.value == "rootfs.suite = 'bookwrm'"
    assert caught.value.remedy == "it has bookworm"


def test_a_suite_that_the_mirror_no_longer_carries_is_said_to_be_one(mirror: str) -> None:
    """The error tells one that has ended from one that never was, and where such suites are kept."""
    with pytest.raises(ConfigError) as caught:
        apt.require(_archive(mirror, "stretch"))
    assert caught.value.value == "rootfs.suite = 'stretch'"
    assert caught.value.reason == "the lab's own mirror does not carry this suite, or no longer"
    assert "suites that have ended" in caught.value.remedy
    with pytest.raises(ConfigError) as unknown:
        apt.require(_archive(mirror, "no-such-suite"))
    assert unknown.value.reason == "the lab's own mirror has no such suite"


def test_a_mirror_that_refuses_is_named(port: int) -> None:
    """Nobody listens there."""
    with pytest.raises(MachineError) as caught:
        apt.require(_archive(f"http://127.0.0.1:{port}/debian", "bookworm"))
    assert "Connection refused" in caught.value.reason


def test_a_mirror_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stands and no answer comes: an error after the patience, not a hang."""
    monkeypatch.setattr(apt, "PATIENCE", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/debian"
        with pytest.raises(MachineError) as caught:
            apt.require(_archive(address, "bookworm"))
    assert "does not answer: nothing within" in caught.value.reason


def test_a_mirror_in_a_folder_is_looked_at(tmp_path: Path) -> None:
    """``file://`` mirrors have the suites whose InRelease lies there; a missing folder is silent."""
    (tmp_path / "dists/bookworm").mkdir(parents=True)
    (tmp_path / "dists/bookworm/InRelease").touch()
    apt.require(_archive(f"file://{tmp_path}", "bookworm"))
    with pytest.raises(ConfigError):
        apt.require(_archive(f"file://{tmp_path}", "sid"))
    with pytest.raises(MachineError):
        apt.require(_archive(f"file://{tmp_path}/none", "sid"))
