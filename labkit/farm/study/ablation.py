"""How a root file system that serves was made so small: each declared step tried, proven, and reported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from labkit.checks import Check
from labkit.core import run
from labkit.core.files import proven, write_proven
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted, human_bytes
from labkit.farm.rootfs import actions as rootfs
from labkit.farm.rootfs import making, plans
from labkit.farm.rootfs.actions import Rootfs, key_of
from labkit.farm.rootfs.cache import PATIENCE
from labkit.farm.rootfs.files import scan
from labkit.farm.rootfs.ladder import LADDER
from labkit.farm.rootfs.plans import Plan
from labkit.farm.rootfs.repository import Depot
from labkit.farm.rootfs.sandbox import sealed
from labkit.farm.rootfs.tree import Tree
from labkit.farm.study import margins
from labkit.farm.study.scratch import scratch
from labkit.farm.study.trying import Trials, Tried
from labkit.model.lab import Lab, unknown
from labkit.records import Record

#: Goes up with every change of what is tried.
EDITION = 4
#: How much of what was seen a table shows.
SHOWN = 160


class Ablation(Record):
    """The steps to a variant, from the one that it is made from: ``tried`` in their order, the beginning
    first; ``same`` is whether what they leave is the variant as it stands in the cache."""

    variant: str
    before: str
    tried: tuple[Tried, ...]
    same: bool

    @property
    def kept(self) -> tuple[Tried, ...]:
        """The steps that the variant consists of."""
        return tuple(item for item in self.tried[1:] if not item.too_far)

    @property
    def undone(self) -> tuple[Tried, ...]:
        """The steps that were tried to see what they break."""
        return tuple(item for item in self.tried if item.too_far)


@action("rootfs.shrink")
def shrink(lab: Lab, variant: str = "smallest") -> Outcome[Ablation]:
    """Every declared step to a variant is tried: after each one all questions are put to containers that stand
    on what is left, and what breaks one is undone. Then steps that go further are tried, each by itself.

    The first time it takes some minutes; the evidence is kept beside the root file system.

    :param variant: one of :data:`labkit.farm.rootfs.ladder.LADDER`; raises ConfigError for another.
    """
    if variant not in LADDER:
        raise unknown(variant, LADDER, "a root file system that is made by steps")
    built = rootfs.build(lab, variant)
    key = key_of(
        "shrink", EDITION, built.value.key, LADDER[variant], margins.TRACED, margins.TOO_FAR
    )
    kept = built.value.path.parent / f"{key}.json"
    with lock(lab.cache_dir / "locks", key, wait=PATIENCE):
        value = _find(kept)
        if value is None:
            value = _try(lab, built.value, lab.cache_dir / "rootfs" / f".{key}.part")
            write_proven(kept, value.model_dump_json(indent=1))
    return Outcome(
        value=value,
        subject=variant,
        changed=built.changed,
        summary=_summary(value),
        checks=checks(value),
        tables=(table(value), undone_table(value)),
    )


def checks(value: Ablation) -> tuple[Check, ...]:
    """Whether the steps leave what does everything, and the others do not. Pure."""
    asked = value.tried[0].asked
    broken = {item.name: item.broke for item in (value.tried[0], *value.kept) if item.broke}
    harmless = [item.name for item in value.undone if not item.broke]
    again = "./lab run 08-smallest"
    return (
        Check(
            name=f"shrink.kept.{value.variant}",
            expected=f"after each of {counted(len(value.kept), 'step')} all {counted(asked, 'question')} are answered",
            seen=_lost(broken)
            if broken
            else f"after {counted(len(value.kept), 'step')} all {asked} are",
            holds=not broken,
            rows=("R4",),
            again=again,
        ),
        Check(
            name=f"shrink.undone.{value.variant}",
            expected=f"each of {counted(len(value.undone), 'further step')} breaks something",
            seen=f"harmless: {', '.join(harmless)}" if harmless else "each of them does",
            holds=not harmless,
            rows=("R4",),
            again=again,
        ),
        Check(
            name=f"shrink.same.{value.variant}",
            expected=f"what the steps leave is {value.variant}, file by file",
            seen="it is" if value.same else "the files differ",
            holds=value.same,
            rows=("R4",),
            again=again,
        ),
    )


def table(value: Ablation) -> Table:
    """One row a step of the variant, the first one being where the steps start. Pure."""
    title = (
        f"From {value.before} to {value.variant}: what each step takes away, and how many of the questions "
        "that serving asks are answered after it"
    )
    return _table("steps", title, (value.tried[0], *value.kept))


def undone_table(value: Ablation) -> Table:
    """One row a step that was undone, with what it broke. Pure."""
    title = (
        f"Steps that go further than {value.variant}: tried, and undone because of what they break"
    )
    return _table("undone", title, value.undone)


def _table(name: str, title: str, items: Iterable[Tried]) -> Table:
    rows: list[dict[str, Cell]] = [
        {
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
        for item in items
    ]
    sizes = ("saved", "saved on disk", "left", "left on disk")
    return Table.of(name, title, rows, units=dict.fromkeys(sizes, "bytes"))


def shortly(item: Tried) -> str:
    """What was seen instead of the first answer. Pure."""
    if not item.broke:
        return ""
    said = " ".join(next(iter(item.broke.values())).split())
    return said if len(said) <= SHOWN else f"{said[: SHOWN - 1]}…"


def _lost(broken: dict[str, dict[str, str]]) -> str:
    return "; ".join(f"{step}: {', '.join(lost)}" for step, lost in broken.items())


def _summary(value: Ablation) -> str:
    first, last = value.tried[0], (value.tried[0], *value.kept)[-1]
    return (
        f"From {value.before} ({human_bytes(first.disk_after)} on disk) to {value.variant} "
        f"({human_bytes(last.disk_after)}) in {counted(len(value.kept), 'step')}, after each of which "
        f"all of {last.asked} questions were put; {counted(len(value.undone), 'further step')} undone."
    )


def _find(path: Path) -> Ablation | None:
    try:
        return Ablation.model_validate_json(proven(path) or "")
    except ValidationError:
        return None


def _try(lab: Lab, built: Rootfs, place: Path) -> Ablation:
    planned = plans.ready(lab, built.variant)
    before = rootfs.build(lab, planned.variant.after).value
    with scratch(lab, place) as folder:
        tree = Tree.read(before.path)
        full = _full(lab, planned, before, folder)
        trials = Trials(lab, tree, full, folder)
        tried = [trials.begin(before.variant), *trials.each(LADDER[built.variant])]
        same = _same(trials.tree, built.path)
        tried += trials.each((trials.traced(), *margins.TOO_FAR))
    return Ablation(variant=built.variant, before=before.variant, tried=tuple(tried), same=same)


def _full(lab: Lab, planned: Plan, before: Rootfs, folder: Path) -> Tree:
    """All files that there are, with the packages that the variant's steps add, as its build has them."""
    tree = Tree.read(before.path)
    files = making.fetch(planned, Depot.of(lab), plans.shop(planned), folder, before)
    if not files:
        return tree
    listed, added = folder / "fetched", folder / "added"
    listed.write_text("".join(f"{path}\n" for path in files), encoding="utf-8")
    argv = run.module(
        "labkit.farm.rootfs.shrink", f"--variant={planned.variant.name}",
        f"--packages={listed}", "--added-only", before.path, added,
    )  # fmt: skip
    run.run(sealed(argv), timeout=making.TIMEOUT)
    return Tree.read(added).having(tree.items, tree)


def _same(tree: Tree, root: Path) -> bool:
    """Whether the tree has the files of a root file system, of the same sizes but for dpkg's own notes."""
    own = {(path, item.file.form) for path, item in tree.items.items() if not _noted(path)}
    return own == {(file.path, file.form) for file in scan(root) if not _noted(file.path)}


def _noted(path: str) -> bool:
    return path.startswith("/var/lib/dpkg/")
