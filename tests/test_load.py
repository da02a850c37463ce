"""The load generator: what it sends, that it sends nothing twice, and what it tells."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest

from labkit import Lab
from labkit.farm.services.fetch import Target
from labkit.farm.traffic.load import Load, Sent

PAGE = b"HTTP/1.1 200 OK\r\nX-Labkit-Replica: red-1\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Answers on loopback what a function of the request's number says, and counts connections; b'' hangs up."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.answer: Callable[[int], bytes] = lambda _: PAGE
        self.heads: list[str] = []
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                channel, _ = self.socket.accept()
            except OSError:  # the test has ended
                return
            self.connections += 1
            with channel:
                while (answer := self._asked(channel)) is not None:
                    channel.sendall(answer)
                    if b"close" in answer:
                        break

    def _asked(self, channel: socket.socket) -> bytes | None:
        text = b""
        while b"\r\n\r\n" not in text:
            data = channel.recv(65536)
            if not data:
                return None
            text += data
        length = re.search(rb"Content-Length: (\d+)", text)
        while length and len(text.partition(b"\r\n\r\n")[2]) < int(length[1]):
            text += channel.recv(65536)
        self.heads.append(text.decode())
        return self.answer(len(self.heads) - 1) or None


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    with found.socket:
        yield found


def sent(server: Server, requests: int = 5, pace: float = 0.0, **how: object) -> tuple[Sent, ...]:
    there = Target(
        label="red",
        host="red.test",
        address=IPv4Address("127.0.0.1"),
        port=server.socket.getsockname()[1],
    )
    lab = Lab.of({"host": {"netns": ""}})
    return Load(lab, there, "t", concurrency=1, requests=requests, pace=pace, **how).run()  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(("kept", "connections"), [(True, 1), (False, 5)])
def test_a_connection_is_kept_or_made_for_each_request(
    server: Server, method: str, kept: bool, connections: int
) -> None:
    """By each method, each request once; a POST has a body."""
    found = sent(server, method=method, kept=kept)
    assert [(item.status, item.replica, item.method) for item in found] == [
        (200, "red-1", method)
    ] * 5
    assert server.connections == connections
    assert [head.split()[0] for head in server.heads] == [method] * 5
    assert all(("Connection: close" in head) is not kept for head in server.heads)
    assert all(head.endswith("words=labkit") is (method == "POST") for head in server.heads)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 302),
        (b"", 0),
        (b"HTTP/1.1 20", 0),
    ],
)
def test_nothing_is_followed_and_nothing_sent_twice(
    server: Server, answer: bytes, status: int, kept: bool
) -> None:
    """A redirection, a connection that is closed without an answer, or in its middle: each fails one request."""
    server.answer = lambda number: (
        PAGE if number != 2 else answer + (b"close" if status == 0 and answer else b"")
    )
    found = sent(server, kept=kept)
    assert [item.status for item in found] == [200, 200, status, 200, 200]
    assert len(server.heads) == 5
    assert [bool(item.error) for item in found] == [item.status == 0 for item in found]


def test_a_connection_that_was_closed_while_idle_fails_no_request(server: Server) -> None:
    """It is seen before the next one is sent, which goes on another one."""
    server.answer = lambda number: PAGE.replace(b"\r\n\r\n", b"\r\nX-Is: closed\r\n\r\n")
    found = sent(server, requests=3, pace=0.1, kept=True)
    assert [item.status for item in found] == [200, 200, 200]
    assert server.connections == 3


def test_latency_counts_from_when_a_request_was_to_be_sent(server: Server) -> None:
    """One slow answer delays those behind it, whose clients waited as well."""

    def slow(number: int) -> bytes:
        time.sleep(0.4 if number == 0 else 0)
        return PAGE

    server.answer = slow
    found = sent(server, requests=10, pace=0.05, kept=True)
    assert [item.start for item in found] == [pytest.approx(n * 0.05, abs=0.002) for n in range(10)]
    assert found[0].took > 0.39
    assert found[4].took > 0.19
    assert found[9].took < 0.1
