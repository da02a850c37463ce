"""A deployment as Kubernetes' objects, in a Kustomize layout. Pure.

Each replica is a Deployment with a Service of its own, so that it keeps its name and address while its pod is replaced; the
balancer and the name server run on every node, behind a Service that leads from each node's address to the node's own pod. All
pods fit the Pod Security Standard *restricted*, which forbids ports of the host.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from labkit.cluster import seccomp
from labkit.cluster.deployment import BALANCER, GRACE, SLOT, Deployment, File, Service
from labkit.model.lab import Replica

Json = dict[str, Any]
#: Where a node's kubelet has the seccomp profile, below /var/lib/kubelet/seccomp.
PROFILE = "labkit.json"
#: Seconds that a pod goes on serving after it was told to end: until every node's kube-proxy has left it out.
LEAVING = 2
#: How long a pod stays on a node that is known not to answer, in seconds: Kubernetes' own default is five minutes.
UNREACHABLE = 3
#: How long a rollout may stand still before the engine says so, in seconds: a node may have to fetch images first.
DEADLINE = 240
#: What the server notes of an object by itself.
COUNTED = (
    "status", "metadata.managedFields", "metadata.resourceVersion", "metadata.generation", "metadata.annotations.deprecated.daemonset.template.generation",
)  # fmt: skip
#: The kinds of objects that a lab has in its namespace: the version of the API, and the word in its addresses.
KINDS = {
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "Service": ("v1", "services"),
    "ConfigMap": ("v1", "configmaps"),
    "Deployment": ("apps/v1", "deployments"),
    "DaemonSet": ("apps/v1", "daemonsets"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
}
#: The labels of a lab's objects: whose they are; and of its pods: whose replica they are, or which service's, and a hash of the
#: template that they were made by.
OWNER, REPLICA, SERVICE, TEMPLATE = (
    "labkit.lab",
    "labkit.replica",
    "labkit.service",
    "labkit.template",
)


def address(replica: Replica) -> str:
    """How the balancer's configuration finds a replica where its Service's address is not known yet: by the variable that the
    kubelet gives to the pods of the namespace. No name has to be resolved."""
    return f"${{{replica.name.upper().replace('-', '_')}_SERVICE_HOST}}"


def version_of(kind: str, minor: int) -> str:
    """The version of the API in which a server of version 1.``minor`` has a kind of object."""
    old = kind == "PodDisruptionBudget" and minor < 21
    return "policy/v1beta1" if old else KINDS[kind][0]


def adapted(item: Json, minor: int) -> Json:
    """An object as a server of version 1.``minor`` takes it: before 1.22, no second pod of a DaemonSet on a node."""
    if item["kind"] == "Namespace":
        return item
    found = {**item, "apiVersion": version_of(item["kind"], minor)}
    if item["kind"] == "DaemonSet" and minor < 22:
        change = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}
        found["spec"] = {**item["spec"], "updateStrategy": change}
    return found


def files(deployment: Deployment, nodes: Sequence[str]) -> dict[str, str]:
    """Path below the folder -> text: ``kubectl apply -k FOLDER`` takes it."""
    parts = {
        "namespace.yaml": [namespace(deployment)],
        **{
            f"{item.name}.yaml": list(objects_of(deployment, item, nodes))
            for item in deployment.services
        },
        "network.yaml": list(network(deployment)),
    }
    return {
        **{name: "---\n".join(map(_text, objects)) for name, objects in parts.items()},
        "kustomization.yaml": _text(
            {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": sorted(parts)}
        ),
        f"nodes/{PROFILE}": json.dumps(seccomp.profile(), indent=1) + "\n",
    }  # fmt: skip


def objects(deployment: Deployment, nodes: Sequence[str]) -> list[Json]:
    """All of the deployment's objects, in the order in which they are to be made."""
    return [
        namespace(deployment),
        *network(deployment),
        *(
            item
            for service in deployment.services
            for item in objects_of(deployment, service, nodes)
        ),
    ]


def namespace(deployment: Deployment) -> Json:
    """The lab's namespace, whose pods have to fit the standard *restricted*."""
    labels = {
        f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "audit", "warn")
    }
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": deployment.name, "labels": {**_owner(deployment), **labels}},
    }


def objects_of(deployment: Deployment, item: Service, nodes: Sequence[str]) -> Iterator[Json]:
    """A service's objects: for a site, Deployment and Service of each replica and a disruption budget; else the files, a
    DaemonSet and a Service at the nodes' addresses."""
    if item.replicas is None:
        yield from _everywhere(deployment, item, nodes)
        return
    for slot in range(1, item.replicas + 1):
        name = f"{item.name}-{slot}"
        labels = {"labkit.site": item.name, REPLICA: name}
        yield _object(
            deployment,
            "v1",
            "Service",
            name,
            {"selector": labels, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        )
        yield _object(deployment, "apps/v1", "Deployment", name, {
            "replicas": 1,
            "progressDeadlineSeconds": DEADLINE,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": labels},
            "template": _pod(item, labels, slot=str(slot), spread={"labkit.site": item.name}),
        })  # fmt: skip
    if item.replicas > 1:
        yield _object(deployment, "policy/v1", "PodDisruptionBudget", item.name, {
            "maxUnavailable": 1, "selector": {"matchLabels": {"labkit.site": item.name}},
        })  # fmt: skip


def _everywhere(deployment: Deployment, item: Service, nodes: Sequence[str]) -> Iterator[Json]:
    labels = {SERVICE: item.name}
    for file in item.files:
        data = {file.path.rpartition("/")[2]: file.text}
        yield {**_object(deployment, "v1", "ConfigMap", _config(item, file)), "data": data}
    yield _object(deployment, "apps/v1", "DaemonSet", item.name, {
        "selector": {"matchLabels": labels},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": _pod(item, labels),
    })  # fmt: skip
    ports = [
        {
            "name": f"{port.protocol}-{port.number}",
            "port": port.number,
            "protocol": port.protocol.upper(),
        }
        for port in item.ports
    ]
    yield _object(deployment, "v1", "Service", item.name, {
        "type": "NodePort", "externalTrafficPolicy": "Local", "selector": labels, "ports": ports, "externalIPs": list(nodes),
    })  # fmt: skip


def network(deployment: Deployment) -> Iterator[Json]:
    """Who may speak to whom: the balancer to the replicas, anybody to the balancer and the name server, and nobody else. It
    needs a network plug-in that enforces policies."""
    sites = {"matchExpressions": [{"key": "labkit.site", "operator": "Exists"}]}
    balancer = {"matchLabels": {SERVICE: BALANCER}}
    web = [{"protocol": "TCP", "port": 80}]
    yield _object(deployment, "networking.k8s.io/v1", "NetworkPolicy", "nothing-else", {
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
    })  # fmt: skip
    yield _object(deployment, "networking.k8s.io/v1", "NetworkPolicy", "replicas", {
        "podSelector": sites, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": balancer}], "ports": web}],
    })  # fmt: skip
    for item in deployment.services:
        if item.replicas is None:
            ports = [
                {"protocol": port.protocol.upper(), "port": port.number} for port in item.ports
            ]
            more = (
                {
                    "policyTypes": ["Ingress", "Egress"],
                    "egress": [{"to": [{"podSelector": sites}], "ports": web}],
                }
                if item.name == BALANCER
                else {"policyTypes": ["Ingress"]}
            )
            yield _object(deployment, "networking.k8s.io/v1", "NetworkPolicy", item.name, {
                "podSelector": {"matchLabels": {SERVICE: item.name}}, "ingress": [{"ports": ports}], **more,
            })  # fmt: skip


def _pod(
    item: Service, labels: Mapping[str, str], *, slot: str = "", spread: Mapping[str, str] | None = None
) -> Json:  # fmt: skip
    gone = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": UNREACHABLE}
        for key in ("not-ready", "unreachable")
    ]  # fmt: skip
    apart = [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": dict(spread)}}
    ] if spread else []  # fmt: skip
    web = item.ports == () or any(
        port.protocol == "tcp" and port.number != 53 for port in item.ports
    )
    template = {
        "metadata": {"labels": dict(labels)},
        "spec": {
            "hostname": item.hostname.replace(SLOT, slot),
            "automountServiceAccountToken": False,
            "enableServiceLinks": item.name == BALANCER,
            "dnsPolicy": "None",  # no pod asks for a name
            "dnsConfig": {"nameservers": ["127.0.0.1"]},
            "terminationGracePeriodSeconds": GRACE,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": item.spec.uid,
                "runAsGroup": item.spec.gid,
                "fsGroup": item.spec.gid,
                "seccompProfile": {"type": "Localhost", "localhostProfile": PROFILE},
                "sysctls": [{"name": name, "value": value} for name, value in item.spec.sysctl.items()],
            },
            "tolerations": gone,
            **({"topologySpreadConstraints": apart} if apart else {}),
            "containers": [
                {
                    "name": item.name,
                    "image": item.image,
                    "command": list(item.args),
                    "env": [{"name": name, "value": value.replace(SLOT, slot)} for name, value in sorted(item.environment.items())],
                    "ports": [
                        {"name": f"{port.protocol}-{port.number}", "containerPort": port.number, "protocol": port.protocol.upper()}
                        for port in item.ports
                    ] or [{"name": "http", "containerPort": 80}],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "resources": {
                        "limits": {"cpu": f"{item.spec.processors:g}", "memory": str(item.spec.memory)},
                        "requests": {"cpu": "10m", "memory": "16Mi"},
                    },
                    **(_probes(item) if web else {}),
                    "volumeMounts": [
                        *({"name": _volume(folder.path), "mountPath": folder.path} for folder in item.folders),
                        *(
                            {"name": file.name, "mountPath": file.path, "subPath": file.path.rpartition("/")[2], "readOnly": True}
                            for file in item.files
                        ),
                    ],
                }
            ],
            "volumes": [
                *({"name": _volume(folder.path), "emptyDir": {"medium": "Memory", "sizeLimit": f"{folder.mib}Mi"}} for folder in item.folders),
                *({"name": file.name, "configMap": {"name": _config(item, file)}} for file in item.files),
            ],
        },
    }  # fmt: skip
    text = json.dumps(template, sort_keys=True)
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {**template, "metadata": {"labels": {**labels, TEMPLATE: mark}}}


def look(deployment: Json, name: str, node: str, command: Sequence[str]) -> Json:
    """A pod that runs a command on a node, as a pod of a replica's Deployment would; it answers for none."""
    template = deployment["spec"]["template"]
    left_out = ("hostname", "topologySpreadConstraints")
    spec = {key: value for key, value in template["spec"].items() if key not in left_out}
    one = template["spec"]["containers"][0]
    container = {key: one[key] for key in one if key not in ("readinessProbe", "lifecycle")}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**deployment["metadata"], "name": name},
        "spec": {
            **spec,
            "nodeName": node,
            "restartPolicy": "Never",
            "containers": [{**container, "command": list(command)}],
        },
    }


def differences(wanted: Any, seen: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, wanted, seen) of two states of an object, at every depth; what the server writes by itself is left out."""
    if path in COUNTED:
        return
    if isinstance(wanted, Mapping) and isinstance(seen, Mapping):
        for key in sorted({*wanted, *seen}):
            yield from differences(wanted.get(key), seen.get(key), f"{path}.{key}" if path else key)
    elif isinstance(wanted, list) and isinstance(seen, list) and len(wanted) == len(seen):
        for number, (one, other) in enumerate(zip(wanted, seen, strict=True)):
            yield from differences(one, other, f"{path}[{number}]")
    elif wanted != seen:
        yield path, json.dumps(wanted, sort_keys=True), json.dumps(seen, sort_keys=True)


def _probes(item: Service) -> Json:
    path = "/?labkit-health" if item.replicas is not None else "/configuration"
    port = item.ports[0].number if item.ports else 80
    return {
        "readinessProbe": {
            "httpGet": {"path": path, "port": port},
            "periodSeconds": 1,
            "failureThreshold": 2,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVING)]}}},
    }


def _object(
    deployment: Deployment, version: str, kind: str, name: str, spec: Json | None = None
) -> Json:
    metadata = {"name": name, "namespace": deployment.name, "labels": _owner(deployment)}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": metadata,
        **({"spec": spec} if spec else {}),
    }


def _owner(deployment: Deployment) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": "labkit", OWNER: deployment.owner}


def _config(item: Service, file: File) -> str:
    return f"{item.name}-{file.name}-{file.hash}"


def _volume(path: str) -> str:
    return path.strip("/").replace("/", "-")


def _text(value: Json) -> str:
    return str(yaml.safe_dump(value, sort_keys=False))
