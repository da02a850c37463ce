"""A lab on a real Docker swarm of two machines, which are network namespaces here: brought up, changed under load, a machine
lost, taken down. The tests follow each other on one swarm."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from labkit import Lab
from labkit.cluster import checks, deployment, files, registry
from labkit.cluster.engine import EngineError
from labkit.cluster.swarm import deploy, stack
from labkit.core import run
from labkit.errors import ConfigError
from labkit.report import Stage
from labkit.report.batch.rebuild import rebuild
from labkit.report.batch.schedule import Wish
from tests import machines
from tests.conftest import CACHE
from tests.waiting import until

pytestmark = pytest.mark.root
#: How long replicas may take to be back after a machine is lost, in seconds.
BACK = 30


@dataclass(frozen=True)
class Swarm:
    """The swarm, the lab as it was deployed, and how another lab of the same place is described."""

    network: machines.Network
    folder: Path
    lab: Lab
    describe: Callable[..., Lab]

    @property
    def host(self) -> str:
        """Where the manager answers."""
        return self.network.machines[0].host

    def changed(self, **values: object) -> Lab:
        """The same lab with other pages."""
        sites = [{"name": site.name, "title": f"Another {site.name}"} for site in self.lab.sites]
        return self.describe(sites=sites, **values)

    @contextlib.contextmanager
    def client(self, machine: int = 0) -> Iterator[docker.DockerClient]:
        """Docker's own client of a machine's daemon."""
        with contextlib.closing(
            docker.DockerClient(base_url=self.network.machines[machine].host)
        ) as client:
            yield client

    def nodes_of(self, site: str) -> Counter[str]:
        """How many of a site's tasks run on each node, as Docker's own client tells."""
        with self.client() as client:
            service = client.services.get(f"{self.lab.name}_{site}")
            names = {node.id: node.attrs["Description"]["Hostname"] for node in client.nodes.list()}
            tasks = service.tasks(filters={"desired-state": "running"})
            return Counter(
                names[task["NodeID"]] for task in tasks if task["Status"]["State"] == "running"
            )


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    """A swarm of two machines with the settings that the export writes for them, and the lab on it."""
    folder = Path(tempfile.mkdtemp(prefix="labkit-"))
    folder.chmod(0o755)
    docker_was = Path("/var/lib/docker").exists()
    with ExitStack() as stack_of, pytest.MonkeyPatch.context() as patch:
        stack_of.callback(shutil.rmtree, folder)
        patch.setattr(run, "PATH", f"{machines.programs()}/usr/bin:{run.PATH}")
        network = stack_of.enter_context(machines.network(folder, 2))

        def describe(**values: object) -> Lab:
            own = {name: str(folder / name) for name in ("state", "run", "outputs")}
            base = {
                "name": network.client,
                "host": {"netns": network.client},
                "sites": ["red", "blue"],
                "cache": CACHE,
            }
            return Lab.of({**base, **own, **values})

        profile = folder / "seccomp.json"
        profile.write_text(stack.profile_text(whole=False))
        settings = {**stack.daemon(f"{network.address}:5000"), "seccomp-profile": str(profile)}
        for machine in network.machines:
            stack_of.enter_context(machines.docker(machine, settings))
        machines.swarm(network.machines, prefix=26)
        found = Swarm(network, folder, describe(), describe)
        stack_of.callback(registry.stop, found.lab)
        deploy.up(found.lab, found.host)
        yield found
    assert machines.traces(network, folder) == []
    assert Path("/var/lib/docker").exists() == docker_was


def cli(swarm: Swarm, *words: str | Path) -> str:
    """What Docker's own command writes, asked of the manager."""
    program = machines.programs() / "usr/bin/docker"
    return run.run([program, "-H", swarm.host, *words], timeout=60).stdout


def left(swarm: Swarm) -> list[str]:
    """What the manager still has of anybody's, as Docker's own command lists it."""
    lists = (
        ("service", "ls", "-q"),
        ("config", "ls", "-q"),
        ("ps", "-aq"),
        ("volume", "ls", "-q"),
        ("network", "ls", "--format={{.Name}}"),
    )
    own = {"ingress", "docker_gwbridge", "host", "none", "bridge"}
    return [line for words in lists for line in cli(swarm, *words).splitlines() if line not in own]


def test_every_replica_answers_on_every_machine_and_a_second_up_changes_nothing(
    swarm: Swarm,
) -> None:
    """By labkit's checks, among them the look from inside; no task is replaced by the second time."""
    with swarm.client() as client:
        before = {task["ID"] for service in client.services.list() for task in service.tasks()}
        again = deploy.up(swarm.lab, swarm.host)
        after = {task["ID"] for service in client.services.list() for task in service.tasks()}
    assert not again.changed
    assert before == after
    with pytest.raises(ConfigError, match="60 replicas of red"):
        deploy.up(
            swarm.describe(
                sites=[{"name": "red", "replicas": 60}], network={"subnet": "10.64.0.0/16"}
            ),
            swarm.host,
        )
    found = deploy.check(swarm.lab, swarm.host)
    assert found.holds, [check for check in found.checks if not check.holds]
    kept = found.frames["guarantees"].set_index("guarantee")["here"]
    assert kept["user namespace"].startswith("kept")
    assert kept["system calls"].startswith("kept")
    assert kept["replicas of the same site"] == "lost"
    files.swarm(swarm.lab, swarm.folder / "stack", (), swarm.host)
    assert "a call beyond them: no" in (swarm.folder / "stack" / files.LOST).read_text()


def test_a_manager_is_reached_by_ssh_and_by_tcp_with_certificates(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is none says so: a worker, a machine where nobody answers, a socket that is not there."""
    first, second = swarm.network.machines
    by_ssh = f"ssh://root@{first.address}"
    with machines.ssh(first) as program:
        monkeypatch.setattr(run, "PATH", f"{program}:{run.PATH}")
        until(lambda: "listening" in (first.folder / "ssh" / "log").read_text())
        assert deploy.plan(swarm.lab, f"{by_ssh}{first.folder}/docker.sock").value.nodes
        for host, code in (
            (f"{by_ssh}/nowhere", "farm.engine-silent"),
            (f"ssh://root@{second.address}", "farm.engine-ssh"),
            (second.host, "farm.engine-no-manager"),
        ):
            with pytest.raises(EngineError) as caught:
                deploy.plan(swarm.lab, host)
            assert caught.value.code == code
    with pytest.raises(EngineError):
        deploy.plan(swarm.lab, first.tcp)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(first.folder / "tls"))
    assert deploy.plan(swarm.lab, first.tcp).value.nodes


def test_what_somebody_changed_is_named_and_put_back(swarm: Swarm) -> None:
    """A service was removed; a machine was away, so that a site is on the other one alone, and the site was scaled: of its three
    tasks the engine ends the second, which the balancer knows by its number. No client notices."""
    other = swarm.network.machines[1].name
    cli(swarm, "node", "update", "--availability=drain", other)
    until(lambda: len(swarm.nodes_of("red")) == 1 and sum(swarm.nodes_of("red").values()) == 2, 60)
    cli(swarm, "node", "update", "--availability=active", other)
    until(lambda: all(item.ready for item in deploy.plan(swarm.lab, swarm.host).value.nodes))
    failing = {one.name for one in deploy.check(swarm.lab, swarm.host).checks if not one.holds}
    assert "engine.spread.red" in failing
    cli(swarm, "service", "scale", f"{swarm.lab.name}_red=3")
    cli(swarm, "service", "rm", f"{swarm.lab.name}_dns")
    named = {(item.what, item.key) for item in deploy.plan(swarm.lab, swarm.host).value.differences}
    assert named == {("service red", "Mode.Replicated.Replicas"), ("service dns", "")}
    with machines.loaded(swarm.lab, [swarm.network.machines[0].address], pace=0.005) as sent:
        assert deploy.up(swarm.lab, swarm.host).holds
    assert [item for item in sent if item.failed] == []
    assert deploy.plan(swarm.lab, swarm.host).value.differences == ()
    assert len(swarm.nodes_of("red")) == len(swarm.nodes_of("blue")) == 2
    with swarm.client() as client:
        tasks = client.services.get(f"{swarm.lab.name}_red").tasks({"desired-state": "running"})
    assert {task["Slot"] for task in tasks} == {1, 2}


def take_away_a_layer(lab: Lab, address: str) -> None:
    """Pushes the first site's image to the lab's own registry, and takes its newest layer away there."""
    images = lab.state_dir / "registry" / "images"
    before = set(images.rglob("data"))
    name = lab.sites[0].name
    registry.at(lab, address).push(lab, deployment.images(lab)[name][0], name)
    max(set(images.rglob("data")) - before, key=lambda path: path.stat().st_size).unlink()


def test_a_changed_page_is_rolled_out_and_no_request_fails(swarm: Swarm) -> None:
    """An image that cannot be pulled is told, and the sites go on answering. Then each site's tasks are replaced one by
    one, while clients with kept and with new connections ask on both machines."""
    broken = swarm.describe(sites=[{"name": "red", "title": "A lost red"}, "blue"])
    take_away_a_layer(broken, swarm.network.address)
    with pytest.raises(EngineError, match=r"the update failed.*No such image"):
        deploy.up(broken, swarm.host)
    assert checks.unanswered(swarm.lab, [swarm.network.machines[0].address]) == ""
    with machines.loaded(
        swarm.lab, [machine.address for machine in swarm.network.machines], pace=0.005
    ) as sent:
        done = deploy.up(swarm.changed(), swarm.host)
    assert done.changed
    assert done.holds
    assert {item.what for item in done.value.differences} == {"service red", "service blue"}
    assert [item for item in sent if item.failed] == []
    assert len(sent) >= 5000


def test_the_stage_measures_a_machine_that_is_lost_and_comes_back(swarm: Swarm) -> None:
    """By its notebook, in a rebuild: all tasks are replaced, the plug of a machine is pulled and put in again, and the sites are
    spread again, which the engine does not do by itself; no request fails."""
    network, last = swarm.network, swarm.network.machines[-1]
    plug = f"ip -n {network.switch} link set {network.port(last)}"
    engine = {
        "host": swarm.host, "registry": f"http://{network.address}:5000", "lose": f"{plug} down", "restore": f"{plug} up"
    }  # fmt: skip
    lab = swarm.changed(engine=engine, traffic={"seconds": 1.0})
    done = rebuild(lab, Wish(stages=("09-engine",)))
    assert done.holds, done.checks
    record = Stage.load(lab, "09-engine")
    assert (lab.output_dir / record.figures[0].png).stat().st_size > 10_000
    assert f"{last.name} lost" in record.figures[0].alt
    found = next(item for item in record.results if item.action == "swarm.experiment")
    phases = found.frames["phases"].set_index("phase")
    assert phases["failed"].sum() == 0
    assert phases["requests"].sum() > 5000
    assert phases.loc[f"{last.name} lost", "took"] <= BACK
    assert len(swarm.nodes_of("red")) == 2


def test_a_machine_is_lost_and_no_request_fails(swarm: Swarm) -> None:
    """All its processes end at once and its plug is pulled; clients ask on the other one. No site was on it alone."""
    network, last = swarm.network, swarm.network.machines[-1]
    with machines.loaded(swarm.lab, [network.machines[0].address], pace=0.005) as sent:
        time.sleep(1)
        machines.crash(network, last)
        first = network.machines[0].name
        until(lambda: all(swarm.nodes_of(site.name)[first] == 2 for site in swarm.lab.sites), BACK)
        time.sleep(2)
    assert [item for item in sent if item.failed] == []
    assert len(sent) > 500


def test_nothing_is_left_after_down(swarm: Swarm) -> None:
    """Asked of the engine by Docker's own command; a second down says so."""
    assert deploy.down(swarm.lab, swarm.host).changed
    assert left(swarm) == []
    assert not (swarm.lab.state_dir / "registry").exists()
    assert not deploy.down(swarm.lab, swarm.host).changed


def test_no_node_takes_a_task_is_told(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's service has the balancer's port on each node."""
    monkeypatch.setattr(deploy, "NO_NODE_PATIENCE", 2.0)
    where, digest = (
        registry.at(swarm.lab, swarm.network.address),
        deployment.images(swarm.lab)["web"][1],
    )
    words = (
        "--detach",
        "--no-resolve-image",
        "--name=other",
        "--mode=global",
        "--publish=published=80,target=80,mode=host",
    )
    cli(swarm, "service", "create", *words, where.reference("web", digest), "sleep", "99")
    until(lambda: "Running" in cli(swarm, "service", "ps", "other"), 60)
    with pytest.raises(
        EngineError, match=r"balancer: .*no node takes a task: host-mode port already in use"
    ):
        deploy.up(swarm.lab, swarm.host)
    cli(swarm, "service", "rm", "other")
    assert deploy.down(swarm.lab, swarm.host).changed


def test_dockers_own_command_deploys_the_exported_stack(swarm: Swarm) -> None:
    """On the machine that is left; with its own removal nothing is left."""
    registry.start(swarm.lab, swarm.network.address)
    for tag, (layout, _) in deployment.images(swarm.lab).items():
        registry.at(swarm.lab, swarm.network.address).push(swarm.lab, layout, tag)
    stack_of = swarm.folder / "again"
    files.swarm(swarm.lab, stack_of, (), swarm.host)
    cli(swarm, "stack", "deploy", "-c", stack_of / "stack.yml", swarm.lab.name)
    until(lambda: not checks.unanswered(swarm.lab, [swarm.network.machines[0].address]), 60)
    cli(swarm, "stack", "rm", swarm.lab.name)
    until(lambda: not left(swarm), 60)
