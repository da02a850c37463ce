"""One container that does a replica's job, in a copy from which files may be missing.

It stands on a site's own image, as a replica does, in a network namespace of its own; it is asked
for a page, for one that it does not have, for a reload and for an ssh session, and is gone afterwards.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from ipaddress import IPv4Address
from pathlib import Path

from labkit import cancellation
from labkit.core import run
from labkit.core.daemon import tail
from labkit.core.files import write_atomically
from labkit.core.journal import Journal, lock
from labkit.core.undo import remove_netns
from labkit.errors import LabkitError, excerpt
from labkit.farm.containers import (
    container,
    lab_namespaces,
    replica_files,
    runc,
    written,
)
from labkit.farm.images import actions as images
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.network.netns import inside
from labkit.farm.study.opened import watching
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: The container's name, and the end of its network namespace's.
NAME = "trial-serving"
#: How long each answer may take (seconds).
PATIENCE = 10.0
#: How long an ssh server may take until it listens (seconds).
READY = 3.0
#: What is asked by ssh: the question of the farm's own check.
QUESTION = "hostname; id -un"
#: Apache's signals (stopping.html of its manual): a graceful restart, a graceful stop.
RELOAD, STOP = "USR1", "WINCH"
FINE = "answers"
UNTRIED = "not tried"


class Served(Record):
    """What came of it: :data:`FINE`, or what went wrong (or :data:`UNTRIED`), of each part of the job; and the files that
    were opened, if somebody watched."""

    web: str
    reload: str
    ssh: str
    opened: tuple[str, ...] = ()

    @property
    def fine(self) -> bool:
        """Whether every part of the job was done."""
        return {self.web, self.reload, self.ssh} == {FINE}

    @property
    def told(self) -> str:
        """What came of it, in words."""
        if self.fine:
            return "apache2 and ssh answer"
        parts = {"apache2": self.web, "after a reload": self.reload, "ssh": self.ssh}
        return "; ".join(f"{name}: {said}" for name, said in parts.items() if said != FINE)


def serve(
    lab: Lab,
    without: Iterable[str] = (),
    *,
    watch: bool = False,
    unpacked: Unpacked | None = None,
    page_only: bool = False,
) -> Served:
    """Does the job once, in a copy of the first site's image without the files ``without``.

    :param without: paths as they really lie in the image, from its root on (``/usr/bin/perl``).
    :param watch: whether the files that are opened are of interest.
    :param unpacked: another image to do it on.
    :param page_only: nothing is done after the first page, so that what was opened is that page's alone.
    """
    unpacked = unpacked or images.unpacked(lab, lab.sites[0].name)
    with lock(lab.run_dir, "farm"):
        return serve_on(lab, unpacked, without, watch=watch, page_only=page_only)


def serve_on(
    lab: Lab,
    unpacked: Unpacked,
    without: Iterable[str],
    *,
    name: str = NAME,
    watch: bool = False,
    page_only: bool = False,
) -> Served:
    """The same on an image that is unpacked, by a container of that name; several of different names may
    do it side by side. The caller holds the ``farm`` lock."""
    given = replica_files.keys(lab)
    with _prepared(lab, unpacked, replica_files.files(given), name) as replica:
        root = runc.bundle(lab, replica.name) / "rootfs"
        for path in without:
            Path(f"{root}{path}").unlink()
        with watching(root) if watch else nullcontext(set[str]()) as opened:
            done = _job(lab, replica, given, page_only=page_only)
            if watch and done.fine:  # what it opens when it stops counts too
                run.run(runc.command(lab, "kill", replica.name, STOP))
                container.wait(lab, replica.name)
    return done.model_copy(update={"opened": tuple(sorted(opened))})


@contextmanager
def _prepared(
    lab: Lab, unpacked: Unpacked, files: Mapping[str, str], name: str
) -> Iterator[Replica]:
    """The bundle and the network namespace stand; afterwards nothing of the container does."""
    replica = Replica(
        name=name,
        site=lab.sites[0].name,
        index=0,
        address=IPv4Address("127.0.0.1"),
        weight=1,
        link="",
        netns=f"{lab.name}-{name}",
        mac="",
    )
    try:
        lab_namespaces.replica_namespace(lab, replica)
        spec = container.replica_spec(lab, replica)
        container.prepare(lab, spec, unpacked, files, writable=True)
        yield replica
    finally:
        container.remove(lab, replica.name)
        remove_netns(lab, name=replica.netns)
        Journal.of(lab).forget("netns", name=replica.netns)


def _job(lab: Lab, replica: Replica, given: replica_files.Keys, *, page_only: bool) -> Served:
    """The parts of the job, one after the other; what follows on a server that has ended is not tried."""
    try:
        container.create(lab, replica.name)
        container.begin(lab, replica.name)
    except LabkitError as error:
        return Served(web=error.reason, reload=UNTRIED, ssh=UNTRIED)
    web = _page(lab, replica)
    if web != FINE or page_only:
        return Served(web=web, reload=UNTRIED, ssh=UNTRIED)
    run.run(runc.command(lab, "kill", replica.name, RELOAD))
    reload = _page(lab, replica)
    if not _runs(lab, replica):
        return Served(web=web, reload=reload, ssh=UNTRIED)
    return Served(web=web, reload=reload, ssh=_session(lab, replica, given))


def _page(lab: Lab, replica: Replica) -> str:
    """Whether the page is there, and one that does not exist is not."""
    deadline = time.monotonic() + PATIENCE
    seen = "no answer"
    while time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            seen = "".join(f"{inside(replica.netns, _status, path)} " for path in ("/", "/none"))
            if seen == "200 404 ":
                return FINE
        if not _runs(lab, replica):
            return f"apache2 has ended: {_last(lab, replica)}"
        cancellation.pause(0.02)
    return f"status {seen.strip()} instead of 200 and 404"


def _runs(lab: Lab, replica: Replica) -> bool:
    state = runc.states(lab).get(replica.name)
    return state is not None and state.status == "running"


def _status(path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _session(lab: Lab, replica: Replica, given: replica_files.Keys) -> str:
    """Whether ssh opens a session in which programs run."""
    own = runc.folder(lab, replica.name)
    kind, key = given.host.split()[:2]
    write_atomically(own / "known_hosts", f"{replica.address} {kind} {key}\n")
    caps = [word for name in replica_files.CAPABILITIES for word in ("--cap", name)]
    command = replica_files.server(runc.bundle(lab, replica.name) / "rootfs")
    server = ("--user", "0:0", "--detach", *caps, replica.name, *command)
    log = written.sshd_log(lab, replica.name)
    started = run.run(runc.command(lab, "exec", *server), output=log, ok=range(256))
    if started.status:
        return f"sshd does not start: {tail(log)}"
    _await_ssh(lab, replica)
    words = [
        "ssh", "-F", "none", "-i", str(given.folder / "student"), "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=5", "-o", "ConnectionAttempts=3",
        "-o", f"UserKnownHostsFile={own / 'known_hosts'}", "-o", "IdentitiesOnly=yes",
        f"root@{replica.address}", QUESTION,
    ]  # fmt: skip
    done = run.run(words, netns=replica.netns, timeout=20, ok=range(256))
    said = done.stdout.split()
    return FINE if said == [replica.name, "root"] else tail(log)


def _await_ssh(lab: Lab, replica: Replica) -> None:
    """Returns when the ssh server listens, or will not: ssh itself would wait for a second before it tries
    again."""
    deadline = time.monotonic() + READY
    while not inside(replica.netns, _listens) and _runs(lab, replica):
        if time.monotonic() > deadline:
            return
        cancellation.pause(0.02)


def _listens() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 22)) == 0


def _last(lab: Lab, replica: Replica) -> str:
    """The last words of the container's first process."""
    said = tail(written.console(lab, replica.name)).strip().splitlines()
    return excerpt(said[-1]) if said else "(no output)"
