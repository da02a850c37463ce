"""What becomes of an image's runtime configuration in a container's bundle. Pure.

The configuration comes from the image (umoci makes it); labkit changes what the container's own
job needs, and every change has its reason here. Names: OCI Runtime Specification 1.0, config.json.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import Field

from labkit.farm.containers import fences, limits, seccomp
from labkit.farm.containers.limits import Counted
from labkit.farm.containers.seccomp import Work
from labkit.kernel.users import IDS
from labkit.model.resources import fingerprint
from labkit.records import Record

Json = Mapping[str, Any]

#: Why each part of the configuration is changed: the longest fitting beginning counts. What is not
#: here has no reason to differ.
REASONS: Mapping[str, str] = {
    "annotations": "the configuration's own fingerprint: whether a container runs by it is seen from outside",
    "hostname": "the container's own name, as its shell and its logs show it",
    "linux.cgroupsPath": "a control group of the lab's own, so that its limits and its end are known",
    "linux.gidMappings": "ids of the container's own: what is root in it is nobody on the machine",
    "linux.maskedPaths": "what the kernel says there is about the machine, not about the container",
    "linux.namespaces": "a view of the control groups that begins at the container's own",
    "linux.namespaces[network]": "the namespace whose eth0 is the peer of a port of the bridge",
    "linux.namespaces[user]": "a user namespace: rights in it are none outside",
    "linux.readonlyPaths": "what the kernel takes there for an order is for the machine's root alone",
    "linux.resources": "limits on memory, processes and processor time: one container cannot starve the others",
    "linux.seccomp": "the system calls that its work needs; every other one answers that there is no such call",
    "linux.sysctl": "port 80 without a capability (net.ipv4.ip_unprivileged_port_start)",
    "linux.uidMappings": "ids of the container's own: what is root in it is nobody on the machine",
    "mounts": "folders that the process writes, in memory and of a size of their own, without programs or devices; nothing "
    "else is shared, and nothing of the machine's devices and control groups is shown",
    "process.args": "the one process that this container is for",
    "process.capabilities": "the fewest with which it works",
    "process.noNewPrivileges": "no program in it gains rights by its file's set-uid bit",
    "process.env": "what the process reads from its environment, PATH included",
    "process.rlimits": "as many open files as the process may need, no file that fills the disk, and no "
    "memory dumps",
    "process.terminal": "a detached container has no terminal to hold: false",
    "process.user": "not root, where the process does not need it",
    "root": "where the root file system lies",
    "root.readonly": "what the image holds stays as it is, whoever breaks into the container",
}


#: The annotation with the fingerprint of the configuration that a container was created with.
MADE_OF = "labkit.made-of"


class Mount(Record):
    """A mount in the container: ``kind`` tmpfs, or bind (then ``source`` is a folder of the host)."""

    destination: str
    kind: str
    source: str
    options: tuple[str, ...] = ()


class Spec(Record):
    """What one container is to be. ``memory`` in bytes, and ``size``, of a file that it writes; ``processors``
    whose time it may use at most; ``works`` are the kinds of system calls; ``kernel`` is what this machine's
    counts; ``netns`` '' makes a new, empty one; ``ids`` is the first of the machine's ids that stand for the
    container's own, 0 for none but the machine's; ``users`` is a file that is a user namespace with them, ''
    makes a new one."""

    name: str
    args: tuple[str, ...]
    environment: dict[str, str]
    cgroup: str
    uid: int = 0
    gid: int = 0
    ids: int = 0
    users: str = ""
    terminal: bool = False
    capabilities: tuple[str, ...] = ()
    files: int = 4096
    size: int = 64 * 2**20
    netns: str = ""
    sysctl: dict[str, str]
    mounts: tuple[Mount, ...] = ()
    memory: int = 256 * 2**20
    pids: int = 256
    processors: float = 1.0
    kernel: frozenset[Counted] = Field(default_factory=limits.counted)
    works: tuple[Work, ...] = seccomp.ALONE
    readonly: bool = True


class Change(Record):
    """One changed value of config.json: where, what it was, what it is (as JSON), and why ('' when
    nothing that labkit does explains it)."""

    key: str
    before: str
    after: str
    reason: str


def configure(image: Json, spec: Spec) -> dict[str, Any]:
    """The bundle's config.json: the image's own with what ``spec`` says."""
    config: dict[str, Any] = copy.deepcopy(dict(image))
    process, linux = config["process"], config["linux"]
    process["terminal"] = spec.terminal
    process["user"] = {"uid": spec.uid, "gid": spec.gid}
    process["args"] = list(spec.args)
    process["env"] = environment(process.get("env", []), spec.environment)
    process["capabilities"] = capabilities(spec.capabilities)
    process["rlimits"] = limits.rlimits(spec.files, spec.size)
    process["noNewPrivileges"] = True
    config["root"] = {**config["root"], "readonly": spec.readonly}
    config["hostname"] = spec.name
    config["mounts"] = [*fences.mounts(config["mounts"]), *map(_mount, spec.mounts)]
    linux.update(_linux(linux, spec))
    return _shifted(config, spec) if spec.ids else config


def _shifted(config: dict[str, Any], spec: Spec) -> dict[str, Any]:
    """The same in a user namespace, the one at ``spec.users`` or a new one."""
    linux = config["linux"]
    path = {"path": spec.users} if spec.users else {}
    linux["namespaces"].append({"type": "user", **path})
    for kind in ("uidMappings", "gidMappings"):
        linux[kind] = [{"containerID": 0, "hostID": spec.ids, "size": IDS}]
    return config


def _linux(own: Json, spec: Spec) -> dict[str, Any]:
    """What the specification says of the kernel's part, beside what the image says of it."""
    spaces = [_namespace(item, spec.netns) for item in own["namespaces"]]
    masked = fences.paths(own.get("maskedPaths", ()), fences.MASKED)
    return {
        "cgroupsPath": spec.cgroup,
        "sysctl": dict(spec.sysctl),
        "resources": limits.resources(
            own.get("resources", {}), memory=spec.memory, pids=spec.pids,
            processors=spec.processors, kernel=spec.kernel,
        ),
        "namespaces": [*spaces, *([] if {"type": "cgroup"} in spaces else [{"type": "cgroup"}])],
        "maskedPaths": masked,
        "readonlyPaths": fences.paths(
            own.get("readonlyPaths", ()), fences.READ_ONLY, unless=masked
        ),
        "seccomp": seccomp.profile(spec.works),
    }  # fmt: skip


def marked(config: Json) -> dict[str, Any]:
    """The same configuration, which names its fingerprint (12 hexadecimal digits) in an annotation."""
    own = {key: value for key, value in config.get("annotations", {}).items() if key != MADE_OF}
    bare = {**config, "annotations": own}
    return {**bare, "annotations": {**own, MADE_OF: fingerprint(json.dumps(bare, sort_keys=True))}}


def made_of(config: str) -> str:
    """The fingerprint that a configuration's text names, '' when it names none."""
    found = re.search(rf'"{re.escape(MADE_OF)}": "([0-9a-f]*)"', config)
    return found[1] if found else ""


def environment(own: list[str], given: Mapping[str, str]) -> list[str]:
    """The image's variables with the given ones laid over them, in their order."""
    values = dict(item.split("=", 1) for item in own) | dict(given)
    return [f"{name}={value}" for name, value in values.items()]


def capabilities(names: tuple[str, ...]) -> dict[str, list[str]]:
    """The same capabilities in all sets but the ambient and inheritable (capabilities(7))."""
    return {kind: list(names) for kind in ("bounding", "effective", "permitted")}


def changes(before: Json, after: Json) -> tuple[Change, ...]:
    """Every value that differs, by its key's path, with the reason for it."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return tuple(
        Change(
            key=key,
            before=old.get(key, "(absent)"),
            after=new.get(key, "(removed)"),
            reason=reason(key),
        )
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )


def diff(before: Json, after: Json) -> str:
    """The changes as a unified diff of the two files, with three lines around each."""
    lines = difflib.unified_diff(
        text(before).splitlines(), text(after).splitlines(),
        "config.json of the image", "config.json of the container", lineterm="",
    )  # fmt: skip
    return "\n".join(lines)


def text(config: Json) -> str:
    """A configuration as it is written: keys in order, two spaces."""
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def reason(key: str) -> str:
    """Why labkit changes the value at ``key``; '' for one that it has no reason to change."""
    fitting = [
        known for known in REASONS if key == known or key.startswith((f"{known}.", f"{known}["))
    ]
    return REASONS[max(fitting, key=len)] if fitting else ""


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(path, JSON) of every value that is no object; a list counts as one value, but the
    :data:`NAMED` ones item by item."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else name)
    elif key in NAMED:
        for item in value:
            name, content = NAMED[key](item)
            yield f"{key}[{name}]", json.dumps(content, sort_keys=True)
    else:
        yield key, json.dumps(value, sort_keys=True)


def _variable(item: str) -> tuple[str, str]:
    name, _, value = item.partition("=")
    return name, value


#: Lists of things that have names: their items are told apart by (name, content).
NAMED: Mapping[str, Callable[[Any], tuple[str, Any]]] = {
    "linux.namespaces": lambda item: (item["type"], item),
    "mounts": lambda item: (item["destination"], item),
    "process.env": _variable,
}


def _mount(mount: Mount) -> dict[str, Any]:
    return {
        "destination": mount.destination,
        "type": mount.kind,
        "source": mount.source,
        "options": list(mount.options),
    }


def _namespace(item: Mapping[str, str], netns: str) -> dict[str, str]:
    if item["type"] == "network" and netns:
        return {"type": "network", "path": f"/run/netns/{netns}"}
    return dict(item)
