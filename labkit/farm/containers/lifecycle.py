"""How runC starts, shows and limits containers: each function asks one question of the assignment, by experiment.

The experiments, these and the confinement's, are made on trial containers, which are removed afterwards.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from labkit.checks import Check, equal
from labkit.core import run
from labkit.core.daemon import tail
from labkit.core.files import write_atomically
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted, human_bytes
from labkit.errors import ConfigError
from labkit.farm.containers import bundle, container, overlay, runc, written
from labkit.farm.containers.bundle import LIMITS, Limit, Spec
from labkit.farm.containers.overlay import Wanted
from labkit.farm.images import layout as images
from labkit.kernel import cgroups, proc
from labkit.model.lab import Lab
from labkit.records import Record

#: The image that trial containers stand on: the root file system without the web servers.
TAG = "base"
#: The most containers to be started from one terminal, and the most minutes for them to wait.
MOST = 60


class Start(Record):
    """One way to start a container: how many seconds runC held its caller, and its exit status; then the
    container's status, its process's terminal in words, and runC's last line."""

    seconds: float
    exit: int
    status: str
    terminal: str
    said: str


class Modes(Record):
    """The ways to start a container; with ``terminal: true`` and detached, runC refuses, or a program takes the
    terminal over."""

    foreground: Start
    detached: Start
    refused: Start
    taken: Start


class Instances(Record):
    """Containers started one after the other: process ids and process namespaces (inodes) by name, and how many
    seconds runC took."""

    pids: dict[str, int]
    namespaces: dict[str, int]
    seconds: float


class Listing(Record):
    """The output of a program that only lists a folder: in the foreground, and detached in the file for its output;
    the container's status after that, and runC's answer to ``exec``."""

    foreground: str
    detached: str
    status: str
    answer: str


class Groups(Record):
    """Control groups: the hierarchies mounted ('cgroup2' or a v1 controller), a container's
    groups, and its limits as the kernel has them ('' when it shows none): bytes, processes, and
    microseconds of processor time in each :data:`labkit.farm.containers.bundle.PERIOD`."""

    layout: str
    hierarchies: tuple[str, ...]
    own: tuple[str, ...]
    memory: str
    processes: str
    time: str = ""


# -- trial containers ----------------------------------------------------------------------------


def trial(lab: Lab, name: str, *args: str, terminal: bool = False) -> Spec:
    """A trial container in a new network namespace, which runs ``args`` as root without a capability."""
    group = f"{runc.cgroup(lab)}/{name}"
    return Spec(name=name, args=args, environment={}, cgroup=group, terminal=terminal, sysctl={})


@contextmanager
def prepared(lab: Lab, *specs: Spec) -> Iterator[None]:
    """Makes the bundles of trial containers, and removes containers, mounts and folders after the block.

    The caller holds the lab's ``farm`` lock.
    """
    cgroups.require()
    unpacked = images.unpacked(lab, TAG)
    try:
        overlay.prepare(lab, [Wanted(item, unpacked) for item in specs])
        yield
    finally:
        for item in specs:
            container.remove(lab, item.name)


def edit(lab: Lab, name: str, part: str, **values: object) -> None:
    """Gives the prepared container's config.json other values in its ``part`` (``process``)."""
    folder = runc.bundle(lab, name)
    config = dict(runc.config(folder))
    write_atomically(
        folder / "config.json", bundle.text({**config, part: {**config[part], **values}})
    )


def foreground(lab: Lab, name: str, timeout: float = 30.0) -> run.Done:
    """Runs the container by ``runc run`` until it ends, with any exit status."""
    container.intend(lab, [name])
    return run.run(container.command(lab, name, "run"), ok=range(-64, 256), timeout=timeout)


def detached(lab: Lab, name: str, *options: str | Path) -> run.Done:
    """Runs the container by ``runc run --detach``, with any exit status.

    What runC and the container's process say goes to :func:`labkit.farm.containers.written.console`.
    """
    container.intend(lab, [name])
    words, output = (
        container.command(lab, name, "run", "--detach", *options),
        written.console(lab, name),
    )
    return run.run(words, ok=range(-64, 256), timeout=30.0, output=output)


@contextmanager
def taken_terminal(lab: Lab, name: str) -> Iterator[Path]:
    """A socket for ``runc run --console-socket``, to which runC hands the container's terminal.

    It is held while the block runs and hung up with the block's end (runC, docs/terminals.md).
    """
    path = lab.run_dir / f"{name}.socket"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as holder:
        holder.bind(str(path))
        holder.listen(1)
        try:
            yield path
        finally:
            path.unlink()


# -- the questions -------------------------------------------------------------------------------


@action("container.modes")
def start_modes(lab: Lab) -> Outcome[Modes]:
    """Starts a container in the foreground and detached, and detached with ``terminal: true``.

    >>> containers.start_modes(lab).value.refused.said  # doctest: +SKIP
    'cannot allocate tty if runc will detach without setting console socket'
    """
    short = trial(lab, "trial-foreground", "sleep", "1")
    long = trial(lab, "trial-detached", "sleep", "300")
    wrong = trial(lab, "trial-terminal", "sleep", "300", terminal=True)
    held = trial(lab, "trial-taken", "sleep", "300", terminal=True)
    with lock(lab.run_dir, "farm"), prepared(lab, short, long, wrong, held):
        front = _start(lab, short, foreground(lab, short.name))
        back = _start(lab, long, detached(lab, long.name))
        refused = _start(lab, wrong, detached(lab, wrong.name))
        with taken_terminal(lab, held.name) as taker:
            taken = _start(lab, held, detached(lab, held.name, "--console-socket", taker))
    value = Modes(foreground=front, detached=back, refused=refused, taken=taken)
    return Outcome(
        value=value,
        subject="trial containers",
        summary=(
            f"In the foreground runC held the terminal for {front.seconds:.2f} s, detached for "
            f"{back.seconds:.2f} s; detached with terminal: true it ended with status "
            f"{refused.exit}: {refused.said}."
        ),
        checks=mode_checks(value),
        tables=(_mode_table(value),),
    )


def _start(lab: Lab, spec: Spec, done: run.Done) -> Start:
    """The result, just after runC gave the terminal back to its caller."""
    state = runc.states(lab).get(spec.name)
    running = state is not None and state.status == "running"
    log = written.console(lab, spec.name)
    return Start(
        seconds=round(done.seconds, 3),
        exit=done.status,
        status=state.status if state else "gone",
        terminal=runc.first_process(state.pid).held if state and running else "",
        said=last_line(done.stderr or written.end(log)),
    )


def mode_checks(value: Modes) -> tuple[Check, ...]:
    """Whether each way to start a container ended as the assignment says. Pure."""
    front, back, taken = value.foreground, value.detached, value.taken
    words = "runc run --detach --bundle BUNDLE NAME"
    return (
        Check(name="container.foreground", expected="exit status 0 when the process ends, after 1 s",
              seen=f"exit status {front.exit} after {front.seconds:.2f} s",
              holds=front.exit == 0 and front.seconds >= 1.0,
              rows=("R6",), again="runc run --bundle BUNDLE NAME"),
        Check(name="container.detached", expected="returns before the process ends (300 s)",
              seen=f"exit status {back.exit} after {back.seconds:.2f} s; container {back.status}",
              holds=back.exit == 0 and back.status == "running", rows=("R6",),
              again=f"{words}; runc list"),
        equal("container.detached-terminal", "no terminal", back.terminal or f"gone: {back.said}",
              rows=("R5",), again=f"{words}; ls -l /proc/PID/fd"),
        Check(name="container.terminal-refused", expected="runC refuses and names the terminal",
              seen=f"exit status {value.refused.exit}: {value.refused.said}",
              holds=value.refused.exit != 0 and "tty" in value.refused.said, rows=("R5",),
              again=f"{words}  # with terminal: true"),
        Check(name="container.terminal-taken", expected="the detached process holds a terminal",
              seen=f"it holds {taken.terminal}" if taken.terminal else taken.said,
              holds=taken.terminal.startswith("terminal "), rows=("R5",),
              again="runc run --detach --console-socket SOCKET --bundle BUNDLE NAME"),
    )  # fmt: skip


def _mode_table(value: Modes) -> Table:
    named = {
        "foreground, sleep 1": value.foreground,
        "detached, sleep 300": value.detached,
        "detached with terminal: true": value.refused,
        "the same, and a program takes the terminal over": value.taken,
    }
    rows: list[dict[str, Cell]] = [
        {
            "start": name,
            "runC returned after": start.seconds,
            "exit status": start.exit,
            "container then": start.status,
            "its process holds": start.terminal or "–",
            "runC said": start.said or "–",
        }
        for name, start in named.items()
    ]
    units = {"runC returned after": "s"}
    return Table.of("modes", "Starting a container", rows, units=units)


def _require_number(name: str, value: object) -> None:
    if type(value) is not int or not 1 <= value <= MOST:
        reason = f"is not a whole number from 1 to {MOST}"
        raise ConfigError(f"{name} = {value!r}", reason, "correct this value", code="config.number")


@action("container.instances")
def instances(lab: Lab, count: int = 6, minutes: int = 5) -> Outcome[Instances]:
    """Starts ``count`` containers of one image from one terminal, each of which waits ``minutes``.

    Neither is more than :data:`MOST`; raises :class:`ConfigError` otherwise, before anything is made.

    >>> len(containers.instances(lab, 6).value.pids)  # doctest: +SKIP
    6
    """
    _require_number("instances", count)
    _require_number("minutes", minutes)
    wait = ("sleep", str(60 * minutes))
    specs = [trial(lab, f"wait-{n}", *wait) for n in range(1, count + 1)]
    names = [item.name for item in specs]
    seconds = 0.0
    with lock(lab.run_dir, "farm"), prepared(lab, *specs):
        for name in names:
            seconds += container.create(lab, name).seconds + container.begin(lab, name).seconds
        states = runc.states(lab)
        running = [name for name in names if states[name].status == "running"]
        first = {name: runc.first_process(states[name].pid) for name in running}
        value = Instances(
            pids={name: item.pid for name, item in first.items()},
            namespaces={name: _namespace(item.pid) for name, item in first.items()},
            seconds=round(seconds, 3),
        )
        rows: list[dict[str, Cell]] = [
            {
                "container": name, "process": str(item.pid), "status": states[name].status,
                "process namespace": f"pid:[{value.namespaces[name]}]",
                "processes in it": _processes(lab, name), "command": " ".join(item.command),
            }
            for name, item in first.items()
        ]  # fmt: skip
    apart = len(set(value.namespaces.values()) - {_namespace(os.getpid())})
    commands = {str(row["command"]) for row in rows}
    again = f"runc --root {runc.root(lab)} list"
    return Outcome(
        value=value,
        subject="trial containers",
        summary=f"{counted(len(running), 'container')} waited at once, in {counted(apart, 'process namespace')}; "
        f"starting them took {seconds:.2f} s.",
        checks=(
            equal("container.instances", f"{count} running: {' '.join(wait)}",
                  f"{len(running)} running: {', '.join(sorted(commands))}", rows=("R7",), again=again),
            equal("container.apart", f"{counted(count, 'process namespace')}, one process in each",
                  f"{counted(apart, 'process namespace')}, {_each(rows)} in each", rows=("R8",),
                  again="readlink /proc/PID/ns/pid"),
        ),
        tables=(Table.of("instances", "Instances started from one terminal", rows),),
    )  # fmt: skip


@action("container.listing")
def listing(lab: Lab) -> Outcome[Listing]:
    """Starts a container that only lists a folder, in the foreground and in the background."""
    front, back = (trial(lab, f"trial-ls-{n}", "ls", "/") for n in ("front", "back"))
    with lock(lab.run_dir, "farm"), prepared(lab, front, back):
        done = foreground(lab, front.name)
        shown = " ".join(done.stdout.split())
        detached(lab, back.name)
        container.wait(lab, back.name)
        state = runc.states(lab)[back.name]
        kept = " ".join(tail(written.console(lab, back.name)).split())
        late = run.run(runc.command(lab, "exec", back.name, "ls", "/"), ok=range(256))
    answer = last_line(late.stderr) if late.status else last_line(late.stdout)
    value = Listing(foreground=shown, detached=kept, status=state.status, answer=answer)
    return Outcome(
        value=value,
        subject="trial containers",
        summary=f"In the background the container of `ls` was {state.status} when it was looked at; "
        f"to `runc exec` runC answered: {answer}.",
        checks=(
            Check(name="container.listing.foreground", expected="the folder's names on the terminal",
                  seen=shown or last_line(done.stderr),
                  holds="etc" in shown.split() and done.status == 0, rows=("R9",),
                  again="runc run --bundle BUNDLE NAME  # args: ls /"),
            Check(name="container.listing.detached",
                  expected="the same names in the file that the output was sent to", seen=kept,
                  holds=kept == shown, rows=("R9",),
                  again=f"cat {written.console(lab, back.name)}  # while it is there"),
            Check(name="container.listing.ended",
                  expected="nothing is left to look into: stopped, and runC refuses exec",
                  seen=f"{state.status}; {answer}",
                  holds=state.status == "stopped" and late.status != 0, rows=("R9",),
                  again="runc run --detach --bundle BUNDLE NAME; runc list; runc exec NAME ls /"),
        ),
    )  # fmt: skip


@action("container.pathless")
def without_path(lab: Lab) -> Outcome[str]:
    """Starts a container whose configuration has no PATH; the value is runC's answer."""
    item = trial(lab, "trial-path", "sleep", "1")
    with lock(lab.run_dir, "farm"), prepared(lab, item):
        edit(lab, item.name, "process", env=["TERM=xterm"])
        done = foreground(lab, item.name)
    answer = last_line(done.stderr)
    return Outcome(
        value=answer,
        subject=item.name,
        summary=f"Without PATH in config.json runC ended with status {done.status}: {answer}.",
        checks=(
            Check(name="container.pathless", expected="runC does not find `sleep`",
                  seen=f"exit status {done.status}: {answer}",
                  holds=done.status != 0 and "sleep" in answer and "PATH" in answer, rows=("I4",),
                  again="runc run --bundle BUNDLE NAME  # env without PATH"),
        ),
    )  # fmt: skip


def _namespace(pid: int) -> int:
    """The inode that identifies a process' namespace of process ids."""
    return Path(f"/proc/{pid}/ns/pid").stat().st_ino


def _processes(lab: Lab, name: str) -> int:
    """The number of the container's processes (``runc ps``, a JSON list of process ids)."""
    return len(json.loads(run.run(runc.command(lab, "ps", "--format", "json", name)).stdout))


def _each(rows: list[dict[str, Cell]]) -> str:
    counts = {row["processes in it"] for row in rows}
    return "one process" if counts == {1} else f"{sorted(map(str, counts))} processes"


def last_line(text: str) -> str:
    """The last line of runC's output ('' for none), without the time and level of its log format. Pure."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    message = re.search(r'msg="((?:[^"\\]|\\.)*)"', lines[-1])
    return message[1].replace('\\"', '"') if message else lines[-1].strip()


@action("container.cgroups")
def control_groups(lab: Lab) -> Outcome[Groups]:
    """Starts a container and reads its control groups, and its limits from the kernel."""
    item = trial(lab, "trial-cgroup", "sleep", "300")
    mounted = hierarchies(proc.mountinfo())
    with lock(lab.run_dir, "farm"), prepared(lab, item):
        container.create(lab, item.name)
        container.begin(lab, item.name)
        pid = runc.states(lab)[item.name].pid
        own = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
        places = {limit.name: place(own, mounted, limit) for limit in LIMITS}
        files = {name: file for name, (_, file) in places.items()}
        values = {
            name: file.read_text(encoding="utf-8").split()[0] if file.exists() else ""
            for name, file in files.items()
        }
    memory, processes, time = values["memory"], values["pids"], values["processors"]
    value = Groups(
        layout=layout(mounted), hierarchies=tuple(mounted), own=tuple(own.split()),
        memory=memory, processes=processes, time=time,
    )  # fmt: skip
    joined = {group for group, _ in places.values()}
    share = (
        f"{int(time) / bundle.PERIOD:g} s of processor time a second"
        if time.isdigit()
        else "all processor time"
    )
    return Outcome(
        value=value,
        subject=item.name,
        summary=f"Control groups are mounted ({value.layout}); the container's limits in them: "
        f"{human_bytes(int(memory)) if memory.isdigit() else 'all'} of memory, "
        f"{processes or 'any number of'} processes, {share}.",
        checks=(
            Check(name="container.cgroups", expected="control groups are mounted",
                  seen=", ".join(mounted) or "none: install cgroupfs-mount and run it",
                  holds=bool(mounted), rows=("I3",), again="grep cgroup /proc/mounts"),
            equal("container.cgroup", item.cgroup, ", ".join(sorted(joined)), rows=("I3",),
                  again="cat /proc/PID/cgroup"),
            *_limit_checks(item, values, files),
        ),
        tables=(Table.of("cgroups", "The container's control groups (/proc/PID/cgroup)",
                         [{"group": line} for line in value.own]),),
    )  # fmt: skip


def _limit_checks(
    item: Spec, values: Mapping[str, str], files: Mapping[str, Path]
) -> Iterator[Check]:
    """Whether the kernel has each limit that it counts."""
    wanted = bundle.resources({}, item)
    for limit in LIMITS:
        number = bundle.in_kernel(limit, wanted)
        if number is not None:
            again = f"cat {files[limit.name]}"
            yield equal(limit.check, str(number), values[limit.name], rows=("I3",), again=again)


def hierarchies(mountinfo: str) -> dict[str, proc.Mount]:
    """The mounts of the control group hierarchies, 'cgroup2' or the v1 controllers, in mountinfo (proc(5)). Pure."""
    found: dict[str, proc.Mount] = {}
    for mount in proc.mounts(mountinfo):
        names = {"cgroup": mount.special, "cgroup2": ("cgroup2",)}.get(mount.kind, ())
        for name in names:
            if name not in ("rw", "ro", "xattr"):
                found.setdefault(name, mount)
    return found


def layout(hierarchies: Collection[str]) -> str:
    """v1, v2 or hybrid (both), as cgroups(7) names them; 'none' when nothing is mounted. Pure."""
    if not hierarchies:
        return "none"
    if "cgroup2" not in hierarchies:
        return "v1"
    return "v2" if len(hierarchies) == 1 else "hybrid"


def place(own: str, mounted: Mapping[str, proc.Mount], limit: Limit) -> tuple[str, Path]:
    """A process's control group of a limit's controller, and the file in which the kernel shows the limit. Pure.

    :param own: the lines of /proc/pid/cgroup (cgroups(7)). In a control group namespace they may count from another
        group than a hierarchy's mount begins at: the group is named from where its hierarchy is mounted.
    """
    lines = [line.split(":", 2)[1:] for line in own.splitlines()]
    groups = {name: path for names, path in lines for name in names.split(",")}
    alone = limit.controller in groups
    path = groups.get(limit.controller, groups.get("", ""))
    if mount := mounted.get(limit.controller if alone else "cgroup2"):
        path = path.removeprefix(mount.root.rstrip("/"))
    base = mount.place if mount else cgroups.BASE
    return path, Path(base, path.lstrip("/"), limit.files[not alone])
