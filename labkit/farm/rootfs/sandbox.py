"""Keeps builds apart from the machine and the moment: sealed programs, and results without traces of either.

The programs of a build run in mount and process namespaces (unshare(1)) and die when labkit does (setpriv(1),
``--pdeathsig``). Their network namespace has a loopback and, on it, an HTTP proxy that serves the repository; it has no
name and ends with the process that made it.

The same packages and steps give the same bytes: traces of the installation are removed. Files of packages keep the times
of Debian's builds; files that the installation made are dated like the youngest of these, the root file system's *source
date* (reproducible-builds.org, SOURCE_DATE_EPOCH), which says how new the packages are.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import psutil
from pydantic import Field

from labkit.errors import MachineError, with_sudo
from labkit.farm.rootfs.apt import AbsentError
from labkit.farm.rootfs.repository import ADDRESS, PackageCache, Repository
from labkit.kernel import calls
from labkit.kernel.links import Netlink
from labkit.kernel.netns import alone
from labkit.records import Record

T = TypeVar("T")

log = logging.getLogger("labkit.gateway")

#: How many times the bytes of a build have to be free in memory for it to happen there: two builds run
#: side by side, and others want memory too.
ROOMY = 4


class Access(Record):
    """How a program is started to use a network: the words before its own, and its environment."""

    words: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)


#: The machine's own network.
HOST_NETWORK = Access()


def sealed(
    argv: Sequence[str | Path], *, root: Path | None = None, access: Access = HOST_NETWORK
) -> list[str]:
    """The argument list that runs ``argv`` in namespaces of its own.

    :param root: its root folder.
    :param access: its network, from :func:`gateway`.
    """
    return [
        *access.words,
        "setpriv",
        "--pdeathsig=KILL",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        *([f"--root={root}"] if root else []),
        "--mount-proc",
        "--",
        *(str(word) for word in argv),
    ]


def in_memory(work: Path, space: int, function: Callable[[Path], T]) -> T:
    """Returns ``function(folder)``, with a folder in memory where the machine has plenty of it, else ``work``.

    Installing packages writes each file several times and waits for the disk each time. The folder is mounted in a
    namespace of the calling thread: no other process sees it, and it ends with the thread.
    """
    if psutil.virtual_memory().available < ROOMY * space:
        return function(work)
    folder = work / "memory"

    def inside() -> T:
        calls.unshare(calls.CLONE_NEWNS)
        calls.mount("none", Path("/"), flags=calls.MS_REC | calls.MS_PRIVATE)
        calls.mount("labkit", folder, "tmpfs", options="mode=755")
        try:
            return function(folder)
        finally:
            calls.unmount(folder, calls.MNT_DETACH)

    folder.mkdir()
    done = alone(inside)
    folder.rmdir()
    return done


@contextmanager
def no_services(root: Path) -> Iterator[None]:
    """Keeps the services of packages from starting while the block installs them in ``root`` (invoke-rc.d(8)); a policy
    of the root file system's own stays."""
    policy = root / "usr/sbin/policy-rc.d"
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    policy.chmod(0o755)
    yield
    policy.unlink()


@contextmanager
def gateway(cached: PackageCache, repository: Repository) -> Iterator[Access]:
    """Yields access to a network with nothing but the repository, while the block runs.

    Packages that a program asks for come from the cache, which fetches the missing ones.
    """
    listening, namespace = alone(_network)
    try:
        with _Server(("", 0), _handler(cached, repository), False) as server:
            server.socket.close()
            server.socket = listening
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="gateway")
            thread.start()
            try:
                address = f"http://127.0.0.1:{listening.getsockname()[1]}"
                yield Access(
                    words=("nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace}", "--"),
                    env={
                        **dict.fromkeys(("http_proxy", "HTTP_PROXY"), address),
                        **dict.fromkeys(("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"), ""),
                    },
                )
            finally:
                server.shutdown()
                thread.join()
    finally:
        listening.close()
        os.close(namespace)


def _network() -> tuple[socket.socket, int]:
    """Makes a network namespace with a loopback; returns a socket that listens there and its descriptor."""
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
    with Netlink() as netlink:
        netlink.do(netlink.ipr.link("set", index=1, state="up"))
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    return listening, os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class _Server(ThreadingHTTPServer):
    """One thread for each connection; a client may end in the middle of one."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("a connection of %s ended", client_address, exc_info=True)


def _handler(cached: PackageCache, repository: Repository) -> type[BaseHTTPRequestHandler]:
    """Makes the class that answers requests with an index, a package, or the reason why there is none."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(self.path.removeprefix(ADDRESS))
            try:
                if path in repository.debs:
                    self._answer(HTTPStatus.OK, cached.get(repository.debs[path]).read_bytes())
                elif path in repository.files:
                    self._answer(HTTPStatus.OK, repository.files[path])
                else:
                    self._answer(HTTPStatus.NOT_FOUND, b"")
            except AbsentError as error:
                self._answer(error.status or HTTPStatus.GATEWAY_TIMEOUT, error.reason.encode())
            except OSError:  # the package cache keeps it
                self._answer(HTTPStatus.INSUFFICIENT_STORAGE, b"")

        def _answer(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """The package cache logs what it fetches."""

    return Handler


#: What the tools leave of the machine and of the installation itself, emptied or removed.
CACHES = ("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*_*")


HOST_FILES = ("etc/resolv.conf", "etc/hostname", "etc/machine-id", "var/log/bootstrap.log")


#: What tells of the installation alone, or is made again when it is needed (relative to the root).
TRACES = (
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/*-old",
    "var/log/*.log",
    "var/log/apt/*",
)


#: Where the day of each password's last change is written (shadow(5), field 3).
SHADOWS = ("etc/shadow", "etc/shadow-")


#: Folders that apt gives to the user _apt where that user can reach them, and else to root. Which of them depends on the
#: modes of the folders above the root file system; apt decides again at its next start.
PARTIAL = ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial")


DAY = 86400


def tidy(root: Path) -> int:
    """Downloads and indices are gone, and the files that describe the building machine are empty;
    returns how many bytes that was."""
    removed = 0
    for pattern in CACHES:
        for path in root.glob(pattern):
            removed += path.lstat().st_size
            path.unlink()
    for name in HOST_FILES:
        path = root / name
        if path.is_symlink() or path.exists():
            removed += path.lstat().st_size
            path.unlink()
            path.touch(mode=0o644)
    return removed


def source_date(root: Path, before: float = math.inf) -> int:
    """The time of a root file system's youngest file, of those older than ``before`` (both in seconds
    since 1970); 0 when there is none."""
    times = (path.lstat().st_mtime for path in _paths(root))
    return int(max((time for time in times if time < before), default=0))


def settle(root: Path, began: float, *, layer: bool = False) -> int:
    """What was installed since ``began`` is dated like the youngest file that is older; no password was
    changed later, and neither a log nor an owner tells of the installation. Returns that source date.

    Folders get that date, too: of several packages that have one, the last to be unpacked has dated it. In a
    ``layer`` on others those that are older keep their time, else all of them would be in it.
    """
    for pattern in TRACES:
        for path in root.glob(pattern):
            path.unlink()
    for path in (root / name for name in PARTIAL):
        if path.is_dir():
            os.chown(path, 0, 0)
    epoch = source_date(root, began - 1)  # file systems' clocks are coarse
    for path in (root / name for name in SHADOWS):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            path.write_text(changed_by(text, epoch // DAY), encoding="utf-8")
    for path in _paths(root):
        seen = path.lstat()
        if seen.st_mtime > epoch or (stat.S_ISDIR(seen.st_mode) and not layer):
            os.utime(path, (epoch, epoch), follow_symlinks=False)
    return epoch


def changed_by(text: str, day: int) -> str:
    """The lines of a shadow file in which no password was changed later than ``day``, counted from
    1970. Pure."""
    rows = [line.split(":") for line in text.splitlines()]
    for row in rows:
        if len(row) > 2 and row[2].isdigit():
            row[2] = str(min(int(row[2]), day))
    return "".join(":".join(row) + "\n" for row in rows)


def _paths(root: Path) -> Iterator[Path]:
    """The root and everything below it."""
    yield root
    for folder, names, files in os.walk(root):
        yield from (Path(folder, name) for name in (*names, *files))
