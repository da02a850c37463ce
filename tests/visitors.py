"""Clients of a site, none of which follows a redirection or repeats a request: labkit's own load, curl, wrk, and raw
sockets; and what can happen to a replica while they ask."""

from __future__ import annotations

import http.client
import re
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from labkit import Lab
from labkit.core import run
from labkit.farm.containers import container, runc, written
from labkit.farm.services import balancer_server, fetch
from labkit.farm.traffic.failover import running
from labkit.farm.traffic.load import Load
from labkit.kernel.netns import enter
from labkit.model.lab import Replica
from labkit.model.sites import TRACE_HEADER
from tests.waiting import until

#: How the raw sockets' clients ask, one each: by which method, on a connection that they keep or not.
WAYS = [(method, kept) for method in ("GET", "HEAD", "POST") for kept in (True, False)]
#: wrk counts what is no 2xx or 3xx; this counts what is no 200.
WRK = """
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() other = 0 end
function response(status) if status ~= 200 then other = other + 1 end end
function done(summary)
    local others, e = 0, summary.errors
    for _, thread in ipairs(threads) do others = others + thread:get("other") end
    io.write(string.format("\\nfound %d %d %d\\n", summary.requests, others, e.connect + e.read + e.write + e.timeout))
end
"""


#: So many requests of each site are answered before a change, and after it.
ENOUGH = 100


@contextmanager
def loaded(lab: Lab, sites: Sequence[str] = ("red", "blue")) -> Iterator[list[Load]]:
    """Clients send to the sites while the block runs; when it ends, none of their requests has failed."""
    loads = [
        Load(lab, fetch.front(lab, site), f"load-{site}", concurrency=3, pace=0.005)
        for site in sites
    ]
    with ExitStack() as stack:
        for load in loads:
            stack.enter_context(running(load))
        until(lambda: min(len(load.sent) for load in loads) > ENOUGH)
        yield loads
        sent = [len(load.sent) for load in loads]
        until(lambda: all(len(x.sent) > n + ENOUGH for x, n in zip(loads, sent, strict=True)))
    assert [[item for item in load.sent if item.failed] for load in loads] == [[] for _ in sites]


class Found(Counter[str]):
    """How many requests ended how: ``wrk 200``, ``GET kept 200``, ``POST closed 502``, ``curl no answer`` …"""

    def safe(self) -> int:
        """Requests by GET and HEAD."""
        return sum(times for what, times in self.items() if not what.startswith("POST"))

    def lost(self) -> dict[str, int]:
        """Those of them that did not get the page."""
        return {what: times for what, times in self.items()
                if times and not what.startswith("POST") and not what.endswith(" 200")}  # fmt: skip


def raw(
    lab: Lab, site: str, trace: str, over: threading.Event, *, method: str, kept: bool
) -> Found:
    """A client on raw sockets until it is ``over``; each request has a trace of its own."""
    enter(lab.netns)
    found, number, channel = Found(), 0, None
    name = f"{method} {'kept' if kept else 'closed'}"
    headers = [f"Host: {lab.host_name(site)}", *([] if kept else ["Connection: close"])]
    headers += ["Content-Length: 3"] if method == "POST" else []
    body = "a=1" if method == "POST" else ""
    while not over.is_set():
        number += 1
        head = "\r\n".join(
            (f"{method} /?{number} HTTP/1.1", *headers, f"{TRACE_HEADER}: {trace}-{number}")
        )
        try:
            if channel is None:
                channel = socket.create_connection((str(lab.gateway.ip), lab.proxy.port), 25)
            channel.sendall(f"{head}\r\n\r\n{body}".encode())
            answer = http.client.HTTPResponse(channel, method=method)
            answer.begin()
            answer.read()
            found[f"{name} {answer.status}"] += 1
            if answer.will_close:
                channel.close()
                channel = None
        except (OSError, http.client.HTTPException) as error:
            found[f"{name} {type(error).__name__}"] += 1
            if channel:
                channel.close()
            channel = None
    if channel:
        channel.close()
    return found


def wrk(lab: Lab, site: str, seconds: float, script: Path, connections: int = 16) -> Found:
    """wrk's requests, on connections that are kept."""
    script.write_text(WRK)
    words = [
        "wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:.0f}s",
        "--timeout", "25s", "--script", script, "--header", f"Host: {lab.host_name(site)}",
        f"http://{lab.gateway.ip}:{lab.proxy.port}/",
    ]  # fmt: skip
    said = run.run(words, netns=lab.netns, timeout=seconds + 60).stdout
    requests, other, errors = map(
        int, re.findall(r"^found (\d+) (\d+) (\d+)$", said, re.MULTILINE)[0]
    )
    return Found({"wrk 200": requests - other, "wrk other": other, "wrk errors": errors})


def curl(lab: Lab, site: str, over: threading.Event) -> Found:
    """curl's requests until it is ``over``, a hundred by each process on a connection that it keeps."""
    found = Found()
    words = [
        "curl", "--disable", "--silent", "--noproxy", "*", "--max-time", "25", "--retry", "0",
        "--header", f"Host: {lab.host_name(site)}", "--write-out", "%{http_code}\\n",
    ]  # fmt: skip
    address = f"http://{lab.gateway.ip}:{lab.proxy.port}/?[1-100]"
    while not over.is_set():
        said = run.run([*words, "--output", "/dev/stderr", address], netns=lab.netns, ok=range(256))
        found.update(f"curl {status}" for status in said.stdout.split())
    return found


@contextmanager
def visiting(
    lab: Lab, site: str, found: Found, ways: list[tuple[str, bool]] = WAYS
) -> Iterator[str]:
    """curl and raw sockets ask while the block runs, which has the requests' trace; how they ended is in ``found``
    then."""
    over, trace = threading.Event(), secrets.token_hex(4)
    with ThreadPoolExecutor(len(ways) + 1) as pool:
        asking = [
            pool.submit(raw, lab, site, f"{trace}{place:x}", over, method=method, kept=kept)
            for place, (method, kept) in enumerate(ways)
        ]
        asking.append(pool.submit(curl, lab, site, over))
        try:
            yield trace
        finally:
            over.set()
        for one in asking:
            found.update(one.result())


def executed(
    lab: Lab, site: str, trace: str, ways: list[tuple[str, bool]] = WAYS
) -> dict[str, int]:
    """By the replicas' logs: POSTs that were executed twice, and those that arrived by another method."""
    sent = {f"{trace}{place:x}": method for place, (method, _) in enumerate(ways)}
    times, turned = Counter[str](), 0
    for replica in lab.replicas_of(site):
        text = written.log(lab, replica.name, "access").read_text()
        for method, start, number in re.findall(
            rf'"request":"(\w+) .*"trace":"({trace}\w)-(\d+)"', text
        ):
            if sent[start] == "POST":
                times[f"{start}-{number}"] += 1
                turned += method != "POST"
    return {"doubled": sum(n > 1 for n in times.values()), "turned": turned, "POSTs": len(times)}


def signal(name: str, *, ends: bool) -> Callable[[Lab, Replica], None]:
    """The replica's server gets a signal; one that it ends by is started again."""

    def act(lab: Lab, replica: Replica) -> None:
        run.run(runc.command(lab, "kill", replica.name, name))
        if ends:
            container.wait(lab, replica.name)
        time.sleep(0.3)
        container.start(lab, replica)

    return act


def freeze(lab: Lab, replica: Replica) -> None:
    """The replica stands still for a while."""
    run.run(runc.command(lab, "pause", replica.name))
    time.sleep(1.5)
    run.run(runc.command(lab, "resume", replica.name))


def cut(lab: Lab, replica: Replica) -> None:
    """The replica's link is down for a while."""
    for state in ("down", "up"):
        run.run(["ip", "link", "set", replica.link, state], netns=lab.netns)
        time.sleep(1.5 if state == "down" else 0)


EVENTS: dict[str, Callable[[Lab, Replica], None]] = {
    "kill": signal("KILL", ends=True),
    "stop": signal("TERM", ends=True),
    "graceful stop": signal("WINCH", ends=True),
    "restart": signal("HUP", ends=False),
    "graceful restart": signal("USR1", ends=False),
    "freeze": freeze,
    "cut": cut,
}


def serving(lab: Lab, site: str) -> None:
    """Waits until the balancer sends requests to every replica of the site."""

    def all_usable() -> bool:
        with suppress(Exception):
            return all(worker.usable for worker in balancer_server.members(lab, site).workers)
        return False

    until(all_usable)
