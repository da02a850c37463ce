"""A deployment in the words of Docker's Engine API (services, networks, configs), and what of it differs from what runs. Pure.

The names are those of a stack that ``docker stack deploy`` would make: ``docker stack services LAB`` lists them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from labkit.cluster import seccomp
from labkit.cluster.deployment import GRACE, MIB, SLOT, Deployment, File, Service

Json = Mapping[str, Any]
#: The labels of everything that labkit makes on an engine: the stack, and whose it is.
STACK, OWNER = "com.docker.stack.namespace", "labkit.lab"
SECOND = 10**9
#: How much of a task's output a node keeps, twice.
LOG = "8m"
#: How long a new task is watched before the next is replaced, in seconds.
MONITOR = 5
#: The addresses of a network that no task gets: its own, the last, and the gateway's. Each node takes two more: its balancer's,
#: and one for the network itself (seen by docker network inspect on a node).
TAKEN = 3
#: An update replaces this part of a service's tasks at a time: a fifth, but always one.
PART = 5


def full_name(deployment: Deployment, name: str) -> str:
    """The name of a service or network of the stack on the engine."""
    return f"{deployment.name}_{name}"


def config_name(deployment: Deployment, file: File) -> str:
    """The name of a file's config on the engine; a changed file is another config."""
    return f"{deployment.name}_{file.name}-{file.hash}"


def labels(deployment: Deployment) -> dict[str, str]:
    """The labels of all that belongs to the deployment."""
    return {STACK: deployment.name, OWNER: deployment.owner}


def network(deployment: Deployment, name: str) -> dict[str, Any]:
    """A network as ``POST /networks/create`` takes it."""
    return {
        "Name": full_name(deployment, name),
        "Driver": "overlay",
        "Internal": deployment.networks[name],
        "CheckDuplicate": True,
        "Labels": labels(deployment),
    }


def service(
    deployment: Deployment,
    item: Service,
    *,
    networks: Mapping[str, str],
    configs: Mapping[str, str],
    nodes: int,
    privileges: Json | None = None,
) -> dict[str, Any]:
    """A service as ``POST /services/create`` takes it.

    :param networks: the id of each network, by its name on the engine; ``configs`` likewise.
    :param nodes: how many nodes there are: with more of them than replicas, a new task starts before the old one stops.
    :param privileges: ``ContainerSpec.Privileges``, from API 1.44 on.
    """
    first = item.replicas is not None and nodes > item.replicas
    change = {
        "Parallelism": max(1, (item.replicas or nodes) // PART),
        "Order": "start-first" if first else "stop-first",
        "FailureAction": "rollback",
        "Monitor": MONITOR * SECOND,
    }
    return {
        "Name": full_name(deployment, item.name),
        "Labels": labels(deployment),
        "Mode": {"Global": {}} if item.replicas is None else {"Replicated": {"Replicas": item.replicas}},
        "UpdateConfig": change,
        "RollbackConfig": {**change, "FailureAction": "pause"},
        "EndpointSpec": {"Mode": "dnsrr", **_ports(item)},
        "TaskTemplate": {
            "ContainerSpec": {**_container(deployment, item, configs), **({"Privileges": privileges} if privileges else {})},
            "Resources": {
                "Limits": {"NanoCPUs": int(item.spec.processors * SECOND), "MemoryBytes": item.spec.memory, "Pids": item.spec.pids}
            },
            "RestartPolicy": {"Condition": "any", "Delay": 0},
            "LogDriver": {"Name": "json-file", "Options": {"max-size": LOG, "max-file": "2"}},
            "Networks": [{"Target": networks[full_name(deployment, name)]} for name in item.networks],
        },
    }  # fmt: skip


def most_replicas(prefix: int, nodes: int) -> int:
    """How many replicas a site's network has addresses for. Pure.

    :param prefix: the length of the prefix that the swarm gives a new network; Docker's default is 24.
    """
    return int(2 ** (32 - prefix)) - TAKEN - 2 * nodes


def look(service: Json, name: str, command: Sequence[str]) -> dict[str, Any]:
    """A service that runs a command on each node, as a task of another service. Pure."""
    template = {**service["TaskTemplate"], "RestartPolicy": {"Condition": "none"}}
    template["ContainerSpec"] = {
        **template["ContainerSpec"],
        "Command": list(command),
        "Hostname": "look",
        "StopGracePeriod": 0,
    }
    return {
        "Name": name,
        "Labels": service["Labels"],
        "Mode": {"Global": {}},
        "UpdateConfig": None,
        "RollbackConfig": None,
        "EndpointSpec": {"Mode": "dnsrr"},
        "TaskTemplate": template,
    }


def _ports(item: Service) -> dict[str, Any]:
    ports = [
        {"Protocol": port.protocol, "TargetPort": port.number, "PublishedPort": port.number, "PublishMode": "host"}
        for port in item.ports
    ]  # fmt: skip
    return {"Ports": ports} if ports else {}


def _container(deployment: Deployment, item: Service, configs: Mapping[str, str]) -> dict[str, Any]:
    user = f"{item.spec.uid}:{item.spec.gid}"
    names = [config_name(deployment, file) for file in item.files]
    return {
        "Image": item.image,
        "Labels": labels(deployment),
        "Command": list(item.args),
        "Env": sorted(f"{name}={slotted(value)}" for name, value in item.environment.items()),
        "Hostname": slotted(item.hostname),
        "User": user,
        "ReadOnly": True,
        "Init": False,
        "CapabilityDrop": ["ALL"],
        "StopGracePeriod": GRACE * SECOND,
        "Sysctls": dict(item.spec.sysctl),
        "Ulimits": [
            {"Name": name, "Soft": value, "Hard": value}
            for name, value in (("core", 0), ("fsize", item.spec.size), ("nofile", item.spec.files))
        ],
        # In memory, and gone with the task; whose they are a mount cannot say, so that whoever is in the container may write.
        "Mounts": [
            {"Type": "tmpfs", "Target": folder.path, "TmpfsOptions": {"SizeBytes": folder.mib * MIB, "Mode": 0o1777}}
            for folder in item.folders
        ],
        "Configs": [
            {
                "ConfigID": configs[name],
                "ConfigName": name,
                "File": {"Name": file.path, "UID": "0", "GID": "0", "Mode": 0o444},
            }
            for name, file in zip(names, item.files, strict=True)
        ],
    }  # fmt: skip


def privileges() -> dict[str, Any]:
    """``ContainerSpec.Privileges``: a replica's seccomp profile, and no new privileges."""
    profile = json.dumps(seccomp.profile()).encode()
    return {
        "NoNewPrivileges": True,
        "Seccomp": {"Mode": "custom", "Profile": base64.b64encode(profile).decode()},
    }


def slotted(text: str) -> str:
    """A text with the task's number in it, as Swarm's templates write it."""
    return text.replace(SLOT, "{{.Task.Slot}}")


def differences(wanted: Any, seen: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, wanted, seen) of what is asked for and is not so; what the engine adds by itself is no difference."""
    if isinstance(wanted, Mapping) and isinstance(seen, Mapping):
        for key, value in wanted.items():
            yield from differences(value, seen.get(key), f"{path}.{key}" if path else key)
    elif isinstance(wanted, list) and isinstance(seen, list) and len(wanted) == len(seen):
        for number, (one, other) in enumerate(zip(wanted, seen, strict=True)):
            yield from differences(one, other, f"{path}[{number}]")
    elif wanted != seen and (wanted or seen):
        yield path, json.dumps(wanted, sort_keys=True), json.dumps(seen, sort_keys=True)
