"""What a container cannot do: tried from inside, read from the kernel, and compared with other engines' defaults."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from labkit.checks import Check, equal
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.errors import excerpt
from labkit.farm.containers import bundle, container, lifecycle, probe, runc, written
from labkit.farm.containers.bundle import Json, Mount, Spec
from labkit.farm.containers.probe import Attempt
from labkit.model.lab import Lab
from labkit.records import Record

#: The folder with the machine's programs in the containers that try.
PLACE = "/run/labkit"
#: The words of /proc/pid/status about a process's rights (proc(5)), as they must be.
RIGHTS = {
    "NoNewPrivs": "1",
    "Seccomp": "2",
    **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16),
}
#: The columns of the comparison.
REPLICA, DOCKER, PODMAN, KUBERNETES = (
    "labkit's replica", "Docker default", "Podman default", "Kubernetes restricted",
)  # fmt: skip
LEFT, UNLIMITED, NOT_ASKED = "left to the runtime", "no limit", "no limit (not asked for)"
DEVICES = "the default ones; /dev writable, 64 MiB"
REACH = "the machine, and what it reaches"
#: What other engines give a container by default, from their sources: Docker, Podman, Kubernetes.
#:
#: Docker: moby/moby ``daemon/pkg/oci/defaults.go`` (capabilities, mounts, paths; release 28) and moby/profiles
#: ``seccomp/default.json`` (commit cd3bed8 of 2026-06-30). Podman: containers/common 0.50 as Debian 12 ships it,
#: ``/usr/share/containers/containers.conf`` and ``seccomp.json``, and podman 4.3's own masked paths. The calls are
#: counted on amd64 with those that each default's capabilities bring along, as far as libseccomp 2.5.4 knows them.
#: Kubernetes: the documentation's page "Pod Security Standards", policy Restricted.
OTHERS: Mapping[str, tuple[str, str, str]] = {
    "user": ("root", "root", "not root"),
    "capabilities": ("14", "11", "none; NET_BIND_SERVICE may be added"),
    "no-new-privileges": ("no", "no", "yes"),
    "seccomp": (
        "301 calls on amd64, and i386's and x32's",
        "312 calls on amd64, and i386's and x32's; mount, unshare, setns, keyctl among them",
        "the runtime's default or a given one",
    ),
    "root file system": ("writable", "writable", "writable (not asked for)"),
    "/sys": ("read-only", "read-only", LEFT),
    "devices": (DEVICES, DEVICES, LEFT),
    "masked paths": ("12, and 5 read-only", "11, and 6 read-only", "the runtime's default"),
    "memory": (UNLIMITED, UNLIMITED, NOT_ASKED),
    "processes": (UNLIMITED, "2048", NOT_ASKED),
    "processors": (UNLIMITED, UNLIMITED, NOT_ASKED),
    "what it writes": (UNLIMITED, UNLIMITED, NOT_ASKED),
    "user namespace": ("no", "no (without root: the caller's)", "no (not asked for)"),
    "network reach": (REACH, REACH, "not the host's own network; else all (not asked for)"),
}


class Rights(NamedTuple):
    """How many capabilities and system calls a default gives; None for no number."""

    capabilities: int
    calls: int | None


#: The numbers of :data:`OTHERS`.
NUMBERS = {DOCKER: Rights(14, 301), PODMAN: Rights(11, 312), KUBERNETES: Rights(1, None)}


class ProcessRights(Record):
    """A running container's first process, and the words of :data:`RIGHTS` as the kernel has them."""

    container: str
    pid: int
    rights: dict[str, str]


class Confinement(Record):
    """The attempts as the web server's user and as root with the ssh server's rights (kind, name, result); the
    running containers' first processes; how many system calls a container may make."""

    server: tuple[tuple[str, str, str], ...]
    root: tuple[tuple[str, str, str], ...]
    processes: tuple[ProcessRights, ...]
    calls: int


@action("container.confined")
def confined(lab: Lab) -> Outcome[Confinement]:
    """Tries what no container may do, in two trial containers, which are removed afterwards.

    One has a replica's configuration; the other runs as root with the ssh server's capabilities, as if that server
    had been broken into.

    :return: the attempts, the rights of the running containers' processes, and a table that compares a replica with
        the defaults of Docker, Podman and Kubernetes.

    >>> containers.confined(lab).holds  # doctest: +SKIP
    True
    """
    specs = (_spec(lab, "trial-server"), _spec(lab, "trial-root", *container.SSH_CAPABILITIES))
    with lock(lab.run_dir, "farm"), lifecycle.prepared(lab, *specs):
        server, root = (_tried(lab, item) for item in specs)
        config = runc.config(runc.bundle(lab, specs[0].name))
        processes = tuple(_processes(lab))
        kept = checks(lab)
    rights = _rights(config)
    value = Confinement(server=server, root=root, processes=processes, calls=rights.calls or 0)
    refused = [item for item in map(Attempt._make, (*server, *root)) if item.kind != "allowed"]
    prevented = sum(item.prevented for item in refused)
    return Outcome(
        value=value,
        subject="trial containers",
        summary=f"A replica may make {value.calls} system calls; of {len(refused)} things that it must not do, "
        f"{prevented} came to nothing.",
        checks=(*_checks(value), _least(rights), *kept),
        tables=(comparison(config, written.limit(lab)), _attempts(value)),
    )


def checks(lab: Lab) -> tuple[Check, ...]:
    """Whether the kernel limits the running containers' first processes as it must; () when no container runs.
    Nothing is started."""
    processes = tuple(_processes(lab))
    wrong = [item.container for item in processes if item.rights != RIGHTS]
    said = "no capability, no new privileges, filtered system calls: "
    expected = f"{said}{counted(len(processes), 'running container')}"
    found = equal(
        "container.confined.processes",
        expected,
        f"not so: {', '.join(wrong)}" if wrong else expected,
        rows=("R8",),
        again=f"runc --root {runc.root(lab)} list; grep -E 'Cap|NoNew|Seccomp' /proc/PID/status",
    )
    return (found,) if processes else ()


def comparison(config: Json, written: str) -> Table:
    """A table of what a container with this config.json may do, beside the defaults of :data:`OTHERS`; ``written``
    says how much it may write. Pure."""
    process, linux, rights = config["process"], config["linux"], _rights(config)
    kinds = {mount["type"] for mount in config["mounts"]}
    ids = sum(item["size"] for item in linux.get("uidMappings", ()))
    replica = {
        "user": "root" if process["user"]["uid"] == 0 else f"user {process['user']['uid']}",
        "capabilities": ", ".join(sorted(_capabilities(config))) or "none",
        "no-new-privileges": "yes" if process["noNewPrivileges"] else "no",
        "seccomp": f"{rights.calls} calls, 2 of them limited by argument"
        if rights.calls
        else "all calls",
        "root file system": "read-only" if config["root"].get("readonly") else "writable",
        "/sys": "there" if "sysfs" in kinds else "absent",
        "devices": _devices(config),
        "masked paths": f"{len(linux['maskedPaths'])}, and {len(linux['readonlyPaths'])} read-only",
        **bundle.in_words(linux["resources"]),
        "what it writes": written,
        "user namespace": f"yes, with {ids} ids of its own" if ids else "no",
        # the firewall (labkit.farm.network) sees to that, whatever config.json says
        "network reach": "answers to the lab's host; of itself the lab's name server alone",
    }
    rows: list[dict[str, Cell]] = [
        {"what": subject, REPLICA: replica[subject], **dict(zip(NUMBERS, others, strict=True))}
        for subject, others in OTHERS.items()
    ]
    return Table.of("confinement", "What a container may do, by default", rows)


def _devices(config: Json) -> str:
    options = next(item["options"] for item in config["mounts"] if item["destination"] == "/dev")
    more = len(config["linux"].get("devices", ()))
    kinds = f"the default ones and {more} more" if more else "the default ones"
    return f"{kinds}; /dev {'read-only' if 'ro' in options else 'writable'}"


def _capabilities(config: Json) -> set[str]:
    return {name for names in config["process"]["capabilities"].values() for name in names}


def _rights(config: Json) -> Rights:
    filtered = config["linux"].get("seccomp")
    calls = len(bundle.allowed_calls(filtered)) if filtered else None
    return Rights(len(_capabilities(config)), calls)


def _spec(lab: Lab, name: str, *rights: str) -> Spec:
    """A replica's container in a new network, which runs the probe by the machine's Python: an image may have no
    interpreter."""
    replica = lab.farm[0].model_copy(update={"name": name})
    spec = container.replica_spec(lab, replica)
    user = {"uid": 0, "gid": 0, "capabilities": rights} if rights else {}
    loader = _loader()
    python = (
        f"{PLACE}{loader}", "--library-path", f"{PLACE}{loader.parent}", f"{PLACE}/usr/bin/python3",
        "-S", "-E", "-c",
    )  # fmt: skip
    programs = Mount(
        destination=f"{PLACE}/usr",
        kind="bind",
        source="/usr",
        options=("bind", "ro", "nosuid", "nodev"),
    )
    return spec.model_copy(
        update={
            "args": (*python, inspect.getsource(probe), json.dumps(probe.planned())),
            "netns": "",
            "mounts": (*spec.mounts, programs),
            **user,
        }
    )


def _loader() -> Path:
    """The machine's dynamic loader (ld.so(8)), which lies beside the C library: its name and folder depend on the
    processor."""
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    paths = (Path(line.split()[-1]) for line in mapped.splitlines())
    return next(path for path in paths if path.name.startswith("ld-"))


def _tried(lab: Lab, spec: Spec) -> tuple[tuple[str, str, str], ...]:
    done = lifecycle.foreground(lab, spec.name)
    found = probe.read(done.stdout)
    if len(found) < len(probe.planned()):
        said = excerpt(done.stderr) or f"the probe ended early, with status {done.status}"
        return (*found, ("call", "the rest", said))
    return found


def _processes(lab: Lab) -> Iterator[ProcessRights]:
    for name, state in runc.states(lab).items():
        if state.status == "running":
            text = ""
            with suppress(OSError):  # it may have just ended
                text = Path(f"/proc/{state.pid}/status").read_text(encoding="utf-8")
            seen = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            rights = {word: seen.get(word, "").strip() for word in RIGHTS}
            yield ProcessRights(container=name, pid=state.pid, rights=rights)


def _checks(value: Confinement) -> Iterator[Check]:
    """Whether every attempt of a kind failed, and the allowed ones succeeded."""
    expected = {
        "call": "no such call", "read": "nothing is read", "write": "nothing is written",
        "allowed": "the logs and the server's folder in memory are written",
    }  # fmt: skip
    for who, attempts in (("server", value.server), ("root", value.root)):
        for kind, said in expected.items():
            tried = [Attempt(*item) for item in attempts if item[0] == kind]
            wrong = [item for item in tried if item.prevented == (kind == "allowed")]
            yield Check(
                name=f"container.confined.{who}.{kind}",
                expected=f"{said}: {len(tried)} of {len(tried)}",
                seen="; ".join(f"{item.what}: {item.seen}" for item in wrong[:5])
                or f"{said}: {len(tried)} of {len(tried)}",
                holds=bool(tried) and not wrong,
                rows=("R8",),
                again="cat config.json  # of the bundle: linux.seccomp, linux.maskedPaths, root",
            )


def _least(rights: Rights) -> Check:
    """Whether a replica may do less than each default that states a number."""
    more = [
        f"{word} of {name}: {there}"
        for name, other in NUMBERS.items()
        for word, here, there in (
            ("calls", rights.calls, other.calls),
            ("capabilities", rights.capabilities, other.capabilities),
        )
        if there is not None and (here is None or here >= there)
    ]
    seen = f"{rights.calls} system calls and {rights.capabilities} capabilities"
    return Check(
        name="container.confined.least",
        expected="fewer system calls and capabilities than each of the published defaults",
        seen=f"{seen}; not fewer: {', '.join(more)}" if more else seen,
        holds=not more,
        rows=("R8",),
        again="cat config.json  # of the bundle: process.capabilities, linux.seccomp",
    )


def _attempts(value: Confinement) -> Table:
    rows: list[dict[str, Cell]] = [
        {"tried": f"{kind} {what}", "as the web server": seen, "as root, like sshd": other[2]}
        for (kind, what, seen), other in zip(value.server, value.root, strict=False)
    ]
    return Table.of(
        "attempts", "What was tried from inside", rows,
        columns=("tried", "as the web server", "as root, like sshd"),
    )  # fmt: skip
