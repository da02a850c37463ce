"""What the balancer says of its workers: Apache's balancer-manager, asked from the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from xml.etree import ElementTree

from labkit.errors import FarmError
from labkit.farm.network.netns import inside
from labkit.farm.services import fetch
from labkit.farm.services.balancing import STATUS_PATH
from labkit.farm.services.fetch import Target
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: The XML namespace of mod_proxy_balancer's answer.
_SPACE = "{http://httpd.apache.org}"


#: The statuses that a person sets, and what the manager's form calls each.
WITHDRAWN = {"Drn": "w_status_N", "Stop": "w_status_S", "Dis": "w_status_D"}


class Worker(Record):
    """One replica as the balancer sees it.

    ``status`` is Apache's: ``Init Ok``; ``Err`` after a refused connection, ``HcFl`` after a
    failed health check, ``Drn`` while it drains. ``elected`` counts its requests since the reload,
    ``busy`` those that it has not answered yet.
    """

    replica: str
    url: str
    weight: float
    status: str
    elected: int
    busy: int

    @property
    def usable(self) -> bool:
        """Whether new requests go to it."""
        return "Ok" in self.status.split() and not self.withdrawn

    @property
    def draining(self) -> bool:
        """Whether it gets no new requests because somebody said so."""
        return "Drn" in self.status.split()

    @property
    def withdrawn(self) -> bool:
        """Whether somebody said that it is to have no (new) requests: it drains, is stopped or disabled."""
        return not WITHDRAWN.keys().isdisjoint(self.status.split())


class Members(Record):
    """A site's balancer: its method, its workers, and the word that a change must repeat."""

    name: str
    method: str
    workers: tuple[Worker, ...]
    nonce: str


def members(lab: Lab, site: str) -> Members:
    """The balancer of a site as it is now; :class:`FarmError` when it does not answer."""
    return parse(_ask(lab, site))


def worker(lab: Lab, replica: Replica) -> Worker:
    """One replica as its site's balancer sees it now; :class:`FarmError` when it does not know it."""
    for item in members(lab, replica.site).workers:
        if item.replica == replica.name:
            return item
    raise FarmError(
        replica.name,
        "is no worker of the balancer",
        "reload it: `./lab run 06-balancer`",
        code="farm.no-worker",
    )


def drain(lab: Lab, replica: Replica, on: bool) -> None:
    """Sets or ends a worker's drain mode: it gets no new requests, and finishes those it has.

    Until the balancer's next reload; :class:`FarmError` when it did not take it.
    """
    change(lab, replica, {WITHDRAWN["Drn"]: str(int(on))})
    if worker(lab, replica).draining != on:
        raise FarmError(
            replica.name, "the balancer did not change its drain mode", code="farm.drain"
        )


def stop(lab: Lab, replica: Replica, on: bool) -> None:
    """Stops a worker, or ends that: it gets no requests at all, also none of clients that stay with it,
    and no health checks, so that it serves at once when the stop is ended."""
    change(lab, replica, {WITHDRAWN["Stop"]: str(int(on))})


def change(lab: Lab, replica: Replica, values: Mapping[str, str]) -> None:
    """Sets values of the manager's form for a worker."""
    url, balancer = worker(lab, replica).url, members(lab, replica.site)
    _set(lab, replica.site, balancer, url, values)


def _set(lab: Lab, site: str, balancer: Members, url: str, values: Mapping[str, str]) -> None:
    name = balancer.name.removeprefix("balancer://")  # as the manager's form takes it
    _ask(lab, site, {"b": name, "w": url, "nonce": balancer.nonce, **values})


def withdrawn(lab: Lab) -> tuple[str, ...]:
    """The lab's workers that somebody withdrew, each with its status; none when nobody answers."""
    found = [item for members in everyone(lab) for item in members.workers if item.withdrawn]
    return tuple(f"{item.replica} ({item.status})" for item in found)


def everyone(lab: Lab) -> tuple[Members, ...]:
    """The balancers of all sites, asked over one connection; those that do not answer are left out."""
    try:
        answers = inside(lab.netns, _ask_all, [fetch.front(lab, site.name) for site in lab.sites])
    except fetch.ERRORS:
        return ()
    return tuple(found for text in answers if (found := _parsed(text)))


def _ask_all(targets: Sequence[Target]) -> list[str]:
    with closing(fetch.connected(targets[0])) as channel:
        found = []
        for there in targets:
            port = "" if there.port == 80 else f":{there.port}"
            headers = {"Host": there.host + port, **_referer(there)}
            channel.request("GET", f"{STATUS_PATH}?xml=1", headers=headers)
            found.append(channel.getresponse().read().decode(errors="replace"))
        return found


def _parsed(text: str) -> Members | None:
    try:
        return parse(text)
    except FarmError:
        return None


def restore(lab: Lab) -> tuple[str, ...]:
    """No worker of the lab is withdrawn; the names of those that were."""
    found = [
        lab.replica(item.replica)
        for site in lab.sites
        for item in members(lab, site.name).workers
        if item.withdrawn
    ]
    for replica in found:
        change(lab, replica, dict.fromkeys(WITHDRAWN.values(), "0"))
    return tuple(replica.name for replica in found)


def parse(text: str) -> Members:
    """The (one) balancer of balancer-manager's XML."""
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - the lab's own apache2 wrote it
        balancer = root.find(f"{_SPACE}balancers/{_SPACE}balancer")
    except ElementTree.ParseError:
        balancer = None
    if balancer is None:
        raise FarmError(
            "the balancer-manager's answer", "names no balancer", code="farm.balancer-manager"
        )
    return Members(
        name=_text(balancer, "name"),
        method=_text(balancer, "lbmethod"),
        workers=tuple(_worker(item) for item in balancer.iter(f"{_SPACE}worker")),
        nonce=_text(balancer, "nonce"),
    )


def _worker(element: ElementTree.Element) -> Worker:
    return Worker(
        replica=_text(element, "route"),
        url=_text(element, "name"),
        weight=float(_text(element, "loadfactor")),
        status=_text(element, "status"),
        elected=int(_text(element, "elected")),
        busy=int(_text(element, "busy")),
    )


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(f"{_SPACE}{name}") or "").strip()


def _ask(lab: Lab, site: str, change: Mapping[str, str] | None = None) -> str:
    """The manager's answer; it heeds parameters only from its own page (the ``Referer``)."""
    there = fetch.front(lab, site)
    path = STATUS_PATH if change else f"{STATUS_PATH}?xml=1"
    reply = fetch.reach(lab, there, path, headers=_referer(there), form=change, reserved=True)
    if reply.status != 200:
        raise FarmError(
            f"{there.host}{STATUS_PATH}", f"answers {reply.status}", code="farm.balancer-manager"
        )
    return reply.body


def _referer(there: Target) -> dict[str, str]:
    return {"Referer": f"http://{there.host}{STATUS_PATH}"}
