"""The lab's name server: dnsmasq, authoritative for the lab's zone and for nothing else.

It listens on the bridge's address alone, reads neither /etc/hosts nor /etc/resolv.conf, asks no
other server and refuses every question outside its zone (dnsmasq(8), "authoritative mode").
"""

from __future__ import annotations

from ipaddress import IPv4Address

from labkit.core import daemon
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted
from labkit.errors import ConfigError, FarmError
from labkit.farm.services import resolver
from labkit.farm.services.dns_instance import PORT, converge, server
from labkit.farm.services.question import Answer, ask
from labkit.farm.services.zone import Name, Zone, checks, names
from labkit.model.config import LABEL
from labkit.model.lab import Lab

__all__ = [
    "Answer",
    "Name",
    "Zone",
    "address",
    "checks",
    "converge",
    "down",
    "query",
    "server",
    "up",
]


@action("dns.up")
def up(lab: Lab) -> Outcome[Zone]:
    """The name server answers for the lab's zone, with the names and addresses of the Lab.

    A changed name is read by the running server, which goes on; it is replaced only when its
    configuration is another one, and only after dnsmasq accepted the new one. Raises :class:`MachineError` naming the process that has the
    port, :class:`FarmError` when the bridge has no address or the server does not come up.
    """
    with lock(lab.run_dir, "farm"):
        changed = converge(lab)
    zone = Zone(domain=lab.domain, server=lab.gateway.ip, port=PORT, names=names(lab))
    return Outcome(
        value=zone,
        subject=lab.domain,
        changed=changed,
        summary=f"{zone.server} answers for {zone.domain}: {counted(len(zone.names), 'name')}.",
        checks=checks(lab),
        tables=(_table(zone),),
    )


@action("dns.down")
def down(lab: Lab) -> Outcome[str]:
    """The lab's name server does not run, and its files are gone."""
    with lock(lab.run_dir, "farm"):
        ran = daemon.stop(lab, server(lab))
        for file in sorted(resolver.folder(lab).glob("*")):
            file.unlink()
    said = "was ended" if ran else "did not run"
    return Outcome(
        value=lab.domain, subject=lab.domain, changed=ran, summary=f"The name server {said}."
    )


def query(lab: Lab, name: str, kind: str = "A") -> Answer:
    """The server's answer, asked from the host's side; a ``name`` without a dot is in the lab's zone.

    ``kind`` is a record type's name (A, AAAA, PTR, SOA, NS …); PTR takes an address as the name
    too. That a name does not exist is an answer (``status`` NXDOMAIN); :class:`FarmError` is
    raised when none comes, :class:`ConfigError` when the question is none.
    """
    full = lab.host_name(name) if "." not in name else name
    return ask(lab, [(full, kind)])[0]


def address(lab: Lab, label: str) -> IPv4Address:
    """The address that the lab's server gives for a site or a replica; :class:`FarmError` if none."""
    if not LABEL.fullmatch(label):
        raise ConfigError(
            repr(label), "is no DNS label", "name a site or a replica", code="config.label"
        )
    answer = query(lab, label)
    if not answer.values:
        raise FarmError(
            lab.host_name(label),
            f"the lab's name server knows no address for it ({answer.status})",
            "bring the name server up to date: `./lab run 06-balancer`",
            f"{resolver.with_dns(lab)} getent hosts {lab.host_name(label)}",
            code="farm.no-name",
        )
    return IPv4Address(answer.values[0])


def _table(zone: Zone) -> Table:
    rows = [{"name": item.name, "address": str(item.address)} for item in zone.names]
    return Table.of("names", f"The zone {zone.domain}", rows)
