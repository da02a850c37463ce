"""What the farm's own image does without: tried, in throw-away copies of it.

A replica's job is done once with the kernel telling which files are opened. Then packages of which
none was are left out, all together and one by one, and the job is done again. What came of it is
kept beside the unpacked image; the same image is not tried twice.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from labkit.core import run
from labkit.core.files import proven, write_proven
from labkit.core.journal import lock
from labkit.errors import FarmError
from labkit.farm.containers import replica_files
from labkit.farm.images import actions as images
from labkit.farm.images import layers
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.rootfs import account, packages
from labkit.farm.rootfs.account import Contents
from labkit.farm.rootfs.actions import key_of
from labkit.farm.rootfs.building import PATIENCE
from labkit.farm.study import serving
from labkit.farm.study.serving import Served
from labkit.model import sites
from labkit.model.lab import Lab
from labkit.records import Record

log = logging.getLogger("labkit.removal")

#: Goes up with every change of what is tried.
EDITION = 1
#: How many packages are tried one by one: the heaviest.
SINGLE = 10
#: The programs that a replica is for, as its first process and the ssh session start them: of the ssh servers
#: the one that is there.
PROGRAMS = (f"/usr/sbin/{layers.COMMAND[0]}", "/usr/sbin/sshd", "/usr/sbin/dropbear")
#: Files of a package go with it; what its scripts made stays, as dpkg leaves it.
GOING = ("package", "alternative")


class Trial(Record):
    """Packages left out, the files and bytes that this was, and how the job went without them."""

    packages: tuple[str, ...]
    files: int
    size: int
    served: Served


class Evidence(Record):
    """What the farm's image needs. ``whole`` is the job done on all of it, with the files that were
    opened; ``opened`` the packages that those belong to; ``needed`` these, those of
    :data:`PROGRAMS`, and what Debian's dependencies say that all of them need; ``idle`` the needed
    ones of which no file was opened; ``spare`` those that are neither. ``size`` is the image's,
    ``opened_size`` that of the opened files (bytes)."""

    size: int
    opened_size: int
    whole: Served
    opened: tuple[str, ...]
    needed: tuple[str, ...]
    idle: tuple[str, ...]
    spare: tuple[str, ...]
    trials: tuple[Trial, ...]

    def without(self, *names: str) -> Trial | None:
        """The trial in which exactly these packages were left out."""
        return next((item for item in self.trials if set(item.packages) == set(names)), None)

    def told(self, name: str) -> str:
        """What came of leaving a package out, in words; '' for one that was not left out."""
        alone = self.without(name)
        if alone:
            return f"alone: {alone.served.told}"
        tried = [item for item in self.trials if name in item.packages]
        if not tried:
            return ""
        first = tried[0]
        return f"with {len(first.packages) - 1} others: {first.served.told}"


def evidence(lab: Lab) -> Evidence:
    """The evidence for the lab's image; the first time it takes a dozen containers, four at a time.

    Raises :class:`MachineError` where the kernel cannot tell which files are opened, and
    :class:`FarmError` when the image as it is does not do the job.
    """
    unpacked = images.unpacked(lab, lab.sites[0].name)
    key = _key(lab, unpacked)
    kept = unpacked.lower[-1].parent / f"{key}.json"
    with lock(lab.cache_dir / "locks", key, wait=PATIENCE):
        found = _find(kept)
        if found is None:
            found = _try(lab, unpacked)
            write_proven(kept, found.model_dump_json(indent=1))
    return found


def classes(contents: Contents, opened: Collection[str]) -> Evidence:
    """The packages of an image by what a run of it ``opened`` (paths); nothing is tried. Pure."""
    names = {package.name for package in contents.packages}
    owners = {contents.owners[path].package for path in opened if path in contents.owners}
    programs = {contents.owners[path].package for path in PROGRAMS if path in contents.owners}
    needed = packages.closure(contents.packages, (owners | programs) & names)
    return Evidence(
        size=contents.weight.size,
        opened_size=sum(file.size for file in contents.files if file.path in opened),
        whole=Served(web="", reload="", ssh="", opened=tuple(sorted(opened))),
        opened=tuple(sorted(owners & names)),
        needed=tuple(sorted(needed)),
        idle=tuple(sorted(needed - owners)),
        spare=tuple(sorted(names - needed)),
        trials=(),
    )


def sets(contents: Contents, found: Evidence) -> Iterator[tuple[str, ...]]:
    """The packages to leave out, trial by trial: the spare ones, these and the idle ones, and each of
    the heaviest by itself. Pure."""
    both = (*found.idle, *found.spare)
    weights = contents.by_package()
    order = sorted(both, key=lambda name: -weights[name].size if name in weights else 0)
    yield from dict.fromkeys(
        names
        for names in (found.spare, tuple(sorted(both)), *((n,) for n in order[:SINGLE]))
        if names
    )


def files(contents: Contents, names: Collection[str]) -> tuple[str, ...]:
    """The files of packages, which go when those are left out. Pure."""
    return tuple(
        file.path
        for file in contents.files
        if file.form != "folder"
        and contents.owners[file.path].how in GOING
        and contents.owners[file.path].package in names
    )


def _try(lab: Lab, unpacked: Unpacked) -> Evidence:
    contents = account.read("image", *unpacked.lower)
    log.info("which files does a replica open?")
    whole = _watched(lab, unpacked)
    if not whole.fine:
        raise FarmError(
            "a replica on the image as it is",
            f"does not do its job: {whole.told}",
            "make the farm work first: nothing can be left out of what does not",
            "./lab run 05-web",
            code="farm.trial",
        )
    found = classes(contents, whole.opened)
    wanted = list(enumerate(sets(contents, found), 1))
    with lock(lab.run_dir, "farm"):  # a trial mostly waits: for answers, and for runC to delete it
        trials = run.spread(lambda item: _without(lab, unpacked, contents, *item), wanted)
    return found.model_copy(update={"whole": whole, "trials": tuple(trials)})


def _without(
    lab: Lab, unpacked: Unpacked, contents: Contents, number: int, names: Sequence[str]
) -> Trial:
    gone = files(contents, names)
    log.info("without %s: %d files", packages.naming(names, 3), len(gone))
    weights = {file.path: file.size for file in contents.files}
    name = f"{serving.NAME}-{number}"
    done = serving.serve_on(lab, unpacked, gone, name=name)
    return Trial(
        packages=tuple(names),
        files=len(gone),
        size=sum(weights[path] for path in gone),
        # should it fail, once more: what a busy machine did counts for nothing
        served=done if done.fine else serving.serve_on(lab, unpacked, gone, name=name),
    )


def _watched(lab: Lab, unpacked: Unpacked) -> Served:
    """The job done once by all of the image, or, should it fail, once more."""
    done = serving.serve(lab, unpacked=unpacked, watch=True)
    return done if done.fine else serving.serve(lab, unpacked=unpacked, watch=True)


def _key(lab: Lab, unpacked: Unpacked) -> str:
    """Changes with the image and with what a site adds to it, but for the lab's own names."""
    plain = lab.model_copy(update={"name": "lab", "dns": lab.dns.model_copy(update={"domain": ""})})
    added = sites.files(plain, plain.sites[0])
    job = (serving.QUESTION, replica_files.CONFIGURATION, SINGLE)
    return key_of("removal", EDITION, job, unpacked.lower[-1].parent.name, added)


def _find(path: Path) -> Evidence | None:
    try:
        return Evidence.model_validate_json(proven(path) or "")
    except ValidationError:
        return None
