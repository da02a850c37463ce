"""What a lab on a swarm costs as it grows; run by hand, as root:

    .venv/bin/python -m tests.benchmarks.growth [--nodes 1 2 3] [--replicas 6 30 120 300] [--csv FILE]
    .venv/bin/python -m tests.benchmarks.growth --paper FILE

Network namespaces of this machine stand for the nodes (:mod:`tests.machines`): they share its processors, so that more nodes
make nothing faster here; what a node costs besides is in the figures. Each row is one lab from nothing: seconds until HTTP 200 from
each replica through each node; processor time of the nodes; memory of a node's processes; bytes that reached a node, beside the
unique layers in the registry; seconds of a second ``up``, of an update of one of three sites, of ``down``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from labkit import Lab
from labkit.cluster import registry, swarm
from labkit.cluster.swarm import spec, stack
from labkit.core import run
from labkit.farm.services import balancer_config
from tests import machines
from tests.conftest import CACHE

MIB = 2**20
#: The ports of a Linux bridge (net/bridge/br_private.h: BR_PORT_BITS is 10), and the bytes of a config: Docker refuses larger ones.
PORTS, CONFIG = 1024, 1_024_000
#: The kernel's keys of one user, of which each container of a user namespace takes one: kernel.keys.maxkeys (proc(5)).
KEYS = 200
#: The sizes that are gone through on paper.
PAPER = (300, 600, 1000, 2000, 3000, 6000, 10_000)


@contextmanager
def swarm_of(nodes: int) -> Iterator[tuple[machines.Network, Callable[..., Lab]]]:
    """A swarm of so many nodes, and how a lab on it is described."""
    folder = Path(tempfile.mkdtemp(prefix="labkit-"))
    folder.chmod(0o755)
    with ExitStack() as after:
        after.callback(shutil.rmtree, folder)
        network = after.enter_context(machines.network(folder, nodes))
        profile = folder / "seccomp.json"
        profile.write_text(stack.profile_text(whole=False))
        settings = {
            **stack.daemon(f"{network.address}:{registry.PORT}"),
            "seccomp-profile": str(profile),
        }
        for machine in network.machines:
            after.enter_context(machines.docker(machine, settings))
        machines.swarm(network.machines)

        def describe(**values: object) -> Lab:
            own = {name: str(folder / name) for name in ("state", "run", "outputs")}
            base = {
                "name": network.client,
                "host": {"netns": network.client},
                "cache": CACHE,
                "network": {"subnet": "10.64.0.0/16"},
            }
            return Lab.of({**base, **own, **values})

        after.callback(lambda: registry.stop(describe()))
        yield network, describe


def measured(nodes: int, replicas: int) -> dict[str, float]:
    """The figures of one lab with three sites."""
    sites = [{"name": f"site{n}", "replicas": replicas // 3} for n in (1, 2, 3)]
    with swarm_of(nodes) as (network, describe):
        lab, host = describe(sites=sites), network.machines[0].host
        before = processor_time(network)
        figures = {"nodes": nodes, "replicas": replicas, "up s": timed(lambda: swarm.up(lab, host))}
        last = network.machines[-1]
        figures["up cpu s"] = processor_time(network) - before
        figures["MiB a node"] = memory(last) / MIB
        figures["MiB pulled"] = received(network, last) / MIB
        figures["MiB layers"] = layers(lab) / MIB
        figures["again s"] = timed(lambda: swarm.up(lab, host))
        changed = describe(sites=[{**sites[0], "title": "Another"}, *sites[1:]])
        figures["update s"] = timed(lambda: swarm.up(changed, host))
        figures["down s"] = timed(lambda: swarm.down(lab, host))
    return {name: round(value, 1) for name, value in figures.items()}


def timed(do: Callable[[], object]) -> float:
    """The seconds that it takes."""
    began = time.monotonic()
    do()
    return time.monotonic() - began


def processor_time(network: machines.Network) -> float:
    """What the nodes' processes have used of the processors, in seconds."""
    total = 0.0
    for machine in network.machines:
        for group in machine.groups:
            if (usage := group / "cpuacct.usage").exists():
                total += int(usage.read_text()) / 1e9
            elif (stat := group / "cpu.stat").exists() and "usage_usec" in stat.read_text():
                total += fields(stat)["usage_usec"] / 1e6
    return total


def memory(machine: machines.Machine) -> float:
    """The memory of a node's processes, in bytes: what they share with files is not counted."""
    for group in machine.groups:
        if (stat := group / "memory.stat").exists():
            found = fields(stat)
            return found.get("total_rss", found.get("anon", 0)) + found.get("total_shmem", 0)
    return 0.0


def fields(file: Path) -> Mapping[str, int]:
    """A control group's file of names and numbers."""
    return {
        name: int(value)
        for name, _, value in (line.partition(" ") for line in file.read_text().splitlines())
    }


def received(network: machines.Network, machine: machines.Machine) -> int:
    """The bytes that reached a node through its plug."""
    name = f"/sys/class/net/{network.port(machine)}/statistics/tx_bytes"
    return int(run.run(["ip", "netns", "exec", network.switch, "cat", name]).stdout)


def layers(lab: Lab) -> int:
    """The bytes of all that the registry has: each layer, configuration and manifest once."""
    return sum(path.stat().st_size for path in (lab.state_dir / "registry").rglob("data"))


def model(measured: pd.DataFrame) -> dict[str, float]:
    """What one replica more costs, and what there is without any, by least squares over the measured labs. Pure."""
    one = np.ones(len(measured))
    per_node = measured["replicas"] / measured["nodes"]

    def fitted(column: str, *by: pd.Series) -> list[float]:
        found = np.linalg.lstsq(np.column_stack([one, *by]), measured[column], rcond=None)[0]
        return [float(value) for value in found]

    base_cpu, cpu, cpu_of_node = fitted("up cpu s", measured["replicas"], measured["nodes"])
    base_mib, mib = fitted("MiB a node", per_node)
    base_update, update = fitted("update s", measured["replicas"])
    return {
        "cpu s": base_cpu, "cpu s a replica": cpu, "cpu s a node": cpu_of_node,
        "MiB a node": base_mib, "MiB a replica": mib, "update s": base_update, "update s a replica": update,
    }  # fmt: skip


def on_paper(found: Mapping[str, float], replicas: int, nodes: int) -> dict[str, object]:
    """A lab of three sites, or as many as it needs at most 200 replicas in each, on so many machines of two processors, as the
    model has it, and which limits it is beyond. Pure."""
    site = replicas / max(3, -(-replicas // 200))
    limits = {
        "a node's keys": (replicas / nodes + 2, KEYS),
        "a /24 network's addresses": (site, spec.most_replicas(24, nodes)),
        "a config's size": (replicas * line(), CONFIG),
        "a bridge's ports": (site / nodes + 2, PORTS),
        "4 GiB of memory": (found["MiB a node"] + found["MiB a replica"] * replicas / nodes, 4096),
    }
    work = found["cpu s"] + found["cpu s a replica"] * replicas + found["cpu s a node"] * nodes
    return {
        "replicas": replicas,
        "nodes": nodes,
        "up min": round(work / (2 * nodes) / 60, 1),
        "MiB a node": round(found["MiB a node"] + found["MiB a replica"] * replicas / nodes),
        "beyond": ", ".join(name for name, (need, most) in limits.items() if need > most)
        or "nothing",
    }


def line() -> float:
    """What one replica more adds to the balancer's configuration, in bytes."""
    few, many = (
        len(balancer_config.config(lab, balancer_config.here(lab)))
        for count in (2, 9)
        for lab in [Lab.of({"sites": [{"name": "site1", "replicas": count}]})]
    )
    return (many - few) / 7


def main() -> None:
    """Prints a row for each lab, and the table in Markdown; or what a model of measured labs says of larger ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nodes", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--replicas", nargs="+", type=int, default=[6, 30, 120, 300])
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--paper", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.paper:
        found = model(pd.read_csv(given.paper))
        print({name: round(value, 2) for name, value in found.items()})
        tell([on_paper(found, replicas, nodes) for replicas in PAPER for nodes in (3, 10, 100)])
        return
    run.PATH = f"{machines.programs()}/usr/bin:{run.PATH}"
    rows = []
    for replicas in given.replicas:
        for nodes in given.nodes:
            rows.append(measured(nodes, replicas))
            print(rows[-1], flush=True)
            if given.csv:
                pd.DataFrame(rows).to_csv(given.csv, index=False)
    tell(rows)


def tell(rows: Sequence[Mapping[str, object]]) -> None:
    """The rows as a table in Markdown."""
    heads = list(rows[0])
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(str(row[head]) for head in heads)} |")


if __name__ == "__main__":
    main()
