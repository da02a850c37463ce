"""The door: a socket without a file, by which one person's JupyterLab gets kernels with root's rights.

Nothing else is started by it than ``ipykernel_launcher`` with a connection file of that person's. Who asks is
known by the kernel (SO_PEERCRED, unix(7)), not by what it says. Whoever goes first, a kernel or the one who
asked for it, takes the other along.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from labkit import reading
from labkit.errors import ConfigError
from labkit.records import Record

if TYPE_CHECKING:
    from subprocess import Popen

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


class Door:
    """The door of one person (``uid``), open until it is closed."""

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
        """Every kernel has ended, and nobody is listened to."""
        for kernel in tuple(self._kernels.values()):
            self._end(kernel)
        self._selector.close()
        self._listener.close()

    def _ask(self) -> None:
        """Somebody is at the door."""
        client, _ = self._listener.accept()
        with ExitStack() as undone:
            undone.callback(client.close)
            if _user(client) != self._uid:
                return
            client.settimeout(5)
            with suppress(OSError, ValueError, ConfigError):
                self._begin(client)
                undone.pop_all()

    def _begin(self, client: socket.socket) -> None:
        text, outputs, _, _ = socket.recv_fds(client, MOST, 1)
        with ExitStack() as opened:
            for output in outputs:
                opened.callback(os.close, output)
            asked = Asked.model_validate(reading.parsed(text))
            require_own(asked, self._uid)
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


def require_own(asked: Asked, uid: int) -> None:
    """Raises :class:`ConfigError` for a connection file that is not a file of that person's."""
    path = Path(asked.connection_file)
    try:
        seen = path.lstat()
        sound = path.is_absolute() and stat.S_ISREG(seen.st_mode) and seen.st_uid == uid
    except (OSError, ValueError):
        sound = False
    if not sound or not Path(asked.folder).is_absolute():
        raise ConfigError(
            asked.connection_file,
            f"is no connection file of user {uid}",
            "start kernels from JupyterLab",
            code="config.connection-file",
        )


def _user(client: socket.socket) -> int:
    """Who is at the other end (struct ucred: process, user, group)."""
    size = struct.calcsize("3i")
    found: tuple[int, int, int] = struct.unpack(
        "3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return found[1]
