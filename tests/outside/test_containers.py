"""The running containers by the rules that others made for containers, asked of the kernel.

The numbers are those of the CIS Docker Benchmark 1.6 (section 5, which docker-bench-security asks of dockerd); the
enumeration is what amicontained prints: namespaces, capabilities, seccomp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit import Lab
from labkit.farm.containers import runc
from tests.outside.asking import needs, said, status

pytestmark = pytest.mark.root

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def pids(lab: Lab) -> list[int]:
    """The containers' first processes, by runC."""
    listed = json.loads(said("runc", "--root", runc.root(lab), "list", "--format", "json"))
    return [item["pid"] for item in listed if item["status"] == "running"]


def mounts(pid: int) -> list[list[str]]:
    """The lines of a process' mounts (proc(5), mountinfo)."""
    return [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]


def limit(pid: int, name: str) -> str:
    """A value of a process' control group, wherever it is mounted."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, kind, path = line.split(":", 2)
        for folder in (f"/sys/fs/cgroup/{kind}", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            file = Path(f"{folder}{path}/{name}")
            if file.is_file():
                return file.read_text().strip()
    return ""


def number(text: str) -> int:
    """A limit that is one."""
    return int(text) if text.isdigit() else 1 << 62


def sockets(pid: int) -> str:
    """The sockets of services of the host that lie in its mounts."""
    return " ".join(" ".join(line) for line in mounts(pid) if re.search(r"docker\.sock|containerd|dbus|systemd/private", " ".join(line)))  # fmt: skip


#: What must hold of a container's first process, by the benchmark's number.
RULES: dict[str, Callable[[int], bool]] = {
    "5.2 a seccomp or AppArmor profile": lambda pid: status(pid)["Seccomp"] == "2",
    "5.4 no capability that is not needed": lambda pid: int(status(pid)["CapBnd"], 16) == 0,
    "5.5 not privileged": lambda pid: int(status(pid)["CapEff"], 16) == 0,
    "5.6 no system folder of the host": lambda pid: not [m for m in mounts(pid) if m[4] in ("/boot", "/lib/modules", "/dev/mem")],
    "5.8 no port below 1024 by a right of root's": lambda pid: int(status(pid)["CapAmb"], 16) == 0,
    "5.10 the host's network is not shared": lambda pid: Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink(),
    "5.11 memory is limited": lambda pid: number(limit(pid, "memory.limit_in_bytes") or limit(pid, "memory.max")) < 1 << 40,
    "5.12 processors are shared out": lambda pid: (limit(pid, "cpu.cfs_quota_us") or limit(pid, "cpu.max")).split()[0] not in ("-1", "max"),
    "5.13 the root file system is read-only": lambda pid: "ro" in next(m for m in mounts(pid) if m[4] == "/")[5].split(","),
    "5.16 the host's processes are not shared": lambda pid: status(pid)["NSpid"].split()[-1] == "1",
    "5.17 the host's memory segments are not shared": lambda pid: Path(f"/proc/{pid}/ns/ipc").readlink() != Path("/proc/self/ns/ipc").readlink(),
    "5.18 no device of the host": lambda pid: not [m for m in mounts(pid) if re.fullmatch(r"/dev/(sd|vd|nvme|mem|kmsg).*", m[4])],
    "5.20 mounts do not propagate": lambda pid: not [m for m in mounts(pid) if any(word.startswith("shared:") for word in m)],
    "5.21 the host's name is not shared": lambda pid: Path(f"/proc/{pid}/ns/uts").readlink() != Path("/proc/self/ns/uts").readlink(),
    "5.25 a control group of its own": lambda pid: all(line.split(":", 2)[2] != "/" for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if ":pids:" in line or ":memory:" in line),
    "5.26 no new privileges": lambda pid: status(pid)["NoNewPrivs"] == "1",
    "5.29 processes are limited": lambda pid: number(limit(pid, "pids.max")) <= 4096,
    "5.31 the host's users are not shared": lambda pid: Path(f"/proc/{pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink(),
    "5.32 no socket of the host's services": lambda pid: not sockets(pid),
}  # fmt: skip


@needs("runc")
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_of_the_benchmark_holds(farm: Lab, rule: str) -> None:
    """Of each running container, as the kernel has it."""
    found = {pid: RULES[rule](pid) for pid in pids(farm)}
    assert len(found) == len(farm.farm)
    assert all(found.values()), found


@needs("runc", "lsns", "capsh")
def test_what_an_enumeration_from_outside_finds(farm: Lab) -> None:
    """Seven namespaces that are not the host's, no capability, filtered system calls."""
    for pid in pids(farm):
        listed = json.loads(said("lsns", "--json", "--task", str(pid)))["namespaces"]
        assert {item["type"] for item in listed} >= set(KINDS)
        for kind in KINDS:
            assert Path(f"/proc/{pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink()  # fmt: skip
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert said("capsh", f"--decode={status(pid)[name]}").strip() == "0x0000000000000000="
        assert status(pid)["Seccomp"] == "2"


@needs("runc")
def test_nobody_in_a_container_is_the_host_s_root(farm: Lab) -> None:
    """Nor anybody who has an account there."""
    for pid in pids(farm):
        for name in ("uid_map", "gid_map"):
            lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
            assert all(int(line.split()[1]) >= 65536 for line in lines)
