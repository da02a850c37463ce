"""The files by which Docker itself deploys a lab: a stack (compose 3.9), the daemons' settings, and what they need. Pure.

A stack can say less than the Engine API (:mod:`labkit.cluster.swarm.spec`): no seccomp profile, no no-new-privileges. The
folder has the settings of the nodes' daemons by which they give both to every container.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from labkit.cluster import seccomp
from labkit.cluster.deployment import GRACE, MIB, Deployment, Service
from labkit.cluster.swarm import spec

#: The names of the seccomp profiles' files: Docker before 23 ignores the errno of a profile's default.
PROFILES = {"seccomp.json": True, "seccomp-docker20.json": False}
#: Where a node has the profile.
PROFILE = "/etc/docker/labkit-seccomp.json"


def files(deployment: Deployment, registry: str) -> dict[str, str]:
    """Path below the folder -> text; ``registry`` is the host from which the nodes pull without TLS ('' for none)."""
    own = {file.name: file for item in deployment.services for file in item.files}
    return {
        "stack.yml": json.dumps(stack(deployment), indent=1) + "\n",
        **{f"configs/{name}": file.text for name, file in own.items()},
        "nodes/daemon.json": json.dumps(daemon(registry), indent=1) + "\n",
        **{f"nodes/{name}": profile_text(whole=whole) for name, whole in PROFILES.items()},
    }


def profile_text(*, whole: bool) -> str:
    """The file of a seccomp profile; not ``whole`` for a Docker before 23."""
    return json.dumps(seccomp.profile(errno_of_default=whole), indent=1) + "\n"


def daemon(registry: str = "") -> dict[str, Any]:
    """daemon.json of every node: what a stack cannot say of its containers."""
    return {
        **({"insecure-registries": [registry]} if registry else {}),
        "seccomp-profile": PROFILE,
        "no-new-privileges": True,
        "userns-remap": "default",
    }


def stack(deployment: Deployment) -> dict[str, Any]:
    """The stack as compose 3.9 (JSON is YAML)."""
    return {
        "version": "3.9",
        "services": {item.name: _service(deployment, item) for item in deployment.services},
        "networks": {
            name: {"driver": "overlay", **({"internal": True} if inside else {})}
            for name, inside in deployment.networks.items()
        },
        "configs": {
            file.name: {
                "name": spec.config_name(deployment, file),
                "file": f"./configs/{file.name}",
            }
            for item in deployment.services
            for file in item.files
        },
    }


def _service(deployment: Deployment, item: Service) -> dict[str, Any]:
    limits = {
        "cpus": f"{item.spec.processors:g}",
        "memory": str(item.spec.memory),
        "pids": item.spec.pids,
    }
    change = {
        "parallelism": max(1, (item.replicas or 1) // spec.PART),
        "order": "stop-first",
        "failure_action": "rollback",
        "monitor": f"{spec.MONITOR}s",
    }
    many: Mapping[str, Any] = (
        {"mode": "global"} if item.replicas is None else {"replicas": item.replicas}
    )
    return {
        "image": item.image,
        "command": list(item.args),
        "hostname": spec.slotted(item.hostname),
        "environment": {name: spec.slotted(value) for name, value in item.environment.items()},
        "user": f"{item.spec.uid}:{item.spec.gid}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "init": False,
        "stop_grace_period": f"{GRACE}s",
        "sysctls": dict(item.spec.sysctl),
        "ulimits": {"core": 0, "fsize": item.spec.size, "nofile": item.spec.files},
        "volumes": [
            {"type": "tmpfs", "target": folder.path, "tmpfs": {"size": folder.mib * MIB}}
            for folder in item.folders
        ],
        "configs": [
            {"source": file.name, "target": file.path, "mode": 0o444} for file in item.files
        ],
        "networks": list(item.networks),
        "ports": [
            {
                "target": port.number,
                "published": port.number,
                "protocol": port.protocol,
                "mode": "host",
            }
            for port in item.ports
        ],
        "deploy": {
            **many,
            "labels": {spec.OWNER: deployment.owner},
            "endpoint_mode": "dnsrr",
            "resources": {"limits": limits},
            "restart_policy": {"condition": "any", "delay": "0s"},
            "update_config": change,
            "rollback_config": {"parallelism": 1, "order": "stop-first"},
        },
    }
