"""Files are whole or not there, and belong to whoever called."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from labkit.core import run
from labkit.core.files import hand_back, remove_whole, write_atomically
from labkit.errors import StateError

KILLED = """
import os, signal, sys
from pathlib import Path
from labkit.core.files import write_atomically
os.replace = Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), "new")
"""


REMOVING = """
import os, signal, sys
from pathlib import Path
from labkit.core.files import remove_whole
sys.addaudithook(lambda event, _: event == "os.rmdir" and os.kill(os.getpid(), signal.SIGKILL))
remove_whole(Path(sys.argv[1]))
"""


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    """Until the last moment the old content stands."""
    file = tmp_path / "file"
    write_atomically(file, "old")
    argv = [sys.executable, "-c", KILLED, file]
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    run.run(argv, env=env, ok=(-signal.SIGKILL,))
    assert file.read_text() == "old"
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Neither a half file nor the part beside its place."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(StateError, match="is a folder where labkit keeps a file"):
        write_atomically(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.root
def test_outputs_are_handed_back_to_who_called_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root made is theirs; other people's files, links' targets and further names are not."""
    monkeypatch.setenv("SUDO_UID", "4711")
    monkeypatch.setenv("SUDO_GID", "4712")
    place = tmp_path / "home"
    folder = place / "outputs"
    (folder / "lab").mkdir(parents=True)
    (tmp_path / "target").touch()
    (folder / "link").symlink_to(tmp_path / "target")
    (folder / "twice").hardlink_to(tmp_path / "target")
    (folder / "other").touch()
    os.chown(folder / "other", 1234, 1234)
    hand_back(folder)
    assert folder.stat().st_uid == 0, "the place is not theirs"
    os.chown(place, 4711, 4712)
    hand_back(folder)
    owners = {path.name: path.lstat().st_uid for path in (folder, *folder.iterdir())}
    assert owners == {"outputs": 4711, "lab": 4711, "link": 4711, "twice": 0, "other": 1234}
    assert (tmp_path / "target").stat().st_uid == 0


def test_a_removal_that_is_killed_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    """Nothing stands in the folder's place from its first moment on; the next one removes the rest, too."""
    folder = tmp_path / "folder"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "file").write_text("x")
    argv = [sys.executable, "-c", REMOVING, folder]
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    run.run(argv, env=env, ok=(-signal.SIGKILL,))
    assert not folder.exists()
    assert list(tmp_path.iterdir())
    folder.mkdir()
    remove_whole(folder)
    assert list(tmp_path.iterdir()) == []
    remove_whole(folder)


def test_a_folder_is_removed_in_its_place_where_it_cannot_be_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that has no room for another name."""
    folder = tmp_path / "folder"
    (folder / "part").mkdir(parents=True)

    def full(*names: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    remove_whole(folder)
    assert list(tmp_path.iterdir()) == []
