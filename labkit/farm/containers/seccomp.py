"""Which system calls a container's processes may make: OCI ``linux.seccomp``. Pure.

A list of what is allowed; every other call answers ENOSYS, as on a kernel that does not have it. So the C
library takes its way around a newer variant (clone3, openat2, futex_waitv, a call that is yet to be
invented), which it would not after EPERM. The calls were found by recording those that the containers
of :mod:`labkit.farm.study.probes` make on each of the root file systems that serve, and by adding their older and newer
variants and those of the way after an error. Of calls that do many things the arguments are looked at.

A call through another of the processor's binary interfaces (on amd64: i386's and x32's) is in none of these
lists, and ends the thread that makes it: no program of the images has one (seccomp(2), libseccomp's
SCMP_FLTATR_ACT_BADARCH).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

#: What a container's processes do.
Work = Literal["run", "files", "write", "wait", "processes", "network", "become"]
WORKS: tuple[Work, ...] = get_args(Work)
#: A program that works alone: it reads and writes files, waits, and starts others.
ALONE: tuple[Work, ...] = ("run", "files", "write", "wait", "processes")
#: All that is done in a replica: also its sockets, and the ssh server's taking on of a user's rights.
SERVING: tuple[Work, ...] = WORKS

#: The names of processors as the kernel has them (uname(2)), and those of their native interface for
#: seccomp.
ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


class Group(NamedTuple):
    """Calls that belong together, and why they are allowed."""

    reason: str
    calls: tuple[str, ...]


class Condition(NamedTuple):
    """What a call's argument has to be: ``value`` is what it is compared with, after ``mask``, if there is one."""

    argument: int
    value: int
    mask: int = 0


#: linux/sched.h: the flags of clone(2) that make a namespace, but CLONE_NEWTIME, which shares its bit with the
#: signal that the parent gets and is clone3's and unshare's alone.
NAMESPACES = 0x7E020000
#: socket(2), linux/socket.h: families, the part of a type that is no flag, and its values.
UNIX, INET, INET6, NETLINK = 1, 2, 10, 16
TYPE, STREAM, DATAGRAM = 0xF, 1, 2
#: netlink(7): the protocols by which the C library asks for the machine's own addresses, and by which sshd
#: tells the kernel's audit of a session with a terminal.
ROUTE, AUDIT = 0, 9

#: The calls of each kind of work. What another machine or kernel does not have is left out there.
GROUPS: Mapping[Work, Group] = {
    "run": Group(
        "to load a program, to give it memory, threads and random numbers, and to end it",
        (
            "arch_prctl", "brk", "execve", "exit", "exit_group", "futex", "get_robust_list", "getrandom",
            "getrlimit", "madvise", "mmap", "mprotect", "mremap", "munmap", "prctl", "prlimit64",
            "rseq", "sched_getaffinity", "sched_yield", "set_robust_list", "set_tid_address", "setrlimit",
            "sysinfo", "uname",
        ),
    ),
    "files": Group(
        "to find files and folders and to read them",
        (
            "access", "chdir", "close", "close_range", "dup", "dup2", "dup3", "faccessat", "faccessat2",
            "fadvise64", "fchdir", "fcntl", "flock", "fstat", "fstatfs", "getcwd", "getdents", "getdents64", "getxattr",
            "ioctl", "lgetxattr", "listxattr", "llistxattr", "lseek", "lstat", "newfstatat", "open", "openat", "pread64", "read", "readlink",
            "readlinkat", "readv", "stat", "statfs", "statx", "umask",
        ),
    ),
    "write": Group(
        "to write logs and what is kept in memory, such as process ids and locks",
        (
            "chmod", "chown", "fchmod", "fchmodat", "fchown", "fchownat",
            "fdatasync", "fsync", "ftruncate", "mkdir", "mkdirat", "pwrite64", "rename", "renameat",
            "renameat2", "rmdir", "sendfile", "unlink", "unlinkat", "utimensat", "write", "writev",
        ),
    ),
    "wait": Group(
        "to wait for time, for files and sockets, and for signals",
        (
            "alarm", "clock_getres", "clock_gettime", "clock_nanosleep", "epoll_create", "epoll_create1",
            "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2", "gettimeofday", "nanosleep", "pause",
            "poll", "ppoll", "pselect6", "restart_syscall", "rt_sigaction", "rt_sigprocmask",
            "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "select", "setitimer", "sigaltstack", "time", "times",
        ),
    ),
    "processes": Group(
        "to start processes and threads, to talk to them, and to know who they are",
        (
            "fork", "getegid", "geteuid", "getgid", "getgroups", "getpgid", "getpgrp", "getpid", "getppid",
            "getpriority", "getresgid", "getresuid", "getrusage", "gettid", "getuid", "kill", "pipe", "pipe2",
            "setpgid", "setsid", "tgkill", "vfork", "wait4", "waitid",
        ),
    ),
    "network": Group(
        "to answer on sockets, and to look names up",
        (
            "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
            "recvfrom", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
            "socketpair",
        ),
    ),
    "become": Group(
        "a server that begins as root gives its rights away: sshd's first part and its sessions; each needs a "
        "capability, which apache2 does not have",
        (
            "capget", "chroot", "setgid", "setgroups", "setresgid", "setresuid",
            "setuid",
        ),
    ),
}  # fmt: skip

#: Calls that are allowed with some arguments alone; each line of conditions is one such case.
LIMITED: Mapping[Work, Mapping[str, tuple[tuple[Condition, ...], ...]]] = {
    "processes": {"clone": ((Condition(0, 0, NAMESPACES),),)},
    "network": {
        "socket": (
            (Condition(0, UNIX),),
            *(
                (Condition(0, family), Condition(1, kind, TYPE))
                for family in (INET, INET6)
                for kind in (STREAM, DATAGRAM)
            ),
            (Condition(0, NETLINK), Condition(2, ROUTE)),
        )
    },
}

#: Calls that are refused by the error that their callers know for "this kernel has no such thing": sshd ends
#: a session when it is another one.
REFUSED: Mapping[Work, Mapping[str, tuple[int, tuple[Condition, ...]]]] = {
    "network": {"socket": (errno.EPROTONOSUPPORT, (Condition(0, NETLINK), Condition(2, AUDIT)))},
}


def profile(works: tuple[Work, ...], machine: str = "") -> dict[str, Any]:
    """``linux.seccomp`` for processes that do these kinds of work on a machine (default: this one).

    Names: OCI Runtime Specification 1.0.2, config-linux, seccomp.
    """
    plain = sorted({name for work in works for name in GROUPS[work].calls})
    cases = [
        _allowed((name,), case)
        for work in works
        for name, lines in LIMITED.get(work, {}).items()
        for case in lines
    ]
    refused = [
        {**_allowed((name,), case), "action": "SCMP_ACT_ERRNO", "errnoRet": error}
        for work in works
        for name, (error, case) in REFUSED.get(work, {}).items()
    ]
    native = ARCHITECTURES.get(machine or os.uname().machine)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        **({"architectures": [native]} if native else {}),
        "syscalls": [_allowed(tuple(plain)), *cases, *refused],
    }


def allowed(seccomp: Mapping[str, Any]) -> frozenset[str]:
    """The names of the calls that a profile allows, some of them with some arguments alone."""
    rules = (rule for rule in seccomp["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW")
    return frozenset(name for rule in rules for name in rule["names"])


def _allowed(names: tuple[str, ...], case: tuple[Condition, ...] = ()) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(names), "action": "SCMP_ACT_ALLOW"}
    return {**rule, "args": [_compared(item) for item in case]} if case else rule


def _compared(item: Condition) -> dict[str, Any]:
    """A condition as runC reads it: ``value`` is the mask where there is one, ``valueTwo`` the datum."""
    if item.mask:
        values = {"value": item.mask, "valueTwo": item.value, "op": "SCMP_CMP_MASKED_EQ"}
    else:
        values = {"value": item.value, "op": "SCMP_CMP_EQ"}
    return {"index": item.argument, **values}
