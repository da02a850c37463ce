"""Images that were found whole are found again at once, as long as nothing that they depend on changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run
from labkit.farm.images import layout
from labkit.farm.images import layout as images
from tests.conftest import lab_maker, open_place
from tests.damage import flip, torn

Change = Callable[[Lab], None]


@pytest.fixture(scope="module")
def found() -> Iterator[Lab]:
    """A lab of one site whose images were looked at."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make(sites=["red"])
        images.unpack_all(lab)
        yield lab


def edit_blob(lab: Lab) -> None:
    """The first byte of the largest blob, written into a copy: the cache has the same file."""
    blobs = (lab.state_dir / "image" / "layout" / "blobs").glob("*/*")
    path = max(blobs, key=lambda path: path.stat().st_size)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


CHANGES: dict[str, Change] = {
    "a byte of a blob": edit_blob,
    "a bit of the runtime configuration": lambda lab: flip(images.unpacked(lab, "red").config),
    "no layer": lambda lab: shutil.rmtree(images.unpacked(lab, "red").lower[0]),
    "a torn record": lambda lab: torn(lab.state_dir / "unpacked" / "found.json"),
}


@pytest.mark.root
def test_nothing_is_asked_while_nothing_changes(found: Lab) -> None:
    """No program runs, and the images are those that a whole look finds."""
    with run.tracing() as done:
        known = images.unpack_all(found)
    assert done == []
    assert known == layout.remembered(found)
    assert known["red"] == images.unpacked(found, "red")
    assert all(any(folder.iterdir()) for folder in known["red"].lower)


@pytest.mark.root
def test_another_description_is_not_what_was_found(found: Lab) -> None:
    """Another title, site, suite of packages or root file system."""
    other = [
        {"sites": [{"name": "red", "title": "Crimson"}]},
        {"sites": [{"name": "red"}, {"name": "blue"}]},
        {"rootfs": {**found.rootfs.model_dump(), "packages": ["tzdata"]}},
    ]
    for changed in other:
        assert layout.remembered(Lab.of({**found.model_dump(), **changed})) is None
    assert layout.remembered(Lab.of({**found.model_dump(), "replicas": 5})) is not None


@pytest.mark.root
def test_another_state_of_the_machine_s_packages_is_seen(
    found: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs may have other versions then, which make other images; so may other sources."""
    status, sources = tmp_path / "status", tmp_path / "sources"
    status.write_text("one")
    sources.mkdir()
    monkeypatch.setattr(layout, "MACHINE", (status, sources))
    known = images.unpack_all(found)
    assert layout.remembered(found) == known
    status.write_text("another")
    assert layout.remembered(found) is None
    layout.remember(found, known)
    (sources / "more.list").write_text("deb http://archive.example/debian stable main\n")
    assert layout.remembered(found) is None


@pytest.mark.root
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_was_changed_by_hand_is_looked_at_whole(found: Lab, change: str) -> None:
    """And made again; afterwards it is found at once."""
    images.unpack_all(found)
    CHANGES[change](found)
    assert layout.remembered(found) is None
    known = images.unpack_all(found)
    assert all(any(folder.iterdir()) for folder in known["red"].lower)
    assert layout.remembered(found) == known
