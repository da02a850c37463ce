"""A full disk: the lab's folder that is on it is named, and the key of lab.toml that has it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import files, run
from labkit.errors import (
    BuildError,
    CommandError,
    ConfigError,
    LabkitError,
    MachineError,
    of_system,
)
from labkit.farm.rootfs.cache_entries import building, require_space

KEYS = ("state", "cache", "run", "outputs")


def lab_in(folder: Path, **other: str) -> Lab:
    """A lab whose four folders are below one."""
    return Lab.of({"name": "own", **{key: str(folder / key) for key in KEYS}, **other})


def test_the_key_is_that_of_the_folder_that_the_place_is_in() -> None:
    """Not one whose name only begins so, and none for a place that is in none; a cache in the state's folder, where it is
    unless lab.toml says otherwise, has its own."""
    for place, key in {
        "state": "state", "state/own/containers/red-1": "state", "state/.cache/rootfs": "state",
        "cache/rootfs/.x.part": "cache", "run/own/dns": "run", "outputs/own/figures": "outputs",
        "elsewhere": "", "statement": "",
    }.items():  # fmt: skip
        assert files.folder_key(lab_in(Path("/own")), Path("/own", place)) == key
    lab = lab_in(Path("/own"), cache="")
    assert files.folder_key(lab, Path("/own/state/.cache/rootfs")) == "cache"
    assert files.folder_key(lab, Path("/own/state/own")) == "state"


@pytest.mark.parametrize("key", KEYS)
def test_the_systems_own_error_is_told_with_the_folders_key(tmp_path: Path, key: str) -> None:
    """What the system named, and what a program's own words do not: both are given the remedy."""
    lab, place = lab_in(tmp_path), tmp_path / key / "own"
    place.mkdir(parents=True)
    fault = OSError(errno.ENOSPC, "No space left on device", str(place / "file"))
    for error in (fault, of_system(fault)):
        found = files.explain_disk_full(error, lab)
        assert isinstance(found, MachineError)
        assert found.code == "machine.disk-full"
        assert found.value.startswith(str(place))
        assert f"or set `{key}` to a folder on a larger disk; then run it again" in found.remedy
        assert found.again == f"df -h {place}"


@pytest.mark.parametrize("error", [ConfigError("x", "y"), OSError(errno.EIO, "Input/output error")])
def test_another_error_stays_as_it_is(tmp_path: Path, error: Exception) -> None:
    """It is not a full disk's."""
    assert files.explain_disk_full(error, lab_in(tmp_path)) is error


@pytest.mark.parametrize("key", ["state", "cache"])
def test_what_is_too_large_for_a_disk_names_the_folders_key(tmp_path: Path, key: str) -> None:
    """Before it is begun."""
    with pytest.raises(BuildError) as caught:
        require_space(lab_in(tmp_path), tmp_path / key / "own", what="x", space=1 << 60)
    assert caught.value.remedy == f"free space, or set `{key}` to a folder on a larger disk"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 KB."""
    place = tmp_path / "small"
    place.mkdir()
    run.run(["mount", "-t", "tmpfs", "-o", "size=64k", "labkit-test", place])
    yield place
    run.run(["umount", place])


def fill(folder: Path) -> None:
    (folder / "all").write_bytes(bytes(1 << 20))


def fill_by_a_program(folder: Path) -> None:
    run.run(["dd", "if=/dev/zero", f"of={folder}/all", "bs=1k", "count=999"])


@pytest.mark.root
@pytest.mark.parametrize("key", ["state", "cache"])
@pytest.mark.parametrize("act", [fill, fill_by_a_program])
def test_a_build_that_fills_a_disk_names_the_folders_key(
    tmp_path: Path, small: Path, key: str, act: object
) -> None:
    """Whoever found that it is full; what was half made is gone."""
    lab = lab_in(tmp_path, **{key: str(small)})
    with pytest.raises(BuildError) as caught, building(lab, small / "own/x", what="x") as work:
        assert callable(act)
        act(work)
    assert caught.value.code == "build.disk-full"
    assert caught.value.remedy == f"free space, or set `{key}` to a folder on a larger disk"
    assert files.explain_disk_full(caught.value, lab) is caught.value
    assert not (small / "own/.x.part").exists()


@pytest.mark.root
def test_a_program_that_found_a_full_disk_leads_to_the_fullest_folder(
    tmp_path: Path, small: Path
) -> None:
    """Its words name none of the lab's: the folder with the least room left is the one."""
    lab = lab_in(tmp_path, run=str(small))
    with pytest.raises(LabkitError) as caught:
        fill_by_a_program(small)
    assert isinstance(caught.value, CommandError)
    found = files.explain_disk_full(caught.value, lab)
    assert isinstance(found, MachineError)
    assert found.value == str(small / "own")
    assert "or set `run` to a folder" in found.remedy
