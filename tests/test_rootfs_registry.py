"""Docker's image, pulled from a registry: one on loopback that serves a layout's files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run
from labkit.errors import BuildError
from labkit.farm import rootfs
from labkit.farm.images import store
from labkit.farm.rootfs import apt
from tests.servers import served

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
STATUS = """\
Package: base-files
Status: install ok installed
Version: 1
Architecture: all
Installed-Size: 7
Description: the one package
"""


class _Registry(BaseHTTPRequestHandler):
    """The pull side of the OCI distribution specification for one image, ``library/debian``."""

    def __init__(self, layout: Path, *rest: object) -> None:
        self.layout = layout
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """A manifest by its tag or hash, or a blob by its hash."""
        kind, _, name = self.path.rpartition("/")
        if self.path == "/v2/":
            self._answer(b"{}", "application/json")
        elif kind == "/v2/library/debian/manifests" and name in (
            *store.tags(self.layout),
            *self._all(),
        ):
            digest = getattr(store.tags(self.layout).get(name), "digest", name)
            self._answer(store.blob(self.layout, digest).read_bytes(), MANIFEST)
        elif kind == "/v2/library/debian/blobs" and name in self._all():
            self._answer(store.blob(self.layout, name).read_bytes(), "application/octet-stream")
        else:
            self.send_error(404)

    def _all(self) -> dict[str, int]:
        return store.blobs(self.layout)

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of a registry that has the image of the machine's suite, with one package in it."""
    layout, bundle = tmp_path / "hub", tmp_path / "bundle"
    image = f"{layout}:{apt.suite(Lab())}"
    run.run(["umoci", "init", "--layout", layout])
    run.run(["umoci", "new", "--image", image])
    run.run(["umoci", "unpack", "--image", image, bundle])
    (bundle / "rootfs/var/lib/dpkg").mkdir(parents=True)
    (bundle / "rootfs/var/lib/dpkg/status").write_text(STATUS)
    run.run(["umoci", "repack", "--image", image, bundle])
    with served(ThreadingHTTPServer(("127.0.0.1", 0), partial(_Registry, layout))) as server:
        yield f"127.0.0.1:{server.server_port}"


@pytest.mark.root
def test_the_result_says_that_the_image_was_pulled(lab: Lab, registry: str, tmp_path: Path) -> None:
    """It is unpacked as it is; the key differs from that of the one built here; a second call finds it. Of an image that
    the registry lacks nothing is left in the cache."""
    lab = lab.model_copy(update={"cache": str(tmp_path / "cache")})
    first = rootfs.build(lab, "docker", registry=registry)
    assert first.value.origin.startswith("pulled with skopeo ")
    assert first.value.packages == 1
    assert (first.value.path / "var/lib/dpkg/status").read_text() == STATUS
    assert first.value.key != rootfs.plan(lab, "docker").key
    assert not rootfs.build(lab, "docker", registry=registry).changed
    assert not any("127.0.0.1" in done.command for done in first.commands)
    with pytest.raises(BuildError, match="manifest"):
        rootfs.build(lab, "docker-slim", registry=registry)
    assert [path.name for path in (lab.cache_dir / "rootfs").iterdir()] == [first.value.key]


@pytest.mark.root
def test_other_variants_ask_no_registry(lab: Lab) -> None:
    """There is no official image of them: the plan is the same with and without a registry."""
    assert rootfs.plan(lab, "essential", registry="registry.test") == rootfs.plan(lab, "essential")
