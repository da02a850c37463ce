"""Questions to a container's ssh server: who comes in, and who does not."""

from __future__ import annotations

from pathlib import Path

from labkit import run
from labkit.daemon import tail
from labkit.errors import FarmError
from labkit.farm import container, ssh
from labkit.farm.contents.serving import QUESTION
from labkit.farm.survival.stand import Stand
from labkit.files import write_atomically

REFUSED = "refused: Permission denied (publickey)"


def session(stand: Stand) -> str:
    """What a command said that ssh ran in the container, with the lab's key."""
    done = _ssh(stand, ssh.keys(stand.lab).folder / "student")
    if done.status:
        raise _silent(stand, done)
    return " ".join(done.stdout.split())


def session_expected(stand: Stand) -> str:
    """What :func:`session` says of a server that does its job."""
    return f"{stand.replica.name} root"


def stranger(stand: Stand) -> str:
    """What becomes of somebody with another key."""
    key = container.folder(stand.lab, stand.replica.name) / "stranger"
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
    return FarmError("ssh", f"{said}; sshd: {tail(_log(stand))[-200:]}", again=done.command)


def _log(stand: Stand) -> Path:
    return container.folder(stand.lab, stand.replica.name) / "sshd.log"


def _ssh(stand: Stand, key: Path) -> run.Done:
    """ssh as root with that key, whatever comes of it; sshd is started when nobody listens yet."""
    stand.require()
    replica, own = stand.replica, container.folder(stand.lab, stand.replica.name)
    heard = run.run(["ss", "-H", "-l", "-n", "-t", "sport", "=", ":22"], netns=replica.netns)
    if not heard.stdout.strip():
        _serve(stand)
    kind, host = ssh.keys(stand.lab).host.split()[:2]
    write_atomically(own / "known_hosts", f"{replica.address} {kind} {host}\n")
    words: list[str | Path] = [
        "ssh", "-F", "none", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
        "-o", "ConnectTimeout=5", "-o", "ConnectionAttempts=3", "-o", "IdentitiesOnly=yes",
        "-o", f"UserKnownHostsFile={own / 'known_hosts'}", f"root@{replica.address}", QUESTION,
    ]  # fmt: skip
    return run.run(words, netns=replica.netns, timeout=20, ok=range(256))


def _serve(stand: Stand) -> None:
    caps = [word for name in ssh.CAPABILITIES for word in ("--cap", name)]
    server = (stand.replica.name, "/usr/sbin/sshd", "-D", "-e")
    words = container.runc(stand.lab, "exec", "--user", "0:0", "--detach", *caps, *server)
    done = run.run(words, output=_log(stand), ok=range(256))
    if done.status:
        raise FarmError("sshd", f"does not start: {tail(_log(stand))[-300:]}", again=done.command)
