"""What a client of a cluster sees: every site's page from every replica, through each node's balancer; and the names."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

from labkit.checks import Check, equal
from labkit.display import counted, curl
from labkit.errors import FarmError
from labkit.farm.services import dns_server, fetch
from labkit.farm.services.fetch import Reply, Target
from labkit.farm.traffic import measurements
from labkit.farm.traffic.load import Load, frame
from labkit.kernel.netns import inside
from labkit.model.lab import Lab

#: So many requests more than replicas are sent to see each of them.
MORE = 4
#: How many requests show how a site's are divided, and how many are under way at a time.
REQUESTS, CLIENTS = 200, 4
#: The most seconds in which they are sent.
LIMIT = 10.0


def target(lab: Lab, node: str, site: str) -> Target:
    """A site at a node's balancer."""
    return Target(
        label=site, host=lab.host_name(site), address=IPv4Address(node), port=lab.proxy.port
    )


def unanswered(lab: Lab, nodes: Sequence[str]) -> str:
    """Which replica does not answer with the page through a node's balancer; '' when all do."""
    for node in nodes:
        for site in lab.sites:
            own = {item.name for item in lab.replicas_of(site.name)}
            replies = _replies(lab, node, site.name)
            wrong = [item for item in replies if isinstance(item, str) or item.status != 200]
            seen = {item.replica for item in replies if isinstance(item, Reply)}
            if wrong:
                said = wrong[0] if isinstance(wrong[0], str) else f"status {wrong[0].status}"
                return f"{site.name} at {node}: {said}"
            if own - seen:
                return f"{site.name} at {node}: no answer from {', '.join(sorted(own - seen))}"
    return ""


def pages(lab: Lab, nodes: Sequence[str]) -> Iterator[Check]:
    """Whether each site's page comes from all its replicas through each node."""
    for node in nodes:
        for site in lab.sites:
            own = {item.name for item in lab.replicas_of(site.name)}
            replies = _replies(lab, node, site.name)
            names = sorted(
                {item.replica for item in replies if isinstance(item, Reply) and item.status == 200}
            )
            failed = [
                item if isinstance(item, str) else f"status {item.status}"
                for item in replies
                if isinstance(item, str) or item.status != 200
            ]
            expected = f"the page from {', '.join(sorted(own))}"
            said = f"the page from {', '.join(names) or 'no replica'}"
            yield equal(
                f"engine.page.{node}.{site.name}", expected, f"{said}; {counted(len(failed), 'failure')}: {failed[0]}" if failed else said,
                again=curl(f"http://{node}:{lab.proxy.port}/", options=f"-si -H 'Host: {lab.host_name(site.name)}'"),
            )  # fmt: skip


def distribution(lab: Lab, nodes: Sequence[str]) -> Iterator[Check]:
    """Whether the first node's balancer divides each site's requests over its replicas as on one machine: by the weights.

    The method ``bytraffic`` makes up for what a replica missed before, and only one machine's balancer can be made to
    begin anew: of it no more is expected than the page.
    """
    places = [(node, site) for node in nodes[:1] for site in lab.sites]
    for node, site in places:
        one = Load(
            lab, target(lab, node, site.name), secrets.token_hex(6), concurrency=CLIENTS, requests=REQUESTS, limit=LIMIT,
        )  # fmt: skip
        value = measurements.measured(lab, one, frame(one.run()))
        expected, holds = measurements.expectation(value)
        if value.lbmethod == "bytraffic":
            expected, holds = "the page, from whichever replica", True
        seen = ", ".join(f"{part.replica} {part.observed}" for part in value.shares)
        yield Check(
            name=f"engine.distribution.{site.name}", expected=expected, seen=f"{seen} ({value.fit.text})", holds=holds and not value.failed,
            again=curl(f"http://{node}:{lab.proxy.port}/", options=f"-si -H 'Host: {lab.host_name(site.name)}'"),
        )  # fmt: skip


def names(lab: Lab, nodes: Sequence[str]) -> Iterator[Check]:
    """Whether each node's name server leads the sites' names to all nodes, and knows no other name."""
    labels = ["balancer", *(site.name for site in lab.sites)]
    asked = [lab.host_name(label) for label in (*labels, "no-such")]
    for node in nodes:
        again = f"dig @{node} {asked[1]}"
        try:
            answers = dns_server.ask(lab, [(name, "A") for name in asked], server=node)
        except FarmError as error:
            yield equal(f"engine.names.{node}", "answers", error.reason, again=again)
            continue
        expected = [", ".join(sorted(nodes))] * len(labels) + ["NXDOMAIN"]
        seen = [", ".join(sorted(answer.values)) or answer.status for answer in answers]
        wrong = [
            f"{name}: {value}"
            for name, one, value in zip(asked, expected, seen, strict=True)
            if one != value
        ]
        said = f"{counted(len(labels), 'name')} lead to {expected[0]}; another is unknown"
        yield equal(f"engine.names.{node}", said, "; ".join(wrong) or said, again=again)


def _replies(lab: Lab, node: str, site: str) -> list[Reply | str]:
    return inside(lab.netns, _ask, target(lab, node, site), len(lab.replicas_of(site)) + MORE)


def _ask(there: Target, times: int) -> list[Reply | str]:
    found: list[Reply | str] = []
    for _ in range(times):
        try:
            found.append(fetch.get(there, patience=3.0))
        except fetch.ERRORS as error:
            found.append(fetch.reason(error))
            break
    return found
