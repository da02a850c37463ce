"""Throw-away containers that probes question: each on an image, in its own network namespace, removed afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from pydantic import Field

from labkit.core import run
from labkit.core.journal import Journal
from labkit.core.undo import remove_netns
from labkit.errors import FarmError, LabkitError, excerpt
from labkit.farm.containers import container, lab_namespaces, overlay, runc, written
from labkit.farm.containers.bundle import Mount, Spec
from labkit.farm.containers.overlay import Wanted
from labkit.farm.images import store
from labkit.farm.images.unpacking import Unpacked
from labkit.model import sites
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: What a server needs that begins as root, writes its logs into www-data's folder and gives its rights
#: away (capabilities(7)).
CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL")
#: Where the server reads further configuration, which the host may change while it runs.
CONFIGURATION = "/etc/apache2/survival"
#: The folder of the probes' pages.
PAGES = "var/www/html/survival"
#: A page whose folder has an invalid .htaccess: the server answers 500.
BROKEN = "/survival/broken/"
#: A file that takes longer than the buffers of a connection hold (bytes): 4 MB each at most (tcp(7)).
LARGE, LARGE_SIZE = "/survival/large.bin", 24_000_000


class Setup(Record):
    """How a container for probes is made.

    ``name``: the container is called ``trial-NAME``. ``files`` (path below the root -> text) are laid over the
    image beside the site's and the probes'. ``privileged``: its server begins as root. ``foreground``: the probe
    runs it to its end. ``plain``: nothing is laid over the image, and the probe creates it.
    """

    name: str
    site: str
    files: dict[str, str] = Field(default_factory=dict)
    privileged: bool = False
    foreground: bool = False
    plain: bool = False


@dataclass
class Container:
    """A container that is prepared, or the ``error`` that prevented it.

    ``before`` is what its writable layer held before its first process began; ``foreground`` the end of a
    container that a probe runs in the foreground; ``programs`` wait for programs that were started in it.
    """

    lab: Lab
    setup: Setup
    replica: Replica
    before: frozenset[tuple[str, float, int]] = frozenset()
    error: LabkitError | None = None
    foreground: Future[run.Done] | None = None
    programs: list[Callable[[], object]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The container's name."""
        return self.replica.name

    @property
    def folder(self) -> Path:
        """The container's folder on the host."""
        return runc.folder(self.lab, self.name)

    @property
    def root(self) -> Path:
        """Its root file system, as the host sees it."""
        return runc.bundle(self.lab, self.name) / "rootfs"

    @property
    def conf(self) -> Path:
        """The folder of the host that its server reads as :data:`CONFIGURATION`."""
        return self.folder / "conf"

    def begin(self) -> None:
        """Starts its first process; raises the error that prevented the container."""
        if self.error is not None:
            raise self.error
        if not self.setup.foreground:
            container.begin(self.lab, self.name)

    def signal(self, name: str) -> None:
        """Sends a signal to its first process."""
        run.run(runc.command(self.lab, "kill", self.name, name))

    def runs(self) -> bool:
        """Whether its first process lives."""
        if self.foreground is not None:
            return not self.foreground.done()
        state = runc.states(self.lab).get(self.name)
        return state is not None and state.status in ("created", "running")

    def require(self) -> None:
        """Raises :class:`FarmError` with its last words when its first process has ended."""
        if self.runs():
            return
        status = said = ""
        if self.foreground is not None:
            done = self.foreground.result()
            status = f" (status {done.status})"
            said = excerpt(" ".join((done.stderr or done.stdout).split()))
        reason = f"has ended{status}: {said or self.last_words()}"
        raise FarmError(self.name, reason, code="farm.container-died")

    def last_words(self) -> str:
        """The last line of its output, or of its error log."""
        places = (written.console(self.lab, self.name), self.log("error"))
        said = [excerpt(line) for path in places for line in written.end(path).splitlines()[-1:]]
        return next(iter(said), "without a word")

    def log(self, kind: written.Kind) -> Path:
        """Where the host reads its ``access`` or ``error`` log."""
        return written.log(self.lab, self.name, kind)

    def written(self) -> tuple[str, ...]:
        """The paths in its writable layer that changed since it began."""
        return tuple(sorted({path for path, *_ in _layer(self) - self.before}))


@contextmanager
def prepared(lab: Lab, unpacked: Unpacked, setups: Sequence[Setup]) -> Iterator[list[Container]]:
    """Prepares a container for each setup, none of which has begun; removes all of them after the block.

    The caller holds the lab's ``farm`` lock. Several threads may prepare containers of different names.
    """
    made = [Container(lab, setup, _replica(lab, setup)) for setup in setups]
    try:
        for one in made:
            lab_namespaces.replica_namespace(lab, one.replica)
        run.spread(lambda one: _make(one, unpacked), made)
        yield made
    finally:
        run.spread(lambda one: container.remove(lab, one.name), made)
        for one in made:
            for wait in one.programs:
                wait()
            remove_netns(lab, name=one.replica.netns)
            Journal.of(lab).forget("netns", name=one.replica.netns)


def _replica(lab: Lab, setup: Setup) -> Replica:
    name = f"trial-{setup.name}"
    return Replica(
        name=name,
        site=setup.site,
        index=0,
        address=IPv4Address("127.0.0.1"),
        weight=1,
        link="",
        netns=f"{lab.name}-{name}",
        mac="",
    )


def _make(one: Container, unpacked: Unpacked) -> None:
    """Prepares the bundle, and creates the container unless its probe does so itself."""
    lab, setup = one.lab, one.setup
    try:
        if not setup.plain:
            Journal.of(lab).intend("folder", path=str(one.folder))
            for stale in (one.folder / "layer", one.conf):
                shutil.rmtree(stale, ignore_errors=True)
            files = {**probe_files(lab, setup.site), **setup.files}
            lay(one.folder / "layer", files, unpacked.lower)
            one.conf.mkdir()
            lower = (one.folder / "layer", *unpacked.lower)
            unpacked = unpacked.model_copy(update={"lower": lower})
        keys = container.ssh_files(container.keys(lab))
        overlay.prepare(lab, [Wanted(_spec(one), unpacked, keys, writable=True)])
        if not (setup.foreground or setup.plain):
            container.create(lab, one.name)
        one.before = _layer(one)
    except LabkitError as error:
        one.error = error


def _spec(one: Container) -> Spec:
    """The specification of a replica's container, with the folder of further configuration."""
    spec = container.replica_spec(one.lab, one.replica)
    if one.setup.plain:
        return spec
    conf = Mount(
        destination=CONFIGURATION,
        kind="bind",
        source=str(one.conf),
        options=("bind", "ro", "nosuid", "nodev", "noexec"),
    )
    rights = {"uid": 0, "gid": 0, "capabilities": CAPABILITIES} if one.setup.privileged else {}
    return spec.model_copy(update={"mounts": (*spec.mounts, conf), **rights})


def _layer(one: Container) -> frozenset[tuple[str, float, int]]:
    """Path, time of change and mode of everything in the container's writable layer but its root."""
    upper = one.folder / "upper"
    return frozenset(
        (f"/{path.relative_to(upper)}", found.st_mtime, found.st_mode)
        for path in upper.rglob("*")
        for found in (path.lstat(),)
    )


# -- the layer of files above the image ----------------------------------------------------------


def probe_files(lab: Lab, site: str) -> dict[str, str]:
    """The site's files and those that every server needs for the probes: path -> text. Pure."""
    return {
        **sites.files(lab, lab.site(site)),
        "etc/apache2/sites-enabled/zz-survival.conf": (
            f"<Directory /{PAGES}/broken>\n    AllowOverride All\n</Directory>\n"
            f"IncludeOptional {CONFIGURATION}/*.conf\n"
        ),
        f"{PAGES}/broken/.htaccess": "ThisIsNoDirective\n",
        f"{CONFIGURATION[1:]}/.keep": "",
    }


def lay(place: Path, texts: Mapping[str, str], lower: Sequence[Path]) -> None:
    """Writes the files, and the large one, into ``place``; folders get the owner and mode they have in ``lower``.

    It is a layer below the container's writable one, which then holds only what the container wrote.
    """
    place.mkdir(parents=True)
    for name in store.parent_folders(texts):
        folder = place / name
        folder.mkdir()
        known = next((root / name for root in lower if (root / name).is_dir()), None)
        if known is not None:
            found = known.stat()
            os.chown(folder, found.st_uid, found.st_gid)
            folder.chmod(found.st_mode & 0o7777)
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")
    with (place / PAGES / Path(LARGE).name).open("wb") as file:
        file.truncate(LARGE_SIZE)
