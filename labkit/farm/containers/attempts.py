"""What is tried from inside a container and must not come about."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

#: What a call answers that the container's list does not have.
NO_CALL = "ENOSYS"
#: linux/sched.h: CLONE_NEWUSER, and no signal at the child's end.
NEW_USERS = 0x10000000
#: Calls that no container needs (what follows the name is for the reader), each with arguments that could do no
#: harm if it were made: PTRACE_TRACEME would, as whoever is traced stops at each signal that runC passes on.
CALLS: Mapping[str, tuple[int | str, ...]] = {
    "unshare(CLONE_NEWUSER)": (NEW_USERS,),
    "clone(CLONE_NEWUSER)": (NEW_USERS,),
    "clone3": (0, 0),
    "setns": (-1, 0),
    "mount": ("none", "/nowhere", "tmpfs"),
    "umount2": ("/nowhere", 0),
    "pivot_root": ("/nowhere", "/nowhere"),
    "fsopen": ("tmpfs", 0),
    "open_tree": (-1, "/nowhere", 0),
    "open_by_handle_at": (-1, 0, 0),
    "keyctl": (0, 0, 0),
    "add_key": ("user", "labkit", 0, 0, 0),
    "bpf": (0, 0, 0),
    "perf_event_open": (0, 0, -1, -1, 0),
    "ptrace(PTRACE_ATTACH)": (16, -1),
    "process_vm_readv": (1, 0, 0, 0, 0, 0),
    "pidfd_getfd": (-1, 0, 0),
    "io_uring_setup": (1, 0),
    "userfaultfd": (0,),
    "memfd_create": ("labkit", 0),
    "personality": (0xFFFFFFFF,),
    "reboot": (0, 0, 0, 0),
    "swapon": ("/nowhere", 0),
    "kexec_load": (0, 0, 0, 0),
    "init_module": (0, 0, ""),
    "delete_module": ("", 0),
    "iopl": (3,),
    "syslog": (3, 0, 0),
    "clock_settime": (0, 0),
    "sethostname": ("x", 1),
    "mknod": ("/dev/shm/device", 0o20600, 0x0101),  # noqa: S108 - the container's own
    "symlink": ("/etc/shadow", "/var/log/apache2/link"),
    "link": ("/etc/passwd", "/var/log/apache2/link"),
    "socket(AF_PACKET)": (17, 3, 0),
    "socket(AF_INET, SOCK_RAW)": (2, 3, 1),
    "socket(AF_VSOCK)": (40, 1, 0),
    "socket(AF_NETLINK, NETLINK_NETFILTER)": (16, 3, 12),
    "socket(AF_ALG)": (38, 5, 0),
}
#: Files of which nothing is to be read.
UNREADABLE = (
    "/proc/kcore", "/proc/keys", "/proc/interrupts", "/proc/kallsyms", "/proc/timer_list", "/proc/config.gz",
    "/proc/slabinfo", "/proc/vmallocinfo", "/proc/kmsg", "/sys/kernel/notes", "/sys/fs/cgroup/cgroup.procs",
    "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda",
)  # fmt: skip
#: Files that are not to be opened for writing, whether they are there or not.
UNWRITABLE = (
    "/etc/passwd", "/etc/ld.so.preload", "/usr/bin/new", "/root/new", "/tmp/new", "/var/www/html/new",  # noqa: S108
    "/dev/new", "/run/new", "/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern",
    "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity",
)  # fmt: skip
#: Where it can write: else nothing above would mean anything.
WRITABLE = ("/run/apache2/new", "/var/log/apache2/new")


class Attempt(NamedTuple):
    """Something that was tried: its kind (call, read, write, or allowed), and what came of it."""

    kind: str
    what: str
    seen: str

    @property
    def prevented(self) -> bool:
        """Whether it came to nothing: a call is not there, a file is empty or cannot be opened."""
        if self.kind == "call":
            return self.seen == NO_CALL
        return self.seen not in ("some", "done")


@functools.cache
def planned() -> Sequence[tuple[str, str, tuple[int | str, ...]]]:
    """All that is tried on this machine: kind, what, and a call's number with its arguments. A call that the
    machine's processor does not have (symlink on arm64) is left out: no program can make it."""
    numbers = {name: _number(name.partition("(")[0]) for name in CALLS}
    return (
        *(
            ("call", name, (numbers[name], *(*given, *[0] * 6)[:6]))
            for name, given in CALLS.items()
            if numbers[name] >= 0
        ),
        *(("read", path, ()) for path in UNREADABLE),
        *(("write", path, ()) for path in UNWRITABLE),
        *(("allowed", path, ()) for path in WRITABLE),
    )


def read(said: str) -> tuple[Attempt, ...]:
    """What the probe wrote, a word for each attempt; those are missing that it did not come to."""
    pairs = zip(planned(), said.split(), strict=False)
    return tuple(Attempt(kind, what, seen) for (kind, what, _), seen in pairs)


def _number(name: str) -> int:
    """A system call's number on this machine, below 0 for none (seccomp_syscall_resolve_name(3): runC's own
    library)."""
    return int(ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name(name.encode()))
