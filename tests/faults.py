"""A proxy in front of a wiki that fails where it is told to."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.servers import served

#: What can go wrong with a request: nothing of it arrives; the wiki acts and its reply is lost, or half
#: of it; something between answers in the wiki's place.
KINDS = ("no request", "no reply", "half a reply", "503", "garbage", "HTML")

NONE: Mapping[str, str] = {}


class Proxy(ThreadingHTTPServer):
    """Passes requests on to the wiki at ``port``, and fails at the ``place``-th from now on.

    ``kind`` is one of :data:`KINDS`, "never" (no answer, no end), "given" (the answer that it was
    given), or "hold": the wiki acts, and the reply waits until ``released``. ``lasting``: so it goes
    with all that follow.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.wiki = port
        self.lock = threading.Lock()
        self.held, self.released = threading.Event(), threading.Event()
        self.given: tuple[int, bytes, dict[str, str]] = (200, b"{}", {})
        self.arm(0, "")

    @property
    def host(self) -> str:
        """Its own address."""
        return f"127.0.0.1:{self.server_address[1]}"

    def arm(self, place: int, kind: str, *, lasting: bool = False) -> None:
        """Counts requests anew, and fails at the one of that number, from 1 (0: at none)."""
        with self.lock:
            self.place, self.kind, self.lasting = place, kind, lasting
            self.count, self.words = 0, list[bytes]()
        self.held.clear()
        self.released.clear()

    def next(self, body: bytes) -> str:
        """What goes wrong with the request that has just come, '' for nothing."""
        with self.lock:
            self.count += 1
            self.words.append(body)
            due = self.count == self.place or (self.lasting and 0 < self.place <= self.count)
            return self.kind if due else ""

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: connections end in the middle here."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._pass_on(b"")

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers["Content-Length"])))

    def _pass_on(self, body: bytes) -> None:
        kind = self.server.next(body)
        if kind == "never":
            self.server.released.wait(60)
            self.close_connection = True
        elif kind == "no request":
            self.close_connection = True
        elif kind == "given":
            status, content, headers = self.server.given
            self._answer(status, content, "application/json", headers)
        elif kind == "503":
            self._answer(503, b"Service Unavailable", "text/plain")
        elif kind == "garbage":
            self._answer(200, b"\x00\xff\x1b[2J{", "application/json")
        elif kind == "HTML":
            self._answer(
                200, b"<html><body>Please log in to this network</body></html>", "text/html"
            )
        else:
            self._from_wiki(body, kind)

    def _from_wiki(self, body: bytes, kind: str) -> None:
        wiki = http.client.HTTPConnection("127.0.0.1", self.server.wiki, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        wiki.request(self.command, self.path, body or None, headers)
        reply = wiki.getresponse()
        content = reply.read()
        wiki.close()
        if kind == "hold":
            self.server.held.set()
            self.server.released.wait(60)
        if kind in ("hold", "no reply"):
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in (
                "connection",
                "keep-alive",
                "transfer-encoding",
                "content-length",
            ):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if kind == "half a reply" else content)
        self.close_connection = kind == "half a reply"

    def _answer(
        self, status: int, content: bytes, kind: str, headers: Mapping[str, str] = NONE
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the library
        """Says nothing."""


@contextmanager
def proxy_to(port: int, *, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """A proxy, which speaks https with ``tls``, that has ended afterwards."""
    proxy = Proxy(port)
    if tls is not None:
        proxy.socket = tls.wrap_socket(proxy.socket, server_side=True)
    with served(proxy):
        try:
            yield proxy
        finally:
            proxy.released.set()
