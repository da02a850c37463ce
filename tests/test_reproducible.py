"""The same inputs give the same bytes: times, logs and days of a build are not in what it makes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from labkit.core import files
from labkit.farm.images import builder, store
from labkit.farm.images import layout as image
from labkit.farm.rootfs import sandbox
from tests.conftest import lab_maker, open_place
from tests.sample_packages import package

# -- times, pure and in a folder of the test's own -------------------------------------------------


def test_days_and_times() -> None:
    """A password's day after the source date becomes that one; an earlier one, and what is none, stays. Images have
    times as RFC 3339 in UTC, whatever the machine's time zone."""
    for line, settled in (
        ("root:*:20000:0:99999:7:::\n", "root:*:19000:0:99999:7:::\n"),
        ("root:*:18000:0:99999:7:::\n", "root:*:18000:0:99999:7:::\n"),
        ("new::0:0:::::\nold:*::0:::::\n", "new::0:0:::::\nold:*::0:::::\n"),
        ("", ""),
    ):
        assert sandbox.changed_by(line, 19000) == settled
    assert store.stamp(1_700_000_000) == "2023-11-14T22:13:20Z"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system: a package's files of two ages, and what was made on installing them."""
    top = tmp_path / "root"
    for name in ("usr/bin/old", "usr/bin/young", "etc/made", "var/log/dpkg.log", "etc/shadow"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("root:*:99999:0:99999:7:::\n")
    (top / "etc/link").symlink_to("nowhere")
    for name, when in (("usr/bin/old", 1_600_000_000), ("usr/bin/young", 1_700_000_000)):
        os.utime(top / name, (when, when))
    return top


def test_what_was_installed_is_dated_like_the_youngest_of_a_packages_files(root: Path) -> None:
    """Files, folders, links and the root itself; older files keep their time."""
    epoch = sandbox.settle(root, time.time() - 60)
    times = {path.name: int(path.lstat().st_mtime) for path in (root, *root.rglob("*"))}
    assert epoch == 1_700_000_000 == sandbox.source_date(root)
    assert times.pop("old") == 1_600_000_000
    assert set(times.values()) == {epoch}
    assert {"root", "etc", "made", "link", "shadow"} <= times.keys()


@pytest.mark.parametrize(("layer", "when"), [(False, 1_700_000_000), (True, 1_500_000_000)])
def test_folders_have_one_date_but_in_a_layer_on_others(root: Path, layer: bool, when: int) -> None:
    """Which of a folder's packages was unpacked last does not matter; a layer has no folder of those below."""
    os.utime(root / "etc", (1_500_000_000, 1_500_000_000))
    sandbox.settle(root, time.time() - 60, layer=layer)
    assert (root / "etc").stat().st_mtime == when


@pytest.mark.root
def test_folders_that_apt_owns_are_roots(root: Path) -> None:
    """Whether apt could give them to its own user depends on where the root file system was made."""
    folder = root / sandbox.PARTIAL[0]
    folder.mkdir(parents=True)
    os.chown(folder, 42, 0)
    sandbox.settle(root, time.time() - 60)
    assert folder.stat().st_uid == 0


def test_logs_of_the_installation_are_gone_and_passwords_of_its_day(root: Path) -> None:
    """And a second time changes nothing."""
    for _ in range(2):
        epoch = sandbox.settle(root, time.time() - 60)
        assert not (root / "var/log/dpkg.log").exists()
        assert (root / "etc/shadow").read_text() == f"root:*:{epoch // 86400}:0:99999:7:::\n"


def test_packages_are_told_apart_by_version_and_architecture() -> None:
    """Their order does not matter."""
    a, b = package("a"), package("b", version="2")
    assert builder.fingerprint([a, b]) == builder.fingerprint([b, a])
    one, others = [a, b], ([a], [a, package("b")], [a, package("b", version="2", architecture="x")])
    assert len({builder.fingerprint(item) for item in (one, *others)}) == 4


# -- on the real machine ---------------------------------------------------------------------------


def test_new_files_have_ordinary_modes_in_a_build(tmp_path: Path) -> None:
    """Whatever the user's mask is, and also while another build ends; then it is the user's again."""
    before = os.umask(0o077)
    try:
        with files.usual_umask():
            with files.usual_umask():
                (tmp_path / "inner").touch()
            (tmp_path / "outer").touch()
        (tmp_path / "after").touch()
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert found == {"inner": 0o644, "outer": 0o644, "after": 0o600}


@pytest.mark.root
def test_two_builds_from_nothing_give_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache of its own each, at different times, by users with other settings: every blob, every
    tag, every input."""
    built = []
    for mask, zone in ((0o022, "UTC"), (0o077, "Asia/Tokyo")):
        with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
            lab = make(lab_name="same", netns="same", cache=str(folder / "cache"))
            monkeypatch.setenv("TZ", zone)
            before = os.umask(mask)
            try:
                result = image.build(lab)
            finally:
                os.umask(before)
            assert result.changed
            layout = result.value.layout
            dates = {
                store.config(layout, store.tag(layout, name).config).created
                for name in ("web", "site1")
            }
            assert dates == {row[1] for row in result.table("inputs").rows if "date" in str(row[0])}
            found = (
                sorted(store.blobs(layout)),
                (layout / "index.json").read_bytes(),
                result.table("inputs").rows,
            )
        built.append(found)
    first, second = built
    assert first == second
    assert (
        len(first[0]) == 5 + 2 * 5
    )  # base, web and three sites: a layer, a configuration, a manifest
