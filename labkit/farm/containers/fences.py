"""What of the machine a container does not see, and where it cannot write: mounts and paths of config.json. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: Kinds of file systems that no container is given. A server has no use for the control groups, not even to
#: read (runC mounts each of their hierarchies by itself), none for the machine's devices and drivers (sysfs),
#: and none for message queues.
WITHHELD = ("cgroup", "cgroup2", "sysfs", "mqueue")
#: How the file systems are mounted that every container has. A kind that is in memory can hold ``size`` bytes
#: and ``nr_inodes`` files: what is written there counts as the container's memory. The machine's terminals are
#: few (kernel.pty.max): a container has ``max`` of them. /dev is read-only once runC has put the devices there.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "/proc": ("nosuid", "noexec", "nodev"),
    "/dev": ("ro", "nosuid", "noexec", "strictatime", "mode=755", "size=64k"),
    "/dev/pts": (
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
        "max=16",
    ),
    "/dev/shm": ("nosuid", "noexec", "nodev", "mode=1777", "size=1m", "nr_inodes=256"),  # noqa: S108 - the container's
}
#: Where nothing is to be read: what the kernel says there is the machine's. The defaults of Docker 28 and of
#: Podman 4.3, and the lists of all processes' memory and modules. runC leaves out what a machine does not have.
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/config.gz", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore",
    "/proc/key-users", "/proc/keys", "/proc/kmsg", "/proc/kpagecgroup", "/proc/kpagecount", "/proc/kpageflags",
    "/proc/latency_stats", "/proc/modules", "/proc/pagetypeinfo", "/proc/sched_debug", "/proc/schedstat",
    "/proc/scsi", "/proc/slabinfo", "/proc/sysvipc", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
    "/sys/dev/block", "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux",
)  # fmt: skip
#: Where nothing is to be written: the kernel takes it for an order.
READ_ONLY = (
    "/proc/bus", "/proc/driver", "/proc/fs", "/proc/irq", "/proc/mtrr", "/proc/pressure", "/proc/sys",
    "/proc/sysrq-trigger", "/proc/tty",
)  # fmt: skip


def mounts(own: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """An image's mounts without those that are withheld, each as :data:`OPTIONS` has it."""
    kept = (dict(item) for item in own if item["type"] not in WITHHELD)
    return [{**item, **_options(item["destination"])} for item in kept]


def paths(own: Iterable[str], more: Iterable[str], *, unless: Iterable[str] = ()) -> list[str]:
    """An image's paths and some more, in order, each once, but those of another list."""
    return sorted({*own, *more} - set(unless))


def _options(destination: str) -> dict[str, list[str]]:
    return {"options": list(OPTIONS[destination])} if destination in OPTIONS else {}
