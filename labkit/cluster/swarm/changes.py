"""What clients notice of a change on the swarm: all tasks are replaced, a node goes away, and it comes back."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from typing import Any, Literal

import pandas

from labkit import cancellation
from labkit.checks import Check
from labkit.cluster import checks
from labkit.cluster.engine import EngineError
from labkit.cluster.swarm import deploy
from labkit.cluster.swarm.engine import Manager, Node
from labkit.core import run
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted, curl
from labkit.errors import LabkitError
from labkit.farm.services import balancer_config
from labkit.farm.traffic import failover
from labkit.farm.traffic.load import Load, frame
from labkit.model.lab import Lab
from labkit.records import Record

__all__ = ["experiment"]

#: Seconds between two requests to all sites together, and the clients of each site.
PACE, CLIENTS = 0.005, 8
#: How long a change may take, and how long replicas may take to be back on other nodes, in seconds.
PATIENCE, BACK = 120.0, 60.0
#: The width of a row of the tables ``timeline``, in seconds.
BIN = 1.0
#: The most seconds of the load: longer than all changes may take together.
LIMIT = 900.0


class Phase(Record):
    """A change, from the order (``began``) until all replicas ran and answered again (``done``), in seconds of the load; how many
    requests began before the next change, how many of them ``failed``, and the slowest, in seconds."""

    name: Literal["before", "update", "away", "return"]
    began: float
    done: float
    requests: int
    failed: int
    slowest: float

    @property
    def seconds(self) -> float:
        """How long the change took."""
        return round(self.done - self.began, 1)


class Experiment(Record):
    """What happened. The requests went to the balancer of the node ``asked``; the node ``gone`` went away: it was ``lost`` by the
    lab's own command, or else drained. The engine noticed after ``noticed`` seconds."""

    asked: str
    gone: str
    lost: bool
    noticed: float
    phases: tuple[Phase, ...]

    @property
    def how(self) -> str:
        """What became of the node: ``lost`` or ``drained``."""
        return "lost" if self.lost else "drained"

    @property
    def words(self) -> dict[str, str]:
        """What each phase is called."""
        return {
            "before": "no change",
            "update": "all tasks replaced",
            "away": f"{self.gone} {self.how}",
            "return": f"{self.gone} {'back' if self.lost else 'active again'}",
        }

    def phase(self, name: str) -> Phase:
        """The phase of that name."""
        return next(item for item in self.phases if item.name == name)


@action("swarm.experiment")
def experiment(lab: Lab, host: str | None = None) -> Outcome[Experiment]:
    """Sends requests to each site at a steady pace, at a node that stays, while the swarm changes, and counts what fails.

    First all tasks of the sites are replaced one after the other, as an update does it. Then a node goes away: by the command
    ``engine.lose``, or, where the lab has none, drained by the engine, which is no failure. At last it comes back
    (``engine.restore``), and the sites are spread over the nodes again. Before the first change and after each, nothing happens
    for ``traffic.seconds``. The lab is brought up first. However this ends, the node is brought back.

    :param host: a manager, as for :func:`labkit.cluster.swarm.up`; a node that stays.
    :return: the phases; the table ``phases`` has one row for each, ``timeline-SITE`` one a second, ``failed`` one a failed
        request.
    :raises EngineError: there is one node only, or a change does not come to its end.

    Example: ``swarm.experiment(lab).value.phase("away").failed``
    """
    host = deploy.up(lab, host).value.host
    with closing(Manager(lab, host, balancer_config.identity(lab))) as manager:
        asked, other = _nodes(manager)
        loads = [
            Load(lab, checks.target(lab, asked.address, site.name), secrets.token_hex(6),
                 concurrency=CLIENTS, pace=PACE * len(lab.sites), limit=LIMIT)
            for site in lab.sites
        ]  # fmt: skip
        with ExitStack() as running:
            for load in loads:
                running.enter_context(failover.running(load))
            gone, moments, spread = _exercise(lab, manager, asked, other, loads[0])
    requests = pandas.concat([frame(load.sent).assign(site=load.target.label) for load in loads])
    value = evaluated(requests, moments, asked=asked.name, gone=gone, lost=bool(lab.engine.lose))
    again = curl(
        f"http://{asked.address}:{lab.proxy.port}/",
        options=f"-si -H 'Host: {lab.host_name(lab.sites[0].name)}'",
    )
    return Outcome(
        value=value,
        subject=lab.name,
        changed=True,
        summary=summary(value),
        checks=(*verdict(value, again), *spread),
        tables=tuple(tables(lab, value, requests)),
    )


#: ``began`` and ``done`` of each change, and when the engine ``noticed`` that the node is away.
Moments = Mapping[str, tuple[float, float]]


def _nodes(manager: Manager) -> tuple[Node, Node]:
    """The node that is asked, and the one to drain: a worker where there is one."""
    ready = [node for node in manager.nodes() if node.ready]
    asked = manager.asked if manager.asked.ready else ready[0]
    others = sorted(
        (node for node in ready if node.id != asked.id), key=lambda node: node.role != "worker"
    )
    if not others:
        raise EngineError(
            manager.host, "has one node that takes tasks, and none can go away", "join another one: `docker swarm join`",
            f"docker -H {manager.host} node ls", code="farm.engine-one-node",
        )  # fmt: skip
    return asked, others[0]


def _exercise(
    lab: Lab, manager: Manager, asked: Node, other: Node, load: Load
) -> tuple[str, dict[str, tuple[float, float]], tuple[Check, ...]]:
    """Makes the changes; the name of the node that went away, the moments, and the checks of the last spread."""
    moments: dict[str, tuple[float, float]] = {}
    load.wait(lab.traffic.seconds)
    began = load.now()
    _replace(lab, manager)
    _settled(lab, manager, [asked])
    moments["update"] = began, load.now()
    load.wait(lab.traffic.seconds)
    began = load.now()
    ready = {node.id for node in manager.nodes() if node.ready}
    with ExitStack() as brought:
        brought.callback(_brought_back, lab, manager, other)
        _order(lab, manager, other, "lose", "drain")
        _wait("no node went away", manager, lambda: bool(ready - _ready(manager)))
        moments["noticed"] = load.now(), load.now()
        gone = next(node for node in manager.nodes() if node.id in ready and not node.ready)
        if gone.id == asked.id:
            raise EngineError(
                gone.name, "went away, and it is the node that is asked", "name one that stays: --host URL, or another node in engine.lose",
                f"docker -H {manager.host} node ls", code="farm.engine-asked",
            )  # fmt: skip
        _settled(lab, manager, [asked])
        moments["away"] = began, load.now()
        load.wait(lab.traffic.seconds)
        began = load.now()
        _order(lab, manager, other, "restore", "active")
        brought.pop_all()
    _wait(f"{gone.name} did not come back", manager, lambda: ready <= _ready(manager))
    _settled(lab, manager, [node for node in manager.nodes() if node.ready])
    up = deploy.up(lab, manager.host)
    moments["return"] = began, load.now()
    load.wait(lab.traffic.seconds)
    return gone.name, moments, tuple(c for c in up.checks if c.name.startswith("engine.spread."))


def _order(lab: Lab, manager: Manager, node: Node, key: str, availability: str) -> None:
    """The lab's own command, or a node's availability."""
    if command := getattr(lab.engine, key):
        run.run(shlex.split(command), netns=lab.netns, timeout=PATIENCE)
    else:
        manager.make_available(node, availability)


def _brought_back(lab: Lab, manager: Manager, node: Node) -> None:
    with suppress(LabkitError):
        _order(lab, manager, node, "restore", "active")


def _replace(lab: Lab, manager: Manager) -> None:
    """Replaces each task of the sites by a new one, and waits until the engine says that it is done."""
    names = {f"{lab.name}_{site.name}" for site in lab.sites}
    before = {name: item for name, item in manager.services().items() if name in names}
    for item in before.values():
        manager.force(item)

    def over() -> bool:
        now = manager.services()
        states = [(now[name].get("UpdateStatus", {}), before[name].get("UpdateStatus")) for name in names]  # fmt: skip
        return all(new.get("State") == "completed" and new != old for new, old in states)

    _wait("an update did not come to its end", manager, over)


def _ready(manager: Manager) -> set[str]:
    return {node.id for node in manager.nodes() if node.ready}


def _settled(lab: Lab, manager: Manager, nodes: list[Node]) -> None:
    """Waits until all replicas run on nodes that are ready, and answer through these nodes."""
    names = {f"{lab.name}_{site.name}": len(lab.replicas_of(site.name)) for site in lab.sites}

    def whole() -> bool:
        ready = _ready(manager)
        running = [task for task in manager.tasks() if task.runs and task.node in ready]
        there = {name: sum(task.service == name for task in running) for name in names}
        return there == names and not checks.unanswered(lab, [node.address for node in nodes])

    _wait("not all replicas run and answer", manager, whole)


def _wait(problem: str, manager: Manager, over: Callable[[], bool]) -> None:
    if not cancellation.until(over, PATIENCE):
        raise EngineError(
            manager.host, f"{problem} within {PATIENCE:g} s", "look at its nodes and tasks, and call this again",
            f"docker -H {manager.host} node ls", code="farm.engine-stuck",
        )  # fmt: skip


# -- what it says, pure ----------------------------------------------------------------------------


def evaluated(
    requests: pandas.DataFrame, moments: Moments, *, asked: str, gone: str, lost: bool
) -> Experiment:
    """The record of an experiment: each request belongs to the phase in which it began. Pure.

    :param requests: those of all sites, as :func:`labkit.farm.traffic.load.frame` has them.
    :param moments: when ``update``, ``away`` and ``return`` began and were done; when ``noticed``.
    """
    began = {"before": 0.0, **{name: moments[name][0] for name in ("update", "away", "return")}}
    done = {"before": began["update"], **{name: both[1] for name, both in moments.items()}}
    edges = [*began.values(), float("inf")]
    parts = requests.groupby(
        pandas.cut(requests["start"], edges, right=False, labels=[*began]), observed=False
    ).agg(requests=("number", "size"), failed=("failed", "sum"), slowest=("took", "max"))
    phases = [
        Phase(name=name, began=round(began[name], 2), done=round(done[name], 2), **row)
        for name, row in parts.fillna(0).to_dict("index").items()
    ]
    noticed = moments["noticed"][0] - moments["away"][0]
    return Experiment(asked=asked, gone=gone, lost=lost, noticed=round(noticed, 1), phases=tuple(phases))  # fmt: skip


def summary(value: Experiment) -> str:
    """What happened, in a sentence."""
    total, failed = (sum(getattr(p, key) for p in value.phases) for key in ("requests", "failed"))
    parts = (
        f"{value.words[p.name]}: {p.failed:,} of {p.requests:,} failed, all replicas there after {p.seconds:g} s"
        for p in value.phases[1:]
    )
    return f"{failed:,} of {counted(total, 'request')} at {value.asked} failed. {'; '.join(parts)}."


def verdict(value: Experiment, again: str) -> Iterator[Check]:
    """Whether every request got the page, in each phase, and whether the lost replicas were back in time. Pure."""
    for item in value.phases:
        yield Check(
            name=f"engine.{item.name}.served", expected=f"{item.requests} of {counted(item.requests, 'request')} get the page",
            seen=f"{item.failed} did not", holds=not item.failed, again=again,
        )  # fmt: skip
    away = value.phase("away")
    yield Check(
        name="engine.away.back", expected=f"{value.gone} {value.how}: its replicas run on other nodes within {BACK:g} s",
        seen=f"after {away.seconds:g} s; noticed after {value.noticed:g} s", holds=away.seconds <= BACK, again=again,
    )  # fmt: skip


def tables(lab: Lab, value: Experiment, requests: pandas.DataFrame) -> Iterator[Table]:
    """The phases, each site's requests second by second, and the requests that failed. Pure."""
    rows: list[dict[str, Any]] = [
        {"phase": value.words[item.name], "began": item.began, "took": item.seconds, **item.model_dump(include={"requests", "failed", "slowest"})}
        for item in value.phases
    ]  # fmt: skip
    yield Table.of("phases", "Requests while the swarm changed", rows, units={"began": "s", "took": "s", "slowest": "s"})  # fmt: skip
    for site in lab.sites:
        own = requests[requests["site"] == site.name]
        names = [item.name for item in lab.replicas_of(site.name)]
        counts = failover.counted_by(own, names, BIN)
        yield Table.of(f"timeline-{site.name}", f"{site.name} while the swarm changed", counts, units=failover.UNITS)  # fmt: skip
    failed = requests[requests["failed"]].sort_values("start")
    yield Table.of("failed", "Requests that failed", failed, columns=("site", "start", "took", "status", "error"), units={"start": "s", "took": "s"})  # fmt: skip
