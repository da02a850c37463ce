"""ssh from the host into a container, with keys made for the lab and never baked into an image."""

from __future__ import annotations

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.files import write_atomically
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.errors import CommandError
from labkit.farm.containers import runc, written
from labkit.farm.containers.container import SSH_CAPABILITIES, Keys, keys, ssh_server
from labkit.farm.network import host
from labkit.model.lab import Lab, Replica
from labkit.records import Record

__all__ = ["login"]


def __dir__() -> list[str]:
    return __all__


class Login(Record):
    """What the container answered over ssh: its own host name and the user's name."""

    replica: str
    hostname: str
    user: str
    seconds: float


@action("network.ssh")
def login(lab: Lab) -> Outcome[tuple[Login, ...]]:
    """Logs in from the host to each container by ssh, which answers with its host name.

    The table ``ssh`` has one row a session. A container that does not run is not started: its check fails,
    and the others' sessions count.

    Example: ``ssh.login(lab).value[0].hostname``
    """
    with lock(lab.run_dir, "farm"):
        given = keys(lab)
        _known_hosts(lab, given)
        states = runc.states(lab)
        up = [item for item in lab.farm if item.name in states and states[item.name].pid]
        started = [_serve(lab, replica) for replica in up]
    logins, checks = [], []
    for replica in lab.farm:
        done = _try(lab, given, replica)
        if isinstance(done, Login):
            logins.append(done)
        checks.append(_check(lab, given, replica, done))
    rows: list[dict[str, Cell]] = [
        {"replica": i.replica, "host name": i.hostname, "user": i.user, "time": i.seconds}
        for i in logins
    ]
    return Outcome(
        value=tuple(logins),
        subject=lab.name,
        changed=any(started),
        summary=f"ssh opened a session in {len(logins)} of {counted(len(lab.farm), 'container')}.",
        checks=tuple(checks),
        tables=(Table.of("ssh", "ssh from the host", rows, units={"time": "s"}),),
    )


def _serve(lab: Lab, replica: Replica) -> bool:
    """Makes sshd run in the container; returns whether it had to be started."""
    pids = run.run(["ss", "-H", "-l", "-n", "-t", "sport", "=", ":22"], netns=replica.netns)
    if pids.stdout.strip():
        return False
    options = ["--user", "0:0", "--detach"]
    for name in SSH_CAPABILITIES:
        options += ["--cap", name]
    log = written.sshd_log(lab, replica.name)
    command = ssh_server(runc.bundle(lab, replica.name) / "rootfs")
    words = runc.command(lab, "exec", *options, replica.name, *command)
    run.run(words, output=log, remedy=f"read {log}")
    return True


def _try(lab: Lab, given: Keys, replica: Replica) -> Login | CommandError:
    words = [*_ssh(given, replica), "hostname; id -un"]
    try:
        done = run.run(words, netns=lab.netns, timeout=20)
    except CommandError as error:
        return error
    hostname, user, *_ = (*done.stdout.split()[:2], "", "")
    return Login(replica=replica.name, hostname=hostname, user=user, seconds=round(done.seconds, 3))


def _ssh(given: Keys, replica: Replica) -> list[str]:
    options = [
        "BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=5", "ConnectionAttempts=3",
        f"UserKnownHostsFile={given.folder / 'known_hosts'}", "IdentitiesOnly=yes",
    ]  # fmt: skip
    words = ["ssh", "-F", "none", "-i", str(given.folder / "student")]
    for option in options:
        words += ["-o", option]
    return [*words, f"root@{replica.address}"]


def _known_hosts(lab: Lab, given: Keys) -> None:
    kind, key = given.host.split()[:2]
    lines = "".join(f"{replica.address} {kind} {key}\n" for replica in lab.farm)
    write_atomically(given.folder / "known_hosts", lines)


def _check(lab: Lab, given: Keys, replica: Replica, done: Login | CommandError) -> Check:
    words = " ".join(_ssh(given, replica))
    return equal(
        f"network.ssh.{replica.name}",
        f"root at {replica.name}",
        done.reason if isinstance(done, CommandError) else f"{done.user} at {done.hostname}",
        rows=("R10",),
        again=host.again(lab, f"{words} hostname"),
    )
