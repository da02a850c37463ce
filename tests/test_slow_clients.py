"""Clients that send their requests byte by byte, hundreds of them, and one that asks as everybody does."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from labkit import Lab
from labkit.farm.containers import runc
from labkit.farm.services import balancer_config
from labkit.kernel.netns import enter, inside
from labkit.wiki.server import configuration
from tests.whole_farm import standing

#: How many are slow, and how long the others wait at most for an answer, in seconds: what README says.
SLOW, BALANCER, WIKI = 300, 1.0, 20.0
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Slow: " + b"x" * 500


class Slow:
    """Clients in one thread: each sends another byte of its header now and then, and comes again when it is ended."""

    def __init__(self, netns: str | None, address: str, port: int) -> None:
        self.ended = 0
        self.most = 0
        self._done = threading.Event()
        self._where = (address, port)
        self._thread = threading.Thread(target=self._run, args=(netns,))
        self._open: list[tuple[socket.socket, int]] = []

    def _run(self, netns: str | None) -> None:
        enter(netns)
        while not self._done.is_set():
            self._open = [item for item in map(self._next, self._open) if item]
            while len(self._open) < SLOW:
                self._open.append((self._new(), 0))
            self.most = max(self.most, sum(sent > 0 for _, sent in self._open))
            time.sleep(0.1)
        for channel, _ in self._open:
            channel.close()

    def _new(self) -> socket.socket:
        channel = socket.socket()
        channel.setblocking(False)
        with suppress(BlockingIOError):
            channel.connect(self._where)
        return channel

    def _next(self, item: tuple[socket.socket, int]) -> tuple[socket.socket, int] | None:
        channel, sent = item
        try:
            channel.send(REQUEST[sent : sent + 1])
            if not channel.recv(1024):
                raise ConnectionResetError
        except BlockingIOError:
            return channel, sent + 1
        except OSError:
            pass
        channel.close()
        self.ended += 1
        return None


@contextmanager
def slow(netns: str | None, address: str, port: int) -> Iterator[Slow]:
    """They are there while the block runs."""
    clients = Slow(netns, address, port)
    clients._thread.start()
    try:
        time.sleep(1)
        yield clients
    finally:
        clients._done.set()
        clients._thread.join()


def asked(address: str, port: int, host: str, path: str = "/") -> float:
    """The seconds until an ordinary request is answered."""
    started = time.monotonic()
    connection = http.client.HTTPConnection(address, port, timeout=60)
    connection.request("GET", path, headers={"Host": host})
    reply = connection.getresponse()
    reply.read()
    connection.close()
    assert reply.status == 200
    return time.monotonic() - started


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """One replica behind the balancer."""
    with standing(sites=["lone"], replicas=1) as lab:
        yield lab


@pytest.mark.root
def test_slow_clients_leave_the_balancer_to_the_others(farm: Lab) -> None:
    """They are ended, come again, and nobody else waits."""
    there = (str(farm.gateway.ip), farm.proxy.port)
    with slow(farm.netns, *there) as clients:
        times = []
        for _ in range(30):
            times.append(inside(farm.netns, asked, *there, farm.host_name("lone")))
            time.sleep(0.2)
    print(f"balancer: {max(times):.3f} s, {clients.ended} ended, {clients.most} at once")
    assert clients.most > 0.9 * SLOW
    assert clients.ended > SLOW
    assert max(times) < BALANCER
    assert runc.states(farm)["lone-1"].status == "running"


@pytest.mark.root
def test_slow_clients_keep_the_wiki_s_readers_waiting_for_seconds(wiki_lab: Lab) -> None:
    """It has a process for each request that it has in hand: they wait in a row, which goes on."""
    port = wiki_lab.wiki.port
    asked("127.0.0.1", port, f"127.0.0.1:{port}", "/w/api.php?action=query&format=json")
    with slow(None, "127.0.0.1", port) as clients:
        times = [
            asked("127.0.0.1", port, f"127.0.0.1:{port}", "/w/api.php?action=query&format=json")
            for _ in range(4)
        ]
    print(f"wiki: {max(times):.3f} s, {clients.ended} ended, {clients.most} at once")
    assert clients.most > 0.9 * SLOW
    assert max(times) < WIKI


def test_there_are_threads_for_more_than_the_slow_ones() -> None:
    """And each has its time."""
    lab = Lab.of({})
    assert balancer_config.THREADS > 1.5 * SLOW
    assert f"RequestReadTimeout {balancer_config.PATIENCE}\n" in balancer_config.config(lab)
    assert configuration.WORKERS * WIKI > SLOW
