"""Runs build programs apart from the machine: in namespaces of their own, with a local repository as their only network."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from pydantic import Field

from labkit.errors import MachineError, with_sudo
from labkit.farm.rootfs.apt import AbsentError
from labkit.farm.rootfs.repository import ADDRESS, Depot, Shop
from labkit.kernel import calls
from labkit.kernel.netns import alone
from labkit.records import Record

#: How many times the bytes of a build have to be free in memory for it to happen there: two builds run
#: side by side, and others want memory too.
ROOMY = 4


class Way(Record):
    """How a program is started that may go through the gateway: the words before its own, and its
    environment. Without a gateway both are empty."""

    words: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)


#: No gateway at all.
NOWHERE = Way()


def sealed(
    argv: Sequence[str | Path], *, root: Path | None = None, way: Way = NOWHERE
) -> list[str]:
    """The argument list that runs ``argv`` sealed off, with ``root`` as its root folder.

    :param way: the way to the mirror (:func:`labkit.farm.rootfs.sandbox.gateway`), and then to nothing
        else; without one the network is the machine's.
    """
    return [
        *way.words,
        "setpriv",
        "--pdeathsig=KILL",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        *([f"--root={root}"] if root else []),
        "--mount-proc",
        "--",
        *(str(word) for word in argv),
    ]


def in_memory(work: Path, space: int, function: Callable[[Path], T]) -> T:
    """``function(folder)``, with a folder in memory where the machine has plenty of it, else ``work``.

    Installing packages writes each file several times and waits for the disk each time. The folder
    is mounted in a namespace of the calling thread alone: nobody else sees it, and it ends with it.
    """
    if _memory() < ROOMY * space:
        return function(work)
    folder = work / "memory"

    def inside() -> T:
        calls.unshare(calls.CLONE_NEWNS)
        calls.mount("none", Path("/"), flags=calls.MS_REC | calls.MS_PRIVATE)
        calls.mount("labkit", folder, "tmpfs", options="mode=755")
        try:
            return function(folder)
        finally:
            calls.unmount(folder, calls.MNT_DETACH)

    folder.mkdir()
    done = alone(inside)
    folder.rmdir()
    return done


def _memory() -> int:
    """The bytes of memory that programs may still take (proc(5), /proc/meminfo)."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.M)
    return int(found[1]) * 1024 if found else 0


T = TypeVar("T")

log = logging.getLogger("labkit.gateway")


#: netdevice(7): read and write an interface's flags; the one that says it is up.
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


@contextmanager
def gateway(depot: Depot, shop: Shop) -> Iterator[Way]:
    """The gateway is open while the block runs."""
    listening, namespace = alone(_apart)
    try:
        with _Server(("", 0), _handler(depot, shop), False) as server:
            server.socket.close()
            server.socket = listening
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="gateway")
            thread.start()
            try:
                yield _way(namespace, listening.getsockname()[1])
            finally:
                server.shutdown()
                thread.join()
    finally:
        listening.close()
        os.close(namespace)


class _Server(ThreadingHTTPServer):
    """One thread for each connection; a program that goes away in the middle of one is no fault."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("a connection of %s ended", client_address, exc_info=True)


def _way(namespace: int, port: int) -> Way:
    address = f"http://127.0.0.1:{port}"
    return Way(
        words=("nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace}", "--"),
        env={
            **dict.fromkeys(("http_proxy", "HTTP_PROXY"), address),
            **dict.fromkeys(("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"), ""),
        },
    )


def _apart() -> tuple[socket.socket, int]:
    """A listening socket in a new network namespace, and a descriptor of that."""
    try:
        calls.unshare(calls.CLONE_NEWNET)
    except PermissionError:
        raise MachineError(
            "a network namespace",
            "needs root",
            with_sudo(),
            "id",
            code="machine.not-root",
        ) from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("16xH", fcntl.ioctl(control, SIOCGIFFLAGS, request))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    return listening, os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _handler(depot: Depot, shop: Shop) -> type[BaseHTTPRequestHandler]:
    """What answers requests: with an index of the shop, a package, or what came of fetching it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(self.path.removeprefix(ADDRESS))
            try:
                if path in shop.debs:
                    self._answer(HTTPStatus.OK, depot.get(shop.debs[path]).read_bytes())
                elif path in shop.files:
                    self._answer(HTTPStatus.OK, shop.files[path])
                else:
                    self._answer(HTTPStatus.NOT_FOUND, b"")
            except AbsentError as error:
                self._answer(error.status or HTTPStatus.GATEWAY_TIMEOUT, error.reason.encode())
            except OSError:  # which the depot remembers
                self._answer(HTTPStatus.INSUFFICIENT_STORAGE, b"")

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """The depot says what it fetches; what it has need not be told."""

    return Handler
