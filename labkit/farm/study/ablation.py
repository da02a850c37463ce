"""The steps to the smallest root file system that serves: each is applied, probed and reported.

After each step every question is put to containers on what is left; a step that breaks something is undone.
Steps that go too far are applied last, to report what they break.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from labkit.checks import Check
from labkit.core import run
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted, human_bytes
from labkit.farm import images, rootfs
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.rootfs import bootstrap, buildplan, packages
from labkit.farm.rootfs.buildplan import Rootfs, key_of
from labkit.farm.rootfs.cache_entries import discard, scratch
from labkit.farm.rootfs.contents import Contents, Weight, scan
from labkit.farm.rootfs.repository import PackageCache
from labkit.farm.rootfs.shrink import apply, needed_libraries, with_added
from labkit.farm.rootfs.tree import Tree
from labkit.farm.rootfs.variants import LADDER, Step
from labkit.farm.study import probes, usage
from labkit.farm.study.evidence import collected
from labkit.farm.study.probes import Probe, Question
from labkit.model.config import unknown
from labkit.model.lab import Lab
from labkit.records import Record

log = logging.getLogger("labkit.shrinking")

#: Goes up with every change of the probes or of the steps that go too far.
EDITION = 4
#: How much of what was seen a table shows.
SHOWN = 160
#: A line of ``dpkg --verify`` about a file whose content is another (rpm's format, dpkg(1)).
OTHER = slice(2, 3)
#: The step whose files are known only once a container was watched: it keeps what a page opens.
TRACED = Step(
    "all that serving a page does not open", "tracing alone, as tools that minify images do it", "only",
    kept=("/var/lib/dpkg/*",), breaks="what the trace did not see: a reload, an error, a login",
)  # fmt: skip
TOO_FAR = (
    Step("libgcc_s", "no file asks for it", "paths",
         words=("*/libgcc_s.so.*",), breaks="the C library loads it when a thread is cancelled"),
    Step("a shell and its commands", "apache2 is started without one", "paths",
         words=("/usr/bin/busybox",), breaks="apachectl is a script, and ssh starts a shell"),
    Step("users and groups", "who starts the container gives it a number", "paths",
         words=("/etc/passwd", "/etc/group"), breaks="apache2 looks www-data up, and ssh whom it lets in"),
    Step("folders with nothing in them", "what is mounted over them brings its own files", "paths",
         words=("/dev", "/proc", "/sys", "/run/apache2", "/run/lock/apache2"),
         breaks="whoever starts the container has to write them into it first"),
    Step("the form of the host's key", "used once, when the ssh server starts", "paths",
         words=("/usr/bin/dropbearconvert",), breaks="the ssh server has no key of its own"),
    Step("the list of packages", "nothing in the container reads it", "paths",
         words=("/var/lib/dpkg*",), breaks="nobody can say which packages, with which faults, are inside"),
)  # fmt: skip


class ProbedStep(Record):
    """One step and its probes.

    ``files``, ``size`` and ``disk`` (bytes) are what it took away, ``size_after`` and ``disk_after`` what was left;
    ``asked`` is the number of questions, ``broke`` those without the right answer, each with the answer seen; a step
    is ``kept`` when it broke none. The first step takes nothing away.
    """

    name: str
    why: str
    too_far: bool
    kept: bool
    files: int
    size: int
    disk: int
    size_after: int
    disk_after: int
    asked: int
    broke: dict[str, str]
    seconds: float


class Ablation(Record):
    """The steps to a variant from the one ``before`` it: all that were ``tried``, in their order, the beginning
    first; ``same`` says whether they leave the same files as the variant in the cache has."""

    variant: str
    before: str
    tried: tuple[ProbedStep, ...]
    same: bool

    @property
    def kept(self) -> tuple[ProbedStep, ...]:
        """The steps that the variant consists of."""
        return tuple(item for item in self.tried[1:] if not item.too_far)

    @property
    def undone(self) -> tuple[ProbedStep, ...]:
        """The steps that go too far."""
        return tuple(item for item in self.tried if item.too_far)


@action("rootfs.shrink")
def shrink(lab: Lab, variant: str = "smallest") -> Outcome[Ablation]:
    """Applies every declared step to a variant and probes what is left; then, each by itself, steps that go too far.

    After each step all questions are put to containers on what is left. A step that breaks something is undone.
    The first call takes some minutes; the evidence is kept beside the root file system.

    :param variant: one of :data:`labkit.farm.rootfs.variants.LADDER`.
    :returns: the steps, as value and as tables ``steps`` and ``undone``; a check fails when a step of the variant
        breaks something, or one that goes too far does not.
    :raises ConfigError: another variant.

    >>> study.shrink(lab).frames["steps"]
    """
    if variant not in LADDER:
        raise unknown(variant, LADDER, "a root file system that is made by steps")
    built = rootfs.build(lab, variant)
    key = key_of("shrink", EDITION, built.value.key, LADDER[variant], TRACED, TOO_FAR)
    place = lab.cache_dir / "rootfs" / f".{key}.part"
    folder = built.value.path.parent
    value = collected(lab, folder, key, Ablation, lambda: _ablate(lab, built.value, place))
    return Outcome(
        value=value,
        subject=variant,
        changed=built.changed,
        summary=_summary(value),
        checks=checks(value),
        tables=tables(value),
    )


def checks(value: Ablation) -> tuple[Check, ...]:
    """Whether the steps leave what does everything, and the others do not. Pure."""
    check = partial(Check, rows=("R4",), again="./lab run 08-smallest")
    asked, kept = value.tried[0].asked, counted(len(value.kept), "step")
    broken = {item.name: item.broke for item in (value.tried[0], *value.kept) if item.broke}
    lost = "; ".join(f"{step}: {', '.join(broke)}" for step, broke in broken.items())
    harmless = ", ".join(item.name for item in value.undone if not item.broke)
    return (
        check(
            name=f"shrink.kept.{value.variant}",
            expected=f"after each of {kept} all {counted(asked, 'question')} are answered",
            seen=lost or f"after {kept} all {asked} are",
            holds=not lost,
        ),
        check(
            name=f"shrink.undone.{value.variant}",
            expected=f"each of {counted(len(value.undone), 'further step')} breaks something",
            seen=f"harmless: {harmless}" if harmless else "each of them does",
            holds=not harmless,
        ),
        check(
            name=f"shrink.same.{value.variant}",
            expected=f"what the steps leave is {value.variant}, file by file",
            seen="it is" if value.same else "the files differ",
            holds=value.same,
        ),
    )


def tables(value: Ablation) -> tuple[Table, Table]:
    """One row a step of the variant, the first being where the steps start; and one row a step undone. Pure."""
    kept = (
        f"From {value.before} to {value.variant}: what each step takes away, and how many of the questions "
        "that serving asks are answered after it"
    )
    undone = (
        f"Steps that go further than {value.variant}: tried, and undone because of what they break"
    )
    columns = ("saved", "saved on disk", "left", "left on disk")
    units = dict.fromkeys(columns, "bytes")
    return (
        Table.of("steps", kept, map(_row, (value.tried[0], *value.kept)), units=units),
        Table.of("undone", undone, map(_row, value.undone), units=units),
    )


def _row(item: ProbedStep) -> dict[str, Cell]:
    return {
        "step": item.name,
        "files": item.files,
        "saved": item.size,
        "saved on disk": item.disk,
        "left": item.size_after,
        "left on disk": item.disk_after,
        "answered": f"{item.asked - len(item.broke)} of {item.asked}",
        "not answered": ", ".join(item.broke),
        "seen": shortly(item),
        "why": item.why,
    }


def shortly(item: ProbedStep) -> str:
    """What was seen instead of the first answer. Pure."""
    if not item.broke:
        return ""
    said = " ".join(next(iter(item.broke.values())).split())
    return said if len(said) <= SHOWN else f"{said[: SHOWN - 1]}…"


def _summary(value: Ablation) -> str:
    first, last = value.tried[0], (value.tried[0], *value.kept)[-1]
    return (
        f"From {value.before} ({human_bytes(first.disk_after)} on disk) to {value.variant} "
        f"({human_bytes(last.disk_after)}) in {counted(len(value.kept), 'step')}, after each of which "
        f"all of {last.asked} questions were put; {counted(len(value.undone), 'further step')} undone."
    )


def _ablate(lab: Lab, built: Rootfs, place: Path) -> Ablation:
    planned = buildplan.ready(lab, built.variant)
    before = rootfs.build(lab, planned.variant.after).value
    with scratch(lab, place) as folder:
        tree = Tree.read(before.path)
        added = bootstrap.fetch(planned, PackageCache.of(lab), folder, before)
        full = with_added(tree, added, folder / "added")  # all files that the steps may have
        probes_of = StepProbes(lab, tree, full, folder)
        tried = [probes_of.begin(before.variant), *probes_of.each(LADDER[built.variant])]
        same = _same(probes_of.tree, built.path)
        tried += probes_of.each((probes_of.traced(), *TOO_FAR))
    return Ablation(variant=built.variant, before=before.variant, tried=tuple(tried), same=same)


def _same(tree: Tree, root: Path) -> bool:
    """Whether the tree has the files of a root file system, of the same forms, but for dpkg's own notes."""
    ours = {(path, item.file.form) for path, item in tree.items.items()}
    theirs = {(file.path, file.form) for file in scan(root)}
    return all(path.startswith("/var/lib/dpkg/") for path, _ in ours ^ theirs)


# -- steps, applied and probed ---------------------------------------------------------------------


class StepProbes:
    """Applies and probes steps one after the other; ``tree`` is what the kept ones have left, and ``weight``
    its weight on the disk (None before the first)."""

    def __init__(self, lab: Lab, tree: Tree, full: Tree, folder: Path) -> None:
        """Starts at ``tree``; ``full`` has all files that steps may add, ``folder`` is scratch."""
        self.lab = lab
        self.tree = tree
        self.full = full
        self.folder = folder
        self.config = images.unpacked(lab, "web").config
        self.weight: Weight | None = None
        self._count = 0

    def begin(self, name: str) -> ProbedStep:
        """The tree as it is, under its name."""
        step = Step(name=f"{name}, as it is", why="what the steps start from", rule="")
        return self._probe_step(step, self.tree)

    def each(self, steps: Sequence[Step]) -> Iterator[ProbedStep]:
        """Each step that takes something away; one that breaks something, or goes too far, is undone."""
        for step in steps:
            after = apply(self.tree, step, self.full)
            if after.items.keys() == self.tree.items.keys():
                continue
            done = self._probe_step(step, after)
            yield done
            if done.kept and not step.breaks:
                self.tree = after

    def traced(self) -> Step:
        """The step that keeps what serving one page opens, of the tree as it is now."""
        folder, unpacked = self._written(self.tree)
        site = images.unpacked(self.lab, self.lab.sites[0].name)
        with_site = unpacked.model_copy(update={"lower": (*site.lower[:-1], *unpacked.lower)})
        with lock(self.lab.run_dir, "farm"):
            served = usage.serve(self.lab, with_site, watch=True, page_only=True)
        discard(self.lab, folder)
        return TRACED._replace(words=served.opened)

    def _probe_step(self, step: Step, after: Tree) -> ProbedStep:
        log.info("without %s: %s", step.name, human_bytes(after.weight.size))
        started = time.monotonic()
        folder, unpacked = self._written(after)
        asked = self._asked(folder, unpacked)
        if not all(probe.holds for probe in asked):  # a busy machine is no reason
            asked = self._asked(folder, unpacked)
        broke = {probe.name: probe.seen for probe in asked if not probe.holds}
        left = Weight.of(scan(folder))
        discard(self.lab, folder)
        before = self.weight or left
        if not broke and not step.breaks:
            self.weight = left
        return ProbedStep(
            name=step.name,
            why=step.why,
            too_far=bool(step.breaks),
            kept=not broke,
            files=before.files - left.files,
            size=before.size - left.size,
            disk=before.disk - left.disk,
            size_after=left.size,
            disk_after=left.disk,
            asked=len(asked),
            broke=broke,
            seconds=round(time.monotonic() - started, 2),
        )

    def _asked(self, folder: Path, unpacked: Unpacked) -> tuple[Probe, ...]:
        return (*look(folder), *probes.probe(self.lab, unpacked))

    def _written(self, tree: Tree) -> tuple[Path, Unpacked]:
        """The tree, written to a new folder, as an image for containers."""
        self._count += 1
        folder = self.folder / f"{self._count:02}"
        folder.mkdir()
        tree.write(folder, linked=True)
        return folder, Unpacked(tag=folder.name, lower=(folder,), config=self.config)


# -- questions that need no container ---------------------------------------------------------------


def look(root: Path) -> tuple[Probe, ...]:
    """Whether a root file system is still Debian's, file by file; nothing in it is started."""
    questions = (
        Question("listed", "dpkg lists packages", _listed),
        Question("as-packaged", "no file differs from its package's", _changed),
        Question("owned", "every file belongs to a package, or to who built it", _owned),
        Question("linked", "every library that is asked for is there", _linked),
    )
    return tuple(probes.put(question, root) for question in questions)


def _listed(root: Path) -> str:
    names = packages.parse_selections(
        run.run(["dpkg", f"--root={root}", "--get-selections"]).stdout
    )
    return "" if names else "dpkg lists no package"


def _changed(root: Path) -> str:
    lines = run.run(["dpkg", f"--root={root}", "--verify"], ok=(0, 1)).stdout.splitlines()
    return _named([line.split()[-1] for line in lines if line[OTHER] == "5"])


def _owned(root: Path) -> str:
    contents = Contents.read(root.name, root)
    files = (file.path for file in contents.files if file.form != "folder")
    return _named([path for path in files if contents.owners[path].how == "nobody"])


def _linked(root: Path) -> str:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    needs = {path: needed_libraries(path.read_bytes()) or () for path in files}
    here = {PurePosixPath(path).name for path in root.rglob("*.so*")}
    lost = sorted({name for names in needs.values() for name in names if name not in here})
    return _named(lost)


def _named(listed: list[str]) -> str:
    return packages.naming(sorted(listed), 3) if listed else ""
