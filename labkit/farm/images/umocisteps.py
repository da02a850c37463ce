"""What umoci makes at each step, seen on a small image made for the purpose and removed again."""

from __future__ import annotations

import shlex
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.journal import Journal, lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.farm.images import store, umocibundle
from labkit.farm.images.layers import ENVIRONMENT
from labkit.farm.images.umocibundle import Bundle, Pointer
from labkit.farm.rootfs.cache_entries import discard
from labkit.model.lab import Lab
from labkit.records import Record

#: The names of the layout and of the bundle, as the assignment has them.
LAYOUT, BUNDLE = "newimage", "newbundle"
#: What is put into the root file system, first for one tag and then for another.
CONTENT = {"etc/motd": "A root file system of two files.\n", "srv/page.txt": "Hello.\n"}
MORE = {"srv/more.txt": "The second tag's own file.\n"}
COMMAND = ("/bin/cat", "/etc/motd")


class Blob(Record):
    """A blob, what it is (manifest, configuration or layer), and its size in bytes."""

    digest: str
    role: str
    bytes: int


class Step(Record):
    """One command, what it is for, and the blobs that the layout had afterwards and not before."""

    name: str
    command: str
    purpose: str
    added: tuple[Blob, ...]
    tags: tuple[str, ...]


class Steps(Record):
    """The steps in their order, and at the end who points to whom."""

    steps: tuple[Step, ...]
    pointers: tuple[Pointer, ...]


@action("image.steps")
def steps(lab: Lab) -> Outcome[Steps]:
    """Runs umoci's commands one by one on a scratch image and says what each made; nothing is left
    of it. The relation of layout and bundle is checked, not told."""
    run.require("umoci")
    with lock(lab.run_dir, "image"), _scratch(lab) as work:
        done = [
            _step(work, "init", f"umoci init --layout {LAYOUT}", "an empty layout"),
            _step(work, "new", f"umoci new --image {LAYOUT}:first", "an image without layers"),
            _step(work, "unpack", f"umoci unpack --image {LAYOUT}:first {BUNDLE}", "a bundle"),
        ]
        empty = umocibundle.read(work / BUNDLE)
        _put(work / BUNDLE / "rootfs", CONTENT)
        done.append(
            _step(work, "repack", f"umoci repack --image {LAYOUT}:first {BUNDLE}", "a layer")
        )
        layers = _contents(work)
        done.append(_step(work, "config", _config_command(), "how the image wants to be run"))
        again = f"umoci unpack --image {LAYOUT}:first {BUNDLE}2"
        done.append(_step(work, "unpack again", again, "a bundle of the changed image"))
        second = umocibundle.read(work / f"{BUNDLE}2")
        _put(work / f"{BUNDLE}2" / "rootfs", MORE)
        more = f"umoci repack --image {LAYOUT}:second {BUNDLE}2"
        done.append(_step(work, "repack again", more, "a second tag: one more layer"))
        pointers = umocibundle.pointers(work / LAYOUT, work / f"{BUNDLE}2", "first")
        value = Steps(steps=tuple(done), pointers=tuple(pointers))
        found = (*_layout_checks(work, done), *_bundle_checks(work, empty, second, layers))
    kept = f"{counted(len(done), 'command')}, {counted(len(found), 'statement')} checked"
    return Outcome(
        value=value,
        subject=LAYOUT,
        summary=f"umoci's steps on a scratch image: {kept}; nothing of it is left.",
        checks=found,
        tables=(step_table(value), pointer_table(value)),
    )


def step_table(value: Steps) -> Table:
    """One row a command."""
    rows: list[dict[str, Cell]] = [
        {
            "step": step.name,
            "command": step.command,
            "makes": step.purpose,
            "new blobs": ", ".join(f"{b.role} {store.short(b.digest)}" for b in step.added)
            or "none",
            "bytes": sum(blob.bytes for blob in step.added),
            "tags": ", ".join(step.tags) or "none",
        }
        for step in value.steps
    ]
    return Table.of("steps", "What each command adds to the layout", rows, units={"bytes": "bytes"})


def pointer_table(value: Steps) -> Table:
    """One row a pointer."""
    rows: list[dict[str, Cell]] = [
        {"from": p.source, "to": p.target, "as": p.role, "bytes": p.bytes} for p in value.pointers
    ]
    title = "Who points to whom in the end: layout above, bundle below"
    return Table.of("pointers", title, rows, units={"bytes": "bytes"})


# -- acting ----------------------------------------------------------------------------------


@contextmanager
def _scratch(lab: Lab) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = lab.state_dir / "image-steps"
    Journal.of(lab).intend("folder", path=str(folder))
    try:
        discard(lab, folder)
        folder.mkdir(parents=True)
        yield folder
    finally:
        discard(lab, folder)
        Journal.of(lab).forget("folder", path=str(folder))


def _step(work: Path, name: str, command: str, purpose: str) -> Step:
    layout = work / LAYOUT
    before = store.blobs(layout)
    run.run(shlex.split(command), cwd=work)
    roles = _roles(layout)
    added = tuple(
        Blob(digest=digest, role=roles.get(digest, "blob"), bytes=size)
        for digest, size in store.blobs(layout).items()
        if digest not in before
    )
    return Step(
        name=name,
        command=command,
        purpose=purpose,
        added=tuple(sorted(added, key=lambda blob: blob.role, reverse=True)),
        tags=tuple(sorted(store.tags(layout))),
    )


def _config_command() -> str:
    words = [f"--config.cmd={word}" for word in COMMAND]
    path = f"--config.env=PATH={ENVIRONMENT['PATH']}"
    return shlex.join(["umoci", "config", "--image", f"{LAYOUT}:first", path, *words])


def _put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


# -- reading ---------------------------------------------------------------------------------


def _roles(layout: Path) -> dict[str, str]:
    """What each blob that the layout points to is."""
    found: dict[str, str] = {}
    for name in store.tags(layout):
        tag = store.tag(layout, name)
        found |= {tag.manifest: "manifest", tag.config: "configuration"}
        found |= dict.fromkeys(tag.layers, "layer")
    return found


def _contents(work: Path) -> tuple[tuple[str, ...], ...]:
    """The names of the files in each layer of the first tag."""
    layout = work / LAYOUT
    found = []
    for digest in store.tag(layout, "first").layers:
        with tarfile.open(store.blob(layout, digest)) as archive:
            names = sorted(m.name.removeprefix("./") for m in archive if m.isfile())
        found.append(tuple(names))
    return tuple(found)


# -- checking --------------------------------------------------------------------------------


def _layout_checks(work: Path, done: list[Step]) -> tuple[Check, ...]:
    layout = work / LAYOUT
    first, second = store.tag(layout, "first"), store.tag(layout, "second")
    by_name = {step.name: step for step in done}
    wrong = [d for d in store.blobs(layout) if store.content_digest(store.blob(layout, d)) != d]
    return (
        _check("init", "no tag and no blob", _made(by_name["init"]), ("E2",)),
        _check("new", "manifest, configuration", _made(by_name["new"]), ("E2",)),
        _check("repack", "manifest, layer, configuration", _made(by_name["repack"]), ("E2",)),
        _check("config", "manifest, configuration", _made(by_name["config"]), ("E2", "I5")),
        _check("names", "each blob is named by its hash", _right(wrong), ("R1",)),
        equal(
            "image.steps.shared",
            f"the second tag stands on the first's layer {store.short(first.layers[0])}",
            f"the second tag stands on the first's layer {store.short(second.layers[0])}",
            rows=("R1",),
        ),
    )


def _bundle_checks(
    work: Path, empty: Bundle, second: Bundle, layers: tuple[tuple[str, ...], ...]
) -> tuple[Check, ...]:
    first = store.tag(work / LAYOUT, "first")
    mtree = f"{second.manifest.replace(':', '_')}.mtree"
    parts = ", ".join(sorted(("config.json", "rootfs", "umoci.json", mtree)))
    path = f"PATH={ENVIRONMENT['PATH']}"
    seen = next((word for word in second.env if word.startswith("PATH=")), "no PATH")
    put = ", ".join(sorted(CONTENT))
    return (
        _check("bundle", parts, ", ".join(second.files), ("E2", "R1")),
        _check("empty", "rootfs without a file", _listing(empty.content), ("R1",)),
        _check("points", first.manifest, second.manifest, ("R1",)),
        _check("snapshot", empty.manifest, umocibundle.read(work / BUNDLE).manifest, ("R1",)),
        _check("layer", put, "; ".join(map(", ".join, layers)), ("E2", "R1")),
        _check("rootfs", put, ", ".join(second.content), ("E2", "R1")),
        _check(
            "runtime",
            f"args {' '.join(COMMAND)}, {path}",
            f"args {' '.join(second.args)}, {seen}",
            ("I5", "I4"),
        ),
    )


def _check(name: str, expected: str, seen: str, rows: tuple[str, ...]) -> Check:
    return equal(f"image.steps.{name}", expected, seen, rows=rows)


def _made(step: Step) -> str:
    return ", ".join(blob.role for blob in step.added) or "no tag and no blob"


def _listing(content: tuple[str, ...]) -> str:
    return ", ".join(content) or "rootfs without a file"


def _right(wrong: list[str]) -> str:
    return f"not so: {', '.join(wrong)}" if wrong else "each blob is named by its hash"
