"""A byte that flipped in what labkit keeps: named by the next action, and put right by it."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import cache
from labkit.core.files import proven, write_proven
from labkit.farm import rootfs
from labkit.farm.containers import overlay, runc
from labkit.farm.images import builder, store
from labkit.farm.images import layout as images
from labkit.farm.reconcile import kept, up, upkeep
from labkit.farm.rootfs.apt import AbsentError
from labkit.farm.rootfs.repository import Deb, PackageCache
from labkit.model.sites import PAGE
from labkit.report import status
from labkit.wiki.server import installation
from tests.conftest import CACHE, open_place
from tests.damage import flip
from tests.test_rootfs import tiny
from tests.whole_farm import standing as whole_farm

__all__ = ["tiny"]  # a fixture of that module

Find = Callable[[Lab], Path]


def test_a_package_with_another_bit_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also in the process that has just read it; it is named, and fetched again."""
    depot = PackageCache(tmp_path, offline=True)
    deb = Deb("http://m.test/debian/a_1_all.deb", hashlib.sha256(b"a package").hexdigest())
    depot.pool.mkdir()
    depot.place(deb).write_bytes(b"a package")
    assert depot.find(deb)
    flip(depot.place(deb))
    assert depot.find(deb) is None
    assert depot.place(deb).name in caplog.text
    with pytest.raises(AbsentError, match="not in the cache"):
        depot.get(deb)


def digest(path: Path) -> str:
    """What is in a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- sealed folders ------------------------------------------------------------------------------------


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A folder as a build leaves it."""
    (tmp_path / "rootfs/usr/bin").mkdir(parents=True)
    (tmp_path / "rootfs/usr/bin/tool").write_bytes(b"tool" * 1000)
    (tmp_path / "rootfs/bin").symlink_to("usr/bin")
    (tmp_path / "rootfs/usr/empty").touch()
    (tmp_path / "rootfs.json").write_text('{"bytes": 4000}')
    cache.seal(tmp_path)
    return tmp_path


def _relink(folder: Path) -> None:
    (folder / "rootfs/bin").unlink()
    (folder / "rootfs/bin").symlink_to("usr/lib")


#: What becomes of it, and what is named.
DAMAGE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "nothing": (lambda f: None, ()),
    "a bit": (lambda f: flip(f / "rootfs/usr/bin/tool"), ("rootfs/usr/bin/tool",)),
    "a bit of the record": (lambda f: flip(f / "rootfs.json"), ("rootfs.json",)),
    "a file is gone": (lambda f: (f / "rootfs/usr/empty").unlink(), ("rootfs/usr/empty",)),
    "a file is new": (lambda f: (f / "rootfs/usr/bin/more").touch(), ("rootfs/usr/bin/more",)),
    "another mode": (lambda f: (f / "rootfs/usr/bin/tool").chmod(0o4755), ("rootfs/usr/bin/tool",)),
    "another link": (_relink, ("rootfs/bin",)),
    "all is gone": (lambda f: shutil.rmtree(f / "rootfs"), ("rootfs", "rootfs/bin", "rootfs/usr", "rootfs/usr/bin", "rootfs/usr/bin/tool", "rootfs/usr/empty")),
    "no list": (lambda f: (f / cache.SEAL).unlink(), (cache.UNSEALED,)),
    "a list that is none": (lambda f: (f / cache.SEAL).write_text('["rootfs"]\n{'), (cache.UNSEALED,)),
    "a list of numbers": (lambda f: (f / cache.SEAL).write_text("[1]\n[2]\n"), (cache.UNSEALED,)),
    "what is put beside it": (lambda f: (f / "measured.json").write_text("{}"), ()),
    "no memory": (lambda f: (f / cache.HELD).unlink(), ()),
    "a memory of another boot": (lambda f: (f / cache.HELD).write_text("0" * 64), ()),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_not_as_it_was_sealed_is_named(sealed: Path, case: str) -> None:
    """Whatever it is, by a first look and by the next one; what was put beside it is not covered."""
    assert cache.damage(sealed) == ()
    harm, named = DAMAGE[case]
    harm(sealed)
    for anew in (False, True, False):
        assert cache.damage(sealed, anew=anew) == named
    assert cache.whole(sealed) == (not named)


def test_files_are_read_once_in_a_boot(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After that their times are looked at; in another boot they are read again, and when asked for."""
    read: list[Path] = []
    real = cache.digest

    def counted(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(cache, "digest", counted)
    assert cache.damage(sealed) == ()
    assert read == []
    assert cache.damage(sealed, anew=True) == ()
    assert len(read) == 3
    monkeypatch.setattr(cache, "boot_id", lambda: "another")
    assert cache.damage(sealed) == ()
    assert len(read) == 6
    assert cache.damage(sealed) == ()
    assert len(read) == 6


def test_a_bit_that_no_time_tells_of_is_found_anew(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk loses it: unseen in the same boot, found by a check of all, and not forgotten then."""
    monkeypatch.setattr(cache, "_stamp", lambda folder, tops: "the same")
    cache.seal(sealed)
    flip(sealed / "rootfs/usr/bin/tool")
    assert cache.damage(sealed) == ()
    assert cache.damage(sealed, anew=True) == ("rootfs/usr/bin/tool",)
    assert cache.damage(sealed) == ("rootfs/usr/bin/tool",)


def test_a_result_that_was_kept_is_read_as_it_was_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another one is none, and named."""
    path = tmp_path / "evidence.json"
    assert proven(path) is None
    write_proven(path, '{"size": 5}\n')
    assert proven(path) == '{"size": 5}\n'
    assert not caplog.records
    flip(path)
    assert proven(path) is None
    assert str(path) in caplog.text


def test_a_mediawiki_with_another_bit_is_unpacked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is downloaded again, and the damaged one does not serve in its place."""

    def unpack(place: Path, version: str) -> Path:
        program = installation.installation(place, version)
        program.mkdir(parents=True, exist_ok=True)
        (program / "api.php").write_text("<?php echo 1;")
        cache.seal(place / "mediawiki" / version)
        return program

    monkeypatch.setattr(installation, "_download", unpack)
    monkeypatch.setattr(installation, "candidate", lambda: "1.39")
    program = installation.fetch(tmp_path)
    before = digest(program / "api.php")
    flip(program / "api.php")
    assert installation.versions(tmp_path) == []
    assert installation.fetch(tmp_path) == program
    assert digest(program / "api.php") == before
    assert "usr/share/mediawiki/api.php" in caplog.text


# -- a root file system --------------------------------------------------------------------------------


def test_files_of_containers_that_are_made_at_once_are_laid_once(tmp_path: Path) -> None:
    """No thread takes away what another has laid, and mounted: each finds the same file, and it stays."""
    for number in range(50):
        place, begun = tmp_path / str(number) / "rootfs", threading.Barrier(8)

        def laid(_: int, place: Path = place, begun: threading.Barrier = begun) -> int:
            begun.wait(60)
            overlay._write_layer(place, {"etc/key": "PRIVATE KEY"})
            return (place / "etc/key").stat().st_ino

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(laid, range(8))) == {(place / "etc/key").stat().st_ino}


@pytest.mark.root
def test_a_root_file_system_with_another_bit_is_built_again(
    tiny: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """Its program is named, and the same again afterwards; so is a package in the depot."""
    place = rootfs.build(tiny, "tiny").value.path
    (shell,) = [p for p in place.rglob("dash") if p.is_file() and p.parent.name == "bin"]
    before = digest(shell)
    flip(shell)
    again = rootfs.build(tiny, "tiny")
    assert again.changed
    assert digest(shell) == before
    assert str(shell.relative_to(place.parent)) in caplog.text
    assert not rootfs.build(tiny, "tiny").changed


# -- a farm --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """One replica that is up, on a cache of its own: what was downloaded is a copy."""
    with open_place() as place:
        for name in ("debian", "lists"):
            if Path(CACHE, name).is_dir():
                shutil.copytree(
                    Path(CACHE, name), place / name, ignore=shutil.ignore_patterns(".*")
                )
        for folder in (place / "lists").glob("*"):
            cache.seal(folder)
        with whole_farm(sites=["red"], replicas=1, cache=str(place)) as lab:
            yield lab


def _program(lab: Lab) -> Path:
    return images.unpacked(lab, "red").lower[-1] / "usr/sbin/apache2"


def _blob(lab: Lab, role: str) -> Path:
    tag = store.tag(builder.place(lab) / "layout", "red")
    digests = {
        "manifest": tag.manifest,
        "configuration": tag.config,
        "base": tag.layers[0],
        "site": tag.layers[-1],
    }
    return store.blob(builder.place(lab) / "layout", digests[role])  # fmt: skip


#: Where a bit flips; what the lab serves with afterwards is as before.
PLACES: dict[str, Find] = {
    "a program of the unpacked base": _program,
    "the page of a site": lambda lab: images.unpacked(lab, "red").lower[0] / PAGE,
    "the copy of a host's key": lambda lab: next((lab.state_dir / "layers").glob("*/rootfs/etc/ssh/ssh_host_*_key")),
    "the blob of the base's layer": lambda lab: _blob(lab, "base"),
    "the blob of a site's layer": lambda lab: _blob(lab, "site"),
    "the blob of a manifest": lambda lab: _blob(lab, "manifest"),
    "the blob of a configuration": lambda lab: _blob(lab, "configuration"),
    "the index of the layout": lambda lab: builder.place(lab) / "layout/index.json",
    "the record of the images": lambda lab: builder.place(lab) / "image.json",
    "the runtime configuration": lambda lab: images.unpacked(lab, "red").config,
}  # fmt: skip


def _content(path: Path) -> object:
    """What a file says: an index may have its tags in another order."""
    return store.tags(path.parent) if path.name == "index.json" else digest(path)


def _serves(lab: Lab) -> bool:
    return failed(up.replica_checks(lab)) == () and failed(kept.checks(lab)) == ()


@pytest.mark.root
@pytest.mark.parametrize("place", PLACES)
def test_a_bit_that_flipped_is_named_and_put_right_by_apply(
    farm: Lab, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The plan or the log has the file's name; afterwards there is nothing to do, and every file is as made."""
    assert upkeep.apply(farm).holds
    path = PLACES[place](farm)
    before = _content(path)
    flip(path)
    said = str(upkeep.plan(farm).value)
    assert any(path.name in check.seen for check in failed(kept.checks(farm)))
    done = upkeep.apply(farm)
    assert done.changed
    assert done.holds
    assert path.name in said + caplog.text
    assert _content(path) == before
    assert not upkeep.apply(farm).changed
    assert _serves(farm)


@pytest.mark.root
@pytest.mark.parametrize("down", [False, True])
def test_a_replica_stands_on_what_was_built_again(farm: Lab, down: bool) -> None:
    """Its root is mounted anew: through it the flipped bit is not to be seen any more; nothing is started on a bit that
    flips while the farm is down."""
    upkeep.apply(farm)
    path, seen = _program(farm), runc.bundle(farm, "red-1") / "rootfs/usr/sbin/apache2"
    before = digest(path)
    if down:
        assert status.down(farm).holds
    flip(path)
    assert upkeep.apply(farm).holds
    assert digest(seen) == before == digest(_program(farm))
    assert seen.stat().st_mtime_ns == path.stat().st_mtime_ns
    assert _serves(farm)


@pytest.mark.root
def test_a_damaged_root_file_system_is_in_no_next_image(
    farm: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """A check of all files names it, and the image that needs it next has it as it was."""
    upkeep.apply(farm)
    place = rootfs.build(farm).value.path
    path = place / "etc/debian_version"
    before = digest(path)
    path.unlink()  # the image's own is another name of the same file
    path.write_bytes(
        b"x" + (images.unpacked(farm, "red").lower[-1] / "etc/debian_version").read_bytes()[1:]
    )
    assert any("etc/debian_version" in check.seen for check in failed(kept.checks(farm)))
    assert rootfs.build(farm).changed
    assert digest(path) == before
    assert "etc/debian_version" in caplog.text
    assert _serves(farm)
