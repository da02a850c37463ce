"""Makes a container's config.json from an image's: OCI Runtime Specification 1.0. Pure.

The configuration comes from the image (umoci makes it); labkit changes the parts that :data:`REASONS` names:
user, namespaces, mounts and hidden files, limits, and the system calls that the container's processes may make.

Each limit is a row of :data:`LIMITS`, from which config.json, the checks in the kernel and the reports are made. runC
translates ``linux.resources`` for the version of control groups that the machine has. A kernel can only limit what it
counts, and with version 1 runC refuses any other limit: :func:`counted` says what it counts.
"""

from __future__ import annotations

import copy
import difflib
import errno
import functools
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from labkit.display import human_bytes
from labkit.kernel import cgroups
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


#: Microseconds in which a container may use up its share of the processors: the kernel's default.
PERIOD = 100_000
#: Each container's weight for processor time: the kernel's default for a group in version 1 (100 in version 2).
SHARES = 1024
Counted = Literal["swap", "processors"]
#: The files of limits that not every kernel has with version 1, below the controller's folder.
OPTIONAL: Mapping[Counted, str] = {
    "swap": "memory/memory.memsw.limit_in_bytes",
    "processors": "cpu/cpu.cfs_quota_us",
}


@dataclass(frozen=True)
class Limit:
    """A limit that a control group sets.

    ``name`` is the field of a container's Spec; ``subject`` the row in the comparison of defaults; ``check`` the name
    of the check that the kernel has it; ``files`` the controller's files in version 1 and 2 (Linux, admin-guide/cgroup-v1 and cgroup-v2.rst); ``resource`` makes the
    controller's part of ``linux.resources`` from a value; ``words`` says such a part in words.
    """

    name: str
    subject: str
    check: str
    controller: str
    files: tuple[str, str]
    default: float
    resource: Callable[[Any, Collection[Counted]], dict[str, Any]]
    words: Callable[[Mapping[str, Any]], str]


def _memory(value: int, kernel: Collection[Counted]) -> dict[str, Any]:
    return {"limit": value, **({"swap": value} if "swap" in kernel else {})}


def _memory_words(part: Mapping[str, Any]) -> str:
    swap = " with swap space" if part.get("swap") == part["limit"] else ""
    return f"{human_bytes(part['limit'])}{swap}"


def _processors(value: float, kernel: Collection[Counted]) -> dict[str, Any]:
    quota = {"quota": int(value * PERIOD), "period": PERIOD} if "processors" in kernel else {}
    return {"shares": SHARES, **quota}


def _processors_words(part: Mapping[str, Any]) -> str:
    quota = part.get("quota")
    return f"{quota / part['period']:g}" if quota else "a weight like any other"


#: Memory in bytes (with swap space, where the kernel counts it), processes and threads, processors.
LIMITS = (
    Limit(
        "memory", "memory", "container.memory", "memory", ("memory.limit_in_bytes", "memory.max"), 256 * 2**20,
        _memory, _memory_words,
    ),
    Limit(
        "pids", "processes", "container.pids", "pids", ("pids.max", "pids.max"), 256,
        lambda value, _: {"limit": value}, lambda part: str(part["limit"]),
    ),
    Limit(
        "processors", "processors", "container.time", "cpu", ("cpu.cfs_quota_us", "cpu.max"), 1.0,
        _processors, _processors_words,
    ),
)  # fmt: skip
#: Limits of each process: open files, and bytes of a file that it writes (getrlimit(2)).
FILES, SIZE = 4096, 64 * 2**20


@functools.cache
def counted(base: Path = cgroups.BASE) -> frozenset[Counted]:
    """What this machine's kernel counts besides memory and processes.

    In version 2 both: runC itself leaves out a swap limit that the kernel does not know.
    """
    if (base / "cgroup.controllers").exists():
        return frozenset(OPTIONAL)
    return frozenset(name for name, file in OPTIONAL.items() if (base / file).exists())


def resources(image: Json, spec: Spec) -> dict[str, Any]:
    """``linux.resources``: the image's with the container's value for each of :data:`LIMITS`. Pure."""
    made = {
        item.controller: item.resource(getattr(spec, item.name), spec.kernel) for item in LIMITS
    }
    return {**image, **made}


def in_kernel(limit: Limit, resources: Mapping[str, Any]) -> int | None:
    """The number that the kernel shows for a limit, None for one that it does not count. Pure."""
    part = resources[limit.controller]
    number: int | None = part.get("limit", part.get("quota"))
    return number


def in_words(resources: Mapping[str, Any]) -> dict[str, str]:
    """The limits of ``linux.resources`` in words, by subject. Pure."""
    return {item.subject: item.words(resources.get(item.controller, {})) for item in LIMITS}


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
    use; ``serving`` says whether it is a server, which decides its system calls; ``kernel`` is what this machine's kernel
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
    kernel: frozenset[Counted] = Field(default_factory=counted)
    serving: bool = False
    readonly: bool = True


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
    ceilings = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": spec.size, "RLIMIT_NOFILE": spec.files}
    process["terminal"] = spec.terminal
    process["user"] = {"uid": spec.uid, "gid": spec.gid}
    process["args"] = list(spec.args)
    process["env"] = environment(process.get("env", []), spec.environment)
    # in all sets but the ambient and inheritable (capabilities(7))
    process["capabilities"] = {
        kind: list(spec.capabilities) for kind in ("bounding", "effective", "permitted")
    }
    process["rlimits"] = [{"type": name, "hard": n, "soft": n} for name, n in ceilings.items()]
    process["noNewPrivileges"] = True
    config["root"] = {**config["root"], "readonly": spec.readonly}
    config["hostname"] = spec.name
    config["mounts"] = kept_mounts(config["mounts"]) + [
        {"type": mount.kind, **mount.model_dump(mode="json", exclude={"kind"})}
        for mount in spec.mounts
    ]
    masked = {*linux.get("maskedPaths", ()), *MASKED}
    read_only = {*linux.get("readonlyPaths", ()), *READ_ONLY}
    linux["maskedPaths"], linux["readonlyPaths"] = sorted(masked), sorted(read_only - masked)
    linux["cgroupsPath"] = spec.cgroup
    linux["sysctl"] = dict(spec.sysctl)
    linux["resources"] = resources(linux.get("resources", {}), spec)
    linux["namespaces"] = _namespaces(linux["namespaces"], spec)
    linux["seccomp"] = seccomp(serving=spec.serving)
    if spec.ids:
        for kind in ("uidMappings", "gidMappings"):
            linux[kind] = [{"containerID": 0, "hostID": spec.ids, "size": IDS}]
    return config


def _namespaces(image: Iterable[Mapping[str, str]], spec: Spec) -> list[dict[str, str]]:
    found = {item["type"]: dict(item) for item in image}
    if "network" in found and spec.netns:
        found["network"] = {"type": "network", "path": f"/run/netns/{spec.netns}"}
    found.setdefault("cgroup", {"type": "cgroup"})
    if spec.ids:
        found["user"] = {"type": "user", **({"path": spec.users} if spec.users else {})}
    return list(found.values())


def kept_mounts(image: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """An image's mounts without those that are withheld, each with the options of :data:`OPTIONS`."""
    kept = [dict(item) for item in image if item["type"] not in WITHHELD]
    for item in kept:
        if item["destination"] in OPTIONS:
            item["options"] = list(OPTIONS[item["destination"]])
    return kept


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


#: Lists whose items have names: how to take (name, content) from an item.
NAMED: Mapping[str, Callable[[Any], tuple[str, Any]]] = {
    "linux.namespaces": lambda item: (item["type"], item),
    "mounts": lambda item: (item["destination"], item),
    "process.env": lambda item: item.partition("=")[::2],
}


# -- system calls --------------------------------------------------------------------------------

#: The system calls that a container's processes may make, by what they are for; each other one answers ENOSYS, as on a
#: kernel without it. So the C library falls back from a newer variant (clone3, openat2, futex_waitv) to an older one,
#: which it would not after EPERM. The calls were found by recording those that the containers of
#: :mod:`labkit.farm.study` make on each of the root file systems that serve, and by adding their older and newer
#: variants and those after an error. libseccomp leaves out calls that a machine does not have. A call through another of
#: the processor's binary interfaces (on amd64: i386's and x32's) ends the thread (seccomp(2), libseccomp's
#: SCMP_FLTATR_ACT_BADARCH). Here are those of a program that works alone.
ALONE: Mapping[str, tuple[str, ...]] = {
    "to load a program, to give it memory, threads and random numbers, and to end it": (
        "arch_prctl", "brk", "execve", "exit", "exit_group", "futex", "get_robust_list", "getrandom",
        "getrlimit", "madvise", "mmap", "mprotect", "mremap", "munmap", "prctl", "prlimit64", "rseq",
        "sched_getaffinity", "sched_yield", "set_robust_list", "set_tid_address", "setrlimit", "sysinfo",
        "uname",
    ),
    "to find files and folders and to read them": (
        "access", "chdir", "close", "close_range", "dup", "dup2", "dup3", "faccessat", "faccessat2",
        "fadvise64", "fchdir", "fcntl", "flock", "fstat", "fstatfs", "getcwd", "getdents", "getdents64",
        "getxattr", "ioctl", "lgetxattr", "listxattr", "llistxattr", "lseek", "lstat", "newfstatat", "open",
        "openat", "pread64", "read", "readlink", "readlinkat", "readv", "stat", "statfs", "statx", "umask",
    ),
    "to write logs and what is kept in memory, such as process ids and locks": (
        "chmod", "chown", "fchmod", "fchmodat", "fchown", "fchownat", "fdatasync", "fsync", "ftruncate",
        "mkdir", "mkdirat", "pwrite64", "rename", "renameat", "renameat2", "rmdir", "sendfile", "unlink",
        "unlinkat", "utimensat", "write", "writev",
    ),
    "to wait for time, for files and sockets, and for signals": (
        "alarm", "clock_getres", "clock_gettime", "clock_nanosleep", "epoll_create", "epoll_create1",
        "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2", "gettimeofday", "nanosleep", "pause", "poll",
        "ppoll", "pselect6", "restart_syscall", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
        "rt_sigsuspend", "rt_sigtimedwait", "select", "setitimer", "sigaltstack", "time", "times",
    ),
    "to start processes and threads, to talk to them, and to know who they are": (
        "fork", "getegid", "geteuid", "getgid", "getgroups", "getpgid", "getpgrp", "getpid", "getppid",
        "getpriority", "getresgid", "getresuid", "getrusage", "gettid", "getuid", "kill", "pipe", "pipe2",
        "setpgid", "setsid", "tgkill", "vfork", "wait4", "waitid",
    ),
}  # fmt: skip
#: Those of a replica besides: sockets, and an ssh server that takes on a user's rights.
SERVING: Mapping[str, tuple[str, ...]] = {
    "to answer on sockets, and to look names up": (
        "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
        "recvfrom", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair",
    ),
    "to give root's rights away, as sshd does; each needs a capability, which apache2 does not have": (
        "capget", "chroot", "setgid", "setgroups", "setresgid", "setresuid", "setuid",
    ),
}  # fmt: skip
#: The names of native processors as the kernel (uname(2)) and as seccomp have them; elsewhere libseccomp's default
#: is the native one, too.
ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
#: linux/sched.h: the flags of clone(2) that make a namespace, but CLONE_NEWTIME, which shares its bit with the
#: signal that the parent gets and is clone3's and unshare's alone.
NAMESPACES = 0x7E020000
#: socket(2), linux/socket.h: families, the part of a type that is no flag, and its values.
UNIX, INET, INET6, NETLINK = 1, 2, 10, 16
TYPE, STREAM, DATAGRAM = 0xF, 1, 2
#: netlink(7): the protocols by which the C library asks for the machine's own addresses, and by which sshd
#: tells the kernel's audit of a session with a terminal.
ROUTE, AUDIT = 0, 9


def seccomp(*, serving: bool, machine: str = "") -> dict[str, Any]:
    """``linux.seccomp`` for a program that works alone, or for a replica's on a machine (uname -m; default: this one).

    Names: OCI Runtime Specification 1.0.2, config-linux, seccomp.
    """
    groups = {**ALONE, **SERVING} if serving else ALONE
    rules = [
        _rule(*sorted(name for names in groups.values() for name in names)),
        _rule("clone", _equal(0, 0, NAMESPACES)),
    ]
    if serving:
        rules += [
            _rule("socket", _equal(0, UNIX)),
            *(
                _rule("socket", _equal(0, family), _equal(1, kind, TYPE))
                for family in (INET, INET6)
                for kind in (STREAM, DATAGRAM)
            ),
            _rule("socket", _equal(0, NETLINK), _equal(2, ROUTE)),
            # sshd knows "this kernel has no such thing", and ends a session at another error
            {
                **_rule("socket", _equal(0, NETLINK), _equal(2, AUDIT)),
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": errno.EPROTONOSUPPORT,
            },
        ]
    native = ARCHITECTURES.get(machine or os.uname().machine)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        **({"architectures": [native]} if native else {}),
        "syscalls": rules,
    }


def allowed_calls(profile: Mapping[str, Any]) -> frozenset[str]:
    """The system calls that a seccomp profile allows, some of them with certain arguments only."""
    rules = (rule for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW")
    return frozenset(name for rule in rules for name in rule["names"])


def _rule(*words: str | dict[str, Any]) -> dict[str, Any]:
    """Allows the calls that are named, if each of the conditions holds."""
    rule: dict[str, Any] = {
        "names": [word for word in words if isinstance(word, str)],
        "action": "SCMP_ACT_ALLOW",
    }
    conditions = [word for word in words if not isinstance(word, str)]
    return {**rule, "args": conditions} if conditions else rule


def _equal(argument: int, value: int, mask: int = 0) -> dict[str, Any]:
    """The condition that a call's argument, after ``mask``, is ``value``, as runC reads it: with a mask, its
    ``value`` is the mask and ``valueTwo`` the value."""
    if mask:
        return {"index": argument, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
    return {"index": argument, "value": value, "op": "SCMP_CMP_EQ"}
