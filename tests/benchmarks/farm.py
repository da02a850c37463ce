"""Farms of N replicas, from nothing to HTTP 200 on all and down again, beside podman and docker; run by hand, as root:

    .venv/bin/python -m tests.benchmarks.farm [1 6 30 120] [--runs 3] [--peers podman,docker] [--docker FOLDER]

In one run, one after the other and as often as is asked for: labkit; its replicas' processes alone, by ``runc
run`` in four threads on bundles and links that stand (the floor); and podman and docker
(:mod:`tests.benchmarks.peers`) with the same image, the same runC and one bridge, four at a time, up to
``--peers-up-to`` containers (30). The images are there before. Everything is in network namespaces and folders of the
benchmark's own; these are in TMPDIR, for an ext4 without a journal makes a new file ten times slower for minutes where
many were just removed, whoever removed them, so that later runs would be of the file system (``TMPDIR=/dev/shm``). Each figure is the median, in seconds; ``cpu`` is what this process, the programs that it
started and the containers used of the processors meanwhile: it says more than the time on a machine that does
something else besides. A table in Markdown comes last.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import secrets
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from labkit import Lab
from labkit.core import network_removal, run, undo
from labkit.farm.containers import container, lab_namespaces, runc, written
from labkit.farm.images import layout as image
from labkit.farm.reconcile import answers, up
from labkit.kernel import cgroups, netns
from labkit.kernel.links import Netlink, address
from labkit.kernel.netns import inside, within
from labkit.model.lab import Replica
from labkit.report import status
from tests.benchmarks import peers
from tests.conftest import CACHE, open_place

PATIENCE = 60.0
SUBNET = "10.64.0.0/16"
Figures = dict[str, list[float]]
#: A peer, opened: its image, its network and, where it needs one, its daemon are there in the block.
Opened = Callable[[Lab, Path, Path, str], AbstractContextManager[tuple[peers.Call, str]]]
#: What the table at the end compares.
COMPARED = ("up", "up cpu", "check", "nothing to do", "down", "MiB a replica")


class Clock:
    """The figures of a run, each under the name of what was done."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.figures: Figures = {}
        self.contained: dict[str, float] = {}

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Takes the time and the processors' time of the block."""
        cpu, began = self._cpu(), time.monotonic()
        yield
        took = time.monotonic() - began
        self.note(name, took)
        self.note(f"{name} cpu", self._cpu() - cpu)

    def note(self, name: str, value: float) -> None:
        """Keeps a figure."""
        self.figures.setdefault(name, []).append(value)

    def _cpu(self) -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        inside = Path(f"/sys/fs/cgroup/cpuacct{self.group}/cpuacct.usage")
        if self.group and inside.exists():  # else it has just been removed, and has used no more
            self.contained[self.group] = int(inside.read_text()) / 1e9
        more = self.contained.get(self.group, 0.0)
        return sum(item.ru_utime + item.ru_stime for item in used) + more


def lab_of(folder: Path, count: int) -> Lab:
    """A lab on ``count`` replicas, at most 120 to a site, in folders and a namespace of its own; its file is
    there."""
    name = f"b{secrets.token_hex(3)}"
    parts = -(-count // 120)
    sites = ", ".join(f'{{ name = "{site}" }}' for site in ("red", "blue", "green")[:parts])
    text = f"""
name = "{name}"
state = "{folder}/state"
run = "{folder}/run"
cache = "{CACHE}"
outputs = "{folder}/outputs"
replicas = {count // parts}
sites = [{sites}]
[host]
netns = "{name}"
[network]
subnet = "{SUBNET}"
"""
    (folder / "lab.toml").write_text(text)
    return Lab.load(folder / "lab.toml")


def all_answer(lab: Lab, addresses: Sequence[IPv4Address], namespace: str | None) -> None:
    """HTTP 200 on all of them."""
    deadline, left = time.monotonic() + PATIENCE, list(addresses)
    while left:
        found = inside(namespace, answers.heads, [(item, 80) for item in left], ["red"] * len(left))
        left = [item for item, head in zip(left, found, strict=True) if head.status != 200]
        assert time.monotonic() < deadline, f"no answer from {left[:3]} of {len(left)}"
        time.sleep(0.002 if left else 0)


def memory(lab: Lab) -> float:
    """MiB of a replica: the proportional set size of all its processes (proc(5), smaps_rollup)."""
    pids = cgroups.processes(runc.cgroup(lab))
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    sizes = [int(found[1]) for text in texts if (found := re.search(r"^Pss:\s+(\d+)", text, re.M))]
    return sum(sizes) / 1024 / len(lab.farm)


def labkit(folder: Path, count: int, clock: Clock) -> None:
    """The farm up, up again, looked at, its processes alone, and down."""
    lab = lab_of(folder, count)
    clock.group = runc.cgroup(lab)
    try:
        image.unpack_all(lab)
        with clock.measuring("up"):
            result = up.replicas(lab)
        assert result.holds
        assert result.changed
        clock.note("MiB a replica", memory(lab))
        with clock.measuring("check"):
            assert len([item for item in runc.states(lab).values() if item.pid]) == count
            all_answer(lab, [replica.address for replica in lab.farm], lab.netns)
        with clock.measuring("nothing to do"):
            assert not up.replicas(lab).changed
        _command(folder, clock, "status")
        _floor(lab, clock)
        with clock.measuring("down"):
            assert status.down(lab).holds
        image.unpack_all(lab)
        _command(folder, clock, "apply")
    finally:
        assert undo.unmake_all(lab)[1] == ()


def _command(folder: Path, clock: Clock, name: str) -> None:
    """The whole command, its interpreter's start and all."""
    program = Path(sys.executable).with_name("labkit")
    with clock.measuring(f"labkit {name}"):
        run.run([program, name, "--config", folder / "lab.toml"], timeout=PATIENCE)


def _floor(lab: Lab, clock: Clock) -> None:
    """The containers' processes alone: bundles and links stand."""
    root = str(runc.root(lab))

    def end(replica: Replica) -> None:
        undo.delete_container(lab, root=root, container=replica.name)

    def start(replica: Replica) -> None:
        name = replica.name
        run.run(runc.command(lab, "run", "--detach", "--bundle", runc.bundle(lab, name), name),
                output=written.console(lab, name), env=container.QUICK)  # fmt: skip

    run.spread(end, lab.farm)
    with clock.measuring("runc alone"):
        run.spread(start, lab.farm)
        all_answer(lab, [replica.address for replica in lab.farm], lab.netns)


def peer(by: str, tool: Opened, folder: Path, count: int, clock: Clock) -> None:
    """The same with another program: its image, network and daemon are there, the containers are made four at a
    time. Looking is asking it and them; what runs is started again, which is nothing to do."""
    lab = lab_of(folder, count)
    clock.group = f"/{lab.name}"
    names = [f"{lab.name}-{number}" for number in range(count)]
    first = lab.subnet[256]
    addresses = [IPv4Address(int(first) + number) for number in range(count)]
    try:
        layout = image.build(lab).value.layout
        lab_namespaces.create_namespace(lab, lab.host.netns)
        with tool(lab, folder, Path(layout), SUBNET) as (call, found):

            def start(number: int) -> None:
                peers.start(call, lab, found, names[number], str(addresses[number]))

            with clock.measuring("up"):
                run.spread(start, range(count))
                all_answer(lab, addresses, lab.netns)
            with clock.measuring("check"):
                assert len(call("ps", "--quiet").split()) == count
                all_answer(lab, addresses, lab.netns)
            with clock.measuring("nothing to do"):
                call("start", *names)
            with clock.measuring("down"):
                run.spread(lambda name: call(*peers.REMOVE[by], name), names)
    finally:
        assert undo.unmake_all(lab)[1] == ()


def cut(count: int, clock: Clock) -> None:
    """Links alone: pairs in a bridge, addressed and up at both ends, in one namespace; and gone again."""
    name = f"b{secrets.token_hex(3)}"
    lab = Lab.load(None, lab_name=name, netns=name)
    netns.create([name], lab_namespaces._set_up)
    try:
        with clock.measuring(f"{count} links"):
            within(name, _wire, count, network_removal.group(lab))
        with clock.measuring(f"{count} links gone"):
            within(name, _cut, network_removal.group(lab))
    finally:
        netns.remove(name)


def _wire(netlink: Netlink, count: int, group: int) -> None:
    ipr = netlink.ipr
    netlink.do(ipr.link("add", ifname="br", kind="bridge", state="up"))
    settings = {
        "kind": "veth",
        "state": "up",
        "master": socket.if_nametoindex("br"),
        "group": group,
    }
    netlink.do(
        *(
            ipr.link("add", ifname=f"v{n}", peer={"ifname": f"p{n}", "group": group}, **settings)
            for n in range(count)
        )
    )
    netlink.do(ipr.link("set", group=group, state="up"))
    names, first = [f"p{number}" for number in range(count)], IPv4Address("10.65.0.0")
    given = {
        socket.if_nametoindex(name): IPv4Interface((first + n, 16)) for n, name in enumerate(names)
    }
    netlink.do(*(ipr.addr("add", **address(index, own)) for index, own in given.items()))


def _cut(netlink: Netlink, group: int) -> None:
    netlink.do(netlink.ipr.link("del", group=group))


def measured(what: Callable[[Path, int, Clock], None], count: int, runs: int) -> Figures:
    """The figures of several runs."""
    clock = Clock("")
    for _ in range(runs):
        with open_place() as folder:
            what(folder, count, clock)
    return clock.figures


def tell(title: str, figures: Figures) -> None:
    """Prints the medians."""
    print(f"\n{title}   (load {os.getloadavg()[0]:.1f})")
    for name in [name for name in figures if not name.endswith(" cpu")]:
        cpu = figures.get(f"{name} cpu")
        more = f"   cpu {statistics.median(cpu):8.3f}" if cpu else ""
        values = " ".join(f"{value:.3f}" for value in figures[name])
        print(f"  {name:16} {statistics.median(figures[name]):8.3f}{more}   ({values})", flush=True)


def table(found: Mapping[int, Mapping[str, Figures]]) -> str:
    """The medians as a Markdown table: seconds, and how many times as long as labkit's they are. Pure."""
    lines = [f"| containers | by | {' | '.join(COMPARED)} |", "| --- " * (len(COMPARED) + 2) + "|"]
    for count, tools in found.items():
        own = tools["labkit"]
        for name, figures in tools.items():
            cells = [_cell(figures, own if name != "labkit" else {}, what) for what in COMPARED]
            lines.append(f"| {count} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figures: Figures, own: Figures, what: str) -> str:
    if what not in figures:
        return "–"
    took = statistics.median(figures[what])
    ratio = f" ({took / statistics.median(own[what]):.1f} ×)" if what in own else ""
    return f"{took:.2f}{ratio}"


def tools(given: argparse.Namespace) -> dict[str, Opened]:
    """The peers that there are; the others are named."""
    path = peers.docker_there(given.docker)
    there: dict[str, Opened | None] = {
        "podman": peers.podman if shutil.which("podman") else None,
        "docker": partial(peers.docker, path=path) if path else None,
    }
    for name in [name for name, tool in there.items() if tool is None]:
        print(f"{name}: not installed")
    return {name: tool for name, tool in there.items() if tool and name in given.peers.split(",")}


def main() -> None:
    """Prints the figures of each size, and a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", type=int, default=[1, 6, 30, 120])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--links", type=int, default=500)
    parser.add_argument("--peers", default="podman,docker")
    parser.add_argument("--peers-up-to", type=int, default=30, metavar="N")
    parser.add_argument("--docker", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    others = tools(given)
    found: dict[int, dict[str, Figures]] = {}
    for count in given.sizes:
        found[count] = {"labkit": measured(labkit, count, given.runs)}
        tell(f"labkit, {count} replicas", found[count]["labkit"])
        for name, tool in others.items() if count <= given.peers_up_to else ():
            found[count][name] = measured(partial(peer, name, tool), count, given.runs)
            tell(f"{name}, {count} containers", found[count][name])
    clock = Clock("")
    for _ in range(given.runs):
        cut(given.links, clock)
    tell("links", clock.figures)
    print(f"\n{table(found)}")


if __name__ == "__main__":
    main()
