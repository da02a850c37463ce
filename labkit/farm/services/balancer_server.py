"""The lab's apache2: its state, the graceful reload that brings it to the Lab's configuration, and its workers.

A worker is a replica as the balancer sees it. Apache's balancer-manager tells of the workers and withdraws
them; it answers root on the host alone, who can ask from a port below 1024.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path
from xml.etree import ElementTree

from labkit import cancellation
from labkit.core import accesslog, daemon, run, undo
from labkit.core.daemon import Daemon
from labkit.core.files import text_of, write_atomically
from labkit.core.journal import Journal
from labkit.errors import FarmError
from labkit.farm.network.host import again, is_here, require_address, whereabouts
from labkit.farm.services import balancer_config, fetch
from labkit.farm.services.balancer_config import FINGERPRINT_PATH, STATUS_PATH
from labkit.farm.services.fetch import Reply, Target
from labkit.kernel.netns import NamespaceError, inside
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: The code of the error that another server has the balancer's address.
FOREIGN = "farm.foreign-balancer"
#: How long a process of the balancer may take to end after a reload, in seconds.
PATIENCE = 10.0
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
    def withdrawn(self) -> bool:
        """Whether a person or an action keeps (new) requests from it: it drains, is stopped or disabled."""
        return not WITHDRAWN.keys().isdisjoint(self.status.split())

    @property
    def failed(self) -> bool:
        """Whether it gets no requests although nothing withdrew it."""
        return not (self.usable or self.withdrawn)


class Members(Record):
    """A site's balancer: its method, its workers, and the nonce that a change must repeat."""

    name: str
    method: str
    workers: tuple[Worker, ...]
    nonce: str


def server(lab: Lab) -> Daemon:
    """How the lab's apache2 is started."""
    folder = balancer_config.folder(lab)
    file = folder / "apache2.conf"
    return Daemon(
        name="balancer",
        argv=("apache2", "-f", str(file), "-k", "start"),
        config=file,
        pidfile=folder / "apache2.pid",
        log=balancer_config.logs(lab) / "error.log",
        netns=lab.netns,
    )


def script(lab: Lab) -> Path:
    """The program by which the balancer passes requests on; apache2's children read it."""
    return balancer_config.folder(lab) / balancer_config.SCRIPT_FILE


def wanted(lab: Lab) -> dict[str, str]:
    """The facts of a balancer that is as the Lab says, by name. Pure."""
    text = balancer_config.config(lab)
    return {
        "process": "running",
        "listens": balancer_config.listens(text),
        **balancer_config.facts(text),
        "configuration": balancer_config.fingerprint(text),
        "served": balancer_config.running_fingerprint(text),
        "workers": "in service",
    }


def observed(lab: Lab) -> dict[str, str] | None:
    """The same facts as they are now; None when there is neither a balancer nor its files."""
    instance = server(lab)
    running, text = daemon.pid(instance), text_of(instance.config)
    if running is None and text is None:
        return None
    text = text or ""
    process = whereabouts(lab, running)
    here = process == "running"
    out = withdrawn(lab) if here else ()
    return {
        "process": process,
        "listens": balancer_config.listens(text) or "none",
        **{f"site {site.name}": "none" for site in lab.sites},
        **balancer_config.facts(text),
        "configuration": balancer_config.fingerprint(text)
        if text_of(script(lab)) == balancer_config.SCRIPT
        else f"without its {balancer_config.SCRIPT_FILE}",
        "served": _served(lab, text) if here else "nothing",
        "workers": f"withdrawn: {', '.join(out)}" if out else "in service",
    }


def answer(lab: Lab, there: Target | None = None) -> Reply:
    """The reply of the lab's balancer, at the address that the Lab gives it (or ``there``).

    :raises FarmError: it does not answer; with the code :data:`FOREIGN` when another server has its address.
    """
    there = there or fetch.front(lab)
    reply, silent = None, None
    try:
        reply = fetch.reach(lab, there, FINGERPRINT_PATH)
    except NamespaceError:
        raise
    except FarmError as error:
        silent = error
    if reply and reply.lab == balancer_config.identity(lab):
        return reply
    who = daemon.listener(there.port, netns=lab.netns, address=str(there.address))
    ours = who and {*undo.daemon_pids(str(server(lab).config))}.intersection(who.pids)
    if reply and ours:  # started by another labkit, or with a configuration that somebody edited
        return reply
    if silent and (ours or not who):
        raise silent
    raise FarmError(
        f"{there.address}:{there.port}, the balancer's address",
        f"a server answers there that is not this lab's balancer: {who or 'a process of another user'}",
        "end that process, or set proxy.port to another port",
        again(lab, f"ss -ltnp 'sport = :{there.port}'"),
        code=FOREIGN,
    )


def converge(lab: Lab) -> bool:
    """Makes the balancer run as the Lab says, all workers in service; whether anything had to change.

    The caller holds the lab's ``farm`` lock.
    """
    changed = install(lab, balancer_config.config(lab))
    return bool(restore(lab)) or changed


def widen(lab: Lab) -> bool:
    """Makes a running balancer that is to listen elsewhere listen at both places, until :func:`converge`.

    Returns whether that was necessary.
    """
    instance, new = server(lab), balancer_config.config(lab)
    text = balancer_config.between(text_of(instance.config) or "", new)
    if text == new or not is_here(lab, daemon.pid(instance)):
        return False
    return install(lab, text)


def install(lab: Lab, text: str) -> bool:
    """Makes the balancer run with this configuration, if apache2 accepts it; the old one stays else."""
    if run.which(accesslog.PROGRAM) is None:
        raise run.missing("rotatelogs")
    run.require("apache2", "ss")
    instance = server(lab)
    running = is_here(lab, daemon.pid(instance))
    current = text_of(instance.config) or ""
    whole = current == text and text_of(script(lab)) == balancer_config.SCRIPT
    if running and whole and _problem(lab, text) is None:
        return False
    require_address(lab)
    if not running or balancer_config.listens(current) != balancer_config.listens(text):
        daemon.require_free(
            lab.proxy.port,
            netns=lab.netns,
            address=str(lab.gateway.ip),
            key="proxy.port",
            own=undo.daemon_pids(str(instance.config)),
        )
    for path in (balancer_config.folder(lab), balancer_config.logs(lab)):
        Journal.of(lab).intend("folder", path=str(path))
        path.mkdir(parents=True, exist_ok=True)
    write_atomically(script(lab), balancer_config.SCRIPT)
    daemon.install(
        lab,
        instance,
        text,
        ("apache2", "-t", "-f", "{}"),
        lambda: _problem(lab, text),
        reload=signal.SIGUSR1 if running else None,
    )
    return True


def _served(lab: Lab, text: str) -> str:
    """The fingerprint that the running balancer tells, where its configuration says that it listens."""
    address, _, port = balancer_config.listens(text).rpartition(":")
    there = fetch.front(lab)
    if address and port.isdigit():
        there = there.model_copy(update={"address": IPv4Address(address), "port": int(port)})
    try:
        return answer(lab, there).configuration
    except FarmError as error:
        return error.reason


def _problem(lab: Lab, text: str) -> str | None:
    """Why the running balancer does not serve by this configuration; None when it does."""
    try:
        running = answer(lab).configuration
    except FarmError as error:
        return error.reason
    expected = balancer_config.running_fingerprint(text)
    return None if running == expected else f"serves configuration {running}, not {expected}"


def serving(lab: Lab) -> tuple[int, ...]:
    """The balancer's processes that answer requests now: a graceful reload lets them end."""
    leader = daemon.pid(server(lab))
    if leader is None:
        return ()
    children = text_of(Path(f"/proc/{leader}/task/{leader}/children")) or ""
    return tuple(int(pid) for pid in children.split() if _is_apache2(int(pid)))


def wait_ended(processes: Sequence[int]) -> None:
    """Waits until the balancer's processes of before a reload have answered their requests and ended."""
    cancellation.until(lambda: not any(map(_is_apache2, processes)), PATIENCE)


def reset_counts(lab: Lab) -> None:
    """Makes the balancer, if it runs, count each replica's requests from zero, by a graceful reload."""
    if before := serving(lab):
        daemon.send(server(lab), signal.SIGUSR1)
        wait_ended(before)


def _is_apache2(pid: int) -> bool:
    return (text_of(Path(f"/proc/{pid}/comm")) or "").strip() == "apache2"


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
        "is not a worker of the balancer",
        "reload it: `./lab run 06-balancer`",
        code="farm.no-worker",
    )


def workers(lab: Lab) -> Iterator[Worker]:
    """The workers of all sites, asked over one connection; none of sites whose balancer does not answer."""
    try:
        answers = inside(lab.netns, _ask_all, [fetch.front(lab, site.name) for site in lab.sites])
    except fetch.ERRORS:
        return
    for text in answers:
        try:
            yield from parse(text).workers
        except FarmError:
            continue


def withdrawn(lab: Lab) -> tuple[str, ...]:
    """The lab's withdrawn workers, each with its status; none when the balancer does not answer."""
    return tuple(f"{item.replica} ({item.status})" for item in workers(lab) if item.withdrawn)


def drain(lab: Lab, replica: Replica, on: bool) -> None:
    """Sets or ends a worker's drain mode: it gets no new requests, and finishes those it has.

    Until the balancer's next reload; :class:`FarmError` when it did not take it.
    """
    change(lab, replica, {WITHDRAWN["Drn"]: str(int(on))})
    if ("Drn" in worker(lab, replica).status.split()) != on:
        raise FarmError(
            replica.name, "the balancer did not change its drain mode", code="farm.drain"
        )


def stop(lab: Lab, replica: Replica, on: bool) -> None:
    """Stops a worker, or ends that: it gets no requests at all, also none of clients that stay with it,
    and no health checks, so that it serves at once when the stop is ended."""
    change(lab, replica, {WITHDRAWN["Stop"]: str(int(on))})


def restore(lab: Lab) -> tuple[str, ...]:
    """Puts every withdrawn worker of the lab back into service; the names of those that were withdrawn."""
    names = [
        item.replica
        for site in lab.sites
        for item in members(lab, site.name).workers
        if item.withdrawn
    ]
    for name in names:
        change(lab, lab.replica(name), dict.fromkeys(WITHDRAWN.values(), "0"))
    return tuple(names)


def change(lab: Lab, replica: Replica, values: Mapping[str, str]) -> None:
    """Sets values of the manager's form for a worker."""
    balancer = members(lab, replica.site)
    name = balancer.name.removeprefix("balancer://")  # as the manager's form takes it
    url = worker(lab, replica).url
    _ask(lab, replica.site, {"b": name, "w": url, "nonce": balancer.nonce, **values})


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
        workers=tuple(
            Worker(
                replica=_text(item, "route"),
                url=_text(item, "name"),
                weight=float(_text(item, "loadfactor")),
                status=_text(item, "status"),
                elected=int(_text(item, "elected")),
                busy=int(_text(item, "busy")),
            )
            for item in balancer.iter(f"{_SPACE}worker")
        ),
        nonce=_text(balancer, "nonce"),
    )


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(f"{_SPACE}{name}") or "").strip()


def _ask(lab: Lab, site: str, form: Mapping[str, str] | None = None) -> str:
    """The manager's answer; it heeds parameters only from its own page (the ``Referer``)."""
    there = fetch.front(lab, site)
    path = STATUS_PATH if form else f"{STATUS_PATH}?xml=1"
    reply = fetch.reach(lab, there, path, headers=_referer(there), form=form, reserved=True)
    if reply.status != 200:
        raise FarmError(
            f"{there.host}{STATUS_PATH}", f"answers {reply.status}", code="farm.balancer-manager"
        )
    return reply.body


def _ask_all(targets: Sequence[Target]) -> list[str]:
    with closing(fetch.connection(targets[0], reserved=True)) as channel:
        path = f"{STATUS_PATH}?xml=1"
        return [
            fetch.answered(channel, there, "GET", path, headers=_referer(there)).body
            for there in targets
        ]


def _referer(there: Target) -> dict[str, str]:
    return {"Referer": f"http://{there.host}{STATUS_PATH}"}
