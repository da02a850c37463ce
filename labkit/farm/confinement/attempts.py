"""What is tried from inside a container and must not come about. Pure.

The numbers of the calls are amd64's (Linux, arch/x86/entry/syscalls/syscall_64.tbl).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from labkit.farm.confinement.program import Call, calling, outcomes

#: What a call answers that the container's list does not have.
NO_CALL = "ENOSYS"
#: linux/sched.h: CLONE_NEWUSER, and no signal at the child's end: the parent, which asked to be traced, would stop.
NEW_USERS = 0x10000000
#: Calls that no container needs, each with arguments that could do no harm if it were made.
CALLS: Mapping[str, Call] = {
    "unshare(CLONE_NEWUSER)": Call(272, (NEW_USERS,)),
    "clone(CLONE_NEWUSER)": Call(56, (NEW_USERS,)),
    "clone3": Call(435, (0, 0)),
    "setns": Call(308, (-1, 0)),
    "mount": Call(165, ("none", "/nowhere", "tmpfs")),
    "umount2": Call(166, ("/nowhere", 0)),
    "pivot_root": Call(155, ("/nowhere", "/nowhere")),
    "fsopen": Call(430, ("tmpfs", 0)),
    "open_tree": Call(428, (-1, "/nowhere", 0)),
    "open_by_handle_at": Call(304, (-1, 0, 0)),
    "keyctl": Call(250, (0, 0, 0)),
    "add_key": Call(248, ("user", "labkit", 0, 0, 0)),
    "bpf": Call(321, (0, 0, 0)),
    "perf_event_open": Call(298, (0, 0, -1, -1, 0)),
    "ptrace(PTRACE_TRACEME)": Call(101, (0,)),
    "process_vm_readv": Call(310, (1, 0, 0, 0, 0, 0)),
    "pidfd_getfd": Call(438, (-1, 0, 0)),
    "io_uring_setup": Call(425, (1, 0)),
    "userfaultfd": Call(323, (0,)),
    "memfd_create": Call(319, ("labkit", 0)),
    "personality": Call(135, (0xFFFFFFFF,)),
    "reboot": Call(169, (0, 0, 0, 0)),
    "swapon": Call(167, ("/nowhere", 0)),
    "kexec_load": Call(246, (0, 0, 0, 0)),
    "init_module": Call(175, (0, 0, "")),
    "delete_module": Call(176, ("", 0)),
    "iopl": Call(172, (3,)),
    "syslog": Call(103, (3, 0, 0)),
    "clock_settime": Call(227, (0, 0)),
    "sethostname": Call(170, ("x", 1)),
    "mknod": Call(133, ("/dev/shm/device", 0o20600, 0x0101)),  # noqa: S108 - the container's own
    "symlink": Call(88, ("/etc/shadow", "/var/log/apache2/link")),
    "link": Call(86, ("/etc/passwd", "/var/log/apache2/link")),
    "socket(AF_PACKET)": Call(41, (17, 3, 0)),
    "socket(AF_INET, SOCK_RAW)": Call(41, (2, 3, 1)),
    "socket(AF_VSOCK)": Call(41, (40, 1, 0)),
    "socket(AF_NETLINK, NETLINK_NETFILTER)": Call(41, (16, 3, 12)),
    "socket(AF_ALG)": Call(41, (38, 5, 0)),
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
#: fcntl.h: AT_FDCWD; O_WRONLY and O_CREAT.
HERE, WRITE, CREATE = -100, 0o1, 0o100
#: Calls of the program's own: openat, read, close; the descriptor that is the lowest free one.
OPENAT, READ, CLOSE, LOWEST = 257, 0, 3, 3


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


def program() -> bytes:
    """The program that tries all of it."""
    return calling([call for _, _, calls in _parts() for call in calls])


def read(said: str) -> tuple[Attempt, ...]:
    """What the program wrote; those attempts are missing that it did not come to."""
    seen = iter(outcomes(said.strip("\n")))
    found = []
    for kind, what, calls in _parts():
        answers = [answer for _, answer in zip(calls, seen, strict=False)]
        if len(answers) < len(calls):
            break
        found.append(Attempt(kind, what, _came(kind, answers)))
    return tuple(found)


def count() -> int:
    """How much is tried."""
    return len(_parts())


def _parts() -> Sequence[tuple[str, str, Sequence[Call]]]:
    return (
        *(("call", name, (call,)) for name, call in CALLS.items()),
        *(("read", path, _open(path, 0, READ)) for path in UNREADABLE),
        *(("write", path, _open(path, WRITE | CREATE)) for path in UNWRITABLE),
        *(("allowed", path, _open(path, WRITE | CREATE)) for path in WRITABLE),
    )


def _open(path: str, flags: int, then: int | None = None) -> Sequence[Call]:
    """Opens a file, does one thing more, of 16 bytes onto the program's own beginning, and closes it."""
    more = [Call(then, (LOWEST, 0x400000, 16))] if then is not None else []
    return (Call(OPENAT, (HERE, path, flags, 0o600)), *more, Call(CLOSE, (LOWEST,)))


def _came(kind: str, answers: Iterable[str]) -> str:
    """A file's opening, when it failed; else what was read, or 'done'."""
    first, *rest = answers
    if kind == "call" or first not in ("some", "nothing"):
        return first
    return rest[0] if kind == "read" else "done"
