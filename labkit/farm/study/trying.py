"""Steps tried on the real thing: each tree is written, containers stand on it, and every question is put."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from labkit.display import human_bytes
from labkit.farm.images import actions as image
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.rootfs import step_rules, writing
from labkit.farm.rootfs.account import Weight
from labkit.farm.rootfs.cache import discard
from labkit.farm.rootfs.files import scan
from labkit.farm.rootfs.ladder import Step
from labkit.farm.rootfs.tree import Tree
from labkit.farm.study import margins, serving, soundness
from labkit.farm.study import proof as survival
from labkit.farm.study.proof import Probe
from labkit.model.lab import Lab
from labkit.records import Record

log = logging.getLogger("labkit.shrinking")


class Tried(Record):
    """One step that was tried: what it took away (``size`` and ``disk`` in bytes), what stood after it, how
    many of the questions were answered, and which were not, each with what was seen; ``kept`` unless one was
    not. The first one of all takes nothing away: it is the beginning."""

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


class Trials:
    """Steps tried one after the other from one tree on; ``tree`` is what the kept ones have left, and
    ``weight`` what that weighs when it is written (None before the first)."""

    def __init__(self, lab: Lab, tree: Tree, full: Tree, folder: Path) -> None:
        """``full`` has all files that there are (:mod:`labkit.farm.rootfs.step_rules`), ``folder`` is scratch."""
        self.lab = lab
        self.tree = tree
        self.full = full
        self.folder = folder
        self.config = image.unpacked(lab, "web").config
        self.weight: Weight | None = None
        self._count = 0

    def begin(self, name: str) -> Tried:
        """The tree as it is, under its name."""
        step = Step(name=f"{name}, as it is", why="what the steps start from", rule="")
        return self._tried(step, self.tree)

    def each(self, steps: Sequence[Step]) -> Iterator[Tried]:
        """Every step; one that takes nothing away is left out. What breaks something is undone, and so is
        what is declared as going too far."""
        for step in steps:
            after = step_rules.apply(self.tree, step, self.full)
            if after.items.keys() == self.tree.items.keys():
                continue
            done = self._tried(step, after)
            yield done
            if done.kept and not step.breaks:
                self.tree = after

    def traced(self) -> Step:
        """The step that keeps what serving one page opens, of the tree as it is now."""
        folder, unpacked = self._written(self.tree)
        site = image.unpacked(self.lab, self.lab.sites[0].name)
        own = tuple(path for path in site.lower[: len(site.lower) - 1])
        stands = unpacked.model_copy(update={"lower": (*own, *unpacked.lower)})
        seen = serving.serve(self.lab, watch=True, unpacked=stands, page_only=True)
        discard(self.lab, folder)
        return margins.TRACED.model_copy(update={"words": seen.opened})

    def _tried(self, step: Step, after: Tree) -> Tried:
        log.info("without %s: %s", step.name, human_bytes(after.weight.size))
        started = time.monotonic()
        folder, unpacked = self._written(after)
        probes = self._asked(folder, unpacked)
        if lost := [probe for probe in probes if not probe.holds]:
            probes = self._asked(folder, unpacked)  # what a busy machine did counts for nothing
            lost = [probe for probe in probes if not probe.holds]
        left = Weight.of(scan(folder))
        discard(self.lab, folder)
        before = self.weight or left
        if not lost and not step.breaks:
            self.weight = left
        return Tried(
            name=step.name,
            why=step.why,
            too_far=bool(step.breaks),
            kept=not lost,
            files=before.files - left.files,
            size=before.size - left.size,
            disk=before.disk - left.disk,
            size_after=left.size,
            disk_after=left.disk,
            asked=len(probes),
            broke={probe.name: probe.seen for probe in lost},
            seconds=round(time.monotonic() - started, 2),
        )

    def _asked(self, folder: Path, unpacked: Unpacked) -> tuple[Probe, ...]:
        return (*soundness.look(folder), *survival.probe(self.lab, unpacked))

    def _written(self, tree: Tree) -> tuple[Path, Unpacked]:
        """The tree in a folder of its own, as an image that containers can stand on."""
        self._count += 1
        folder = self.folder / f"{self._count:02}"
        folder.mkdir()
        writing.write(tree, folder, linked=True)
        return folder, Unpacked(tag=folder.name, lower=(folder,), config=self.config)
