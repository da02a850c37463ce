"""Runs umoci's commands one by one on a small image, and shows what each adds to layout and bundle."""

from __future__ import annotations

import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path

from labkit import reading
from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.farm.images import store
from labkit.farm.images.builder import ENVIRONMENT
from labkit.farm.rootfs.cache_entries import scratch
from labkit.model.lab import Lab
from labkit.records import Record

#: The names of the layout and of the bundle, as the assignment has them.
LAYOUT, BUNDLE = "newimage", "newbundle"
#: The files that are put into the root file system, for the first tag and for the second.
CONTENT = {"etc/motd": "A root file system of two files.\n", "srv/page.txt": "Hello.\n"}
MORE = {"srv/more.txt": "The second tag's own file.\n"}
COMMAND = ("/bin/cat", "/etc/motd")
NO_FILE, NO_BLOB = "rootfs without a file", "no tag and no blob"
#: The steps: name, command, what it makes.
STEPS = {
    "init": (f"umoci init --layout {LAYOUT}", "an empty layout"),
    "new": (f"umoci new --image {LAYOUT}:first", "an image without layers"),
    "unpack": (f"umoci unpack --image {LAYOUT}:first {BUNDLE}", "a bundle"),
    "repack": (f"umoci repack --image {LAYOUT}:first {BUNDLE}", "a layer"),
    "config": (
        shlex.join([
            "umoci", "config", "--image", f"{LAYOUT}:first", f"--config.env=PATH={ENVIRONMENT['PATH']}",
            *(f"--config.cmd={word}" for word in COMMAND),
        ]),
        "how the image wants to be run",
    ),
    "unpack again": (f"umoci unpack --image {LAYOUT}:first {BUNDLE}2", "a bundle of the changed image"),
    "repack again": (f"umoci repack --image {LAYOUT}:second {BUNDLE}2", "a second tag: one more layer"),
}  # fmt: skip


class Blob(Record):
    """A blob, its role (manifest, configuration or layer), and its size in bytes."""

    digest: str
    role: str
    bytes: int


class UmociStep(Record):
    """One command, what it makes, the blobs that the layout had afterwards and not before, and its tags then."""

    name: str
    command: str
    purpose: str
    added: tuple[Blob, ...]
    tags: tuple[str, ...]


class Pointer(Record):
    """One file that names another by its hash, or is made from it."""

    source: str
    target: str
    role: str
    bytes: int


class Steps(Record):
    """The steps in their order, and the pointers between files at the end."""

    steps: tuple[UmociStep, ...]
    pointers: tuple[Pointer, ...]


class Bundle(Record):
    """A bundle: its files' names, the manifest that umoci.json names, args and environment of config.json, the
    files in rootfs."""

    files: tuple[str, ...]
    manifest: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    content: tuple[str, ...]


@action("image.steps")
def steps(lab: Lab) -> Outcome[Steps]:
    """Runs umoci's commands one by one on a scratch image, which is removed afterwards.

    :return: the blobs that each command adds, the pointers between layout and bundle, and checks of both.

    >>> [step.name for step in images.steps(lab).value.steps][:2]  # doctest: +SKIP
    ['init', 'new']
    """
    run.require("umoci")
    with lock(lab.run_dir, "image"), scratch(lab, lab.state_dir / "image-steps") as work:
        done = [_step(work, name) for name in ("init", "new", "unpack")]
        empty = read_bundle(work / BUNDLE)
        _put(work / BUNDLE / "rootfs", CONTENT)
        done.append(_step(work, "repack"))
        layers = _contents(work)
        done += [_step(work, name) for name in ("config", "unpack again")]
        second = read_bundle(work / f"{BUNDLE}2")
        _put(work / f"{BUNDLE}2" / "rootfs", MORE)
        done.append(_step(work, "repack again"))
        found = pointers(work / LAYOUT, work / f"{BUNDLE}2", "first")
        value = Steps(steps=tuple(done), pointers=tuple(found))
        checks = _checks(work, value, empty, second, layers)
    kept = f"{counted(len(done), 'command')}, {counted(len(checks), 'statement')} checked"
    return Outcome(
        value=value,
        subject=LAYOUT,
        summary=f"umoci's steps on a scratch image: {kept}; nothing of it is left.",
        checks=checks,
        tables=_tables(value),
    )


def _tables(value: Steps) -> tuple[Table, Table]:
    """A row for each command, and one for each pointer."""
    steps: list[dict[str, Cell]] = [
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
    found: list[dict[str, Cell]] = [
        {"from": p.source, "to": p.target, "as": p.role, "bytes": p.bytes} for p in value.pointers
    ]
    title, units = "What each command adds to the layout", {"bytes": "bytes"}
    whom = "Who points to whom in the end: layout above, bundle below"
    return Table.of("steps", title, steps, units=units), Table.of(
        "pointers", whom, found, units=units
    )


def _step(work: Path, name: str) -> UmociStep:
    layout, (command, purpose) = work / LAYOUT, STEPS[name]
    before = store.blobs(layout)
    run.run(shlex.split(command), cwd=work)
    roles: dict[str, str] = {}
    for each in store.tags(layout):
        tag = store.tag(layout, each)
        roles |= {tag.manifest: "manifest", tag.config: "configuration"}
        roles |= dict.fromkeys(tag.layers, "layer")
    added = [
        Blob(digest=digest, role=roles.get(digest, "blob"), bytes=size)
        for digest, size in store.blobs(layout).items()
        if digest not in before
    ]
    return UmociStep(
        name=name,
        command=command,
        purpose=purpose,
        added=tuple(sorted(added, key=lambda blob: blob.role, reverse=True)),
        tags=tuple(sorted(store.tags(layout))),
    )


def _put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def _contents(work: Path) -> str:
    """The names of the files in each layer of the first tag."""
    layout, found = work / LAYOUT, []
    for digest in store.tag(layout, "first").layers:
        with tarfile.open(store.blob(layout, digest)) as archive:
            found.append(
                ", ".join(sorted(m.name.removeprefix("./") for m in archive if m.isfile()))
            )
    return "; ".join(found)


def _checks(
    work: Path, value: Steps, empty: Bundle, second: Bundle, layers: str
) -> tuple[Check, ...]:
    """Whether each command made what umoci's manual says. Reads layout and bundles."""
    layout = work / LAYOUT
    first, other = store.tag(layout, "first"), store.tag(layout, "second")
    made = {
        step.name: ", ".join(blob.role for blob in step.added) or NO_BLOB for step in value.steps
    }
    wrong = [d for d in store.blobs(layout) if store.content_digest(store.blob(layout, d)) != d]
    named = "each blob is named by its hash"
    shared = "the second tag stands on the first's layer"
    mtree = f"{second.manifest.replace(':', '_')}.mtree"
    path = f"PATH={ENVIRONMENT['PATH']}"
    seen = next((word for word in second.env if word.startswith("PATH=")), "no PATH")
    put = ", ".join(sorted(CONTENT))
    found = (
        ("init", NO_BLOB, made["init"], "E2"),
        ("new", "manifest, configuration", made["new"], "E2"),
        ("repack", "manifest, layer, configuration", made["repack"], "E2"),
        ("config", "manifest, configuration", made["config"], "E2 I5"),
        ("names", named, f"not so: {', '.join(wrong)}" if wrong else named, "R1"),
        ("shared", f"{shared} {store.short(first.layers[0])}", f"{shared} {store.short(other.layers[0])}", "R1"),
        ("bundle", ", ".join(sorted(("config.json", "rootfs", "umoci.json", mtree))), ", ".join(second.files), "E2 R1"),
        ("empty", NO_FILE, ", ".join(empty.content) or NO_FILE, "R1"),
        ("points", first.manifest, second.manifest, "R1"),
        ("snapshot", empty.manifest, read_bundle(work / BUNDLE).manifest, "R1"),
        ("layer", put, layers, "E2 R1"),
        ("rootfs", put, ", ".join(second.content), "E2 R1"),
        ("runtime", f"args {' '.join(COMMAND)}, {path}", f"args {' '.join(second.args)}, {seen}", "I5 I4"),
    )  # fmt: skip
    return tuple(
        equal(f"image.steps.{name}", expected, was, rows=rows.split())
        for name, expected, was, rows in found
    )


def read_bundle(folder: Path) -> Bundle:
    """The bundle in a folder."""
    root = folder / "rootfs"
    try:
        said = reading.json_of(folder / "umoci.json")
        process = reading.json_of(folder / "config.json")["process"]
        return Bundle(
            files=tuple(sorted(path.name for path in folder.iterdir())),
            manifest=said["from_descriptor_path"]["descriptor_walk"][-1]["digest"],
            args=tuple(process.get("args") or ()),
            env=tuple(process.get("env") or ()),
            content=tuple(sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise reading.damaged(
            folder, error, "run it again: the bundle is made anew each time"
        ) from None


def pointers(layout: Path, folder: Path, name: str) -> Iterator[Pointer]:
    """The pointers in a layout, and then those of the bundle that was unpacked from its tag ``name``."""
    sizes = store.blobs(layout)
    for each in sorted(store.tags(layout)):
        tag = store.tag(layout, each)
        manifest = f"manifest {store.short(tag.manifest)}"
        yield _pointer("index.json", manifest, f"tag {each}", sizes[tag.manifest])
        for role, digest in [("configuration", tag.config), *(("layer", d) for d in tag.layers)]:
            yield _pointer(manifest, f"{role} {store.short(digest)}", role, sizes[digest])
    bundle, first = read_bundle(folder), store.tag(layout, name)
    manifest = f"manifest {store.short(bundle.manifest)}"
    config = f"configuration {store.short(first.config)}"
    mtree = next(file for file in bundle.files if file.endswith(".mtree"))
    for file, label, target, role in (
        ("umoci.json", "umoci.json", manifest, "names"),
        (mtree, "*.mtree", manifest, "named after; lists rootfs as it was unpacked"),
        ("config.json", "config.json", config, "made from"),
    ):
        yield _pointer(f"bundle: {label}", target, role, (folder / file).stat().st_size)
    weight = sum(p.stat().st_size for p in (folder / "rootfs").rglob("*") if p.is_file())
    for digest in first.layers:
        yield _pointer("bundle: rootfs", f"layer {store.short(digest)}", "unpacked from", weight)


def _pointer(source: str, target: str, role: str, size: int) -> Pointer:
    return Pointer(source=source, target=target, role=role, bytes=size)
