"""Root file systems made: the commands of a plan run, and what they leave measured and put into the cache."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from labkit.core import cache, run
from labkit.core.files import write_atomically
from labkit.core.journal import lock
from labkit.core.progress import Doing, doing
from labkit.display import counted
from labkit.errors import BuildError, CommandError
from labkit.farm.rootfs import commands, lists, packages, plans, reproducible, variants
from labkit.farm.rootfs.cache_entries import PATIENCE, building, discard, size
from labkit.farm.rootfs.commands import Step
from labkit.farm.rootfs.plans import Plan, Rootfs, find, ready
from labkit.farm.rootfs.repository import AbsentError, Depot, Shop
from labkit.farm.rootfs.reproducible import tidy
from labkit.farm.rootfs.sandbox import NOWHERE, Way, gateway, in_memory, sealed
from labkit.farm.rootfs.saying import heard
from labkit.model.lab import Lab

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
        lists.take(lab)
        return _stand(lab, ready(lab, variant, registry=registry))


def _stand(lab: Lab, planned: Plan) -> tuple[Rootfs, bool]:
    with lock(lab.cache_dir / "locks", planned.key, wait=PATIENCE):
        cache.hold(lab, f"rootfs-{planned.variant.name}", planned.place)
        if planned.archive:
            cache.hold(lab, "lists", planned.archive.folder)
        kept = find(planned)
        return kept or _make(lab, planned), kept is None


def _make(lab: Lab, planned: Plan) -> Rootfs:
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


def _fill(lab: Lab, planned: Plan, work: Path, before: Rootfs | None) -> int:
    """Makes the root file system in ``work`` and brings it to where it stays; returns how many bytes of
    it were tidied away."""
    depot, shop, began = Depot.of(lab), plans.shop(planned), time.time()
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


def _way(planned: Plan, depot: Depot, shop: Shop) -> AbstractContextManager[Way]:
    """To the shop and nowhere else; a registry is asked without a detour."""
    return gateway(depot, shop) if planned.archive else nullcontext(NOWHERE)


def fetch(planned: Plan, depot: Depot, shop: Shop, work: Path, before: Rootfs | None) -> list[Path]:
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
    planned: Plan, shop: Shop, work: Path, before: Rootfs | None, fetched: list[Path]
) -> tuple[Step, ...]:
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


def _do(step: Step, name: str, way: Way) -> None:
    """Runs one command of a build, sealed off, and tells what it is doing."""
    with telling(name, step.doing) as listen:
        run.run(
            sealed(step.argv, way=way),
            env=way.env,
            timeout=TIMEOUT,
            on_line=listen,
            on_output=listen,
            quiet=step.quiet,
        )


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


def _measured(planned: Plan, root: Path, *, removed: int, seconds: float) -> Rootfs:
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
