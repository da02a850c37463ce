"""Containers by runC: what runs in them, what they cannot do, and how they end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import accesslog, run
from labkit.core.undo import mount_points
from labkit.errors import FarmError
from labkit.farm.containers import container, lifecycle, overlay, runc, written
from labkit.farm.containers.bundle import Spec
from labkit.farm.containers.overlay import Wanted
from labkit.farm.images import layout as images
from labkit.farm.reconcile import answers, up
from labkit.farm.services import fetch
from labkit.kernel import cgroups as tree
from labkit.kernel import users
from labkit.kernel.netns import inside
from labkit.model import sites
from labkit.model.lab import Replica
from tests.test_run import gone
from tests.waiting import until
from tests.whole_farm import standing

PROJECT = Path(__file__).parents[1]
REPLICA_SPEC = container.replica_spec
#: Below a PID 1 that never reaps: a container with a second process that runC started detached ends by a kill
#: of its first one, is started again, and is removed.
UNREAPED = """
import sys
from pathlib import Path
from labkit import Lab; from labkit.core import run
from labkit.farm.containers import container, lifecycle, overlay, runc
from labkit.farm.containers.overlay import Wanted
from labkit.farm.images import layout as images

lab = Lab.model_validate_json(sys.argv[1])
extra = lifecycle.trial(lab, "extra", "sleep", "60")
overlay.prepare(lab, [Wanted(extra, images.unpacked(lab, "red"))])
for _ in range(2):
    container.create(lab, "extra")
    container.begin(lab, "extra")
    words = runc.command(lab, "exec", "--detach", "extra", "sleep", "60")
    run.run(words, output=lab.run_dir / "extra.log")
    run.run(runc.command(lab, "kill", "extra", "KILL"))
    container.wait(lab, "extra")
    print(runc.states(lab)["extra"].status, Path("/proc/1/comm").read_text().strip())
container.remove(lab, "extra")
print(runc.states(lab))
"""


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """One site on two replicas; every test leaves both running."""
    with standing(sites=["red"]) as lab:
        yield lab


@pytest.fixture
def unmade(make_lab: Callable[..., Lab]) -> Lab:
    """A lab of which nothing is made."""
    return make_lab(sites=["red"])


def pid(lab: Lab, name: str) -> int:
    """The process id of a container's first process."""
    return runc.states(lab)[name].pid


def status_of(process: int) -> dict[str, str]:
    """proc(5), /proc/pid/status, by its keys."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def processes(lab: Lab, name: str) -> list[int]:
    """The container's processes, by its control group."""
    words = runc.command(lab, "ps", "--format", "json", name)
    return [int(item) for item in json.loads(run.run(words).stdout)]


def made(lab: Lab, name: str, *args: str, writable: bool = False) -> Path:
    """Makes the bundle of a container with nothing to serve; its root file system."""
    spec = lifecycle.trial(lab, name, *args)
    overlay.prepare(lab, [Wanted(spec, images.unpacked(lab, "red"), writable=writable)])
    return runc.bundle(lab, name) / "rootfs"


def run_extra(lab: Lab, *args: str) -> None:
    """Makes such a container and starts it."""
    made(lab, "extra", *args)
    container.create(lab, "extra")
    container.begin(lab, "extra")


def listed(lab: Lab) -> dict[str, runc.State]:
    """The lab's containers as `runc list` tells of them."""
    done = run.run(runc.command(lab, "list", "--format", "json"))
    return {item.id: item for item in runc.parse_list(done.stdout)}


@pytest.mark.root
def test_states_are_those_that_runc_tells(unmade: Lab) -> None:
    """Read from runC's files: none, created, running, paused, running again, ended; a removed container leaves no
    process, mount or folder, and a second removal is content."""
    assert runc.states(unmade) == {}
    assert not runc.root(unmade).exists()  # asking makes no folder
    assert runc.root(unmade).is_relative_to(unmade.run_dir)  # whatever else runs on the machine
    made(unmade, "extra", "sleep", "60")
    container.create(unmade, "extra")
    seen = [runc.states(unmade)["extra"].status]
    assert runc.states(unmade) == listed(unmade)
    container.begin(unmade, "extra")
    for command in ((), ("pause", "extra"), ("resume", "extra"), ("kill", "extra", "KILL")):
        if command:
            run.run(runc.command(unmade, *command))
        if "kill" in command:
            container.wait(unmade, "extra")
        assert runc.states(unmade) == listed(unmade)
        seen.append(runc.states(unmade)["extra"].status)
    assert seen == ["created", "running", "paused", "running", "stopped"]
    run_extra(unmade, "sleep", "300")
    process = pid(unmade, "extra")
    container.remove(unmade, "extra")
    container.remove(unmade, "extra")
    assert gone(process)
    assert not runc.folder(unmade, "extra").exists()
    assert runc.states(unmade) == listed(unmade) == {}
    assert not [point for point in mount_points() if str(unmade.state_dir) in point]


@pytest.mark.root
def test_apache_runs_without_a_single_capability_and_not_as_root(farm: Lab) -> None:
    """Every process of it: www-data, all five sets empty, and no way to gain one. Processes, mounts, host name and
    network are the container's own; the latter is the one with the lab's name."""
    first, second = (pid(farm, name) for name in ("red-1", "red-2"))
    found = processes(farm, "red-1")
    assert first in found
    for process in found:
        status = status_of(process)
        assert status["Name"] in ("apache2", "rotatelogs")
        assert {users.inner(process, int(item)) for item in status["Uid"].split()} == {33}
        assert {users.inner(process, int(item)) for item in status["Gid"].split()} == {33}
        assert status["NoNewPrivs"] == "1"
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == 0, kind
    for kind in ("pid", "mnt", "uts", "ipc", "net"):
        seen = {Path(f"/proc/{item}/ns/{kind}").readlink() for item in (first, second, os.getpid())}
        assert len(seen) == 3, kind
    named = Path("/run/netns", farm.replica("red-1").netns).stat().st_ino
    assert Path(f"/proc/{first}/ns/net").stat().st_ino == named


@pytest.mark.root
def test_its_configuration_is_the_image_s_with_what_labkit_needs(farm: Lab) -> None:
    """terminal is false, PATH is the image's, and the limits are in the control group."""
    config = json.loads((runc.bundle(farm, "red-1") / "config.json").read_text())
    assert config["process"]["terminal"] is False
    assert config["process"]["args"] == ["apache2", "-D", "FOREGROUND"]
    environment = container.execute(farm, "red-1", "env").stdout.splitlines()
    assert "LABKIT_REPLICA=red-1" in environment
    assert any(line.startswith("PATH=/usr/") for line in environment)
    assert container.execute(farm, "red-1", "hostname").stdout.strip() == "red-1"
    groups = Path(f"/proc/{pid(farm, 'red-1')}/cgroup").read_text()
    assert f"/labkit-{farm.name}/red-1" in groups
    folders = tree.folders(f"/labkit-{farm.name}/red-1")
    found = [file for folder in folders for file in folder.glob("pids.max")]
    assert [file.read_text().strip() for file in found] == ["256"]


@pytest.mark.root
def test_replicas_share_the_image_and_nobody_writes_into_it(farm: Lab) -> None:
    """One layer of the image on the disk, and not even the machine's root changes it through a replica."""
    roots = [runc.bundle(farm, name) / "rootfs" for name in ("red-1", "red-2")]
    assert len({(root / "usr/sbin/apache2").stat().st_ino for root in roots}) == 1
    with pytest.raises(OSError, match="Read-only file system"):
        (roots[0] / "var/written").write_text("by one")


@pytest.mark.root
def test_containers_that_may_be_written_into_write_apart(unmade: Lab) -> None:
    """What is written into one's root is seen in no other one, and not in the image."""
    wait = ("sleep", "60")
    one, other = (made(unmade, name, *wait, writable=True) for name in ("one", "other"))
    (one / "var/written").write_text("by one")
    assert not (other / "var/written").exists()
    lower = images.unpacked(unmade, "red").lower
    assert not any((folder / "var/written").exists() for folder in lower)
    made(unmade, "one", *wait)
    assert not (one / "var/written").exists()
    for name in ("one", "other"):
        container.remove(unmade, name)


@pytest.mark.root
def test_access_log_names_the_replica(farm: Lab) -> None:
    """The host reads it, whatever the client put into its request."""
    replica = farm.replica("red-1")
    there = fetch.Target(
        label="red-1", host=farm.host_name("red-1"), address=replica.address, port=80
    )
    hostile = 'a "b" \\x41 \\\\ \\u0041 é {}'
    headers = {"X-Labkit-Trace": "own-trace", "User-Agent": hostile.encode().decode("latin-1")}
    assert inside(farm.netns, fetch.get, there, headers=headers).replica == "red-1"
    log = written.log(farm, replica.name, "access")
    until(lambda: list(accesslog.lines(log, "own-trace")))  # written after the answer was sent
    found, _ = sites.parse_log(accesslog.lines(log))
    (mine,) = [item for item in found if item.trace == "own-trace"]
    assert (mine.replica, mine.status, mine.request) == ("red-1", 200, "GET / HTTP/1.1")
    assert mine.client == str(farm.gateway.ip)
    assert mine.agent == hostile.replace("é", r"\xc3\xa9")
    assert {item.replica for item in found} == {"red-1"}


@pytest.mark.root
def test_a_killed_container_is_told_and_started_again(farm: Lab) -> None:
    """Its first process is gone, the other replica's is the same; its address stays."""
    replica = farm.replica("red-1")
    first, other = pid(farm, "red-1"), pid(farm, "red-2")
    container.kill(farm, replica)
    assert runc.states(farm)["red-1"].status == "stopped"
    assert gone(first)
    assert "no answer" in (answers.problem(farm, replica) or "")
    container.kill(farm, replica)  # which does nothing to a dead one
    container.start(farm, replica)
    again = pid(farm, "red-1")
    container.start(farm, replica)  # and this nothing to a running one
    assert pid(farm, "red-1") == again
    assert up.replicas(farm).holds
    assert (pid(farm, "red-1"), pid(farm, "red-2")) == (again, other)


@pytest.mark.root
def test_a_bundle_that_stands_is_left_alone(farm: Lab) -> None:
    """The same description is no change; another one is, and is written."""
    spec = container.replica_spec(farm, farm.replica("red-1"))
    unpacked = images.unpacked(farm, "red")
    files = container.replica_files(farm, container.keys(farm))
    file = runc.bundle(farm, "red-1") / "config.json"
    before = file.stat().st_mtime_ns
    assert overlay.prepare(farm, [Wanted(spec, unpacked, files)]) == ()
    assert file.stat().st_mtime_ns == before
    other = spec.model_copy(update={"pids": 99})
    assert overlay.prepare(farm, [Wanted(other, unpacked, files)]) == ("red-1",)
    assert json.loads(file.read_text())["linux"]["resources"]["pids"] == {"limit": 99}
    assert overlay.prepare(farm, [Wanted(spec, unpacked, files)]) == ("red-1",)


@pytest.mark.root
def test_a_container_that_does_not_live_says_why(unmade: Lab) -> None:
    """In runC's own words, the program's name in them; or by its first process's words and status."""
    with pytest.raises(FarmError, match="no-such-program"):
        run_extra(unmade, "no-such-program")
    run_extra(unmade, "sh", "-c", "echo no such thing; exit 3")
    error = container.death(unmade, "extra")
    assert "no such thing" in error.reason
    assert "exit status 3" in error.reason
    assert runc.states(unmade) == {}
    container.remove(unmade, "extra")


@pytest.mark.root
def test_a_server_that_dies_without_output_is_told_by_its_error_log(
    farm: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apache2 writes there, once it has opened it, why it ends."""
    script = "echo cannot fork >> /var/log/apache2/error.log; exit 4"

    def dying(lab: Lab, replica: Replica) -> Spec:
        return REPLICA_SPEC(lab, replica).model_copy(update={"args": ("sh", "-c", script)})

    with monkeypatch.context() as patch:
        patch.setattr(container, "replica_spec", dying)
        with pytest.raises(FarmError, match=r"(?s)exit status 4.*cannot fork"):
            up.replicas(farm)
    assert up.replicas(farm).holds


@pytest.mark.root
def test_a_container_ends_below_a_pid_1_that_does_not_reap(unmade: Lab) -> None:
    """As in a Docker container without --init: its first process waits for a zombie for ever, and has ended."""
    first = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    script = '"$@" >"$0" 2>&1 & exec sleep 60'  # sleep becomes PID 1, and waits for nobody
    output = Path(unmade.model_dump()["run"], "said")
    output.parent.mkdir(parents=True, exist_ok=True)
    words = [*first, script, output, sys.executable, "-c", UNREAPED, unmade.model_dump_json()]
    with run.start([str(word) for word in words], env={"PYTHONPATH": str(PROJECT)}) as machine:
        try:
            until(lambda: output.exists() and output.read_text().endswith("}\n"))
        finally:
            machine.kill()
    assert output.read_text() == "stopped sleep\nstopped sleep\n{}\n"
