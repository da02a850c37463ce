"""Files of the farm that somebody damaged or edited: each is made again, or named with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import run
from labkit.core.journal import Entry, Journal, lock
from labkit.core.undo import mount_points
from labkit.errors import LockError, StateError
from labkit.farm import rootfs
from labkit.farm.containers import container, runc
from labkit.farm.images import builder, store, unpacking
from labkit.farm.reconcile import up
from labkit.farm.rootfs.cache_entries import recorded
from labkit.farm.services import balancer, balancer_server, dns, dns_server, ssh
from labkit.report import status as standing
from tests.damage import MENDED, damaged, folder, gone, junk, nowhere, null, torn
from tests.test_standing import inventory, nothing
from tests.whole_farm import standing as whole_farm

Harm = Callable[[Path], None]


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """One replica, its names and its balancer, up; every test leaves them so."""
    with whole_farm(sites=["red"], replicas=1) as lab:
        yield lab


def runtime_configuration(lab: Lab) -> Path:
    """What umoci made of the site's image."""
    (path,) = (lab.state_dir / "configurations").glob("[!.]*/config.json")
    return path


def small_blob(lab: Lab) -> Path:
    """The manifest of the site's image."""
    layout = builder.place(lab) / "layout"
    return store.blob(layout, store.tag(layout, "red").manifest)


FILES: dict[str, Callable[[Lab], Path]] = {
    "config.json": lambda lab: runc.bundle(lab, "red-1") / "config.json",
    "mark of the overlay": lambda lab: runc.folder(lab, "red-1") / "lower",
    "runtime configuration": runtime_configuration,
    "record of the image": lambda lab: builder.place(lab) / "image.json",
    "index of the image": lambda lab: builder.place(lab) / "layout" / "index.json",
    "manifest of the image": small_blob,
    "public key": lambda lab: lab.state_dir / "ssh" / "host.pub",
    "dnsmasq.conf": lambda lab: dns_server.server(lab).config,
    "dnsmasq.pid": lambda lab: dns_server.server(lab).pidfile,
    "resolv.conf": lambda lab: lab.run_dir / "dns" / "resolv.conf",
    "apache2.conf": lambda lab: balancer_server.server(lab).config,
    "forward.lua": balancer_server.script,
    "apache2.pid": lambda lab: balancer_server.server(lab).pidfile,
    "runC's state": lambda lab: runc.root(lab) / "red-1" / "state.json",
}


def all_up(lab: Lab) -> bool:
    """Whether replicas, names and balancer come up, and a second time find nothing to do."""
    assert failed(up.replicas(lab).checks) == ()
    assert failed(dns.up(lab).checks) == ()
    balancer.up(lab)  # which sees a replica that was started anew with its next health check
    assert not up.replicas(lab).changed
    assert not dns.up(lab).changed
    assert not balancer.up(lab).changed
    return True


@pytest.mark.root
@pytest.mark.parametrize("harm", ["torn", "junk", "null", "nowhere"])
def test_a_farm_whose_files_were_all_damaged_comes_up(farm: Lab, harm: str) -> None:
    """Bringing it up makes each of them again."""
    for path in [find(farm) for find in FILES.values()]:
        MENDED[harm](path)
    assert all_up(farm)
    assert up.replica_checks(farm)[0].holds


@pytest.mark.root
def test_looking_at_damaged_files_is_no_error(farm: Lab) -> None:
    """Status and checks tell what is so: a container that runC does not know any more is down."""
    for path in [find(farm) for find in FILES.values()]:
        null(path)
    rows = {row[0]: row[1] for row in standing.status(farm).table("status").rows}
    assert (rows["bridge"], rows["containers"]) == ("up", "0 of 1 up")
    assert "farm.replica.red-1" in {check.name for check in failed(standing.checks(farm).checks)}
    assert all_up(farm)


@pytest.mark.root
def test_folders_in_the_places_of_files_are_named(farm: Lab) -> None:
    """One after the other, with what to do; those that labkit gets along without or replaces are not."""
    paths = {name: find(farm) for name, find in FILES.items() if not name.endswith(".pid")}
    for path in paths.values():
        folder(path)
    named = []
    while len(named) < len(paths):
        try:
            assert all_up(farm)
            break
        except StateError as error:
            assert error.reason == "is a folder where labkit keeps a file"
            assert error.remedy == "move it away"
            named.append(error.value)
            Path(error.value).rmdir()
    mended = {
        "record of the image",
        "index of the image",
        "manifest of the image",
        "runtime configuration",
        "runC's state",
    }
    assert set(named) == {str(path) for name, path in paths.items() if name not in mended}
    assert all_up(farm)


# -- ssh's keys ----------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("harm", [torn, junk, folder], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("name", ["student", "host"])
def test_a_damaged_key_is_not_thrown_away(farm: Lab, name: str, harm: Harm) -> None:
    """It may be somebody's own: what to do is told, the containers are left alone, and put back it is as before."""
    before = up.replicas(farm).value
    path = farm.state_dir / "ssh" / name
    with damaged(path, harm):
        for act in (up.replicas, ssh.login):
            with pytest.raises(StateError, match="is not an ssh key") as caught:
                act(farm)
            assert caught.value.value == str(path)
            assert "move it away" in caught.value.remedy
    again = up.replicas(farm)
    assert (again.changed, again.value) == (False, before)


@pytest.mark.root
def test_keys_that_were_moved_away_are_made_anew(farm: Lab) -> None:
    """And come into the containers, so that the student gets in again. A key that everybody may read is shut again: ssh
    takes none that others can read."""
    for path in (farm.state_dir / "ssh").iterdir():
        path.unlink()
    assert up.replicas(farm).changed
    assert failed(ssh.login(farm).checks) == ()
    path = farm.state_dir / "ssh" / "student"
    path.chmod(0o644)
    assert container.keys(farm).user.startswith("ssh-ed25519 ")
    assert not up.replicas(farm).changed
    assert path.stat().st_mode & 0o777 == 0o600


# -- the way down ----------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("harm", ["junk", "null", "gone"])
def test_down_ends_a_container_whose_state_runc_cannot_read(
    make_lab: Callable[..., Lab], harm: str
) -> None:
    """Its processes are found in its control group; nothing is left."""
    lab = make_lab(sites=["red"], replicas=1)
    up.replicas(lab)
    MENDED[harm](runc.root(lab) / "red-1" / "state.json")
    result = standing.down(lab)
    assert (result.changed, result.value.failed) == (True, ())
    assert nothing(lab)


@pytest.mark.root
def test_down_without_the_journal_says_what_it_leaves(farm: Lab) -> None:
    """What is not in the journal is not removed, and the check fails; with the journal back it is."""
    all_up(farm)
    target = str((runc.bundle(farm, "red-1") / "rootfs").resolve())
    with damaged(farm.journal_file, gone):
        result = standing.down(farm)
        assert not result.holds
        assert "nothing of it is in the journal" in result.summary
        assert any(text.startswith(f"mount {target} ") for text in result.value.failed)
        assert any(str(dns_server.server(farm).config) in text for text in result.value.failed)
        assert target in mount_points()
    assert standing.down(farm).holds
    assert nothing(farm)
    assert all_up(farm)


@pytest.mark.root
@pytest.mark.parametrize("harm", [junk, null, folder], ids=lambda harm: harm.__name__)
def test_a_damaged_journal_stops_everything(farm: Lab, harm: Harm) -> None:
    """Nothing is guessed, made or removed; put back, all is as before."""
    up.replicas(farm)
    before = inventory(farm)
    with damaged(farm.journal_file, harm):
        for act in (standing.down, up.replicas):
            with pytest.raises(StateError) as caught:
                act(farm)  # type: ignore[operator]
            assert str(farm.journal_file) in caught.value.value
            assert "move" in caught.value.remedy
    assert inventory(farm) == before
    assert not up.replicas(farm).changed


def test_a_journal_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    """A link that was moved with its target: nothing is written, so nothing is made."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.path.symlink_to(tmp_path / "elsewhere" / "journal.jsonl")
    with pytest.raises(StateError, match="cannot be written") as caught:
        journal.intend("mount", target="/x")
    assert "restore the journal" in caught.value.remedy


@pytest.mark.parametrize("kind", ["netns", "link", "container", "folder", "mount"])
@pytest.mark.parametrize("what", [{}, {"nmae": "x"}, {"name": "", "path": "", "target": ""}])
def test_an_edited_entry_belongs_to_no_replica(kind: str, what: dict[str, str]) -> None:
    """Details that are missing or misspelt name nothing that could be removed as surplus."""
    entry = Entry(seq=1, boot="b", kind=kind, what=what)
    assert container.surplus(Lab(), (entry,)) == ()
    assert not container._belongs(Lab(), entry, ("red-9",))


# -- locks -------------------------------------------------------------------------------------------------


def test_what_is_in_a_lock_s_place(tmp_path: Path) -> None:
    """A file's content does not matter, the kernel holds the lock; a folder is an error that says what to do."""
    (tmp_path / "farm.lock").write_bytes(b"\xff\xfe")
    with lock(tmp_path, "farm"):
        (tmp_path / "farm.lock").write_bytes(b"\xff\xfe")
        with pytest.raises(LockError), lock(tmp_path, "farm", wait=0):
            raise AssertionError("the lock was got twice")
    (tmp_path / "other.lock").mkdir()
    with pytest.raises(StateError, match="keeps a lock") as caught, lock(tmp_path, "other"):
        raise AssertionError("the lock was got")
    assert caught.value.remedy == "move it away"


# -- the cache ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "harm", [junk, null, torn, folder, nowhere], ids=lambda harm: harm.__name__
)
def test_a_damaged_record_in_the_cache_is_no_build(tmp_path: Path, harm: Harm) -> None:
    """Neither a root file system's nor that of the layers on it: both are made again."""
    planned = rootfs.plan(Lab.of({"cache": str(tmp_path)}), "essential")
    status = planned.place / "rootfs/var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.touch()
    for path in (planned.place / "rootfs.json", tmp_path / "layers.json"):
        path.write_text('{"key": "k"}')
        harm(path)
    assert rootfs.find(planned) is None
    assert recorded(tmp_path, builder.Layers) is None


@pytest.mark.root
def test_an_emptied_root_file_system_is_unpacked_again(farm: Lab, lab: Lab) -> None:
    """The folder that is there does not count as one."""
    layout = builder.place(farm) / "layout"
    digest = store.tag(layout, "red").layers[-1]
    root = unpacking.layer(lab, layout, digest)
    whole = sorted(root.rglob("*"))
    run.run(["find", root, "-mindepth", "1", "-delete"])
    assert unpacking.layer(lab, layout, digest) == root
    assert sorted(root.rglob("*")) == whole != []


EDITS = {
    "a list": "[]",
    "no list of manifests": '{"manifests": 5}',
    "a manifest that is none": '{"manifests": ["x"]}',
    "a descriptor without a hash": '{"manifests": [{"size": 5}]}',
    "a size in words": '{"manifests": [{"digest": "sha256:0", "size": "big"}]}',
    "annotations that are none": '{"manifests": [{"digest": "sha256:0", "size": 1, "annotations": 5}]}',
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_index_is_named(tmp_path: Path, edit: str) -> None:
    """Whatever is wrong in it."""
    (tmp_path / "index.json").write_text(EDITS[edit])
    with pytest.raises(StateError, match="is not part of an image layout") as caught:
        store.tags(tmp_path)
    assert caught.value.value == str(tmp_path / "index.json")
