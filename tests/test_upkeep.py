"""A farm that drifted from its lab: each harm is named by the checks, planned, and mended alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import daemon, network_removal, run
from labkit.core.journal import Journal
from labkit.errors import FarmError
from labkit.farm import network
from labkit.farm.containers import runc, written
from labkit.farm.reconcile import answers, upkeep
from labkit.farm.services import balancer_server, dns_server
from labkit.kernel import cgroups
from labkit.kernel import netns as namespaces
from labkit.kernel.netns import inside
from labkit.report import status as standing
from tests.test_run import wait_until_gone
from tests.waiting import until
from tests.whole_farm import standing as whole_farm


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """Two sites on two replicas each, all up; every test leaves it whole."""
    with whole_farm() as lab:
        upkeep.apply(lab)
        yield lab


def processes(lab: Lab) -> dict[str, int | None]:
    """The first processes of containers and servers, by name."""
    pids: dict[str, int | None] = {name: s.pid for name, s in runc.states(lab).items()}
    servers = {"names": dns_server.server(lab), "balancer": balancer_server.server(lab)}
    return pids | {name: daemon.pid(server) for name, server in servers.items()}


def ip(lab: Lab, *words: str, inside: str = "") -> None:
    """An ip(8) command on the host's side, or in a replica's namespace."""
    run.run(["ip", *words], netns=lab.replica(inside).netns if inside else lab.netns)


def kill(pid: int | None) -> None:
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert wait_until_gone(pid)


def kill_container(lab: Lab) -> None:
    kill(runc.states(lab)["red-1"].pid)


def delete_container(lab: Lab) -> None:
    run.run(runc.command(lab, "delete", "--force", "red-1"))


def delete_link(lab: Lab) -> None:
    ip(lab, "link", "del", lab.link_name("red-1"))


def rename_link(lab: Lab) -> None:
    rename(lab, lab.link_name("red-1"), "patch0")


def rename_inner_end(lab: Lab) -> None:
    rename(lab, "eth0", "wan0", inside="red-1")


def rename_bridge(lab: Lab) -> None:
    rename(lab, lab.bridge, "switch0")


def rename(lab: Lab, old: str, new: str, inside: str = "") -> None:
    for words in ([old, "down"], [old, "name", new], [new, "up"]):
        ip(lab, "link", "set", *words, inside=inside)


def remove_bridge_address(lab: Lab) -> None:
    ip(lab, "address", "del", str(lab.gateway), "dev", lab.bridge)


def move_bridge_address_to_a_port(lab: Lab) -> None:
    remove_bridge_address(lab)
    ip(lab, "address", "add", str(lab.gateway), "dev", lab.link_name("red-1"))


def remove_tables(lab: Lab) -> None:
    for family in network_removal.FAMILIES:
        run.run(
            ["nft", "delete", "table", family, network_removal.table_name(lab)], netns=lab.netns
        )


def remove_table(lab: Lab) -> None:
    run.run(["nft", "delete", "table", "bridge", network_removal.table_name(lab)], netns=lab.netns)


def add_rule(lab: Lab) -> None:
    words = [
        *("inet", network_removal.table_name(lab), "to_the_host"),
        "tcp",
        "dport",
        "8060",
        "accept",
    ]
    run.run(["nft", "insert", "rule", *words], netns=lab.netns)


def switch_tables_off(lab: Lab) -> None:
    table = f"{network_removal.table_name(lab)} {{ flags dormant; }}"
    run.run(["nft", "add", "table", "inet", table], netns=lab.netns)


def stop_balancer(lab: Lab) -> None:
    run.run(["apache2", "-f", balancer_server.server(lab).config, "-k", "stop"], netns=lab.netns)
    assert wait_until_gone(int(processes(lab)["balancer"] or 0))


def kill_names(lab: Lab) -> None:
    kill(daemon.pid(dns_server.server(lab)))


def edit_zone(lab: Lab) -> None:
    file = dns_server.folder(lab) / "hosts"
    file.write_text(file.read_text().replace("10.60.0.11 ", "10.60.0.12 "))
    daemon.send(dns_server.server(lab), signal.SIGHUP)


def edit_balancer(lab: Lab) -> None:
    file = balancer_server.server(lab).config
    file.write_text(file.read_text().replace("loadfactor=1", "loadfactor=9", 1))
    daemon.send(balancer_server.server(lab), signal.SIGUSR1)


def withdraw_worker(lab: Lab) -> None:
    balancer_server.stop(lab, lab.replica("red-1"), True)


def unbound(lab: Lab) -> None:
    run.run(["umount", "--lazy", written.folder(lab, "red-1")])


def unmount(lab: Lab) -> None:
    run.run(["umount", "--lazy", runc.bundle(lab, "red-1") / "rootfs"])


def remove_layer(lab: Lab) -> None:
    for folder in (lab.state_dir / "layers").iterdir():
        shutil.rmtree(folder)


def remove_namespace_file(lab: Lab) -> None:
    namespaces.remove(lab.replica("red-1").netns)


def edit_bundle(lab: Lab) -> None:
    file = runc.bundle(lab, "red-1") / "config.json"
    file.write_text(file.read_text().replace('"limit": 256', '"limit": 999'))


def stop_processes(lab: Lab) -> None:
    for pid in cgroups.processes(f"/labkit-{lab.name}/red-1"):
        os.kill(pid, signal.SIGSTOP)


def by_ip(name: str, text: str, inside: str = "") -> Callable[[Lab], None]:
    """A harm of this name that is done by ip(8), on the host's side or in a replica's namespace."""

    def harm(lab: Lab) -> None:
        ip(lab, *named(lab, text).split(), inside=inside)

    harm.__name__ = name
    return harm


class Drift(NamedTuple):
    """A harm, the checks that name it, the steps that mend it, and whose process ends by both."""

    harm: Callable[[Lab], None]
    checks: set[str]
    steps: list[str]
    anew: frozenset[str] = frozenset()


RED = frozenset(["red-1"])
FOUR = ("red-1", "red-2", "blue-1", "blue-2")
DRIFTS = [
    Drift(kill_container, {"farm.replica.red-1", "converged.container"}, ["restart container red-1"], RED),
    Drift(stop_processes, {"farm.replica.red-1", "converged.container"}, ["restart container red-1"], RED),
    Drift(delete_container, {"farm.replica.red-1", "converged.container"}, ["restart container red-1"], RED),
    Drift(delete_link, {"network.ports", "converged.link"}, ["create link red-1"]),
    Drift(rename_link, {"network.ports", "converged.link"}, ["create link red-1"]),
    Drift(rename_inner_end, {"network.peers", "converged.link"}, ["change link red-1"]),
    Drift(
        rename_bridge,
        {"network.bridge", "converged.bridge"},
        ["create bridge BRIDGE", *(f"create link {name}" for name in FOUR)],
    ),
    Drift(by_ip("give_inner_end_away", "link set eth0 netns LAB-blue-1 name wan0", "red-1"), {"network.peers", "converged.link"}, ["change link red-1"]),
    Drift(by_ip("block_inside", "route add blackhole GATEWAY", "red-1"), {"farm.replica.red-1", "converged.container"}, ["restart container red-1"], RED),
    Drift(by_ip("lie_about_a_neighbour", "neigh replace 10.60.0.11 lladdr 02:00:00:00:00:09 dev BRIDGE nud permanent"), {"farm.replica.red-1", "converged.container"}, ["restart container red-1"], RED),
    Drift(by_ip("take_an_address_over", "address add 10.60.0.11/32 dev BRIDGE"), {"network.addresses", "converged.bridge"}, ["change bridge BRIDGE"]),
    Drift(by_ip("take_link_out", "link set LINK nomaster"), {"network.ports", "converged.link"}, ["change link red-1"]),
    Drift(by_ip("take_inner_end_down", "link set eth0 down", "red-1"), {"network.peers", "converged.link"}, ["change link red-1"]),
    Drift(by_ip("remove_address", "address del 10.60.0.11/24 dev eth0", "red-1"), {"network.one-network", "converged.link"}, ["change link red-1"]),
    Drift(by_ip("add_address", "address add 10.60.0.99/24 dev eth0", "red-1"), {"converged.link"}, ["change link red-1"]),
    Drift(by_ip("misroute", "route replace default via 10.60.0.12", "red-1"), {"network.routes", "converged.link"}, ["change link red-1"]),
    Drift(
        remove_bridge_address,
        {"network.one-network", "proxy.up", "dns.server", "converged.bridge"},
        ["change bridge BRIDGE", "change names ZONE", "change balancer BALANCER"],
    ),
    Drift(
        move_bridge_address_to_a_port,
        {"network.port-addresses", "network.one-network", "converged.bridge", "converged.link"},
        ["change bridge BRIDGE", "change link red-1"],
    ),
    Drift(by_ip("address_a_port", "address add 192.0.2.9/24 dev LINK"), {"network.port-addresses", "converged.link"}, ["change link red-1"]),
    Drift(by_ip("address_a_port_in_the_subnet", "address add 10.60.0.77/24 dev LINK"), {"network.port-addresses", "converged.link"}, ["change link red-1"]),
    Drift(
        by_ip("take_bridge_down", "link set BRIDGE down"),
        {"network.bridge", "farm.replica.red-1", "converged.bridge"},
        ["change bridge BRIDGE"],
    ),
    Drift(by_ip("remove_fence", "route del unreachable 10.60.0.0/24 metric 4294967295"), {"host.fence", "converged.route"}, ["create route 10.60.0.0/24"]),
    Drift(remove_tables, {"converged.firewall"}, ["create firewall TABLE"]),
    Drift(remove_table, {"converged.firewall"}, ["change firewall TABLE"]),
    Drift(add_rule, {"converged.firewall"}, ["change firewall TABLE"]),
    Drift(switch_tables_off, {"converged.firewall"}, ["change firewall TABLE"]),
    Drift(by_ip("readdress_inner_end", "link set eth0 address 02:00:00:00:00:01", "red-1"), {"farm.replica.red-1", "converged.link"}, ["change link red-1"]),
    Drift(stop_balancer, {"proxy.up", "converged.balancer"}, ["restart balancer BALANCER"], frozenset(["balancer"])),
    Drift(kill_names, {"dns.server", "converged.names"}, ["restart names ZONE"], frozenset(["names"])),
    Drift(edit_zone, {"dns.name.red-1", "converged.names"}, ["change names ZONE"]),
    Drift(edit_balancer, {"proxy.worker.red-1", "converged.balancer"}, ["change balancer BALANCER"]),
    Drift(withdraw_worker, {"proxy.worker.red-1", "converged.balancer"}, ["change balancer BALANCER"]),
    Drift(unmount, {"converged.root"}, ["replace root red-1", "replace container red-1"], RED),
    Drift(unbound, {"converged.root"}, ["replace root red-1", "replace container red-1"], RED),
    Drift(
        remove_layer,
        {"converged.root"},
        [f"replace {kind} {name}" for kind in ("root", "container") for name in FOUR],
        frozenset(FOUR),
    ),
    Drift(
        remove_namespace_file,
        {"network.namespace.red-1", "converged.namespace"},
        ["change namespace LAB-red-1"],
    ),
    Drift(edit_bundle, {"converged.container"}, ["change container red-1"]),
]  # fmt: skip


def named(lab: Lab, step: str) -> str:
    """A text of the table with this lab's names."""
    names = {
        "BRIDGE": lab.bridge,
        "ZONE": lab.domain,
        "BALANCER": lab.host_name("balancer"),
        "TABLE": network_removal.table_name(lab),
        "LAB": lab.name,
        "LINK": lab.link_name("red-1"),
        "GATEWAY": str(lab.gateway.ip),
    }
    for word, name in names.items():
        step = step.replace(word, name)
    return step


@pytest.mark.root
@pytest.mark.parametrize("drift", DRIFTS, ids=lambda drift: drift.harm.__name__)
def test_drift_is_named_planned_and_mended_alone(
    farm: Lab, drift: Drift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks say what was seen, the plan what will be done; nobody else's process is another one."""
    monkeypatch.setattr(answers, "GRACE", 2.0)  # what is told as 2 s then; else the test waits long
    before = processes(farm)
    drift.harm(farm)
    broken = {check.name for check in failed(standing.checks(farm).checks)}
    assert drift.checks <= broken
    planned = upkeep.plan(farm).value
    assert [f"{step.action} {step.id}" for step in planned.steps] == [
        named(farm, step) for step in drift.steps
    ]
    result = upkeep.apply(farm)
    assert (result.changed, failed(result.checks)) == (True, ())
    after = processes(farm)
    assert {name for name in before if after[name] != before[name]} == drift.anew
    assert upkeep.plan(farm).value.empty
    assert failed(network.connect(farm).checks) == ()


@pytest.mark.root
def test_somebody_elses_interface_in_the_bridge_is_told_alike_and_left_there(farm: Lab) -> None:
    """Check, plan, apply and watch name it with a remedy that works; what else is broken is mended."""
    ip(farm, "link", "add", "eth0", "type", "veth", "peer", "name", "cable0")
    ip(farm, "link", "set", "eth0", "master", farm.bridge)
    delete_link(farm)
    said = list[str]()
    try:
        results = [upkeep.plan(farm), upkeep.apply(farm), upkeep.apply(farm), standing.checks(farm)]
        upkeep.watch(
            farm, over=threading.Event(), tell=lambda m: said.append(str(m)), seconds=0.5, every=0.1
        )
        wrong = [
            [check for check in failed(result.checks) if not check.name.startswith("wiki")]
            for result in results
        ]
        assert [[check.name for check in checks] for checks in wrong] == [["network.ports"]] * 4
        assert [result.changed for result in results[:3]] == [False, True, False]
        (seen,) = {checks[0].seen for checks in wrong}
        assert "eth0 is in the bridge and labkit did not make it" in seen
        assert len(said) == 1
        assert seen in said[0]
        run.run(re.findall(r"\((ip .*)\)", seen)[0].split())
        assert failed(upkeep.apply(farm).checks) == ()
        assert "network.ports" not in {check.name for check in failed(standing.checks(farm).checks)}
    finally:
        ip(farm, "link", "del", "eth0")


@pytest.mark.root
def test_a_hung_container_is_told_with_the_grace_that_it_had(
    farm: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch restarts it and says so; one that is slow, and answers within the grace, is left alone."""
    before, said = processes(farm), list[str]()
    own = sorted(cgroups.processes(f"/labkit-{farm.name}/red-1"))
    for pid in own:
        os.kill(pid, signal.SIGSTOP)
    slow = threading.Timer(1.5, lambda: [os.kill(pid, signal.SIGCONT) for pid in own])
    slow.start()
    assert upkeep.plan(farm).value.empty
    slow.join()
    monkeypatch.setattr(answers, "GRACE", 1.0)
    stop_processes(farm)
    over = threading.Event()

    def tell(mend: upkeep.Mend) -> None:
        said.append(str(mend))
        over.set()

    upkeep.watch(farm, over=over, tell=tell, seconds=60)
    after = processes(farm)
    assert {name for name in before if after[name] != before[name]} == {"red-1"}
    assert (
        "restart container red-1 (answers: wanted yes, seen nothing within 1 s: timed out)"
        in said[0]
    )


@pytest.mark.root
def test_nothing_to_do_changes_nothing(farm: Lab) -> None:
    """Neither a process nor a line of the journal; plan and apply say so."""
    before, journal = processes(farm), farm.journal_file.read_bytes()
    planned, applied = upkeep.plan(farm), upkeep.apply(farm)
    assert planned.value.empty
    assert (applied.changed, applied.value.plans, applied.holds) == (False, (), True)
    assert processes(farm) == before
    assert farm.journal_file.read_bytes() == journal


@pytest.mark.root
def test_planning_makes_nothing(make_lab: Callable[..., Lab]) -> None:
    """Of a lab that was never up: no folder, no namespace, no journal."""
    lab = make_lab(sites=["red"])
    result = upkeep.plan(lab)
    assert {step.action for step in result.value.steps} == {"create"}
    assert not (lab.state_dir.exists() or lab.run_dir.exists())
    assert not Path("/run/netns", lab.host.netns).exists()


@pytest.mark.root
def test_a_farm_is_made_from_nothing_and_moves_to_another_namespace(
    make_lab: Callable[..., Lab],
) -> None:
    """The containers go with it; nothing is left on the host side where it was."""
    lab = make_lab(sites=["red"])
    assert upkeep.apply(lab).holds
    before = processes(lab)
    moved = Lab.of({**lab.model_dump(), "host": {"netns": f"{lab.name}b"}})
    result = upkeep.apply(moved)
    assert result.holds
    after = processes(moved)
    assert {name for name in before if after[name] == before[name]} == {"red-1", "red-2"}
    broken = {check.name for check in failed(standing.checks(moved).checks)}
    assert {name for name in broken if not name.startswith("wiki")} == set()
    assert not Path("/run/netns", lab.host.netns).exists()
    assert not [e for e in Journal.of(lab).standing() if lab.host.netns in e.what.values()]


@pytest.mark.root
def test_a_site_answers_when_it_has_been_mended(farm: Lab) -> None:
    """At once, although the balancer had given up all of its replicas."""

    def status() -> int:
        there = (farm.gateway.ip, farm.proxy.port)
        (head,) = inside(farm.netns, answers.heads, [there], [farm.host_name("red")])
        return head.status

    for replica in farm.replicas_of("red"):
        kill(runc.states(farm)[replica.name].pid)
    until(lambda: status() == 503)
    assert upkeep.apply(farm).holds
    assert status() == 200


@pytest.mark.root
def test_a_host_without_a_way_to_its_replicas_is_told(
    farm: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule of somebody's that keeps requests on the host is the error, and not the replica's silence."""
    monkeypatch.setattr(answers, "PATIENCE", 0.3)
    rule = ["to", str(farm.subnet), "blackhole"]
    ip(farm, "rule", "add", *rule)
    try:
        with pytest.raises(FarmError, match=r"the host has no way to 10\.60\.0\.11") as caught:
            answers.wait(farm, farm.farm[:1])
    finally:
        ip(farm, "rule", "del", *rule)
    assert caught.value.code == "farm.replica-unreachable"
    assert caught.value.again.endswith("ip route get 10.60.0.11")
    answers.wait(farm, farm.farm)
