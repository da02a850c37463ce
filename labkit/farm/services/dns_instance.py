"""The running name server held against the Lab, and brought to it with the least that is needed.

Names and addresses are in a file that dnsmasq reads again on SIGHUP, so that a further replica or
site interrupts nobody's question; only another address, domain or subnet needs a restart.
"""

from __future__ import annotations

import signal
from pathlib import Path

from labkit.core import daemon, run, undo
from labkit.core.daemon import Daemon
from labkit.core.files import put, text_of, write_atomically
from labkit.core.journal import Journal
from labkit.display import counted
from labkit.errors import CommandError, FarmError
from labkit.farm.network.host import require_address, whereabouts
from labkit.farm.services import resolver
from labkit.farm.services.question import ask, knows
from labkit.farm.services.zone import config, hosts, mark
from labkit.model.lab import Lab
from labkit.model.resources import fingerprint

#: The port of RFC 1035, section 4.2.
PORT = 53
#: The facts of which a difference asks for a new server; the others are files that are read again.
RESTART = ("process", "address", "configuration")


def server(lab: Lab) -> Daemon:
    """How the lab's dnsmasq is started."""
    folder = resolver.folder(lab)
    file = folder / "dnsmasq.conf"
    return Daemon(
        name="dnsmasq",
        argv=("dnsmasq", f"--conf-file={file}"),
        config=file,
        pidfile=folder / "dnsmasq.pid",
        log=folder / "dnsmasq.log",
        netns=lab.netns,
    )


def wanted(lab: Lab) -> dict[str, str]:
    """What holds of the server when it is as the Lab says: facts by name. Pure."""
    text = config(lab)
    return {
        "process": "running",
        "address": _address(text),
        "configuration": fingerprint(text),
        "zone": _zone(hosts(lab)),
        "served": "this zone",
        "resolver": fingerprint(*(text for _, text, _ in resolver.files(lab))),
    }


def seen(lab: Lab) -> dict[str, str] | None:
    """The same facts as they are seen now; None when there is neither a server nor its files."""
    instance = server(lab)
    running, text = daemon.pid(instance), text_of(instance.config)
    if running is None and text is None:
        return None
    process = whereabouts(lab, running)
    return {
        "process": process,
        "address": _address(text or ""),
        "configuration": fingerprint(text or ""),
        "zone": _zone(text_of(_hosts(lab)) or ""),
        "served": "this zone"
        if process == "running" and knows(lab, mark(lab))
        else "not this zone",
        "resolver": fingerprint(*(text_of(path) or "" for path, _, _ in resolver.files(lab))),
    }


def converge(lab: Lab) -> bool:
    """Makes the server answer for the lab's zone as it is now; returns whether anything had to change.

    The caller holds the lab's ``farm`` lock.
    """
    run.require("dnsmasq", "ss")
    asked, found = wanted(lab), seen(lab) or {}
    if found == asked:
        return False
    instance = server(lab)
    if any(found.get(fact) != asked[fact] for fact in RESTART):
        _start_anew(lab, instance)
    elif any(found[fact] != asked[fact] for fact in ("zone", "served")):
        _read_anew(lab, instance)
    resolver.write(lab)
    return True


def _read_anew(lab: Lab, instance: Daemon) -> None:
    _write_names(lab)
    daemon.send(instance, signal.SIGHUP)
    try:
        daemon.wait(instance, lambda: _problem(lab), 5.0)
    except FarmError:  # it hears nothing, or was started with another configuration
        _start_anew(lab, instance)


def _start_anew(lab: Lab, instance: Daemon) -> None:
    require_address(lab)
    daemon.require_free(
        PORT,
        netns=lab.netns,
        address=str(lab.gateway.ip),
        key="the name server's port",
        own=undo.daemon_pids(str(instance.config)),
    )
    Journal.of(lab).intend("folder", path=str(instance.config.parent))
    candidate = _accepted(instance.config, config(lab))
    _write_names(lab)
    daemon.stop(lab, instance)
    put(candidate, instance.config)  # who runs has read what is there, wherever this is cut off
    daemon.start(lab, instance, lambda: _problem(lab))


def _hosts(lab: Lab) -> Path:
    return resolver.folder(lab) / "hosts"


def _write_names(lab: Lab) -> None:
    """The zone's names are in their file, which dnsmasq reads as nobody."""
    write_atomically(_hosts(lab), hosts(lab))
    _hosts(lab).chmod(0o644)
    _hosts(lab).parent.chmod(0o755)


def _accepted(file: Path, text: str) -> Path:
    """The configuration in a file beside its place; an error when dnsmasq does not accept it."""
    candidate = file.with_suffix(".candidate")
    write_atomically(candidate, text)
    try:
        run.run(["dnsmasq", "--test", f"--conf-file={candidate}"])
    except CommandError as error:
        if error.status < 0:  # it was killed, or hung: nothing was refused
            raise
        raise FarmError(
            str(candidate),
            f"dnsmasq refuses this configuration: {error.stderr.strip()}",
            "correct what it names; the running name server was left as it is",
            error.again,
            code="farm.configuration-refused",
        ) from None
    return candidate


def _zone(text: str) -> str:
    """A zone's file in a few words. Pure."""
    return f"{counted(len(text.splitlines()), 'name')} ({fingerprint(text)})"


def _address(text: str) -> str:
    """The address on which a configuration listens, 'none' when it says none. Pure."""
    pairs = (line.partition("=") for line in text.splitlines())
    return next((value for key, _, value in pairs if key == "listen-address"), "none")


def _problem(lab: Lab) -> str | None:
    """What is wrong with the server's answer about its own zone; None when nothing is."""
    try:
        return difference(lab)
    except FarmError as error:
        return error.reason


def difference(lab: Lab) -> str | None:
    """What the server that answers says otherwise than the lab's; :class:`FarmError` when none answers."""
    answer = ask(lab, [(lab.domain, "SOA")], patience=0.5)[0]
    if not (answer.authoritative and answer.values):
        return f"it answers {answer.status}"
    return None if knows(lab, mark(lab)) else "it serves other names than the lab's"
