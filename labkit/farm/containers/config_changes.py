"""A replica's ``config.json``: the image's own, what labkit made of it, and what became of that.

Nothing here is taken from what labkit meant to write. Both configurations are read from the disk:
umoci's file, and the one in the bundle that runC says it runs; the terminal, the variables and the
command line are those of the running process.
"""

from __future__ import annotations

import json
from pathlib import Path

from labkit import reading
from labkit.checks import Check, equal
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.farm.containers import bundle, container, lab_namespaces, overlay, replica_files, runc
from labkit.farm.containers.bundle import Change, Json
from labkit.farm.containers.runc import Process, State
from labkit.farm.images import actions as image
from labkit.farm.images import origin, store
from labkit.farm.images.origin import Origin
from labkit.farm.images.unpacking import Unpacked
from labkit.model.lab import Lab, Replica
from labkit.records import Record

#: How much of a value the table of changes shows.
SHOWN = 160


class Configuration(Record):
    """The changes from the image's configuration to a container's, also as a unified diff; the
    container's first process as the kernel shows it, and what it stands on."""

    changes: tuple[Change, ...]
    diff: str
    process: Process
    origin: Origin


@action("container.configuration")
def configuration(lab: Lab) -> Outcome[Configuration]:
    """The first replica's container runs, and every change that it took to make the image's runtime
    configuration into its own is told.

    It is the farm's own container, started in its namespace if it does not run yet, and stays.
    """
    replica = lab.farm[0]
    unpacked = image.unpacked(lab, replica.site)
    with lock(lab.run_dir, "farm"):
        started = _start(lab, replica, unpacked)
        state = runc.states(lab)[replica.name]
        if not state.pid:
            raise container.death(lab, replica.name)
        seen = runc.first_process(state.pid)
        layout = image.read(lab).layout
        scratch = runc.folder(lab, replica.name) / "origin.json"
        lower = overlay.lower(
            lab, unpacked, replica_files.replica_files(lab, replica_files.keys(lab))
        )
        stands = origin.look(layout, unpacked, lower, state.pid, scratch)
        before, after = _read(unpacked.config), _read(Path(state.bundle) / "config.json")
        path = _image_path(layout, replica.site)
    found = bundle.changes(before, after)
    value = Configuration(
        changes=found, diff=bundle.diff(before, after), process=seen, origin=stands
    )
    return Outcome(
        value=value,
        subject=replica.name,
        changed=started,
        summary=f"{counted(len(found), 'value')} of config.json changed between the image and the bundle that "
        f"runC runs as process {seen.pid}; it holds {seen.held}.",
        checks=(
            *checks(lab, state, after, seen, path=path),
            _explained(value, state),
            *origin.checks(layout, stands),
        ),
        tables=(_table(replica, value), _diff_table(value), origin.table(stands)),
    )


def checks(lab: Lab, state: State, config: Json, seen: Process, *, path: str) -> tuple[Check, ...]:
    """Whether runC runs the container's own bundle, and its process has what ``config`` says, no
    terminal, and ``path``, the search path in the image's configuration. Pure."""
    said = f"terminal: {json.dumps(config['process']['terminal'])}"
    return (
        equal("container.bundle", str(runc.bundle(lab, state.id)), state.bundle, rows=("I5",),
              again=f"runc --root {runc.root(lab)} state {state.id}"),
        equal("container.process", " ".join(config["process"]["args"]), " ".join(seen.command),
              rows=("R8",), again=f"tr '\\0' ' ' </proc/{seen.pid}/cmdline"),
        Check(name="container.terminal", expected="terminal: false; the process holds no terminal",
              seen=f"{said}; the process holds {seen.held} (standard input: {seen.streams[0]})",
              holds=config["process"]["terminal"] is False and seen.held == "no terminal",
              rows=("R5", "R8"), again=f"ls -l /proc/{seen.pid}/fd"),
        Check(name="container.path", expected="the process has the PATH of the image's configuration",
              seen=_paths(path, seen), holds=bool(path) and seen.environment.get("PATH") == path,
              rows=("I4",), again=f"tr '\\0' '\\n' </proc/{seen.pid}/environ | grep PATH="),
    )  # fmt: skip


def _paths(path: str, seen: Process) -> str:
    """Both search paths; one when they are the same."""
    own = seen.environment.get("PATH")
    said = f"PATH={own}" if own is not None else "no PATH"
    return said if own == path else f"{said}, and the image {f'PATH={path}' if path else 'none'}"


def _start(lab: Lab, replica: Replica, unpacked: Unpacked) -> bool:
    """The replica's container runs on a bundle that stands; whether anything had to be made."""
    made = lab_namespaces.replica_namespace(lab, replica)
    spec = container.replica_spec(lab, replica)
    made = (
        container.prepare(
            lab, spec, unpacked, replica_files.replica_files(lab, replica_files.keys(lab))
        )
        or made
    )
    state = runc.states(lab).get(replica.name)
    if made or state is None or state.status != "running":
        container.create(lab, replica.name)
        container.begin(lab, replica.name)
        return True
    return False


def _explained(value: Configuration, state: State) -> Check:
    """Whether labkit has a reason for every value that differs."""
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
    rows: list[dict[str, Cell]] = [
        {"key": c.key, "image": _short(c.before), "container": _short(c.after), "why": c.reason}
        for c in value.changes
    ]
    return Table.of("changes", f"config.json of {replica.name}: every change", rows)


def _diff_table(value: Configuration) -> Table:
    rows = [{"line": indented(line)} for line in value.diff.split("\n")]
    return Table.of("diff", "The same as a unified diff of the two files", rows)


def indented(line: str) -> str:
    """A line of a diff whose indentation a table's cell keeps: behind the mark, no-break spaces. Pure."""
    mark, rest = (line[:1], line[1:]) if line[:1] in ("+", "-", " ") else ("", line)
    bare = rest.lstrip(" ")
    return (mark + " " * (len(rest) - len(bare))).replace(" ", "\u00a0") + bare


def _image_path(layout: Path, tag: str) -> str:
    """The search path in the image's own configuration, '' when it has none."""
    found = store.config(layout, store.tag(layout, tag).config).env
    return next((v.removeprefix("PATH=") for v in found if v.startswith("PATH=")), "")


def _read(path: Path) -> Json:
    return reading.json_object(path, "`labkit apply` writes a container's configuration anew")


def _short(value: str) -> str:
    return value if len(value) <= SHOWN else f"{value[: SHOWN - 1]}…"
