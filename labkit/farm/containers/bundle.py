"""Makes a container's config.json from an image's: OCI Runtime Specification 1.0. Pure.

The configuration comes from the image (umoci makes it); labkit changes the parts that :data:`REASONS` names:
user, namespaces, mounts and hidden files, limits (:mod:`labkit.farm.containers.limits`), and the system calls that
the container's processes may make.
"""

from __future__ import annotations

import copy
import difflib
import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field

from labkit.farm.containers import limits
from labkit.farm.containers.limits import FILES, LIMITS, SIZE, Counted
from labkit.kernel.users import IDS
from labkit.model.resources import fingerprint
from labkit.records import Record

Json = Mapping[str, Any]

#: Why labkit changes a part of the configuration: the longest matching beginning of a key counts.
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


#: File systems of the image's configuration that no container gets. A server has no use for the control groups, not even to
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
#: Files that cannot be read: what the kernel says there is about the machine. The defaults of Docker 28 and of
#: Podman 4.3, and the lists of all processes' memory and modules. runC leaves out what a machine does not have.
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/config.gz", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore",
    "/proc/key-users", "/proc/keys", "/proc/kmsg", "/proc/kpagecgroup", "/proc/kpagecount", "/proc/kpageflags",
    "/proc/latency_stats", "/proc/modules", "/proc/pagetypeinfo", "/proc/sched_debug", "/proc/schedstat",
    "/proc/scsi", "/proc/slabinfo", "/proc/sysvipc", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
    "/sys/dev/block", "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux",
)  # fmt: skip
#: Files that cannot be written: the kernel takes what is written there as an order.
READ_ONLY = (
    "/proc/bus", "/proc/driver", "/proc/fs", "/proc/irq", "/proc/mtrr", "/proc/pressure", "/proc/sys",
    "/proc/sysrq-trigger", "/proc/tty",
)  # fmt: skip

#: The kinds of work that a container's processes do.
Work = Literal["run", "files", "write", "wait", "processes", "network", "become"]
WORKS: tuple[Work, ...] = get_args(Work)
#: A program that works alone: it reads and writes files, waits, and starts others.
ALONE: tuple[Work, ...] = ("run", "files", "write", "wait", "processes")
#: The work in a replica: also sockets, and an ssh server that takes on a user's rights.
SERVING: tuple[Work, ...] = WORKS
#: The names of native processors as the kernel (uname(2)) and as seccomp have them; elsewhere libseccomp's default
#: is the native one, too.
ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


class Group(NamedTuple):
    """System calls that belong together, and why they are allowed."""

    reason: str
    calls: tuple[str, ...]


class Condition(NamedTuple):
    """A condition on a call's argument, which equals ``value`` after ``mask``, if there is one."""

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

#: The system calls of each kind of work, which are allowed; each other one answers ENOSYS, as on a kernel without it.
#: So the C library falls back from a newer variant (clone3, openat2, futex_waitv) to an older one, which it would not
#: after EPERM. The calls were found by recording those that the containers of :mod:`labkit.farm.study` make on each
#: of the root file systems that serve, and by adding their older and newer variants and those after an error.
#: libseccomp leaves out calls that a machine does not have. A call through another of the processor's binary
#: interfaces (on amd64: i386's and x32's) ends the thread (seccomp(2), libseccomp's SCMP_FLTATR_ACT_BADARCH).
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

#: The annotation with the fingerprint of the configuration that a container was created with.
MADE_OF = "labkit.made-of"


class Mount(Record):
    """A mount in the container: ``kind`` tmpfs, or bind (then ``source`` is a folder of the host)."""

    destination: str
    kind: str
    source: str
    options: tuple[str, ...] = ()


class Spec(Record):
    """The container to make.

    ``memory`` and ``size`` (of a file that it writes) are in bytes; ``processors`` is the processor time that it may
    use; ``works`` are the kinds of work, which decide its system calls; ``kernel`` is what this machine's kernel
    counts; ``netns`` '' makes a new, empty network namespace; ``ids`` is the first uid and gid of the machine's that
    stand for the container's, 0 for none; ``users`` is the file of a user namespace with them, '' makes a new one.
    """

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
    files: int = FILES
    size: int = SIZE
    netns: str = ""
    sysctl: dict[str, str]
    mounts: tuple[Mount, ...] = ()
    memory: int = int(LIMITS[0].default)
    pids: int = int(LIMITS[1].default)
    processors: float = LIMITS[2].default
    kernel: frozenset[Counted] = Field(default_factory=limits.counted)
    works: tuple[Work, ...] = ALONE
    readonly: bool = True

    @property
    def limits(self) -> dict[str, float]:
        """The values of its limits, by their names in :data:`labkit.farm.containers.limits.LIMITS`."""
        return {item.name: getattr(self, item.name) for item in LIMITS}


class Change(Record):
    """One changed value of config.json: its key, the value before and after (as JSON), and why labkit changes it
    ('' for no reason)."""

    key: str
    before: str
    after: str
    reason: str


def configure(image: Json, spec: Spec) -> dict[str, Any]:
    """The bundle's config.json: the image's with what ``spec`` says."""
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
    config["mounts"] = [*kept_mounts(config["mounts"]), *map(_mount, spec.mounts)]
    linux.update(_linux(linux, spec))
    if spec.ids:
        path = {"path": spec.users} if spec.users else {}
        linux["namespaces"].append({"type": "user", **path})
        for kind in ("uidMappings", "gidMappings"):
            linux[kind] = [{"containerID": 0, "hostID": spec.ids, "size": IDS}]
    return config


def _linux(image: Json, spec: Spec) -> dict[str, Any]:
    spaces = [_namespace(item, spec.netns) for item in image["namespaces"]]
    masked = sorted({*image.get("maskedPaths", ()), *MASKED})
    read_only = {*image.get("readonlyPaths", ()), *READ_ONLY}
    return {
        "cgroupsPath": spec.cgroup,
        "sysctl": dict(spec.sysctl),
        "resources": limits.resources(
            image.get("resources", {}), kernel=spec.kernel, **spec.limits
        ),
        "namespaces": [*spaces, *([] if {"type": "cgroup"} in spaces else [{"type": "cgroup"}])],
        "maskedPaths": masked,
        "readonlyPaths": sorted(read_only - set(masked)),
        "seccomp": seccomp(spec.works),
    }


def kept_mounts(image: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """An image's mounts without those that are withheld, each with the options of :data:`OPTIONS`."""
    return [
        {
            **item,
            **(
                {"options": list(OPTIONS[place])}
                if (place := item["destination"]) in OPTIONS
                else {}
            ),
        }
        for item in image
        if item["type"] not in WITHHELD
    ]


def marked(config: Json) -> dict[str, Any]:
    """The configuration with its fingerprint (12 hexadecimal digits) in an annotation."""
    own = {key: value for key, value in config.get("annotations", {}).items() if key != MADE_OF}
    bare = {**config, "annotations": own}
    return {**bare, "annotations": {**own, MADE_OF: fingerprint(json.dumps(bare, sort_keys=True))}}


def made_of(config: str) -> str:
    """The fingerprint that a configuration's text names, '' when it names none."""
    found = re.search(rf'"{re.escape(MADE_OF)}": "([0-9a-f]*)"', config)
    return found[1] if found else ""


def environment(image: list[str], more: Mapping[str, str]) -> list[str]:
    """The image's variables and ``more``, which replace those of the same name; the order is kept."""
    values = dict(item.split("=", 1) for item in image) | dict(more)
    return [f"{name}={value}" for name, value in values.items()]


def capabilities(names: tuple[str, ...]) -> dict[str, list[str]]:
    """``process.capabilities``: the names in all sets but the ambient and inheritable (capabilities(7))."""
    return {kind: list(names) for kind in ("bounding", "effective", "permitted")}


def changes(before: Json, after: Json) -> tuple[Change, ...]:
    """Every value that differs, by its key, with the reason for it."""
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
    """A unified diff of the two configurations as text."""
    lines = difflib.unified_diff(
        text(before).splitlines(), text(after).splitlines(),
        "config.json of the image", "config.json of the container", lineterm="",
    )  # fmt: skip
    return "\n".join(lines)


def text(config: Json) -> str:
    """A configuration as JSON: keys in order, two spaces."""
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def reason(key: str) -> str:
    """Why labkit changes the value at ``key``; '' for one that it has no reason to change."""
    fitting = [
        known for known in REASONS if key == known or key.startswith((f"{known}.", f"{known}["))
    ]
    return REASONS[max(fitting, key=len)] if fitting else ""


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, JSON) of every value that is not an object; the items of lists in :data:`NAMED` count, other lists as a
    whole."""
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


#: Lists whose items have names: how to take (name, content) from an item.
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


def seccomp(works: tuple[Work, ...], machine: str = "") -> dict[str, Any]:
    """``linux.seccomp`` for processes that do these kinds of work on a machine (uname -m; default: this one).

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


def allowed_calls(profile: Mapping[str, Any]) -> frozenset[str]:
    """The system calls that a seccomp profile allows, some of them with certain arguments only."""
    rules = (rule for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW")
    return frozenset(name for rule in rules for name in rule["names"])


def _allowed(names: tuple[str, ...], case: tuple[Condition, ...] = ()) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(names), "action": "SCMP_ACT_ALLOW"}
    return {**rule, "args": [_compared(item) for item in case]} if case else rule


def _compared(item: Condition) -> dict[str, Any]:
    """A condition as runC reads it: with a mask, ``value`` is the mask and ``valueTwo`` the value."""
    if item.mask:
        values = {"value": item.mask, "valueTwo": item.value, "op": "SCMP_CMP_MASKED_EQ"}
    else:
        values = {"value": item.value, "op": "SCMP_CMP_EQ"}
    return {"index": item.argument, **values}
