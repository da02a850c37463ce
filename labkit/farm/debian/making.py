"""Root file systems made: the commands of a plan run, and what they leave measured and put into the cache."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

from labkit import run, uses
from labkit.display import counted
from labkit.doing import Doing, doing
from labkit.errors import BuildError
from labkit.farm.debian import commands, dating, packages, variants
from labkit.farm.debian.apt import Archive
from labkit.farm.debian.building import PATIENCE, building, in_memory, sealed, size, tidy
from labkit.farm.debian.commands import Step
from labkit.farm.debian.depot import Depot
from labkit.farm.debian.gateway import NOWHERE, Way, gateway
from labkit.farm.debian.plans import Plan, Rootfs, find, ready
from labkit.farm.debian.saying import heard
from labkit.files import write_atomically
from labkit.journal import lock
from labkit.lab import Lab

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
        planned = ready(lab, variant, registry=registry)
        if planned.archive:
            log.info("the mirror has other packages by now: its list is taken anew")
            for source in commands.sources(planned.variant, planned.archive):
                Depot.of(lab).forget(source)
        return _stand(lab, ready(lab, variant, registry=registry))


def _stand(lab: Lab, planned: Plan) -> tuple[Rootfs, bool]:
    with lock(lab.cache_dir / "locks", planned.key, wait=PATIENCE):
        uses.hold(lab, f"rootfs-{planned.variant.name}", planned.place)
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
        (work / "source").unlink(missing_ok=True)
        spent = time.monotonic() - started + (before.seconds if before else 0)
        value = _measured(planned, work / "rootfs", removed=removed, seconds=round(spent, 2))
        write_atomically(work / "rootfs.json", value.model_dump_json(indent=1))
    return value


def _fill(lab: Lab, planned: Plan, shop: Path, before: Rootfs | None) -> int:
    """Makes the root file system in ``shop`` and brings it to where it stays; returns how many bytes of
    it were tidied away."""
    depot, began = Depot.of(lab), time.time()
    try:
        with _way(depot, planned.archive) as way:
            for step in _steps(planned, shop, before):
                _do(step, planned.variant.name, way)
    except Exception as error:
        what = f"root file system {planned.variant.name} of {planned.suite}"
        raise explained(depot, what, error) from error
    root = shop / "rootfs"
    if planned.archive:
        _name_mirror(root, planned.archive)
    removed = tidy(root)
    if planned.archive:
        dating.settle(root, began)
    if shop.name == "memory":
        run.run(["cp", "--archive", root, shop.parent / "rootfs"], timeout=TIMEOUT)
    return removed


def _way(depot: Depot, archive: Archive | None) -> AbstractContextManager[Way]:
    """To the mirror and nowhere else; a registry is asked without a detour."""
    if archive is None:
        return nullcontext(NOWHERE)
    return gateway(depot, secure=secure(archive))


def secure(archive: Archive) -> frozenset[str]:
    """The hosts of an archive that are asked by https."""
    parts = [urlsplit(source.mirror) for source in (archive.main, *archive.further)]
    return frozenset(part.netloc for part in parts if part.scheme == "https")


def plain(archive: Archive) -> Archive:
    """The same with http for https: what programs are told that go through the gateway."""
    main, *further = (
        source.model_copy(update={"mirror": source.mirror.replace("https://", "http://", 1)})
        for source in (archive.main, *archive.further)
    )
    return archive.model_copy(update={"main": main, "further": tuple(further)})


def _name_mirror(root: Path, archive: Archive) -> None:
    """The sources in a root file system are named as they are; see :func:`plain`."""
    listed = root / "etc/apt/sources.list"
    if secure(archive) and listed.exists():
        text = listed.read_text(encoding="utf-8")
        for source in (archive.main, *archive.further):
            text = text.replace(source.mirror.replace("https://", "http://", 1), source.mirror)
        listed.write_text(text, encoding="utf-8")


def _steps(planned: Plan, shop: Path, before: Rootfs | None) -> tuple[Step, ...]:
    """The commands of the build: pulled (no archive), from ``before``, or from the archive."""
    target, variant = shop / "rootfs", planned.variant
    if planned.archive is None:
        return commands.pull_steps(variant, planned.suite, shop, planned.registry)
    archive, script = plain(planned.archive), shop / "source"
    names = shop / "needed"
    names.write_text("".join(f"{name}\n" for name in planned.needed), encoding="utf-8")
    base = before.path if before else None
    script.write_text(
        commands.script_text(variant, archive, needed=names, base=base), encoding="utf-8"
    )
    script.chmod(0o755)
    return commands.steps(
        variant,
        archive,
        target,
        packages=planned.packages,
        script=script,
        before=before.path if before else Path("before"),
    )


def _do(step: Step, name: str, way: Way) -> None:
    """Runs one command of a build, sealed off, and tells what it is doing."""
    with doing(name) as tell:
        state = Doing(what=name, phase=step.doing)

        def listen(line: str) -> None:
            nonlocal state
            after = heard(line, state)
            if after != state:
                state = after
                tell(state)

        tell(state)
        run.run(
            sealed(step.argv, way=way),
            env=way.env,
            timeout=TIMEOUT,
            on_line=listen,
            both=True,
            quiet=step.quiet,
        )


def explained(depot: Depot, what: str, error: Exception) -> Exception:
    """The error of what was being made, or the reason for it: packages that the depot could not give."""
    if depot.failed:
        return depot.failed
    lost = {a: e for a, e in depot.absent.items() if "/pool/" in a}
    if not lost:
        return error
    names = packages.naming(sorted(address.rpartition("/")[2] for address in lost))
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
