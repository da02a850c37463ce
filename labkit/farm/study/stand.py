"""Throw-away containers on the image that is tried, each in a network namespace of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from pydantic import Field

from labkit.core import run
from labkit.core.journal import Journal
from labkit.core.undo import remove_netns
from labkit.errors import FarmError, LabkitError, excerpt
from labkit.farm.containers import container, lab_namespaces, replica_files, runc, written
from labkit.farm.containers.bundle import Mount, Spec
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.study import given
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: What a server needs that begins as root, writes its logs into www-data's folder and gives its rights
#: away (capabilities(7)).
CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL")


class Trial(Record):
    """One container: ``name`` ends its own; ``files`` go over the site's; ``privileged`` begins as root;
    ``foreground`` is started by who asks it, to its end."""

    name: str
    site: str
    files: dict[str, str] = Field(default_factory=dict)
    privileged: bool = False
    foreground: bool = False


@dataclass(frozen=True)
class Stand:
    """A container that stands, or the error because of which it does not.

    ``before`` is what its writable layer held when it had not begun; ``programs`` wait for the ends of
    those that were started in it.
    """

    lab: Lab
    trial: Trial
    replica: Replica
    before: frozenset[tuple[str, float, int]] = frozenset()
    error: LabkitError | None = None
    programs: list[Callable[[], object]] = field(default_factory=list)

    @property
    def conf(self) -> Path:
        """The folder of the host that the server reads as :data:`given.CONFIGURATION`."""
        return _folder(self.lab) / self.trial.name / "conf"

    def begin(self) -> None:
        """Its first process runs; raises the error because of which it cannot."""
        if self.error is not None:
            raise self.error
        if not self.trial.foreground:
            container.begin(self.lab, self.replica.name)

    def signal(self, name: str) -> None:
        """Sends a signal to its first process."""
        run.run(runc.command(self.lab, "kill", self.replica.name, name))

    def runs(self) -> bool:
        """Whether its first process lives."""
        state = runc.states(self.lab).get(self.replica.name)
        return state is not None and state.status in ("created", "running")

    def require(self) -> None:
        """Raises :class:`FarmError` with its last words when its first process has ended."""
        if not self.trial.foreground and not self.runs():
            raise FarmError(
                self.replica.name, f"has ended: {self.last_words()}", code="farm.container-died"
            )

    def last_words(self) -> str:
        """The last line of its output, or of its error log."""
        places = (written.console(self.lab, self.replica.name), self.log("error"))
        said = [excerpt(line) for path in places for line in written.end(path).splitlines()[-1:]]
        return next(iter(said), "without a word")

    def log(self, kind: written.Kind) -> Path:
        """Where the host reads its ``access`` or ``error`` log."""
        return written.log(self.lab, self.replica.name, kind)

    def written(self) -> tuple[str, ...]:
        """The paths in its writable layer that are not as they were before it began."""
        return tuple(sorted({path for path, *_ in _layer(self.lab, self.replica) - self.before}))


@contextmanager
def standing(lab: Lab, unpacked: Unpacked, trials: Sequence[Trial]) -> Iterator[list[Stand]]:
    """The containers are created and none has begun; afterwards nothing of them is left.

    The caller holds the lab's ``farm`` lock.
    """
    own = [_replica(lab, trial) for trial in trials]
    stands: list[Stand] = []
    journal = Journal.of(lab)
    journal.intend("folder", path=str(_folder(lab)))
    try:
        for replica in own:
            lab_namespaces.replica_namespace(lab, replica)
        pairs = zip(trials, own, strict=True)
        stands = run.spread(lambda pair: _created(lab, unpacked, *pair), pairs)
        yield stands
    finally:
        run.spread(lambda replica: container.remove(lab, replica.name), own)
        for wait in (wait for stand in stands for wait in stand.programs):
            wait()
        for replica in own:
            remove_netns(lab, name=replica.netns)
            journal.forget("netns", name=replica.netns)
        shutil.rmtree(_folder(lab), ignore_errors=True)
        journal.forget("folder", path=str(_folder(lab)))


def _folder(lab: Lab) -> Path:
    """What is laid over the image, for each trial."""
    return lab.state_dir / "survival"


def _replica(lab: Lab, trial: Trial) -> Replica:
    name = f"trial-{trial.name}"
    return Replica(
        name=name,
        site=trial.site,
        index=0,
        address=IPv4Address("127.0.0.1"),
        weight=1,
        link="",
        netns=f"{lab.name}-{name}",
        mac="",
    )


def _created(lab: Lab, unpacked: Unpacked, trial: Trial, replica: Replica) -> Stand:
    stand = Stand(lab, trial, replica)
    own = _folder(lab) / trial.name
    shutil.rmtree(own, ignore_errors=True)
    try:
        given.lay(own / "layer", {**given.files(lab, trial.site), **trial.files}, unpacked.lower)
        stand.conf.mkdir()
        image = unpacked.model_copy(update={"lower": (own / "layer", *unpacked.lower)})
        files = replica_files.files(replica_files.keys(lab))
        container.prepare(lab, _spec(lab, stand), image, files, writable=True)
        if not trial.foreground:
            container.create(lab, replica.name)
    except LabkitError as error:
        return Stand(lab, trial, replica, error=error)
    return Stand(lab, trial, replica, before=_layer(lab, replica))


def _spec(lab: Lab, stand: Stand) -> Spec:
    """The farm's own container of a replica, with the folder of further configuration."""
    spec = container.replica_spec(lab, stand.replica)
    conf = Mount(
        destination=given.CONFIGURATION,
        kind="bind",
        source=str(stand.conf),
        options=("bind", "ro", "nosuid", "nodev", "noexec"),
    )
    rights = {"uid": 0, "gid": 0, "capabilities": CAPABILITIES} if stand.trial.privileged else {}
    return spec.model_copy(update={"mounts": (*spec.mounts, conf), **rights})


def _layer(lab: Lab, replica: Replica) -> frozenset[tuple[str, float, int]]:
    """Path, time of change and mode of everything in the container's writable layer but its root."""
    upper = runc.folder(lab, replica.name) / "upper"
    return frozenset(
        (f"/{path.relative_to(upper)}", seen.st_mtime, seen.st_mode)
        for path in upper.rglob("*")
        for seen in (path.lstat(),)
    )
