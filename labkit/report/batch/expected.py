"""What a rebuild will take: as the last one on this machine did, or else as :mod:`labkit.report.stages.plan` says."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from labkit.core import run
from labkit.core.files import existing
from labkit.display import about, counted, human_bytes
from labkit.farm.rootfs import variants
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.batch.schedule import left
from labkit.report.stages import plan as plans
from labkit.report.stages.memory import Memory
from labkit.report.stages.plan import Plan


class Expected(Record):
    """What stages that are to run will take: seconds each, those to the first report and to the end, bytes
    to download and of disk; ``building`` are those that have a root file system to build, ``measured``
    whether all of it was measured on this machine."""

    seconds: dict[str, float]
    report: float
    whole: float
    download: int
    space: int
    building: tuple[str, ...]
    measured: bool

    def sentence(self, free: int) -> str:
        """The same in a sentence; ``free`` are the bytes that the disk has left."""
        first = (
            f"about {about(self.report)} to the report, " if self.report < self.whole else "about "
        )
        needs = f", {human_bytes(self.download)} to download, {human_bytes(self.space)} of disk ({human_bytes(free)} free)"
        source = "the last time on this machine" if self.measured else "typical of two processors"
        return (
            f"{counted(len(self.seconds), 'stage')} to run: {first}{about(self.whole)} in all"
            f"{needs if self.building else ', nothing to download'} ({source})"
        )


def of(lab: Lab, stages: Collection[Plan], memory: Memory) -> Expected:
    """What these stages will take now."""
    building = tuple(stage.name for stage in stages if not _built(lab, stage))
    last = {stage.name: memory.seconds.get(_key(stage.name, building)) for stage in stages}
    usual = {stage.name: stage.seconds[stage.name not in building] for stage in stages}
    seconds = {name: usual[name] if known is None else known for name, known in last.items()}
    later = {name for stage in stages for name in stage.later}
    fetched, kept = (memory.fetched, memory.kept) if memory.kept else plans.BYTES
    return Expected(
        seconds=seconds,
        report=left(tuple(stages), seconds, later),
        whole=left(tuple(stages), seconds, ()),
        download=max(0, fetched - disk(lab.cache_dir / "debian")),
        space=max(0, kept - disk(lab.cache_dir, lab.state_dir)),
        building=building,
        measured=None not in last.values() and (bool(memory.kept) or not building),
    )


def taken(lab: Lab, memory: Memory, expected: Expected, seconds: dict[str, float]) -> Memory:
    """The memory with what was measured of the stages that passed."""
    names = {_key(name, expected.building): taken for name, taken in seconds.items()}
    update: dict[str, object] = {"seconds": {**memory.seconds, **names}}
    if set(expected.building) & set(seconds):
        places = lab.cache_dir, lab.state_dir
        update |= {"fetched": disk(lab.cache_dir / "debian"), "kept": disk(*places)}
    return memory.model_copy(update=update)


def disk(*folders: Path) -> int:
    """The bytes that folders take on their disks, hard links once; 0 for those that are not there."""
    there = [folder for folder in folders if folder.is_dir()]
    words = ("du", "--summarize", "--total", "--one-file-system", "--block-size=1")
    if not there:
        return 0
    return int(run.run([*words, *there], ok=(0, 1)).stdout.splitlines()[-1].split()[0])


def free(lab: Lab) -> int:
    """The bytes that the disk of the lab's cache has left."""
    return shutil.disk_usage(existing(lab.cache_dir)).free


def _key(name: str, building: Collection[str]) -> str:
    return f"{name}, building" if name in building else name


def _built(lab: Lab, stage: Plan) -> bool:
    """Whether the cache has a root file system of each kind that a stage needs, perhaps of older packages."""
    names = [name or variants.of_lab(lab).name for name in stage.builds]
    suite = lab.rootfs.suite or "*"
    folder = lab.cache_dir / "rootfs"
    return all(any(folder.glob(f"{name}-{suite}-*/rootfs.json")) for name in names)
