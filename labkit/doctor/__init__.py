"""Checks that this machine can run the lab: everything that the lab needs is looked at, and nothing is changed.

What keeps the lab from running is a blocker: a check that does not hold, with its remedy in the
result's value and in its table ``blockers``.
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
    """What keeps the lab from running: the check that says so, the error's code, what was seen, what to do."""

    check: str
    code: str
    seen: str
    remedy: str


class Machine(Record):
    """The machine as it was found; ``memory`` in bytes."""

    system: str
    kernel: str
    python: str
    processors: int
    memory: int
    blockers: tuple[Blocker, ...]


@dataclass(frozen=True)
class Need:
    """One thing that the lab needs: ``look`` says what there is, or raises what is wrong with it."""

    name: str
    expected: str
    look: Callable[[Lab], str]
    again: str


NEEDS = (
    Need("root", "user 0: provisioning needs root", machine.root, "id -u"),
    Need("overlayfs", "an overlay can be mounted", machine.overlay, "grep overlay /proc/filesystems"),
    Need("namespaces", "network namespaces, veth pairs and bridges can be made", machine.network,
         "unshare --net ip link add v0 type veth"),
    Need("users", "a user namespace for each container, where it can be had", machine.users,
         "unshare --user true"),
    Need("cgroups", "mounted, and writable for root", machine.cgroups, "grep cgroup /proc/mounts"),
    Need("devices", "/dev/null and the others that containers get", machine.devices, "ls -l /dev/null"),
    Need("filter", "the kernel filters system calls", machine.system_calls,
         "cat /proc/sys/kernel/seccomp/actions_avail"),
    Need("python", "3.11 or later", programs.python, "python3 --version"),
    Need("firewall", "known, not needed: nftables, to keep replicas apart", machine.firewall,
         "unshare --net nft add table bridge x"),
    Need("packages", "all of labkit/debian-packages.txt", programs.packages, "./lab --packages"),
    Need("programs", "each program that labkit starts", programs.present, "command -v runc"),
    Need("browser", "a page is opened as the stages open theirs", programs.browser, "chromium --version"),
    Need("runc", "its security advisories, for information", programs.advisories, "dpkg-query --show runc"),
    Need("mirror", "the mirror of Debian packages answers", programs.mirror, "apt-get update"),
    Need("space.state", "3 GB free for root file systems and the wiki", partial(machine.free_space, key="state"), "df -h"),
    Need("builds", "programs and devices work below state and cache", machine.builds, "findmnt"),
    Need("space.outputs", "200 MB free for what runs leave", partial(machine.free_space, key="outputs"), "df -h"),
    Need("ports.proxy", "free for the balancer", partial(machine.free_port, key="proxy.port"), "ss -ltnp"),
    Need("ports.dns", "free for the DNS server", partial(machine.free_port, key="DNS port"), "ss -lunp"),
    Need("ports.wiki", "free for the wiki", partial(machine.free_port, key="wiki.port"), "ss -ltnp"),
    Need("subnet", "the machine does not route it elsewhere", machine.subnet, "ip route"),
)  # fmt: skip


@action("doctor.examine")
def examine(lab: Lab) -> Outcome[Machine]:
    """Checks everything that the lab needs of this machine; for each check that fails there is a blocker with its remedy."""
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
