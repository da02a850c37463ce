"""What a container's config.json lets it do, in the words of :mod:`labkit.farm.containers.published`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.core.tables import Cell, Table
from labkit.display import human_bytes
from labkit.farm.containers import seccomp
from labkit.farm.containers.published import DEFAULTS, SUBJECTS, Default

#: The name of the column.
NAME = "labkit's replica"


def default(config: Mapping[str, Any], written: str = "no limit") -> Default:
    """What config.json says; ``written`` is how much the container's place for what it writes holds."""
    process, linux = config["process"], config["linux"]
    granted = {name for names in process["capabilities"].values() for name in names}
    calls = len(seccomp.allowed(linux["seccomp"])) if "seccomp" in linux else None
    return Default(
        name=NAME,
        capabilities=len(granted),
        calls=calls,
        masked=len(linux["maskedPaths"]),
        said={
            "user": "root" if process["user"]["uid"] == 0 else f"user {process['user']['uid']}",
            "capabilities": ", ".join(sorted(granted)) or "none",
            "no-new-privileges": "yes" if process["noNewPrivileges"] else "no",
            "seccomp": f"{calls} calls, 2 of them limited by argument" if calls else "all calls",
            "root file system": "read-only" if config["root"].get("readonly") else "writable",
            "/sys": _sys(config),
            "devices": _devices(config),
            "masked paths": f"{len(linux['maskedPaths'])}, and {len(linux['readonlyPaths'])} read-only",
            **_limits(linux["resources"]),
            "what it writes": written,
            "user namespace": _users(linux),
            # labkit.farm.isolation keeps to that, whatever config.json says
            "network reach": "answers to the lab's host; of itself the lab's name server alone",
        },
    )


def table(config: Mapping[str, Any], written: str) -> Table:
    """The container's rights beside the published defaults."""
    columns = (default(config, written), *DEFAULTS)
    rows: list[dict[str, Cell]] = [
        {"what": subject, **{item.name: item.said[subject] for item in columns}}
        for subject in SUBJECTS
    ]
    return Table.of("confinement", "What a container may do, by default", rows)


def _sys(config: Mapping[str, Any]) -> str:
    kinds = {mount["type"] for mount in config["mounts"]}
    return "there" if "sysfs" in kinds else "absent"


def _devices(config: Mapping[str, Any]) -> str:
    options = next(item["options"] for item in config["mounts"] if item["destination"] == "/dev")
    more = len(config["linux"].get("devices", ()))
    kinds = f"the default ones and {more} more" if more else "the default ones"
    return f"{kinds}; /dev {'read-only' if 'ro' in options else 'writable'}"


def _limits(resources: Mapping[str, Any]) -> dict[str, str]:
    cpu, memory = resources.get("cpu", {}), resources["memory"]
    swap = " with swap space" if memory.get("swap") == memory["limit"] else ""
    quota = cpu.get("quota")
    return {
        "memory": f"{human_bytes(memory['limit'])}{swap}",
        "processes": str(resources["pids"]["limit"]),
        "processors": f"{quota / cpu['period']:g}" if quota else "a weight like any other",
    }


def _users(linux: Mapping[str, Any]) -> str:
    ranges = linux.get("uidMappings", ())
    sizes = sum(item["size"] for item in ranges)
    return f"yes, with {sizes} ids of its own" if ranges else "no"
