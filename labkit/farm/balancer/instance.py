"""The running balancer held against the Lab, and brought to it by a graceful reload where it runs."""

from __future__ import annotations

import signal
from ipaddress import IPv4Address
from pathlib import Path

from labkit import accesslog, daemon, run, undo
from labkit.daemon import Daemon
from labkit.errors import CommandError, FarmError
from labkit.farm.balancer import balancing, workers
from labkit.farm.balancer.balancing import FINGERPRINT_PATH
from labkit.farm.links.endpoint import again, is_here, require_address, whereabouts
from labkit.farm.links.netns import NamespaceError
from labkit.farm.measuring import fetch
from labkit.farm.measuring.fetch import Reply, Target
from labkit.farm.planning.resources import fingerprint
from labkit.files import put, text_of, write_atomically
from labkit.journal import Journal
from labkit.lab import Lab

#: The error's code when somebody else's server is where the lab's balancer is to be.
FOREIGN = "farm.foreign-balancer"


def folder(lab: Lab) -> Path:
    """Where the balancer's configuration and its pid file are."""
    return lab.run_dir / "proxy"


def logs(lab: Lab) -> Path:
    """Where the balancer's logs are: ``access.log`` (in parts) and ``error.log``."""
    return lab.state_dir / "proxy"


def server(lab: Lab) -> Daemon:
    """How the lab's apache2 is started."""
    file = folder(lab) / "apache2.conf"
    return Daemon(
        name="balancer",
        argv=("apache2", "-f", str(file), "-k", "start"),
        config=file,
        pidfile=folder(lab) / "apache2.pid",
        log=logs(lab) / "error.log",
        netns=lab.netns,
    )


def script(lab: Lab) -> Path:
    """The program by which the balancer passes requests on; apache2's children read it."""
    return folder(lab) / balancing.SCRIPT_FILE


def text_for(lab: Lab) -> str:
    """The configuration that the Lab asks for. Pure."""
    return balancing.config(lab, folder(lab), logs(lab))


def wanted(lab: Lab) -> dict[str, str]:
    """What holds of the balancer when it is as the Lab says: facts by name. Pure."""
    text = text_for(lab)
    return {
        "process": "running",
        "listens": balancing.listens(text),
        **balancing.told(text),
        "configuration": fingerprint(text),
        "served": balancing.running_fingerprint(text),
        "workers": "in service",
    }


def seen(lab: Lab) -> dict[str, str] | None:
    """The same facts as they are seen now; None when there is neither a balancer nor its files."""
    instance = server(lab)
    running, text = daemon.pid(instance), text_of(instance.config)
    if running is None and text is None:
        return None
    process = whereabouts(lab, running)
    here = process == "running"
    out = workers.withdrawn(lab) if here else ()
    return {
        "process": process,
        "listens": balancing.listens(text or "") or "none",
        **{f"site {site.name}": "none" for site in lab.sites},
        **balancing.told(text or ""),
        "configuration": fingerprint(text or "")
        if text_of(script(lab)) == balancing.SCRIPT
        else f"without its {balancing.SCRIPT_FILE}",
        "served": _served(lab, text or "") if here else "nothing",
        "workers": f"withdrawn: {', '.join(out)}" if out else "in service",
    }


def asked(lab: Lab, there: Target | None = None) -> Reply:
    """The reply of the lab's own balancer, at the address that the Lab gives it (or ``there``).

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
    if reply and reply.lab == balancing.identity(lab):
        return reply
    who = daemon.listener(there.port, netns=lab.netns, address=str(there.address))
    own = who and {*undo.daemon_pids(str(server(lab).config))}.intersection(who.pids)
    if reply and own:  # started by another labkit, or with a configuration that somebody edited
        return reply
    if silent and (own or not who):
        raise silent
    raise FarmError(
        f"{there.address}:{there.port}, the balancer's address",
        f"a server answers there that is not this lab's balancer: {who or 'a process of another user'}",
        "end that process, or set proxy.port to another port",
        again(lab, f"ss -ltnp 'sport = :{there.port}'"),
        code=FOREIGN,
    )


def widen(lab: Lab) -> bool:
    """Makes a running balancer that is to listen elsewhere serve there as the Lab says, and still where it
    did, until :func:`converge`; returns whether that was to be done."""
    instance = server(lab)
    text = balancing.between(text_of(instance.config) or "", text_for(lab))
    if text == text_for(lab) or not is_here(lab, daemon.pid(instance)):
        return False
    return install(lab, text)


def converge(lab: Lab) -> bool:
    """Makes the balancer run as the Lab says, all workers in service; whether anything had to change.

    The caller holds the lab's ``farm`` lock.
    """
    changed = install(lab, text_for(lab))
    return bool(workers.restore(lab)) or changed


def install(lab: Lab, text: str) -> bool:
    """Makes the balancer run with this configuration, if apache2 accepts it; the old one stays else."""
    if run.which(accesslog.PROGRAM) is None:
        raise run.missing("rotatelogs")
    run.require("apache2", "ss")
    instance = server(lab)
    running = is_here(lab, daemon.pid(instance))
    current = text_of(instance.config) or ""
    whole = current == text and text_of(script(lab)) == balancing.SCRIPT
    if running and whole and _problem(lab, text) is None:
        return False
    if not running:
        daemon.stop(lab, instance)  # one in another namespace, or children of a killed parent
    _require_port(lab, running and balancing.listens(current) == balancing.listens(text))
    for path in (folder(lab), logs(lab)):
        Journal.of(lab).intend("folder", path=str(path))
        path.mkdir(parents=True, exist_ok=True)
    write_atomically(script(lab), balancing.SCRIPT)
    _accept(instance.config, text)
    if running:
        daemon.send(instance, signal.SIGUSR1)
        daemon.wait(instance, lambda: _problem(lab, text), 15.0)
    else:
        daemon.start(lab, instance, lambda: _problem(lab, text))
    return True


def _require_port(lab: Lab, listening: bool) -> None:
    """Refuses a port that somebody else has, unless the running balancer already listens there."""
    require_address(lab)
    if not listening:
        daemon.require_free(
            lab.proxy.port,
            netns=lab.netns,
            address=str(lab.gateway.ip),
            key="proxy.port",
            own=undo.daemon_pids(str(server(lab).config)),
        )


def _accept(file: Path, text: str) -> None:
    """The configuration is in its place, if apache2 accepts it; else the old one stays there."""
    candidate = file.with_suffix(".candidate")
    write_atomically(candidate, text)
    try:
        run.run(["apache2", "-t", "-f", candidate])
    except CommandError as error:
        if error.status < 0:  # it was killed, or hung: nothing was refused
            raise
        raise FarmError(
            str(candidate),
            f"apache2 refuses this configuration: {error.stderr.strip()}",
            "correct what it names; the running balancer was left as it is",
            error.again,
            code="farm.configuration-refused",
        ) from None
    put(candidate, file)


def _served(lab: Lab, text: str) -> str:
    """The fingerprint that the running balancer tells, where its own configuration says it listens."""
    address, _, port = balancing.listens(text).rpartition(":")
    there = fetch.front(lab)
    if address and port.isdigit():
        there = there.model_copy(update={"address": IPv4Address(address), "port": int(port)})
    try:
        return asked(lab, there).configuration
    except FarmError as error:
        return error.reason


def _problem(lab: Lab, text: str) -> str | None:
    """Why the running balancer does not serve by this configuration; None when it does."""
    try:
        running = asked(lab).configuration
    except FarmError as error:
        return error.reason
    wanted = balancing.running_fingerprint(text)
    return None if running == wanted else f"serves configuration {running}, not {wanted}"
