"""A replica's config.json and what became of it: on a real container, and with each thing that a hand
could change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.farm.containers import config_changes, container, overlay, runc
from labkit.farm.containers.bundle import Json, Spec, text
from labkit.farm.containers.config_changes import HashedBlob, Origin
from labkit.farm.containers.runc import Process, State
from labkit.farm.images import layout as image
from labkit.farm.images import store
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.reconcile import up
from tests.conftest import lab_maker, open_place

LAB = Lab.load(None, lab_name="shop", sites=["red"])
BUNDLE = str(runc.bundle(LAB, "red-1"))
PATH = "/usr/sbin:/usr/bin"
CONFIG = {"process": {"terminal": False, "args": ["apache2", "-D", "FOREGROUND"]}}


@pytest.fixture(scope="module")
def ran() -> Iterator[Lab]:
    """A lab whose first replica's container runs, and nothing else; every test leaves it so."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make(sites=["red"])
        assert config_changes.configuration(lab).changed
        yield lab


def seen(**changes: object) -> Process:
    """The process as it should be."""
    sound = {
        "pid": 7, "command": ("apache2", "-D", "FOREGROUND"), "environment": {"PATH": PATH},
        "streams": ("/dev/null", "/log", "/log"), "terminals": (), "control": False,
    }  # fmt: skip
    return Process.model_validate({**sound, **changes})


def state(**changes: object) -> State:
    """The container as runC should list it."""
    sound = {"id": "red-1", "pid": 7, "status": "running", "bundle": BUNDLE}
    return State.model_validate({**sound, **changes})


@pytest.mark.parametrize(
    ("config", "process", "listed", "path", "fails"),
    [
        (CONFIG, seen(), state(), PATH, []),
        ({"process": {**CONFIG["process"], "terminal": True}}, seen(), state(), PATH, ["terminal"]),
        (CONFIG, seen(terminals=("/dev/pts/0",)), state(), PATH, ["terminal"]),
        (CONFIG, seen(control=True), state(), PATH, ["terminal"]),
        (CONFIG, seen(environment={}), state(), PATH, ["path"]),
        (CONFIG, seen(environment={"PATH": "/bin"}), state(), PATH, ["path"]),
        (CONFIG, seen(environment={"PATH": ""}), state(), "", ["path"]),
        (CONFIG, seen(environment={}), state(), "", ["path"]),
        (CONFIG, seen(command=("apache2",)), state(), PATH, ["process"]),
        (CONFIG, seen(), state(bundle="/root/newbundle"), PATH, ["bundle"]),
    ],
)
def test_a_process_that_is_not_as_configured_is_told(
    config: dict[str, object], process: Process, listed: State, path: str, fails: list[str]
) -> None:
    """By the check of the thing that differs, and by no other."""
    found = config_changes.checks(LAB, listed, config, process, path=path)
    assert [check.name for check in failed(found)] == [f"container.{name}" for name in fails]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("@@ -1,8 +1,9 @@", "@@ -1,8 +1,9 @@"),
        ('-  "a b": 1,', '-\u00a0\u00a0"a b": 1,'),
        ('   "a b": 1,', '\u00a0\u00a0\u00a0"a b": 1,'),
        ("", ""),
    ],
)
def test_a_diff_s_lines_keep_their_indentation(line: str, wanted: str) -> None:
    """In a table's cell, which drops plain spaces; those within a line are left."""
    assert config_changes.indented(line) == wanted


def blob(found: str, named: str = "sha256:12") -> HashedBlob:
    """A manifest whose content has another hash, or none."""
    return HashedBlob(role="manifest", named=named, found=found, bytes=1)


def a_source(**changes: object) -> Origin:
    """A container's origin as it should be."""
    digest = f"sha256:{'a' * 64}"
    sound = {
        "tag": "red", "pid": 7, "wanted": ("/own/rootfs", "/shared/rootfs"), "mounted": ("/own/rootfs", "/shared/rootfs"),
        "blobs": (blob(digest, digest),),
        "made": digest, "used": digest,
    }  # fmt: skip
    return Origin.model_validate({**sound, **changes})


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({}, "", ""),
        ({"blobs": (blob("sha256:34"),)}, "blobs", "manifest 12 holds something else: 34"),
        ({"blobs": (blob(""),)}, "blobs", "manifest 12 is missing"),
        ({"mounted": ("/old/rootfs", "/shared/rootfs")}, "layers", "old over shared"),
        ({"mounted": ("/shared/rootfs", "/own/rootfs")}, "layers", "shared over own"),
        ({"mounted": ()}, "layers", "no overlay"),
        ({"made": "sha256:56"}, "configuration", "umoci, asked again: 56"),
        ({"made": "no such tag"}, "configuration", "umoci, asked again: no such tag"),
    ],
)
def test_another_source_is_told(changes: dict[str, object], name: str, said: str) -> None:
    """By the check of the thing that differs, and by no other."""
    found = failed(config_changes.origin_checks(Path("/layout"), a_source(**changes)))
    assert [check.name for check in found] == ([f"container.source.{name}"] if name else [])
    assert all(said in check.seen for check in found)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("1 0 0:6 / / rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/u,workdir=/w", ("/a", "/b")),
        (r"1 0 0:6 / / rw - overlay overlay rw,lowerdir=/a\040b,upperdir=/u", ("/a b",)),
        ("1 0 0:6 / / rw shared:1 - overlay none rw,lowerdir=/a", ("/a",)),
        ("1 0 0:6 / /mnt rw - overlay overlay rw,lowerdir=/a", ()),
        ("1 0 0:6 / / rw - ext4 /dev/a rw", ()),
    ],
)
def test_lower_folders_are_those_of_the_root(line: str, wanted: tuple[str, ...]) -> None:
    """In the kernel's order, the topmost first; another mount's do not count."""
    assert config_changes.lower_folders(f"9 1 0:9 / /proc rw - proc proc rw\n{line}\n") == wanted


@contextmanager
def altered(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """A file of the lab's own with another content; no other name of the same file is touched."""
    kept, mode = path.read_bytes(), path.stat().st_mode
    path.unlink()
    path.write_bytes(change(kept))
    assert path.read_bytes() != kept
    try:
        yield
    finally:
        path.unlink()
        path.write_bytes(kept)
        path.chmod(mode)


def failing(lab: Lab) -> set[str]:
    """The checks that fail now."""
    return {check.name for check in failed(config_changes.configuration(lab).checks)}


def source_faults(lab: Lab, unpacked: Unpacked) -> dict[str, str]:
    """What fails of what the first replica's container stands on, with nothing mended before."""
    layout, pid = image.read(lab).layout, runc.states(lab)["red-1"].pid
    lower = overlay.lower(lab, unpacked, container.replica_files(lab, container.keys(lab)))
    seen = config_changes.origin(layout, unpacked, lower, pid, lab.state_dir / "scratch.json")
    return {check.name: check.seen for check in failed(config_changes.origin_checks(layout, seen))}


@pytest.mark.root
def test_every_change_is_told_with_its_reason(ran: Lab) -> None:
    """Between umoci's file and the bundle that runC runs, also as a diff, by the farm's own container. A second run
    changes nothing, and the farm goes on with the container."""
    found, journal = config_changes.configuration(ran), ran.journal_file.read_bytes()
    assert found.holds
    by_key = {change.key: change for change in found.value.changes}
    terminal = by_key["process.terminal"]
    assert (terminal.before, terminal.after) == ("true", "false")
    assert by_key["process.env[LABKIT_REPLICA]"].after == '"red-1"'
    assert '-    "terminal": true,' in found.value.diff.splitlines()
    assert found.value.process.command == ("apache2", "-D", "FOREGROUND")
    assert len(found.table("origin").rows) == 5
    second = config_changes.configuration(ran)
    assert (second.changed, second.value) == (False, found.value)
    assert ran.journal_file.read_bytes() == journal
    result = up.replicas(ran)
    assert result.holds
    assert result.value.pids["red-1"] == found.value.process.pid
    assert config_changes.configuration(ran).changed is False


@pytest.mark.root
@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_a_blob_edited_by_hand_is_told(ran: Lab, part: str) -> None:
    """Of the same size, so that nothing but its hash tells; the next run of the stage makes the image anew."""
    unpacked, tag = image.unpacked(ran, "red"), image.read(ran).tag("red")
    digest = {"manifest": tag.manifest, "config": tag.config, "layer": tag.layers[-1]}[part]
    change: dict[str, Callable[[bytes], bytes]] = {
        "manifest": lambda text: text.replace(b"gzip", b"gziq", 1),
        "config": lambda text: text.replace(b"PATH=/usr/local/sbin", b"PATH=/usr/local/zbin", 1),
        "layer": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    }
    with altered(store.blob(image.read(ran).layout, digest), change[part]):
        found = source_faults(ran, unpacked)
        assert store.short(digest) in found["container.source.blobs"]
        if part == "config":
            assert "mismatch" in found["container.source.configuration"]
        assert failing(ran) == set()
        assert source_faults(ran, unpacked) == {}


@pytest.mark.root
def test_an_unpacked_configuration_edited_by_hand_is_told(ran: Lab) -> None:
    """A bundle would be made from it and work; umoci, asked again, makes another one of the image."""
    unpacked = image.unpacked(ran, "red")

    def harden(text: bytes) -> bytes:
        return json.dumps({**json.loads(text), "domainname": "edited"}).encode()

    with altered(unpacked.config, harden):
        assert source_faults(ran, unpacked).keys() == {"container.source.configuration"}
        assert failing(ran) == set()


@pytest.mark.root
def test_a_container_on_an_older_image_is_told(ran: Lab) -> None:
    """The tag has moved on to another page, and the container still has the layers of before."""
    sites = [{"name": "red", "title": "Another title"}]
    changed = Lab.of({**ran.model_dump(), "sites": sites})
    pid = runc.states(ran)["red-1"].pid
    scratch = runc.folder(ran, "red-1") / "scratch.json"
    before = image.unpacked(ran, "red")
    now = image.unpacked(changed, "red")
    layout = image.read(changed).layout
    keys = container.replica_files(ran, container.keys(ran))
    stale = config_changes.origin(layout, now, overlay.lower(ran, now, keys), pid, scratch)
    (check,) = failed(config_changes.origin_checks(layout, stale))
    assert check.name == "container.source.layers"
    own, *layers = overlay.lower(ran, before, keys)
    assert stale.mounted == tuple(map(str, (own, *layers)))
    assert check.seen == " over ".join(folder.parent.name for folder in (own, *layers))
    assert not scratch.exists()
    assert failing(changed) == set()
    assert runc.states(ran)["red-1"].pid != pid
    assert failing(ran) == set()


@pytest.mark.root
def test_a_change_without_a_reason_is_told(ran: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its key: here labkit hardens something and does not say why."""
    configuration_of = overlay.configuration

    def silent(image_own: Json, spec: Spec) -> str:
        return text({**json.loads(configuration_of(image_own, spec)), "domainname": "silent"})

    with monkeypatch.context() as patch:
        patch.setattr(overlay, "configuration", silent)
        found = {check.name: check for check in config_changes.configuration(ran).checks}
    assert found["container.changes"].seen == "none for domainname"
    assert not found["container.changes"].holds
    assert failing(ran) == set()
