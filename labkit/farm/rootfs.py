"""Root file systems: made by a named variant, kept in the cache, compared with each other.

In the cache a root file system is a folder with ``rootfs`` (unpacked; nobody writes into it) and
``rootfs.json`` (the record of its build). Its name is made of everything that determines it, so
another lab of the machine finds it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import run
from labkit.checks import Check, equal
from labkit.display import human_bytes
from labkit.farm.debian import apt, commands, packages, variants
from labkit.farm.debian.apt import Archive
from labkit.farm.debian.building import PATIENCE, building, sealed, size, tidy
from labkit.farm.debian.commands import Step
from labkit.farm.debian.variants import Variant
from labkit.files import write_atomically
from labkit.journal import lock
from labkit.lab import Lab
from labkit.result import Outcome, Record, Result, action

if TYPE_CHECKING:
    from labkit.farm.contents.comparison import Comparison
    from labkit.farm.contents.unneeded import Unneeded

log = logging.getLogger("labkit.rootfs")

#: Goes up with every change of what a build leaves, so that older ones are not taken for it.
EDITION = 1
#: A build that takes longer has lost its mirror (seconds).
TIMEOUT = 1500.0


class Rootfs(Record):
    """One root file system.

    ``bytes`` is what its files weigh (apparent size, hard links once: ``du -sb``), ``cleaned`` what
    the tool had left of downloads and indices and labkit removed, ``seconds`` how long its
    build took when it was built, ``origin`` by what it was made.
    """

    variant: str
    suite: str
    tool: str
    architecture: str
    path: Path
    bytes: int
    cleaned: int
    packages: int
    seconds: float
    origin: str
    key: str


class Plan(Record):
    """What will be built, and its place in the cache."""

    variant: Variant
    suite: str
    architecture: str
    packages: tuple[str, ...]
    registry: str
    origin: str
    key: str
    place: Path


@action("rootfs.build")
def build(lab: Lab, variant: str = "", *, registry: str = "") -> Outcome[Rootfs]:
    """The root file system stands in the cache, whole; a second call finds it there.

    :param variant: a name of :data:`labkit.farm.debian.variants.VARIANTS`; '' is the lab's own.
    :param registry: the host name of a registry that has the official ``debian`` image, for the
        docker variants; '' builds them on this machine. No registry is contacted otherwise.
    :raises ConfigError: an unknown variant or suite. :raises MachineError: a missing program, a silent
        mirror. :raises BuildError: a full disk or a failed program; nothing is left of the build.
    """
    planned = plan(lab, variant, registry=registry)
    with lock(lab.cache_dir / "locks", planned.key, wait=PATIENCE):
        kept = find(planned)
        value = kept or _make(lab, planned)
    listed = packages.read(value.path)
    return Outcome(
        value=value,
        subject=value.variant,
        changed=kept is None,
        summary=f"Root file system {value.variant} of {value.suite}: {human_bytes(value.bytes)} in "
        f"{value.packages} packages, {value.origin} in {value.seconds:.0f} s.",
        checks=checks(value, listed),
        tables=(packages.table(listed),),
    )


def compare(lab: Lab, names: Sequence[str] = (), *, registry: str = "") -> Result[Comparison]:
    """The variants side by side; see :func:`labkit.farm.contents.comparison.compare`."""
    from labkit.farm.contents import comparison

    return comparison.compare(lab, names, registry=registry)


def unneeded(lab: Lab, variant: str = "debootstrap") -> Result[Unneeded]:
    """The packages that serving pages does not need; see :func:`labkit.farm.contents.unneeded.find`."""
    from labkit.farm.contents import unneeded as stands_on_images

    return stands_on_images.find(lab, variant)


def plan(lab: Lab, variant: str = "", *, registry: str = "") -> Plan:
    """What ``build`` would make; asks the machine's package database, not the network."""
    chosen = variants.named(variant) if variant else variants.of_lab(lab)
    suite, architecture = apt.suite(lab), apt.architecture()
    pulled = registry if chosen.image is not None else ""
    program = variants.package_of(chosen, registry=pulled)
    version = program_version(program)
    source = lab.rootfs.mirror or apt.kind(lab)
    extra = tuple(sorted(set(lab.rootfs.packages)))
    key = key_of(
        f"{chosen.name}-{suite}",
        (EDITION, commands.recipe(chosen, suite, extra), architecture),
        (program, version, source, pulled),
    )
    return Plan(
        variant=chosen,
        suite=suite,
        architecture=architecture,
        packages=extra,
        registry=pulled,
        origin=f"{'pulled' if pulled else 'built'} with {program} {version}",
        key=key,
        place=lab.cache_dir / "rootfs" / key,
    )


def key_of(name: str, *parts: object) -> str:
    """A folder's name: readable, and another one whenever a part differs."""
    return f"{name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def program_version(package: str) -> str:
    """The installed version of a Debian package; raises MachineError when it is not installed."""
    done = run.run(
        ["dpkg-query", "--show", "--showformat=${Version} ${db:Status-Status}", package], ok=(0, 1)
    )
    version, _, status = done.stdout.partition(" ")
    if status != "installed":
        raise run.missing(package)
    return version


def find(planned: Plan) -> Rootfs | None:
    """The whole root file system in the cache, or None: also when its record or its files are damaged."""
    root = planned.place / "rootfs"
    try:
        text = (planned.place / "rootfs.json").read_text(encoding="utf-8")
        found = Rootfs.model_validate_json(text).model_copy(update={"path": root})
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    if found is None or not (root / packages.STATUS).is_file():
        log.warning("%s is damaged: it is built again", planned.place)
        return None
    return found


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
            expected=f"dpkg lists the {len(names)} packages of the table",
            seen="it does" if agree else f"{len(selected)}: {_difference(selected, names)}",
            holds=agree,
            rows=("R4",),
            again=" ".join(select),
        ),
    )


# -- building --------------------------------------------------------------------------------


def _make(lab: Lab, planned: Plan) -> Rootfs:
    variant = planned.variant
    run.require(*variants.programs(variant, registry=planned.registry))
    archive = None if planned.registry else apt.archive(lab)
    if archive:
        apt.require(archive)
    before = build(lab, variant.after).value if archive and variant.after else None
    what = f"root file system {variant.name} of {planned.suite}"
    started = time.monotonic()
    with building(lab, planned.place, what=what, space=variant.space) as work:
        for step in _steps(planned, archive, work, before):
            _do(step, variant.name)
        spent = time.monotonic() - started + (before.seconds if before else 0)
        value = _measured(planned, work / "rootfs", round(spent, 2))
        write_atomically(work / "rootfs.json", value.model_dump_json(indent=1))
    return value


def _steps(
    planned: Plan, archive: Archive | None, work: Path, before: Rootfs | None
) -> tuple[Step, ...]:
    """The commands of the build: pulled (no archive), from ``before``, or from the archive."""
    target = work / "rootfs"
    if archive is None:
        return commands.pull_steps(planned.variant, planned.suite, work, planned.registry)
    if before is not None:
        copy = Step(doing="copy", argv=("cp", "--archive", str(before.path), str(target)))
        return (copy, *commands.slim_steps(target))
    script = work / "source"
    script.write_text(commands.script_text(planned.variant, archive))
    return commands.steps(
        planned.variant, archive, target, packages=planned.packages, script=script
    )


def _do(step: Step, name: str) -> None:
    """Runs one command of a build, sealed off, and logs what it is doing."""
    log.info("%s: %s", name, step.doing)
    said = ""

    def listen(line: str) -> None:
        nonlocal said
        doing = commands.phase(line)
        if doing and doing != said:
            said = doing
            log.info("%s: %s", name, doing)

    run.run(
        sealed(step.argv),
        env=apt.proxy(),
        timeout=TIMEOUT,
        on_line=listen,
        both=True,
        quiet=step.quiet,
    )


def _measured(planned: Plan, root: Path, seconds: float) -> Rootfs:
    left = size(root)
    tidy(root)
    kept = size(root)
    return Rootfs(
        variant=planned.variant.name,
        suite=planned.suite,
        tool=planned.variant.tool,
        architecture=planned.architecture,
        path=planned.place / "rootfs",
        bytes=kept,
        cleaned=left - kept,
        packages=len(packages.read(root)),
        seconds=seconds,
        origin=planned.origin,
        key=planned.key,
    )


def _difference(selected: tuple[str, ...], names: tuple[str, ...]) -> str:
    return packages.naming(sorted(set(selected) ^ set(names)))
