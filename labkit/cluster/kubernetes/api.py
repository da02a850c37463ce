"""A Kubernetes cluster, asked through its API server: what there is of the lab's, and how it is changed.

Which cluster, and as whom, a kubeconfig says, as it does to kubectl. It is reached from the lab's host side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.dynamic import DynamicClient
from urllib3.exceptions import HTTPError

from labkit import cancellation
from labkit.cluster.engine import EngineError
from labkit.cluster.kubernetes import manifests
from labkit.cluster.kubernetes.manifests import KINDS, OWNER, REPLICA, SERVICE, TEMPLATE, Json
from labkit.errors import ConfigError, StateError, excerpt, typed
from labkit.kernel.netns import inside
from labkit.model.lab import Lab
from labkit.records import Record

#: How long the API server may take to be reached, and for one answer, in seconds.
PATIENCE = (5, 30)
#: How long a look from inside a pod may take, and the end of all of a namespace's, in seconds.
LOOK, GONE = 60, 120
#: Who the server notes as the one that has set a field.
MANAGER = "labkit"
#: Taints of nodes that will go by themselves; with any other one, a node is none of the lab's.
PASSING = "node.kubernetes.io/"
#: The state of a node that does not answer.
AWAY = "not ready"


class Node(Record):
    """A node that takes pods, or will again: its name, address, the kubelet's version, and its state."""

    name: str
    address: str
    version: str
    state: str

    @property
    def ready(self) -> bool:
        """Whether it takes new pods."""
        return self.state == "ready"

    @property
    def answers(self) -> bool:
        """Whether the pods that it has run, and those that every node has."""
        return self.state != AWAY


class Pod(Record):
    """A pod: the replica or service that it belongs to ('' for none), its node, image, and the template that it was made by.
    ``ending`` ones were told to go; ``error`` says why it does not run."""

    name: str
    owner: str
    node: str
    image: str
    template: str
    address: str
    ready: bool
    ending: bool
    error: str


class Cluster:
    """A cluster, as far as one lab is concerned."""

    def __init__(self, lab: Lab, kubeconfig: Path | None, context: str, owner: str) -> None:
        """
        :raises ConfigError: there is no such kubeconfig or context.
        :raises EngineError: no API server answers.
        :raises StateError: the namespace is somebody else's.
        """
        self.lab, self.owner = lab, owner
        options = {"--kubeconfig": str(kubeconfig or ""), "--context": context}
        words = [word for option, value in options.items() if value for word in (option, value)]
        self.kubectl = typed(["kubectl", *words, "--namespace", lab.name])
        try:
            self._api = self._connected(kubeconfig, context)
        except (ConfigException, OSError, ValueError) as error:
            raise ConfigError(
                " ".join(words) or "the usual kubeconfig", f"names no cluster: {error}", "name one that kubectl knows: --kubeconfig FILE, --context NAME",
                "kubectl config get-contexts", code="config.engine-context",
            ) from None  # fmt: skip
        self.host: str = self._api.configuration.host
        version = (self._ask("GET", "/version") or {}).get("minor", "")
        if not version:
            raise self._silent("what answers there is no API server")
        self.minor = int("".join(filter(str.isdigit, version)))
        there = self.namespace()
        if there and there["metadata"].get("labels", {}).get(OWNER) != owner:
            raise StateError(
                f"namespace {lab.name}", "exists on the cluster, and is not this lab's", "choose another name: --set name=NAME",
                f"{self.kubectl} get namespace {lab.name} --show-labels", code="state.not-own",
            )  # fmt: skip

    def _connected(self, kubeconfig: Path | None, context: str) -> DynamicClient:
        options = Configuration()
        options.retries = False
        config.load_kube_config(  # type: ignore[no-untyped-call]
            str(kubeconfig) if kubeconfig else None, context or None, options, persist_config=False
        )
        # Without the client's discovery, which keeps a file of a known name in /tmp: the kinds are known here.
        return DynamicClient(ApiClient(options), discoverer=lambda *_: None)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Ends the connection."""
        self._api.client.rest_client.close()

    def _ask(self, method: str, path: str, body: Json | None = None, **more: object) -> Any:
        """What the server answers; None where it is asked for what there is not, or to delete it."""
        text = self._text(method, path, body, **more)
        try:
            return json.loads(text or "null")
        except ValueError:
            raise self._silent("what answers there is no API server") from None

    def _text(self, method: str, path: str, body: Json | None = None, **more: object) -> str | None:
        try:
            answer = inside(
                self.lab.netns, self._api.request, method, path, body, serialize=False, _request_timeout=PATIENCE, **more
            )  # fmt: skip
            return str(answer.data.decode(errors="replace"))
        except ApiException as error:
            if error.status == 404 and method in ("GET", "DELETE"):
                return None
            raise self._refusal(f"{method} {path}", error) from None
        except (HTTPError, OSError) as error:
            raise self._silent(f"no API server answers there: {excerpt(str(error))}") from None

    def _silent(self, reason: str) -> EngineError:
        return EngineError(
            self.host, reason, "start the cluster, or name another: --context NAME", f"{self.kubectl} version", code="farm.engine-silent",
        )  # fmt: skip

    def _refusal(self, asked: str, error: ApiException) -> EngineError:
        try:
            said = json.loads(error.body or "")["message"]
        except (ValueError, TypeError, KeyError):
            said = str(error.body or error.reason)
        if error.status in (401, 403):
            return EngineError(
                asked, f"is not allowed: {said}", "use a context that may do it: --context NAME",
                f"{self.kubectl} auth can-i --list", code="farm.engine-rights",
            )  # fmt: skip
        return EngineError(asked, f"the engine refuses: {said}", "correct what its words name", f"{self.kubectl} version")  # fmt: skip

    # -- what there is ------------------------------------------------------------------------

    def _path(self, kind: str, name: str = "") -> str:
        if kind == "Namespace":
            return f"/api/v1/namespaces/{name}"
        words = "pods" if kind == "Pod" else KINDS[kind][1]
        version = "v1" if kind == "Pod" else manifests.version_of(kind, self.minor)
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        return f"{root}/namespaces/{self.lab.name}/{words}/{name}".rstrip("/")

    def namespace(self) -> Json | None:
        """The namespace of the lab's name, None where there is none."""
        found: Json | None = self._ask("GET", self._path("Namespace", self.lab.name))
        return found

    def nodes(self) -> tuple[Node, ...]:
        """The nodes that take the lab's pods, or will again, in the order of their names."""
        found = (_node(item) for item in self._ask("GET", "/api/v1/nodes")["items"])
        return tuple(sorted(filter(None, found), key=lambda node: node.name))

    def pods(self) -> tuple[Pod, ...]:
        """All pods of the lab's namespace."""
        return tuple(_pod(item) for item in self._ask("GET", self._path("Pod"))["items"])

    def objects(self) -> dict[tuple[str, str], Json]:
        """The lab's objects in its namespace, by kind and name."""
        mine = f"{OWNER}={self.owner}"
        return {
            (kind, item["metadata"]["name"]): item
            for kind in KINDS
            for item in self._ask("GET", self._path(kind), label_selector=mine)["items"]
        }

    def warning(self, owner: str) -> str:
        """The last warning that the engine gave about a replica or a service, '' for none."""
        found = self._ask("GET", self._path("Pod").replace("/pods", "/events"), field_selector="type=Warning")  # fmt: skip
        about = [
            item for item in found["items"] if item["involvedObject"]["name"].startswith(owner)
        ]
        last = max(about, key=lambda item: item.get("lastTimestamp") or "", default=None)
        return f"{last['reason']}: {last['message']}" if last else ""

    def logs(self, pod: str, *, previous: bool = False) -> list[str]:
        """The lines that a pod's container has written; ``previous``: the container before it."""
        query = [("previous", "true")] if previous else []
        text = self._text("GET", f"{self._path('Pod', pod)}/log", query_params=query, header_params={"Accept": "*/*"})  # fmt: skip
        return (text or "").splitlines()

    # -- changing it --------------------------------------------------------------------------

    def apply(self, item: Json, *, dry: bool = False) -> Json:
        """Makes an object what it is to be, by server-side apply (``dry``: only says what it would be); returns it."""
        metadata = item["metadata"]
        found: Json = self._ask(
            "PATCH", self._path(item["kind"], metadata["name"]), item, content_type="application/apply-patch+yaml",
            field_manager=MANAGER, force_conflicts=True, dry_run="All" if dry else None,
        )  # fmt: skip
        return found

    def delete(self, kind: str, name: str, *, grace: int | None = None) -> None:
        """Removes an object and what it has made; its pods end by themselves (``grace``: after so many seconds)."""
        self._ask("DELETE", self._path(kind, name), propagation_policy="Background", grace_period_seconds=grace)  # fmt: skip

    def look(self, deployment: Json, command: Sequence[str], end: str) -> dict[str, list[str]]:
        """Runs a command on each node, as a pod of a Deployment's would, until it has written the line ``end`` there; the lines
        that it wrote on each, by the node's name.

        :raises EngineError: it does not come to its end in time.
        """
        nodes = {f"look-{node.name}": node.name for node in self.nodes() if node.answers}
        found: dict[str, list[str]] = {}
        why = ""

        def ended() -> bool:
            nonlocal why
            try:
                found.update({node: self.logs(pod) for pod, node in nodes.items()})
            except EngineError as error:  # it has not begun
                why = error.reason
            return all(end in found.get(node, ()) for node in nodes.values())

        self._unlook(nodes)
        try:
            for pod, node in nodes.items():
                self._ask("POST", self._path("Pod"), manifests.look(deployment, pod, node, command))
            if not cancellation.until(ended, LOOK):
                said = {pod.error for pod in self.pods() if pod.name in nodes and pod.error}
                raise EngineError(
                    ", ".join(nodes), f"have not ended after {LOOK} s: {'; '.join(said) or why}", "correct what it names", f"{self.kubectl} get pods",
                )  # fmt: skip
        finally:
            self._unlook(nodes)
        return found

    def _unlook(self, pods: Mapping[str, str]) -> None:
        for pod in pods:
            self.delete("Pod", pod, grace=0)

    def remove(self) -> bool:
        """Removes the lab's objects and its namespace, and waits until all is gone; whether there was a namespace."""
        if not self.namespace():
            return False
        for kind, name in self.objects():
            self.delete(kind, name)
        cancellation.until(
            self._no_pods, GONE
        )  # the engine looks ever more seldom at a namespace that is not empty
        self.delete("Namespace", self.lab.name)
        if not cancellation.until(lambda: self._no_pods() and not self.namespace(), GONE):
            there = (self.namespace() or {}).get("status", {}).get("conditions", ())
            left = [item["message"] for item in there if item["status"] == "True"]
            raise EngineError(
                f"namespace {self.lab.name}", f"is not gone after {GONE} s: {'; '.join(left)}", "call this again", f"{self.kubectl} get all",
            )  # fmt: skip
        return True

    def _no_pods(self) -> bool:
        """Whether no pod is left; one on a node that does not answer is given up, for it would be there for ever."""
        pods, answering = self.pods(), {node.name for node in self.nodes() if node.answers}
        for pod in pods:
            if pod.ending and pod.node not in answering:
                self.delete("Pod", pod.name, grace=0)
        return not pods


def _node(item: Json) -> Node | None:
    """A node in short; None for one that the lab's pods do not fit, such as a control plane's."""
    spec, status = item["spec"], item["status"]
    taints = [taint for taint in spec.get("taints", ()) if taint["effect"] != "PreferNoSchedule"]
    addresses = [one["address"] for one in status["addresses"] if one["type"] == "InternalIP"]
    address = next(filter(_is_ipv4, addresses), "")
    if not address or any(not taint["key"].startswith(PASSING) for taint in taints):
        return None
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status["conditions"])
    state = "ready" if ready else AWAY
    if ready and taints:
        state = ", ".join(taint["key"].removeprefix(PASSING) for taint in taints)
    return Node(
        name=item["metadata"]["name"], address=address, version=status["nodeInfo"]["kubeletVersion"], state=state,
    )  # fmt: skip


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def _pod(item: Json) -> Pod:
    metadata, spec, status = item["metadata"], item["spec"], item["status"]
    labels = metadata.get("labels", {})
    conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
    return Pod(
        name=metadata["name"],
        owner=labels.get(REPLICA) or labels.get(SERVICE, ""),
        node=spec.get("nodeName", ""),
        image=next((one["imageID"] for one in status.get("containerStatuses", ())), ""),
        template=labels.get(TEMPLATE, ""),
        address=status.get("podIP", ""),
        ready=conditions.get("Ready") == "True",
        ending="deletionTimestamp" in metadata,
        error="; ".join(errors(status)),
    )


def errors(status: Json) -> Iterator[str]:
    """Why a pod does not run, in the engine's words. Pure."""
    for one in status.get("conditions", ()):
        if one["type"] == "PodScheduled" and one["status"] == "False":
            yield f"{one.get('reason', '')}: {one.get('message', '')}"
    if status.get("phase") == "Failed":
        yield f"{status.get('reason', 'Failed')}: {status.get('message', '')}"
    for one in status.get("containerStatuses", ()):
        waiting = one.get("state", {}).get("waiting", {})
        if waiting.get("reason", "ContainerCreating") not in (
            "ContainerCreating",
            "PodInitializing",
        ):
            yield f"{waiting['reason']}: {waiting.get('message', '')}"
        ended = one.get("lastState", {}).get("terminated") or one.get("state", {}).get("terminated")
        if ended and not one["ready"]:
            yield f"ended with exit status {ended['exitCode']} ({ended.get('reason', '')}), {one['restartCount']} times"


def stopped(deployment: Json) -> str:
    """Why the engine goes on no more with a Deployment, '' while it does. Pure."""
    for one in deployment.get("status", {}).get("conditions", ()):
        if (one["type"], one["status"]) in (("Progressing", "False"), ("ReplicaFailure", "True")):
            return f"{one['reason']}: {one['message']}"
    return ""
