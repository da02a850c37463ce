"""The whole farm up, up again, and up after something happened to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyroute2 import netns as namespaces

from labkit import Lab
from labkit.checks import failed
from labkit.core.journal import Journal
from labkit.errors import FarmError, MachineError, StateError
from labkit.farm import network
from labkit.farm.containers import container, lab_namespaces, runc
from labkit.farm.containers.bundle import Spec
from labkit.farm.network import links
from labkit.farm.reconcile import answers, up, upkeep
from labkit.model.lab import Replica
from tests.test_host import add_link
from tests.test_run import wait_until_gone
from tests.whole_farm import standing


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """One site on two replicas; every test leaves both up."""
    with standing(sites=["red"]) as lab:
        yield lab


def dying(lab: Lab, replica: Replica) -> Spec:
    """A replica's description whose first process says a word and ends."""
    return REPLICA_SPEC(lab, replica).model_copy(
        update={"args": ("sh", "-c", "echo no such page; exit 3")}
    )


REPLICA_SPEC = container.replica_spec


def kill_by_runc(lab: Lab) -> None:
    """The lab's own way to end one."""
    container.kill(lab, lab.farm[0])


def kill_by_hand(lab: Lab) -> None:
    """`kill -9` on the first process."""
    pid = runc.states(lab)["red-1"].pid
    os.kill(pid, signal.SIGKILL)
    assert wait_until_gone(pid)


def end_namespace(lab: Lab) -> None:
    """`kill -9`, and `ip netns del`: nothing is left of the namespace."""
    kill_by_hand(lab)
    namespaces.remove(lab.farm[0].netns)


@pytest.mark.root
def test_replicas_answer_from_nothing(make_lab: Callable[..., Lab]) -> None:
    """One call: HTTP 200 at each one's own address, told by check and table."""
    lab = make_lab(sites=["red"])
    result = up.replicas(lab)
    assert result.changed
    assert failed(result.checks) == ()
    names = {check.name for check in result.checks}
    assert {"farm.replica.red-1", "farm.replica.red-2"} <= names
    assert {row[2] for row in result.table("replicas").rows} == {"10.60.0.11", "10.60.0.21"}
    assert result.value.pids == {name: state.pid for name, state in runc.states(lab).items()}
    assert [answers.problem(lab, replica) for replica in lab.farm] == [None, None]


@pytest.mark.root
def test_second_run_changes_nothing(farm: Lab) -> None:
    """The same processes and the same journal."""
    first = up.replicas(farm)
    journal = farm.journal_file.read_bytes()
    second = up.replicas(farm)
    assert second.changed is False
    assert second.value == first.value
    assert farm.journal_file.read_bytes() == journal


@pytest.mark.root
@pytest.mark.parametrize("harm", [kill_by_runc, end_namespace], ids=lambda f: f.__name__)
def test_a_lost_container_is_started_again(farm: Lab, harm: Callable[[Lab], None]) -> None:
    """At the same address; the other container's process is left alone."""
    before = up.replicas(farm).value.pids
    harm(farm)
    result = up.replicas(farm)
    assert result.changed
    assert failed(result.checks) == ()
    assert result.value.pids["red-2"] == before["red-2"]
    assert result.value.pids["red-1"] != before["red-1"]
    assert links.observe(farm).links[0].addresses == ("10.60.0.11/24",)
    assert failed(links.namespace_checks(farm)) == ()
    assert up.replicas(farm).changed is False


@pytest.mark.root
def test_the_address_stays_while_a_container_is_dead(farm: Lab) -> None:
    """Its namespace is the lab's: connections are refused at once instead of timing out."""
    container.kill(farm, farm.farm[0])
    assert links.observe(farm).links[0].addresses == ("10.60.0.11/24",)
    assert network.ping(farm).holds
    assert "refused" in (answers.problem(farm, farm.farm[0]) or "")
    (check,) = failed(up.replica_checks(farm))
    assert (check.name, check.seen) == ("farm.replica.red-1", "its container is not running")
    assert up.replicas(farm).holds


@pytest.mark.root
def test_another_configuration_starts_its_container_anew(
    farm: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the replica that it is for, and of no other."""
    before = up.replicas(farm).value.pids

    def narrow(lab: Lab, replica: Replica) -> Spec:
        spec = REPLICA_SPEC(lab, replica)
        return spec.model_copy(update={"files": 2048}) if spec.name == "red-1" else spec

    with monkeypatch.context() as patch:
        patch.setattr(container, "replica_spec", narrow)
        after = up.replicas(farm).value.pids
    assert after["red-1"] != before["red-1"]
    assert after["red-2"] == before["red-2"]
    assert up.replicas(farm).changed


@pytest.mark.root
def test_a_first_process_that_dies_is_the_error(
    make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own words and its exit status; the next run, of a sound description, mends it."""
    lab = make_lab(sites=["red"], replicas=1)
    with monkeypatch.context() as patch:
        patch.setattr(container, "replica_spec", dying)
        with pytest.raises(FarmError, match="no such page") as caught:
            up.replicas(lab)
    assert caught.value.value == "container red-1"
    assert "exit status 3" in caught.value.reason
    assert runc.states(lab) == {}
    assert up.replicas(lab).holds


@pytest.mark.root
def test_a_taken_subnet_is_refused_before_anything_is_started(make_lab: Callable[..., Lab]) -> None:
    """By the interface's name; there is no bridge and no container."""
    lab = make_lab(sites=["red"])
    lab_namespaces.create_namespace(lab, lab.host.netns)
    add_link(lab.netns, "other7", "10.60.0.9/24")
    with pytest.raises(MachineError, match="through interface other7"):
        up.replicas(lab)
    assert not links.observe(lab).up
    assert runc.states(lab) == {}
    assert not Path("/run/netns", lab.farm[0].netns).exists()


@pytest.mark.root
def test_two_at_once_make_one_farm(make_lab: Callable[..., Lab]) -> None:
    """One of them waits for the other, and finds all of it up."""
    lab = make_lab(sites=["red"])
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(up.replicas, (lab, lab))
    assert first.value == second.value
    assert (first.holds, second.holds) == (True, True)
    containers = [entry.what for entry in Journal.of(lab).standing() if entry.kind == "container"]
    assert len(containers) == 2


@pytest.mark.root
def test_replicas_that_left_the_lab_are_removed_by_apply_alone() -> None:
    """A notebook that has fewer is refused, and nothing changed; apply keeps the others' processes."""
    with standing(sites=["red"], replicas=2) as lab:
        kept = runc.states(lab)["red-1"].pid
        smaller = Lab.of({**lab.model_dump(), "replicas": 1})
        before = lab.journal_file.read_bytes(), runc.states(lab)
        with pytest.raises(
            StateError, match=r"has 1 replica more: red-2.*\n.*labkit apply"
        ) as caught:
            up.replicas(smaller)
        assert caught.value.code == "state.surplus-replicas"
        assert (lab.journal_file.read_bytes(), runc.states(lab)) == before
        assert upkeep.apply(smaller).changed
        assert runc.states(lab).keys() == {"red-1"}
        assert runc.states(lab)["red-1"].pid == kept
        assert not Path("/run/netns", lab.replica("red-2").netns).exists()
        assert not failed(network.connect(smaller).checks)
        assert not up.replicas(smaller).changed


@pytest.mark.root
def test_a_farm_comes_up_whatever_root_s_umask_is(make_lab: Callable[..., Lab]) -> None:
    """Servers and containers that are not root's read what it makes; the caller's umask stays theirs."""
    own = os.umask(0o077)
    try:
        assert up.replicas(make_lab(sites=["red"], replicas=1)).holds
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(own)
