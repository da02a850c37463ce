"""Addresses in the farm's subnet, numbers of sites, and names of network interfaces.

Numbers are plain, and no host's number changes when others come or go: while the farm is up, the lab's state
remembers what was allotted (:class:`Allotment`, which :func:`remembered` reads). All else is pure.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Network
from itertools import chain, count
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from labkit import reading

#: The private networks (RFC 1918, section 3).
PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))


def block_width(sites: int) -> int:
    """The distance between the addresses of a site's replicas: 10, 20, 40, …, more than the number of sites."""
    width = 10
    while width <= sites:
        width *= 2
    return width


class Allotment(BaseModel):
    """The numbers of sites, and of replicas as hosts in the subnet, by name; ``netns`` is the host side's namespace."""

    model_config = ConfigDict(frozen=True)

    netns: str = ""
    sites: Mapping[str, int] = {}
    hosts: Mapping[str, int] = {}


def remembered(file: Path) -> Allotment:
    """Reads an allotment; an empty one if the file cannot be read."""
    try:
        return Allotment.model_validate(reading.json_of(file))
    except (OSError, ValueError, ValidationError):
        return Allotment()


def numbered(names: Sequence[str], kept: Mapping[str, int]) -> dict[str, int]:
    """Each site's number, from 1: numbers in ``kept`` stay; a new site gets its place in the list, or the first number that
    no site had. Pure."""
    found = {name: kept[name] for name in names if kept.get(name, 0) > 0}
    if len(set(found.values())) < len(found):  # somebody has edited them
        found = {}
    used = {*kept.values(), *found.values()}
    for place, name in enumerate(names, 1):
        if name not in found:
            found[name] = place if place not in used else next(n for n in count(1) if n not in used)
            used.add(found[name])
    return {name: found[name] for name in names}


def allot(
    sites: Mapping[str, tuple[int, int]],
    size: int,
    kept: Mapping[str, int],
    taken: Collection[int] = (),
) -> dict[str, int]:
    """The host number of each replica of a farm, site by site, in a subnet of ``size`` numbers. Pure.

    A new replica gets ``width * index + the site's number`` (``site2-1`` of up to nine sites: 12), or a number near it,
    or the first free one; numbers in ``kept`` stay.

    :param sites: each site's own number and that of its replicas, by its name.
    :param taken: numbers of hosts that left this farm, and may still be up.
    """
    width = block_width(len(sites))
    names = {
        f"{site}-{index}": (index, place)
        for site, (place, many) in sites.items()
        for index in range(1, many + 1)
    }
    found: dict[str, int] = {}
    used: set[int] = set()
    for name in names:
        number = kept.get(name, 0)
        if 1 < number < size - 1 and number not in used:
            found[name] = number
            used.add(number)
    for name, (index, place) in names.items():
        if name not in found:
            numbers = partial(_numbers, width, index, place, size, used)
            found[name] = next(chain((n for n in numbers() if n not in taken), numbers()))
            used.add(found[name])
    return {name: found[name] for name in names}


def _numbers(width: int, index: int, place: int, size: int, used: set[int]) -> Iterator[int]:
    """The free numbers for a replica, the preferred ones first."""
    row = (width * index + other for other in (place, *range(1, width)))
    return (n for n in chain(row, range(2, size - 1)) if n < size - 1 and n not in used)


def faults(text: str, counts: Sequence[int]) -> Iterator[tuple[str, str]]:
    """What is wrong with a subnet that must have an address for the bridge and for each replica: an error's code and
    its words. ``counts`` has a number of replicas for each site. Pure."""
    try:
        subnet = IPv4Network(text)
    except ValueError as error:
        yield "subnet", f"{error}: write it like 10.60.0.0/24"
        return
    if not any(subnet.subnet_of(network) for network in PRIVATE):
        yield "subnet", f"{subnet} is not a private network (RFC 1918): write it like 10.60.0.0/24"
    needed = block_width(len(counts)) * max(counts) + len(counts)
    there = max(subnet.num_addresses - 2, 0)
    if needed > there:
        yield (
            "subnet-small",
            (
                f"{subnet} has {there} addresses and this farm numbers its hosts up to {needed}: "
                f"use a /{32 - (needed + 2).bit_length()} or fewer replicas"
            ),
        )


#: An interface's name is at most this long (Linux, IFNAMSIZ less the closing NUL).
LENGTH = 15
#: Characters of a hash that stands for the rest of a name: of a thousand long ones, two are the same once in 70,000 farms.
HASH = 7


def ifname(*parts: str) -> str:
    """The name of the parts, joined by hyphens; a long one ends in a hash of the whole. Pure."""
    whole = "-".join(parts)
    if len(whole) <= LENGTH:
        return whole
    hashed = base64.b32encode(hashlib.sha256(whole.encode()).digest()).decode().lower()
    return f"{whole[: LENGTH - 1 - HASH]}-{hashed[:HASH]}"
