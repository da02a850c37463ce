"""What a container cannot do: tried from inside, seen from outside, and held against others' defaults."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from labkit import reading
from labkit.checks import Check, equal
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.errors import excerpt
from labkit.farm.containers import attempts, container, own, probe, quota, replica_files, trial
from labkit.farm.containers.attempts import Attempt
from labkit.farm.containers.bundle import Json, Mount, Spec
from labkit.farm.containers.published import DEFAULTS
from labkit.model.lab import Lab
from labkit.records import Record

#: Where the containers that try find the machine's programs.
PLACE = "/run/labkit"
#: The words of /proc/pid/status that say what a process may do (proc(5)), and what they are to say.
RIGHTS = {
    "NoNewPrivs": "1",
    "Seccomp": "2",
    **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16),
}


class Process(Record):
    """A running container's first process, and the words of :data:`RIGHTS` as the kernel has them."""

    container: str
    pid: int
    rights: dict[str, str]


class Confinement(Record):
    """What was tried, as the web server's user and as root with the ssh server's rights: kind, what, and what
    came of it; the running containers' first processes; how many system calls a container may make."""

    server: tuple[tuple[str, str, str], ...]
    root: tuple[tuple[str, str, str], ...]
    processes: tuple[Process, ...]
    calls: int


@action("container.confined")
def confined(lab: Lab) -> Outcome[Confinement]:
    """What no container may do is tried in two: one of a replica's own configuration, and the same as root
    with the ssh server's capabilities, as if that had been broken into. Neither outlives the answer."""
    specs = (_spec(lab, "trial-server"), _spec(lab, "trial-root", *replica_files.CAPABILITIES))
    with lock(lab.run_dir, "farm"), trial.prepared(lab, *specs):
        server, root = (_tried(lab, item) for item in specs)
        config = _read(container.bundle(lab, specs[0].name) / "config.json")
        processes = tuple(_processes(lab))
        kept = checks(lab)
    value = Confinement(
        server=server, root=root, processes=processes, calls=own.default(config).calls or 0
    )
    return Outcome(
        value=value,
        subject="trial containers",
        summary=f"A replica may make {value.calls} system calls; {_summed(value)}.",
        checks=(*_checks(value), _least(config), *kept),
        tables=(own.table(config, quota.told(lab)), _table(value)),
    )


def checks(lab: Lab) -> tuple[Check, ...]:
    """Whether the kernel holds the running containers' first processes to what they may do; none when none
    runs. Nothing is started."""
    processes = tuple(_processes(lab))
    wrong = [item.container for item in processes if item.rights != RIGHTS]
    said = "no capability, no new privileges, filtered system calls: "
    expected = f"{said}{counted(len(processes), 'running container')}"
    found = equal(
        "container.confined.processes",
        expected,
        f"not so: {', '.join(wrong)}" if wrong else expected,
        rows=("R8",),
        again=f"runc --root {container.runc_root(lab)} list; grep -E 'Cap|NoNew|Seccomp' /proc/PID/status",
    )
    return (found,) if processes else ()


def _spec(lab: Lab, name: str, *rights: str) -> Spec:
    """A replica's container in a network of its own, whose program is the probe, run by the machine's Python:
    an image may have no interpreter at all."""
    replica = lab.farm[0].model_copy(update={"name": name})
    spec = container.replica_spec(lab, replica)
    user = {"uid": 0, "gid": 0, "capabilities": rights} if rights else {}
    loader = _loader()
    python = (
        f"{PLACE}{loader}",
        "--library-path",
        f"{PLACE}{loader.parent}",
        f"{PLACE}/usr/bin/python3",
    )
    what = (inspect.getsource(probe), json.dumps(attempts.planned()))
    programs = Mount(
        destination=f"{PLACE}/usr",
        kind="bind",
        source="/usr",
        options=("bind", "ro", "nosuid", "nodev"),
    )
    return spec.model_copy(
        update={
            "args": (*python, "-S", "-E", "-c", *what), "netns": "", "mounts": (*spec.mounts, programs), **user,
        }
    )  # fmt: skip


def _loader() -> Path:
    """The machine's program that loads others with their libraries (ld.so(8)), which lies beside the C library:
    its name and folder are another one on each kind of processor."""
    paths = (
        line.split()[-1]
        for line in Path("/proc/self/maps")
        .read_text(encoding="utf-8", errors="surrogateescape")
        .splitlines()
    )
    return next(Path(path) for path in paths if Path(path).name.startswith("ld-"))


def _tried(lab: Lab, spec: Spec) -> tuple[tuple[str, str, str], ...]:
    done = trial.foreground(lab, spec.name)
    found = attempts.read(done.stdout)
    if len(found) < len(attempts.planned()):
        said = excerpt(done.stderr) or f"the probe ended early, with status {done.status}"
        return (*found, ("call", "the rest", said))
    return found


def _processes(lab: Lab) -> Iterator[Process]:
    for name, state in container.states(lab).items():
        if state.status == "running":
            lines = _lines(Path(f"/proc/{state.pid}/status"))
            seen = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            rights = {word: seen.get(word, "").strip() for word in RIGHTS}
            yield Process(container=name, pid=state.pid, rights=rights)


def _lines(path: Path) -> list[str]:
    """Of a process that may just have ended: none then."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8").splitlines()
    return []


def _summed(value: Confinement) -> str:
    tried = [Attempt(*item) for item in (*value.server, *value.root)]
    refused = [item for item in tried if item.kind != "allowed"]
    prevented = sum(item.prevented for item in refused)
    return f"of {len(refused)} things that it must not do, {prevented} came to nothing"


def _checks(value: Confinement) -> Iterator[Check]:
    """Whether every attempt of a kind came to nothing, and the allowed ones to something."""
    expected = {
        "call": "no such call", "read": "nothing is read", "write": "nothing is written",
        "allowed": "the logs and the server's folder in memory are written",
    }  # fmt: skip
    for who, found in (("server", value.server), ("root", value.root)):
        for kind, said in expected.items():
            tried = [Attempt(*item) for item in found if item[0] == kind]
            wrong = [item for item in tried if item.prevented == (kind == "allowed")]
            yield Check(
                name=f"container.confined.{who}.{kind}",
                expected=f"{said}: {len(tried)} of {len(tried)}",
                seen=_listed(wrong) or f"{said}: {len(tried)} of {len(tried)}",
                holds=bool(tried) and not wrong,
                rows=("R8",),
                again="cat config.json  # of the bundle: linux.seccomp, linux.maskedPaths, root",
            )


def _least(config: Json) -> Check:
    """Whether it may do less than others' defaults say, where they say a number."""
    mine = own.default(config)
    more = [
        f"{word} of {other.name}: {there}"
        for other in DEFAULTS
        for word, here, there in (
            ("calls", mine.calls, other.calls),
            ("capabilities", mine.capabilities, other.capabilities),
        )
        if there is not None and (here is None or here >= there)
    ]
    seen = f"{mine.calls} system calls and {mine.capabilities} capabilities"
    return Check(
        name="container.confined.least",
        expected="fewer system calls and capabilities than each of the published defaults",
        seen=f"{seen}; not fewer: {', '.join(more)}" if more else seen,
        holds=not more,
        rows=("R8",),
        again="cat config.json  # of the bundle: process.capabilities, linux.seccomp",
    )


def _table(value: Confinement) -> Table:
    rows: list[dict[str, Cell]] = [
        {"tried": f"{kind} {what}", "as the web server": seen, "as root, like sshd": other[2]}
        for (kind, what, seen), other in zip(value.server, value.root, strict=False)
    ]
    return Table.of(
        "attempts", "What was tried from inside", rows,
        columns=("tried", "as the web server", "as root, like sshd"),
    )  # fmt: skip


def _listed(items: list[Attempt]) -> str:
    return "; ".join(f"{item.what}: {item.seen}" for item in items[:5])


def _read(path: Path) -> Json:
    return reading.json_object(path, "`labkit apply` writes a container's configuration anew")
