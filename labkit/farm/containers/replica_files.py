"""The files that every replica has above its image: its ssh server's, with the lab's keys, and resolv.conf."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from pathlib import Path

from labkit.core import run
from labkit.core.files import text_of, write_atomically
from labkit.errors import StateError
from labkit.model.lab import Lab, resolv_conf
from labkit.records import Record

#: What sshd needs, and only its process in the container has: to become the user who logs in, and to
#: shut its own first part (privilege separation) away.
CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT", "CAP_DAC_OVERRIDE", "CAP_KILL")


#: What is changed in Debian's sshd_config: keys alone, no PAM, which a container has no use for, and no
#: file with the process id, which would be all that a replica writes into its own layer.
CONFIGURATION = """\
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
PidFile none
"""


#: The private keys: whose login it is, and that of the containers' ssh server.
NAMES = ("student", "host")


#: dropbear reads a host key in a form of its own, which is kept in memory.
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
    """A key for the student and one for the containers' sshd, made once for the lab (Ed25519).

    The public halves beside them are as the private ones say. Raises :class:`StateError` when a private
    one is damaged: it may be somebody's own.
    """
    folder = lab.state_dir / "ssh"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    public = [_public(folder / name, f"{name}@{lab.name}") for name in NAMES]
    return Keys(folder=folder, user=public[0], host=public[1])


def standing(lab: Lab) -> dict[str, str]:
    """How each of the lab's keys is found, in words: 'sound', or what :func:`keys` has to do or to say.

    No program is asked; nothing is changed.
    """
    return {name: _state(lab.state_dir / "ssh" / name) for name in NAMES}


def refuse_damaged(lab: Lab) -> None:
    """Raises :class:`StateError` when something lies where a private key is to be, and is none."""
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
    """The public half that an OpenSSH private key's text holds, '' when it is none, is damaged, or has a
    passphrase. Pure (PROTOCOL.key of OpenSSH: the magic word, cipher, key derivation, its options, a
    number of keys, the public key, the private part to the end)."""
    lines = [line for line in private.splitlines() if not line.startswith("-")]
    try:
        rest = base64.b64decode("".join(lines), validate=True).removeprefix(b"openssh-key-v1\0")
        (cipher, _, _), rest = _fields(rest, 3)
        (key, secret), rest = _fields(rest[4:], 2)
        (kind,), own = _fields(key, 1)
    except (ValueError, struct.error):
        return ""
    if cipher != b"none" or rest or not _is_whole(secret, key[: len(key) - len(own)], own):
        return ""
    return f"{kind.decode(errors='replace')} {base64.b64encode(key).decode()}"


def _is_whole(secret: bytes, kind: bytes, own: bytes) -> bool:
    """Whether a key's private part begins and ends as one: two equal numbers, the public key again, and
    1, 2, 3 … to the end of a block of eight bytes. Pure."""
    filled = secret[len(secret) - secret[-1] :] if secret else b""
    return (
        len(secret) % 8 == 0
        and secret[:4] == secret[4:8]
        and secret[8:].startswith(kind + own)
        and (secret[-1] > 7 or filled == bytes(range(1, secret[-1] + 1)))
    )


def _fields(data: bytes, count: int) -> tuple[list[bytes], bytes]:
    """The first fields, each after its length in four bytes, and what follows them (RFC 4251, section 5)."""
    found = []
    for _ in range(count):
        (length,) = struct.unpack_from("!I", data)
        if len(data) < 4 + length:
            raise ValueError("cut off")
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found, data


def _public(private: Path, comment: str) -> str:
    """The public half of a key in a file, which is made when there is none."""
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
    """What ssh-keygen says is the public half of a key; :class:`StateError` when it says that it is none."""
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
    """The files that every replica has above its image: the ssh server's, and the lab's name server as
    its resolver. Path below the root -> text."""
    return {**files(given), "etc/resolv.conf": resolv_conf(lab)}


def files(given: Keys) -> Mapping[str, str]:
    """The files of the ssh server that a container has above its image: path below the root -> text."""
    return {
        "root/.ssh/authorized_keys": given.user + "\n",
        "etc/ssh/ssh_host_ed25519_key": (given.folder / "host").read_text(encoding="utf-8"),
        "etc/ssh/sshd_config.d/labkit.conf": CONFIGURATION,
    }


def server(root: Path) -> tuple[str, ...]:
    """The command that starts the ssh server of a root file system, in the foreground: sshd, or dropbear
    with passwords off (dropbear(8)), where that is the one there."""
    if (root / "usr/sbin/dropbear").exists():
        return ("/bin/sh", "-c", DROPBEAR)
    return ("/usr/sbin/sshd", "-D", "-e")
