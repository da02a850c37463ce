"""What a replica can write, tried from inside a real one: so much and no more, in bytes and in files."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator

import pytest

from labkit import Lab
from labkit.checks import Check, failed
from labkit.core import run
from labkit.core.undo import mount_points
from labkit.errors import ConfigError
from labkit.farm.containers import container, lifecycle, runc, written
from labkit.farm.reconcile import up, upkeep
from labkit.farm.traffic import distribution
from labkit.kernel import proc
from tests.test_confinement import told
from tests.visitors import loaded
from tests.waiting import until
from tests.whole_farm import send, standing

MIB = 2**20
LOGS = "/var/log/apache2"
#: Fills a folder with bytes, and then with files, until it is refused.
FILL = "cd $0; cat /dev/zero >bytes; i=0; while : >file$i; do i=$((i+1)); done"


def written_by(lab: Lab, name: str, place: str = LOGS, script: str = FILL) -> None:
    """A script runs in a replica as whoever its web server is; it ends by an error."""
    words = runc.command(lab, "exec", name, "sh", "-c", script, place)
    assert run.run(words, ok=range(256), timeout=120).status


def disk(lab: Lab) -> tuple[int, int]:
    """The bytes and files that the lab's state takes on the machine's disk (du(1), on that file system alone)."""
    words = ["du", "--summarize", "--one-file-system", "--block-size=1", lab.state_dir]
    taken = (run.run([*words, *more]).stdout.split()[0] for more in ([], ["--inodes"]))
    return int(next(taken)), int(next(taken))


def check(result: distribution.Result, name: str) -> Check:
    """The check of that name."""
    return next(item for item in result.checks if item.name.endswith(name))


@pytest.mark.parametrize(("key", "value"), [
    ("written_mib", 0), ("written_mib", 129), ("written_mib", "64"), ("written_files", 63), ("written_files", 10**7),
])  # fmt: skip
def test_a_quota_out_of_range_is_refused(key: str, value: object) -> None:
    """More than the half of a container's memory is none: what is in it counts there."""
    with pytest.raises(ConfigError, match=key):
        Lab.of({"containers": {key: value}})


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """Two sites; every test leaves it whole."""
    with standing() as lab:
        yield lab


@pytest.fixture
def mended(farm: Lab) -> Iterator[Lab]:
    """The same; whoever wrote much is started anew afterwards."""
    yield farm
    for replica in farm.farm:
        container.kill(farm, replica)
    assert up.replicas(farm).holds


@pytest.mark.root
def test_a_replica_that_writes_all_it_can_harms_nobody(mended: Lab) -> None:
    """It comes to 64 MiB and 4,096 files; the machine's disk, its siblings' logs and the sites are as before. A
    measurement says whose log is full; started again, it has room, and its log is still there."""
    lab = mended
    before = disk(lab)
    send(lab, "red", 100, 4)
    with loaded(lab):
        written_by(lab, "red-1")
    found = os.statvfs(written.folder(lab, "red-1"))
    assert (found.f_bfree, found.f_ffree) == (0, 0)
    assert (found.f_blocks * found.f_frsize, found.f_files) == (64 * MIB, 4096)
    group = f"{runc.cgroup(lab)}/red-1"
    memory = told(group, "memory.current", "") or told(group, "memory.usage_in_bytes", "")
    assert 60 * MIB < memory < 256 * MIB
    after = disk(lab)
    assert after[0] - before[0] < MIB
    assert after[1] - before[1] < 100
    found_by = check(send(lab, "red", 200, 4), "replica-logs")
    assert not found_by.holds
    assert "(red-1: no room for more lines)" in found_by.seen
    assert send(lab, "blue", 100, 4).holds
    kept = written.log(lab, "red-1", "access").read_bytes()
    assert b"GET /" in kept
    container.kill(lab, lab.replica("red-1"))
    assert up.replicas(lab).holds
    assert written.log(lab, "red-1", "access").read_bytes().startswith(kept[:-1000])
    assert send(lab, "red", 200, 4).holds


#: Where a replica can write, and how much there is: bytes and files.
PLACES = {
    LOGS: (64 * MIB, 4096),
    "/run/apache2": (MIB, 256),
    "/run/lock/apache2": (MIB, 256),
    "/dev/shm": (MIB, 256),
}


@pytest.mark.root
@pytest.mark.parametrize("rights", [(), container.SSH_CAPABILITIES], ids=["server", "root"])
def test_there_is_nowhere_else_to_write(farm: Lab, rights: tuple[str, ...]) -> None:
    """Found by asking the kernel for each folder there is, as the web server and as the ssh server."""
    who = ["--user", "0:0"] if rights else []
    for name in rights:
        who += ["--cap", name]
    search = "find / -path /proc -prune -o -type d -writable -print 2>/dev/null || true"
    found = container.execute(farm, "red-2", "sh", "-c", search, options=tuple(who)).stdout.split()
    tried = "for d in $(cat); do (: >$d/new) 2>/dev/null && rm $d/new && echo $d; done; true"
    words = runc.command(farm, "exec", *who, "red-2", "sh", "-c", tried)
    assert set(run.run(words, stdin="\n".join(found)).stdout.split()) == set(PLACES)


@pytest.mark.root
@pytest.mark.parametrize("place", PLACES)
def test_each_place_has_an_end(mended: Lab, place: str) -> None:
    """In bytes and in files; who fills it does not come near its memory's end."""
    written_by(mended, "blue-1", place)
    shown = container.execute(mended, "blue-1", "stat", "-f", "-c", "%f %d %b %S %c", place).stdout
    blocks_free, files_free, blocks, size, files = map(int, shown.split())
    assert (blocks_free, files_free) == (0, 0)
    assert (blocks * size, files) == PLACES[place]
    assert runc.states(mended)["blue-1"].status == "running"


@pytest.mark.root
def test_every_file_system_in_memory_has_a_size(farm: Lab) -> None:
    """There are no message queues; the machine's own /dev has single devices in it. A container has few terminals: the
    machine's are four thousand for all."""
    shown = container.execute(farm, "red-2", "cat", "/proc/self/mountinfo").stdout
    for mount in proc.mounts(shown):
        if mount.root not in ("/", "/log"):
            continue  # a device, also in the place of a file that is not to be read
        assert mount.kind in ("overlay", "proc", "tmpfs", "devpts")
        said = ",".join(mount.special)
        if mount.kind == "tmpfs" and "rw" in mount.options:
            assert "size=" in said, mount
            assert "nr_inodes=" in said, mount
        if mount.kind == "devpts":
            assert "max=16" in said
    taking = "for i in $(seq 40); do (exec 3<>/dev/ptmx && exec sleep 3) & done"
    script = f"({taking}; sleep 1; ls /dev/pts) 2>/dev/null"
    names = container.execute(farm, "red-2", "sh", "-c", script).stdout.split()
    assert sorted(names) == sorted([*map(str, range(16)), "ptmx"])


@pytest.mark.root
def test_output_of_a_container_ends_too(farm: Lab) -> None:
    """What its first process says goes to a file of the host's: into the same room."""
    before = disk(farm)
    loud = ("sh", "-c", "cat /dev/zero; exec sleep 60")
    item = lifecycle.trial(farm, "trial-loud", *loud)
    with lifecycle.prepared(farm, item):
        lifecycle.detached(farm, item.name)
        place = written.folder(farm, item.name)
        until(lambda: os.statvfs(place).f_bfree == 0)
        assert written.console(farm, item.name).stat().st_size <= 64 * MIB
        assert disk(farm)[0] - before[0] < MIB
        assert runc.states(farm)[item.name].status == "running"
    assert str(place) not in mount_points()


@pytest.mark.root
def test_logs_stay_over_a_restart_and_an_apply(make_lab: Callable[..., Lab]) -> None:
    """A new page is rolled out, and the quota is another one; a smaller one empties what does not fit."""
    lab = make_lab(sites=["red"], replicas=2, requests=200)
    upkeep.apply(lab)
    send(lab, "red", 50, 2)
    log = written.log(lab, "red-1", "access")
    kept = log.read_text()
    assert "GET /" in kept
    container.kill(lab, lab.farm[0])
    upkeep.apply(lab)
    assert log.read_text().startswith(kept)
    other: dict[str, object] = lab.model_dump()
    for change in (
        {"sites": [{"name": "red", "title": "Another title"}]},
        {"containers": {"written_files": 300}},
        {"containers": {"written_files": 300, "written_mib": 16}},
        {"containers": {"written_files": 300, "written_mib": 16, "user_namespace": "off"}},
    ):
        other = {**other, **change}
        now = Lab.of(other)
        assert upkeep.apply(now).changed
        assert not upkeep.apply(now).changed
        assert log.read_text().startswith(kept)
        assert written.mounted_limit(now, "red-1", mount_points()) == written.limit(now)
    send(now, "red", 50, 2)
    with log.open("a") as file:
        file.truncate(3 * MIB)
    small = Lab.of({**other, "containers": {"written_files": 300, "written_mib": 4}})
    upkeep.apply(small)
    assert log.stat().st_size < MIB
    assert send(small, "red", 50, 2).holds


#: What a replica can leave in the place of its logs, so that its server could not begin again.
LEFT = {
    "folders in folders": "rm -f access.log; mkdir access.log; while mkdir a && cd a; do :; done",
    "links that lead nowhere": "rm -f *.log; ln -s /none access.log; ln -s access.log error.log",
    "logs that cannot be written": "chmod 0 access.log error.log",
    "a folder that is closed": "chmod 0 .",
    "nothing": "rm -f *.log",
}


@pytest.mark.root
def test_whatever_a_container_leaves_it_begins_again(make_lab: Callable[..., Lab]) -> None:
    """Nobody walks through its folders, however deep: they go with the mount. What labkit was killed in the middle of
    laying is not there, and made again; what is not mounted has no quota, and is not full."""
    lab = make_lab(sites=["red"], replicas=1)
    assert written.mounted_limit(lab, "red-1", mount_points()) == "none"
    assert not written.is_full(lab, "red-1")
    upkeep.apply(lab)
    assert written.mounted_limit(lab, "red-1", mount_points()) == "64 MiB in 4096 files"
    for left, script in LEFT.items():
        written_by(lab, "red-1", LOGS, f"cd $0; {script}; false")
        container.kill(lab, lab.farm[0])
        assert up.replicas(lab).holds, left
        assert send(lab, "red", 50, 2).holds, left
    place = written.folder(lab, "red-1")
    for harm in (lambda: os.chown(place / "log", 0, 0), lambda: shutil.rmtree(place / "log")):
        container.kill(lab, lab.farm[0])
        harm()
        assert written.mounted_limit(lab, "red-1", mount_points()) == "none"
        assert up.replicas(lab).holds
        assert send(lab, "red", 50, 2).holds
    written_by(lab, "red-1", LOGS, f"cd $0; {LEFT['folders in folders']}; false")
    assert os.statvfs(place).f_ffree < 3000
    container.remove(lab, "red-1")
    assert not runc.folder(lab, "red-1").exists()


@pytest.mark.root
def test_lines_that_a_replica_forges_are_named(
    mended: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the measurement's mark in each request; what it writes with that is no request."""
    lab, trace = mended, secrets.token_hex(6)
    monkeypatch.setattr(secrets, "token_hex", lambda _: trace)
    honest = '{"replica":"red-1","trace":"HERE-7"}'
    forged = ["[" * 20_000, honest, '{"status":' + "9" * 6000 + "}", "x" * 300_000, "\\"]
    text = "".join(f"{trace} {line}\n" for line in forged).replace("HERE", trace)
    words = runc.command(lab, "exec", "red-1", "sh", "-c", f"cat >>{LOGS}/access.log")
    run.run(words, stdin=text)
    result = send(lab, "red", 200, 4)
    found_by = check(result, "replica-logs")
    assert not found_by.holds
    assert re.search(r"; 5 lines are no requests: 5 × no JSON", found_by.seen)
    assert [item.name for item in failed(result.checks)] == [found_by.name]
