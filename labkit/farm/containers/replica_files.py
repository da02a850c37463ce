"""The lab's files above every replica's image: resolv.conf, and the ssh server's configuration and keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from labkit.core import run
from labkit.core.files import text_of, write_atomically
from labkit.errors import StateError
from labkit.model.lab import Lab, resolv_conf
from labkit.records import Record

#: The capabilities of sshd, which only its process in the container has: to become the user who logs in, and to
#: confine its own first part (privilege separation).
CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT", "CAP_DAC_OVERRIDE", "CAP_KILL")

#: Changes to Debian's sshd_config: logins by keys alone, no PAM, and no file with the process id, which would be the
#: only file that a replica writes into its own layer.
CONFIGURATION = """\
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
PidFile none
"""

#: The private keys: of the user who logs in, and of the containers' ssh server.
NAMES = ("student", "host")

#: Starts dropbear, which reads a host key in another format; that one is kept in memory.
DROPBEAR = (
    "dropbearconvert openssh dropbear /etc/ssh/ssh_host_ed25519_key /dev/shm/ssh_host_key && "
    "exec dropbear -F -E -s -P /dev/shm/ssh.pid -r /dev/shm/ssh_host_key"
)


class Keys(Record):
    """The lab's keys: folders and public halves; the private halves stay in their files (0600)."""

    folder: Path
    user: str
    host: str


def keys(lab: Lab) -> Keys:
    """The lab's keys, which are made if they do not exist: the student's and the containers' sshd's (Ed25519).

    The public halves beside them are made from the private ones. Raises :class:`StateError` when a private key is
    damaged: it may be a person's.
    """
    folder = lab.state_dir / "ssh"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    public = [_public(folder / name, f"{name}@{lab.name}") for name in NAMES]
    return Keys(folder=folder, user=public[0], host=public[1])


def standing(lab: Lab) -> dict[str, str]:
    """The state of each of the lab's keys in words: 'sound', or what :func:`keys` would mend or refuse. Nothing is
    changed."""
    return {name: _state(lab.state_dir / "ssh" / name) for name in NAMES}


def refuse_damaged(lab: Lab) -> None:
    """Raises :class:`StateError` when a private key's file has another content."""
    for private in (lab.state_dir / "ssh" / name for name in NAMES):
        if private.exists() and _state(private) in ("missing", "damaged"):
            _asked(private)


def _state(private: Path) -> str:
    if not private.is_file():
        return "missing"
    own, other = (
        public_half(text_of(private) or ""),
        text_of(private.with_name(f"{private.name}.pub")),
    )
    if not own:
        return "damaged"
    if not (other or "").startswith(f"{own} "):
        return "not the one of its public half"
    return "sound" if private.stat().st_mode & 0o077 == 0 else "for others to read"


def public_half(private: str) -> str:
    """The public half of an OpenSSH private key's text; '' when the text is damaged, or has a passphrase. Pure."""
    from cryptography.exceptions import UnsupportedAlgorithm  # slow, and most commands need no key
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_ssh_private_key,
    )

    try:
        key = load_ssh_private_key(private.encode(errors="replace"), None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return ""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _public(private: Path, comment: str) -> str:
    """The public half of a private key, which is made if it does not exist."""
    if not private.exists():
        private.unlink(missing_ok=True)  # a link that leads nowhere
        words: list[str | Path] = ["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", private]
        run.run(["ssh-keygen", *words], stdin="y\n")
    if private.is_file():
        private.chmod(0o600)
        known = text_of(private.with_name(f"{private.name}.pub")) or ""
        if (own := public_half(text_of(private) or "")) and known.startswith(f"{own} "):
            return known.strip()
    asked = _asked(private)
    public = private.with_name(f"{private.name}.pub")
    if text_of(public) != asked:
        write_atomically(public, asked)
    return asked.strip()


def _asked(private: Path) -> str:
    """The public half of a key by ssh-keygen; :class:`StateError` when that refuses the key."""
    if private.is_file():
        private.chmod(0o600)  # else ssh-keygen does not read it
    done = run.run(["ssh-keygen", "-y", "-P", "", "-f", private], ok=range(256), quiet=True)
    if done.status or not done.stdout.startswith("ssh-"):
        raise StateError(
            str(private),
            f"is no ssh key without a passphrase: {' '.join(done.stderr.split())}",
            "move it away: `./lab run 04-network` makes a new one and puts it into the containers",
            f"ssh-keygen -y -f {private}",
            code="state.damaged-key",
        )
    return done.stdout


def replica_files(lab: Lab, given: Keys) -> Mapping[str, str]:
    """The lab's files above a replica's image: the ssh server's, and resolv.conf with the lab's name server.
    Path below the root -> text. Pure."""
    return {**files(given), "etc/resolv.conf": resolv_conf(lab)}


def files(given: Keys) -> Mapping[str, str]:
    """The ssh server's files above an image: path below the root -> text."""
    return {
        "root/.ssh/authorized_keys": given.user + "\n",
        "etc/ssh/ssh_host_ed25519_key": (given.folder / "host").read_text(encoding="utf-8"),
        "etc/ssh/sshd_config.d/labkit.conf": CONFIGURATION,
    }


def server(root: Path) -> tuple[str, ...]:
    """The command that starts a root file system's ssh server in the foreground: sshd, or dropbear with passwords
    off (dropbear(8))."""
    if (root / "usr/sbin/dropbear").exists():
        return ("/bin/sh", "-c", DROPBEAR)
    return ("/usr/sbin/sshd", "-D", "-e")
