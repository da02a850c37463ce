"""Builds root file systems into the cache: runs the commands of a plan, reports progress, measures the result."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core import cache, run
from labkit.core.progress import Doing, doing
from labkit.core.result import Outcome, action
from labkit.display import counted, human_bytes
from labkit.errors import BuildError, CommandError, ConfigError
from labkit.farm.rootfs import apt, buildplan, commands, packages, sandbox, variants
from labkit.farm.rootfs.apt import AbsentError
from labkit.farm.rootfs.buildplan import BuildPlan, Rootfs
from labkit.farm.rootfs.cache_entries import building, discard, made_once, size, write_record
from labkit.farm.rootfs.commands import BuildStep
from labkit.farm.rootfs.repository import PackageCache
from labkit.farm.rootfs.sandbox import HOST_NETWORK, Access, gateway, in_memory, sealed
from labkit.model.lab import Lab
from labkit.records import Record

log = logging.getLogger("labkit.rootfs")

#: A build that takes longer has lost its mirror (seconds).
TIMEOUT = 1500.0
#: A line that tells of one package, by the phase that it belongs to.
STEPS = {
    "download": re.compile(r"I: Retrieving \S+ \S|Get:\d+ (\S+ \S+ \S+ \S+ \S+ \S+|\S+\.deb) \[|download \S+\.deb"),
    "unpack": re.compile(r"I: (Extracting|Unpacking) \S+\.\.\.$|Unpacking \S+ \("),
    "configure": re.compile(r"I: Configuring \S+\.\.\.$|Setting up \S+ \("),
}  # fmt: skip
#: A line that begins a phase, of which the number of packages is not known yet.
BEGINNINGS = {
    "resolve": re.compile(r"I: Resolving|Building dependency tree|I: Retrieving (InRelease|Packages)"),
    "download": re.compile(r"(I: )?downloading|I: Checking component"),
    "unpack": re.compile(r"(I: )?extracting|I: Installing core|I: Unpacking (required|the base)"),
    "configure": re.compile(r"I: installing|configuring|I: Configuring (required|the base)"),
    "leave out": re.compile(r"leaving out"),
}  # fmt: skip
#: How many packages a transaction has.
NEWLY = re.compile(r"(?:\d+ upgraded, |extracting |downloading )(\d+) (?:newly installed|packages)")


class OutdatedError(BuildError):
    """The mirror no longer has the packages of the list that the build was made by."""

    code = "build.outdated"


class Lists(Record):
    """The suites of which apt has lists of packages, and when the mirror made each (seconds since 1970)."""

    suites: tuple[str, ...]
    dates: tuple[int, ...]


@action("rootfs.build")
def build(lab: Lab, variant: str = "", *, registry: str = "") -> Outcome[Rootfs]:
    """Builds a root file system, or finds it in the cache.

    :param variant: a name of :data:`labkit.farm.rootfs.variants.VARIANTS`; '' is the lab's own.
    :param registry: the host name of a registry that has the official ``debian`` image, for the docker variants;
        '' builds them on this machine. No registry is contacted otherwise.
    :returns: the :class:`~labkit.farm.rootfs.Rootfs`, with a table of its packages.
    :raises ConfigError: an unknown variant or suite.
    :raises MachineError: a missing program, a silent mirror.
    :raises BuildError: a full disk or a failed program; nothing is left of the build.

    >>> rootfs.build(lab, "minbase").value.bytes
    119035535
    """
    value, changed = ensure(lab, variant, registry=registry)
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
    """Takes the mirror's newest lists of packages; builds nothing.

    :raises ConfigError: the lab is to stay offline.
    :raises MachineError: the mirror does not answer; the lists are as they were.
    """
    if lab.offline:
        raise ConfigError(
            "offline",
            "the lists of packages cannot be refreshed",
            "run it without --offline",
            code="config.offline",
        )
    before, archive = apt.find_lists(lab), apt.update_lists(lab)
    suites, dates = zip(*((item.suite, item.date) for item in archive.sources), strict=True)
    newest = datetime.fromtimestamp(max(dates), UTC)
    return Outcome(
        value=Lists(suites=suites, dates=dates),
        subject=archive.main.suite,
        changed=before is None or before.sources != archive.sources,
        summary=f"{counted(len(suites), 'list')} of packages, the newest of {newest:%Y-%m-%d %H:%M} UTC.",
    )


def checks(value: Rootfs, listed: tuple[packages.Package, ...]) -> tuple[Check, ...]:
    """Whether a program starts in it, every package is configured, and dpkg lists the same ones."""
    start = ["chroot", str(value.path), "/bin/sh", "-c", "exit 0"]
    audit = ["dpkg", f"--root={value.path}", "--audit"]
    select = ["dpkg", f"--root={value.path}", "--get-selections"]
    status = run.run(start, ok=range(256)).status
    half = run.run(audit, ok=(0, 1)).stdout.strip() or "no package half installed"
    selected = packages.parse_selections(run.run(select).stdout)
    names = tuple(package.name for package in listed)
    differing = packages.naming(sorted(set(selected) ^ set(names)))
    agree = selected == names
    shell = "a shell in it ends with status"
    return (
        equal(
            f"rootfs.starts.{value.variant}",
            f"{shell} 0",
            f"{shell} {status}",
            rows=("E2",),
            again=" ".join(start[:3]),
        ),
        equal(
            f"rootfs.configured.{value.variant}",
            "no package half installed",
            half,
            rows=("E2",),
            again=" ".join(audit),
        ),
        Check(
            name=f"rootfs.selections.{value.variant}",
            expected=f"dpkg lists the {counted(len(names), 'package')} of the table",
            seen="it does" if agree else f"{len(selected)}: {differing}",
            holds=agree,
            rows=("R4",),
            again=" ".join(select),
        ),
    )


# -- building ----------------------------------------------------------------------------------------


def ensure(lab: Lab, variant: str, *, registry: str = "") -> tuple[Rootfs, bool]:
    """Returns the root file system in the cache, and whether it was built for that.

    When the mirror has replaced packages since its list was taken, that is taken anew, once.
    """
    try:
        return _ensure(lab, buildplan.ready(lab, variant, registry=registry))
    except OutdatedError:
        log.info("the mirror has other packages by now: its list is taken anew")
        apt.update_lists(lab)
        return _ensure(lab, buildplan.ready(lab, variant, registry=registry))


def _ensure(lab: Lab, planned: BuildPlan) -> tuple[Rootfs, bool]:
    if planned.archive:
        cache.hold(lab, "lists", planned.archive.folder)
    return made_once(
        lab,
        planned.place,
        f"rootfs-{planned.variant.name}",
        lambda: buildplan.find(planned),
        lambda: _build(lab, planned),
    )


def _build(lab: Lab, planned: BuildPlan) -> Rootfs:
    variant = planned.variant
    run.require(*variants.programs(variant, registry=planned.registry), "nsenter", "cp")
    before = ensure(lab, variant.after)[0] if planned.archive and variant.after else None
    if planned.registry and lab.offline:
        raise BuildError(
            planned.what,
            "is not in the cache, and labkit is offline: no registry is asked",
            "run it once without --offline, or without a registry",
            code="build.offline",
        )
    started = time.monotonic()
    with building(lab, planned.place, what=planned.what, space=variant.space) as work:
        removed = in_memory(work, variant.space, lambda folder: _fill(lab, planned, folder, before))
        for path in (work / "source", commands.fetched(work / "source")):
            path.unlink(missing_ok=True)
        discard(lab, work / "apt")
        root = work / "rootfs"
        spent = time.monotonic() - started + (before.seconds if before else 0)
        value = Rootfs(
            variant=variant.name,
            suite=planned.suite,
            tool=variant.tool,
            architecture=planned.architecture,
            path=planned.place / "rootfs",
            bytes=size(root),
            cleaned=removed,
            packages=len(packages.read(root)),
            seconds=round(spent, 2),
            origin=planned.origin,
            key=planned.key,
        )
        write_record(work, value)
    return value


def _fill(lab: Lab, planned: BuildPlan, work: Path, before: Rootfs | None) -> int:
    """Makes the root file system in ``work`` and brings it to where it stays; returns how many bytes of downloads
    and indices were removed from it."""
    cached, repository, began = PackageCache.of(lab), planned.repository, time.time()
    root = work / "rootfs"
    try:
        fetched = fetch(planned, cached, work, before)
        network = gateway(cached, repository) if planned.archive else nullcontext(HOST_NETWORK)
        with network as access:
            for step in _steps(planned, work, before, fetched):
                first, *words = step.argv
                own = first.startswith("labkit.")
                run_reported(
                    run.module(first, *words) if own else step.argv,
                    name=planned.variant.name,
                    phase=step.doing,
                    access=access,
                    quiet=step.quiet,
                )
    except Exception as error:
        raise cause_of(cached, planned.what, error) from error
    repository.name_mirrors(root)
    removed = sandbox.tidy(root)
    if planned.archive:
        sandbox.settle(root, began)
    if work.name == "memory":
        run.run(["cp", "--archive", root, work.parent / "rootfs"], timeout=TIMEOUT)
    return removed


def fetch(
    planned: BuildPlan, cached: PackageCache, work: Path, before: Rootfs | None
) -> list[Path]:
    """Fetches the packages that the build will want, all at once; a tool that decides for itself may ask for others.

    :param before: the root file system that it is made from.
    :returns: the packages' files in the cache.
    """
    names = commands.wanted(planned.variant, planned.packages)
    if not planned.archive or not names:
        return []
    status = (before.path / packages.STATUS).read_text(encoding="utf-8") if before else ""
    with reporting(planned.variant.name, "download") as listen:
        try:
            return planned.repository.fetch(
                cached, names, work / "apt", status=status, on_line=listen
            )
        except (CommandError, AbsentError):
            if planned.variant.tool == "dpkg":  # which takes these and no others
                raise
            cached.absent.clear()
            return []


def _steps(
    planned: BuildPlan, work: Path, before: Rootfs | None, fetched: list[Path]
) -> tuple[BuildStep, ...]:
    target, variant, script = work / "rootfs", planned.variant, work / "source"
    if planned.archive is None:
        return commands.pull_steps(variant, planned.suite, work, planned.registry)
    base = before.path if before else Path("before")
    script.write_text(
        commands.script_text(variant, planned.repository, base=base), encoding="utf-8"
    )
    script.chmod(0o755)
    commands.fetched(script).write_text("".join(f"{path}\n" for path in fetched), encoding="utf-8")
    return commands.steps(
        variant, planned.suite, target, packages=planned.packages, script=script, before=base
    )


def run_reported(
    argv: Sequence[str],
    *,
    name: str,
    phase: str,
    access: Access,
    root: Path | None = None,
    quiet: bool = False,
) -> None:
    """Runs one program of a build of ``name``, sealed off (:func:`sealed`), and reports its progress."""
    env = {"DEBIAN_FRONTEND": "noninteractive", **access.env}
    words = sealed(argv, root=root, access=access)
    with reporting(name, phase) as listen:
        run.run(words, env=env, timeout=TIMEOUT, on_line=listen, on_output=listen, quiet=quiet)


def cause_of(cached: PackageCache, what: str, error: Exception) -> Exception:
    """Returns the error of a build, or its cause: packages that the cache did not have and could not fetch."""
    if cached.failed:
        return cached.failed
    lost = cached.absent
    if not lost:
        return error
    names = packages.naming(sorted(lost))
    first = next(iter(lost.values()))
    if first.status is None:
        reason = f"{counted(len(lost), 'package', 'are')} not in the cache, and labkit is offline: {names}"
        return BuildError(what, reason, first.remedy, first.again, code="build.failed")
    if first.status in (404, 410):
        return OutdatedError(what, f"the mirror no longer has {names}", first.remedy, first.again)
    return BuildError(
        what, f"{names}: {first.reason}", first.remedy, first.again, code="build.failed"
    )


# -- progress ----------------------------------------------------------------------------------------


@contextmanager
def reporting(name: str, phase: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that takes the lines of a program that makes ``name``, and reports how far it is."""
    with doing(name) as tell:
        state = Doing(what=name, phase=phase)

        def listen(line: str) -> None:
            nonlocal state
            after = heard(line, state)
            if after != state:
                state = after
                tell(state)

        tell(state)
        yield listen


def heard(line: str, before: Doing) -> Doing:
    """Returns the progress after a program wrote a line. Pure.

    debootstrap's lines are read (``I: Extracting bash...``), and those of apt and dpkg, which mmdebstrap passes on.
    apt's machine-readable ones are not asked for: it closes the file that they go to for dpkg and its scripts
    (``APT::Status-Fd=1`` is no standard output for them, and a script that writes there fails).
    """
    if found := NEWLY.match(line):
        return before.model_copy(update={"done": 0, "total": int(found[1])})
    total = before.total or (before.done if before.phase == "download" else 0)
    for phase, pattern in STEPS.items():
        if pattern.match(line):
            done = before.done + 1 if phase == before.phase else 1
            total = before.total and max(before.total, done) if phase == before.phase else total
            return before.model_copy(update={"phase": phase, "done": done, "total": total})
    for phase, pattern in BEGINNINGS.items():
        if pattern.match(line) and phase != before.phase:
            return before.model_copy(update={"phase": phase, "done": 0, "total": total})
    return before
