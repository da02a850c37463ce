"""What runC does with a container: configured, in the foreground, detached, several, and limited.

Each function asks one question of the assignment by trying it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from labkit import run
from labkit.checks import Check, equal
from labkit.daemon import tail
from labkit.farm import bundle, container, trial
from labkit.farm.bundle import Change
from labkit.journal import lock
from labkit.lab import Lab
from labkit.result import Cell, Outcome, Record, Table, action


class Configuration(Record):
    """The changes from the image's configuration to a container's, also as a unified diff."""

    changes: tuple[Change, ...]
    diff: str


class Modes(Record):
    """How long each way to start a container held the terminal, in seconds, and what runC refused."""

    foreground: float
    detached: float
    refusal: str


class Instances(Record):
    """Containers started one after the other: process ids and process namespaces (inodes) by name."""

    pids: dict[str, int]
    namespaces: dict[str, int]
    seconds: float


class Listing(Record):
    """What a program that only lists a folder shows in the foreground, and where it went detached."""

    foreground: str
    detached: str
    status: str


@action("container.configuration")
def configuration(lab: Lab) -> Outcome[Configuration]:
    """Every change that labkit makes to the image's runtime configuration for a replica."""
    replica = lab.farm[0]
    before = container.image_configuration(container.unpack(lab, replica.site))
    after = bundle.configure(before, container.replica_spec(lab, replica))
    found = Configuration(changes=bundle.changes(before, after), diff=bundle.diff(before, after))
    rows: list[dict[str, Cell]] = [
        {"key": c.key, "image": _short(c.before), "container": _short(c.after), "why": c.reason}
        for c in found.changes
    ]
    path = container.bundle(lab, replica.name) / "config.json"
    variables = after["process"]["env"]
    return Outcome(
        value=found,
        subject=replica.name,
        summary=f"{len(rows)} values of config.json differ between image and container.",
        checks=(
            equal("container.terminal", False, after["process"]["terminal"], rows=("R5", "R8"),
                  again=f"grep terminal {path}"),
            equal("container.path", True, any(v.startswith("PATH=") for v in variables),
                  rows=("I4",), again=f"grep PATH= {path}"),
            equal("container.source", "umoci, from the image", _source(before), rows=("I5",),
                  again="umoci raw runtime-config --image LAYOUT:TAG config.json"),
        ),
        tables=(
            Table.of("changes", f"config.json of {replica.name}: every change", rows),
            Table.of("diff", "The same as a unified diff", [{"line": x} for x in found.diff.split("\n")]),
        ),
    )  # fmt: skip


@action("container.modes")
def modes(lab: Lab) -> Outcome[Modes]:
    """Foreground against detached, and ``terminal: true`` with ``--detach``, each tried."""
    short = trial.spec(lab, "trial-foreground", "sleep", "1")
    long = trial.spec(lab, "trial-detached", "sleep", "300")
    wrong = trial.spec(lab, "trial-terminal", "sleep", "300", terminal=True)
    with lock(lab.run_dir, "farm"), trial.prepared(lab, short, long, wrong):
        foreground = trial.foreground(lab, short.name)
        container.create(lab, long.name)
        container.begin(lab, long.name)
        status = container.states(lab)[long.name].status
        detached = _seconds_detached(lab, long.name)
        refused = trial.foreground(lab, wrong.name, "--detach")
    refusal = _last_line(refused.stderr)
    value = Modes(
        foreground=round(foreground.seconds, 3), detached=round(detached, 3), refusal=refusal
    )
    rows: list[dict[str, Cell]] = [
        {"start": "foreground, sleep 1", "terminal held": value.foreground, "runC": "exit 0"},
        {"start": "detached, sleep 300", "terminal held": value.detached, "runC": status},
        {"start": "detached with terminal: true", "terminal held": None, "runC": refusal},
    ]
    return Outcome(
        value=value,
        subject="trial containers",
        summary=(
            f"In the foreground runC held the terminal for {value.foreground:.2f} s, detached for "
            f"{value.detached:.2f} s; with terminal: true it refuses to detach."
        ),
        checks=(
            Check(name="container.foreground", expected="held until the process ends (1 s)",
                  seen=f"held for {value.foreground:.2f} s", holds=value.foreground >= 1.0,
                  rows=("R6",), again="runc run --bundle BUNDLE NAME"),
            Check(name="container.detached", expected="returns at once, the process goes on",
                  seen=f"returned after {value.detached:.2f} s; {status}",
                  holds=value.detached < value.foreground and status == "running", rows=("R6",),
                  again="runc run --detach --bundle BUNDLE NAME; runc list"),
            Check(name="container.terminal-refused", expected="runC refuses and names the terminal",
                  seen=refusal, holds=refused.status != 0 and "tty" in refusal, rows=("R5",),
                  again="runc run --detach --bundle BUNDLE NAME  # with terminal: true"),
        ),
        tables=(Table.of("modes", "Starting a container", rows, units={"terminal held": "s"}),),
    )  # fmt: skip


@action("container.instances")
def instances(lab: Lab, count: int = 6, minutes: int = 5) -> Outcome[Instances]:
    """``count`` containers of one image, each waiting ``minutes``, started from one terminal."""
    specs = [trial.spec(lab, f"wait-{n}", "sleep", str(60 * minutes)) for n in range(1, count + 1)]
    names = [item.name for item in specs]
    seconds = 0.0
    with lock(lab.run_dir, "farm"), trial.prepared(lab, *specs):
        for name in names:
            container.create(lab, name)
            container.begin(lab, name)
            seconds += _seconds_detached(lab, name)
        states = container.states(lab)
        running = [name for name in names if states[name].status == "running"]
        value = Instances(
            pids={name: states[name].pid for name in running},
            namespaces={n: Path(f"/proc/{states[n].pid}/ns/pid").stat().st_ino for n in running},
            seconds=round(seconds, 3),
        )
        rows: list[dict[str, Cell]] = [
            {
                "container": name, "process": value.pids[name], "status": states[name].status,
                "process namespace": value.namespaces[name],
                "processes in it": _processes(lab, name), "command": f"sleep {60 * minutes}",
            }
            for name in running
        ]  # fmt: skip
    apart = len(set(value.namespaces.values()))
    again = f"runc --root {container.runc_root(lab)} list"
    return Outcome(
        value=value,
        subject="trial containers",
        summary=f"{len(running)} containers waited at once, in {apart} process namespaces.",
        checks=(
            equal("container.instances", f"{count} running", f"{len(running)} running",
                  rows=("R7",), again=again),
            equal("container.apart", f"{count} containers, one process each",
                  f"{apart} containers, {_each(rows)} each", rows=("R8",),
                  again="readlink /proc/PID/ns/pid"),
        ),
        tables=(Table.of("instances", "Instances started from one terminal", rows),),
    )  # fmt: skip


@action("container.listing")
def listing(lab: Lab) -> Outcome[Listing]:
    """A container that only lists a folder, in the foreground and in the background."""
    front, back = (trial.spec(lab, f"trial-ls-{n}", "ls", "/") for n in ("front", "back"))
    with lock(lab.run_dir, "farm"), trial.prepared(lab, front, back):
        done = trial.foreground(lab, front.name)
        shown = " ".join(done.stdout.split())
        container.create(lab, back.name)
        container.begin(lab, back.name)
        container.wait(lab, back.name)
        state = container.states(lab)[back.name]
        kept = " ".join(tail(container.console(lab, back.name)).split())
    value = Listing(foreground=shown, detached=kept, status=state.status)
    return Outcome(
        value=value,
        subject="trial containers",
        summary="In the background `ls` showed nothing in the terminal and its container had ended.",
        checks=(
            Check(name="container.listing.foreground", expected="the folder's names on the terminal",
                  seen=shown, holds="etc" in shown.split() and done.status == 0, rows=("R9",),
                  again="runc run --bundle BUNDLE NAME  # args: ls /"),
            Check(name="container.listing.detached",
                  expected="nothing on the terminal, container stopped, names in its own log",
                  seen=f"container {state.status}, log: {kept}",
                  holds=state.status == "stopped" and kept == shown, rows=("R9",),
                  again="runc run --detach --bundle BUNDLE NAME; runc list"),
        ),
    )  # fmt: skip


@action("container.pathless")
def pathless(lab: Lab) -> Outcome[str]:
    """A container whose configuration has no PATH: the answer that runC gives."""
    item = trial.spec(lab, "trial-path", "sleep", "1")
    config = dict(trial.own_configuration(lab, item))
    config["process"] = {**config["process"], "env": ["TERM=xterm"]}
    with lock(lab.run_dir, "farm"), trial.prepared(lab, item, **{item.name: config}):
        done = trial.foreground(lab, item.name)
    answer = _last_line(done.stderr)
    return Outcome(
        value=answer,
        subject=item.name,
        summary="Without PATH in config.json runC does not find the program.",
        checks=(
            Check(name="container.pathless", expected="runC does not find `sleep`", seen=answer,
                  holds=done.status != 0 and "PATH" in answer, rows=("I4",),
                  again="runc run --bundle BUNDLE NAME  # env without PATH"),
        ),
    )  # fmt: skip


def _processes(lab: Lab, name: str) -> int:
    """How many processes the container has (``runc ps``, a JSON list of process ids)."""
    return len(json.loads(run.run(container.runc(lab, "ps", "--format", "json", name)).stdout))


def _seconds_detached(lab: Lab, name: str) -> float:
    """How long ``runc create`` and ``runc start`` of this container held the caller."""
    ended = [done for done in run.traced() if done.argv[-1] == name]
    return sum(done.seconds for done in ended if {"create", "start"} & set(done.argv))


def _each(rows: list[dict[str, Cell]]) -> str:
    counts = {row["processes in it"] for row in rows}
    return "one process" if counts == {1} else f"{sorted(map(str, counts))} processes"


def _source(config: bundle.Json) -> str:
    made = config.get("annotations", {}).get("labkit.umoci")
    return "umoci, from the image" if made else "somebody else"


def _short(value: str) -> str:
    return value if len(value) <= 160 else f"{value[:157]}…"


def _last_line(text: str) -> str:
    """The last line of runC's output, without the time and level that its log format puts around."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return "(nothing)"
    message = re.search(r'msg="((?:[^"\\]|\\.)*)"', lines[-1])
    return message[1].replace('\\"', '"') if message else lines[-1].strip()
