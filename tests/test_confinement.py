"""What a container may not do, and what one that misbehaves does to the others."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import run
from labkit.core.journal import Journal
from labkit.errors import CommandError
from labkit.farm.containers import bundle, confinement, container, lifecycle, overlay, probe, runc
from labkit.farm.containers.bundle import Spec
from labkit.farm.containers.probe import Attempt
from labkit.farm.reconcile import up
from labkit.farm.services import ssh
from labkit.kernel import cgroups
from labkit.model.lab import Replica
from tests.visitors import loaded
from tests.waiting import until
from tests.whole_farm import standing

# -- pure --------------------------------------------------------------------------------------


def test_a_call_is_allowed_for_one_reason() -> None:
    """None is listed twice, and each list is in order."""
    groups = [*bundle.ALONE.values(), *bundle.SERVING.values()]
    calls = [name for names in groups for name in names]
    assert len(calls) == len(set(calls))
    assert all(list(names) == sorted(names) for names in groups)
    assert not {"clone", "socket"} & set(calls)  # which are allowed with some arguments alone


@pytest.mark.parametrize(
    ("machine", "native"),
    [
        ("x86_64", ["SCMP_ARCH_X86_64"]),
        ("aarch64", ["SCMP_ARCH_AARCH64"]),
        ("riscv64", None),  # runC takes the machine's own
    ],
)
@pytest.mark.parametrize(
    ("serving", "there", "absent"),
    [
        (False, {"execve", "openat", "clone"}, {"socket", "setuid", "chroot"}),
        (True, {"execve", "socket", "accept4", "setuid"}, {"ptrace", "mount", "clone3"}),
    ],
)
def test_a_profile_has_the_calls_of_its_work(
    machine: str, native: list[str] | None, serving: bool, there: set[str], absent: set[str]
) -> None:
    """And of no other, nor by another interface of the processor; what is not listed does not exist."""
    made = bundle.seccomp(serving=serving, machine=machine)
    assert made.get("architectures") == native
    assert (made["defaultAction"], made["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", errno.ENOSYS)
    allowed = bundle.allowed_calls(made)
    assert there <= allowed
    assert not absent & allowed


def test_arguments_are_compared_as_runc_reads_them() -> None:
    """Where there is a mask it is the value, and what is left by it the second one; sshd asks for the kernel's
    audit, and knows the answer that there is none."""
    rules = bundle.seccomp(serving=True)["syscalls"]
    (clone,) = (rule for rule in rules if rule["names"] == ["clone"])
    assert clone["args"] == [
        {"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    ]
    (refused,) = (rule for rule in rules if rule["action"] != "SCMP_ACT_ALLOW")
    assert (refused["names"], refused["errnoRet"]) == (["socket"], errno.EPROTONOSUPPORT)
    given = [json.dumps(rule["args"]) for rule in rules if rule["names"] == ["socket"]]
    assert len(given) == len(set(given))


def test_what_a_container_does_not_see_is_not_mounted() -> None:
    """No control groups, no sysfs, no message queues; what is there takes no programs."""
    kinds = {"/proc": "proc", "/dev": "tmpfs", "/sys": "sysfs", "/dev/mqueue": "mqueue", "/a": "x"}
    own_mounts = [{"destination": place, "type": kind} for place, kind in kinds.items()]
    made = {item["destination"]: item.get("options") for item in bundle.kept_mounts(own_mounts)}
    assert list(made) == ["/proc", "/dev", "/a"]
    assert {"ro", "noexec", "nosuid"} <= set(made["/dev"] or ())
    assert made["/a"] is None


def test_a_path_is_masked_or_read_only_not_both() -> None:
    """An image's own list counts too, each path once."""
    own = {"namespaces": [], "maskedPaths": ["/b", "/proc/tty"], "readonlyPaths": ["/b", "/c"]}
    image = {"process": {}, "root": {}, "mounts": [], "linux": own}
    made = bundle.configure(image, container.replica_spec(Lab(), Lab().farm[0]))["linux"]
    assert made["maskedPaths"] == sorted({"/b", "/proc/tty", *bundle.MASKED})
    assert made["readonlyPaths"] == sorted({"/c", *bundle.READ_ONLY} - {"/proc/tty"})
    assert not set(bundle.MASKED) & set(bundle.READ_ONLY)


@pytest.mark.parametrize(
    ("kernel", "wanted"),
    [
        (("swap", "processors"),
         {"memory": {"limit": 8, "swap": 8}, "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000}}),
        (("swap",), {"memory": {"limit": 8, "swap": 8}, "cpu": {"shares": 1024}}),
        ((), {"memory": {"limit": 8}, "cpu": {"shares": 1024}}),
    ],
)  # fmt: skip
def test_what_the_kernel_does_not_count_is_not_limited(
    kernel: tuple[bundle.Counted, ...], wanted: dict[str, object]
) -> None:
    """runC refuses a limit whose file is missing."""
    asked = {"memory": 8, "pids": 3, "processors": 0.5, "kernel": frozenset(kernel)}
    spec = lifecycle.trial(Lab(), "a").model_copy(update=asked)
    made = bundle.resources({"devices": []}, spec)
    assert made == {"devices": [], "pids": {"limit": 3}, **wanted}


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (("cgroup.controllers",), {"swap", "processors"}),
        (("memory/memory.memsw.limit_in_bytes",), {"swap"}),
        (("cpu/cpu.cfs_quota_us", "memory/memory.limit_in_bytes"), {"processors"}),
        ((), set()),
    ],
)
def test_what_the_kernel_counts_is_seen_in_its_control_groups(
    tmp_path: Path, files: tuple[str, ...], wanted: set[str]
) -> None:
    """Version 2 has one file at its root that version 1 does not have."""
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert bundle.counted(tmp_path) == wanted


@pytest.mark.parametrize(
    ("attempt", "prevented"),
    [
        (Attempt("call", "mount", "ENOSYS"), True),
        (Attempt("call", "mount", "EPERM"), False),
        (Attempt("call", "ptrace", "nothing"), False),
        (Attempt("read", "/proc/keys", "nothing"), True),
        (Attempt("read", "/proc/keys", "ENOENT"), True),
        (Attempt("read", "/proc/keys", "some"), False),
        (Attempt("write", "/etc/passwd", "EROFS"), True),
        (Attempt("write", "/etc/passwd", "done"), False),
    ],
)
def test_what_counts_as_prevented(attempt: Attempt, *, prevented: bool) -> None:
    """A call that the kernel itself refuses was let through to it."""
    assert attempt.prevented is prevented


def test_attempts_that_the_probe_did_not_come_to_are_missing() -> None:
    """It was killed before, and said no more."""
    whole = "ENOSYS\n" * len(probe.planned())
    assert len(probe.read(whole)) == len(probe.planned())
    assert probe.read("ENOSYS\nEPERM\n")[1:] == (Attempt("call", "clone(CLONE_NEWUSER)", "EPERM"),)
    assert probe.read("") == ()


def test_what_the_processor_does_not_have_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """On arm64 there is no symlink(2): an attempt would hold whatever the filter says."""
    probe.planned.cache_clear()
    monkeypatch.setattr(probe, "_number", lambda name: -1 if name == "symlink" else 7)
    planned = [what for _, what, _ in probe.planned()]
    probe.planned.cache_clear()
    assert "symlink" not in planned
    assert {"link", "mount", "/proc/keys"} < set(planned)


def test_the_probe_says_what_came_of_each_attempt(tmp_path: Path) -> None:
    """Here, where nothing is forbidden: so it can tell the one from the other."""
    (tmp_path / "full").write_text("x")
    (tmp_path / "empty").touch()
    asked = {
        ("read", f"{tmp_path}/full"): "some",
        ("read", f"{tmp_path}/empty"): "nothing",
        ("read", f"{tmp_path}/none"): "ENOENT",
        ("write", f"{tmp_path}/new"): "done",
        ("write", f"{tmp_path}/none/new"): "ENOENT",
    }
    assert {key: probe.tried(*key, ()) for key in asked} == asked
    number = probe._number
    assert probe.tried("call", "", (number("getppid"), 0, 0, 0, 0, 0, 0)) == "some"
    assert probe.tried("call", "", (number("sched_yield"), 0, 0, 0, 0, 0, 0)) == "nothing"
    assert probe.tried("call", "", (number("chdir"), "/nowhere", 0, 0, 0, 0, 0)) == "ENOENT"
    assert probe.tried("call", "", (9999, 0, 0, 0, 0, 0, 0)) == "ENOSYS"
    child = (number("clone"), 17, 0, 0, 0, 0, 0)
    assert probe.tried("call", "", child) == "some"
    os.waitpid(-1, 0)


def test_every_subject_is_told_of_every_default() -> None:
    """No cell of the comparison is empty, and a replica's own is computed from its configuration."""
    lab = Lab.load(None, sites=["red"])
    image = {
        "process": {},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/dev", "type": "tmpfs"}],
        "linux": {"namespaces": [], "resources": {}},
    }
    spec = container.replica_spec(lab, lab.farm[0])
    config = json.loads(overlay.configuration(image, spec))
    found = confinement.comparison(config, "64 MiB in 4096 files").frame()
    assert tuple(found["what"]) == tuple(confinement.OTHERS)
    assert not found.isna().any().any()
    mine = dict(zip(found["what"], found[confinement.REPLICA], strict=True))
    assert mine["root file system"] == "read-only"
    assert mine["capabilities"] == "none"
    assert mine["/sys"] == "absent"


# -- on real containers ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """Two sites on two replicas each, with a balancer."""
    with standing() as lab:
        yield lab


@pytest.mark.root
def test_nothing_that_is_tried_from_inside_comes_about(farm: Lab) -> None:
    """Neither as the web server nor as root with sshd's rights; nothing is left of the containers."""
    before = runc.states(farm)
    result = confinement.confined(farm)
    assert failed(result.checks) == ()
    assert {name for _, name, _ in result.value.server} >= set(probe.CALLS)
    assert len(result.value.server) == len(result.value.root) == len(probe.planned())
    assert {item.container for item in result.value.processes} == {item.name for item in farm.farm}
    assert runc.states(farm) == before
    assert not list(farm.state_dir.glob("containers/trial-*"))
    entries = Journal.of(farm).standing()
    assert not [entry for entry in entries if "trial-" in json.dumps(entry.what)]


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes replicas' containers other than they are."""
    real = container.replica_spec

    def change(**values: object) -> None:
        def other(lab: Lab, replica: Replica) -> Spec:
            return real(lab, replica).model_copy(update=values)

        monkeypatch.setattr(container, "replica_spec", other)

    return change


@pytest.mark.root
def test_a_call_that_the_filter_lets_through_fails_its_check(
    farm: Lab, changed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the kernel itself then says to it."""
    everything = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    monkeypatch.setattr(bundle, "seccomp", lambda **_: everything)
    changed(files=4095)  # a configuration that is not known yet
    names = {check.name for check in failed(confinement.confined(farm).checks)}
    assert {"container.confined.server.call", "container.confined.root.call"} <= names


@pytest.mark.root
def test_a_file_that_can_be_written_fails_its_check(
    farm: Lab, changed: Callable[..., None]
) -> None:
    """In a root file system that is not read-only: by root everywhere, by others in /tmp."""
    changed(readonly=False)
    found = failed(confinement.confined(farm).checks)
    assert {check.name for check in found} == {
        "container.confined.server.write", "container.confined.root.write",
    }  # fmt: skip
    assert "/tmp/new" in found[0].seen


@pytest.mark.root
def test_a_container_that_runs_without_the_filter_is_named(farm: Lab) -> None:
    """By what the kernel says of its first process; the others are as they have to be."""
    (before,) = confinement.checks(farm)
    assert before.holds
    item = small(farm, "trial-open")
    with lifecycle.prepared(farm, item):
        lifecycle.edit(farm, item.name, "linux", seccomp=None)
        container.create(farm, item.name)
        container.begin(farm, item.name)
        assert [check.seen for check in confinement.checks(farm)] == ["not so: trial-open"]


#: Python that runs a function in the processor's own code: getpid by amd64's interface (mov eax, 39; syscall;
#: ret), and by i386's (mov eax, 20; int 0x80; ret).
CALLING = """
import ctypes, mmap, sys
place = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
place.write(bytes.fromhex(sys.argv[1]))
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(place)))()
"""
NATIVE, FOREIGN = "b8270000000f05c3", "b814000000cd80c3"


@pytest.mark.root
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="in amd64's own code")
def test_a_call_by_another_interface_of_the_processor_ends_its_caller(farm: Lab) -> None:
    """SIGSYS, 31, as runC tells of a signal."""
    item = confinement._spec(farm, "trial-foreign")
    *python, _, _ = item.args
    for code, status in ((NATIVE, 0), (FOREIGN, 128 + 31)):
        words = (*python, CALLING, code)
        with lifecycle.prepared(farm, item.model_copy(update={"args": words})):
            assert lifecycle.foreground(farm, item.name).status == status


@pytest.mark.root
def test_a_session_with_a_terminal_works_as_without_the_filter(farm: Lab) -> None:
    """The ssh server's and a shell's own questions to the kernel get answers that they know."""
    ssh.login(farm)
    given = container.keys(farm)
    words = ["-F", "none", "-tt", "-i", str(given.folder / "student"), "-o", "BatchMode=yes"]
    words += ["-o", f"UserKnownHostsFile={given.folder / 'known_hosts'}"]
    asked = (
        "tty; ls -l /dev/pts; ps ax; df /; find /etc -name passwd; tar -cf - /etc/hostname | wc -c"
    )
    there = f"root@{farm.farm[0].address}"
    done = run.run(["ssh", *words, there, asked], netns=farm.netns, timeout=20)
    said = done.stdout + done.stderr
    assert "/dev/pts/0" in said
    assert "apache2" in said
    assert "/etc/passwd" in said
    assert "not implemented" not in said


def small(lab: Lab, name: str, **changes: object) -> Spec:
    """A trial container that only waits."""
    return lifecycle.trial(lab, name, "sleep", "60").model_copy(update=changes)


@pytest.mark.root
def test_a_hog_uses_no_more_processors_than_it_may(farm: Lab) -> None:
    """Two programs that could use two processors have a tenth of one between them, as the kernel counts it."""
    item = small(farm, "trial-hog", processors=0.1)
    with lifecycle.prepared(farm, item):
        container.create(farm, item.name)
        container.begin(farm, item.name)
        before, started = cpu_seconds(item.cgroup), time.monotonic()
        with pytest.raises(CommandError):
            spin = "while :; do :; done"
            words = ("timeout", "2", "sh", "-c", f"({spin}) & {spin}")
            container.execute(farm, item.name, *words)
        used = cpu_seconds(item.cgroup) - before
        assert 0 < used <= 0.1 * (time.monotonic() - started) + 0.15


def cpu_seconds(path: str) -> float:
    """The processor time of a control group, in either version."""
    if nanoseconds := told(path, "cpuacct.usage", ""):
        return nanoseconds / 1e9
    return told(path, "cpu.stat", "usage_usec ") / 1e6


#: Processes that make processes: as many as they can get, and none that ends of itself within the test.
BOMB = "bomb() { bomb & bomb & sleep 60; }; bomb"
#: Memory that is taken and kept.
HOG = "tail /dev/zero"


@pytest.mark.root
def test_a_fork_bomb_and_a_memory_hog_leave_the_sites_up(farm: Lab) -> None:
    """Each in another replica: both limits are reached, every page is there meanwhile, and when the two
    were mended no process is left of either."""
    first, second = farm.replicas_of("red")[0], farm.replicas_of("blue")[0]
    before = set(runc.states(farm))
    with loaded(farm):
        run_in(farm, first.name, BOMB)
        run_in(farm, second.name, HOG)
        own = [f"{runc.cgroup(farm)}/{replica.name}" for replica in (first, second)]
        until(lambda: told(own[0], "pids.events", "max "))
        until(
            lambda: (
                told(own[1], "memory.oom_control", "oom_kill ")
                or told(own[1], "memory.events", "oom_kill ")
            )
        )
        most = len(cgroups.processes(own[0]))
        for replica in (first, second):
            container.kill(farm, replica)
        up.replicas(farm)
    assert most <= 256
    assert set(runc.states(farm)) == before
    for replica in (first, second):
        left = cgroups.processes(f"{runc.cgroup(farm)}/{replica.name}")
        assert 0 < len(left) < 20


def run_in(lab: Lab, name: str, script: str) -> None:
    """A script goes on in a replica, as whoever the web server is."""
    words = runc.command(lab, "exec", "--detach", name, "sh", "-c", script)
    run.run(words, output=runc.folder(lab, name) / "hog.log")


def told(path: str, name: str, word: str) -> int:
    """How often the kernel has had to keep to a group's limit, as it counts that in a file of the group's."""
    files = [folder / name for folder in cgroups.folders(path) if (folder / name).exists()]
    lines = [line for file in files for line in file.read_text().splitlines()]
    return max((int(line.removeprefix(word)) for line in lines if line.startswith(word)), default=0)


@pytest.mark.root
def test_no_user_of_the_machine_can_use_a_containers_set_uid_programs(farm: Lab) -> None:
    """They are there, and who is not root comes to none of them, but where the kernel ignores the bit."""
    places = [str(place) for place in (farm.state_dir, farm.cache_dir, farm.run_dir)]
    search = ["find", *places, "-perm", "/6000", "-type", "f"]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert run.run(search).stdout
    seen = run.run([*nobody, *search], ok=(0, 1)).stdout.splitlines()
    assert [path for path in seen if not os.statvfs(path).f_flag & os.ST_NOSUID] == []
