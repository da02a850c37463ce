"""Root file systems made: the commands of a plan run, and what they leave measured and put into the cache."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core import cache, run
from labkit.core.files import write_atomically
from labkit.core.journal import lock
from labkit.core.progress import Doing, doing
from labkit.core.result import Outcome, action
from labkit.display import counted, human_bytes
from labkit.errors import BuildError, CommandError, ConfigError
from labkit.farm.rootfs import apt, buildplan, commands, packages, reproducible, variants
from labkit.farm.rootfs.apt import AbsentError
from labkit.farm.rootfs.buildplan import (
    BuildPlan,
    Rootfs,
    find,
    key_of,
    plan,
    program_version,
    ready,
)
from labkit.farm.rootfs.cache_entries import PATIENCE, building, discard, size
from labkit.farm.rootfs.commands import Command
from labkit.farm.rootfs.repository import Depot, Shop
from labkit.farm.rootfs.reproducible import tidy
from labkit.farm.rootfs.sandbox import NOWHERE, Way, gateway, in_memory, sealed
from labkit.model.lab import Lab
from labkit.records import Record

log = logging.getLogger("labkit.rootfs")

#: A build that takes longer has lost its mirror (seconds).
TIMEOUT = 1500.0


class OutdatedError(BuildError):
    """The mirror no longer has the packages of the list that the build was made by."""

    code = "build.outdated"


def stand(lab: Lab, variant: str = "", *, registry: str = "") -> tuple[Rootfs, bool]:
    """The root file system in the cache, and whether it had to be built.

    When the mirror has replaced packages since its list was taken, that is taken anew, once.
    """
    try:
        return _stand(lab, ready(lab, variant, registry=registry))
    except OutdatedError:
        log.info("the mirror has other packages by now: its list is taken anew")
        apt.update_lists(lab)
        return _stand(lab, ready(lab, variant, registry=registry))


def _stand(lab: Lab, planned: BuildPlan) -> tuple[Rootfs, bool]:
    with lock(lab.cache_dir / "locks", planned.key, wait=PATIENCE):
        cache.hold(lab, f"rootfs-{planned.variant.name}", planned.place)
        if planned.archive:
            cache.hold(lab, "lists", planned.archive.folder)
        kept = find(planned)
        return kept or _make(lab, planned), kept is None


def _make(lab: Lab, planned: BuildPlan) -> Rootfs:
    variant, archive = planned.variant, planned.archive
    run.require(*variants.programs(variant, registry=planned.registry), "nsenter", "cp")
    before = stand(lab, variant.after)[0] if archive and variant.after else None
    if planned.registry and lab.offline:
        raise BuildError(
            planned.what,
            "is not in the cache, and labkit is to stay offline: no registry is asked",
            "call it once without --offline, or without a registry",
            code="build.offline",
        )
    started = time.monotonic()
    with building(lab, planned.place, what=planned.what, space=variant.space) as work:
        removed = in_memory(work, variant.space, lambda shop: _fill(lab, planned, shop, before))
        for path in (work / "source", commands.fetched(work / "source")):
            path.unlink(missing_ok=True)
        discard(lab, work / "apt")
        spent = time.monotonic() - started + (before.seconds if before else 0)
        value = _measured(planned, work / "rootfs", removed=removed, seconds=round(spent, 2))
        write_atomically(work / "rootfs.json", value.model_dump_json(indent=1))
    return value


def _fill(lab: Lab, planned: BuildPlan, work: Path, before: Rootfs | None) -> int:
    """Makes the root file system in ``work`` and brings it to where it stays; returns how many bytes of
    it were tidied away."""
    depot, shop, began = Depot.of(lab), buildplan.shop(planned), time.time()
    root = work / "rootfs"
    try:
        fetched = fetch(planned, depot, shop, work, before)
        with _way(planned, depot, shop) as way:
            for step in _steps(planned, shop, work, before, fetched):
                _do(step, planned.variant.name, way)
    except Exception as error:
        what = f"root file system {planned.variant.name} of {planned.suite}"
        raise explained(depot, what, error) from error
    shop.told(root)
    removed = tidy(root)
    if planned.archive:
        reproducible.settle(root, began)
    if work.name == "memory":
        run.run(["cp", "--archive", root, work.parent / "rootfs"], timeout=TIMEOUT)
    return removed


def _way(planned: BuildPlan, depot: Depot, shop: Shop) -> AbstractContextManager[Way]:
    """To the shop and nowhere else; a registry is asked without a detour."""
    return gateway(depot, shop) if planned.archive else nullcontext(NOWHERE)


def fetch(
    planned: BuildPlan, depot: Depot, shop: Shop, work: Path, before: Rootfs | None
) -> list[Path]:
    """The packages that the build will want, all at once; a tool that decides for itself may ask for others."""
    names = commands.wanted(planned.variant, planned.packages)
    if not planned.archive or not names:
        return []
    status = (before.path / packages.STATUS).read_text(encoding="utf-8") if before else ""
    with telling(planned.variant.name, "download") as listen:
        try:
            return shop.fetch(depot, names, work / "apt", status=status, on_line=listen)
        except (CommandError, AbsentError):
            if planned.variant.tool == "dpkg":  # which takes these and no others
                raise
            depot.absent.clear()
            return []


def _steps(
    planned: BuildPlan, shop: Shop, work: Path, before: Rootfs | None, fetched: list[Path]
) -> tuple[Command, ...]:
    """The commands of the build: pulled (no archive), from ``before``, or from the archive."""
    target, variant, script = work / "rootfs", planned.variant, work / "source"
    if planned.archive is None:
        return commands.pull_steps(variant, planned.suite, work, planned.registry)
    base = before.path if before else Path("before")
    script.write_text(commands.script_text(variant, shop, base=base), encoding="utf-8")
    script.chmod(0o755)
    commands.fetched(script).write_text("".join(f"{path}\n" for path in fetched), encoding="utf-8")
    return commands.steps(
        variant, planned.suite, target, packages=planned.packages, script=script, before=base
    )


@contextmanager
def telling(name: str, phase: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that takes the lines of a program that makes ``name``, and tells how far it is."""
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


def _do(command: Command, name: str, way: Way) -> None:
    """Runs one command of a build, sealed off, and tells what it is doing."""
    first, *words = command.argv
    own = first.startswith("labkit.")
    argv = sealed(run.module(first, *words) if own else command.argv, way=way)
    quiet = command.quiet
    with telling(name, command.doing) as listen:
        run.run(argv, env=way.env, timeout=TIMEOUT, on_line=listen, on_output=listen, quiet=quiet)


def explained(depot: Depot, what: str, error: Exception) -> Exception:
    """The error of what was being made, or the reason for it: packages that the depot could not give."""
    if depot.failed:
        return depot.failed
    lost = depot.absent
    if not lost:
        return error
    names = packages.naming(sorted(lost))
    first = next(iter(lost.values()))
    if first.status is None:
        reason = f"{counted(len(lost), 'package', 'are')} not in the cache, and labkit is to stay offline: {names}"
        return BuildError(what, reason, first.remedy, first.again, code="build.failed")
    if first.status in (404, 410):
        return OutdatedError(what, f"the mirror no longer has {names}", first.remedy, first.again)
    return BuildError(
        what, f"{names}: {first.reason}", first.remedy, first.again, code="build.failed"
    )


def _measured(planned: BuildPlan, root: Path, *, removed: int, seconds: float) -> Rootfs:
    return Rootfs(
        variant=planned.variant.name,
        suite=planned.suite,
        tool=planned.variant.tool,
        architecture=planned.architecture,
        path=planned.place / "rootfs",
        bytes=size(root),
        cleaned=removed,
        packages=len(packages.read(root)),
        seconds=seconds,
        origin=planned.origin,
        key=planned.key,
    )


__all__ = [
    "BuildPlan", "Rootfs", "build", "checks", "find", "key_of", "plan", "program_version", "refresh",
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
    before, archive = apt.find_lists(lab), apt.update_lists(lab)
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


#: A line that tells of one package, by the phase that it belongs to.
STEPS = {
    "download": re.compile(
        r"I: Retrieving \S+ \S|Get:\d+ (\S+ \S+ \S+ \S+ \S+ \S+|\S+\.deb) \[|download \S+\.deb"
    ),
    "unpack": re.compile(r"I: (Extracting|Unpacking) \S+\.\.\.$|Unpacking \S+ \("),
    "configure": re.compile(r"I: Configuring \S+\.\.\.$|Setting up \S+ \("),
}


#: A line that begins a phase, of which the number of packages is not known yet.
BEGINNINGS = {
    "resolve": re.compile(
        r"I: Resolving|Building dependency tree|I: Retrieving (InRelease|Packages)"
    ),
    "download": re.compile(r"(I: )?downloading|I: Checking component"),
    "unpack": re.compile(r"(I: )?extracting|I: Installing core|I: Unpacking (required|the base)"),
    "configure": re.compile(r"I: installing|configuring|I: Configuring (required|the base)"),
    "leave out": re.compile(r"leaving out"),
}


#: How many packages a transaction has.
NEWLY = re.compile(r"(?:\d+ upgraded, |extracting |downloading )(\d+) (?:newly installed|packages)")


def heard(line: str, before: Doing) -> Doing:
    """What is being done after a line was said."""
    if found := NEWLY.match(line):
        return before.model_copy(update={"done": 0, "total": int(found[1])})
    for phase, pattern in STEPS.items():
        if pattern.match(line):
            return _one_more(before, phase)
    for phase, pattern in BEGINNINGS.items():
        if pattern.match(line) and phase != before.phase:
            return before.model_copy(update={"phase": phase, "done": 0, "total": _total(before)})
    return before


def _one_more(before: Doing, phase: str) -> Doing:
    if phase == before.phase:
        return before.model_copy(
            update={"done": before.done + 1, "total": _at_least(before.total, before.done + 1)}
        )
    return before.model_copy(update={"phase": phase, "done": 1, "total": _total(before)})


def _total(before: Doing) -> int:
    """What was downloaded is what is to be unpacked, and that what is to be configured."""
    return before.total or (before.done if before.phase == "download" else 0)


def _at_least(total: int, done: int) -> int:
    return max(total, done) if total else 0
