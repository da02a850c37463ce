"""A lab on a real Kubernetes of two nodes, which are network namespaces here; run by hand, as root:

    .venv/bin/python -m tests.benchmarks.kubernetes

Brought up, again, changed under load, checked, made to be refused, a node lost under load, taken down; and what is left of it
all. The first run builds Kubernetes' servers (:mod:`tests.kubernetes_machines`), in a quarter of an hour.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from labkit import Lab
from labkit.cluster import checks, registry, seccomp
from labkit.cluster.engine import EngineError
from labkit.cluster.kubernetes import deploy, manifests
from labkit.core import run
from labkit.farm.traffic.load import Sent
from tests import kubernetes_machines, machines
from tests.conftest import CACHE
from tests.kubernetes_machines import Plane
from tests.waiting import until

#: How long replicas may take to be back after a node is lost, in seconds.
BACK = 60


def told(what: str, began: float, *more: object) -> None:
    """Prints a row of the figures."""
    print(f"{what:<24} {time.monotonic() - began:7.1f} s  ", *more, flush=True)


def failed(sent: Sequence[Sent]) -> str:
    """How many requests failed, and how."""
    wrong = [item for item in sent if item.failed]
    how = ", ".join(sorted({f"{item.status} {item.error}".strip() for item in wrong}))
    slow = [item for item in sent if item.took > 1]
    slowest = max(item.took for item in sent)
    return f"failed: {len(wrong)} of {len(sent):,} {how}; {len(slow)} took more than 1 s, the slowest {slowest:.2f} s"


class Bench:
    """A lab on a cluster, and the steps."""

    def __init__(self, plane: Plane, folder: Path) -> None:
        self.plane, self.network, self.folder = plane, plane.network, folder
        self.lab = self.described()
        self.nodes = [machine.address for machine in self.network.machines]

    def described(self, **values: object) -> Lab:
        """The lab, or another one of the same place."""
        own = {name: str(self.folder / name) for name in ("state", "run", "outputs")}
        base = {
            "name": self.network.client, "host": {"netns": self.network.client}, "sites": ["red", "blue"], "cache": CACHE,
        }  # fmt: skip
        return Lab.of({**base, **own, **values})

    def titled(self, word: str) -> Lab:
        """The lab with other pages."""
        return self.described(
            sites=[{"name": name, "title": f"{word} {name}"} for name in ("red", "blue")]
        )

    def pods(self) -> set[tuple[str, str]]:
        """Name and node of the pods that are ready, as kubectl tells."""
        items = json.loads(self.plane.kubectl("get", "pods", "-n", self.lab.name, "-o", "json"))[
            "items"
        ]
        return {
            (item["metadata"]["name"], item["spec"].get("nodeName", ""))
            for item in items
            if "deletionTimestamp" not in item["metadata"]
            and any(one["type"] == "Ready" and one["status"] == "True" for one in item["status"].get("conditions", ()))
        }  # fmt: skip

    def brought_up(self) -> None:
        """The first and the second time."""
        began = time.monotonic()
        done = deploy.up(self.lab, self.plane.kubeconfig)
        told("up", began, done.summary, "" if done.holds else unheld(done.checks))
        before, began = self.pods(), time.monotonic()
        again = deploy.up(self.lab, self.plane.kubeconfig)
        told("up again", began, f"changed: {again.changed}; the same pods: {self.pods() == before}")

    def changed(self) -> None:
        """All pages change, while clients ask on both nodes."""
        began = time.monotonic()
        with machines.loaded(self.lab, self.nodes, pace=0.02) as sent:
            self.lab = self.titled("Another")
            planned = deploy.plan(self.lab, self.plane.kubeconfig).value.differences
            done = deploy.up(self.lab, self.plane.kubeconfig)
            took = time.monotonic() - began
            time.sleep(2)
        told(
            "update under load",
            time.monotonic() - took,
            failed(sent),
            "" if done.holds else unheld(done.checks),
        )
        print(
            "   planned:",
            *sorted({f"{item.what} {item.key}" for item in planned}),
            sep="\n      ",
            flush=True,
        )

    def checked(self) -> None:
        """By the checks, with the look from inside."""
        began = time.monotonic()
        done = deploy.check(self.lab, self.plane.kubeconfig)
        told(
            "check",
            began,
            f"{sum(item.holds for item in done.checks)} of {len(done.checks)} hold",
            "" if done.holds else unheld(done.checks),
        )
        rows = done.frames["guarantees"]
        for state, names in rows.groupby("here")["guarantee"]:
            print(f"   {state}: {', '.join(names)}", flush=True)
        for row in rows[(rows["here"] == "lost") & (rows["seen"] != "")].itertuples():
            print(f"   {row.guarantee}: {row.seen}", flush=True)

    def refused(self, what: str, begin: Callable[[], object], end: Callable[[], object]) -> None:
        """An update that cannot work is told, and the pods of before go on serving."""
        begin()
        began = time.monotonic()
        try:
            deploy.up(self.titled(what), self.plane.kubeconfig)
            said = "not refused"
        except EngineError as error:
            said = f"{error.value}: {error.reason}"
        told(
            f"refused: {what}",
            began,
            f"still served: {not checks.unanswered(self.lab, self.nodes)}; {said}",
        )
        end()
        began = time.monotonic()
        told("  and up again", began, deploy.up(self.lab, self.plane.kubeconfig).summary)

    def dealt_out(self) -> None:
        """A site whose pods are all on one node, after the other one was away, is dealt out again."""
        away = self.network.machines[-1].name
        self.plane.kubectl("cordon", away)
        self.plane.kubectl("delete", "pods", "-n", self.lab.name, "--field-selector", f"spec.nodeName={away}", "--wait=false")  # fmt: skip
        until(
            lambda: (
                len(self.replicas() - {away}) == 1
                and away not in self.replicas()
                and len(self.pods()) >= len(self.lab.farm)
            ),
            90,
        )
        self.plane.kubectl("uncordon", away)
        began = time.monotonic()
        done = deploy.up(self.lab, self.plane.kubeconfig)
        told(
            "dealt out again",
            began,
            f"changed: {done.changed}; replicas on {len(self.replicas())} nodes",
            unheld(done.checks),
        )

    def replicas(self) -> set[str]:
        """The nodes of all replicas."""
        names = {site.name for site in self.lab.sites}
        return {node for name, node in self.pods() if name.partition("-")[0] in names}

    def with_less(self) -> None:
        """A lab without the second site: what was made for it is removed."""
        began = time.monotonic()
        done = deploy.up(self.described(sites=["red"]), self.plane.kubeconfig)
        kinds = "deployments,services,poddisruptionbudgets,configmaps"
        names = self.plane.kubectl(
            "get", kinds, "-n", self.lab.name, "-l", "labkit.lab", "-o", "name"
        ).split()
        told(
            "a site less",
            began,
            f"{len(done.value.differences)} differences; left: {[name for name in names if 'blue' in name]}",
            unheld(done.checks),
        )
        began = time.monotonic()
        told("and with it again", began, unheld(deploy.up(self.lab, self.plane.kubeconfig).checks))

    def lost(self) -> None:
        """A node's processes end at once and its plug is pulled, while clients ask on the other one."""
        kept, gone = self.network.machines[0], self.network.machines[-1]
        replicas = len(self.lab.farm)
        with machines.loaded(self.lab, [kept.address], pace=0.02) as sent:
            time.sleep(1)
            began = time.monotonic()
            machines.crash(self.network, gone)
            until(
                lambda: (
                    sum(
                        node == kept.name and name.partition("-")[0] in ("red", "blue")
                        for name, node in self.pods()
                    )
                    == replicas
                ),
                BACK,
            )
            back = time.monotonic() - began
            time.sleep(2)
        told(
            "node lost under load",
            time.monotonic() - back,
            f"(until replicas are back) {failed(sent)}",
        )

    def taken_down(self) -> None:
        """The first and the second time."""
        began = time.monotonic()
        done = deploy.down(self.lab, self.plane.kubeconfig)
        names = self.plane.kubectl("get", "namespaces", "-o", "name").split()
        told(
            "down",
            began,
            done.summary,
            f"namespaces: {len(names)}",
            f"registry's folder: {(self.lab.state_dir / 'registry').exists()}",
        )
        began = time.monotonic()
        told("down again", began, deploy.down(self.lab, self.plane.kubeconfig).summary)


def unheld(found: Sequence[checks.Check]) -> str:
    """The checks that do not hold."""
    return "; ".join(f"{item.name}: {item.seen}" for item in found if not item.holds)


def left(network: machines.Network, folder: Path) -> list[str]:
    """What is there of a cluster that has ended."""
    words = [network.switch[:-1], str(folder)]
    places = [
        *Path("/run/netns").iterdir(),
        *(group for item in network.machines for group in item.groups if group.exists()),
    ]
    lines = [*map(str, places), *Path("/proc/self/mountinfo").read_text().splitlines()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if any(word in line for word in words)]


def main() -> None:
    """Prints the figures."""
    began = time.monotonic()
    run.PATH = f"{kubernetes_machines.programs()}/usr/bin:{run.PATH}"
    told("the servers", began, "(built, or from the cache)")
    folder = Path(tempfile.mkdtemp(prefix="labkit-"))
    folder.chmod(0o755)
    began = time.monotonic()
    with ExitStack() as stack:
        stack.callback(lambda: shutil.rmtree(folder))
        network = stack.enter_context(machines.network(folder, 2))
        plane = stack.enter_context(kubernetes_machines.control(network, folder / "control"))
        for machine in network.machines:
            profile = json.dumps(seccomp.profile())
            stack.enter_context(kubernetes_machines.node(plane, machine, profile))
        until(lambda: plane.ready() == {machine.name for machine in network.machines}, 90)
        told("a cluster of two nodes", began)
        bench = Bench(plane, folder)
        stack.callback(registry.stop, bench.lab)
        bench.brought_up()
        bench.changed()
        bench.checked()
        names = [machine.name for machine in network.machines]
        bench.refused(
            "no node has room",
            partial(plane.kubectl, "cordon", *names),
            partial(plane.kubectl, "uncordon", *names),
        )
        bench.refused(
            "no seccomp profile",
            partial(setattr, manifests, "PROFILE", "absent.json"),
            partial(setattr, manifests, "PROFILE", manifests.PROFILE),
        )
        bench.dealt_out()
        bench.with_less()
        bench.lost()
        bench.taken_down()
    print("left:", *(left(network, folder) or ["nothing"]), sep="\n    ")


if __name__ == "__main__":
    main()
