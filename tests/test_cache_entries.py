"""What nobody uses is removed from the cache, and nothing else: tried with folders of the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import cache, run
from labkit.core.journal import lock
from labkit.farm import rootfs
from labkit.farm.images import layout as image
from labkit.farm.reconcile import up
from labkit.farm.rootfs import cache_entries

STATUS = """\
Package: bash
Status: install ok installed
Version: 1:5.2-1+b1
Architecture: amd64
"""


@pytest.fixture
def own(lab: Lab, tmp_path: Path) -> Lab:
    """A lab with a cache of its own, in which two root file systems lie; one of them is held."""
    own = lab.model_copy(update={"cache": str(tmp_path / "cache")})
    for name in ("minbase-1", "minbase-2"):
        _thing(own, "rootfs", name)
    cache.hold(own, "rootfs-minbase", own.cache_dir / "rootfs/minbase-2")
    return own


def _thing(lab: Lab, kind: str, name: str) -> Path:
    root = lab.cache_dir / kind / name / "rootfs"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(STATUS)
    (root / "file").write_bytes(b"x" * 9000)
    return root.parent


def _left(lab: Lab, kind: str = "rootfs") -> list[str]:
    return sorted(path.name for path in (lab.cache_dir / kind).iterdir())


@pytest.mark.root
def test_what_no_lab_holds_is_removed_and_counted(own: Lab) -> None:
    """The bytes are those that du counts; a dry run says the same and removes nothing, a second call finds nothing."""
    counted = int(
        run.run(["du", "-s", "-B1", own.cache_dir / "rootfs/minbase-1"]).stdout.split()[0]
    )
    told = cache_entries.collect(own, dry=True)
    assert not told.changed
    assert "would be removed" in told.summary
    assert _left(own) == ["minbase-1", "minbase-2"]
    first = cache_entries.collect(own)
    assert first.changed
    assert [thing.path.name for thing in first.value.removed] == ["minbase-1"]
    assert first.value.removed == told.value.removed
    assert first.value.bytes == counted
    assert _left(own) == ["minbase-2"]
    assert not cache_entries.collect(own).changed


@pytest.mark.root
def test_a_lab_holds_one_of_each_variant_wherever_its_state_lies(own: Lab, tmp_path: Path) -> None:
    """The cache itself knows the labs that use it; a newer one takes over, and a lab that is gone holds nothing."""
    other = own.model_copy(update={"name": "other", "state": str(tmp_path / "far")})
    cache.hold(other, "rootfs-minbase", own.cache_dir / "rootfs/minbase-1")
    assert cache_entries.collect(own).value.removed == ()
    cache.hold(own, "rootfs-minbase", own.cache_dir / "rootfs/minbase-1")
    cache_entries.collect(own)
    assert _left(own) == ["minbase-1"]
    for lab in (own, other):
        (lab.state_dir / "uses").rename(lab.state_dir / "elsewhere")
    cache_entries.collect(own)
    assert _left(own) == []


@pytest.mark.root
def test_many_threads_say_at_the_same_time_what_they_use(own: Lab) -> None:
    """As independent builds do that end together: each thing is held, and nothing half-made is left."""
    places = [_thing(own, "rootfs", f"variant-{number}") for number in range(200)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda place: cache.hold(own, place.name, place), places))
    assert set(places) <= set(cache.held(own.cache_dir, own.state_dir))
    assert [
        path.name for path in (own.cache_dir / "labs").iterdir() if path.name.startswith(".")
    ] == []


@pytest.mark.root
def test_what_is_mounted_or_worked_in_is_never_removed(own: Lab, tmp_path: Path) -> None:
    """Not even when no lab says that it uses it: below an overlay, or a process' working folder."""
    below, place = _thing(own, "unpacked", "abc"), _thing(own, "unpacked", "def")
    for name in ("top", "upper", "scratch"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={below}/rootfs,upperdir={tmp_path}/upper,workdir={tmp_path}/scratch"
    run.run(["mount", "-t", "overlay", "-o", options, "labkit-test", tmp_path / "top"])
    here = Path.cwd()
    try:
        os.chdir(place)
        cache_entries.collect(own)
    finally:
        os.chdir(here)
        run.run(["umount", tmp_path / "top"])
    assert _left(own, "unpacked") == ["abc", "def"]
    cache_entries.collect(own)
    assert _left(own, "unpacked") == []


def test_what_is_mounted_is_found_in_a_cache_whose_folder_has_a_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel writes the space in octal, in the place and in an overlay's options."""
    line = "36 35 0:41 / {} rw - overlay o rw,lowerdir=/srv/my\\040cache/unpacked/abc/rootfs:/x\n"
    text = line.format("/srv/my\\040cache/rootfs/web-1/rootfs")
    monkeypatch.setattr("labkit.kernel.proc.mountinfo", lambda pid: text)
    folder = Path("/srv/my cache")
    assert cache_entries.open_places(folder) == {folder / "unpacked/abc", folder / "rootfs/web-1"}


@pytest.mark.root
def test_what_is_being_built_is_left_alone(own: Lab) -> None:
    """The build holds its lock; what it left is collected when it was killed."""
    (own.cache_dir / "rootfs/.minbase-3.part/memory").mkdir(parents=True)
    with lock(own.cache_dir / "locks", "minbase-3"):
        cache_entries.collect(own)
        assert ".minbase-3.part" in _left(own)
    removed = cache_entries.collect(own).value.removed
    assert [(thing.path.name, thing.why) for thing in removed] == [
        (".minbase-3.part", "a build that was killed left it")
    ]


@pytest.mark.root
def test_a_file_with_another_name_elsewhere_frees_nothing(own: Lab, tmp_path: Path) -> None:
    """Its bytes stay on the disk, and are not counted."""
    place = own.cache_dir / "rootfs/minbase-1"
    before = cache_entries.freed(place)
    os.link(place / "rootfs/file", tmp_path / "name")
    assert before - cache_entries.freed(place) == 12288


@pytest.mark.root
def test_packages_go_that_no_root_file_system_has(own: Lab) -> None:
    """Those that a root file system in use was made from stay, so that it can be made again offline."""
    pool = own.cache_dir / "debian/pool"
    pool.mkdir(parents=True)
    for name in ("bash_5.2-1+b1_amd64.deb@1", "bash_5.1-1_amd64.deb@2", "zsh_5.9_amd64.deb@3"):
        (pool / name).write_bytes(b"deb")
    cache_entries.collect(own)
    assert [path.name for path in pool.iterdir()] == ["bash_5.2-1+b1_amd64.deb@1"]


def test_how_a_packages_file_is_called() -> None:
    """Without the epoch."""
    assert cache_entries.file_name("bash", "5.2-1", "amd64") == "bash_5.2-1_amd64.deb"
    assert cache_entries.file_name("g++", "4:12+1~deb12", "amd64") == "g++_12+1~deb12_amd64.deb"


@pytest.mark.root
def test_nothing_of_a_standing_farm_is_collected(make_lab: Callable[..., Lab]) -> None:
    """Of the machine's own cache (nothing is removed there): neither what a container's root file system
    consists of, nor what it was made from."""
    lab = make_lab(sites=["one"], replicas=1)
    up.replicas(lab)
    found = cache_entries.collect(lab, dry=True).value
    gone = {thing.path for thing in found.removed}
    stands = {*image.unpacked(lab, "one").lower, rootfs.build(lab).value.path}
    assert not [path for path in stands if gone & {path, *path.parents}]
    assert {path for path in stands if path.is_relative_to(lab.cache_dir)}
