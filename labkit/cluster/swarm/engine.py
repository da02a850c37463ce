"""A swarm's manager, asked through Docker's Engine API: what there is of the lab's, and how it is changed.

It is reached at ``unix://PATH``, ``tcp://HOST:PORT`` or ``ssh://USER@HOST[:PORT][/PATH]`` from the lab's host side: the program ssh,
with the keys and settings of whoever calls, leads a socket here to the engine's there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env
from requests.exceptions import RequestException

from labkit import cancellation
from labkit.cluster.engine import EngineError
from labkit.cluster.swarm.spec import OWNER
from labkit.core import daemon, run
from labkit.kernel.netns import inside
from labkit.model.lab import Lab
from labkit.records import Record

P = ParamSpec("P")
R = TypeVar("R")
#: How long the engine may take for one answer, in seconds.
PATIENCE = 30
#: How long a look from inside a task may take, in seconds.
LOOK = 60
#: How an engine on another machine is named, where its socket is, and how ssh gets there.
SSH, SOCKET = "ssh://", "/var/run/docker.sock"
OPTIONS = (
    "BatchMode=yes",
    "ExitOnForwardFailure=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=10",
)
#: After so many seconds a connection by ssh ends, even if nobody is left to end it.
TUNNEL = 3600
#: From this version of the API on, a service can have a seccomp profile and no-new-privileges of its own; an older one
#: drops them without a word.
PRIVILEGES = (1, 44)


class Node(Record):
    """A node of the swarm: its name, address, role, and whether it takes tasks (``state`` ready, ``availability`` active)."""

    id: str
    name: str
    address: str
    role: str
    state: str
    availability: str

    @property
    def ready(self) -> bool:
        """Whether it takes tasks."""
        return (self.state, self.availability) == ("ready", "active")


class Task(Record):
    """A task: the service and node it belongs to, its number (0 in a service on every node), image, and state; ``error``
    says why it does not run."""

    id: str
    service: str
    node: str
    slot: int
    image: str
    state: str
    wanted: str
    version: int
    error: str
    addresses: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Whether it runs, and is to run."""
        return self.state == self.wanted == "running"


class Client(docker.APIClient):  # type: ignore[misc]
    """Docker's client, to which variables such as REQUESTS_CA_BUNDLE and HTTP_PROXY say nothing: its certificates are its own."""

    trust_env = property(lambda self: False, lambda self, value: None)


class Tunnel:
    """A socket of this machine's that ssh leads to the Docker engine of another one."""

    def __init__(self, lab: Lab, host: str) -> None:
        """:raises EngineError: ssh does not get there; the reason is ssh's."""
        parts = urlsplit(host)
        port = ("-p", str(parts.port)) if parts.port else ()
        place = f"{parts.username}@{parts.hostname}" if parts.username else str(parts.hostname)
        self._folder = Path(tempfile.mkdtemp(prefix="labkit-"))
        self._socket, self._log = self._folder / "docker", self._folder / "log"
        self._words = ("ssh", "-S", str(self._folder / "control"), *port, "--", place)
        options = (f"-L{self._socket}:{parts.path or SOCKET}", *(f"-o{item}" for item in OPTIONS))
        words = (self._words[0], "-fMtt", *options, *self._words[1:], f"sleep {TUNNEL}")
        done = run.run(words, netns=lab.netns, output=self._log, timeout=PATIENCE, ok=range(256))
        if done.status:
            said = self.said()
            self.close()
            raise EngineError(
                host, f"ssh does not get there: {said}", "let ssh get there by a key, without a question", f"ssh {place} docker info", code="farm.engine-ssh",
            )  # fmt: skip

    @property
    def local(self) -> str:
        """Where the engine answers on this machine."""
        return f"unix://{self._socket}"

    def said(self) -> str:
        """What ssh said last."""
        return daemon.tail(self._log).removesuffix("(empty)")

    def close(self) -> None:
        """Ends the connection."""
        run.run((self._words[0], "-O", "exit", *self._words[1:]), ok=range(256), quiet=True)
        shutil.rmtree(self._folder)


class Manager:
    """The manager of a swarm, as far as one lab is concerned."""

    def __init__(self, lab: Lab, host: str, owner: str) -> None:
        """:raises EngineError: it does not answer, or is no manager of a swarm."""
        self.lab, self.host, self.owner = lab, host, owner
        self._tunnel = Tunnel(lab, host) if host.startswith(SSH) else None
        try:
            self._api = inside(lab.netns, self._connected)
            self.info: Mapping[str, Any] = self._ask(self._api.info)
        except (DockerException, RequestException, OSError) as error:
            silent = self._silent(error)
            self._leave()
            raise silent from None
        if not self.info["Swarm"].get("ControlAvailable"):
            self.close()
            state = self.info["Swarm"].get("LocalNodeState", "inactive")
            reason = (
                "is a worker, and only a manager can be asked"
                if state == "active"
                else "is in no swarm"
            )
            raise EngineError(
                host, f"its engine {reason}", "name a manager, or make one: `docker swarm init`", f"docker -H {host} info", code="farm.engine-no-manager",
            )  # fmt: skip

    def _connected(self) -> Client:
        place = self._tunnel.local if self._tunnel else self.host
        return Client(
            base_url=place, version="auto", timeout=PATIENCE, tls=self._tls()
        )  # fmt: skip

    def _tls(self) -> Any:
        """The certificates for ``tcp://``, from Docker's own variables: DOCKER_TLS_VERIFY, DOCKER_CERT_PATH."""
        return kwargs_from_env().get("tls") if self.host.startswith("tcp://") else None

    def _silent(self, error: Exception) -> EngineError:
        return EngineError(
            self.host,
            f"no Docker engine answers there: {(self._tunnel and self._tunnel.said()) or error}",
            "start it, or name another: --host unix:///run/docker.sock, ssh://USER@HOST or tcp://HOST:PORT",
            f"docker -H {self.host} info",
            code="farm.engine-silent",
        )

    def close(self) -> None:
        """Ends the connection."""
        self._api.close()
        self._leave()

    def _leave(self) -> None:
        if self._tunnel:
            self._tunnel.close()

    def _ask(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return inside(self.lab.netns, partial(function, *args, **kwargs))
        except APIError as error:
            said = error.explanation or str(error)
            raise EngineError(
                self.host, f"the engine refuses: {said}", "correct what its words name", f"docker -H {self.host} info"
            ) from None  # fmt: skip
        except (DockerException, RequestException, OSError) as error:
            raise self._silent(error) from None

    @property
    def api_version(self) -> tuple[int, ...]:
        """The version of the API that both sides speak."""
        return tuple(int(part) for part in self._api.api_version.split("."))

    @property
    def confines(self) -> bool:
        """Whether a service can bring its own seccomp profile."""
        return self.api_version >= PRIVILEGES

    @property
    def _mine(self) -> dict[str, str]:
        return {"label": f"{OWNER}={self.owner}"}

    # -- what there is ------------------------------------------------------------------------

    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in the order of their names."""
        found = [
            Node(
                id=item["ID"],
                name=item["Description"]["Hostname"],
                address=_address(item),
                role=item["Spec"]["Role"],
                state=item["Status"]["State"],
                availability=item["Spec"]["Availability"],
            )
            for item in self._ask(self._api.nodes)
        ]
        return tuple(sorted(found, key=lambda node: node.name))

    @property
    def asked(self) -> Node:
        """The node that answers, as it is now."""
        return next(node for node in self.nodes() if node.id == self.info["Swarm"]["NodeID"])

    def prefix(self) -> int:
        """The length of the prefix of the networks that the swarm makes."""
        return int(self._ask(self._api.inspect_swarm).get("SubnetSize") or 24)

    def services(self) -> dict[str, dict[str, Any]]:
        """The lab's services as the engine has them, by name."""
        return {
            item["Spec"]["Name"]: item for item in self._ask(self._api.services, filters=self._mine)
        }

    def networks(self) -> dict[str, str]:
        """The id of each of the lab's networks, by name."""
        return {
            item["Name"]: item["Id"] for item in self._ask(self._api.networks, filters=self._mine)
        }

    def configs(self) -> dict[str, str]:
        """The id of each of the lab's configs, by name."""
        return {
            item["Spec"]["Name"]: item["ID"]
            for item in self._ask(self._api.configs, filters=self._mine)
        }

    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the lab's services, with those that have ended."""
        names = {item["ID"]: name for name, item in self.services().items()}
        return tuple(
            _task(item, names[item["ServiceID"]])
            for item in self._ask(self._api.tasks, filters=self._mine)
            if item["ServiceID"] in names
        )

    def containers(self) -> int:
        """How many containers of the lab's services the manager's own node still has."""
        return len(self._ask(self._api.containers, all=True, filters=self._mine))

    def look(self, name: str, spec: Mapping[str, Any], end: str) -> dict[str, list[str]]:
        """Runs a service on each node until it has written the line ``end`` there, and removes it; the lines that it wrote
        on each, by the node's id.

        :raises EngineError: it does not come to its end in time.
        """
        self._gone(self._api.remove_service, name)
        self.create_service(spec)
        ready = {node.id for node in self.nodes() if node.ready}
        found: dict[str, list[str]] = {}

        def ended() -> bool:
            found.clear()
            found.update(self._written(name))
            return all(end in found.get(node, ()) for node in ready)

        try:
            if not cancellation.until(ended, LOOK):
                raise EngineError(name, f"has not ended after {LOOK} s", "look at its tasks", f"docker -H {self.host} service ps --no-trunc {name}")  # fmt: skip
        finally:
            self._gone(self._api.remove_service, name)
        return found

    def _written(self, name: str) -> dict[str, list[str]]:
        """The lines that a service's tasks have written, by the node's id."""
        found: dict[str, list[str]] = {}
        parts = self._ask(self._api.service_logs, name, details=True, stdout=True, stderr=True)
        for line in (line for part in parts for line in part.decode(errors="replace").splitlines()):
            details, _, text = line.partition(" ")
            named = dict(item.partition("=")[::2] for item in details.split(","))
            found.setdefault(named.get("com.docker.swarm.node.id", ""), []).append(text)
        return found

    def logs(self, service: str, tail: int = 20) -> Iterator[str]:
        """The last lines that a service's tasks wrote."""
        parts = self._ask(self._api.service_logs, service, stdout=True, stderr=True, tail=tail)
        for part in parts:
            yield from part.decode(errors="replace").splitlines()

    # -- changing it --------------------------------------------------------------------------

    def create_network(self, spec: Mapping[str, Any]) -> str:
        """Makes a network (:func:`labkit.cluster.swarm.spec.network`); its id."""
        return str(
            self._ask(
                self._api.create_network, spec["Name"], driver=spec["Driver"], internal=spec["Internal"],
                labels=spec["Labels"], check_duplicate=True,
            )["Id"]
        )  # fmt: skip

    def create_config(self, name: str, text: str, labels: Mapping[str, str]) -> str:
        """Makes a config; its id."""
        return str(self._ask(self._api.create_config, name, text, labels)["ID"])

    def create_service(self, spec: Mapping[str, Any]) -> None:
        """Makes a service (:func:`labkit.cluster.swarm.spec.service`)."""
        self._ask(self._api.create_service, spec["TaskTemplate"], **_parts(spec))

    def update_service(self, there: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        """Makes the service, as :meth:`services` has it, another one; the engine replaces its tasks one by one."""
        self._ask(
            self._api.update_service, there["ID"], there["Version"]["Index"], spec["TaskTemplate"], **_parts(spec)
        )  # fmt: skip

    def remove_service(self, name: str) -> None:
        """Removes a service; its tasks end by themselves."""
        self._gone(self._api.remove_service, name)

    def force(self, there: Mapping[str, Any]) -> None:
        """Makes the engine place the tasks of a service anew, as it is."""
        body = {**there["Spec"], "TaskTemplate": {**there["Spec"]["TaskTemplate"]}}
        body["TaskTemplate"]["ForceUpdate"] = body["TaskTemplate"].get("ForceUpdate", 0) + 1
        self.update_service(there, body)

    def make_available(self, node: Node, availability: str) -> None:
        """Makes a node take tasks (``active``), or end those that it has (``drain``)."""
        there = self._ask(self._api.inspect_node, node.id)
        self._ask(
            self._api.update_node, node.id, there["Version"]["Index"], {**there["Spec"], "Availability": availability}
        )  # fmt: skip

    def remove(self) -> bool:
        """Removes all of the lab's, and waits until it is gone; whether there was anything."""
        there = False
        for name in self.services():
            there = True
            self._gone(self._api.remove_service, name)
        for name in self.configs():
            there = True
            self._gone(self._api.remove_config, name)
        cancellation.until(lambda: not self.containers(), 60)
        cancellation.until(self._no_networks, 60)
        if left := [*self.services(), *self.configs(), *self.networks()]:
            raise EngineError(self.host, f"does not let go of {', '.join(left)}", "call this again", f"docker -H {self.host} network ls")  # fmt: skip
        return there

    def _no_networks(self) -> bool:
        """Removes the networks that no task uses any more; whether that was all."""
        for name in self.networks():
            with suppress(EngineError):  # a task that ends still uses it
                self._gone(self._api.remove_network, name)
        return not self.networks()

    def _gone(self, remove: Callable[[str], object], name: str) -> None:
        try:
            inside(self.lab.netns, remove, name)
        except NotFound:
            pass
        except (DockerException, RequestException, OSError) as error:
            raise EngineError(self.host, f"{name} cannot be removed: {error}", "call this again", f"docker -H {self.host} info") from None  # fmt: skip


def _parts(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": spec["Name"],
        "labels": spec["Labels"],
        "mode": spec["Mode"],
        "update_config": spec["UpdateConfig"],
        "rollback_config": spec["RollbackConfig"],
        "endpoint_spec": spec["EndpointSpec"],
    }


def _address(node: Mapping[str, Any]) -> str:
    """A node's address; a manager that says 0.0.0.0 is the one that is asked."""
    address: str = node["Status"].get("Addr", "")
    return address if address != "0.0.0.0" else node["ManagerStatus"]["Addr"].rpartition(":")[0]  # noqa: S104


def _task(item: Mapping[str, Any], service: str) -> Task:
    status = item["Status"]
    return Task(
        id=item["ID"],
        service=service,
        node=item.get("NodeID", ""),
        slot=item.get("Slot", 0),
        image=item["Spec"]["ContainerSpec"]["Image"],
        state=status["State"],
        wanted=item["DesiredState"],
        version=item.get("Version", {}).get("Index", 0),
        error=status.get("Err", ""),
        addresses=tuple(
            address.partition("/")[0]
            for item in item.get("NetworksAttachments") or ()
            for address in item.get("Addresses") or ()
        ),
    )
