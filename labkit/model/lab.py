"""Lab: one frozen description, from which every name, address and path is derived.

A lab is read from ``lab.toml`` (:meth:`Lab.load`) and a notebook's parameters (:meth:`Lab.from_parameters`);
both are checked whole before anything is made. Nothing else here reads a file or touches the machine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, model_validator

from labkit.display import counted
from labkit.model import addresses
from labkit.model import parameters as cells
from labkit.model.addresses import Allotment, ifname
from labkit.model.config import (
    PARAMETERS,
    Configuration,
    Fault,
    Site,
    explain,
    find_file,
    overlaid,
    project_folder,
    read_toml,
    require_apart,
    resolved,
    tuples,
    unknown,
)

#: The most characters of a name in the DNS, and the port of the lab's name server.
NAME, DNS_PORT = 253, 53
#: Names in the lab's zone that are not a site's.
RESERVED = ("ns", "balancer")
#: The colours of the sites' pages and of their figures: Okabe and Ito's, told apart by everybody.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")


class Replica(BaseModel):
    """One server of a site: everything that is derived for it."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    site: str
    index: int
    address: IPv4Address
    weight: int
    link: str
    netns: str
    mac: str


class Lab(Configuration):
    """One configured lab. Two labs with different names, subnets and wiki ports fit on one machine."""

    _allotment: Allotment = PrivateAttr(default_factory=Allotment)

    # -- reading -----------------------------------------------------------------------------

    @classmethod
    def of(
        cls, values: Mapping[str, Any], source: str = "the configuration", **parameters: object
    ) -> Lab:
        """A lab from nested values, whose replicas have the addresses of a farm that was never up. Pure.

        :raises ConfigError: names the key, the reason, the remedy, and where the value is from: ``source``, or
            one of the flat ``parameters`` that were laid over it.
        """
        try:
            return cls.model_validate(tuples(values))
        except ValidationError as error:
            raise explain(error, source, cls, parameters, PARAMETERS) from None

    def allotted(self, allotment: Allotment) -> Lab:
        """The same lab, whose sites and replicas keep the numbers that they have in ``allotment``. Pure."""
        lab = Lab.of(self.model_dump())
        lab._allotment = allotment
        return lab

    @classmethod
    def load(cls, path: Path | None = None, **parameters: object) -> Lab:
        """The lab of ``path`` (default: ``lab.toml`` here or in a folder above, else the defaults),
        with ``parameters`` (flat names, see :data:`PARAMETERS`) laid over it; None is 'not given'.

        Its replicas have the addresses that they have on this machine while the farm is up.
        """
        found = path or find_file("lab.toml")
        values = overlaid(read_toml(found) if found else {}, parameters)
        base = found.parent if found else project_folder()
        values["outputs"] = resolved(base, values.get("outputs", "outputs"))
        wiki = values.get("wiki")
        if isinstance(wiki, dict) and wiki.get("assignment"):
            wiki["assignment"] = resolved(base, wiki["assignment"])
        lab = cls.of(values, str(found) if found else "the parameters", **parameters)
        own = {"state": lab.state_dir, "cache": lab.cache_dir, "run": lab.run_dir}
        require_apart({**own, "outputs": lab.output_dir})
        return lab.recalled()

    def recalled(self) -> Lab:
        """The same lab with the addresses that its state remembers: reads :attr:`addresses_file`."""
        return self.allotted(addresses.remembered(self.addresses_file))

    @classmethod
    def from_parameters(cls, namespace: Mapping[str, object]) -> Lab:
        """The lab of a notebook: ``namespace`` is its ``globals()``.

        Taken are the names of :data:`PARAMETERS` that its parameters cell, or papermill's, assigns. A
        misspelt one is an error: papermill itself only warns of it, and Python not at all.
        """
        executed = cast("list[str]", namespace.get("In", []))
        path = os.environ.get("LABKIT_FILE")
        given = cells.parameters(executed, namespace, PARAMETERS)
        return cls.load(Path(path) if path else None, **given)

    # -- checks across fields ----------------------------------------------------------------

    @model_validator(mode="after")
    def _consistent(self) -> Lab:
        for key, code, complaint in self._faults():
            raise Fault(code, f"{key}: {complaint}")
        return self

    def _faults(self) -> Iterator[tuple[str, str, str]]:
        """What is wrong across fields: the key that the complaint is about, the error's code, and the complaint."""
        names = [site.name for site in self.sites]
        for name, site in zip(names, self.sites, strict=True):
            if names.count(name) > 1:
                yield "sites", "site-twice", f"two sites have the name {name!r}: rename one"
            if name in RESERVED:
                yield (
                    "sites",
                    "site-name",
                    f"{name!r} is a host of labkit's own: choose another name",
                )
            count, weights = self._counts[name], len(site.weights)
            if weights not in (0, count):
                said = f"{counted(count, 'replica')} and {counted(weights, 'weight')}"
                yield "sites", "weights", f"{name} has {said}: give one weight for each replica"
        for code, complaint in addresses.faults(self.network.subnet, [*self._counts.values()]):
            yield "network.subnet", code, complaint
        replicas = [f"{s}-{n}" for s, count in self._counts.items() for n in range(1, count + 1)]
        for name in replicas:
            if len(name) > 63:
                yield (
                    "sites",
                    "label",
                    f"{name!r} is too long for a DNS label: shorten the site's name",
                )
            if name in names:
                yield (
                    "sites",
                    "site-name",
                    f"{name!r} is the name of a site and of a replica: rename the site",
                )
            if self.host.netns == f"{self.name}-{name}":
                yield (
                    "host.netns",
                    "netns-replica",
                    (
                        f"{self.host.netns!r} is the name of a replica's network namespace: choose another"
                    ),
                )
        longest = max(map(len, (*replicas, *names, *RESERVED))) + 1 + len(self.domain)
        if longest > NAME:
            yield (
                "dns.domain",
                "domain",
                (
                    f"a host's name in it has {longest} characters; at most {NAME} are allowed (RFC 1035): shorten it"
                ),
            )
        if bool(self.engine.lose) is not bool(self.engine.restore):
            yield (
                "engine.restore",
                "lose",
                "engine.lose and engine.restore belong together: set both or neither",
            )
        if self.proxy.port == DNS_PORT:
            yield (
                "proxy.port",
                "port-of-dns",
                (
                    f"{DNS_PORT} is the port of the lab's name server, which has the same address: choose another"
                ),
            )

    # -- names and addresses -----------------------------------------------------------------

    @cached_property
    def subnet(self) -> IPv4Network:
        """The farm's IP network."""
        return IPv4Network(self.network.subnet)

    @cached_property
    def gateway(self) -> IPv4Interface:
        """The bridge's address, with the prefix length; DNS server and balancer answer there too."""
        return IPv4Interface(f"{self.subnet[1]}/{self.subnet.prefixlen}")

    @property
    def bridge(self) -> str:
        """The bridge's interface name."""
        return ifname("br", self.name)

    @property
    def netns(self) -> str | None:
        """The host's network namespace, None for the machine's own."""
        return self.host.netns or None

    @property
    def domain(self) -> str:
        """The lab's domain, without a closing dot."""
        return self.dns.domain or f"{self.name}.test"

    def link_name(self, replica: str) -> str:
        """The host's end of a replica's link."""
        return ifname(self.name, replica)

    def host_name(self, label: str) -> str:
        """The full name of a site or a replica: ``site1.lab.test``."""
        return f"{label}.{self.domain}"

    def url(self, label: str, path: str = "/") -> str:
        """The address of a site (through the balancer) or of a replica, by its ``label``, for a browser."""
        port = f":{self.proxy.port}" if label in self.places and self.proxy.port != 80 else ""
        return f"http://{self.host_name(label)}{port}{path}"

    @cached_property
    def farm(self) -> tuple[Replica, ...]:
        """All replicas, site by site, each with its present or future address
        (:func:`labkit.model.addresses.allot`)."""
        known, sites = self._allotment, self._counts
        own = {f"{site}-{index}" for site, count in sites.items() for index in range(1, count + 1)}
        others = [number for name, number in known.hosts.items() if name not in own]
        taken = others if known.netns == self.host.netns else []
        asked = {name: (self.numbers[name], count) for name, count in sites.items()}
        found = addresses.allot(asked, self.subnet.num_addresses, known.hosts, taken)
        return tuple(
            self._replica(site, index, found[f"{site.name}-{index}"])
            for site in self.sites
            for index in range(1, sites[site.name] + 1)
        )

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Each site's number, from 1, by its name; it is on the site's page, and decides its colour and addresses."""
        return addresses.numbered([site.name for site in self.sites], self._allotment.sites)

    @property
    def allotment(self) -> Allotment:
        """The numbers that sites and replicas had when the lab was loaded."""
        return self._allotment

    @property
    def _counts(self) -> dict[str, int]:
        """Each site's number of replicas."""
        return {site.name: site.replicas or self.replicas for site in self.sites}

    def _replica(self, site: Site, index: int, number: int) -> Replica:
        name = f"{site.name}-{index}"
        return Replica(
            name=name,
            site=site.name,
            index=index,
            address=self.subnet[number],
            weight=site.weights[index - 1] if site.weights else 1,
            link=self.link_name(name),
            netns=f"{self.name}-{name}",
            mac=mac_of(name),
        )

    def site(self, name: str) -> Site:
        """The site of that name."""
        if name not in self.places:
            raise unknown(name, self.places, "a site of this lab")
        return self.sites[self.places[name]]

    def replica(self, name: str) -> Replica:
        """The replica of that name (``site1-2``)."""
        known = {replica.name: replica for replica in self.farm}
        if name not in known:
            raise unknown(name, known, "a replica of this lab")
        return known[name]

    def replicas_of(self, site: str) -> tuple[Replica, ...]:
        """The replicas of one site, in order."""
        self.site(site)
        return tuple(replica for replica in self.farm if replica.site == site)

    @cached_property
    def places(self) -> dict[str, int]:
        """Each site's place in the list of sites, from 0, by its name."""
        return {site.name: place for place, site in enumerate(self.sites)}

    def title(self, site: Site) -> str:
        """The heading of the site's page."""
        return site.title or f"Site {self.numbers[site.name]}: {site.name}"

    def colour(self, site: Site) -> str:
        """The site's colour, ``#rrggbb``."""
        return site.colour or COLOURS[(self.numbers[site.name] - 1) % len(COLOURS)]

    # -- paths -------------------------------------------------------------------------------

    @property
    def state_dir(self) -> Path:
        """The folder that outlives a boot: images, the wiki's data, the journal."""
        return Path(self.state) / self.name

    @property
    def cache_dir(self) -> Path:
        """The folder that all labs of the machine share: root file systems, Debian packages."""
        return Path(self.cache or f"{self.state}/.cache")

    @property
    def run_dir(self) -> Path:
        """The folder that a boot empties: runC's state, mounts, sockets, pid files."""
        return Path(self.run) / self.name

    @property
    def output_dir(self) -> Path:
        """The folder of results for people: records, figures, notebooks, the review site."""
        return Path(self.outputs) / self.name

    @property
    def journal_file(self) -> Path:
        """The journal: what labkit made on this machine for this lab."""
        return self.state_dir / "journal.jsonl"

    @property
    def addresses_file(self) -> Path:
        """The file with the replicas' addresses while the farm is up."""
        return self.state_dir / "addresses" / "hosts.json"


def mac_of(name: str) -> str:
    """The MAC address for a link's end of that name: a local one (IEEE 802), always the same."""
    return "02:" + hashlib.sha256(name.encode()).digest()[:5].hex(":")


def resolv_conf(lab: Lab) -> str:
    """The text of resolv.conf(5): the lab's server alone; ``site1`` is short for ``site1.lab.test``."""
    return (
        f"# The name server of lab {lab.name}.\n"
        f"nameserver {lab.gateway.ip}\n"
        f"search {lab.domain}\n"
        "options timeout:1 attempts:2\n"
    )
