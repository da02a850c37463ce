"""A lab on Docker Swarm: brought up, compared, checked and taken down."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from labkit import cancellation
from labkit.checks import Check, equal
from labkit.cluster import checks, deployment, engine, guarantees, registry
from labkit.cluster.deployment import Deployment, Service
from labkit.cluster.engine import Difference, EngineError
from labkit.cluster.guarantees import Inside
from labkit.cluster.registry import Registry
from labkit.cluster.swarm import spec
from labkit.cluster.swarm.engine import Manager, Node, Task
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted
from labkit.errors import ConfigError, excerpt
from labkit.farm.services import balancer_config
from labkit.model.lab import Lab
from labkit.records import Record

__all__ = ["check", "down", "plan", "up"]

#: How long all tasks may take to run, from the order on, in seconds: a node may have to fetch images first. And each task.
PATIENCE, TASK_PATIENCE = 300.0, 5.0
#: How long no node may take a task, in seconds (one may be on its way back), and how this file says so.
NO_NODE_PATIENCE, NO_NODE = 20.0, "no node takes a task"
#: How long tasks that stand in for others may take to run, in seconds.
SWAP = 60.0
#: With so many tasks of a service that failed, and none that runs, its start is an error.
FAILED = 6
#: How an update ends that did not work.
GIVEN_UP = {"paused", "rollback_started", "rollback_paused", "rollback_completed"}


def __dir__() -> list[str]:
    return __all__


class Deployed(Record):
    """What runs on the swarm: its nodes, the lab's tasks, and what was brought into the registry."""

    host: str
    nodes: tuple[Node, ...]
    tasks: tuple[Task, ...]
    pushed: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()


@action("swarm.up")
def up(lab: Lab, host: str | None = None) -> Outcome[Deployed]:
    """Deploys the lab to a swarm, or makes what runs there what the lab says.

    The images are built and copied to the registry, with their digests. What is as it should be is left alone; a
    changed service is replaced task by task. It returns when each replica has answered through each node's balancer.

    :param host: where a manager's Docker engine answers: ``unix:///run/docker.sock``, ``ssh://USER@HOST`` or
        ``tcp://HOST:PORT``; default: the Lab's ``engine.host``.
    :return: nodes and tasks; the table ``tasks`` has one row a task.
    :raises ConfigError: no host is named.
    :raises EngineError: no engine answers there, it is no manager, or tasks do not start; the reason is the engine's.

    Example: ``swarm.up(lab, "ssh://admin@node1").frames["tasks"]``
    """
    with closing(_manager(lab, host)) as manager, lock(lab.run_dir, "swarm"):
        wanted, pushed = _wanted(lab, manager, push=True)
        found = tuple(_differences(manager, wanted))
        if found:
            _apply(manager, wanted)
        _wait(lab, manager, wanted)
        moved = _spread(manager, wanted)
        if moved:
            _wait(lab, manager, wanted)
        value = _deployed(manager, pushed, found)
        held = (*_checks(lab, manager, wanted, value), _settings(manager, wanted))
    return Outcome(
        value=value,
        subject=lab.name,
        changed=bool(found or pushed or moved),
        summary=_summary(value, wanted),
        checks=held,
        tables=(_tasks(value), _nodes(value)),
    )


@action("swarm.plan")
def plan(lab: Lab, host: str | None = None) -> Outcome[Deployed]:
    """Says what :func:`up` would change on the swarm; changes nothing there. Images that are not there yet are built first. The
    table ``plan`` has one row a difference."""
    with closing(_manager(lab, host)) as manager:
        wanted, pushed = _wanted(lab, manager, push=False)
        value = _deployed(manager, pushed, tuple(_differences(manager, wanted)))
    rows = [item.model_dump() for item in value.differences]
    return Outcome(
        value=value,
        subject=lab.name,
        summary=f"{counted(len(rows), 'difference')}."
        if rows
        else "The swarm has what the lab says.",
        tables=(Table.of("plan", "What up would change", rows),) if rows else (),
    )


@action("swarm.check")
def check(lab: Lab, host: str | None = None) -> Outcome[Deployed]:
    """Looks at the lab on the swarm: nodes, tasks, images, pages, names, and confinement from inside.

    A service runs on each node for a moment, as a task of the first site; nothing else changes. The table ``guarantees`` says what
    is kept of what holds on one machine.
    """
    with closing(_manager(lab, host)) as manager:
        wanted, _ = _wanted(lab, manager, push=False)
        value = _deployed(manager, (), tuple(_differences(manager, wanted)))
        seen = _look(lab, manager, wanted) if not value.differences else {}
        found = (
            *_checks(lab, manager, wanted, value),
            _settings(manager, wanted),
            *engine.confined(
                guarantees.of(lab),
                seen,
                privileges=manager.confines,
                again=f"docker -H {manager.host} node inspect",
            ),
            *checks.distribution(lab, [node.address for node in value.nodes if node.ready]),
        )
        kept = engine.table(guarantees.of(lab), seen, privileges=manager.confines)
    return Outcome(
        value=value,
        subject=lab.name,
        summary=_summary(value, wanted),
        checks=found,
        tables=(_tasks(value), _nodes(value), kept),
    )


@action("swarm.down")
def down(lab: Lab, host: str | None = None) -> Outcome[str]:
    """Removes all that labkit made for this lab on the swarm, and the lab's own registry; waits until it is gone."""
    with closing(_manager(lab, host)) as manager, lock(lab.run_dir, "swarm"):
        there = manager.remove()
        stopped = registry.stop(lab)
    return Outcome(
        value=lab.name,
        subject=lab.name,
        changed=there or stopped,
        summary="Nothing of the lab is left on the swarm."
        if there
        else "The swarm had nothing of the lab.",
    )


def _manager(lab: Lab, host: str | None) -> Manager:
    chosen = host or lab.engine.host
    if not _is_host(chosen):
        raise ConfigError(
            f"engine.host = {chosen!r}",
            "names no Docker engine",
            "name a swarm's manager: --host unix:///run/docker.sock, ssh://USER@HOST or tcp://HOST:PORT",
            code="config.engine-host",
        )
    return Manager(lab, chosen, balancer_config.identity(lab))


def _is_host(text: str) -> bool:
    """Whether that names a socket, or a host with or without a port. Pure."""
    try:
        parts = urlsplit(text)
        there = parts.path if parts.scheme == "unix" else parts.hostname
        return parts.scheme in ("unix", "tcp", "ssh") and bool(there) and parts.port != 0
    except ValueError:  # a port that is none
        return False


def _wanted(lab: Lab, manager: Manager, *, push: bool) -> tuple[Deployment, tuple[str, ...]]:
    """The deployment that the lab asks for, and the tags that the registry did not have."""
    nodes = manager.nodes()
    _require_room(lab, manager, len(nodes))
    images, pushed = registry.references(
        lab, registry_of(lab, nodes, start=push), deployment.images(lab), push=push
    )
    return deployment.of(lab, images, [node.address for node in nodes]), pushed


def _require_room(lab: Lab, manager: Manager, nodes: int) -> None:
    """Raises :class:`ConfigError` when a site's network has no address for each of its replicas."""
    most = spec.most_replicas(manager.prefix(), nodes)
    for site in lab.sites:
        if (count := len(lab.replicas_of(site.name))) > most:
            raise ConfigError(
                f"{count} replicas of {site.name}", f"a network of this swarm has addresses for {most}",
                "make the swarm with larger networks: docker swarm init --default-addr-pool 10.0.0.0/8 --default-addr-pool-mask-length 20",
                f"docker -H {manager.host} info", code="config.engine-network",
            )  # fmt: skip


def registry_of(lab: Lab, nodes: Sequence[Node], *, start: bool) -> Registry:
    """The registry that the lab names, or its own one at the address by which the host side reaches the nodes."""
    return registry.of(lab, nodes[0].address, serving=start)


def _differences(manager: Manager, wanted: Deployment) -> Iterator[Difference]:
    """What of the deployment the engine does not have, has otherwise, or has besides."""
    networks, configs, services = manager.networks(), manager.configs(), manager.services()
    for name in wanted.networks:
        if spec.full_name(wanted, name) not in networks:
            yield Difference(what=f"network {name}", key="", wanted="there", seen="absent")
    for item in wanted.services:
        there = services.pop(spec.full_name(wanted, item.name), None)
        if there is None:
            yield Difference(what=f"service {item.name}", key="", wanted="there", seen="absent")
            continue
        for key, one, other in spec.differences(
            _spec(manager, wanted, item, networks, configs), there["Spec"]
        ):
            yield Difference(what=f"service {item.name}", key=key, wanted=one, seen=other)
    for name in services:
        yield Difference(what=f"service {name}", key="", wanted="absent", seen="there")


def _spec(
    manager: Manager, wanted: Deployment, item: Service, networks: Mapping[str, str], configs: Mapping[str, str]
) -> dict[str, Any]:  # fmt: skip
    """A service as the engine is to have it; what has no id yet is 'absent'."""
    names = {spec.full_name(wanted, name): "absent" for name in wanted.networks}
    files = {spec.config_name(wanted, file): "absent" for file in item.files}
    return spec.service(
        wanted, item, networks={**names, **networks}, configs={**files, **configs}, nodes=len(manager.nodes()),
        privileges=spec.privileges() if manager.confines else None,
    )  # fmt: skip


def _apply(manager: Manager, wanted: Deployment) -> None:
    """Makes networks and configs, then makes or changes services, and removes what is not wanted any more."""
    networks, configs, services = manager.networks(), manager.configs(), manager.services()
    for name in wanted.networks:
        if (full := spec.full_name(wanted, name)) not in networks:
            networks[full] = manager.create_network(spec.network(wanted, name))
    for item in wanted.services:
        for file in item.files:
            if (full := spec.config_name(wanted, file)) not in configs:
                configs[full] = manager.create_config(full, file.text, spec.labels(wanted))
        body = _spec(manager, wanted, item, networks, configs)
        there = services.pop(body["Name"], None)
        if there is None:
            manager.create_service(body)
        elif any(spec.differences(body, there["Spec"])):
            manager.update_service(there, body)
    for name in services:
        manager.remove_service(name)


def _wait(lab: Lab, manager: Manager, wanted: Deployment) -> None:
    """Waits until every task runs by the wanted image and every replica answers on every node."""
    began = since = time.monotonic()
    most = PATIENCE + TASK_PATIENCE * sum(item.replicas or 0 for item in wanted.services)
    last = ""
    while problem := _problem(lab, manager, wanted):
        _renumber(manager, wanted)
        now = time.monotonic()
        since = since if problem == last else now
        patience = PATIENCE if NO_NODE not in problem else NO_NODE_PATIENCE
        if now - began > most or now - since > patience:
            raise EngineError(
                lab.name, f"{problem}, after {now - began:.0f} s", "correct what it names, and call this again",
                f"docker -H {manager.host} stack ps --no-trunc {lab.name}", code="farm.engine-stuck",
            )  # fmt: skip
        last = problem
        cancellation.pause(0.3)


def _renumber(manager: Manager, wanted: Deployment) -> None:
    """Gives a site's tasks the numbers from 1 on again: of too many, the engine may end any, and the balancer knows them by
    their numbers. Other tasks stand in meanwhile."""
    tasks = manager.tasks()
    for item in wanted.services:
        name, count = spec.full_name(wanted, item.name), item.replicas or 0
        if not (slots := _slots(tasks, name)) or len(slots) != count or max(slots) == count:
            continue
        body = _spec(manager, wanted, item, manager.networks(), manager.configs())
        instead = {**body, "Name": f"{name}-again"}
        _create(manager, instead, count)
        manager.remove_service(name)
        _create(manager, body, count)
        cancellation.pause(spec.MONITOR)
        manager.remove_service(instead["Name"])


def _create(manager: Manager, body: Mapping[str, Any], count: int) -> None:
    manager.create_service(body)
    cancellation.until(lambda: len(_slots(manager.tasks(), body["Name"])) == count, SWAP)


def _slots(tasks: Iterable[Task], service: str) -> set[int]:
    """The numbers of a service's tasks that run."""
    return {task.slot for task in tasks if task.service == service and task.runs}


def _problem(lab: Lab, manager: Manager, wanted: Deployment) -> str:
    """What is still missing, '' for nothing.

    :raises EngineError: the engine has given up, or will never come to an end.
    """
    tasks, services = manager.tasks(), manager.services()
    nodes = [node for node in manager.nodes() if node.ready]
    for item in wanted.services:
        name = spec.full_name(wanted, item.name)
        there = services.get(name, {})
        status = there.get("UpdateStatus", {})
        own = [task for task in tasks if task.service == name]
        new = [task for task in own if task.image == item.image]
        running = [task for task in new if task.runs]
        if status.get("State") in GIVEN_UP and _image(there) != item.image:
            raise _failed(manager, name, "the update failed, and the engine went back", own)
        if len([task for task in new if task.error]) >= FAILED and not running:
            raise _failed(manager, name, "its tasks end again and again", new)
        asked = len(nodes) if item.replicas is None else item.replicas
        if len(running) < asked or len(running) < sum(task.runs for task in own):
            why = [task.error for task in _newest(own)]
            if waiting := [task.error for task in new if task.error and task.state == "pending"]:
                why = [f"{NO_NODE}: {waiting[-1]}"]
            return ": ".join(
                [f"{item.name}: {len(running)} of {counted(asked, 'task')} run", *why[:1]]
            )
        if status.get("State") == "updating":
            return f"{item.name}: updating"
    return checks.unanswered(lab, [node.address for node in nodes])


def _image(service: Mapping[str, Any]) -> str:
    return str(service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]) if service else ""


def _newest(tasks: Sequence[Task]) -> list[Task]:
    """The tasks that say why they do not run, the newest first."""
    return sorted((task for task in tasks if task.error), key=lambda task: -task.version)


def _failed(manager: Manager, service: str, what: str, tasks: Sequence[Task]) -> EngineError:
    """The error of a service whose tasks do not start, in the engine's and their own words."""
    said = [task.error for task in _newest(tasks)[:1]]
    if log := excerpt("\n".join(manager.logs(service))):
        said.append(f"they said: {log}")
    return EngineError(
        service, f"{what}: {'; '.join(said)}", "correct what it names, and call this again",
        f"docker -H {manager.host} service ps --no-trunc {service}", code="farm.engine-failing",
    )  # fmt: skip


def _spread(manager: Manager, wanted: Deployment) -> bool:
    """Deals out again the sites whose tasks are all on one node while there are several; whether there was one."""
    nodes = {node.id for node in manager.nodes() if node.ready}
    alone = [
        item
        for item in wanted.services
        if (item.replicas or 0) > 1 and len(nodes) > 1 and _together(manager, wanted, item)
    ]
    there = manager.services()
    for item in alone:
        manager.force(there[spec.full_name(wanted, item.name)])
    return bool(alone)


def _together(manager: Manager, wanted: Deployment, item: Service) -> bool:
    name = spec.full_name(wanted, item.name)
    return len({task.node for task in manager.tasks() if task.service == name and task.runs}) == 1


def _deployed(manager: Manager, pushed: tuple[str, ...], found: tuple[Difference, ...]) -> Deployed:
    return Deployed(
        host=manager.host,
        nodes=manager.nodes(),
        tasks=manager.tasks(),
        pushed=pushed,
        differences=found,
    )


def _summary(value: Deployed, wanted: Deployment) -> str:
    running = sum(task.runs for task in value.tasks)
    ready = sum(node.ready for node in value.nodes)
    return f"{counted(running, 'task')} of {counted(len(wanted.services), 'service')} run on {counted(ready, 'node')}."


def _look(lab: Lab, manager: Manager, wanted: Deployment) -> dict[str, Inside]:
    """What a task of the first site finds from inside, on each node, by the node's name."""
    first = lab.sites[0].name
    own = spec.full_name(wanted, first)
    others = {spec.full_name(wanted, site.name) for site in lab.sites} - {own}
    addresses = [
        address
        for task in manager.tasks()
        if task.service in others and task.runs
        for address in task.addresses
    ]
    body = _spec(manager, wanted, wanted.service(first), manager.networks(), manager.configs())
    look = spec.look(body, f"{wanted.name}_look", guarantees.words(addresses))
    nodes = {node.id: node.name for node in manager.nodes()}
    return {
        nodes.get(node, node): guarantees.read(lines)
        for node, lines in manager.look(look["Name"], look, guarantees.END).items()
    }


def _checks(lab: Lab, manager: Manager, wanted: Deployment, value: Deployed) -> tuple[Check, ...]:
    addresses = [node.address for node in value.nodes if node.ready]
    return (
        *_node_checks(manager, value),
        *(
            check
            for item in wanted.services
            for check in _service_checks(manager, wanted, item, value)
        ),
        *checks.pages(lab, addresses),
        *checks.names(lab, addresses),
    )


def _settings(manager: Manager, wanted: Deployment) -> Check:
    again = f"docker -H {manager.host} stack services {wanted.name}"
    return engine.settings(_differences(manager, wanted), again=again)


def _node_checks(manager: Manager, value: Deployed) -> Iterator[Check]:
    for node in value.nodes:
        yield equal(
            f"engine.node.{node.name}", "ready, active", f"{node.state}, {node.availability}", again=f"docker -H {manager.host} node ls"
        )  # fmt: skip


def _service_checks(
    manager: Manager, wanted: Deployment, item: Service, value: Deployed
) -> Iterator[Check]:
    name = spec.full_name(wanted, item.name)
    again = f"docker -H {manager.host} service ps {name}"
    nodes = {node.id: node.name for node in value.nodes}
    ready = sum(node.ready for node in value.nodes)
    running = [task for task in value.tasks if task.service == name and task.runs]
    asked = ready if item.replicas is None else item.replicas
    digest = item.image.rpartition("@")[2]
    yield engine.service(item.name, asked, [task.image for task in running], digest, again=again)
    if item.replicas is not None and item.replicas > 1 and ready > 1:
        places = [nodes.get(task.node, "?") for task in running]
        yield engine.spread(item.name, places, again=again)


def _tasks(value: Deployed) -> Table:
    nodes = {node.id: node.name for node in value.nodes}
    rows = [
        {"service": task.service, "task": task.slot or "", "node": nodes.get(task.node, ""), "state": task.state, "image": task.image.rpartition("@")[2], "error": task.error}
        for task in sorted(value.tasks, key=lambda task: (task.service, task.slot, task.node))
        if task.wanted == "running"
    ]  # fmt: skip
    return Table.of("tasks", "The lab's tasks on the swarm", rows)


def _nodes(value: Deployed) -> Table:
    rows = [node.model_dump(exclude={"id"}) for node in value.nodes]
    return Table.of("nodes", "The swarm's nodes", rows)
