"""Calls runC on a lab's containers, and reads the state of containers and of their first processes.

runC has a folder for each container, with ``state.json`` (the first process) and, until the container is started,
``exec.fifo``; the kernel says whether the process lives (runC 1.0 to 1.2, libcontainer/container_linux.go).
``runc list`` reads the same files and takes as long as the start of a container. Where ``state.json`` has another
form than expected, runC itself is asked.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from labkit import cancellation, reading
from labkit.core import run
from labkit.errors import FarmError
from labkit.farm.containers.bundle import MADE_OF, Json
from labkit.kernel import proc
from labkit.model.lab import Lab
from labkit.records import Record

#: Where a control group says whether its processes are stopped, and the words for that: in version 1 (the
#: hierarchy's name in runC's list) and in version 2 (no name).
FREEZERS = (("freezer", "freezer.state", ("FROZEN", "FREEZING")), ("", "cgroup.freeze", ("1",)))
#: Seconds that runC may take between its own end and the start of the container's program.
PATIENCE = 5.0
#: The command line of a container's first process until it becomes the container's program.
INIT = ("runc", "init")
#: Major numbers of terminals: consoles and serial lines, /dev/tty and /dev/console, and
#: pseudo-terminals (Linux, Documentation/admin-guide/devices.txt).
TERMINALS = frozenset((4, 5, *range(136, 144)))


class State(Record):
    """A container as ``runc list`` shows it; ``pid`` is 0 once its first process has ended; ``made_of``
    is the fingerprint of the configuration that it was created with ('' for none)."""

    id: str
    pid: int
    status: str
    bundle: str
    made_of: str = ""


class Process(Record):
    """A process: ``streams`` names the files of its standard input, output and error ('' for a closed
    one); ``terminals`` are those of them that are a terminal; ``control`` says whether it has a
    controlling terminal."""

    pid: int
    command: tuple[str, ...]
    environment: dict[str, str]
    streams: tuple[str, str, str]
    terminals: tuple[str, ...]
    control: bool

    @property
    def held(self) -> str:
        """Its terminals in words."""
        if not (self.terminals or self.control):
            return "no terminal"
        return f"terminal {', '.join(dict.fromkeys(self.terminals)) or '(controlling)'}"


def folder(lab: Lab, name: str) -> Path:
    """The container's folder: bundle, writable layer, and the files that its processes write."""
    return lab.state_dir / "containers" / name


def bundle(lab: Lab, name: str) -> Path:
    """The folder that ``runc create --bundle`` is given."""
    return folder(lab, name) / "bundle"


def users_file(lab: Lab, name: str) -> Path:
    """The file on which the container's user namespace is mounted, if it has one."""
    return folder(lab, name) / "users"


def root(lab: Lab) -> Path:
    """The folder where runC keeps the state of this lab's containers."""
    return lab.run_dir / "runc"


def cgroup(lab: Lab) -> str:
    """The control group above those of the lab's containers."""
    return f"/labkit-{lab.name}"


def command(lab: Lab, *words: str | Path) -> list[str | Path]:
    """The argument list of a runC command on this lab's containers."""
    return ["runc", "--root", root(lab), *words]


def config(bundle: Path) -> Json:
    """The config.json in a bundle; raises :class:`StateError` when it is damaged."""
    remedy = "`labkit apply` writes a container's configuration anew"
    return reading.json_object(bundle / "config.json", remedy)


def states(lab: Lab) -> dict[str, State]:
    """The lab's containers by id, as runC knows them."""
    try:
        names = sorted(path.name for path in root(lab).iterdir())
    except FileNotFoundError:
        return {}
    return {name: known for name in names if (known := state(lab, name))}


def state(lab: Lab, name: str) -> State | None:
    """One container as runC knows it; None when runC does not know it."""
    place = f"{root(lab)}/{name}"
    try:
        return _state(place, reading.json_of(Path(place, "state.json")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return _asked(lab, name)


def _state(place: str, kept: Mapping[str, Any]) -> State:
    labels = dict(item.partition("=")[::2] for item in kept["config"]["labels"])
    pid = int(kept["init_process_pid"])
    status = "stopped"
    if proc.lives(pid, int(kept["init_process_start"])):
        started = not os.path.exists(f"{place}/exec.fifo")  # noqa: PTH110 - for each container, again and again
        status = "paused" if _frozen(kept["cgroup_paths"]) else "running"
        status = status if started else "created"
    return State(
        id=kept["id"],
        pid=0 if status == "stopped" else pid,
        status=status,
        bundle=labels["bundle"],
        made_of=labels.get(MADE_OF, ""),
    )


def _frozen(groups: Mapping[str, str]) -> bool:
    for hierarchy, name, words in FREEZERS:
        with (
            suppress(OSError, KeyError),
            open(f"{groups[hierarchy]}/{name}", encoding="utf-8") as file,  # noqa: PTH123 - as above
        ):
            if file.read().strip() in words:
                return True
    return False


def _asked(lab: Lab, name: str) -> State | None:
    """One container as runc-state(8) shows it."""
    done = run.run(command(lab, "state", name), ok=range(256), quiet=True)
    return parse_list(f"[{done.stdout}]")[0] if done.status == 0 else None


def parse_list(output: str) -> list[State]:
    """The containers in the output of ``runc list --format json`` (``null`` when there is none). Pure."""
    return [
        State(
            **{key: item[key] for key in ("id", "pid", "status", "bundle")},
            made_of=(item.get("annotations") or {}).get(MADE_OF, ""),
        )
        for item in reading.parsed(output) or []
    ]


def first_process(pid: int) -> Process:
    """The first process of a container, once it runs the container's program (proc(5)).

    Raises :class:`FarmError` when it has ended, or is still runC after :data:`PATIENCE` seconds.
    """
    try:
        argv = _argv(pid)
        streams = [_stream(pid, number) for number in range(3)]
        return Process(
            pid=pid,
            command=argv,
            environment=variables(_proc(pid, "environ")),
            streams=(streams[0][0], streams[1][0], streams[2][0]),
            terminals=tuple(name for name, terminal in streams if terminal),
            control=has_controlling_terminal(_proc(pid, "stat").decode(errors="replace")),
        )
    except (FileNotFoundError, ProcessLookupError):
        raise ended(pid, "its container's output says why") from None


def ended(pid: int, remedy: str = "") -> FarmError:
    """The error for a process that has ended before it was read."""
    return FarmError(
        f"process {pid}", "has ended", remedy, f"ps -fp {pid}", code="farm.process-ended"
    )


def words(text: bytes) -> tuple[str, ...]:
    """The words of /proc/pid/cmdline. Pure."""
    return tuple(text.decode(errors="replace").split("\0")[:-1])


def variables(text: bytes) -> dict[str, str]:
    """The variables of /proc/pid/environ. Pure."""
    pairs = (item.partition("=") for item in text.decode(errors="replace").split("\0") if item)
    return {name: value for name, _, value in pairs}


def has_controlling_terminal(text: str) -> bool:
    """Whether /proc/pid/stat has a controlling terminal (field 7, tty_nr). Pure."""
    return int(text.rpartition(")")[2].split()[proc.TERMINAL]) != 0


def _argv(pid: int) -> tuple[str, ...]:
    """The command line of a process; waits while the process is runC's, or has none yet."""
    deadline = time.monotonic() + PATIENCE
    while not (argv := words(_proc(pid, "cmdline"))) or argv[:2] == INIT:
        if not proc.lives(pid):
            raise ProcessLookupError(pid)
        if time.monotonic() > deadline:
            raise FarmError(
                f"process {pid}", "does not become the container's program", "", f"ps -fp {pid}",
                code="farm.process-stuck",
            )  # fmt: skip
        cancellation.pause(0.002)
    return argv


def _proc(pid: int, name: str) -> bytes:
    return Path("/proc", str(pid), name).read_bytes()


def _stream(pid: int, number: int) -> tuple[str, bool]:
    """The file that a descriptor is open on, and whether that is a terminal."""
    path = f"/proc/{pid}/fd/{number}"
    try:
        name, there = os.readlink(path), os.stat(path)  # noqa: PTH115, PTH116 - a magic link: no path
    except FileNotFoundError:
        if not Path("/proc", str(pid), "fd").is_dir():
            raise
        return "", False
    return name, stat.S_ISCHR(there.st_mode) and os.major(there.st_rdev) in TERMINALS
