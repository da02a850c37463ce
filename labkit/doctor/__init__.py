"""Checks whether this machine can run the lab, and changes nothing.

Each check that does not hold is a blocker; its remedy is in the result's value and in its table ``blockers``.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from labkit.checks import Check
from labkit.core import run
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.doctor import machine, programs
from labkit.errors import LabkitError
from labkit.farm.rootfs import apt
from labkit.model.lab import Lab
from labkit.records import Record

__all__ = ["examine"]


class Blocker(Record):
    """Something that keeps the lab from running: the check, the error's code, what was seen, what to do."""

    check: str
    code: str
    seen: str
    remedy: str


class Machine(Record):
    """The machine; ``memory`` in bytes."""

    system: str
    kernel: str
    python: str
    processors: int
    memory: int
    blockers: tuple[Blocker, ...]


@dataclass(frozen=True)
class Need:
    """One thing that the lab needs. ``look`` returns what was seen, or raises the error."""

    name: str
    expected: str
    look: Callable[[Lab], str]
    again: str


NEEDS = (
    Need("root", "root (user 0)", machine.root, "id -u"),
    Need("overlayfs", "an overlay can be mounted", machine.overlay, "grep overlay /proc/filesystems"),
    Need("namespaces", "network namespaces, veth pairs and bridges can be made", machine.network,
         "unshare --net ip link add v0 type veth"),
    Need("users", "a user namespace for each container, if the kernel allows it", machine.users,
         "unshare --user true"),
    Need("cgroups", "mounted, and writable for root", machine.cgroups, "grep cgroup /proc/mounts"),
    Need("devices", "the devices of containers, such as /dev/null, work", machine.devices, "ls -l /dev/null"),
    Need("filter", "the kernel filters system calls", machine.system_calls,
         "cat /proc/sys/kernel/seccomp/actions_avail"),
    Need("python", "3.11 or later", programs.python, "python3 --version"),
    Need("firewall", "optional: nftables, which isolates replicas", machine.firewall,
         "unshare --net nft add table bridge x"),
    Need("packages", "all packages of labkit/debian-packages.txt", programs.packages, "./lab --packages"),
    Need("programs", "each program that labkit starts", programs.present, "command -v runc"),
    Need("browser", "the browser renders a page", programs.browser, "chromium --version"),
    Need("runc", "security advisories, for information", programs.advisories, "dpkg-query --show runc"),
    Need("mirror", "the mirror of Debian packages answers", programs.mirror, "apt-get update"),
    Need("space.state", "3 GB free for root file systems and the wiki", partial(machine.free_space, key="state"), "df -h"),
    Need("builds", "programs and devices work below state and cache", machine.builds, "findmnt"),
    Need("space.outputs", "200 MB free for results", partial(machine.free_space, key="outputs"), "df -h"),
    Need("ports.proxy", "free for the balancer", partial(machine.free_port, key="proxy.port"), "ss -ltnp"),
    Need("ports.dns", "free for the DNS server", partial(machine.free_port, key="DNS port"), "ss -lunp"),
    Need("ports.wiki", "free for the wiki", partial(machine.free_port, key="wiki.port"), "ss -ltnp"),
    Need("subnet", "this machine has no other route to the farm's network", machine.subnet, "ip route"),
)  # fmt: skip


@action("doctor.examine")
def examine(lab: Lab) -> Outcome[Machine]:
    """Checks everything in :data:`NEEDS`; a check that fails is a blocker. Nothing is changed."""
    seen = run.spread(lambda need: _seen(need, lab), NEEDS)
    blockers = tuple(blocker for _, blocker in seen if blocker)
    system = apt.os_release().get("PRETTY_NAME", platform.system())
    rows = [{"check": item.check, "seen": item.seen, "remedy": item.remedy} for item in blockers]
    remedies = Table.of("blockers", "What keeps the lab from running, and what to do", rows)
    held = len(NEEDS) - len(blockers)
    verdict = "cannot run the lab yet" if blockers else "can run the lab"
    return Outcome(
        value=Machine(
            system=system,
            kernel=platform.release(),
            python=platform.python_version(),
            processors=os.cpu_count() or 1,
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            blockers=blockers,
        ),
        subject=platform.node(),
        summary=f"{platform.node()}: {system}: {held} of {len(NEEDS)} checks hold; this machine {verdict}.",
        checks=tuple(check for check, _ in seen),
        tables=(*([remedies] if rows else []), programs.advisories_table(), programs.table()),
    )


def _seen(need: Need, lab: Lab) -> tuple[Check, Blocker | None]:
    """The check of one need and, when it is not met, the blocker."""
    name = f"doctor.{need.name}"
    try:
        found, error = need.look(lab), None
    except LabkitError as raised:
        found, error = f"{raised.value}: {raised.reason}", raised
    check = Check(
        name=name,
        expected=need.expected,
        seen=found,
        holds=error is None,
        again=(error.again if error else "") or need.again,
    )
    if error is None:
        return check, None
    return check, Blocker(check=name, code=error.code, seen=found, remedy=error.remedy)
