"""What others give a container when nobody says anything: figures of their own sources. Pure.

Docker: moby/moby ``daemon/pkg/oci/defaults.go`` (capabilities, mounts, paths; release 28) and moby/profiles
``seccomp/default.json`` (commit cd3bed8 of 2026-06-30). Podman: containers/common 0.50 as Debian 12 ships it,
``/usr/share/containers/containers.conf`` and ``seccomp.json``, and podman 4.3's own masked paths. The calls are
counted on amd64 with those that each default's capabilities bring along, as far as libseccomp 2.5.4 knows them.
Kubernetes: the documentation's page "Pod Security Standards", policy Restricted, and for what that does not ask
for, "left to the runtime".
"""

from __future__ import annotations

from collections.abc import Mapping

from labkit.records import Record

#: What Kubernetes' standard does not ask for.
LEFT = "left to the runtime"


class Default(Record):
    """What one of them gives a container; the numbers are None where it leaves them to somebody else."""

    name: str
    capabilities: int | None
    calls: int | None
    masked: int | None
    said: Mapping[str, str]


#: What is compared, in this order.
SUBJECTS = (
    "user", "capabilities", "no-new-privileges", "seccomp", "root file system", "/sys", "devices",
    "masked paths", "memory", "processes", "processors", "what it writes", "user namespace", "network reach",
)  # fmt: skip

DOCKER = Default(
    name="Docker default",
    capabilities=14,
    calls=301,
    masked=12,
    said={
        "user": "root",
        "capabilities": "14",
        "no-new-privileges": "no",
        "seccomp": "301 calls on amd64, and i386's and x32's",
        "root file system": "writable",
        "/sys": "read-only",
        "devices": "the default ones; /dev writable, 64 MiB",
        "masked paths": "12, and 5 read-only",
        "memory": "no limit",
        "processes": "no limit",
        "processors": "no limit",
        "what it writes": "no limit",
        "user namespace": "no",
        "network reach": "the machine, and what it reaches",
    },
)
PODMAN = Default(
    name="Podman default",
    capabilities=11,
    calls=312,
    masked=11,
    said={
        "user": "root",
        "capabilities": "11",
        "no-new-privileges": "no",
        "seccomp": "312 calls on amd64, and i386's and x32's; mount, unshare, setns, keyctl among them",
        "root file system": "writable",
        "/sys": "read-only",
        "devices": "the default ones; /dev writable, 64 MiB",
        "masked paths": "11, and 6 read-only",
        "memory": "no limit",
        "processes": "2048",
        "processors": "no limit",
        "what it writes": "no limit",
        "user namespace": "no (without root: the caller's)",
        "network reach": "the machine, and what it reaches",
    },
)
KUBERNETES = Default(
    name="Kubernetes restricted",
    capabilities=1,
    calls=None,
    masked=None,
    said={
        "user": "not root",
        "capabilities": "none; NET_BIND_SERVICE may be added",
        "no-new-privileges": "yes",
        "seccomp": "the runtime's default or a given one",
        "root file system": "writable (not asked for)",
        "/sys": LEFT,
        "devices": LEFT,
        "masked paths": "the runtime's default",
        "memory": "no limit (not asked for)",
        "processes": "no limit (not asked for)",
        "processors": "no limit (not asked for)",
        "what it writes": "no limit (not asked for)",
        "user namespace": "no (not asked for)",
        "network reach": "not the host's own network; else all (not asked for)",
    },
)
DEFAULTS = (DOCKER, PODMAN, KUBERNETES)
