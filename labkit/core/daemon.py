"""Instances of Debian's own servers that belong to the lab: apache2, dnsmasq, mariadbd.

A daemon is known by the configuration file that its command line names, a file below the lab's
own folders: it is never mistaken for the machine's own service of the same program.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from labkit import cancellation
from labkit.core import run, undo
from labkit.core.files import put, write_atomically
from labkit.core.journal import Journal
from labkit.errors import CommandError, FarmError, MachineError
from labkit.kernel import netns as namespaces
from labkit.kernel import proc
from labkit.model.lab import Lab

#: The rights (capabilities(7)) of a server's first process, which is root's until it has bound its port: to
#: become somebody else, and to end those that are. Neither it nor a program that it starts can get more.
RIGHTS = ("setuid", "setgid", "net_bind_service", "kill")


@dataclass(frozen=True)
class Daemon:
    """How one daemon is started: ``argv`` names ``config`` and makes it go to the background, or
    not (``foreground``); ``log`` is where its errors go; ``netns`` where it listens; ``user`` who it is from its
    start on ('': root until it has bound its port)."""

    name: str
    argv: tuple[str, ...]
    config: Path
    pidfile: Path
    log: Path
    netns: str | None = None
    foreground: bool = False
    user: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def pid(daemon: Daemon) -> int | None:
    """The process id of the running daemon (of the first process, if there are several), or None.

    When the process that the pid file names was killed, its children may still serve: that counts as
    not running.
    """
    try:
        leader = int(daemon.pidfile.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return next(iter(undo.daemon_pids(str(daemon.config))), None)
    return leader if proc.is_marked(leader, str(daemon.config)) else None


def start(
    lab: Lab, daemon: Daemon, problem: Callable[[], str | None], *, patience: float = 15.0
) -> bool:
    """Makes the daemon run and be healthy; returns whether it had to be started.

    :param problem: says what is still wrong with the service, None when it answers as it should.
    :param patience: seconds until an unhealthy daemon is an error (with the end of its log).
    """
    if started := pid(daemon) is None:
        Journal.of(lab).intend("daemon", pidfile=str(daemon.pidfile), marker=str(daemon.config))
        undo.end_daemon(lab, pidfile=str(daemon.pidfile), marker=str(daemon.config))
        daemon.log.parent.mkdir(parents=True, exist_ok=True)
        daemon.pidfile.parent.mkdir(parents=True, exist_ok=True)
        _launch(daemon)
    wait(daemon, problem, patience)
    return started


def install(
    lab: Lab,
    daemon: Daemon,
    text: str,
    test: Sequence[str],
    problem: Callable[[], str | None],
    *,
    accepted: Callable[[], None] = lambda: None,
    reload: signal.Signals | None = None,
) -> None:
    """Makes the daemon run with another configuration, if the program accepts it, and be healthy.

    :param test: the argument list by which the program tests a file, for which ``{}`` stands.
    :param problem: says what is still wrong with the service, None when it answers as it should.
    :param accepted: writes further files of the daemon, once the program has accepted the configuration.
    :param reload: the signal that makes a running daemon take the configuration over; without one it is replaced.
    :raises FarmError: the program refuses the configuration; the running daemon and its file stay as they are.
    """
    candidate = daemon.config.with_suffix(".candidate")
    write_atomically(candidate, text)
    try:
        run.run([word.format(candidate) for word in test])
    except CommandError as error:
        if error.status < 0:  # it was killed, or hung: nothing was refused
            raise
        raise FarmError(
            str(candidate),
            f"{daemon.argv[0]} refuses this configuration: {error.stderr.strip()}",
            f"correct what it names; the running {daemon.name} was left as it is",
            error.again,
            code="farm.configuration-refused",
        ) from None
    accepted()
    if reload is None:
        stop(lab, daemon)
    put(candidate, daemon.config)  # wherever this is cut off, a running process has read this file
    if reload is None:
        start(lab, daemon, problem)
    else:
        send(daemon, reload)
        wait(daemon, problem, 15.0)


def stop(lab: Lab, daemon: Daemon) -> bool:
    """Ends the daemon; returns whether it ran."""
    ran = bool(undo.daemon_pids(str(daemon.config)))
    undo.end_daemon(lab, pidfile=str(daemon.pidfile), marker=str(daemon.config))
    Journal.of(lab).forget("daemon", pidfile=str(daemon.pidfile), marker=str(daemon.config))
    return ran


def send(daemon: Daemon, sig: signal.Signals) -> None:
    """Sends a signal to the running daemon (``SIGHUP``: dnsmasq reads its files again)."""
    running = pid(daemon)
    if running is None:
        raise FarmError(
            daemon.name,
            "is not running",
            "start it first",
            f"cat {daemon.log}",
            code="farm.server-down",
        )
    os.kill(running, sig)


def wait(daemon: Daemon, problem: Callable[[], str | None], patience: float) -> None:
    """Waits until ``problem`` finds none; raises :class:`FarmError` with the log's end otherwise."""
    deadline = time.monotonic() + patience
    pause = 0.005
    while (reason := problem()) is not None:
        if time.monotonic() > deadline:
            raise FarmError(
                daemon.name,
                f"{reason} after {patience:g} s; its log ends: {tail(daemon.log)}",
                "the log says why",
                f"tail {daemon.log}",
                code="farm.server-silent",
            )
        cancellation.pause(pause)
        pause = min(pause * 1.5, 0.1)


def tail(path: Path, characters: int = 600) -> str:
    """The end of a log, '(empty)' when there is none."""
    text = ""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4 * characters))
        text = file.read(4 * characters).decode(errors="replace").strip()
    return text[-characters:] or "(empty)"


@dataclass(frozen=True)
class Listener:
    """Who listens at an address: the name of the socket's first process, and all that have it (a server's
    children too); neither when they are another user's. As text: ``apache2 (process 4711)``."""

    address: str
    name: str = ""
    pids: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} (process {self.pids[0]})" if self.pids else "a process of another user"


def listener(port: int, *, netns: str | None = None, address: str = "") -> Listener | None:
    """The process that listens on a TCP or UDP port, None without one.

    A listener on another single address than ``address`` does not count ('' counts every one).
    """
    try:
        done = run.run(
            ["ss", "-H", "-l", "-n", "-t", "-u", "-p", "sport", "=", f":{port}"], netns=netns
        )
    except CommandError:
        if netns and not namespaces.stands(netns):  # which was taken away meanwhile
            return None
        raise
    return next((who for who in parse_ss(done.stdout) if _overlap(who.address, address)), None)


def require_free(
    port: int, *, netns: str | None, address: str, key: str, own: Iterable[int] = ()
) -> None:
    """Raises :class:`MachineError` naming the process when somebody else (none of ``own``) has the port."""
    who = listener(port, netns=netns, address=address)
    if who is not None and not {*own}.intersection(who.pids):
        raise MachineError(
            f"{key} = {port}",
            f"the port is used by {who}",
            f"set {key} to another port, or end that process",
            f"ss -ltnup 'sport = :{port}'",
            code="machine.port-taken",
        )


def parse_ss(text: str) -> list[Listener]:
    """The listeners in ``ss -Hlntup``'s output. Pure."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 5:
            continue
        users = re.findall(r'\("([^"]+)",pid=(\d+)', line)
        address = words[4].rpartition(":")[0].split("%")[0].strip("[]")
        name = users[0][0] if users else ""
        found.append(Listener(address, name, tuple(int(pid) for _, pid in users)))
    return found


def _overlap(bound: str, address: str) -> bool:
    return not address or bound in (address, "0.0.0.0", "*", "::")  # noqa: S104 - compared, not bound


def confined(user: str = "") -> tuple[str, ...]:
    """The beginning of an argument list that starts a program with :data:`RIGHTS` and no others, or as a
    ``user`` without any (setpriv(1)). Pure."""
    kept = "" if user else "".join(f",+{name}" for name in RIGHTS)
    who = (f"--reuid={user}", f"--regid={user}", "--clear-groups") if user else ()
    return (
        *("setpriv", *who),
        *(f"--bounding-set=-all{kept}", "--inh-caps=-all", "--no-new-privs", "--"),
    )


def _launch(daemon: Daemon) -> None:
    # setsid forks: a program that stays in the foreground is nobody's child then, nor a zombie later
    detached = ("setsid", "--fork") if daemon.foreground else ()
    # who is not root has no capability to give up, and may not: libcap-ng 0.8.5 refuses to try
    begin = confined(daemon.user) if os.geteuid() == 0 else ("setpriv", "--no-new-privs", "--")
    run.run(
        [*begin, *detached, *daemon.argv], netns=daemon.netns, env=daemon.env, output=daemon.log, timeout=30,
        remedy=f"read {daemon.log}",
    )  # fmt: skip
