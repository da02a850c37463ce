"""What apt is asked for, and what is made of its answers."""

from __future__ import annotations

import pytest

from labkit.core import run
from labkit.errors import MachineError
from labkit.farm.rootfs import apt
from labkit.farm.rootfs.apt import Source

MAIN = "http://mirror.test/debian"
SECURITY = "http://mirror.test/security"
CDROM = "cdrom:[Debian GNU/Linux 12.0 _Bookworm_ - DVD 1]"


TARGETS = "".join(
    "\t".join(words) + "\n"
    for words in (
        ("Packages", f"{MAIN}/", "bookworm", "bookworm", "main", "amd64", "/l/0", "Debian"),
        ("Packages", f"{MAIN}/", "bookworm", "bookworm", "main", "i386", "/l/1", "Debian"),
        ("Packages", f"{MAIN}/", "bookworm", "bookworm", "contrib", "amd64", "/l/2", "Debian"),
        ("Translations", f"{MAIN}/", "bookworm", "bookworm", "main", "amd64", "/l/3", "Debian"),
        ("Packages", f"{MAIN}/", "bookworm-updates", "bookworm-updates", "main", "amd64", "/l/4", "Debian"),
        ("Packages", f"{SECURITY}/", "stable-security", "bookworm-security", "main", "amd64", "/l/5", "Debian"),
        ("Packages", "http://vendor.test/apt/", "bookworm", "bookworm", "main", "amd64", "/l/6", "Vendor"),
        ("Packages", f"{CDROM}/", "trixie", "trixie", "main", "amd64", "/l/7", "Debian"),
    )
)  # fmt: skip


def test_reads_the_sources_of_the_distribution_itself() -> None:
    """Of this architecture and of ``main``, whatever apt's method is; other makers' are left out."""
    found = apt.parse_targets(TARGETS, "amd64")
    assert [(source.mirror, source.suite, name) for source, name in found] == [
        (MAIN, "bookworm", "bookworm"),
        (MAIN, "bookworm-updates", "bookworm-updates"),
        (SECURITY, "stable-security", "bookworm-security"),
        (CDROM, "trixie", "trixie"),
    ]


def test_reads_sources_whose_origin_is_not_known() -> None:
    """A private mirror may not tell it; then all sources are taken."""
    text = f"Packages\t{MAIN}/\tbookworm\tbookworm\tmain\tamd64\t/l/0\t$(ORIGIN)\n"
    assert [source.mirror for source, _ in apt.parse_targets(text, "amd64")] == [MAIN]


@pytest.mark.parametrize(
    ("suite", "main", "further"),
    [
        ("bookworm", MAIN, ["bookworm-updates", "stable-security"]),
        ("trixie", CDROM, []),
        ("sid", None, []),
    ],
)
def test_chooses_the_suite_and_its_fixes(suite: str, main: str | None, further: list[str]) -> None:
    """By codename or by state; None for a suite that no source has."""
    chosen, more = apt.choose(apt.parse_targets(TARGETS, "amd64"), suite)
    assert (chosen and chosen.mirror) == main
    assert [source.suite for source in more] == further


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("deb http://m.test/bookworm bookworm main", "deb http://m.test/bookworm trixie main"),
        ("deb [arch=amd64 signed-by=/k/bookworm.gpg] http://m.test/x bookworm-updates main",
         "deb [arch=amd64 signed-by=/k/bookworm.gpg] http://m.test/x trixie-updates main"),
        ("deb http://m.test/x stable main # bookworm", "deb http://m.test/x trixie main # bookworm"),
        ("# deb http://m.test/x bookworm main", "# deb http://m.test/x bookworm main"),
        ("deb http://m.test/x bookworm/updates main", "deb http://m.test/x trixie/updates main"),
        ("Types: deb\nURIs: http://m.test/bookworm\nSuites: bookworm bookworm-updates\n bookworm-security\n"
         "Components: main\nSigned-By: /k/bookworm.gpg\nTrusted: yes\n",
         "Types: deb\nURIs: http://m.test/bookworm\nSuites: trixie trixie-updates\n trixie-security\n"
         "Components: main\nSigned-By: /k/bookworm.gpg\nTrusted: yes\n"),
        ("deb http://m.test/x mybookworm main", "deb http://m.test/x mybookworm main"),
    ],
)  # fmt: skip
def test_another_suite_is_asked_of_the_machines_sources(text: str, made: str) -> None:
    """In both formats; addresses, keys and options stay."""
    assert apt.for_suite(text, "bookworm", "trixie") == made


def test_an_update_takes_packages_and_nothing_else_and_starts_nothing() -> None:
    """Further lists of the machine are off, hooks are cleared; its own patience stays, where it has one."""
    dump = (
        'Acquire::Retries "7";\nAcquire::IndexTargets::deb::Packages "";\n'
        'Acquire::IndexTargets::deb::DEP-11 "";\nAcquire::IndexTargets::deb-src::Sources "";\n'
    )
    found = apt.updating(dump)
    assert "Acquire::Retries" not in found
    assert "Acquire::http::Timeout" in found
    off = sorted(name.split("::")[3] for name in found if name.endswith("DefaultEnabled"))
    assert off == ["DEP-11", "Sources"]
    text = apt.configuration(found, hooks=False)
    assert text.startswith("#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n")


LOGIN = f"E: Failed to fetch {MAIN}/dists/bookworm/InRelease  401  Unauthorized [IP: 127.0.0.1 80]"
SILENT = (
    f"W: Failed to fetch {MAIN}/dists/bookworm/InRelease  Could not connect to mirror.test:80 (127.0.0.1). - "
    "connect (111: Connection refused)"
)
EXPIRED = (
    f"E: Release file for {MAIN}/dists/bookworm/InRelease is expired (invalid since 2d 3h). Updates for this "
    "repository will not be applied."
)
UNSIGNED = f"E: The repository '{MAIN} bookworm Release' is not signed."
NO_KEY = (
    f"W: GPG error: {MAIN} bookworm InRelease: The following signatures couldn't be verified because the public key "
    "is not available: NO_PUBKEY 0E98404D386FA1D9"
)
NO_SUITE = f"E: The repository '{MAIN} bookworm Release' does not have a Release file."
NO_FIXES = f"E: The repository '{MAIN} bookworm-updates Release' does not have a Release file."
LOST_FIXES = f"W: Failed to fetch {SECURITY}/dists/bookworm-security/InRelease  Temporary failure resolving 'x'"
OTHER = "E: Failed to fetch http://vendor.test/apt/dists/bookworm/InRelease  402  Payment Required"
LEGACY = f"W: {MAIN}/dists/bookworm/InRelease: Key is stored in legacy trusted.gpg keyring"


@pytest.mark.parametrize(
    ("said", "there", "line"),
    [
        ((LEGACY, OTHER, LOGIN), False, OTHER),
        ((LEGACY, OTHER, LOGIN), True, LOGIN),
        ((LEGACY, OTHER), True, ""),
        ((SILENT,), True, SILENT),
        ((UNSIGNED, LOGIN), False, LOGIN),
        ((NO_FIXES, LEGACY), True, ""),
        ((NO_FIXES, NO_SUITE), False, NO_SUITE),
        ((LOST_FIXES,), True, LOST_FIXES),
        (("E: Some index files failed to download.",), True, ""),
        (("E: The list of sources could not be read.",), False, "E: The list of sources could not be read."),
    ],
)  # fmt: skip
def test_what_apt_complains_of(said: tuple[str, ...], there: bool, line: str) -> None:
    """A mirror need not have updates, but those that it has must come; another maker's mirror is not Debian's."""
    main = Source(mirror=MAIN, suite="bookworm") if there else None
    assert apt.complaint("\n".join(said), "bookworm", main) == line


def test_what_apt_complains_of_behind_a_list_of_mirrors() -> None:
    """It names the mirror that it took from the list."""
    main = Source(mirror="mirror+file:/etc/apt/mirrors/debian.list", suite="bookworm")
    assert apt.complaint(LOGIN, "bookworm", main) == LOGIN


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "Could not connect to 127.0.0.1:1 (127.0.0.1). - connect (111: Connection refused)"),
        ("mirror.test:80", "Could not connect to mirror.test:80 (192.0.2.1), connection timed out"),
        ("other.test:80", "Unable to connect to other.test:80:"),
    ],
)  # fmt: skip
def test_apt_3_says_why_a_mirror_is_not_reached_in_its_progress(address: str, reason: str) -> None:
    """Its error names the address alone; the last of several tries counts, and what is nowhere said is left out."""
    progress = (
        "Ign:1 http://127.0.0.1:1/debian trixie InRelease\n"
        "Err:1 http://127.0.0.1:1/debian trixie InRelease\n"
        "  Could not connect to 127.0.0.1:1 (127.0.0.1). - connect (111: Connection refused)\n"
        "  Unable to connect to 127.0.0.1:1:\n"
        "Err:2 http://mirror.test/debian trixie InRelease\n"
        "  Cannot initiate the connection to mirror.test:80 (2001:db8::1). - connect (101: Network is unreachable)\n"
        "  Could not connect to mirror.test:80 (192.0.2.1), connection timed out\n"
        "  Unable to connect to mirror.test:80:\n"
        "Reading package lists...\n"
    )
    failed = f"W: Failed to fetch http://{address}/debian/dists/trixie/InRelease  "
    done = run.Done((), 0, progress, f"{failed}Unable to connect to {address}:\n", 0.1)
    assert apt.errors(done) == f"{failed}{reason}\n"


@pytest.mark.parametrize(
    ("line", "code", "reason", "remedy"),
    [
        (LOGIN, "machine.mirror-login", "asks for a login that apt does not have: it answers 401", "auth.conf.d"),
        (LOGIN.replace("401  Unauthorized", "403  Forbidden"), "machine.mirror-login", "it answers 403", "auth.conf"),
        (SILENT, "machine.mirror", "does not answer: Could not connect", "check the network"),
        (LOGIN.replace("401  Unauthorized", "500  Error"), "machine.mirror", "does not answer: 500  Error", "network"),
        (EXPIRED, "machine.mirror-expired", "is expired (invalid since 2d 3h)", "Check-Valid-Until: no"),
        (UNSIGNED, "machine.mirror-signature", "is not signed", "Signed-By"),
        (NO_KEY, "machine.mirror-signature", "NO_PUBKEY 0E98404D386FA1D9", "Signed-By"),
    ],
)  # fmt: skip
def test_each_refusal_has_its_remedy(line: str, code: str, reason: str, remedy: str) -> None:
    """With apt's own words, and the command that shows it again."""
    error = apt.refusal(line, "the machine's mirror", "apt-get update")
    assert isinstance(error, MachineError)
    assert (error.value, error.code, error.again) == (f"the mirror {MAIN}", code, "apt-get update")
    assert reason in error.reason
    assert remedy in error.remedy


def test_no_login_is_told() -> None:
    """Neither in an error that names the mirror, nor in a source's line, which lies in root file systems."""
    line = SILENT.replace("http://", "http://me:secret@")
    assert "secret" not in str(apt.refusal(line, "the lab's own mirror", ""))
    source = Source(mirror="https://me:secret@mirror.test/debian", suite="bookworm")
    assert source.line == "deb https://mirror.test/debian bookworm main"
