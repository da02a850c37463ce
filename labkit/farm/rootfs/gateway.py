"""A build's only way out: a network namespace with a loopback and, on it, the shop behind an HTTP proxy.

The programs that build a root file system reach nothing else. The packages that they ask for come
from the depot, which has them fetched if it has to. The namespace has no name: it ends
with the process that made it, however that ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from pydantic import Field

from labkit.errors import MachineError, with_sudo
from labkit.farm.rootfs.depot import AbsentError, Depot
from labkit.farm.rootfs.shop import ADDRESS, Shop
from labkit.kernel import calls
from labkit.kernel.netns import alone
from labkit.records import Record

log = logging.getLogger("labkit.gateway")

#: netdevice(7): read and write an interface's flags; the one that says it is up.
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


class Way(Record):
    """How a program is started that may go through the gateway: the words before its own, and its
    environment. Without a gateway both are empty."""

    words: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)


#: No gateway at all.
NOWHERE = Way()


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
