"""What of a lab is up: looked at, checked, and taken down without a trace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import HTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer

import pytest
from pyroute2 import netns as namespaces

from labkit import Lab
from labkit.checks import failed
from labkit.core import run
from labkit.core.journal import Journal
from labkit.core.undo import mount_points
from labkit.errors import MachineError
from labkit.farm.containers import container, runc
from labkit.farm.reconcile import up, upkeep
from labkit.farm.services import balancer, ssh
from labkit.kernel import cgroups
from labkit.kernel.netns import inside
from labkit.report import status
from tests import proc
from tests.servers import saying, served
from tests.test_run import gone, wait_until_gone
from tests.waiting import until
from tests.whole_farm import standing as whole_farm


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """One site on two replicas, up, without names and balancer."""
    made = make_lab(sites=["red"])
    up.replicas(made)
    return made


def processes(lab: Lab) -> list[str]:
    """The processes that are in the lab's control group, or were given one of the lab's files."""
    owned = (f"/labkit-{lab.name}", str(lab.run_dir), str(lab.state_dir))
    cgroups, words = dict(proc.texts("cgroup")), dict(proc.texts("cmdline"))
    found = {pid: cgroups[pid] + words.get(pid, "") for pid in cgroups}
    return [
        str(pid)
        for pid, text in found.items()
        if any(mark in text for mark in owned) and not gone(pid)
    ]


def inventory(lab: Lab) -> dict[str, list[str]]:
    """What the machine has of the lab now, by kind, whatever the journal says."""
    folders = (f"{lab.run_dir}/", f"{lab.state_dir}/")
    states = runc.root(lab)
    return {
        "mounts": sorted(point for point in mount_points() if point.startswith(folders)),
        "namespaces": [p.name for p in Path("/run/netns").glob(f"{lab.name}*")],
        "cgroups": [str(folder) for folder in cgroups.folders(f"/labkit-{lab.name}")],
        "processes": processes(lab),
        "runc": [p.name for p in states.iterdir()] if states.exists() else [],
        "containers": [str(p) for p in (lab.state_dir / "containers").glob("*")],
        "links": [p.name for p in Path("/sys/class/net").iterdir() if lab.name in p.name],
        "journal": [entry.kind for entry in Journal.of(lab).standing()],
    }


def nothing(lab: Lab) -> bool:
    """Whether the machine has nothing of the lab; says what it has."""
    left = {kind: found for kind, found in inventory(lab).items() if found}
    assert left == {}
    return True


@contextmanager
def sleeper_in(folder: Path) -> Iterator[int]:
    """A process whose working folder it is, which keeps a mount busy."""
    with run.start(["sh", "-c", 'cd "$1" && exec sleep 300', "sh", str(folder)]) as process:
        try:
            until(lambda: Path(f"/proc/{process.pid}/cwd").readlink() == folder.resolve())
            yield process.pid
        finally:
            process.kill()


def killed_container(lab: Lab) -> None:
    """One replica's first process has ended already."""
    container.kill(lab, lab.farm[0])


def deleted_container(lab: Lab) -> None:
    """runC has forgotten one replica."""
    run.run(runc.command(lab, "delete", "--force", lab.farm[0].name))


def half_made_container(lab: Lab) -> None:
    """runc was killed before it wrote its state."""
    deleted_container(lab)
    (runc.root(lab) / lab.farm[0].name).mkdir()


def replica_namespace(lab: Lab) -> None:
    """One replica's namespace was removed by hand."""
    namespaces.remove(lab.farm[0].netns)


def host_namespace(lab: Lab) -> None:
    """The host side's namespace was removed by hand, bridge and all."""
    namespaces.remove(lab.host.netns)


def unmounted(lab: Lab) -> None:
    """One replica's root file system was unmounted by hand."""
    run.run(["umount", "--lazy", runc.bundle(lab, lab.farm[0].name) / "rootfs"])


def no_configuration(lab: Lab) -> None:
    """A dead container has lost its bundle's config.json."""
    killed_container(lab)
    (runc.bundle(lab, lab.farm[0].name) / "config.json").unlink()


def logged_in(lab: Lab) -> None:
    """sshd and a program run in the containers besides."""
    ssh.login(lab)
    words = runc.command(lab, "exec", "--detach", lab.farm[0].name, "sleep", "300")
    run.run(words, output=lab.run_dir / "exec.log")


HARMS = [
    killed_container,
    deleted_container,
    half_made_container,
    replica_namespace,
    host_namespace,
    unmounted,
    no_configuration,
    logged_in,
]


@pytest.mark.root
def test_down_leaves_nothing_of_a_whole_farm() -> None:
    """Containers, links, names and balancer: every kind was there and none is; a second says so."""
    with whole_farm(sites=["red"]) as lab:
        before = inventory(lab)
        assert [kind for kind, found in before.items() if not found] == ["links"]
        result = status.down(lab)
        assert (result.changed, result.holds, result.value.failed) == (True, True, ())
        assert result.value.unmade == len(before["journal"])
        assert nothing(lab)
        again = status.down(lab)
        assert (again.changed, again.holds, again.value.unmade) == (False, True, 0)
        assert "nothing was up" in again.summary


@pytest.mark.root
@pytest.mark.parametrize("harm", HARMS, ids=lambda function: function.__name__)
def test_down_leaves_nothing_after(lab: Lab, harm: Callable[[Lab], None]) -> None:
    """Whatever is half gone or more than was made."""
    pids = [state.pid for state in runc.states(lab).values()]
    harm(lab)
    result = status.down(lab)
    assert result.value.failed == ()
    assert nothing(lab)
    assert all(wait_until_gone(pid) for pid in pids)


@pytest.mark.root
def test_down_leaves_what_is_not_the_labs(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    """A process of somebody's that keeps a container's files busy is not killed for it, and another lab's containers are
    the same processes. What cannot be removed stays in the journal, the check fails, and the rest is removed."""
    other = make_lab(sites=["red"], replicas=1)
    pids = up.replicas(other).value.pids
    Journal.of(lab).intend("marvel", name="x")
    try:
        with sleeper_in(runc.bundle(lab, lab.farm[0].name) / "rootfs" / "etc") as pid:
            result = status.down(lab)
            assert not gone(pid)
        assert [check.name for check in failed(result.checks)] == ["farm.down"]
        (kept,) = result.value.failed
        assert "marvel" in kept
        assert {kind: found for kind, found in inventory(lab).items() if found} == {
            "journal": ["marvel"]
        }
    finally:
        Journal.of(lab).forget("marvel", name="x")
    assert up.replicas(other).changed is False
    assert up.replicas(other).value.pids == pids


@pytest.mark.root
def test_the_farm_comes_up_again_after_down(lab: Lab) -> None:
    """Outputs, keys and cache are still there."""
    (lab.output_dir).mkdir(parents=True)
    (lab.output_dir / "kept").write_text("by a person")
    key = (lab.state_dir / "ssh" / "student").read_text()
    status.down(lab)
    assert (lab.output_dir / "kept").read_text() == "by a person"
    assert up.replicas(lab).holds
    assert (lab.state_dir / "ssh" / "student").read_text() == key


@pytest.mark.root
def test_status_and_checks_are_what_is_seen(lab: Lab) -> None:
    """Up and down by part, and looking changes nothing. Links and containers that are not in this lab.toml are named, and
    not counted. The checks' names are unique; a dead replica's fails, and its neighbour's does not."""
    journal = lab.journal_file.read_bytes()
    result = status.status(lab)
    assert result.changed is False
    assert result.value.running == ("bridge", "links", "containers")
    assert lab.journal_file.read_bytes() == journal
    fewer = Lab.of({**lab.model_dump(), "replicas": 1})
    rows = {row[0]: row[1:] for row in status.status(fewer).table("status").rows}
    assert rows["links"] == ("1 of 1 up", f"also in the bridge: {lab.link_name('red-2')}")
    assert rows["containers"] == ("1 of 1 up", "red-1; not of this lab.toml: red-2")
    container.kill(lab, lab.farm[0])
    rows = {row[0]: row[1:] for row in status.status(lab).table("status").rows}
    assert rows["containers"][0] == "1 of 2 up"
    assert rows["links"][0] == "2 of 2 up"
    found = status.checks(lab).checks
    assert len({check.name for check in found}) == len(found)
    names = {check.name for check in failed(found)}
    assert "farm.replica.red-1" in names
    assert not {name for name in names if name.startswith(("network.", "host."))}
    assert "farm.replica.red-2" not in names
    status.down(lab)
    assert status.status(lab).value == status.Standing(running=(), journal=0)


class Mute(TCPServer):
    """Somebody else's server of another protocol: it says nothing, and hangs up."""

    allow_reuse_address = True


def balancer_of(lab: Lab) -> tuple[str, str, bool]:
    """The balancer's state and details, and whether it is told among what is up."""
    result = status.status(lab)
    (row,) = (row for row in result.table("status").rows if row[0] == "balancer")
    return str(row[1]), str(row[2]), "balancer" in result.value.running


@pytest.mark.root
def test_status_knows_the_labs_own_balancer_from_anybodys() -> None:
    """It answers for all replicas or for some; or another lab's, a web server or another one has its place."""
    with whole_farm(sites=["red"]) as lab:
        place = f"{lab.gateway.ip}:80"
        assert balancer_of(lab) == ("up", f"{place}: 2 of 2 replicas in service", True)
        container.kill(lab, lab.farm[0])
        assert balancer_of(lab) == ("up", f"{place}: 1 of 2 replicas in service, not red-1", True)
        other = Lab.of({**lab.model_dump(), "name": "other"})
        assert balancer_of(other)[::2] == ("somebody else's", False)
        balancer.down(lab)
        assert balancer_of(lab)[::2] == ("down", False)
        for kind in (
            partial(HTTPServer, RequestHandlerClass=saying(lambda _: "hello")),
            partial(Mute, RequestHandlerClass=BaseRequestHandler),
        ):
            with served(inside(lab.netns, kind, (str(lab.gateway.ip), 80))):
                state, said, told = balancer_of(lab)
                assert (state, told) == ("somebody else's", False)
                checks = {check.name: check for check in failed(status.checks(lab).checks)}
                assert f"(process {os.getpid()})" in said
                assert checks["proxy.up"].seen in said
                with pytest.raises(MachineError, match=rf"port is used by .*process {os.getpid()}"):
                    upkeep.apply(lab)


@pytest.mark.root
def test_looking_at_a_lab_that_was_never_up_makes_nothing(make_lab: Callable[..., Lab]) -> None:
    """Status, checks and down: no namespace, no journal; every check that is made fails."""
    lab = make_lab(sites=["red"])
    assert status.status(lab).value.running == ()
    result = status.checks(lab)
    assert {check.name for check in failed(result.checks)} >= {
        "host.namespace",
        "farm.replica.red-1",
    }
    assert status.down(lab).changed is False
    assert nothing(lab)
    assert not lab.journal_file.exists()


def test_this_process_is_of_no_lab(make_lab: Callable[..., Lab]) -> None:
    """The inventory of the other tests does not count the tests themselves."""
    assert str(os.getpid()) not in inventory(make_lab())["processes"]
