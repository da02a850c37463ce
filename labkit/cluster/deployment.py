"""What a cluster is to run for a lab: its services, networks and files, whichever engine runs them. Pure.

A site is one service with a replica for each of the lab's; the balancer and the name server are a service each with one
task on every node. Swarm's and Kubernetes' own descriptions are made from this one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from labkit.farm import images as farm_images
from labkit.farm.containers import container
from labkit.farm.containers.bundle import Spec
from labkit.farm.images import builder, store
from labkit.farm.services import balancer_config
from labkit.farm.services.balancer_config import Place
from labkit.model.config import Site
from labkit.model.lab import DNS_PORT, Lab, Replica
from labkit.model.sites import REPLICA_VARIABLE
from labkit.records import Record

#: The names of the services that are no site's.
BALANCER, DNS = "balancer", "dns"
#: The network of the published ports; each site's own is :func:`network`.
FRONT = "front"
#: Stands for the number of a task, from 1, in names.
SLOT = "{slot}"
MIB = 2**20
#: How long a stopped task may take to end, in seconds.
GRACE = 10
#: Where the balancer's and the name server's files stand in their containers.
CONFIGURATION, SCRIPT, HOSTS = (
    "/etc/labkit/balancer.conf",
    "/etc/labkit/forward.lua",
    "/etc/labkit/hosts",
)
#: The folders in memory that apache2 writes to, and how many MiB they hold; the logs get what the lab says.
RUN, LOCK, LOGS = "/run/apache2", "/run/lock/apache2", "/var/log/apache2"
#: Processes and threads of the balancer: its 512 threads, those of a process that ends after a reload, and Apache's own.
BALANCER_PIDS = 1200


class Folder(Record):
    """A folder in memory, of ``mib`` MiB, that the task may write."""

    path: str
    mib: int


class File(Record):
    """A file that the engine puts into a container: its ``name`` among the lab's, where it stands, its content."""

    name: str
    path: str
    text: str

    @property
    def hash(self) -> str:
        """12 hexadecimal digits of its content: a changed file is another one to the engine."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]


class Port(Record):
    """A port of each node that leads to the node's own task."""

    number: int
    protocol: Literal["tcp", "udp"] = "tcp"


class Service(Record):
    """Tasks of one kind: ``replicas`` of them, or one on every node (None).

    ``image`` names the image by its digest, ``args`` is the command; ``hostname`` is the name by which the other tasks on its
    networks find a task. User, limits and settings of the kernel are those of
    ``spec``, the container of a replica.
    """

    name: str
    image: str
    args: tuple[str, ...]
    networks: tuple[str, ...]
    hostname: str
    replicas: int | None = None
    environment: Mapping[str, str] = {}
    files: tuple[File, ...] = ()
    folders: tuple[Folder, ...] = ()
    ports: tuple[Port, ...] = ()
    spec: Spec


class Deployment(Record):
    """All of it; ``networks`` with True lead nowhere else."""

    name: str
    owner: str
    services: tuple[Service, ...]
    networks: Mapping[str, bool]

    def service(self, name: str) -> Service:
        """The service of that name."""
        return next(item for item in self.services if item.name == name)


def images(lab: Lab) -> dict[str, tuple[Path, str]]:
    """The images that a cluster runs, which are built if need be: each tag's layout, and the digest of its manifest."""
    own, servers = farm_images.build(lab).value.layout, builder.servers(lab).layout
    tags = [*((own, site.name) for site in lab.sites), (servers, "web"), (servers, DNS)]
    return {tag: (layout, store.tags(layout)[tag].digest) for layout, tag in tags}


def by_name(replica: Replica) -> str:
    """A replica's own name, where its engine resolves it."""
    return replica.name


def of(
    lab: Lab, images: Mapping[str, str], nodes: Sequence[str], address: Callable[[Replica], str] = by_name
) -> Deployment:  # fmt: skip
    """The lab as services.

    :param images: the reference of each tag (``web`` and the sites) by its digest, in a registry that the nodes reach.
    :param nodes: the nodes' addresses, to which the lab's names lead.
    :param address: how the balancer finds a replica.
    """
    return Deployment(
        name=lab.name,
        owner=balancer_config.identity(lab),
        services=(
            *(_site(lab, site, images[site.name]) for site in lab.sites),
            _balancer(lab, images["web"], address),
            *((_dns(lab, images[DNS], nodes),) if DNS in images else ()),
        ),
        networks={FRONT: False, **{network(site.name): True for site in lab.sites}},
    )


def network(site: str) -> str:
    """The name of a site's network: no other site's replica is on it."""
    return f"farm-{site}"


def _site(lab: Lab, site: Site, image: str) -> Service:
    replicas = lab.replicas_of(site.name)
    spec = container.replica_spec(lab, replicas[0])
    return Service(
        name=site.name,
        image=image,
        args=spec.args,
        replicas=len(replicas),
        environment={**spec.environment, REPLICA_VARIABLE: f"{site.name}-{SLOT}"},
        hostname=f"{site.name}-{SLOT}",
        networks=(network(site.name),),
        folders=_folders(lab),
        spec=spec,
    )


def _balancer(lab: Lab, image: str, address: Callable[[Replica], str]) -> Service:
    """apache2 on every node: it finds the replicas on every node."""
    place = Place(
        folder=RUN,
        script=SCRIPT,
        listen=str(lab.proxy.port),
        error_log="/proc/self/fd/2",
        access_log="/proc/self/fd/1",
        user="",
        address=address,
        more="addressttl=1",
        lost=(500, 502, 504),  # 500: the name of a task that was stopped is known no more
    )
    return Service(
        name=BALANCER,
        image=image,
        args=("apache2", "-f", CONFIGURATION, "-D", "FOREGROUND"),
        networks=(*(network(site.name) for site in lab.sites), FRONT),
        environment={"RES_OPTIONS": "timeout:1 attempts:1"},
        hostname=BALANCER,
        files=(
            File(name="balancer", path=CONFIGURATION, text=balancer_config.config(lab, place)),
            File(name="forward", path=SCRIPT, text=balancer_config.SCRIPT),
        ),
        folders=_folders(lab),
        ports=(Port(number=lab.proxy.port),),
        spec=_other(lab).model_copy(update={"pids": BALANCER_PIDS}),
    )


def _dns(lab: Lab, image: str, nodes: Sequence[str]) -> Service:
    """dnsmasq on every node: each site's name leads to all nodes' balancers."""
    names = [lab.host_name(label) for label in (BALANCER, "ns", *(site.name for site in lab.sites))]
    text = "".join(f"{node} {name}\n" for node in nodes for name in names)
    words = (
        "dnsmasq", "--keep-in-foreground", "--conf-file=", "--no-resolv", "--no-hosts", f"--addn-hosts={HOSTS}", "--user=", "--pid-file=",
        "--log-facility=-", f"--auth-server={lab.host_name('ns')},eth0,eth1,eth2", f"--auth-zone={lab.domain}", "--auth-ttl=60",
    )  # fmt: skip
    return Service(
        name=DNS,
        image=image,
        args=words,
        networks=(FRONT,),
        hostname=DNS,
        files=(File(name="hosts", path=HOSTS, text=text),),
        ports=(Port(number=DNS_PORT, protocol="udp"), Port(number=DNS_PORT)),
        spec=_other(lab),
    )


def _other(lab: Lab) -> Spec:
    """What holds for a replica's container holds for the others, too."""
    return container.replica_spec(lab, lab.farm[0])


def _folders(lab: Lab) -> tuple[Folder, ...]:
    return (
        Folder(path=RUN, mib=1),
        Folder(path=LOCK, mib=1),
        Folder(path=LOGS, mib=lab.containers.written_mib),
    )
