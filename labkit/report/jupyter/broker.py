"""JupyterLab for the person who called sudo: the server runs as that person, its kernels as root, through a broker.

The broker is a socket without a file. It starts nothing but ``ipykernel_launcher`` with a connection file of that
person's. Who asks is known by the kernel (SO_PEERCRED, unix(7)), not by what it says. When a kernel or the client
that asked for it ends, the other is ended, too.
"""

from __future__ import annotations

import os
import pwd
import selectors
import shutil
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from labkit import reading
from labkit.core import run
from labkit.core.journal import Journal
from labkit.core.run import labkit_variables
from labkit.model.lab import Lab
from labkit.records import Record

if TYPE_CHECKING:
    from subprocess import Popen

#: How long JupyterLab may take to end, in seconds.
PATIENCE = 15.0


class Person(Record):
    """Who called sudo: the user's and the group's number, the name and the home ('' each without an account)."""

    uid: int
    gid: int
    name: str = ""
    home: str = ""


class _Ended(BaseException):
    """SIGTERM, SIGHUP or Ctrl-C: the session is to end."""


def caller(environment: Mapping[str, str], euid: int) -> Person | None:
    """The person who called sudo; None where the caller is not root, or did not call sudo."""
    uid, gid = environment.get("SUDO_UID", ""), environment.get("SUDO_GID", "")
    if euid or not (uid.isdigit() and gid.isdigit()) or not int(uid):
        return None
    try:
        known = pwd.getpwuid(int(uid))
    except KeyError:
        return Person(uid=int(uid), gid=int(gid))
    return Person(uid=int(uid), gid=int(gid), name=known.pw_name, home=known.pw_dir)


def serve(lab: Lab, person: Person, server: Sequence[str], settings: Mapping[str, str]) -> int:
    """Runs JupyterLab (``server``) as the person until it ends, and returns its exit status. Its kernels, which have
    the variables ``settings``, end with it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Ended

    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in stops}
    broker = Broker(person.uid, partial(_kernel, settings))
    try:
        with _home(lab, person) as home:
            env = {**variables(person, home), "LABKIT_BROKER": broker.name}
            sys.stderr.flush()
            process = run.start(as_person(person, server), env=env, output=sys.stderr.buffer)
            try:
                return broker.serve(process)
            finally:
                process.terminate()  # nothing happens to one that has ended
                try:
                    process.wait(PATIENCE)
                except Exception:  # it does not end by itself
                    process.kill()
                    process.wait()
    except _Ended:
        return 0
    finally:
        broker.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def as_person(person: Person, argv: Sequence[str]) -> list[str]:
    """The argument list that runs a program as the person, which ends with its starter (setpriv(1)). Pure."""
    groups = "--init-groups" if person.name else "--clear-groups"
    who = [f"--reuid={person.uid}", f"--regid={person.gid}", groups]
    return ["setpriv", *who, "--inh-caps=-all", "--pdeathsig=TERM", "--", *argv]


@contextmanager
def _home(lab: Lab, person: Person) -> Iterator[str]:
    """The person's home; one for the session for who has none, which is in the journal."""
    home = Path(person.home or "/nonexistent")
    if home.is_dir() and home.stat().st_uid == person.uid:
        yield str(home)
        return
    own = lab.run_dir / "notebook" / str(os.getpid())
    Journal.of(lab).intend("folder", path=str(own))
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(own, person.uid, person.gid)
    try:
        yield str(own)
    finally:
        shutil.rmtree(own, ignore_errors=True)
        Journal.of(lab).forget("folder", path=str(own))


def variables(person: Person, home: str) -> dict[str, str]:
    """The environment that JupyterLab has beside what every program has: nothing of root's. Pure."""
    share = Path(__file__).with_name("share")
    return {"HOME": home, "USER": person.name, "LOGNAME": person.name, "JUPYTER_PATH": str(share)}


def _kernel(settings: Mapping[str, str], asked: Asked, output: IO[bytes]) -> Popen[str]:
    """A kernel of root's; what IPython keeps of it is in root's home, nothing in the person's."""
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", asked.connection_file]
    env = {
        **labkit_variables(),
        **settings,
        "HOME": pwd.getpwuid(0).pw_dir,
        "JPY_SESSION_NAME": asked.session,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    start = ["env", f"--chdir={asked.folder}", "setpriv", "--pdeathsig=KILL", "--", *argv]
    return run.start(start, env=env, output=output)


#: What may be passed on to a kernel.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: A question is no longer than this, in bytes.
MOST = 1 << 16


class Asked(Record):
    """What somebody wants: a kernel by this connection file, in this folder, for this session of JupyterLab."""

    connection_file: str
    folder: str
    session: str = ""


#: Starts a kernel whose output goes to a file.
Start = Callable[[Asked, IO[bytes]], "Popen[str]"]


@dataclass
class Kernel:
    """A kernel that runs, a descriptor of its process, and who asked for it."""

    process: Popen[str]
    ended: int
    client: socket.socket


class Broker:
    """The broker of one person (``uid``), open until it is closed."""

    def __init__(self, uid: int, start: Start) -> None:
        self.name = f"labkit-{os.urandom(12).hex()}"
        self._uid, self._start = uid, start
        self._kernels: dict[int, Kernel] = {}
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"\0{self.name}")
        self._listener.listen()
        self._selector.register(self._listener, selectors.EVENT_READ, self._ask)

    def serve(self, process: Popen[str]) -> int:
        """Starts kernels until ``process`` has ended; returns its exit status."""
        ended = os.pidfd_open(process.pid)
        try:
            self._selector.register(ended, selectors.EVENT_READ, None)
            while process.poll() is None:
                for key, _ in self._selector.select():
                    if key.data:
                        key.data()
            return process.returncode
        finally:
            self._selector.unregister(ended)
            os.close(ended)

    def close(self) -> None:
        """Ends every kernel, and closes the socket."""
        for kernel in tuple(self._kernels.values()):
            self._end(kernel)
        self._selector.close()
        self._listener.close()

    def _ask(self) -> None:
        """Somebody is at the broker."""
        client, _ = self._listener.accept()
        with ExitStack() as undone:
            undone.callback(client.close)
            if _user(client) != self._uid:
                return
            client.settimeout(5)
            with suppress(OSError, ValueError):
                self._begin(client)
                undone.pop_all()

    def _begin(self, client: socket.socket) -> None:
        text, outputs, _, _ = socket.recv_fds(client, MOST, 1)
        with ExitStack() as opened:
            for output in outputs:
                opened.callback(os.close, output)
            asked = Asked.model_validate(reading.parsed(text))
            if not is_own(asked, self._uid):
                raise ValueError("is not a connection file of that person's")
            with open(os.dup(outputs[0]), "ab") as file:  # noqa: PTH123 - a descriptor
                process = self._start(asked, file)
        kernel = Kernel(process, os.pidfd_open(process.pid), client)
        self._kernels[process.pid] = kernel
        self._selector.register(client, selectors.EVENT_READ, lambda: self._pass_on(kernel))
        self._selector.register(kernel.ended, selectors.EVENT_READ, lambda: self._end(kernel))

    def _pass_on(self, kernel: Kernel) -> None:
        """A signal for the kernel; the end of who asked for it is the kernel's, too."""
        said = b""
        with suppress(OSError):
            said = kernel.client.recv(64)
        if not said:
            self._end(kernel)
        for word in said.split():
            if word.isdigit() and int(word) in SIGNALS and kernel.process.poll() is None:
                kernel.process.send_signal(int(word))

    def _end(self, kernel: Kernel) -> None:
        """The kernel and what it started have ended (its process group), and who asked for it knows how."""
        if self._kernels.pop(kernel.process.pid, None) is None:
            return
        for watched in (kernel.client, kernel.ended):
            self._selector.unregister(watched)
        with suppress(ProcessLookupError):
            os.killpg(kernel.process.pid, signal.SIGKILL)
        status = kernel.process.wait()
        with suppress(OSError):
            kernel.client.sendall(f"{status}\n".encode())
        kernel.client.close()
        os.close(kernel.ended)


def is_own(asked: Asked, uid: int) -> bool:
    """Whether a connection file is a file of that user's, and it and the folder are named by whole paths."""
    path = Path(asked.connection_file)
    try:
        seen = path.lstat()
    except (OSError, ValueError):
        return False
    whole = path.is_absolute() and Path(asked.folder).is_absolute()
    return whole and stat.S_ISREG(seen.st_mode) and seen.st_uid == uid


def _user(client: socket.socket) -> int:
    """The user at the other end (struct ucred: process, user, group)."""
    told = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user: int = struct.unpack("3i", told)[1]
    return user
