"""Web servers of a test, in a thread of its process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from typing import TypeVar

Server = TypeVar("Server", bound=TCPServer)


@contextmanager
def served(server: Server) -> Iterator[Server]:
    """The server answers while the block runs, and has ended afterwards."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def saying(text: Callable[[str], str]) -> type[BaseHTTPRequestHandler]:
    """A handler that answers each path with a page, and logs nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text(self.path).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    return Handler
