"""apt's lists and packages, by apt's own ways: wherever `apt-get update` works, labkit works."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run
from labkit.errors import CommandError, ConfigError, LabkitError, MachineError
from labkit.farm import rootfs
from labkit.farm.rootfs import apt, buildplan
from labkit.farm.rootfs.apt import AbsentError
from labkit.farm.rootfs.repository import ADDRESS, PackageCache, Repository
from labkit.farm.rootfs.sandbox import gateway
from tests import proc
from tests.archives import LOGIN, Mirror, as_machine, fill, serving
from tests.damage import flip

SUITE = apt.codename()
#: The machine's apt in each case: its files below /etc/apt, with the mirror's ADDRESS, its PORT and FOLDER in them.
MACHINES: dict[str, dict[str, str]] = {
    "a line": {"sources.list": "deb [trusted=yes arch=ARCH] ADDRESS SUITE main\n"},
    "a stanza": {
        "sources.list.d/x.sources": "Types: deb\nURIs: ADDRESS\nSuites: SUITE\nComponents: main\nTrusted: yes\n",
    },
    "a list of mirrors": {
        "mirrors/debian.list": "ADDRESS\tpriority:1\n",
        "sources.list": "deb [trusted=yes] mirror+file:/etc/apt/mirrors/debian.list SUITE main\n",
    },
    "a login": {
        "auth.conf.d/x.conf": f"machine http://127.0.0.1:PORT/ login {LOGIN[0]} password {LOGIN[1]}\n",
        "sources.list": "deb [trusted=yes] ADDRESS SUITE main\n",
    },
    "a proxy by a program": {
        "proxy.sh": "#!/bin/sh\necho http://127.0.0.1:PORT/\n",
        "apt.conf": 'Acquire::http::Proxy-Auto-Detect "/etc/apt/proxy.sh";\n',
        "sources.list": "deb [trusted=yes] http://mirror.invalid/debian SUITE main\n",
    },
    "a proxy for one host": {
        "apt.conf": 'Acquire::http::Proxy::mirror.invalid "http://127.0.0.1:PORT/";\n',
        "sources.list": "deb [trusted=yes] http://mirror.invalid/debian SUITE main\n",
    },
    "an old list": {
        "sources.list.d/x.sources": "Types: deb\nURIs: ADDRESS\nSuites: SUITE\nComponents: main\nTrusted: yes\n"
        "Check-Valid-Until: no\n",
    },
    "a folder": {"sources.list": "deb [trusted=yes] file:FOLDER/debian SUITE main\n"},
    "a folder by copies": {"sources.list": "deb [trusted=yes] copy:FOLDER/debian SUITE main\n"},
    "another mirror that is broken": {
        "sources.list": "deb [trusted=yes] ADDRESS SUITE main\n",
        "sources.list.d/vendor.list": "deb [trusted=yes] http://127.0.0.1:PORT/vendor SUITE main\n",
    },
    "a hook that fails": {
        "apt.conf": 'APT::Update::Post-Invoke { "touch FOLDER/hooked; exit 1"; };\n',
        "sources.list": "deb [trusted=yes] ADDRESS SUITE main\n",
    },
}  # fmt: skip


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    """A mirror with the machine's suite."""
    with serving(tmp_path / "mirror") as served:
        yield served


@pytest.fixture
def small(tmp_path: Path) -> Lab:
    """A lab with a cache of its own."""
    return Lab.of({"cache": str(tmp_path / "cache"), "state": str(tmp_path / "state")})


def etc(mirror: Mirror, files: dict[str, str]) -> dict[str, str]:
    """A machine's files for a mirror."""
    words = {
        "ADDRESS": mirror.address, "PORT": str(mirror.port), "FOLDER": str(mirror.folder), "SUITE": SUITE,
        "ARCH": apt.architecture(),
    }  # fmt: skip
    for old, new in words.items():
        files = {name: text.replace(old, new) for name, text in files.items()}
    return files


def repository_of(lab: Lab) -> Repository:
    """What a build with the package labkit-one would take its packages from."""
    archive = apt.ensure_lists(lab)
    return buildplan.needed(archive, archive.sources, ("labkit-one",))


def names(lab: Lab, work: Path) -> list[str]:
    """The packages of such a build, fetched."""
    files = repository_of(lab).fetch(PackageCache.of(lab), ("labkit-one",), work)
    return sorted(path.name.partition("_")[0] for path in files)


def _prepare(mirror: Mirror, case: str) -> None:
    """The mirror is as the case has it."""
    mirror.login = case.startswith("a login")
    if case == "an old list":
        fill(mirror.folder / "debian", expired=True)


@pytest.mark.root
@pytest.mark.parametrize("case", MACHINES)
def test_what_works_for_apt_works(case: str, mirror: Mirror, small: Lab, tmp_path: Path) -> None:
    """With an empty folder of lists, the suite's list is taken and its packages are fetched; nothing of the machine's
    apt has changed, and nothing of it was started."""
    _prepare(mirror, case)

    def work() -> tuple[list[str], list[str]]:
        found = names(small, tmp_path / "work")
        return found, [path.name for path in Path("/var/lib/apt/lists").iterdir()]

    found, left = as_machine(tmp_path / "machine", etc(mirror, MACHINES[case]), work)
    assert found == ["labkit-one", "labkit-two"]
    assert left == []
    assert not [path for path in small.cache_dir.rglob("*.deb@*") if path.is_symlink()]
    assert not (mirror.folder / "hooked").exists()


@pytest.mark.root
def test_a_mirror_that_wants_a_certificate_gets_the_one_that_apt_has(
    small: Lab, tmp_path: Path
) -> None:
    """And is itself known by a certificate that apt alone trusts."""
    pair = tmp_path / "pair.pem"
    run.run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pair, "-out", tmp_path / "c.pem",
    ])  # fmt: skip
    key, certificate = pair.read_text(), (tmp_path / "c.pem").read_text()
    pair.write_text(key + certificate)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=certificate)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(pair)
    with serving(tmp_path / "mirror", tls) as mirror:
        files = {
            "sources.list": TRUSTED.replace("http:", "https:"),
            "own.pem": certificate,
            "key.pem": key,
            "apt.conf": "".join(
                f'Acquire::https::{name} "/etc/apt/{file}.pem";\n'
                for name, file in (("CaInfo", "own"), ("SslCert", "own"), ("SslKey", "key"))
            ),
        }
        found = as_machine(
            tmp_path / "machine", etc(mirror, files), lambda: names(small, tmp_path / "work")
        )
    assert found == ["labkit-one", "labkit-two"]


@pytest.mark.root
def test_a_medium_is_read_as_it_is_known_to_apt(small: Lab, tmp_path: Path) -> None:
    """Its list is nowhere but among the machine's: apt never fetches one from a medium."""
    disc = tmp_path / "disc"
    fill(disc)
    (disc / ".disk").mkdir()
    (disc / ".disk/info").write_text("Debian GNU/Linux _Test_ - DVD 1\n")
    conf = {
        "APT::CDROM::NoMount": "true", "Acquire::cdrom::AutoDetect": "false", "Acquire::cdrom::mount": f"{disc}/",
        "Acquire::AllowInsecureRepositories": "true", "Dir::State::cdroms": tmp_path / "cdroms.list",
    }  # fmt: skip
    files = {"apt.conf": apt.configuration(conf), "sources.list": ""}

    def work() -> list[str]:
        run.run(["apt-cdrom", "--no-mount", f"--cdrom={disc}/", "add"], stdin="\n")
        return names(small, tmp_path / "work")

    assert as_machine(tmp_path / "machine", files, work) == ["labkit-one", "labkit-two"]


TAKE = """
import json, sys
from labkit import Lab
from labkit.farm.rootfs import apt
apt.update_lists(Lab.of(json.loads(sys.argv[1])))
"""


@pytest.mark.root
def test_a_killed_update_leaves_nothing_that_a_later_one_takes_for_whole(
    mirror: Mirror, small: Lab, tmp_path: Path
) -> None:
    """apt ends with it, and the next call takes the lists whole."""

    def work() -> list[str]:
        mirror.silent = True
        words = [sys.executable, "-c", TAKE, small.model_dump_json()]
        taking = run.start(words, env={"PYTHONPATH": str(Path(apt.__file__).parents[3])})
        _until(lambda: bool(mirror.asked))
        os.kill(taking.pid, signal.SIGKILL)
        taking.wait()
        _until(lambda: not proc.command_lines(str(small.cache_dir)))
        mirror.silent = False
        assert apt.find_lists(small) is None
        return names(small, tmp_path / "work")

    machine = etc(mirror, MACHINES["a line"])
    assert as_machine(tmp_path / "machine", machine, work) == ["labkit-one", "labkit-two"]
    assert not list((small.cache_dir / "lists").glob(".*"))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.root
def test_it_is_fetched_once(mirror: Mirror, small: Lab, tmp_path: Path) -> None:
    """The second time everything is in the cache, offline too; a package that was damaged is fetched again, and a
    list that is taken anew has the new version."""
    machine = etc(mirror, MACHINES["a line"])
    offline = small.model_copy(update={"offline": True})

    def work() -> None:
        names(small, tmp_path / "1")
        asked = len(mirror.asked)
        assert names(offline, tmp_path / "2") == ["labkit-one", "labkit-two"]
        assert len(mirror.asked) == asked
        pool = PackageCache.of(small).folder / "pool"
        next(pool.glob("labkit-two_1_*")).write_bytes(b"cut off")
        names(small, tmp_path / "3")
        assert [path.rpartition("/")[2] for path in mirror.asked[asked:]] == [
            "labkit-two_1_all.deb"
        ]
        fill(mirror.folder / "debian", version="2")
        assert rootfs.refresh(small).changed
        names(small, tmp_path / "4")
        assert len(list(pool.glob("labkit-*_2_all.deb@*"))) == 2
        assert not [path for path in pool.iterdir() if path.name.endswith((".part", ".FAILED"))]

    as_machine(tmp_path / "machine", machine, work)


@pytest.mark.root
def test_a_build_reaches_the_repository_and_nothing_else(
    mirror: Mirror, small: Lab, tmp_path: Path
) -> None:
    """From behind the gateway a package that was not fetched before is fetched, once; what the repository does not have is not
    there, and neither is the mirror itself."""

    def work() -> None:
        repository, cached = repository_of(small), PackageCache.of(small)
        with gateway(cached, repository) as way:
            wget = [*way.words, "wget", "-q", "-t1", "-T5", "-O-"]
            path = f"{ADDRESS}/0/pool/main/labkit-two_1_all.deb"
            for _ in range(2):
                assert run.run([*wget, path], env=way.env).stdout.startswith("!<arch>")
            assert (
                SUITE in run.run([*wget, f"{ADDRESS}/0/dists/{SUITE}/Release"], env=way.env).stdout
            )
            for address in (
                f"{ADDRESS}/0/pool/main/none.deb",
                f"{mirror.address}/dists/{SUITE}/Release",
            ):
                with pytest.raises(CommandError):
                    run.run([*wget, address], env=way.env)
            with pytest.raises(CommandError):
                run.run([*wget, f"{mirror.address}/dists/{SUITE}/Release"], env={"no_proxy": "*"})
        assert len([path for path in mirror.asked if path.endswith(".deb")]) == 1

    as_machine(tmp_path / "machine", etc(mirror, MACHINES["a line"]), work)


def _refused(mirror: Mirror, lab: Lab, folder: Path, source: str) -> LabkitError:
    with pytest.raises(LabkitError) as caught:
        as_machine(folder, etc(mirror, {"sources.list": source}), lambda: apt.ensure_lists(lab))
    left = [path for path in lab.cache_dir.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    return caught.value


TRUSTED = "deb [trusted=yes] ADDRESS SUITE main\n"
#: What the machine's apt has as its source, the error's code, and words of it.
REFUSED = {
    "a login": (TRUSTED, "machine.mirror-login", "401"),
    "a login, signed": ("deb ADDRESS SUITE main\n", "machine.mirror-login", "401"),
    "an old list": (TRUSTED, "machine.mirror-expired", "Check-Valid-Until"),
    "no signature": ("deb ADDRESS SUITE main\n", "machine.mirror-signature", "Signed-By"),
    "nobody there": (
        "deb [trusted=yes] http://127.0.0.1:1/debian SUITE main\n", "machine.mirror", "Connection refused",
    ),
    "no such host": (
        "deb [trusted=yes] http://mirror.invalid/debian SUITE main\n", "machine.mirror", "resolv",
    ),
    "no sources": ("", "config.no-mirror", "set rootfs.mirror"),
}  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("case", REFUSED)
def test_what_apt_is_refused_is_said(case: str, mirror: Mirror, small: Lab, tmp_path: Path) -> None:
    """The reason, what to do, and nothing is left in the cache."""
    _prepare(mirror, case)
    source, code, said = REFUSED[case]
    error = _refused(mirror, small, tmp_path / "machine", source)
    assert error.code == code
    assert said in f"{error.reason} {error.remedy}"
    assert error.again == "apt-get update"


@pytest.mark.root
@pytest.mark.parametrize("own", [True, False])
def test_a_suite_that_the_mirror_lacks_is_said(
    own: bool, mirror: Mirror, small: Lab, tmp_path: Path
) -> None:
    """On the machine's mirror and on the lab's own: the near one that it has; or, of one that debootstrap knows, where
    such suites are kept."""
    whose = "the lab's own mirror" if own else "the machine's mirror"
    for suite, reason, remedy in (
        (f"{SUITE}x", f"{whose} has no such suite", f"it has {SUITE}"),
        ("stretch", f"{whose} does not carry this suite, or no longer", apt.ENDED),
    ):
        wanted = {"suite": suite, "mirror": mirror.address if own else ""}
        lab = Lab.of({"cache": small.cache, "state": small.state, "rootfs": wanted})
        error = _refused(mirror, lab, tmp_path / f"machine-{suite}", TRUSTED)
        assert isinstance(error, ConfigError)
        assert error.value == f"rootfs.suite = '{suite}'"
        assert (error.reason, error.remedy) == (reason, remedy)


@pytest.mark.root
def test_another_suite_comes_with_its_fixes_from_where_the_machines_own_does(
    mirror: Mirror, small: Lab, tmp_path: Path
) -> None:
    """Options and mirror are those of the machine's source; a suite without updates has none."""
    for suite in ("trixie", "trixie-security"):
        fill(mirror.folder / "debian", suite=suite)
    lab = Lab.of({"cache": small.cache, "rootfs": {"suite": "trixie"}})
    source = f"{TRUSTED}{TRUSTED.replace('SUITE', 'SUITE-updates')}{TRUSTED.replace('SUITE', 'SUITE-security')}"
    found = as_machine(
        tmp_path / "machine", etc(mirror, {"sources.list": source}), lambda: apt.ensure_lists(lab)
    )
    assert [source.suite for source in found.sources] == ["trixie", "trixie-security"]


@pytest.mark.root
def test_a_list_stays_until_it_can_be_taken_anew_and_is_when_a_bit_flips(
    mirror: Mirror, small: Lab, tmp_path: Path
) -> None:
    """Neither apt nor a build goes on from a damaged one; nor from a damaged answer that was kept beside it. The mirror
    wants a login from now on: that is said, and what there was can be used."""

    def work() -> None:
        before = apt.ensure_lists(small)
        packages = before.folder / before.main.packages
        whole = packages.read_bytes()
        flip(packages)
        again = apt.ensure_lists(small)
        assert (again.sources, packages.read_bytes()) == (before.sources, whole)
        found = buildplan.needed(again, again.sources, ["labkit-one"])
        (kept,) = (again.folder / "needed").iterdir()
        flip(kept)
        assert buildplan.needed(again, again.sources, ["labkit-one"]) == found
        mirror.login = True
        with pytest.raises(MachineError) as caught:
            rootfs.refresh(small)
        assert caught.value.code == "machine.mirror-login"
        assert apt.find_lists(small) == again

    as_machine(tmp_path / "machine", etc(mirror, MACHINES["a line"]), work)


@pytest.mark.root
def test_a_package_that_the_mirror_has_replaced_is_named(
    mirror: Mirror, small: Lab, tmp_path: Path
) -> None:
    """With the mirror's answer; nothing is left of the attempt."""

    def work() -> int | None:
        apt.ensure_lists(small)
        shutil.rmtree(mirror.folder / "debian/pool")
        with pytest.raises(AbsentError, match=r"labkit-(one|two)_1_all") as caught:
            names(small, tmp_path / "work")
        return caught.value.status

    assert as_machine(tmp_path / "machine", etc(mirror, MACHINES["a line"]), work) == 404
    assert list((PackageCache.of(small).folder / "pool").iterdir()) == []


def test_offline_without_a_list_says_what_is_missing(small: Lab) -> None:
    """And the remedy; nothing is begun."""
    with pytest.raises(AbsentError) as caught:
        apt.ensure_lists(small.model_copy(update={"offline": True}))
    assert caught.value.value == f"the list of packages of {apt.suite(small)}"
    assert "without --offline" in caught.value.remedy
    assert not small.cache_dir.exists()
