"""Questions to a container's ssh server: who comes in, and who does not."""

from __future__ import annotations

import socket
from pathlib import Path

from labkit.core import run
from labkit.core.daemon import tail
from labkit.core.files import write_atomically
from labkit.errors import FarmError
from labkit.farm.containers import replica_files, runc, written
from labkit.farm.network.netns import inside
from labkit.farm.study import web
from labkit.farm.study.serving import QUESTION
from labkit.farm.study.stand import Stand

REFUSED = "refused: Permission denied (publickey)"


def session(stand: Stand) -> str:
    """What a command said that ssh ran in the container, with the lab's key."""
    done = _ssh(stand, replica_files.keys(stand.lab).folder / "student")
    if done.status:
        raise _silent(stand, done)
    return " ".join(done.stdout.split())


def session_expected(stand: Stand) -> str:
    """What :func:`session` says of a server that does its job."""
    return f"{stand.replica.name} root"


def stranger(stand: Stand) -> str:
    """What becomes of somebody with another key."""
    key = runc.folder(stand.lab, stand.replica.name) / "stranger"
    if not key.exists():
        run.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    done = _ssh(stand, key)
    if done.status == 0:
        return "let in"
    if "Permission denied (publickey)" not in done.stderr:
        raise _silent(stand, done)
    return REFUSED


def _silent(stand: Stand, done: run.Done) -> FarmError:
    said = " ".join(done.stderr.split()) or f"status {done.status}"
    return FarmError(
        "ssh", f"{said}; sshd: {tail(_log(stand))}", again=done.command, code="farm.ssh"
    )


def _log(stand: Stand) -> Path:
    return written.sshd_log(stand.lab, stand.replica.name)


def _ssh(stand: Stand, key: Path) -> run.Done:
    """ssh as root with that key, whatever comes of it; sshd is started before the first."""
    stand.require()
    replica, own = stand.replica, runc.folder(stand.lab, stand.replica.name)
    if not stand.programs:
        _serve(stand)
    kind, host = replica_files.keys(stand.lab).host.split()[:2]
    write_atomically(own / "known_hosts", f"{replica.address} {kind} {host}\n")
    words: list[str | Path] = [
        "ssh", "-F", "none", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
        "-o", "ConnectTimeout=5", "-o", "ConnectionAttempts=3", "-o", "IdentitiesOnly=yes",
        "-o", f"UserKnownHostsFile={own / 'known_hosts'}", f"root@{replica.address}", QUESTION,
    ]  # fmt: skip
    return run.run(words, netns=replica.netns, timeout=20, ok=range(256))


def _serve(stand: Stand) -> None:
    """sshd listens; :class:`FarmError` when it has ended or keeps silent.

    It stays a child of labkit's, so that it is gone at once when the container is.
    """
    caps = [word for name in replica_files.CAPABILITIES for word in ("--cap", name)]
    root = runc.bundle(stand.lab, stand.replica.name) / "rootfs"
    server = (stand.replica.name, *replica_files.server(root))
    words = runc.command(stand.lab, "exec", "--user", "0:0", *caps, *server)
    with _log(stand).open("ab") as sink:
        process = run.start(words, output=sink)
    stand.programs.append(process.wait)
    web.until(lambda: process.poll() is not None or inside(stand.replica.netns, _listens))
    if process.poll() is not None:
        raise FarmError("sshd", f"does not start: {tail(_log(stand))}", code="farm.ssh")


def _listens() -> bool:
    with socket.socket() as channel:
        return channel.connect_ex(("127.0.0.1", 22)) == 0
