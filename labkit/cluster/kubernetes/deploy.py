"""A lab on Kubernetes: brought up, compared, checked and taken down."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from labkit import cancellation
from labkit.checks import Check, equal
from labkit.cluster import checks, deployment, engine, guarantees, registry
from labkit.cluster.deployment import Deployment, Service
from labkit.cluster.engine import Difference, EngineError
from labkit.cluster.guarantees import Inside
from labkit.cluster.kubernetes import api, manifests
from labkit.cluster.kubernetes.api import Cluster, Node, Pod
from labkit.cluster.kubernetes.manifests import TEMPLATE, Json
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted
from labkit.errors import excerpt
from labkit.farm.services import balancer_config
from labkit.model.lab import Lab
from labkit.records import Record

__all__ = ["check", "down", "plan", "up"]

#: How long all pods may take to be ready, from the order on, in seconds: a node may have to fetch images first.
PATIENCE = 300.0
#: How long the engine may say of a replica or service why it cannot run, before that is an error, in seconds.
TROUBLE = 30.0
#: So many of the other sites' replicas a look from inside tries to reach: where it cannot, each takes 3 s.
MOST = 6


def __dir__() -> list[str]:
    return __all__


class Deployed(Record):
    """What runs on the cluster: its nodes, the lab's pods, and what was brought into the registry."""

    host: str
    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]
    pushed: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What the lab asks for: as a deployment, and as the objects that are made of it."""

    deployment: Deployment
    objects: Sequence[Json]

    def workloads(self, kinds: Sequence[str]) -> Iterator[tuple[str, str, str]]:
        """The kind, name and template of each object of these kinds, which make pods."""
        for item in self.objects:
            if item["kind"] in kinds:
                labels = item["spec"]["template"]["metadata"]["labels"]
                yield item["kind"], item["metadata"]["name"], labels[TEMPLATE]


class Problem(Record):
    """What is still missing ('' for nothing); of which replica or service, why the engine says that it cannot be, its pods."""

    text: str
    owner: str = ""
    error: str = ""
    pods: tuple[str, ...] = ()


@action("kubernetes.up")
def up(lab: Lab, kubeconfig: Path | None = None, context: str | None = None) -> Outcome[Deployed]:
    """Deploys the lab to a Kubernetes cluster, or makes what runs there what the lab says.

    The images are built and copied to the registry, with their digests. What is as it should be is left alone; a changed
    replica's new pod is ready before the old one ends. It returns when each replica has answered through each node's balancer.

    :param kubeconfig: the file that names the cluster; default: kubectl's own (KUBECONFIG, else ~/.kube/config).
    :param context: which of its contexts; default: the Lab's ``engine.context``, else the current one.
    :return: nodes and pods; the table ``pods`` has one row a pod.
    :raises ConfigError: there is no such kubeconfig or context.
    :raises EngineError: no API server answers, it refuses, or pods do not start; the reason is the engine's.
    :raises StateError: the cluster has a namespace of the lab's name that is not this lab's.

    Example: ``kubernetes.up(lab, context="school").frames["pods"]``
    """
    with closing(_cluster(lab, kubeconfig, context)) as cluster, lock(lab.run_dir, "kubernetes"):
        images, pushed = _images(lab, cluster, push=True)
        wanted = _wanted(lab, cluster, images)
        found = tuple(_differences(cluster, wanted))
        if found:
            _apply(cluster, wanted, "Namespace", "Service")
            wanted = _wanted(lab, cluster, images)  # now that the Services have addresses
            _apply(
                cluster, wanted, "NetworkPolicy", "ConfigMap", "Deployment", "PodDisruptionBudget"
            )
            _wait(cluster, wanted, "Deployment")  # the balancers stay as they are until then
            _apply(cluster, wanted, "DaemonSet")
        _wait(cluster, wanted, "Deployment", "DaemonSet", lab=lab)
        if found:
            _prune(cluster, wanted)
        moved = _spread(cluster, wanted)
        if moved:
            _wait(cluster, wanted, "Deployment", lab=lab)
        value = _deployed(cluster, pushed, found)
        left = engine.settings(_differences(cluster, wanted), again=f"{cluster.kubectl} get all")
        held = (*_checks(lab, cluster, wanted, value), left)
    return Outcome(
        value=value,
        subject=lab.name,
        changed=bool(found or pushed or moved),
        summary=_summary(value),
        checks=held,
        tables=(_pods(value), _nodes(value)),
    )


@action("kubernetes.plan")
def plan(lab: Lab, kubeconfig: Path | None = None, context: str | None = None) -> Outcome[Deployed]:
    """Says what :func:`up` would change on the cluster, by its own dry run; changes nothing. The table ``plan`` has one row a
    difference."""
    with closing(_cluster(lab, kubeconfig, context)) as cluster:
        wanted = _wanted(lab, cluster, _images(lab, cluster, push=False)[0])
        value = _deployed(cluster, (), tuple(_differences(cluster, wanted)))
    rows = [item.model_dump() for item in value.differences]
    return Outcome(
        value=value,
        subject=lab.name,
        summary=f"{counted(len(rows), 'difference')}."
        if rows
        else "The cluster has what the lab says.",
        tables=(Table.of("plan", "What up would change", rows),) if rows else (),
    )


@action("kubernetes.check")
def check(
    lab: Lab, kubeconfig: Path | None = None, context: str | None = None
) -> Outcome[Deployed]:
    """Looks at the lab on the cluster: nodes, pods, images, pages, names, and confinement from inside.

    A pod runs on each node for a moment, as one of the first site; nothing else changes. The table ``guarantees`` says what is
    kept of what holds on one machine.
    """  # fmt: skip
    with closing(_cluster(lab, kubeconfig, context)) as cluster:
        wanted = _wanted(lab, cluster, _images(lab, cluster, push=False)[0])
        value = _deployed(cluster, (), tuple(_differences(cluster, wanted)))
        seen = _look(lab, cluster, wanted, value) if not value.differences else {}
        kept = guarantees.of_kubernetes(lab)
        found = (
            *_checks(lab, cluster, wanted, value),
            engine.settings(value.differences, again=f"{cluster.kubectl} get all"),
            *engine.confined(kept, seen, privileges=True, again=f"{cluster.kubectl} describe node"),
            *checks.distribution(lab, [node.address for node in value.nodes if node.answers]),
        )
    return Outcome(
        value=value,
        subject=lab.name,
        summary=_summary(value),
        checks=found,
        tables=(_pods(value), _nodes(value), engine.table(kept, seen, privileges=True)),
    )


@action("kubernetes.down")
def down(lab: Lab, kubeconfig: Path | None = None, context: str | None = None) -> Outcome[str]:
    """Removes the lab's namespace on the cluster with all that is in it, and the lab's own registry; waits until it is gone."""
    with closing(_cluster(lab, kubeconfig, context)) as cluster, lock(lab.run_dir, "kubernetes"):
        there = cluster.remove()
        stopped = registry.stop(lab)
    return Outcome(
        value=lab.name,
        subject=lab.name,
        changed=there or stopped,
        summary="Nothing of the lab is left on the cluster."
        if there
        else "The cluster had nothing of the lab.",
    )


def _cluster(lab: Lab, kubeconfig: Path | None, context: str | None) -> Cluster:
    return Cluster(lab, kubeconfig, context or lab.engine.context, balancer_config.identity(lab))


def _images(lab: Lab, cluster: Cluster, *, push: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    """The references of the lab's images, and the tags that the registry did not have."""
    nodes = cluster.nodes()
    if not nodes:
        raise EngineError(
            cluster.host, "the cluster has no node that takes pods", "add a node, or remove its taints", f"{cluster.kubectl} describe nodes",
        )  # fmt: skip
    where = registry.of(lab, nodes[0].address, serving=push)
    return registry.references(lab, where, deployment.images(lab), push=push)


def _wanted(lab: Lab, cluster: Cluster, images: Mapping[str, str]) -> Wanted:
    """What the lab asks for; the balancer finds the replicas by their Services' addresses."""
    there = {
        name: item["spec"]["clusterIP"]
        for (kind, name), item in cluster.objects().items()
        if kind == "Service"
    }
    nodes = [node.address for node in cluster.nodes()]
    whole = deployment.of(
        lab, images, nodes, lambda one: there.get(one.name) or manifests.address(one)
    )
    found = [manifests.adapted(item, cluster.minor) for item in manifests.objects(whole, nodes)]
    return Wanted(whole, found)


def _differences(cluster: Cluster, wanted: Wanted) -> Iterator[Difference]:
    """What the cluster does not have, has otherwise (by its own dry run), or has besides."""
    there = cluster.objects()
    if space := cluster.namespace():
        there["Namespace", cluster.lab.name] = space
    for item in wanted.objects:
        key = (item["kind"], item["metadata"]["name"])
        seen = there.pop(key, None)
        if seen is None:
            yield Difference(what=" ".join(key), key="", wanted="there", seen="absent")
            continue
        seen = {"apiVersion": item["apiVersion"], "kind": item["kind"], **seen}
        for name, one, other in manifests.differences(cluster.apply(item, dry=True), seen):
            yield Difference(what=" ".join(key), key=name, wanted=one, seen=other)
    for key in there:
        yield Difference(what=" ".join(key), key="", wanted="absent", seen="there")


def _apply(cluster: Cluster, wanted: Wanted, *kinds: str) -> None:
    for item in wanted.objects:
        if item["kind"] in kinds:
            cluster.apply(item)


def _prune(cluster: Cluster, wanted: Wanted) -> None:
    """Removes what is not wanted any more, now that the balancer leads there no more."""
    own = {(item["kind"], item["metadata"]["name"]) for item in wanted.objects}
    for kind, name in cluster.objects().keys() - own:
        cluster.delete(kind, name)


def _wait(cluster: Cluster, wanted: Wanted, *kinds: str, lab: Lab | None = None) -> None:
    """Waits until each pod of these kinds is ready by the wanted template and no other serves, and, of a ``lab``, every replica
    answers on every node."""
    began, troubled = time.monotonic(), dict[str, float]()
    while (problem := _problem(cluster, wanted, kinds, lab)).text:
        now = time.monotonic()
        troubled = {problem.owner: troubled.get(problem.owner, now)} if problem.error else {}
        if now - troubled.get(problem.owner, now) > TROUBLE:
            raise _failed(cluster, problem)
        if now - began > PATIENCE:
            said = cluster.warning(problem.owner) if problem.owner else ""
            raise EngineError(
                problem.owner or cluster.lab.name, f"{problem.text}, after {PATIENCE:g} s{': ' + said if said else ''}", "correct what it names, and call this again",
                f"{cluster.kubectl} get pods,events", code="farm.engine-stuck",
            )  # fmt: skip
        cancellation.pause(0.3)


def _problem(cluster: Cluster, wanted: Wanted, kinds: Sequence[str], lab: Lab | None) -> Problem:
    """What is still missing."""
    pods, there = cluster.pods(), cluster.objects()
    nodes = {node.name: node.address for node in cluster.nodes() if node.answers}
    for kind, name, template in wanted.workloads(kinds):
        own = [
            pod for pod in pods if pod.owner == name and not pod.ending and pod.node in ("", *nodes)
        ]
        new = [pod for pod in own if pod.template == template]
        right = [pod for pod in new if pod.ready]
        asked = len(nodes) if kind == "DaemonSet" else 1
        if len(right) < asked or len(own) > len(right):
            error = next((pod.error for pod in new if pod.error), "")
            return Problem(
                text=f"{name}: {len(right)} of {counted(asked, 'pod')} ready{', and one of before' if len(own) > len(new) else ''}",
                owner=name, error=error or api.stopped(there.get((kind, name), {})), pods=tuple(pod.name for pod in new),
            )  # fmt: skip
    return Problem(text=checks.unanswered(lab, [*nodes.values()]) if lab else "")


def _failed(cluster: Cluster, problem: Problem) -> EngineError:
    """The error of a replica or service whose pods do not start, in the engine's and their own words."""
    lines: list[str] = []
    for pod in problem.pods:
        with suppress(EngineError):  # it has not begun
            lines += cluster.logs(pod, previous=True) or cluster.logs(pod)
    said = f"; it said: {excerpt(chr(10).join(lines[-20:]))}" if lines else ""
    return EngineError(
        problem.owner, f"does not start: {problem.error}{said}", "correct what it names, and call this again; the pods of before serve until then",
        f"{cluster.kubectl} get pods,events", code="farm.engine-failing",
    )  # fmt: skip


def _spread(cluster: Cluster, wanted: Wanted) -> bool:
    """Deals out again the sites whose pods are all on one node while there are several; whether there was one."""
    several = sum(node.ready for node in cluster.nodes()) > 1
    pods, moved = [pod for pod in cluster.pods() if pod.ready and not pod.ending], False
    for item in wanted.deployment.services:
        own = [pod for pod in pods if pod.owner in _owners(item)]
        if (item.replicas or 0) > 1 and several and len({pod.node for pod in own}) == 1:
            cluster.delete("Pod", own[-1].name)
            moved = True
    return moved


def _owners(item: Service) -> set[str]:
    """The owners of a service's pods: its replicas, or itself."""
    return (
        {f"{item.name}-{n}" for n in range(1, item.replicas + 1)} if item.replicas else {item.name}
    )


def _deployed(cluster: Cluster, pushed: tuple[str, ...], found: tuple[Difference, ...]) -> Deployed:
    return Deployed(host=cluster.host, nodes=cluster.nodes(), pods=cluster.pods(), pushed=pushed, differences=found)  # fmt: skip


def _summary(value: Deployed) -> str:
    ready = sum(pod.ready and not pod.ending for pod in value.pods)
    return f"{counted(ready, 'pod')} run on {counted(sum(node.answers for node in value.nodes), 'node')}."


def _look(lab: Lab, cluster: Cluster, wanted: Wanted, value: Deployed) -> dict[str, Inside]:
    """What a pod of the first site finds from inside, on each node, by the node's name."""
    first = _owners(wanted.deployment.services[0])
    sites = {replica.name for replica in lab.farm} - first
    addresses = [pod.address for pod in value.pods if pod.owner in sites and pod.address][:MOST]
    one = next(item for item in wanted.objects if item["kind"] == "Deployment")
    found = cluster.look(one, guarantees.words(addresses), guarantees.END)
    return {node: guarantees.read(lines) for node, lines in found.items()}


def _checks(lab: Lab, cluster: Cluster, wanted: Wanted, value: Deployed) -> tuple[Check, ...]:
    addresses = [node.address for node in value.nodes if node.answers]
    return (
        *(
            equal(f"engine.node.{node.name}", "ready", node.state, again=f"{cluster.kubectl} get nodes")
            for node in value.nodes
        ),
        *(check for item in wanted.deployment.services for check in _service_checks(cluster, item, value)),
        *checks.pages(lab, addresses),
        *checks.names(lab, addresses),
    )  # fmt: skip


def _service_checks(cluster: Cluster, item: Service, value: Deployed) -> Iterator[Check]:
    again = f"{cluster.kubectl} get pods -o wide"
    nodes = sum(node.answers for node in value.nodes)
    own = [pod for pod in value.pods if pod.owner in _owners(item) and pod.ready and not pod.ending]
    asked, digest = item.replicas or nodes, item.image.rpartition("@")[2]
    yield engine.service(item.name, asked, [pod.image for pod in own], digest, again=again)
    if asked > 1 and nodes > 1:
        yield engine.spread(item.name, [pod.node for pod in own], again=again)


def _pods(value: Deployed) -> Table:
    rows = [
        {"replica": pod.owner, "pod": pod.name, "node": pod.node, "ready": pod.ready, "image": pod.image.rpartition("@")[2], "error": pod.error}
        for pod in sorted(value.pods, key=lambda pod: (pod.owner, pod.node, pod.name))
        if not pod.ending
    ]  # fmt: skip
    return Table.of("pods", "The lab's pods on the cluster", rows)


def _nodes(value: Deployed) -> Table:
    return Table.of("nodes", "The cluster's nodes", [node.model_dump() for node in value.nodes])
