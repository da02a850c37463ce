"""The program that attempts, inside a container, what no container may do; and the list of these attempts.

The machine's Python runs this file in the container (:func:`labkit.farm.containers.confinement.confined`). It uses
Python's standard library alone, neither the image nor labkit.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

#: The error of a system call that the container's filter does not allow.
NO_CALL = "ENOSYS"
#: linux/sched.h: CLONE_NEWUSER, and no signal at the child's end.
NEW_USERS = 0x10000000
#: Calls that no container needs (the text after the name is for the reader), each with arguments that do no harm if
#: it is made: PTRACE_TRACEME would, as a traced process stops at each signal that runC passes on.
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
#: Files that must not be readable.
UNREADABLE = (
    "/proc/kcore", "/proc/keys", "/proc/interrupts", "/proc/kallsyms", "/proc/timer_list", "/proc/config.gz",
    "/proc/slabinfo", "/proc/vmallocinfo", "/proc/kmsg", "/sys/kernel/notes", "/sys/fs/cgroup/cgroup.procs",
    "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda",
)  # fmt: skip
#: Files that must not open for writing, whether they exist or not.
UNWRITABLE = (
    "/etc/passwd", "/etc/ld.so.preload", "/usr/bin/new", "/root/new", "/tmp/new", "/var/www/html/new",  # noqa: S108
    "/dev/new", "/run/new", "/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern",
    "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity",
)  # fmt: skip
#: Files that must open for writing: else the attempts above prove nothing.
WRITABLE = ("/run/apache2/new", "/var/log/apache2/new")


class Attempt(NamedTuple):
    """An attempt: its kind (call, read, write, or allowed), its name, and the result in a word."""

    kind: str
    what: str
    seen: str

    @property
    def prevented(self) -> bool:
        """Whether it failed: the call does not exist, the file is empty or cannot be opened."""
        if self.kind == "call":
            return self.seen == NO_CALL
        return self.seen not in ("some", "done")


@functools.cache
def planned() -> Sequence[tuple[str, str, tuple[int | str, ...]]]:
    """All attempts on this machine: kind, name, and a call's number with its arguments. A call that the machine's
    processor does not have (symlink on arm64) is left out."""
    numbers = {name: _number(name.partition("(")[0]) for name in CALLS}
    return (
        *(
            ("call", name, (numbers[name], *(*arguments, *[0] * 6)[:6]))
            for name, arguments in CALLS.items()
            if numbers[name] >= 0
        ),
        *(("read", path, ()) for path in UNREADABLE),
        *(("write", path, ()) for path in UNWRITABLE),
        *(("allowed", path, ()) for path in WRITABLE),
    )


def read(output: str) -> tuple[Attempt, ...]:
    """The attempts and the probe's words for them; those are missing that it did not get to."""
    pairs = zip(planned(), output.split(), strict=False)
    return tuple(Attempt(kind, name, word) for (kind, name, _), word in pairs)


def _number(name: str) -> int:
    """A system call's number on this machine's processor, below 0 for none (seccomp_syscall_resolve_name(3))."""
    return int(ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name(name.encode()))


def tried(kind: str, path: str, call: Sequence[int | str]) -> str:
    """Makes one attempt; returns 'some' or 'nothing' (the result), 'done', or the error's name."""
    try:
        if kind == "call":
            return "some" if _call(call) else "nothing"
        flags = os.O_RDONLY if kind == "read" else os.O_WRONLY | os.O_CREAT
        opened = os.open(path, flags, 0o600)
        if kind != "read":
            return "done"
        return "some" if os.read(opened, 16) else "nothing"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "an error")


def _call(call: Sequence[int | str]) -> int:
    """Makes a system call and returns its result; a text is given by its address."""
    caller = os.getpid()
    words = [word.encode() if isinstance(word, str) else ctypes.c_long(word) for word in call]
    result = int(ctypes.CDLL(None, use_errno=True).syscall(*words))
    if os.getpid() != caller:  # clone(2) made a process, and this is it
        os._exit(0)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


if __name__ == "__main__":
    for attempt in json.loads(sys.argv[1]):
        with suppress(BrokenPipeError):
            print(tried(*attempt), flush=True)
