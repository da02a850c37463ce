"""Starts, kills and removes containers by runC; a replica's bundle, its ssh keys and files; and surplus containers.

The functions that act expect the caller to hold the lab's ``farm`` lock, except :func:`kill` and :func:`start`, which
work on one replica of a running farm.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from labkit import cancellation
from labkit.core import run, undo
from labkit.core.daemon import tail
from labkit.core.files import text_of, write_atomically
from labkit.core.journal import Entry, Journal
from labkit.core.undo import delete_container, unmount
from labkit.errors import ENDED, CommandTimeoutError, FarmError, StateError, excerpt
from labkit.farm.containers import overlay, runc, written
from labkit.farm.containers.bundle import Mount, Spec
from labkit.farm.containers.overlay import WWW_DATA
from labkit.kernel import calls, cgroups, netns
from labkit.model.lab import Lab, Replica, resolv_conf
from labkit.model.sites import REPLICA_VARIABLE
from labkit.records import Record

R = TypeVar("R")
#: runC's environment: on one processor its run time does not start threads that then wait for each other, which
#: saves a fifth of its work.
QUICK = {"GOMAXPROCS": "1"}
#: A server's memory, as glibc takes it: one heap for all threads and not one for each processor (mallopt(3));
#: no room on each thread's stack for libraries that are loaded later and want thread-local variables there
#: (glibc's manual, Dynamic Linking Tunables), which is a page of each thread.
SMALL = {
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.rtld.nns=1:glibc.rtld.optional_static_tls=0",
}
#: Seconds that a killed process may take to end.
PATIENCE = 5.0
#: The number of containers from which on hiding the others' mounts takes less time than it saves.
MANY = 4


def replica_spec(lab: Lab, replica: Replica) -> Spec:
    """A replica's container: apache2 as www-data, without a single capability."""
    return Spec(
        name=replica.name,
        args=("apache2", "-D", "FOREGROUND"),
        environment={REPLICA_VARIABLE: replica.name, **SMALL},
        uid=WWW_DATA,
        gid=WWW_DATA,
        cgroup=f"{runc.cgroup(lab)}/{replica.name}",
        netns=replica.netns,
        sysctl={"net.ipv4.ip_unprivileged_port_start": "0"},
        size=lab.containers.written_mib * 2**20,
        serving=True,
        mounts=(
            memory_mount("/run/apache2", WWW_DATA),
            memory_mount("/run/lock/apache2", WWW_DATA),
            Mount(
                destination="/var/log/apache2",
                kind="bind",
                source=str(written.log(lab, replica.name, "access").parent),
                options=("bind", "rw", "nosuid", "nodev", "noexec"),
            ),
        ),
    )


def memory_mount(destination: str, owner: int) -> Mount:
    """A small folder in memory that the uid ``owner`` may write."""
    options = (
        "nosuid", "nodev", "noexec", "mode=0755", f"uid={owner}", f"gid={owner}", "size=1m", "nr_inodes=256",
    )  # fmt: skip
    return Mount(destination=destination, kind="tmpfs", source="tmpfs", options=options)


def command(lab: Lab, name: str, *words: str | Path) -> list[str | Path]:
    """The argument list of a runC command on a container's bundle. runC's own messages go to a separate log, so that they
    are not mistaken for output of the container's program."""
    log = runc.folder(lab, name) / "runc.log"
    return runc.command(lab, "--log", log, *words, "--bundle", runc.bundle(lab, name), name)


def create(lab: Lab, name: str) -> run.Done:
    """Creates a container on its bundle, which :func:`begin` starts; an earlier one is removed."""
    intend(lab, [name])
    return _runc(lab, name, "create")


def begin(lab: Lab, name: str) -> run.Done:
    """Starts the created container's first process."""
    return run.run(runc.command(lab, "start", name), env=QUICK)


def intend(lab: Lab, names: Iterable[str]) -> None:
    """Writes containers into the journal that are about to be created."""
    root = runc.root(lab)
    root.mkdir(parents=True, exist_ok=True)
    made = (("container", {"root": str(root), "container": name}) for name in names)
    Journal.of(lab).intend_all([("cgroup", {"path": runc.cgroup(lab)}), *made])


def launch(lab: Lab, name: str) -> None:
    """Creates and starts a container that is in the journal, in one step; an earlier one is removed."""
    _runc(lab, name, "run", "--detach")


def launch_all(lab: Lab, farm: Sequence[Replica]) -> None:
    """Launches the containers of several replicas side by side.

    runC reads all mounts of the machine several times when it starts a container, and copies them into the
    container's mount namespace to remove them there: 12 to 20 microseconds for each mount and container. Each
    replica has three, so that a farm of 240 would pay ten milliseconds for each replica, half as much as the start
    itself takes. So runC is called where the other replicas' mounts are hidden.
    """
    if len(farm) < MANY:
        run.spread(lambda item: launch(lab, item.name), farm)
        return
    places = {replica: _mount_points(lab, replica) for replica in lab.farm}
    with mounts_hidden([place for points in places.values() for place in points]) as namespace:
        run.spread(
            lambda item: call_in(namespace, places[item], partial(launch, lab, item.name)), farm
        )


def _mount_points(lab: Lab, replica: Replica) -> list[Path]:
    name = replica.name
    return [
        runc.bundle(lab, name) / "rootfs", written.folder(lab, name), runc.users_file(lab, name),
        netns.path(replica.netns),
    ]  # fmt: skip


@contextmanager
def mounts_hidden(places: Collection[Path]) -> Iterator[int]:
    """A descriptor of a copy of the caller's mount namespace without the mounts at ``places``; it ends with the
    block and the processes started in it."""
    namespace = netns.alone(_hide, places)
    try:
        yield namespace
    finally:
        os.close(namespace)


def call_in(namespace: int, places: Sequence[Path], function: Callable[[], R]) -> R:
    """Calls ``function()`` in such a mount namespace, with the caller's mounts at ``places`` in it meanwhile."""
    return netns.alone(_call_in, namespace, places, function)


def _hide(places: Collection[Path]) -> int:
    calls.leave_mounts()
    for place in places:
        with suppress(OSError):  # not mounted
            calls.detach(place)
    return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _call_in(namespace: int, places: Sequence[Path], function: Callable[[], R]) -> R:
    with ExitStack() as opened:
        try:
            mounted = filter(os.path.ismount, places)
            copies = [(overlay.copy_mount(opened, place), place) for place in mounted]
        except OSError:  # an older kernel: the container starts with all mounts
            return function()
        calls.unshare(calls.CLONE_FS)
        calls.setns(namespace, calls.CLONE_NEWNS)
        for descriptor, place in copies:
            calls.mount_placed(descriptor, place)
            opened.callback(calls.detach, place)
        return function()


def _runc(lab: Lab, name: str, *words: str) -> run.Done:
    delete_container(lab, root=str(runc.root(lab)), container=name)
    log, output = runc.folder(lab, name) / "runc.log", written.console(lab, name)
    log.unlink(missing_ok=True)
    written.make_room(lab, name)
    done = run.run(command(lab, name, *words), ok=range(-64, 256), output=output, env=QUICK)
    if done.status:
        said = f"{tail(log)} {tail(output)}".replace("(empty)", "").strip()
        killed = done.status < 0
        raise FarmError(
            f"container {name}",
            f"runC could not create it ({'signal' if killed else 'status'} {abs(done.status)}): "
            f"{said or 'no message'}",
            ENDED
            if killed
            else "its config.json or the kernel lacks something: `labkit doctor` knows the common causes",
            done.command,
            code="farm.container-refused",
        )
    return done


def remove(lab: Lab, name: str) -> None:
    """Removes the container, its mounts and its folder."""
    journal, root = Journal.of(lab), str(runc.root(lab))
    delete_container(lab, root=root, container=name)
    journal.forget("container", root=root, container=name)
    root_fs = runc.bundle(lab, name) / "rootfs"
    for place in (root_fs, runc.users_file(lab, name), written.folder(lab, name)):
        unmount(lab, target=str(place))
        journal.forget("mount", target=str(place))
    shutil.rmtree(runc.folder(lab, name), ignore_errors=True)
    journal.forget("folder", path=str(runc.folder(lab, name)))


def kill(lab: Lab, replica: Replica) -> None:
    """Kills the replica's first process (SIGKILL), and with it all others of the container."""
    if _is_running(lab, replica.name):
        run.run(runc.command(lab, "kill", replica.name, "KILL"))
        wait(lab, replica.name)


def wait(lab: Lab, name: str) -> None:
    """Waits until the container's processes have ended; :class:`FarmError` when that takes over five seconds."""
    deadline = time.monotonic() + PATIENCE
    group = f"{runc.cgroup(lab)}/{name}"
    while _is_running(lab, name) or cgroups.processes(group):
        if time.monotonic() > deadline:
            raise FarmError(
                f"container {name}", "does not end", "", f"runc --root {runc.root(lab)} list",
                code="farm.container-endless",
            )  # fmt: skip
        cancellation.pause(0.005)


def start(lab: Lab, replica: Replica) -> None:
    """Starts the replica's first process, in a new container on the same bundle and namespace."""
    if not _is_running(lab, replica.name):
        create(lab, replica.name)
        begin(lab, replica.name)


def execute(lab: Lab, name: str, *words: str, options: tuple[str, ...] = ()) -> run.Done:
    """Runs a program inside the running container and returns its output."""
    return run.run(runc.command(lab, "exec", *options, name, *words))


def death(lab: Lab, name: str) -> FarmError:
    """The error for a container whose first process has ended, with its output and its exit status.

    A server without output has written to its error log; that one's end is taken then. runC keeps no exit status of
    a detached container, so the same bundle is run once more, in the foreground and for at most two seconds.
    """
    output, errors = written.console(lab, name), written.log(lab, name, "error")
    said = written.end(output) or written.end(errors) or "(no output)"
    delete_container(lab, root=str(runc.root(lab)), container=name)
    status = "it has ended"
    with suppress(CommandTimeoutError):
        output.write_bytes(b"")
        done = run.run(command(lab, name, "run"), ok=range(-64, 256), timeout=2, output=output)
        said = written.end(output, 2000) or said
        status = f"exit status {done.status}"
    delete_container(lab, root=str(runc.root(lab)), container=name)
    return FarmError(
        f"container {name}",
        f"its first process does not run ({status}): {excerpt(said)}",
        "correct the error in its output",
        f"cat {output} {errors}",
        code="farm.container-died",
    )


def _is_running(lab: Lab, name: str) -> bool:
    known = runc.state(lab, name)
    return known is not None and known.status == "running"


def remove_surplus(lab: Lab) -> tuple[str, ...]:
    """Removes the replicas of an earlier lab.toml that the lab no longer has, with their links and namespaces;
    returns their names.

    They are known from the journal alone: a namespace that labkit made for a replica, and the
    container, mount, folder and link of the same replica. The caller holds the lab's ``farm`` lock.
    """
    entries = Journal.of(lab).standing()
    names = surplus(lab, entries)
    theirs = [entry for entry in entries if _belongs(lab, entry, names)] if names else []
    _, failed = undo.unmake_these(lab, theirs)
    for _, error in failed:
        raise error
    return names


def surplus(lab: Lab, entries: tuple[Entry, ...]) -> tuple[str, ...]:
    """The names of the replicas that have a namespace in the journal and are not in the lab. Pure."""
    prefix = f"{lab.name}-"
    wanted = {replica.netns for replica in lab.farm} | {lab.host.netns}
    return tuple(
        name.removeprefix(prefix)
        for entry in entries
        if entry.kind == "netns" and (name := entry.what.get("name", "")).startswith(prefix)
        if name not in wanted
    )


def _belongs(lab: Lab, entry: Entry, names: tuple[str, ...]) -> bool:
    what = entry.what.get
    folders = {runc.folder(lab, name) for name in names}
    match entry.kind:
        case "netns":
            return what("name") in {f"{lab.name}-{name}" for name in names}
        case "link":
            return what("name") in {lab.link_name(name) for name in names}
        case "container":
            return what("container") in names
        case "folder":
            return Path(what("path", "")) in folders
        case "mount":
            return not folders.isdisjoint(Path(what("target", "")).parents)
    return False


# -- the lab's files above every replica's image: resolv.conf, and the ssh server's ---------------

#: The capabilities of sshd, which only its process in the container has: to become the user who logs in, and to
#: confine its own first part (privilege separation).
SSH_CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT", "CAP_DAC_OVERRIDE", "CAP_KILL")


#: Changes to Debian's sshd_config: logins by keys alone, no PAM, and no file with the process id, which would be the
#: only file that a replica writes into its own layer.
SSH_CONFIGURATION = """\
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
PidFile none
"""


#: The private keys: of the user who logs in, and of the containers' ssh server.
KEY_NAMES = ("student", "host")


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
    public = [_public(folder / name, f"{name}@{lab.name}") for name in KEY_NAMES]
    return Keys(folder=folder, user=public[0], host=public[1])


def key_states(lab: Lab) -> dict[str, str]:
    """The state of each of the lab's keys in words: 'sound', or what :func:`keys` would mend or refuse. Nothing is
    changed."""
    return {name: _state(lab.state_dir / "ssh" / name) for name in KEY_NAMES}


def refuse_damaged(lab: Lab) -> None:
    """Raises :class:`StateError` when a private key's file has another content."""
    for private in (lab.state_dir / "ssh" / name for name in KEY_NAMES):
        if private.exists() and _state(private) in ("missing", "damaged"):
            _asked(private)


def _state(private: Path) -> str:
    if not private.is_file():
        return "missing"
    if not (own := public_half(text_of(private) or "")):
        return "damaged"
    if not (text_of(_public_file(private)) or "").startswith(f"{own} "):
        return "not the one of its public half"
    return "sound" if private.stat().st_mode & 0o077 == 0 else "for others to read"


def _public_file(private: Path) -> Path:
    return private.with_name(f"{private.name}.pub")


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
    if _state(private) != "sound":
        asked = _asked(private)
        if text_of(_public_file(private)) != asked:
            write_atomically(_public_file(private), asked)
    return (text_of(_public_file(private)) or "").strip()


def _asked(private: Path) -> str:
    """The public half of a key by ssh-keygen; :class:`StateError` when that refuses the key."""
    if private.is_file():
        private.chmod(0o600)  # else ssh-keygen does not read it
    done = run.run(["ssh-keygen", "-y", "-P", "", "-f", private], ok=range(256), quiet=True)
    if done.status or not done.stdout.startswith("ssh-"):
        raise StateError(
            str(private),
            f"is not an ssh key without a passphrase: {' '.join(done.stderr.split())}",
            "move it away: `./lab run 04-network` makes a new one and puts it into the containers",
            f"ssh-keygen -y -f {private}",
            code="state.damaged-key",
        )
    return done.stdout


def replica_files(lab: Lab, given: Keys) -> Mapping[str, str]:
    """The lab's files above a replica's image: the ssh server's, and resolv.conf with the lab's name server.
    Path below the root -> text. Pure."""
    return {**ssh_files(given), "etc/resolv.conf": resolv_conf(lab)}


def ssh_files(given: Keys) -> Mapping[str, str]:
    """The ssh server's files above an image: path below the root -> text."""
    return {
        "root/.ssh/authorized_keys": given.user + "\n",
        "etc/ssh/ssh_host_ed25519_key": (given.folder / "host").read_text(encoding="utf-8"),
        "etc/ssh/sshd_config.d/labkit.conf": SSH_CONFIGURATION,
    }


def ssh_server(root: Path) -> tuple[str, ...]:
    """The command that starts a root file system's ssh server in the foreground: sshd, or dropbear with passwords
    off (dropbear(8))."""
    if (root / "usr/sbin/dropbear").exists():
        return ("/bin/sh", "-c", DROPBEAR)
    return ("/usr/sbin/sshd", "-D", "-e")
