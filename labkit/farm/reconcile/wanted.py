"""The resources that a Lab asks for, in the order in which they are made. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from labkit.core import firewall_tables
from labkit.farm.containers import written
from labkit.farm.images import siteimages
from labkit.farm.network import firewall
from labkit.farm.services import balancer_instance as balancer
from labkit.farm.services import dns_instance as names
from labkit.model import sites
from labkit.model.lab import Lab, Replica, Site
from labkit.model.resources import Known, Resource, fingerprint


def wanted(lab: Lab, known: Known | None = None) -> tuple[Resource, ...]:
    """Every resource of the lab, each after those that it needs."""
    known = known or Known()
    return (
        *_host_side(lab),
        *(_image(lab, item, known) for item in lab.sites),
        Resource(kind="keys", name=lab.name, facts={"student": "sound", "host": "sound"}),
        *(_namespace(item) for item in lab.farm),
        *(_link(lab, item) for item in lab.farm),
        *(_root(lab, item, known) for item in lab.farm),
        *(_container(item, known) for item in lab.farm),
        _names(lab),
        _balancer(lab),
    )


def page_facts(page: str, host: str) -> dict[str, str]:
    """What a person tells a site's page by, and fingerprints of it and of its virtual host."""
    title, colour = (
        re.search(pattern, page) for pattern in (r"<title>(.*)</title>", r"background: (#\w{6});")
    )
    return {
        "title": title[1] if title else "none",
        "colour": colour[1] if colour else "none",
        "page": fingerprint(page),
        "server": fingerprint(host),
    }


def _host_side(lab: Lab) -> Iterator[Resource]:
    below: tuple[str, ...] = ()
    if lab.netns:
        side = Resource(kind="namespace", name=lab.netns, facts={"name": lab.netns})
        below = (side.id,)
        yield side
    yield Resource(kind="route", name=str(lab.subnet), facts={"type": "unreachable"}, needs=below)
    yield Resource(
        kind="firewall", name=firewall_tables.name_of(lab), facts=firewall.wanted(lab), needs=below
    )
    yield Resource(
        kind="bridge",
        name=lab.bridge,
        facts={"made by": "this lab", "state": "up", "addresses": str(lab.gateway)},
        needs=below,
    )


def _image(lab: Lab, item: Site, known: Known) -> Resource:
    files = sites.files(lab, item)
    facts = {
        "layout": "whole",
        "rootfs": siteimages.made_from(lab, known.suite),
        **page_facts(files[sites.PAGE], files[sites.CONFIGURATION]),
        "unpacked": "yes",
        **({"programs": known.tools} if known.tools else {}),
    }
    return Resource(kind="image", name=item.name, facts=facts)


def _namespace(replica: Replica) -> Resource:
    return Resource(kind="namespace", name=replica.netns, facts={"name": replica.netns})


def _link(lab: Lab, replica: Replica) -> Resource:
    return Resource(
        kind="link",
        name=replica.name,
        facts={
            "made by": "this lab",
            "bridge": lab.bridge,
            "state": "up",
            "addresses on the host": "none",
            "end": "eth0",
            "addresses": f"{replica.address}/{lab.subnet.prefixlen}",
            "gateway": str(lab.gateway.ip),
            "MAC address": replica.mac,
        },
        needs=(f"bridge {lab.bridge}", f"namespace {replica.netns}"),
    )


def _root(lab: Lab, replica: Replica, known: Known) -> Resource:
    facts = {"mounted": "yes", "written at most": written.limit(lab)}
    if replica.name in known.roots:
        facts["made of"] = known.roots[replica.name]
    needs = (f"image {replica.site}", f"keys {lab.name}")
    return Resource(kind="root", name=replica.name, facts=facts, needs=needs)


def _container(replica: Replica, known: Known) -> Resource:
    facts = {"process": "running", "namespace": replica.netns, "answers": "yes"}
    if replica.name in known.configurations:
        facts |= {
            "made of": known.configurations[replica.name],
            "file": known.files[replica.name],
        }
    needs = (f"root {replica.name}", f"namespace {replica.netns}")
    return Resource(kind="container", name=replica.name, facts=facts, needs=needs)


def _names(lab: Lab) -> Resource:
    needs = (f"bridge {lab.bridge}",)
    return Resource(kind="names", name=lab.domain, facts=names.wanted(lab), needs=needs)


def _balancer(lab: Lab) -> Resource:
    needs = (f"bridge {lab.bridge}", *(f"container {item.name}" for item in lab.farm))
    name = lab.host_name("balancer")
    return Resource(kind="balancer", name=name, facts=balancer.wanted(lab), needs=needs)
