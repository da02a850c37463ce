"""Writes the files by which another engine deploys a lab, and says what of its guarantees is lost there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from labkit.cluster import deployment, guarantees
from labkit.cluster import swarm as engine
from labkit.cluster.deployment import Deployment
from labkit.cluster.kubernetes import manifests
from labkit.cluster.registry import Registry
from labkit.cluster.swarm import stack
from labkit.core.files import write_atomically
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted
from labkit.errors import ConfigError, StateError
from labkit.model.lab import Lab, Replica

__all__ = ["kubernetes", "swarm"]

#: The file that says what is kept and what is not; a folder with it is one of an export's.
LOST = "LOST.md"


@action("export.swarm")
def swarm(
    lab: Lab, folder: Path, nodes: Sequence[str] = (), host: str | None = None
) -> Outcome[tuple[Path, ...]]:
    """Writes the lab as a Docker stack: ``docker stack deploy -c FOLDER/stack.yml LAB`` deploys it.

    :param folder: is made; the files of an earlier export there are written anew, others stay; a folder with other files alone is refused.
    :param nodes: the nodes' addresses, to which the lab's names lead; default: those of the swarm, else nowhere.
    :param host: a manager of the swarm on which the lab runs: LOST.md then says what was seen there from inside.
    :return: the files' paths: the stack, its configs, the nodes' settings (daemon.json, seccomp profiles), LOST.md.

    Example: ``export.swarm(lab, Path("stack"), ["10.0.0.1", "10.0.0.2"])``
    """
    rows, registry = guarantees.table(guarantees.of(lab), None, privileges=False), None
    if host or lab.engine.host:
        seen = engine.check(lab, host)
        rows = seen.frames["guarantees"].to_dict("records")
        nodes = nodes or [node.address for node in seen.value.nodes]
        registry = engine.registry_of(lab, seen.value.nodes, start=False)
    registry = registry or _registry(lab)
    return _written(
        lab, folder, stack.files(_deployment(lab, nodes, registry), registry.insecure), rows
    )


@action("export.kubernetes")
def kubernetes(lab: Lab, folder: Path, nodes: Sequence[str] = ()) -> Outcome[tuple[Path, ...]]:
    """Writes the lab as Kubernetes' objects: ``kubectl apply -k FOLDER`` makes them.

    :param folder: is made; the files of an earlier export there are written anew, others stay; a folder with other files alone is refused.
    :param nodes: the nodes' addresses, at which the balancer and the name server answer.

    Example: ``export.kubernetes(lab, Path("lab"), ["10.0.0.1"])``
    """
    rows = guarantees.table(guarantees.of_kubernetes(lab), None, privileges=False)
    wanted = _deployment(lab, nodes, _registry(lab), manifests.address)
    return _written(lab, folder, manifests.files(wanted, nodes), rows)


def _deployment(
    lab: Lab, nodes: Sequence[str], registry: Registry, address: Callable[[Replica], str] = deployment.by_name
) -> Deployment:  # fmt: skip
    for node in nodes:
        try:
            IPv4Address(node)
        except ValueError:
            raise ConfigError(f"--node {node}", "is not an IPv4 address", "write it like 10.0.0.1", code="config.node") from None  # fmt: skip
    digests = deployment.images(lab)
    images = {tag: registry.reference(tag, digest) for tag, (_, digest) in digests.items()}
    return deployment.of(lab, images, nodes, address)


def _registry(lab: Lab) -> Registry:
    if not lab.engine.registry:
        raise ConfigError(
            "engine.registry = ''",
            "an export has to say where the nodes find the images",
            "name a registry: --set engine.registry=HOST:PORT",
            code="config.engine-registry",
        )
    return Registry.named(lab)


def _written(
    lab: Lab, folder: Path, files: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
) -> Outcome[tuple[Path, ...]]:  # fmt: skip
    if folder.exists() and any(folder.iterdir()) and not (folder / LOST).exists():
        raise StateError(
            str(folder), "has files that no export wrote", "name an empty or a new folder", f"ls {folder}", code="state.not-own",
        )  # fmt: skip
    texts = {**files, LOST: lost(lab, rows)}
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return Outcome(
        value=tuple(folder / name for name in texts),
        subject=str(folder),
        changed=True,
        summary=f"{counted(len(texts), 'file')} in {folder}; {LOST} says what is kept.",
        tables=(
            Table.of(
                "guarantees", "What is kept of a replica's confinement, and what is not", rows
            ),
        ),
    )


def lost(lab: Lab, rows: Sequence[Mapping[str, str]]) -> str:
    """LOST.md: a line a guarantee. Pure."""
    heads = list(rows[0])
    lines = [f"| {' | '.join(row[head] for head in heads)} |" for row in rows]
    return "\n".join([
        f"# What lab {lab.name} keeps here of what it guarantees on one machine",
        "",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
        *lines,
        "",
    ])  # fmt: skip
