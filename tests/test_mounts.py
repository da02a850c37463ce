"""What is mounted where runC starts a container, on mounts of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from labkit.core.undo import mount_points
from labkit.farm.containers import container
from labkit.kernel import calls


def seen(folder: Path) -> set[str]:
    """The names of what is mounted in a folder, as the calling thread sees it."""
    lines = Path("/proc/thread-self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4]) for line in lines]
    return {point.name for point in points if point.parent == folder}


@pytest.fixture
def folder(open_folder: Path) -> Iterator[Path]:
    """A folder with four mounts, each with a file that has its name."""
    names = ("a", "b", "c", "d")
    for name in names:
        (open_folder / name).mkdir()
        calls.mount("none", open_folder / name, "tmpfs")
        (open_folder / name / name).touch()
    yield open_folder
    for name in names:
        with suppress(OSError):
            calls.unmount(open_folder / name)


@pytest.mark.root
def test_a_container_s_own_mounts_are_there_and_no_other_s(folder: Path) -> None:
    """While it is started; the caller sees all of them all the time, and may unmount them then."""
    hidden = [folder / name for name in ("a", "b", "c", "none")]
    with container.mounts_hidden(hidden) as few:
        for name in ("a", "b"):
            found = container.call_in(few, [folder / name, folder / "none"], lambda: seen(folder))
            assert found == {name, "d"}
        assert container.call_in(few, [folder / "c"], (folder / "c/c").exists)
        assert container.call_in(few, [], lambda: seen(folder)) == {"d"}
        assert seen(folder) == {"a", "b", "c", "d"}
    for name in ("a", "b", "c", "d"):
        calls.unmount(folder / name)  # nobody holds them
    assert not [point for point in mount_points() if point.startswith(f"{folder}/")]


@pytest.mark.root
def test_an_error_leaves_nothing_mounted(folder: Path) -> None:
    """Whoever comes next in that namespace does not find what the one before had there."""
    with container.mounts_hidden([folder / "a"]) as few:
        with pytest.raises(ZeroDivisionError):
            container.call_in(few, [folder / "a"], lambda: 1 / 0)
        assert container.call_in(few, [], lambda: seen(folder)) == {"b", "c", "d"}
