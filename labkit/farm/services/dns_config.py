"""The lab's DNS zone, dnsmasq's configuration, and how a program resolves by the lab's server. Pure.

A program is started in a mount namespace in which the lab's ``resolv.conf`` lies over
``/etc/resolv.conf``; the mount ends with the program (mount_namespaces(7)), and /etc stays unchanged.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from labkit.core.run import inside
from labkit.model.lab import Lab, resolv_conf
from labkit.records import Record

#: The one fixed shell text: its words are positional arguments, never part of it.
_OVERLAID = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


class Name(Record):
    """A name of the zone and its address."""

    name: str
    address: IPv4Address


class Zone(Record):
    """A zone, the server that answers for it, and its names; each address has a reverse record."""

    domain: str
    server: IPv4Address
    port: int
    names: tuple[Name, ...]


def folder(lab: Lab) -> Path:
    """The folder of the name server's files."""
    return lab.run_dir / "dns"


def hosts_file(lab: Lab) -> Path:
    """The file with the zone's names, which dnsmasq reads."""
    return folder(lab) / "hosts"


def names(lab: Lab) -> tuple[Name, ...]:
    """The zone's names; the first name of an address is the one of its reverse record."""
    here = ["balancer", "ns", *(site.name for site in lab.sites)]
    return (
        *(Name(name=lab.host_name(label), address=lab.gateway.ip) for label in here),
        *(Name(name=lab.host_name(item.name), address=item.address) for item in lab.farm),
    )


def config(lab: Lab) -> str:
    """dnsmasq's configuration without the names, which it reads again without a restart."""
    server = lab.gateway.ip
    return f"""\
# The name server of lab {lab.name}: it answers for {lab.domain} and asks nobody.
listen-address={server}
bind-interfaces
no-resolv
no-hosts
user=nobody
group=nogroup
pid-file={folder(lab) / "dnsmasq.pid"}
log-facility={folder(lab) / "dnsmasq.log"}
auth-server={lab.host_name("ns")},{server}
auth-zone={lab.domain},{lab.subnet}
auth-ttl=60
addn-hosts={hosts_file(lab)}
"""


def hosts(lab: Lab) -> str:
    """The zone's names as hosts(5), which dnsmasq reads again on SIGHUP; the last line is the :func:`mark`."""
    return f"{_lines(lab)}{lab.gateway.ip} {mark(lab)}\n"


def mark(lab: Lab) -> str:
    """A name with the hash of all names in it: the server that knows it serves exactly this zone."""
    return lab.host_name(f"labkit-zone-{hashlib.sha256(_lines(lab).encode()).hexdigest()[:12]}")


def _lines(lab: Lab) -> str:
    return "".join(f"{item.address} {item.name}\n" for item in names(lab))


def resolving(lab: Lab, argv: Sequence[str], *, unshare: Sequence[str] = ()) -> list[str]:
    """The argument list that runs ``argv`` on the host's side with the lab's names.

    ``unshare`` are further options of unshare(1): more namespaces for the program.
    """
    overlaid = ["sh", "-c", _OVERLAID, str(folder(lab) / "resolv.conf"), *argv]
    return inside(["unshare", "--mount", *unshare, "--", *overlaid], lab.netns)


def with_dns(lab: Lab) -> Path:
    """The script that runs any program with the lab's names: ``with-dns getent hosts site1.lab.test``."""
    return folder(lab) / "with-dns"


def files(lab: Lab) -> tuple[tuple[Path, str, int], ...]:
    """Path, text and mode of the files for programs that resolve by the lab's server."""
    script = f'#!/bin/sh\nexec {shlex.join(resolving(lab, ()))} "$@"\n'
    return (
        (folder(lab) / "resolv.conf", resolv_conf(lab), 0o644),
        (with_dns(lab), script, 0o755),
    )
