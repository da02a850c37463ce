"""Undoing: each kind for real, twice, and never anything that is not the lab's own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import network_removal, run, undo
from labkit.core.journal import Entry, Journal, boot_id
from labkit.errors import LabkitError, StateError
from labkit.farm.network.host import routed
from labkit.kernel import calls
from labkit.kernel.links import Netlink
from labkit.kernel.netns import within
from tests.netlink import netlink


def entry(kind: str, **what: str) -> Entry:
    """An entry of this boot."""
    return Entry(seq=1, boot=boot_id(), kind=kind, what=what)


@pytest.fixture
def own(tmp_path: Path) -> Lab:
    """A lab whose folders are the test's; nothing is made for it."""
    folders = {name: str(tmp_path / name) for name in ("state", "run", "outputs", "cache")}
    return Lab.load(None, lab_name="mine", **folders)


# -- what is refused -------------------------------------------------------------------------------

FOREIGN = [
    pytest.param("mount", {"target": "/proc"}, id="the machine's mount"),
    pytest.param("mount", {"target": "{run}/mine/../../.."}, id="dots out of the folder"),
    pytest.param("mount", {"target": "{run}/other/x"}, id="another lab's mount"),
    pytest.param("folder", {"path": "/etc"}, id="the machine's folder"),
    pytest.param("folder", {"path": "{state}"}, id="the folder above the lab's"),
    pytest.param("folder", {"path": "{state}/mineral"}, id="a name that begins alike"),
    pytest.param("folder", {"path": "etc"}, id="a relative path"),
    pytest.param("folder", {"path": "{state}/mine/link/x"}, id="through a link"),
    pytest.param("daemon", {"marker": "/etc/passwd", "pidfile": "{run}/mine/p"}, id="marker"),
    pytest.param("daemon", {"marker": "{run}/mine/c", "pidfile": "/etc/passwd"}, id="pid file"),
    pytest.param("container", {"root": "/run/runc", "container": "c"}, id="runC's own folder"),
    pytest.param("container", {"root": "{run}/mine", "container": "../other"}, id="container"),
    pytest.param("container", {"root": "{run}/mine", "container": ""}, id="no container"),
    pytest.param("netns", {"name": "../../etc/passwd"}, id="namespace"),
    pytest.param("netns", {"name": ""}, id="no namespace"),
    pytest.param("cgroup", {"path": ""}, id="all cgroups"),
    pytest.param("cgroup", {"path": "/"}, id="the root cgroup"),
    pytest.param("cgroup", {"path": "/system.slice"}, id="the machine's cgroup"),
    pytest.param("cgroup", {"path": "/mine/../system.slice"}, id="dots to a cgroup"),
]


@pytest.mark.parametrize(("kind", "what"), FOREIGN)
def test_what_is_not_the_labs_is_refused(own: Lab, kind: str, what: dict[str, str]) -> None:
    """Whatever a hand-edited journal says: nothing outside the lab's own folders is touched."""
    own.state_dir.mkdir(parents=True)
    (own.state_dir / "link").symlink_to("/etc")
    (own.run_dir.parent / "other").mkdir(parents=True)
    filled = {
        key: value.format(run=own.run_dir.parent, state=own.state_dir.parent)
        for key, value in what.items()
    }
    with pytest.raises(StateError):
        undo.unmake(entry(kind, **filled), own)
    assert Path("/etc/passwd").exists()
    assert (own.run_dir.parent / "other").exists()


WRONG = [
    pytest.param("volcano", {}, "unknown kind 'volcano'", id="unknown kind"),
    pytest.param("mount", {"tgt": "/x"}, "cannot be removed", id="misspelt detail"),
    pytest.param("folder", {}, "cannot be removed", id="detail missing"),
]


@pytest.mark.parametrize(("kind", "what", "said"), WRONG)
def test_an_entry_that_makes_no_sense_is_an_error(
    own: Lab, kind: str, what: dict[str, str], said: str
) -> None:
    """The error names the entry and the journal's file."""
    with pytest.raises(LabkitError, match=said) as caught:
        undo.unmake(entry(kind, **what), own)
    assert "journal" in str(caught.value)


# -- in general ------------------------------------------------------------------------------------


def test_one_failure_does_not_keep_the_rest(own: Lab) -> None:
    """The last made goes first; what cannot be removed stays in the journal, all else is gone."""
    journal = Journal.of(own)
    for name in ("a", "b"):
        journal.intend("folder", path=str(own.state_dir / name))
        (own.state_dir / name).mkdir()
    journal.intend("folder", path="/etc")
    journal.intend("volcano", name="x")
    unmade, failed = undo.unmake_all(own)
    assert [Path(item.what["path"]).name for item in unmade] == ["b", "a"]
    assert [item.kind for item, _ in failed] == ["volcano", "folder"]
    assert [item.kind for item in journal.standing()] == ["folder", "volcano"]
    assert not (own.state_dir / "a").exists()


def test_folders_in_each_other_are_removed_from_within(own: Lab) -> None:
    """However many there are, beside each other or not: the inner ones were made later."""
    outer = own.state_dir / "a"
    paths = [outer, own.state_dir / "b", outer / "x", outer / "x" / "y", own.state_dir / "a-b"]
    Journal.of(own).intend_all(("folder", {"path": str(path)}) for path in paths)
    for path in paths:
        path.mkdir(parents=True)
    unmade, failed = undo.unmake_all(own)
    assert failed == ()
    assert [entry.what["path"] for entry in unmade] == [str(path) for path in reversed(paths)]
    assert not any(path.exists() for path in paths)


def test_what_was_intended_and_never_made_is_no_error(own: Lab) -> None:
    """A labkit that was killed right after its intents leaves nothing to do, and a clean journal; so does no labkit."""
    assert undo.unmake_all(own) == ((), ())
    journal = Journal.of(own)
    journal.intend("netns", name="mine-none")
    journal.intend("mount", target=str(own.run_dir / "x"))
    journal.intend("folder", path=str(own.state_dir / "x"))
    journal.intend("container", root=str(own.run_dir / "runc"), container="c")
    journal.intend("daemon", pidfile=str(own.run_dir / "p"), marker=str(own.run_dir / "c"))
    journal.intend("link", name="nolink0", netns="mine-none")
    journal.intend("cgroup", path="/mine/x")
    unmade, failed = undo.unmake_all(own)
    assert (len(unmade), failed) == (7, ())
    assert not journal.path.exists()


def test_things_of_an_earlier_boot_are_gone_but_folders_are_not(own: Lab) -> None:
    """A name of an earlier boot may be anybody's now; a folder is still the lab's."""
    folder = own.state_dir / "x"
    folder.mkdir(parents=True)
    undo.unmake(Entry(seq=1, boot="b", kind="cgroup", what={"path": "/"}), own)
    undo.unmake(Entry(seq=2, boot="b", kind="folder", what={"path": str(folder)}), own)
    assert not folder.exists()


# -- each kind, twice ------------------------------------------------------------------------------


def test_a_folder_is_removed_with_all_in_it(own: Lab, tmp_path: Path) -> None:
    """A link in it is removed, and not what it leads to; the lab's own folders may be reached through a link."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "disk")
    folder = own.state_dir / "x"
    (folder / "y").mkdir(parents=True)
    kept = own.state_dir / "kept"
    kept.write_text("mine")
    (folder / "y" / "link").symlink_to(kept)
    for _ in range(2):
        undo.unmake(entry("folder", path=str(folder)), own)
        assert not folder.exists()
    assert kept.exists()


@pytest.mark.root
def test_what_is_gone_by_itself_is_not_there(wiki_lab: Lab, own: Lab) -> None:
    """The journal has it, and looks at each thing say otherwise: as after the start of a container with all of it."""
    marker = own.run_dir / "conf"
    lost = [
        entry("mount", target=str(own.run_dir / "x")),
        entry("netns", name="mine-none"),
        entry("container", root=str(own.run_dir / "runc"), container="c"),
        entry("daemon", pidfile=str(own.run_dir / "p"), marker=str(marker)),
    ]
    (own.run_dir / "p").parent.mkdir(parents=True)
    (own.run_dir / "p").write_text(f"{os.getpid()}\n")  # a number that somebody else has now
    standing = Journal.of(wiki_lab).standing()
    assert {item.kind for item in standing} >= {"daemon", "folder"}
    assert list(undo.there([*lost, *standing])) == list(standing)


@pytest.mark.root
@pytest.mark.parametrize("name", ["plain", "with space", "with,comma"])
def test_a_mount_is_unmounted_however_often(own: Lab, name: str) -> None:
    """Also one over another, and one in which somebody works."""
    target = own.run_dir / name
    target.mkdir(parents=True)
    for _ in range(2):
        run.run(["mount", "-t", "tmpfs", "none", target])
    with (target / "f").open("wb") as sink:
        busy = run.start(["tail", "-f", "/dev/null"], output=sink)
    try:
        for _ in range(2):
            undo.unmake(entry("mount", target=str(target)), own)
            assert str(target) not in undo.mount_points()
    finally:
        busy.kill()
        busy.wait()


@pytest.mark.root
def test_a_folder_with_a_mount_in_it_stays(own: Lab) -> None:
    """What is mounted there may be anybody's files: the error names the mount."""
    inner = own.state_dir / "x" / "inner"
    inner.mkdir(parents=True)
    run.run(["mount", "-t", "tmpfs", "none", inner])
    (inner / "file").write_text("precious")
    try:
        with pytest.raises(StateError, match="still mounted in it"):
            undo.unmake(entry("folder", path=str(own.state_dir / "x")), own)
        assert (inner / "file").read_text() == "precious"
    finally:
        run.run(["umount", inner])


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    """A namespace of the lab's own, with a veth pair and a route in it."""
    from labkit.farm.network import host

    host.up(lab)
    with netlink(lab.netns) as ipr:
        ipr.link("add", ifname="v0", kind="veth", peer={"ifname": "v1"})
    yield lab.host.netns


@pytest.mark.root
def test_a_link_is_removed_with_its_peer(lab: Lab, namespace: str) -> None:
    """The other end goes with it; a link that is gone, or whose namespace is, is no error."""
    for name in ("v0", "v0"):
        undo.unmake(entry("link", name=name, netns=namespace), lab)
        with netlink(namespace) as ipr:
            assert ipr.link_lookup(ifname="v0") == ipr.link_lookup(ifname="v1") == []
    undo.unmake(entry("link", name="v0", netns="no-such-namespace"), lab)


@pytest.mark.root
def test_only_the_labs_own_route_is_removed(lab: Lab, namespace: str) -> None:
    """The unreachable route goes, an ordinary one to the same network stays."""
    with netlink(namespace) as ipr:
        ipr.link("set", index=ipr.link_lookup(ifname="v0")[0], state="up")
        ipr.route("add", dst=str(lab.subnet), oif=ipr.link_lookup(ifname="v0")[0], scope=253)
    for _ in range(2):
        undo.unmake(entry("route", subnet=str(lab.subnet), netns=namespace), lab)
        assert not within(namespace, network_removal.fenced, lab.subnet)
        assert [network for _, network in within(namespace, routed)] == [lab.subnet]


@pytest.mark.root
def test_links_go_together_and_another_s_stay(lab: Lab, namespace: str) -> None:
    """Those of the lab's group at once, but not when somebody else's link is in it: then one by one."""
    journal = Journal.of(lab)
    number = network_removal.group(lab)

    def add(*names: str) -> None:
        with netlink(namespace) as ipr:
            for name in names:
                ipr.link("add", ifname=name, kind="bridge")
                ipr.link("set", index=ipr.link_lookup(ifname=name)[0], group=number)

    for others in ((), ("other0",)):
        add("a0", "b0", *others)
        journal.intend_all(("link", {"name": name, "netns": namespace}) for name in ("a0", "b0"))
        entries = [item for item in journal.standing() if item.kind == "link"]
        unmade, failed = undo.unmake_these(lab, entries)
        assert (len(unmade), failed) == (2, ())
        assert set(within(namespace, Netlink.links)) == {"lo", "v0", "v1", *others}
        assert not [item for item in journal.standing() if item.kind == "link"]


@pytest.mark.root
def test_a_bridge_that_was_renamed_is_removed(lab: Lab, namespace: str) -> None:
    """It is known by the lab's group and the gateway's address; another bridge with the one alone is not it."""
    with netlink(namespace) as ipr:
        for name, number in (("switch0", network_removal.group(lab)), ("other0", 7)):
            ipr.link("add", ifname=name, kind="bridge")
            index = ipr.link_lookup(ifname=name)[0]
            ipr.link("set", index=index, group=number)
            ipr.addr("add", index=index, address=str(lab.gateway.ip), prefixlen=24)
    for _ in range(2):
        undo.unmake(entry("link", name=lab.bridge, netns=namespace), lab)
        assert set(within(namespace, Netlink.links)) == {"lo", "v0", "v1", "other0"}


@pytest.mark.root
def test_mounts_go_together_however_often_they_are_mounted(own: Lab) -> None:
    """One of them twice, one busy, one not at all; what cannot be unmounted is told, the rest is gone."""
    targets = [own.run_dir / name for name in ("once", "twice", "busy", "never")]
    for target in targets:
        target.mkdir(parents=True)
    for target in (*targets[:3], targets[1]):
        calls.mount("none", target, "tmpfs")
    journal = Journal.of(own)
    journal.intend_all(("mount", {"target": str(target)}) for target in targets)
    journal.intend("mount", target="/proc")
    with (targets[2] / "open").open("w"):
        unmade, failed = undo.unmake_all(own)
    assert [item.what["target"] for item, _ in failed] == ["/proc"]
    assert len(unmade) == 4
    assert not {point for point in undo.mount_points() if point.startswith(str(own.run_dir))}


@pytest.mark.root
def test_a_namespace_is_removed_by_its_name(lab: Lab, namespace: str) -> None:
    """The name is gone, also one that is only a file, as a killed maker leaves it; a second time is no error."""
    Path("/run/netns", f"{namespace}-half").touch()
    for name in (namespace, f"{namespace}-half") * 2:
        undo.unmake(entry("netns", name=name), lab)
        assert not Path("/run/netns", name).exists()


@pytest.fixture
def cgroup(own: Lab) -> Iterator[str]:
    """Two cgroups, one in the other, wherever the machine has a hierarchy to make them in."""
    path = f"/labkit-test-{own.name}-{os.getpid()}"
    made = []
    for root in hierarchies():
        try:
            Path(f"{root}{path}/inner").mkdir(parents=True)
            made.append(root)
        except OSError:
            continue
    assert made
    yield path
    for root in made:
        for folder in (f"{root}{path}/inner", f"{root}{path}"):
            if Path(folder).exists():
                Path(folder).rmdir()


def hierarchies() -> list[str]:
    """Where cgroup file systems are mounted."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [words[1] for words in lines if words[2] in ("cgroup", "cgroup2")]


@pytest.mark.root
def test_cgroups_are_removed_in_every_hierarchy(own: Lab, cgroup: str) -> None:
    """The inner ones first; the second time there is nothing."""
    for _ in range(2):
        undo.unmake(entry("cgroup", path=cgroup), own)
        assert not any(Path(f"{root}{cgroup}").exists() for root in hierarchies())


@pytest.mark.root
def test_a_cgroup_in_use_stays_and_is_named(own: Lab, cgroup: str) -> None:
    """Somebody's process in it is not touched."""
    root = next(root for root in hierarchies() if Path(f"{root}{cgroup}/inner").exists())
    process = run.start(["sleep", "60"])
    try:
        Path(f"{root}{cgroup}/inner/cgroup.procs").write_text(str(process.pid))
        with pytest.raises(LabkitError, match="cannot be removed"):
            undo.unmake(entry("cgroup", path=cgroup), own)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.root
def test_what_still_makes_a_container_is_ended_first(own: Lab) -> None:
    """runC goes on when the labkit that called it was killed: it would make the container after `down`."""
    root = own.run_dir / "runc"
    root.mkdir(parents=True)
    Journal.of(own).intend("container", root=str(root), container="c1")
    late = run.start(["sh", "-c", "sleep 60; :", "runc", "--root", str(root), "run", "c1"])
    try:
        assert undo.unmake_all(own)[1] == ()
        assert late.wait(10) == -signal.SIGTERM
    finally:
        late.kill()
        late.wait()


@pytest.mark.root
def test_what_runc_was_killed_in_making_is_removed(own: Lab) -> None:
    """A folder without a state is all that is left of it."""
    folder = own.run_dir / "runc" / "c1"
    folder.mkdir(parents=True)
    (folder / "exec.fifo").touch()
    for _ in range(2):
        undo.unmake(entry("container", root=str(folder.parent), container="c1"), own)
        assert not folder.exists()


KILLED = f"""
import os, signal, sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from labkit import Lab
from labkit.core.journal import Journal
from pyroute2 import netns
lab = Lab.model_validate_json(sys.argv[1])
step = int(sys.argv[2])
def check(number):
    if step == number:
        os.kill(os.getpid(), signal.SIGKILL)
target = lab.run_dir / "m"
Journal.of(lab).intend("netns", name=lab.host.netns); check(0)
netns.create(lab.host.netns); check(1)
Journal.of(lab).intend("folder", path=str(lab.run_dir)); check(2)
target.mkdir(parents=True); check(3)
Journal.of(lab).intend("mount", target=str(target)); check(4)
os.system(f"mount -t tmpfs none {{target}}"); check(5)
"""


@pytest.mark.root
@pytest.mark.parametrize("step", range(6))
def test_a_kill_anywhere_leaves_nothing_that_cannot_be_found(
    make_lab: Callable[..., Lab], step: int
) -> None:
    """Killed between any intent and its act: afterwards nothing is left."""
    lab = make_lab()
    argv = [sys.executable, "-c", KILLED, lab.model_dump_json(), str(step)]
    run.run(argv, ok=(-signal.SIGKILL,))
    _, failed = undo.unmake_all(lab)
    assert failed == ()
    assert not Path("/run/netns", lab.host.netns).exists()
    assert not any(Path(point).is_relative_to(lab.run_dir) for point in undo.mount_points())
    assert not lab.run_dir.exists()
