"""The lab's images: layers shared, made whole, read by other programs, unpacked once."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run, undo
from labkit.core.journal import Journal
from labkit.errors import BuildError, ConfigError, StateError
from labkit.farm import rootfs
from labkit.farm.images import builder, store, umoci_steps
from labkit.farm.images import layout as image
from labkit.farm.rootfs import packages
from labkit.farm.rootfs.sandbox import sealed
from tests.conftest import CACHE

# -- layers as archives ----------------------------------------------------------------------


@pytest.fixture
def below(tmp_path: Path) -> Path:
    """The root file system under a layer: one folder with a mode of its own."""
    root = tmp_path / "below"
    (root / "var/www").mkdir(parents=True)
    (root / "var").chmod(0o700)
    return root


def test_an_archive_has_its_folders_as_they_are_below(tmp_path: Path, below: Path) -> None:
    """The topmost layer's folder counts, so it has the mode of the one under it."""
    store.write_layer(
        tmp_path / "a.tar", {"var/www/index.html": "x", "new/run": "#!/bin/sh\n"}, below
    )
    with tarfile.open(tmp_path / "a.tar") as archive:
        found = {member.name: (member.isdir(), member.mode) for member in archive}
    assert found == {
        "new": (True, 0o755),
        "new/run": (False, 0o755),
        "var": (True, 0o700),
        "var/www": (True, 0o755),
        "var/www/index.html": (False, 0o644),
    }


def test_the_same_files_give_the_same_bytes_and_come_back(tmp_path: Path, below: Path) -> None:
    """Whatever their order, whenever they are written; content and modes are as they were packed."""
    files = {"a": "1", "var/www/index.html": "page"}
    store.write_layer(tmp_path / "a.tar", files, below)
    store.write_layer(tmp_path / "b.tar", dict(reversed(files.items())), below)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    store.extract_layer(tmp_path / "a.tar", tmp_path / "out")
    assert (tmp_path / "out/var/www/index.html").read_text() == "page"
    assert (tmp_path / "out/var").stat().st_mode & 0o777 == 0o700


def test_a_layer_that_removes_files_is_no_lower_folder(tmp_path: Path) -> None:
    """A removal in the archive is a name that overlayfs would show as a file: refused."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("etc/.wh.motd"))
    with pytest.raises(StateError):
        store.extract_layer(tmp_path / "a.tar", tmp_path / "out")


# -- layouts ---------------------------------------------------------------------------------


def test_a_chain_is_named_by_its_layers() -> None:
    """One layer is its own name; more are hashed in their order (config.md of the specification)."""
    a, b = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    assert store.chain_id([a]) == a
    assert store.chain_id([a, b]) != store.chain_id([b, a])
    assert store.chain_id([a, b]) == ("sha256:" + hashlib.sha256(f"{a} {b}".encode()).hexdigest())


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout with one image without layers."""
    run.run(["umoci", "init", "--layout", tmp_path / "layout"])
    run.run(["umoci", "new", "--image", f"{tmp_path}/layout:one"])
    return tmp_path / "layout"


def test_a_layout_says_what_is_missing(layout: Path) -> None:
    """A blob that is pointed to and not there, or shorter than promised."""
    assert store.missing(layout) == ()
    tag = store.tag(layout, "one")
    store.blob(layout, tag.config).unlink()
    assert store.missing(layout) == (tag.config,)
    store.blob(layout, tag.manifest).write_text("{")
    with pytest.raises(StateError):
        store.missing(layout)


def test_a_layout_says_what_nobody_uses(layout: Path) -> None:
    """A changed configuration leaves the old manifest and configuration behind."""
    before = store.tag(layout, "one")
    run.run(["umoci", "config", "--image", f"{layout}:one", "--config.cmd=/bin/sh"])
    store.drop_unused(layout)
    assert not {before.manifest, before.config} & store.blobs(layout).keys()
    assert store.missing(layout) == ()
    assert store.config(layout, store.tag(layout, "one").config).cmd == ("/bin/sh",)


def test_a_layout_taken_over_shares_its_blobs_and_not_its_index(
    layout: Path, tmp_path: Path
) -> None:
    """A change of one leaves the other as it was."""
    store.copy_layout(layout, tmp_path / "copy")
    tag = store.tag(layout, "one")
    assert store.blob(layout, tag.config).samefile(store.blob(tmp_path / "copy", tag.config))
    run.run(["umoci", "config", "--image", f"{tmp_path}/copy:one", "--config.cmd=/bin/sh"])
    assert store.tag(layout, "one") == tag
    assert store.missing(layout) == ()


@pytest.mark.parametrize("name", builder.COMMON)
def test_a_site_may_not_have_a_common_images_name(name: str) -> None:
    """Refused before anything is made."""
    with pytest.raises(ConfigError) as caught:
        image.build(Lab.of({"sites": [{"name": name}]}))
    assert name in caught.value.value


# -- on the machine --------------------------------------------------------------------------


@pytest.mark.root
def test_a_second_build_finds_the_first(lab: Lab) -> None:
    """All tags are there, the sites share web's layers, and nothing is made again; made anew from the same files, every
    tag has the same hash, as skopeo reads it."""
    first = image.build(lab)
    assert first.changed
    assert first.holds, [check for check in first.checks if not check.holds]
    assert [tag.name for tag in first.value.tags] == ["base", "site1", "site2", "site3", "web"]
    second = image.build(lab)
    assert not second.changed
    assert second.value == first.value
    undo.unmake_all(lab)
    again = image.build(lab)
    assert again.changed
    assert again.value == first.value
    result = image.inspect(lab, "site2")
    assert result.holds
    assert result.value.layers == again.value.tag("site2").layers
    assert result.value.labels["labkit.site"] == "site2"


@pytest.mark.root
def test_offline_the_web_layer_s_packages_that_are_missing_are_named(
    lab: Lab, open_folder: Path
) -> None:
    """A cache with the lists of packages and the root file system, and without a package."""
    base, cache = rootfs.build(lab).value.path.parent, open_folder / "cache"
    (cache / "rootfs").mkdir(parents=True)
    (cache / "lists").symlink_to(Path(CACHE, "lists"))
    run.run(["cp", "--archive", base, cache / "rootfs"])
    offline = lab.model_copy(update={"offline": True, "cache": str(cache)})
    with pytest.raises(BuildError) as caught:
        image.build(offline)
    assert caught.value.value.startswith("web image of ")
    assert re.match(r"[0-9]+ packages are not in the cache.*: .*apache2", caught.value.reason)
    assert "without --offline" in caught.value.remedy
    assert not [*(cache / "images").iterdir()]


@pytest.mark.root
def test_a_package_s_script_may_say_something(lab: Lab, tmp_path: Path) -> None:
    """While it is installed into an image its standard output is open: trixie's passwd fails without."""
    root, package = tmp_path / "root", tmp_path / "package"
    run.run(["cp", "--archive", rootfs.build(lab).value.path, root])
    (package / "DEBIAN").mkdir(parents=True)
    fields = (
        "Package: talker\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.test>\nDescription: x\n"
    )
    (package / "DEBIAN/control").write_text(fields)
    (package / "DEBIAN/postinst").write_text("#!/bin/sh\nset -e\necho configured >&1\n")
    (package / "DEBIAN/postinst").chmod(0o755)
    run.run(["dpkg-deb", "--build", package, root / "talker.deb"])
    run.run(sealed([*builder.INSTALL, "/talker.deb"], root=root))
    assert "talker" in [item.name for item in packages.read(root)]


@pytest.mark.root
def test_another_page_changes_its_sites_image_alone(make_lab: Callable[..., Lab]) -> None:
    """And no other lab's: the blobs that they share are as they were."""
    lab, other = make_lab(), make_lab()
    before, others = image.build(lab).value, image.build(other).value
    sites = (lab.sites[0].model_copy(update={"title": "Another title"}), *lab.sites[1:])
    changed = image.build(lab.model_copy(update={"sites": sites}))
    assert changed.changed
    differing = [tag.name for tag in changed.value.tags if tag != before.tag(tag.name)]
    assert differing == ["site1"]
    built = [item.command for item in changed.commands if "add-layer" in item.command]
    assert [command.count(" site1 ") for command in built] == [1]  # the others were not built again
    assert image.read(other) == others
    assert not image.build(other).changed


@pytest.mark.root
@pytest.mark.parametrize(
    "damage",
    [
        lambda layout: (layout / "index.json").write_text("{}"),
        lambda layout: (layout / "index.json").write_text("[1, 2"),
        lambda layout: store.blob(layout, store.tag(layout, "site1").config).unlink(),
        lambda layout: (layout.parent / "image.json").write_text('{"key": 1}'),
    ],
    ids=["no tags", "no JSON", "a blob gone", "a damaged record"],
)
def test_a_damaged_layout_is_made_anew(lab: Lab, damage: Callable[[Path], object]) -> None:
    """Whole again afterwards, with the same hashes."""
    before = image.build(lab).value
    damage(before.layout)
    again = image.build(lab)
    assert again.changed
    assert again.holds
    assert again.value == before


@pytest.mark.root
def test_an_image_is_unpacked_once_for_all_labs(make_lab: Callable[..., Lab]) -> None:
    """The large folder is shared, the site's own lies on top; the second time nothing is made."""
    lab, other = make_lab(), make_lab()
    one, two = image.unpacked(lab, "site1"), image.unpacked(other, "site2")
    assert one.lower[-1] == two.lower[-1]
    assert one.lower[-1].is_relative_to(lab.cache_dir)
    assert one.lower[0].is_relative_to(lab.state_dir)
    assert len(one.lower) == 2
    assert lab.title(lab.sites[0]) in (one.lower[0] / "var/www/html/index.html").read_text()
    assert (one.lower[-1] / "usr/sbin/apache2").exists()
    inode = one.lower[-1].stat().st_ino
    assert image.unpacked(lab, "site1") == one
    assert one.lower[-1].stat().st_ino == inode


@pytest.mark.root
def test_what_is_unpacked_is_what_the_image_holds(lab: Lab, open_folder: Path) -> None:
    """File for file: type, mode, owner, target of a link, size; ``web`` is one folder. The command, the environment and
    the labels of a site's runtime configuration are the image's; an unknown tag names the near one."""
    (kept,) = image.unpacked(lab, "web").lower
    web = f"{image.read(lab).layout}:web"
    run.run(["umoci", "raw", "unpack", "--image", web, open_folder / "fresh"])
    assert _listing(kept) == _listing(open_folder / "fresh")
    made = json.loads(image.unpacked(lab, "site1").config.read_text())
    assert made["process"]["args"] == ["apache2", "-D", "FOREGROUND"]
    assert any(word.startswith("PATH=/usr/local/sbin:") for word in made["process"]["env"])
    assert made["annotations"]["labkit.site"] == "site1"
    with pytest.raises(ConfigError) as caught:
        image.unpacked(lab, "site11")
    assert "site1" in caught.value.remedy


def _listing(root: Path) -> set[str]:
    """A line a file; a folder's size is the file system's affair."""
    shown = [
        "-type",
        "d",
        "-printf",
        r"%P d %m %U %G\n",
        "-o",
        "-printf",
        r"%P %y %m %U %G %l %s\n",
    ]
    return set(run.run(["find", root, *shown]).stdout.splitlines())


@pytest.mark.root
def test_apache2_accepts_a_sites_configuration(lab: Lab, tmp_path: Path) -> None:
    """In the site's root file system, put together by overlayfs: its modules are there and on."""
    unpacked = image.unpacked(lab, "site1")
    script = tmp_path / "configtest.sh"
    lower = ":".join(map(str, unpacked.lower))
    for name in ("root", "upper", "scratch"):
        (tmp_path / name).mkdir()
    written = f"upperdir={tmp_path}/upper,workdir={tmp_path}/scratch"
    script.write_text(
        f"set -e\nmount -t overlay overlay -o lowerdir={lower},{written} {tmp_path}/root\n"
        f"chroot {tmp_path}/root apache2ctl -t\n"
    )
    done = run.run(sealed(["sh", script]), env={"LABKIT_REPLICA": "site1-1"})
    assert "Syntax OK" in done.stderr + done.stdout


@pytest.mark.root
def test_umocis_steps_hold_and_leave_nothing(lab: Lab) -> None:
    """Each command adds what the specification says; the scratch image is gone afterwards."""
    result = umoci_steps.steps(lab)
    assert result.holds, [check for check in result.checks if not check.holds]
    added = {step.name: [blob.role for blob in step.added] for step in result.value.steps}
    assert added["init"] == added["unpack"] == added["unpack again"] == []
    assert added["repack again"].count("layer") == 1
    assert not Journal.of(lab).standing()
    assert {row for check in result.checks for row in check.rows} >= {"E2", "I5", "R1"}
