"""User namespaces: each container's ids are its own, out of a range that is nobody else's on the machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run
from labkit.core.result import Result
from labkit.core.undo import mount_points
from labkit.errors import ConfigError, MachineError, StateError
from labkit.farm.containers import (
    bundle,
    config_changes,
    container,
    lab_namespaces,
    overlay,
    runc,
    written,
)
from labkit.farm.containers.bundle import Spec
from labkit.farm.containers.overlay import WWW_DATA, Wanted
from labkit.farm.containers.runc import users_file
from labkit.farm.images import layout as images
from labkit.farm.reconcile import up
from labkit.kernel import netns, users
from labkit.kernel.users import IDS
from labkit.report import status as whole
from tests.whole_farm import standing

BASE = lab_namespaces.FIRST * IDS
NAMES = [f"red-{number}" for number in range(1, 41)]


# -- ranges ----------------------------------------------------------------------------------


def test_ranges_are_where_nobody_has_ids() -> None:
    """Above sssd's default, and below what systemd gives to foreign files (both documented)."""
    assert BASE > 2_000_200_000
    assert (lab_namespaces.FIRST + lab_namespaces.COUNT) * IDS == 2_147_352_576 < 2**31
    assert lab_namespaces.TRIED >= (lab_namespaces.FIRST + lab_namespaces.COUNT) * IDS


def test_no_two_containers_have_a_range_and_each_keeps_its_own() -> None:
    """Whatever is added later, and however the names are ordered."""
    first = lab_namespaces.choose(NAMES[:20], {}, (), seed="/a")
    later = lab_namespaces.choose(reversed(NAMES), first, (), seed="/a")
    assert later.items() >= first.items()
    assert len(set(later.values())) == len(NAMES)
    assert all(value % IDS == 0 and value >= BASE for value in later.values())


def test_two_labs_take_other_ranges() -> None:
    """By their places alone, and surely where one knows of the other."""
    one, other = (lab_namespaces.choose(NAMES, {}, (), seed=seed) for seed in ("/a", "/b"))
    assert len(set(one.values()) & set(other.values())) < 5
    assert set(one.values()).isdisjoint(
        lab_namespaces.choose(NAMES, {}, set(one.values()), seed="/a").values()
    )


def test_when_all_ranges_are_taken_it_is_said() -> None:
    """And none is taken twice."""
    all_of_them = {(lab_namespaces.FIRST + number) * IDS for number in range(lab_namespaces.COUNT)}
    last = all_of_them.pop()
    assert lab_namespaces.choose(["red-1"], {}, all_of_them, seed="") == {"red-1": last}
    with pytest.raises(MachineError) as none:
        lab_namespaces.choose(["red-1", "red-2"], {}, all_of_them, seed="")
    assert none.value.code == "machine.no-ids-left"


@pytest.mark.parametrize(
    ("text", "each", "expected"),
    [
        ("", True, []),
        ("root:100000:65536\nada:165536:65536\n", True, []),
        (f"ada:{BASE}:1\n", True, [BASE]),
        (f"ada:{BASE - 1}:{IDS + 2}\n", True, [BASE, BASE + IDS]),
        (f"ada:{BASE - 1}:1\n", True, []),
        ("ada:x:y\nada\n", True, []),
        (f"ada:x:{BASE + 5}:100::/home/ada:/bin/sh\n", False, [BASE]),
        ("ada:x:1000:1000::/home/ada:/bin/sh\n", False, []),
    ],
)
def test_ranges_with_accounts_in_them_are_known(text: str, each: bool, expected: list[int]) -> None:
    """From the files in which a machine notes ids: passwd(5), group(5), subuid(5)."""
    assert list(lab_namespaces.accounts(text, each=each)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'{{"red-1": {BASE}}}', {"red-1": BASE}),
        ("", {}),
        ("[1]", {}),
        ('{"red-1": 0}', {}),
        ('{"red-1": true}', {}),
        (f'{{"red-1": {BASE + 1}}}', {}),
        (f'{{"red-1": {(lab_namespaces.FIRST + lab_namespaces.COUNT) * IDS}}}', {}),
        ("{", {}),
    ],
)
def test_a_note_counts_only_when_it_is_sound(
    tmp_path: Path, text: str, expected: dict[str, int]
) -> None:
    """A damaged one gives nobody's ids to a container."""
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids" / "ranges.json").write_text(text)
    assert lab_namespaces.recorded(tmp_path) == expected


@pytest.mark.parametrize(
    ("mapping", "outside", "inside"),
    [
        ("         0 2000224256      65536\n", BASE + 33, 33),
        ("         0          0 4294967295\n", 33, 33),
        ("         0 2000224256      65536\n", 33, -1),
        ("0 5 1\n1 100 10\n", 105, 6),
    ],
)
def test_ids_are_translated_by_the_kernel_s_lines(mapping: str, outside: int, inside: int) -> None:
    """Both ways (uid_map in user_namespaces(7))."""
    assert users.inner_of(mapping, outside) == inside
    if inside >= 0:
        assert users.outer_of(mapping, inside) == outside


PROC = "22 1 0:5 / /proc rw,relatime - proc proc rw"
BINFMT = "23 22 0:6 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([PROC], ""),
        ([PROC, BINFMT], ""),
        ([PROC, "24 22 0:7 / /proc/kcore rw - tmpfs tmpfs rw"], "/proc/kcore"),
        ([PROC, "24 22 0:5 /sys /proc/sys ro - proc proc rw"], "/proc/sys"),
        (["22 1 0:5 / /proc ro,relatime - proc proc rw"], "/proc (read-only)"),
        ([], "no /proc is mounted"),
    ],
)
def test_what_covers_a_part_of_proc_is_seen(lines: list[str], expected: str) -> None:
    """The kernel then mounts no other one in a user namespace."""
    assert lab_namespaces.covered("\n".join(lines)) == expected


# -- what runC is given ------------------------------------------------------------------------


def image() -> dict[str, object]:
    """The parts of an image's configuration that matter here."""
    return {
        "process": {"env": []},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/sys", "type": "sysfs"}, {"destination": "/proc", "type": "proc"}],
        "linux": {"namespaces": [{"type": "network"}, {"type": "pid"}]},
    }  # fmt: skip


def spec(**values: object) -> Spec:
    given: dict[str, object] = {"name": "red-1", "args": ("true",), "environment": {}, "cgroup": "/c", "sysctl": {}}  # fmt: skip
    return Spec.model_validate({**given, **values})


def test_a_container_with_ids_of_its_own_is_told_to_runc() -> None:
    """The same range for users and groups, a user namespace, no /sys; without ids there is neither."""
    made = bundle.configure(image(), spec(ids=BASE, users="/run/users"))
    mapped = [{"containerID": 0, "hostID": BASE, "size": IDS}]
    assert made["linux"]["uidMappings"] == made["linux"]["gidMappings"] == mapped
    assert {"type": "user", "path": "/run/users"} in made["linux"]["namespaces"]
    assert "/sys" not in {mount["destination"] for mount in made["mounts"]}
    fresh = bundle.configure(image(), spec(ids=BASE))
    assert {"type": "user"} in fresh["linux"]["namespaces"]
    without = bundle.configure(image(), spec())["linux"]
    assert "uidMappings" not in without
    assert "user" not in {item["type"] for item in without["namespaces"]}


def test_every_change_for_it_has_a_reason() -> None:
    """As all others: the stage's table shows them."""
    plain, own = (bundle.configure(image(), spec(ids=ids)) for ids in (0, BASE))
    found = bundle.changes(plain, own)
    assert {change.key for change in found} >= {"linux.uidMappings", "linux.gidMappings"}
    assert [change.key for change in found if not change.reason] == []


def test_what_a_root_is_made_of_names_its_ids() -> None:
    """So that other ones are drift; without any the text is as before."""
    lower = [Path("/layer")]
    assert overlay.ids_of(overlay.made_of(lower, BASE)) == BASE
    assert overlay.ids_of(overlay.made_of(lower)) == 0
    assert overlay.made_of(lower) != overlay.made_of(lower, BASE)


@pytest.mark.parametrize("value", ["on", "", "Auto", True, 1])
def test_an_unknown_setting_is_refused(value: object) -> None:
    """With the values that there are."""
    with pytest.raises(ConfigError) as refused:
        Lab.of({"containers": {"user_namespace": value}})
    assert "user_namespace" in refused.value.value
    assert "required" in refused.value.reason


# -- the machine ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """Two sites on two replicas each, which must have user namespaces; every test leaves all running."""
    with standing(user_namespace="required") as lab:
        yield lab


def pids(lab: Lab) -> dict[str, int]:
    return {name: state.pid for name, state in runc.states(lab).items()}


def first_id(pid: int) -> int:
    """The id outside that is 0 in the process's user namespace."""
    return users.outer_of(Path(f"/proc/{pid}/uid_map").read_text(), 0)


def told(result: Result[up.Farm]) -> str:
    """What the result says of the replicas' ids."""
    return next(check.seen for check in result.checks if check.name == "farm.user-namespaces")


def inside(lab: Lab, name: str, *words: str) -> str:
    """What a program says as root in the container."""
    return container.execute(lab, name, *words, options=("--user", "0:0")).stdout


@pytest.mark.root
def test_each_replica_has_ids_of_its_own(farm: Lab) -> None:
    """As noted in the lab's state; its processes are none of the machine's accounts' outside."""
    found = {name: first_id(pid) for name, pid in pids(farm).items()}
    assert found == lab_namespaces.recorded(farm.state_dir)
    assert len(set(found.values())) == len(farm.farm) == 4
    for name, pid in pids(farm).items():
        assert Path(f"/proc/{pid}").stat().st_uid == found[name] + WWW_DATA
    assert len({Path(f"/proc/{pid}/ns/user").readlink() for pid in pids(farm).values()}) == 4


@pytest.mark.root
def test_network_and_files_belong_to_the_container_s_ids(farm: Lab) -> None:
    """Its network, else who enters the container (runc exec) could not enter it; files of root's in the image and the
    lab's are its root's inside, and nobody's outside; its logs, which the host reads as before."""
    replica = farm.farm[0]
    name, pid = replica.name, pids(farm)[replica.name]
    first, root = first_id(pid), runc.bundle(farm, name) / "rootfs"
    assert netns.owner(replica.netns, farm.state_dir) == first
    own = Path(f"/proc/{pid}/ns/net").readlink()
    assert inside(farm, name, "readlink", "/proc/self/ns/net").strip() == str(own)
    for path in ("etc/passwd", "root/.ssh/authorized_keys"):
        assert inside(farm, name, "stat", "--format=%u:%g", f"/{path}") == "0:0\n"
        assert (root / path).stat().st_uid == first
    log = written.log(farm, name, "access")
    assert (log.stat().st_uid, log.stat().st_gid) == (first + WWW_DATA, first + WWW_DATA)
    assert "GET /" in log.read_text()


@pytest.mark.root
def test_the_layers_are_shared_and_not_copied(farm: Lab) -> None:
    """Two replicas' files are the image's own on the disk; a lab's containers take no room."""
    one, two = (runc.bundle(farm, name) / "rootfs/etc/passwd" for name in ("red-1", "red-2"))
    assert one.stat().st_ino == two.stat().st_ino
    folders = [runc.folder(farm, item.name) / "upper" for item in farm.farm]
    assert sum(p.lstat().st_blocks * 512 for f in folders for p in f.rglob("*")) < 400_000


def refused(words: list[str | Path], user: int) -> str:
    """What a program says that a process with this id outside may not do."""
    who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
    done = run.run([*who, *words], ok=range(256))
    assert done.status != 0, done.stdout
    return done.stderr


@pytest.mark.root
def test_who_gets_out_may_do_nothing_to_another_or_to_the_machine(
    farm: Lab, open_folder: Path
) -> None:
    """Neither signal processes, nor look at them, nor read files of the machine's www-data or the lab's key: the kernel
    asks for the ids outside; nor may a container's root where it is shown the machine's own files."""
    pid, victim = pids(farm)["blue-1"], pids(farm)["red-1"]
    attacker = first_id(pid) + WWW_DATA
    assert "not permitted" in refused(["kill", "-TERM", str(victim)], attacker)
    assert "denied" in refused(["ls", f"/proc/{victim}/root/"], attacker)
    secret, held = open_folder / "secret", open_folder / "of-root"
    for file in (secret, held):
        file.write_text("of the machine")
        file.chmod(0o600)
    os.chown(secret, WWW_DATA, WWW_DATA)
    assert "denied" in refused(["cat", str(secret)], attacker)
    [key] = farm.state_dir.glob("layers/**/ssh_host_ed25519_key")
    assert "denied" in refused(["cat", str(key)], first_id(pid))
    enter = ["nsenter", "--user", f"--target={victim}", "--setuid=0", "--setgid=0", "--"]
    for words, said in ((["cat", held], "denied"), (["kill", "-0", os.getpid()], "not permitted")):
        done = run.run([*enter, *map(str, words)], ok=range(256))
        assert done.status != 0
        assert said in done.stderr


@pytest.mark.root
def test_a_second_run_changes_nothing_and_a_restart_keeps_the_ids(farm: Lab) -> None:
    """A replica that is killed comes back as who it was, also when its user namespace's mount was removed."""
    before = {name: first_id(pid) for name, pid in pids(farm).items()}
    assert not up.replicas(farm).changed
    run.run(["umount", users_file(farm, farm.farm[0].name)])
    container.kill(farm, farm.farm[0])
    result = up.replicas(farm)
    assert result.changed
    assert result.holds
    assert {name: first_id(pid) for name, pid in pids(farm).items()} == before
    assert told(result) == "4 of 4 replicas have ids of their own"
    assert str(users_file(farm, farm.farm[0].name)) in mount_points()
    assert not up.replicas(farm).changed


@pytest.mark.root
def test_switched_off_and_on_again(make_lab: Callable[..., Lab]) -> None:
    """The containers are replaced, their own files and logs belong to who they are now, and sites answer."""
    lab = make_lab(sites=["red"], replicas=1)
    for asked, expected in (("off", 0), ("auto", 1), ("off", 0)):
        now = Lab.of({**lab.model_dump(), "containers": {"user_namespace": asked}})
        result = up.replicas(now)
        assert result.holds
        assert not up.replicas(now).changed
        first = first_id(pids(now)["red-1"])
        assert (first > 0) is bool(expected)
        assert inside(now, "red-1", "stat", "--format=%u", "/etc/ssh/ssh_host_ed25519_key") == "0\n"
        log = written.log(now, now.farm[0].name, "access")
        assert log.stat().st_uid == log.parent.stat().st_uid == first + WWW_DATA
        seen = told(result)
        assert seen.startswith(f"{expected} of 1 replica has ids of their own")
        assert ('= "off"' in seen) is (asked == "off")
    assert whole.down(now).holds
    assert not lab.state_dir.exists() or not (lab.state_dir / "ids").exists()
    assert not [point for point in mount_points() if lab.name in point]


@pytest.mark.root
def test_a_stage_that_runs_one_replica_alone_sees_to_its_namespace(
    make_lab: Callable[..., Lab],
) -> None:
    """A farm from before has networks of the machine's own: the container is never put into the machine's
    user namespace because of one, and the farm has its link again."""
    lab = make_lab(sites=["red"], replicas=1, user_namespace="off")
    up.replicas(lab)
    now = Lab.of({**lab.model_dump(), "containers": {"user_namespace": "required"}})
    assert config_changes.configuration(now).holds
    assert first_id(pids(now)["red-1"]) == lab_namespaces.recorded(now.state_dir)["red-1"]
    assert up.replicas(now).holds
    assert not up.replicas(now).changed


@pytest.mark.root
def test_a_network_of_another_user_namespace_is_refused(make_lab: Callable[..., Lab]) -> None:
    """With a way out, before anything runs."""
    lab = make_lab(sites=["red"], replicas=1, user_namespace="required")
    replica = lab.farm[0]
    lab_namespaces.create_namespace(
        make_lab(lab_name=lab.name, user_namespace="off"), replica.netns
    )
    with pytest.raises(StateError) as refused:
        spec = container.replica_spec(lab, replica)
        overlay.prepare(lab, [Wanted(spec, images.unpacked(lab, "red"))])
    assert refused.value.code == "state.namespace-owner"
    assert up.replicas(lab).holds


@pytest.mark.root
def test_notes_of_containers_that_are_yet_to_be_made_are_kept(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever notes others beside them; only of very many those without anything are forgotten."""
    names = [f"trial-{number}" for number in range(24)]
    found = run.spread(lambda name: lab_namespaces.allot(lab, [name])[name], names)
    assert len(set(found)) == len(names)
    assert lab_namespaces.recorded(lab.state_dir) == dict(zip(names, found, strict=True))
    lab_namespaces.create_namespace(lab, f"{lab.name}-trial-3")
    monkeypatch.setattr(lab_namespaces, "MANY", len(names))
    lab_namespaces.allot(lab, ["red-1"])
    assert set(lab_namespaces.recorded(lab.state_dir)) == {"trial-3", "red-1"}


@pytest.mark.root
def test_where_it_cannot_be_had_it_is_said_and_done_without(
    make_lab: Callable[..., Lab], open_folder: Path
) -> None:
    """Here because a container's root could not reach its files; a lab that demands it is refused."""
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    values = {"sites": ["red"], "replicas": 1, "state": str(closed / "state")}
    lab = make_lab(**values)
    assert f"{closed} is closed to others" in lab_namespaces.refusal(lab)
    strict = Lab.of({**lab.model_dump(), "containers": {"user_namespace": "required"}})
    with pytest.raises(MachineError) as refused:
        up.replicas(strict)
    assert refused.value.code == "machine.user-namespace"
    assert not netns.stands(lab.farm[0].netns)
    result = up.replicas(lab)
    assert result.holds
    assert first_id(pids(lab)["red-1"]) == 0
    assert f"{closed} is closed to others" in told(result)


#: What is tried where the kernel makes no (more) user namespaces.
FEW = """
import sys
from pathlib import Path
from labkit import Lab; from labkit import LabkitError
from labkit.farm.containers import (lab_namespaces)

def end():
    Path("/proc/sys/user/max_user_namespaces").write_text("0")

lab = Lab.load(None, lab_name="few", sites=["red"], state=sys.argv[1], cache=sys.argv[1])
if sys.argv[2] == "before":
    end()
    print(lab_namespaces.refusal(lab))
else:
    lab_namespaces._refusal = lambda *_: ""  # it was possible when it was tried
    end()
    try:
        lab_namespaces.create_namespaces(lab, [lab.farm[0].netns])
    except LabkitError as error:
        print(error.code, error)
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("before", "no user namespace can be made (user.max_user_namespaces = 0): No space left"),
        ("later", "machine.user-namespace user namespace cannot be made: No space left"),
    ],
)
def test_a_kernel_without_user_namespaces_is_told_of(
    open_folder: Path, when: str, expected: str
) -> None:
    """The limit is of a user namespace of the test's own: the lab does without, or says what to do."""
    alone = ["unshare", "--user", "--map-root-user", "--mount", "--"]
    words = [sys.executable, "-c", FEW, str(open_folder / "state"), when]
    done = run.run([*alone, *words], env={"PYTHONPATH": str(Path(__file__).parents[1])})
    assert expected in " ".join(done.stdout.split()).replace(
        "user namespace: cannot", "user namespace cannot"
    )


@pytest.fixture
def fixed_owners(open_folder: Path) -> Iterator[Path]:
    """A folder on a file system that shows its owners as they are, and cannot do otherwise."""
    place = open_folder / "fixed"
    place.mkdir()
    run.run(["mount", "--bind", "/sys/kernel", place])
    yield place
    run.run(["umount", place])


@pytest.mark.root
def test_a_file_system_that_cannot_shift_owners_is_named(
    make_lab: Callable[..., Lab], fixed_owners: Path
) -> None:
    """Here the cache's; nothing is written to find out."""
    lab = make_lab(cache=str(fixed_owners / "cache"))
    assert "file system of" in lab_namespaces.refusal(lab)
    assert f"{fixed_owners} cannot be shown with shifted owners" in lab_namespaces.refusal(lab)
    assert not lab.state_dir.exists()


@pytest.mark.root
def test_two_labs_of_one_name_have_no_id_in_common(make_lab: Callable[..., Lab]) -> None:
    """What the second notes is none of the first's, even where they would have looked for the same."""
    one, two = make_lab(sites=["red"]), make_lab(sites=["red"])
    names = [item.name for item in one.farm]
    first = lab_namespaces.allot(one, names)
    clash = lab_namespaces.choose(names, {}, (), seed=str(two.state_dir))
    (one.state_dir / "ids" / "ranges.json").write_text(json.dumps(clash))
    assert set(first) == set(names)
    second = lab_namespaces.allot(two, names)
    assert set(clash.values()).isdisjoint(second.values())
    assert lab_namespaces.allot(two, names) == second


@pytest.mark.root
def test_owners_are_shifted_once_and_back(tmp_path: Path) -> None:
    """As often as it is begun anew; links are not followed, and a file keeps its mode."""
    (tmp_path / "in").mkdir()
    held = tmp_path / "in" / "program"
    held.write_text("")
    held.chmod(0o4755)
    (tmp_path / "in" / "link").symlink_to("/etc/passwd")
    for _ in range(2):
        overlay.shift(tmp_path, 0, BASE)
        assert held.stat().st_uid == held.lstat().st_gid == BASE
    overlay.shift(tmp_path, BASE, BASE + IDS)
    assert (tmp_path / "in" / "link").lstat().st_uid == BASE + IDS
    assert held.stat().st_mode & 0o7777 == 0o4755
    overlay.shift(tmp_path, BASE + IDS, 0)
    assert {path.lstat().st_uid for path in (tmp_path, held)} == {0}
    assert Path("/etc/passwd").stat().st_uid == 0
