"""Compares a running replica's config.json with its image's, and with the process: every change that labkit made.

Nothing here comes from what labkit meant to write. Both configurations are read from disk, umoci's file and the one in
the bundle that runC says it runs; terminal, variables and command line are those of the running process. And hashes say
whether the container runs on the image's own parts: an image layout names each blob by the hash of its content; the
kernel's list of mounts names the folders of the container's layers; umoci gives the runtime configuration once more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.errors import CommandError
from labkit.farm.containers import bundle, container, lab_namespaces, overlay, runc
from labkit.farm.containers.bundle import Change, Json
from labkit.farm.containers.overlay import Wanted
from labkit.farm.containers.runc import Process, State
from labkit.farm.images import layout as images
from labkit.farm.images import store
from labkit.farm.images.unpacking import Unpacked
from labkit.kernel import proc
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: The most characters of a value in the table of changes.
SHOWN = 160


class HashedBlob(Record):
    """A blob of an image: its role, the hash that names it, the hash of its file's content ('' without a file); size
    in bytes."""

    role: str
    named: str
    found: str
    bytes: int

    @property
    def intact(self) -> bool:
        """Whether its content has the hash that names it."""
        return self.named == self.found


class Origin(Record):
    """The parts of an image's tag, and those that the container with first process ``pid`` runs on.

    ``wanted`` and ``mounted`` are overlay folders, the topmost first: of the lab's files and the tag's
    layers, and those of the container's root as mounted. ``made`` is the hash of the runtime configuration
    that umoci gives now, or its last words when it refuses; ``used`` the hash of the file that the bundle was
    made from.
    """

    tag: str
    pid: int
    blobs: tuple[HashedBlob, ...]
    wanted: tuple[str, ...]
    mounted: tuple[str, ...]
    made: str
    used: str


class Configuration(Record):
    """The changes from the image's configuration to a container's, also as a unified diff; the container's first
    process as the kernel shows it, and the image's parts that it runs on."""

    changes: tuple[Change, ...]
    diff: str
    process: Process
    origin: Origin


@action("container.configuration")
def configuration(lab: Lab) -> Outcome[Configuration]:
    """Compares the first replica's config.json with its image's, value by value.

    The replica's container is started if it does not run, and stays. Checks that runC runs that bundle, that labkit has
    a reason for each change, and that image, layers and configuration have the hashes that name them.

    >>> containers.configuration(lab).frames["changes"]  # doctest: +SKIP
    """
    replica = lab.farm[0]
    unpacked = images.unpacked(lab, replica.site)
    with lock(lab.run_dir, "farm"):
        files = container.replica_files(lab, container.keys(lab))
        started = lab_namespaces.replica_namespace(lab, replica)
        spec = container.replica_spec(lab, replica)
        started = bool(overlay.prepare(lab, [Wanted(spec, unpacked, files)])) or started
        known = runc.state(lab, replica.name)
        if started := started or known is None or known.status != "running":
            container.create(lab, replica.name)
            container.begin(lab, replica.name)
        state = runc.states(lab)[replica.name]
        if not state.pid:
            raise container.death(lab, replica.name)
        process = runc.first_process(state.pid)
        layout = images.read(lab).layout
        scratch = runc.folder(lab, replica.name) / "origin.json"
        found = origin(layout, unpacked, overlay.lower(lab, unpacked, files), state.pid, scratch)
        before, after = overlay.image_configuration(unpacked), runc.config(Path(state.bundle))
        env = store.config(layout, store.tag(layout, replica.site).config).env
    path = next((v.removeprefix("PATH=") for v in env if v.startswith("PATH=")), "")
    changes = bundle.changes(before, after)
    value = Configuration(
        changes=changes, diff=bundle.diff(before, after), process=process, origin=found
    )
    return Outcome(
        value=value,
        subject=replica.name,
        changed=started,
        summary=f"{counted(len(changes), 'value')} of config.json changed between the image and the bundle that "
        f"runC runs as process {process.pid}; it holds {process.held}.",
        checks=(
            *checks(lab, state, after, process, path=path),
            _explained(value, state),
            *origin_checks(layout, found),
        ),
        tables=(_table(replica, value), _diff_table(value), origin_table(found)),
    )


def checks(
    lab: Lab, state: State, config: Json, process: Process, *, path: str
) -> tuple[Check, ...]:
    """Whether runC runs the container's bundle, and its process has the command of ``config``, no terminal, and
    ``path``, the search path of the image's configuration. Pure."""
    said = f"terminal: {json.dumps(config['process']['terminal'])}"
    own = process.environment.get("PATH")
    paths = f"PATH={own}" if own is not None else "no PATH"
    if own != path:
        paths += f", and the image {f'PATH={path}' if path else 'none'}"
    return (
        equal("container.bundle", str(runc.bundle(lab, state.id)), state.bundle, rows=("I5",),
              again=f"runc --root {runc.root(lab)} state {state.id}"),
        equal("container.process", " ".join(config["process"]["args"]), " ".join(process.command),
              rows=("R8",), again=f"tr '\\0' ' ' </proc/{process.pid}/cmdline"),
        Check(name="container.terminal", expected="terminal: false; the process holds no terminal",
              seen=f"{said}; the process holds {process.held} (standard input: {process.streams[0]})",
              holds=config["process"]["terminal"] is False and process.held == "no terminal",
              rows=("R5", "R8"), again=f"ls -l /proc/{process.pid}/fd"),
        Check(name="container.path", expected="the process has the PATH of the image's configuration",
              seen=paths, holds=bool(path) and own == path,
              rows=("I4",), again=f"tr '\\0' '\\n' </proc/{process.pid}/environ | grep PATH="),
    )  # fmt: skip


def _explained(value: Configuration, state: State) -> Check:
    """Whether labkit has a reason for every changed value."""
    strange = [change.key for change in value.changes if not change.reason]
    expected = f"a reason for each of {counted(len(value.changes), 'changed value')}"
    return Check(
        name="container.changes",
        expected=expected,
        seen=f"none for {', '.join(strange)}" if strange else expected,
        holds=bool(value.changes) and not strange,
        rows=("R8",),
        again=f"cat {state.bundle}/config.json",
    )


def _table(replica: Replica, value: Configuration) -> Table:
    def short(text: str) -> str:
        return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"

    rows: list[dict[str, Cell]] = [
        {"key": c.key, "image": short(c.before), "container": short(c.after), "why": c.reason}
        for c in value.changes
    ]
    return Table.of("changes", f"config.json of {replica.name}: every change", rows)


def _diff_table(value: Configuration) -> Table:
    rows = [{"line": indented(line)} for line in value.diff.split("\n")]
    return Table.of("diff", "The same as a unified diff of the two files", rows)


def indented(line: str) -> str:
    """A line of a diff with no-break spaces as its indentation, which a table's cell keeps. Pure."""
    mark, rest = (line[:1], line[1:]) if line[:1] in ("+", "-", " ") else ("", line)
    bare = rest.lstrip(" ")
    return (mark + " " * (len(rest) - len(bare))).replace(" ", "\u00a0") + bare


def origin(
    layout: Path, unpacked: Unpacked, lower: Sequence[Path], pid: int, scratch: Path
) -> Origin:
    """Hashes the parts of an image and those of the container whose first process is ``pid``.

    :param lower: the folders of which the container's root must consist, the topmost first.
    :param scratch: a file that may be written, and is removed.
    """
    tag = store.tag(layout, unpacked.tag)
    parts = [("manifest", tag.manifest), ("configuration", tag.config)]
    parts += [(f"layer {number}", digest) for number, digest in enumerate(tag.layers, 1)]
    try:
        mounted = lower_folders(proc.mountinfo(pid))
    except (FileNotFoundError, ProcessLookupError):
        raise runc.ended(pid) from None
    words = ["umoci", "raw", "runtime-config", "--image", f"{layout}:{unpacked.tag}"]
    try:
        run.run([*words, "--rootfs", unpacked.lower[-1], scratch])
        made = store.content_digest(scratch)
    except CommandError as error:
        made = error.stderr.strip().rpartition("\n")[2] or error.reason
    finally:
        scratch.unlink(missing_ok=True)
    return Origin(
        tag=unpacked.tag,
        pid=pid,
        blobs=tuple(_blob(layout, role, digest) for role, digest in parts),
        wanted=tuple(map(str, lower)),
        mounted=mounted,
        made=made,
        used=store.content_digest(unpacked.config),
    )


def lower_folders(mountinfo: str) -> tuple[str, ...]:
    """The lower folders of the overlay that is mounted at ``/``, the topmost first (proc(5)). Pure."""
    for mount in proc.mounts(mountinfo):
        if mount.kind == "overlay" and mount.place == "/":
            values = dict(item.partition("=")[::2] for item in mount.special)
            return tuple(proc.plain(values.get("lowerdir", "")).split(":"))
    return ()


def _blob(layout: Path, role: str, digest: str) -> HashedBlob:
    path = store.blob(layout, digest)
    there = path.is_file()
    return HashedBlob(
        role=role,
        named=digest,
        found=store.content_digest(path) if there else "",
        bytes=path.stat().st_size if there else 0,
    )


def origin_checks(layout: Path, found: Origin) -> tuple[Check, ...]:
    """Whether image, root file system and configuration are the ones that the tag names. Pure."""
    made, used = (
        store.short(text) if text.startswith("sha256:") else text
        for text in (found.made, found.used)
    )
    blobs = counted(len(found.blobs), "blob")
    from_ = "what the bundle was made from"
    return (
        Check(
            name="container.source.blobs",
            expected=f"each of {blobs} of {found.tag} has the sha256 that names it",
            seen="; ".join(_altered(blob) for blob in found.blobs if not blob.intact)
            or f"sha256 of {blobs} computed anew: each as named",
            holds=all(blob.intact for blob in found.blobs),
            rows=("I5",),
            again=f"cd {layout}/blobs/sha256 && sha256sum *",
        ),
        Check(
            name="container.source.layers",
            expected=f"the root is an overlay of the lab's own files and {found.tag}'s layers: "
            f"{_folders(found.wanted)}",
            seen=_folders(found.mounted) or "no overlay",
            holds=found.mounted == found.wanted,
            rows=("I5",),
            again=f"grep overlay /proc/{found.pid}/mountinfo",
        ),
        equal(
            "container.source.configuration",
            f"{from_}: {used}",
            f"{from_ if found.made == found.used else 'umoci, asked again'}: {made}",
            rows=("I5",),
            again=f"cd {Path(found.wanted[-1]).parent} && umoci raw runtime-config "
            f"--image {layout}:{found.tag} --rootfs rootfs /dev/stdout | sha256sum",
        ),
    )


def origin_table(found: Origin) -> Table:
    """A row for each blob of the image: the hash that names it and the one made again."""
    rows: list[dict[str, Cell]] = [
        {
            "blob": blob.role,
            "named": store.short(blob.named),
            "hashed again": store.short(blob.found) or "missing",
            "size": blob.bytes,
        }
        for blob in found.blobs
    ]
    title = (
        f"The image {found.tag} that the container stands on (the first 12 digits of each sha256)"
    )
    return Table.of("origin", title, rows, units={"size": "bytes"})


def _altered(blob: HashedBlob) -> str:
    if not blob.found:
        return f"{blob.role} {store.short(blob.named)} is missing"
    return f"{blob.role} {store.short(blob.named)} holds something else: {store.short(blob.found)}"


def _folders(folders: tuple[str, ...]) -> str:
    """Overlay folders in short: a layer's is ``HASH/rootfs``, the lab's ``HASH``."""
    return " over ".join(Path(folder.removesuffix("/rootfs")).name for folder in folders)
