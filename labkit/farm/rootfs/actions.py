"""Root file systems: made by a named variant and kept in the cache.

In the cache a root file system is a folder with ``rootfs`` (unpacked; nobody writes into it) and
``rootfs.json`` (the record of its build). Its name is made of everything that determines it, so
another lab of the machine finds it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.result import Outcome, action
from labkit.display import counted, human_bytes
from labkit.errors import ConfigError
from labkit.farm.rootfs import lists, packages
from labkit.farm.rootfs.making import stand
from labkit.farm.rootfs.plans import Plan, Rootfs, find, key_of, plan, program_version
from labkit.model.lab import Lab
from labkit.records import Record

__all__ = [
    "Plan", "Rootfs", "build", "checks", "find", "key_of", "plan", "program_version", "refresh",
]  # fmt: skip


@action("rootfs.build")
def build(lab: Lab, variant: str = "", *, registry: str = "") -> Outcome[Rootfs]:
    """The root file system stands in the cache, whole; a second call finds it there.

    :param variant: a name of :data:`labkit.farm.rootfs.variants.VARIANTS`; '' is the lab's own.
    :param registry: the host name of a registry that has the official ``debian`` image, for the
        docker variants; '' builds them on this machine. No registry is contacted otherwise.
    :raises ConfigError: an unknown variant or suite. :raises MachineError: a missing program, a silent
        mirror. :raises BuildError: a full disk or a failed program; nothing is left of the build.
    """
    value, changed = stand(lab, variant, registry=registry)
    listed = packages.read(value.path)
    return Outcome(
        value=value,
        subject=value.variant,
        changed=changed,
        summary=f"Root file system {value.variant} of {value.suite}: {human_bytes(value.bytes)} in "
        f"{counted(value.packages, 'package')}, {value.origin} in {value.seconds:.0f} s.",
        checks=checks(value, listed),
        tables=(packages.table(listed),),
    )


@action("rootfs.refresh")
def refresh(lab: Lab) -> Outcome[Lists]:
    """The suite's lists of packages are the mirror's newest; nothing is built.

    :raises ConfigError: the lab is to stay offline. :raises MachineError: the mirror does not answer;
        the lists are as they were.
    """
    if lab.offline:
        raise ConfigError(
            "offline",
            "no list can be taken anew",
            "call it without --offline",
            code="config.offline",
        )
    before, archive = lists.find(lab), lists.take(lab)
    sources = archive.sources
    value = Lists(
        suites=tuple(source.suite for source in sources),
        dates=tuple(source.date for source in sources),
    )
    newest = datetime.fromtimestamp(max(value.dates), UTC)
    return Outcome(
        value=value,
        subject=archive.main.suite,
        changed=before is None or before.sources != sources,
        summary=f"{counted(len(sources), 'list')} of packages, the newest of {newest:%Y-%m-%d %H:%M} UTC.",
    )


class Lists(Record):
    """The lists of packages that root file systems are made by: of each suite when the mirror made it,
    in seconds since 1970."""

    suites: tuple[str, ...]
    dates: tuple[int, ...]


def checks(value: Rootfs, listed: tuple[packages.Package, ...]) -> tuple[Check, ...]:
    """Whether a program starts in it, every package is configured, and dpkg lists the same ones."""
    start = ["chroot", str(value.path), "/bin/sh", "-c", "exit 0"]
    audit = ["dpkg", f"--root={value.path}", "--audit"]
    select = ["dpkg", f"--root={value.path}", "--get-selections"]
    selected = packages.parse_selections(run.run(select).stdout)
    names = tuple(package.name for package in listed)
    agree = selected == names
    return (
        equal(
            f"rootfs.starts.{value.variant}",
            "a shell in it ends with status 0",
            f"a shell in it ends with status {run.run(start, ok=range(256)).status}",
            rows=("E2",),
            again=" ".join(start[:3]),
        ),
        equal(
            f"rootfs.configured.{value.variant}",
            "no package half installed",
            run.run(audit, ok=(0, 1)).stdout.strip() or "no package half installed",
            rows=("E2",),
            again=" ".join(audit),
        ),
        Check(
            name=f"rootfs.selections.{value.variant}",
            expected=f"dpkg lists the {counted(len(names), 'package')} of the table",
            seen="it does" if agree else f"{len(selected)}: {_difference(selected, names)}",
            holds=agree,
            rows=("R4",),
            again=" ".join(select),
        ),
    )


def _difference(selected: tuple[str, ...], names: tuple[str, ...]) -> str:
    return packages.naming(sorted(set(selected) ^ set(names)))
