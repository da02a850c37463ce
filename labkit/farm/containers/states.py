"""What runC knows of a lab's containers, read from its own files.

runC has a folder for each container, with ``state.json`` (who the first process is) and, until the
container is started, ``exec.fifo``; whether it runs is the kernel's to say (runC 1.0 to 1.2,
libcontainer/container_linux.go). ``runc list`` reads the same and takes as long as a container needs to
start. A file that is not as expected is left to runC itself to read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from labkit import reading
from labkit.core import run
from labkit.farm.containers.bundle import MADE_OF
from labkit.farm.containers.places import runc, runc_root
from labkit.kernel import processes
from labkit.model.lab import Lab
from labkit.records import Record

#: Where a group says whether its processes are stopped, and what it says then: in the hierarchy of that name
#: in runC's list of them (version 1), or in the one without a name (version 2).
FREEZERS = (("freezer", "freezer.state", ("FROZEN", "FREEZING")), ("", "cgroup.freeze", ("1",)))


class State(Record):
    """A container as ``runc list`` shows it; ``pid`` is 0 once its first process has ended; ``made_of``
    is the fingerprint of the configuration that it was created with ('' when that names none)."""

    id: str
    pid: int
    status: str
    bundle: str
    made_of: str = ""


def states(lab: Lab) -> dict[str, State]:
    """The lab's containers by id, as runC knows them."""
    try:
        names = sorted(path.name for path in runc_root(lab).iterdir())
    except FileNotFoundError:
        return {}
    return {name: found for name in names if (found := state(lab, name))}


def state(lab: Lab, name: str) -> State | None:
    """One container as runC knows it, None when it does not."""
    folder = f"{runc_root(lab)}/{name}"
    try:
        return _read(folder, reading.json_of(Path(folder, "state.json")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return _asked(lab, name)


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - read for each container, again and again
        return file.read()


def _read(folder: str, kept: Mapping[str, Any]) -> State:
    labels = dict(item.partition("=")[::2] for item in kept["config"]["labels"])
    pid = int(kept["init_process_pid"])
    status = "stopped"
    if processes.lives(pid, int(kept["init_process_start"])):
        started = not os.path.exists(f"{folder}/exec.fifo")  # noqa: PTH110 - as above
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
        with suppress(OSError, KeyError):
            if _text(f"{groups[hierarchy]}/{name}").strip() in words:
                return True
    return False


def _asked(lab: Lab, name: str) -> State | None:
    """One container as runc-state(8) tells of it."""
    done = run.run(runc(lab, "state", name), ok=range(256), quiet=True)
    return parse_list(f"[{done.stdout}]")[0] if done.status == 0 else None


def parse_list(output: str) -> list[State]:
    """The containers in ``runc list --format json``'s output (``null`` when there is none)."""
    return [
        State(
            **{key: item[key] for key in ("id", "pid", "status", "bundle")},
            made_of=(item.get("annotations") or {}).get(MADE_OF, ""),
        )
        for item in reading.parsed(output) or []
    ]
