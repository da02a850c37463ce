"""The replicas' pages compared: every replica of a site serves the same page, and no two sites are alike."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence

from labkit.checks import Check
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted, curl, quoted
from labkit.farm.network import host
from labkit.farm.services import fetch
from labkit.farm.services.fetch import Reply, Target
from labkit.model.lab import Lab, Replica
from labkit.records import Record

__all__ = ["compare"]

#: As much is told of a page's title.
TITLE = 200


def __dir__() -> list[str]:
    return __all__


class Served(Record):
    """A replica's answer: ``header`` is the replica that it names; ``page`` the fingerprint (12
    hexadecimal digits) of its body without the replica's own name and address."""

    replica: str
    site: str
    address: str
    status: int
    title: str
    header: str
    page: str


@action("site.compare")
def compare(lab: Lab) -> Outcome[tuple[Served, ...]]:
    """Asks each replica once, at its address, and compares the answers.

    The table ``served`` has one row a replica. Raises :class:`FarmError` when a replica does not answer at all.

    Example: ``{item.page for item in served.compare(lab).value}``
    """
    seen = tuple(served(replica, _ask(lab, replica), lab) for replica in lab.farm)
    pages = {item.page for item in seen}
    return Outcome(
        value=seen,
        subject=lab.name,
        summary=(
            f"{counted(len(pages), 'different page')} for {counted(len(lab.sites), 'site')}, "
            f"served by {counted(len(seen), 'replica')}."
        ),
        checks=checks(lab, seen),
        tables=(_table(seen),),
    )


def served(replica: Replica, reply: Reply, lab: Lab) -> Served:
    """The answer in the terms that replicas are compared in. Pure."""
    title = re.search(r"<title>(.*?)</title>", reply.body, re.DOTALL)
    return Served(
        replica=replica.name,
        site=replica.site,
        address=str(replica.address),
        status=reply.status,
        title=html.unescape(title[1]).strip()[:TITLE] if title else "",
        header=reply.replica,
        page=_fingerprint(lab, replica, reply.body),
    )


def checks(lab: Lab, seen: Sequence[Served]) -> tuple[Check, ...]:
    """Whether each site's replicas serve its one page under their own names, and sites differ. Pure."""
    return (*(_site_check(lab, site.name, seen) for site in lab.sites), _apart_check(lab, seen))


def _ask(lab: Lab, replica: Replica) -> Reply:
    there = Target(
        label=replica.name, host=lab.host_name(replica.name), address=replica.address, port=80
    )
    return fetch.reach(lab, there)


def _fingerprint(lab: Lab, replica: Replica, body: str) -> str:
    for own in (lab.host_name(replica.name), replica.name, str(replica.address)):
        body = body.replace(own, "")
    return hashlib.sha256(body.encode()).hexdigest()[:12]


def _site_check(lab: Lab, site: str, seen: Sequence[Served]) -> Check:
    """One page, the site's title on it, and as many names as there are replicas."""
    own = [item for item in seen if item.site == site]
    title = lab.title(lab.site(site))
    names = {item.header for item in own}
    expected = f"{counted(len(own), 'replica')}, one page {quoted(title)}"
    titles = ", ".join(sorted({quoted(item.title) for item in own}))
    pages = len({item.page for item in own})
    said = f"{counted(len(names), 'replica')}, {'one page' if pages == 1 else f'{pages} pages'} {titles}"
    addresses = (f"http://{item.address}/" for item in own)
    return Check(
        name=f"site.page.{site}",
        expected=expected,
        seen=said,
        holds=said == expected and names == {item.replica for item in own},
        rows=("R11", "E4"),
        again=host.again(lab, curl(*addresses, options="--include")),
    )


def _apart_check(lab: Lab, seen: Sequence[Served]) -> Check:
    count = len(lab.sites)
    pages, titles = len({item.page for item in seen}), len({item.title for item in seen})
    return Check(
        name="site.told-apart",
        expected=_apart(count, count, count),
        seen=_apart(count, titles, pages),
        holds=titles == pages == count,
        rows=("R11",),
        again=host.again(
            lab, curl(*(f"http://{item.address}/" for item in seen), options="--silent")
        ),
    )


def _apart(sites: int, titles: int, pages: int) -> str:
    return ", ".join(map(counted, (sites, titles, pages), ("site", "title", "page")))


def _table(seen: Sequence[Served]) -> Table:
    rows = [{**item.model_dump(), "replica in the header": item.header} for item in seen]
    columns = ("address", "status", "title", "replica in the header", "page")
    return Table.of("served", "What each replica serves", rows, columns=columns)
