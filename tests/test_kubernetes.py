"""What labkit says of a cluster that it cannot use: an API server that stands for it answers as the real one does.

The real one is in the benchmark ``tests/benchmarks/kubernetes.py``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from labkit import Lab
from labkit.cluster import kubernetes
from labkit.cluster.engine import EngineError
from labkit.errors import ConfigError, LabkitError, StateError
from tests.conftest import free_port

Answers = dict[str, tuple[int, Any]]
ACTIONS = (kubernetes.up, kubernetes.plan, kubernetes.check, kubernetes.down)


class Server(ThreadingHTTPServer):
    """An API server with fixed answers; ``asked`` are the requests."""

    def __init__(self, answers: Answers) -> None:
        self.answers, self.asked = answers, list[str]()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers by the path alone; without an answer, there is no such thing."""

    server: Server

    def do_GET(self) -> None:
        """Answers, and notes what was asked."""
        self.server.asked.append(f"{self.command} {self.path}")
        status, body = self.server.answers.get(self.path, (404, {"message": "not found"}))
        text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_PATCH = do_DELETE = do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def served() -> Iterator[Callable[[Answers], Server]]:
    """Starts a server with these answers."""
    made: list[Server] = []

    def serve(answers: Answers) -> Server:
        made.append(Server({"/version": (200, {"major": "1", "minor": "20+"}), **answers}))
        threading.Thread(target=made[-1].serve_forever, daemon=True).start()
        return made[-1]

    yield serve
    for server in made:
        server.shutdown()
        server.server_close()


def kubeconfig(folder: Path, port: int) -> Path:
    """A kubeconfig with the context ``there``."""
    file = folder / "config"
    file.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "there", "clusters": [{"name": "a", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "me", "user": {}}], "contexts": [{"name": "there", "context": {"cluster": "a", "user": "me"}}],
    }))  # fmt: skip
    return file


@pytest.mark.parametrize("act", ACTIONS)
def test_no_api_server_answers(act: Callable[..., Any], tmp_path: Path) -> None:
    """It is named, with the remedy."""
    port = free_port()
    with pytest.raises(EngineError) as caught:
        act(Lab.of({}), kubeconfig(tmp_path, port))
    assert caught.value.code == "farm.engine-silent"
    assert caught.value.value == f"http://127.0.0.1:{port}"
    assert "refused" in caught.value.reason
    assert "--context" in caught.value.remedy


@pytest.mark.parametrize("answer", [(200, {}), (404, {}), (200, "words")])
def test_something_else_answers(
    answer: tuple[int, Any], served: Callable[[Answers], Server], tmp_path: Path
) -> None:
    """A server of another kind is said to be none."""
    server = served({"/version": answer})
    with pytest.raises(EngineError, match="no API server") as caught:
        kubernetes.plan(Lab.of({}), kubeconfig(tmp_path, server.server_port))
    assert caught.value.code == "farm.engine-silent"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"context": "elsewhere"}, "elsewhere"),
        ({"kubeconfig": Path("/no/such/file")}, "/no/such/file"),
    ],
)
def test_a_kubeconfig_or_context_that_is_not_there(
    given: Mapping[str, Any], said: str, tmp_path: Path
) -> None:
    """Is said to be none, before anything is asked."""
    with pytest.raises(ConfigError) as caught:
        kubernetes.plan(Lab.of({}), **{"kubeconfig": kubeconfig(tmp_path, free_port()), **given})
    assert caught.value.code == "config.engine-context"
    assert said in caught.value.value


def test_the_context_of_the_lab_is_used(tmp_path: Path) -> None:
    """Where no other one is named."""
    with pytest.raises(ConfigError, match="elsewhere"):
        kubernetes.plan(
            Lab.of({"engine": {"context": "elsewhere"}}), kubeconfig(tmp_path, free_port())
        )


@pytest.mark.parametrize("act", ACTIONS)
@pytest.mark.parametrize("labels", [{}, {"labkit.lab": "lab-another"}])
def test_another_ones_namespace_is_left_alone(
    act: Callable[..., Any], labels: Mapping[str, str], served: Callable[[Answers], Server], tmp_path: Path
) -> None:  # fmt: skip
    """Also another lab's of the same name: nothing is asked of it, and nothing changed."""
    server = served(
        {"/api/v1/namespaces/lab": (200, {"metadata": {"name": "lab", "labels": labels}})}
    )
    with pytest.raises(StateError) as caught:
        act(Lab.of({}), kubeconfig(tmp_path, server.server_port))
    assert caught.value.code == "state.not-own"
    assert server.asked == ["GET /version", "GET /api/v1/namespaces/lab"]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "farm.engine-rights", 'namespaces "lab" is forbidden'),
        (401, "farm.engine-rights", "Unauthorized"),
        (500, "farm.engine", "etcdserver: no leader"),
    ],
)
def test_what_the_server_says_when_it_refuses(
    status: int, code: str, said: str, served: Callable[[Answers], Server], tmp_path: Path
) -> None:
    """Is told in its own words, with what was asked and a remedy."""
    server = served({"/api/v1/namespaces/lab": (status, {"message": said})})
    with pytest.raises(LabkitError) as caught:
        kubernetes.plan(Lab.of({}), kubeconfig(tmp_path, server.server_port))
    assert caught.value.code == code
    assert said in caught.value.reason
    assert caught.value.value == "GET /api/v1/namespaces/lab"
    assert caught.value.remedy


def test_a_down_of_what_is_not_there_says_so(
    served: Callable[[Answers], Server], tmp_path: Path
) -> None:
    """And deletes nothing."""
    server = served({})
    done = kubernetes.down(
        Lab.of({"run": str(tmp_path), "state": str(tmp_path)}),
        kubeconfig(tmp_path, server.server_port),
    )
    assert not done.changed
    assert "had nothing" in done.summary
    assert not [line for line in server.asked if not line.startswith("GET ")]


def test_a_cluster_without_a_node_for_the_lab_is_said_to_have_none(
    served: Callable[[Answers], Server], tmp_path: Path
) -> None:
    """Before an image is built."""
    server = served({"/api/v1/nodes": (200, {"items": []})})
    with pytest.raises(EngineError, match="no node that takes pods"):
        kubernetes.plan(Lab.of({}), kubeconfig(tmp_path, server.server_port))
