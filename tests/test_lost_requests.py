"""What the balancer does with a request that its replica loses: replicas that read it and close the connection."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from labkit import Lab
from labkit.core import run
from labkit.farm.services import balancer, balancer_server
from labkit.kernel.netns import inside
from labkit.model.sites import HEALTH_QUERY
from tests.host_side import give_address
from tests.waiting import until


@dataclass
class Request:
    """A request as a replica has read it."""

    replica: str
    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def method(self) -> str:
        return self.line.split()[0]

    @property
    def path(self) -> str:
        return self.line.split()[1]


@dataclass
class Replicas:
    """Servers at the addresses of a lab's replicas; those in ``dying`` answer nothing but health checks."""

    lab: Lab
    dying: set[str] = field(default_factory=set)
    seen: list[Request] = field(default_factory=list)
    servers: dict[str, socket.socket] = field(default_factory=dict)
    #: How long, in seconds, they say nothing before they close the connection.
    silence: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def serve(self, name: str, server: socket.socket) -> None:
        """Takes connections until the server's socket is closed."""
        server.settimeout(0.2)
        while server.fileno() >= 0:
            with suppress(TimeoutError, OSError):
                channel, _ = server.accept()
                threading.Thread(target=self._talk, args=(name, channel), daemon=True).start()

    def refuses(self, name: str) -> bool:
        """Whether nobody listens there any more."""
        with socket.socket() as probe:
            return probe.connect_ex((str(self.lab.replica(name).address), 80)) != 0

    def _talk(self, name: str, channel: socket.socket) -> None:
        with channel, channel.makefile("rb") as file:
            while line := file.readline().decode().strip():
                head = iter(lambda: file.readline().decode().strip(), "")
                headers = {
                    k.strip().lower(): v.strip() for k, _, v in (h.partition(":") for h in head)
                }
                body = _body(file, headers)
                if HEALTH_QUERY not in line:
                    self.seen.append(Request(name, line, headers, body))
                    if name in self.dying:
                        self.over.wait(self.silence)
                        return
                page = f"{name} has {line}\n".encode()
                channel.sendall(b"HTTP/1.1 200 OK\r\nX-Labkit-Replica: %b\r\nContent-Length: %d\r\n\r\n%b" % (
                    name.encode(), len(page), b"" if line.startswith("HEAD") else page))  # fmt: skip


def _body(file, headers: dict[str, str]) -> bytes:  # type: ignore[no-untyped-def]
    if headers.get("transfer-encoding") != "chunked":
        return file.read(int(headers.get("content-length", 0)))  # type: ignore[no-any-return]
    found = b""
    while size := int(file.readline(), 16):
        found += file.read(size)
        file.readline()
    file.readline()
    return found


@pytest.fixture
def standing(make_lab: Callable[..., Lab]) -> Iterator[Callable[..., Replicas]]:
    """Makes a balancer in front of such replicas, of one site ``red``."""
    with ExitStack() as after:

        def make(*dying: str, **parameters: object) -> Replicas:
            lab = give_address(make_lab(**{"sites": ["red"], **parameters}))
            found = Replicas(lab, set(dying))
            after.callback(found.over.set)
            for item in lab.farm:
                server = inside(lab.netns, socket.create_server, (str(item.address), 80))
                after.callback(server.close)
                found.servers[item.name] = server
                threading.Thread(target=found.serve, args=(item.name, server), daemon=True).start()
            balancer.up(lab)
            until(
                lambda: all(worker.usable for worker in balancer_server.members(lab, "red").workers)
            )
            return found

        yield make


def spoken(lab: Lab, *requests: bytes) -> list[bytes]:
    """The answers to requests that are sent one after the other on one connection, '' when it was closed: by a
    client that follows nothing, and repeats nothing."""

    def speak() -> list[bytes]:
        answers = []
        with socket.create_connection((str(lab.gateway.ip), lab.proxy.port), 25) as channel:
            for request in requests:
                channel.sendall(request)
                answers.append(_answer(channel, head=request.startswith(b"HEAD")))
        return answers

    return inside(lab.netns, speak)


def _answer(channel: socket.socket, *, head: bool) -> bytes:
    found = b""
    while b"\r\n\r\n" not in found:
        data = channel.recv(65536)
        if not data:
            return found
        found += data
    length = re.search(rb"\r\nContent-Length: (\d+)", found)
    whole = found.index(b"\r\n\r\n") + 4 + (int(length[1]) if length and not head else 0)
    while len(found) < whole:
        found += channel.recv(65536)
    assert len(found) == whole, found
    return found


def request(lab: Lab, line: str, body: str = "", **headers: str) -> bytes:
    """The text of a request."""
    given = {"Host": lab.host_name("red"), **{k.replace("_", "-"): v for k, v in headers.items()}}
    if body and "Transfer-Encoding" not in given:
        given["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{line} HTTP/1.1\r\n{head}\r\n{body}".encode()


def statuses(answers: list[bytes]) -> list[str]:
    return [answer.partition(b"\r\n")[0].decode().partition(" ")[2][:3] for answer in answers]


@pytest.mark.root
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_a_replica_loses_another_one_answers(
    standing: Callable[..., Replicas], method: str, kept: bool
) -> None:
    """Each time, on a connection that is kept or not; the client sees the answer and nothing else."""
    farm = standing("red-1")
    sent = [
        request(farm.lab, f"{method} /{n}", Connection="keep-alive" if kept else "close")
        for n in range(40)
    ]
    answers = spoken(farm.lab, *sent) if kept else [spoken(farm.lab, one)[0] for one in sent]
    assert statuses(answers) == ["200"] * 40
    assert all(b"X-Labkit-Replica: red-2\r\n" in answer for answer in answers)
    for number, answer in enumerate(answers):
        assert (f" has GET /{number} ".encode() in answer) is (method == "GET")
    lost = [item.path for item in farm.seen if item.replica == "red-1"]
    assert len(lost) >= 10
    twice = {path for path, times in Counter(item.path for item in farm.seen).items() if times > 1}
    assert twice == set(lost)
    until(
        lambda: (
            len([x for x in balancer.log(farm.lab)[0] if x.request.startswith(f"{method} /")]) >= 40
        )
    )
    lines = [x for x in balancer.log(farm.lab)[0] if re.match(rf"{method} /\d", x.request)]
    assert {(line.replica, line.status) for line in lines} == {("red-2", 200)}
    assert sorted(line.lost for line in lines).count("red-1") == len(lost)


@pytest.mark.root
def test_path_and_query_are_sent_as_the_client_wrote_them(
    standing: Callable[..., Replicas],
) -> None:
    """To the replica that loses the request, and to the one that answers it. An address in the place of a path is its
    path, as proxies are asked (RFC 9112, section 3.2.2): nobody else's address is asked by it."""
    farm = standing("red-1")
    name = farm.lab.host_name("red")
    paths = [
        "/a%20b%25?x=1&y=%2F",
        "/x/../y?",
        "//two///three",
        "/%7e~?a=%00&&b",
        "/?q='\"<>|",
        "/again",
        "/" + "a" * 4000,
    ]
    addresses = {f"http://{name}/p?q": "/p?q", f"http://{name}": "/", f"http://{name}?q": "/?q",
                 f"http://{name}//10.9.9.9/": "//10.9.9.9/"}  # fmt: skip
    for given, path in {**{path: path for path in paths}, **addresses}.items():
        farm.seen.clear()
        for _ in range(4):
            assert statuses(spoken(farm.lab, request(farm.lab, f"GET {given}"))) == ["200"], given
        assert {item.path for item in farm.seen} == {path}
        assert {item.replica for item in farm.seen} == {"red-1", "red-2"}


#: Method, body and headers of what may change something, or has a body, which can be read only once.
ONCE: list[tuple[str, str, dict[str, str]]] = [
    ("POST", "a=1", {}), ("POST", "", {"Content_Length": "0"}), ("PUT", "text", {}), ("DELETE", "", {}),
    ("PATCH", "text", {}), ("OPTIONS", "", {}), ("GET", "text", {}),
    ("POST", "3\r\na=1\r\n0\r\n\r\n", {"Transfer_Encoding": "chunked"}),
    ("GET", "3\r\na=1\r\n0\r\n\r\n", {"Transfer_Encoding": "chunked"}),
]  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize(("method", "body", "headers"), ONCE)
def test_what_may_change_something_is_executed_once(
    standing: Callable[..., Replicas], method: str, body: str, headers: dict[str, str]
) -> None:
    """And so is what has a body: a lost one is answered with an error, by the same method, once."""
    farm = standing("red-1")
    sent = [request(farm.lab, f"{method} /{n}", body, **headers) for n in range(20)]
    found = statuses(spoken(farm.lab, *sent))
    assert set(found) == {"200", "502"}
    assert [item.path for item in farm.seen] == [f"/{n}" for n in range(20)]
    assert {item.method for item in farm.seen} == {method}
    assert {item.body for item in farm.seen} == {b"a=1" if "\r\n" in body else body.encode()}
    lost = [item.replica == "red-1" for item in farm.seen]
    assert lost == [status == "502" for status in found]
    until(lambda: len(balancer.log(farm.lab)[0]) >= 20)
    told = {
        (line.status, line.replica, line.lost)
        for line in balancer.log(farm.lab)[0]
        if f"{method} /" in line.request
    }
    assert told >= {(200, "red-2", "-"), (502, "-", "red-1")}


@pytest.mark.root
@pytest.mark.parametrize(("replicas", "asked"), [(2, 2), (3, 2), (1, 2)])
def test_a_request_that_ends_every_replica_ends_two(
    standing: Callable[..., Replicas], replicas: int, asked: int
) -> None:
    """It is not sent on and on; the client is told, once."""
    farm = standing(*(f"red-{n}" for n in range(1, replicas + 1)), replicas=replicas)
    assert statuses(spoken(farm.lab, request(farm.lab, "GET /"))) == ["502"]
    assert len(farm.seen) == asked
    assert len({item.replica for item in farm.seen}) == min(replicas, 2)


@pytest.mark.root
def test_a_second_try_goes_past_those_of_its_half_that_are_gone(
    standing: Callable[..., Replicas],
) -> None:
    """Of four replicas one loses each request, and two refuse connections."""
    farm = standing("red-1", replicas=4)
    for name in ("red-2", "red-3"):
        farm.servers[name].close()
        until(lambda name=name: inside(farm.lab.netns, farm.refuses, name))  # type: ignore[misc]
    answers = spoken(farm.lab, *[request(farm.lab, "GET /")] * 12)
    assert statuses(answers) == ["200"] * 12
    assert {item.replica for item in farm.seen} == {"red-1", "red-4"}


@pytest.mark.root
def test_what_a_replica_does_not_answer_in_time_another_one_answers(
    standing: Callable[..., Replicas],
) -> None:
    """A GET after the balancer's ten seconds; a POST gets an error, once."""
    farm = standing("red-1")
    farm.silence = 60.0
    sent = [request(farm.lab, f"{method} /{n}", "a=1" if method == "POST" else "")
            for method in ("GET", "POST") for n in range(4)]  # fmt: skip
    with ThreadPoolExecutor(8) as pool:
        answers = [
            answer
            for found in pool.map(lambda one: spoken(farm.lab, one), sent)
            for answer in found
        ]
    found = statuses(answers)
    assert found[:4] == ["200"] * 4
    assert set(found[4:]) <= {"200", "502", "504"}
    times = Counter((item.method, item.path) for item in farm.seen)
    assert {times["POST", f"/{n}"] for n in range(4)} == {1}
    assert {item.replica for item in farm.seen if item.method == "GET"} == {"red-1", "red-2"}


@pytest.mark.root
def test_a_client_of_a_sticky_balancer_is_given_the_other_replica(
    standing: Callable[..., Replicas],
) -> None:
    """Its cookie names the lost one; the answer's names who answered."""
    farm = standing("red-1", sticky=True)
    asked = request(farm.lab, "GET /", Cookie="ROUTEID=.red-1")
    (answer,) = spoken(farm.lab, asked)
    assert statuses([answer]) == ["200"]
    assert b"Set-Cookie: ROUTEID=.red-2; path=/\r\n" in answer
    (kept,) = spoken(farm.lab, request(farm.lab, "GET /", Cookie="ROUTEID=.red-2"))
    assert b"Set-Cookie" not in kept
    assert [item.replica for item in farm.seen] == ["red-1", "red-2", "red-2"]


@pytest.mark.root
def test_replicas_know_who_asks(standing: Callable[..., Replicas]) -> None:
    """The address of the client's connection, added once, and the name that it asked for."""
    farm = standing("red-1")
    for before, after in (("", "10.60.0.1"), ("1.2.3.4", "1.2.3.4, 10.60.0.1")):
        farm.seen.clear()
        given = {"X_Forwarded_For": before} if before else {}
        spoken(farm.lab, *[request(farm.lab, "GET /", **given)] * 4)
        assert {item.replica for item in farm.seen} == {"red-1", "red-2"}
        assert {item.headers["x-forwarded-for"] for item in farm.seen} == {after}
        assert {item.headers["host"] for item in farm.seen} == {farm.lab.host_name("red")}


@pytest.mark.root
def test_browsers_and_wrk_see_pages_alone(standing: Callable[..., Replicas]) -> None:
    """curl follows nothing unless it is told to; wrk counts what is no 2xx or 3xx, and what was closed."""
    farm = standing("red-1")
    lab = farm.lab
    url, host = f"http://{lab.gateway.ip}:{lab.proxy.port}/", f"Host: {lab.host_name('red')}"
    words = ["curl", "--disable", "--silent", "--noproxy", "*", "--header", host, "--write-out", "%{http_code} %{num_redirects}\n"]  # fmt: skip
    said = run.run([*words, *["--output", "/dev/stderr", url] * 20], netns=lab.netns).stdout
    assert said.split("\n")[:-1] == ["200 0"] * 20
    words = [
        "wrk",
        "--threads",
        "1",
        "--connections",
        "8",
        "--duration",
        "1s",
        "--header",
        host,
        url,
    ]
    said = run.run(words, netns=lab.netns).stdout
    assert "Non-2xx" not in said
    assert "Socket errors" not in said
    assert {item.replica for item in farm.seen} == {"red-1", "red-2"}
