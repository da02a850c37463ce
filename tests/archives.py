"""A small archive of Debian packages, served as mirrors are, and a machine whose apt is set up for it."""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

from labkit.core import run
from labkit.farm.rootfs import apt
from labkit.kernel import calls
from labkit.kernel.netns import alone
from tests.servers import served

T = TypeVar("T")

#: The archive's packages: one that every system has, and what it needs.
PACKAGES = {"labkit-one": "Essential: yes\nDepends: labkit-two (>= 1)\n", "labkit-two": ""}
#: Whoever gives this may read.
LOGIN = ("reader", "s3cret")


class Mirror:
    """An archive in a folder and the server that has it: ``asked`` are the paths that it was asked for,
    ``login`` is whether it lets in only who gives :data:`LOGIN`, ``silent`` whether it says nothing for now; it is an
    HTTP proxy, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.login = False
        self.silent = False
        self.port = 0
        self.method = "http"

    @property
    def address(self) -> str:
        """Where it is served."""
        return f"{self.method}://127.0.0.1:{self.port}/debian"


@contextmanager
def serving(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[Mirror]:
    """An archive with the machine's suite, in a new folder, and its server."""
    mirror = Mirror(folder)
    fill(folder / "debian")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(mirror))
    mirror.port = server.server_port
    if tls:
        mirror.method = "https"
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    with served(server):
        yield mirror


def fill(archive: Path, *, suite: str = "", version: str = "1", expired: bool = False) -> None:
    """Makes the packages, and a suite that has them; it is not signed."""
    stanzas = [_package(archive, name, more, version) for name, more in PACKAGES.items()]
    listed = "".join(stanzas).encode()
    where = f"main/binary-{apt.architecture()}/Packages"
    place = archive / "dists" / (suite or apt.codename())
    (place / where).parent.mkdir(parents=True, exist_ok=True)
    (place / where).write_bytes(listed)
    made = 86400 * (300 + int(version))
    until = f"Valid-Until: {formatdate(86400 * 365, usegmt=True)}\n" if expired else ""
    (place / "Release").write_text(
        f"Origin: Debian\nSuite: {place.name}\nCodename: {place.name}\n"
        f"Date: {formatdate(made, usegmt=True)}\n{until}"
        f"Architectures: {apt.architecture()}\nComponents: main\n"
        f"SHA256:\n {hashlib.sha256(listed).hexdigest()} {len(listed)} {where}\n"
    )
    for path in (place / "Release", place / where):  # a server tells by it whether they are new
        os.utime(path, (made, made))


def as_machine(folder: Path, etc: Mapping[str, str], function: Callable[[], T]) -> T:
    """``function()`` on this machine with another /etc/apt, and without lists of packages; files whose name ends in
    ``.sh`` can be called."""
    folder.mkdir()
    for name, text in etc.items():
        path = folder / "apt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if name.endswith(".sh") else 0o644)
    (folder / "lists").mkdir()

    def inside() -> T:
        calls.unshare(calls.CLONE_NEWNS)
        calls.mount("none", Path("/"), flags=calls.MS_REC | calls.MS_PRIVATE)
        calls.mount(str(folder / "apt"), Path("/etc/apt"), flags=calls.MS_BIND)
        calls.mount(str(folder / "lists"), Path("/var/lib/apt/lists"), flags=calls.MS_BIND)
        return function()

    return alone(inside)


def _package(archive: Path, name: str, more: str, version: str) -> str:
    """Builds a package; returns what the list says of it."""
    tree, path = archive / "trees" / name, f"pool/main/{name}_{version}_all.deb"
    control = (
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: test\n{more}"
        "Description: test\n"
    )
    (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (tree / "DEBIAN/control").write_text(control)
    (archive / path).parent.mkdir(parents=True, exist_ok=True)
    run.run(["dpkg-deb", "--build", "--root-owner-group", tree, archive / path])
    data = (archive / path).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return f"{control}Filename: {path}\nSize: {len(data)}\nSHA256: {digest}\n\n"


def _handler(mirror: Mirror) -> type[SimpleHTTPRequestHandler]:
    given = "Basic " + base64.b64encode(":".join(LOGIN).encode()).decode()

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *words: object) -> None:
            super().__init__(*words, directory=str(mirror.folder))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            mirror.asked.append(self.path)
            while mirror.silent:
                time.sleep(0.02)
            if self.path.startswith("http://"):
                self.path = f"/{self.path.split('/', 3)[3]}"
            if mirror.login and self.headers.get("Authorization") != given:
                self.send_response(401, "Unauthorized")
                self.send_header("WWW-Authenticate", 'Basic realm="mirror"')
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler
