"""Tries what the lab needs of the kernel, in namespaces that end with the program that tries."""

from __future__ import annotations

import os
from pathlib import Path

from labkit.core import probes, run
from labkit.core.journal import not_root
from labkit.errors import CommandError, LabkitError, MachineError
from labkit.farm.containers import lab_namespaces
from labkit.farm.containers import overlay as overlays
from labkit.farm.network import firewall as guard
from labkit.farm.network.firewall import NAMES
from labkit.kernel import cgroups as groups
from labkit.kernel import netns
from labkit.kernel.users import IDS
from labkit.model.lab import Lab

#: What may be made in a network namespace, as arguments of ``ip link add``.
LINKS = (("v0", "type", "veth", "peer", "name", "v1"), ("b0", "type", "bridge"))

#: What the kernel's filter of system calls knows to do.
FILTERS = Path("/proc/sys/kernel/seccomp/actions_avail")


def root(lab: Lab) -> str:
    """Says that root asks; raises :class:`MachineError` for any other user."""
    require_root("the machine")
    return "user 0"


def require_root(what: str) -> None:
    """Raises :class:`MachineError` for anybody but root."""
    if os.geteuid():
        raise not_root(what)


def overlay(lab: Lab) -> str:
    """An overlay was mounted where the lab's would be, in a mount namespace of its own."""
    return f"mounted and gone again, on the file system of {overlays.require(lab)}"


def network(lab: Lab) -> str:
    """A veth pair and a bridge were made in a network namespace, which is gone again."""
    require_root("a network namespace")
    for words in LINKS:
        _try(
            ["ip", "link", "add", *words],
            what="--net",
            value=f"a link of the kind {words[2]}",
            remedy=f"a kernel with network namespaces and the module {words[2]}, for root",
        )
    return "a veth pair and a bridge, made in a namespace of their own and gone with it"


def users(lab: Lab) -> str:
    """Whether each container has a user namespace with ids of its own: no need, unless the lab demands it."""
    require_root("a user namespace")
    if reason := lab_namespaces.why_disabled(lab):
        return f"user namespace: no, because {reason}"
    return (
        f"user namespace: yes, ids from {lab_namespaces.FIRST * IDS} on, {IDS} for each container"
    )


def system_calls(lab: Lab) -> str:
    """What the kernel can answer to a call that a container must not make (proc(5), seccomp(2))."""
    known = FILTERS.read_text(encoding="utf-8").split() if FILTERS.exists() else []
    if "errno" not in known:
        raise MachineError(
            "seccomp",
            "this kernel cannot refuse single system calls: runc starts no container with such a list",
            "a kernel with CONFIG_SECCOMP_FILTER, as Debian's is",
            f"cat {FILTERS}",
            code="machine.no-seccomp",
        )
    return f"it can: {', '.join(known)}"


def devices(lab: Lab) -> str:
    """Each device file that containers get is the kernel's device, for everybody."""
    probes.devices()
    return f"/dev/{', /dev/'.join(probes.DEVICES)}"


def cgroups(lab: Lab) -> str:
    """The layout of the mounted cgroups; :class:`MachineError` when there are none, or read-only."""
    return groups.require()


def firewall(lab: Lab) -> str:
    """Whether replicas can be kept from the host and from each other: without nftables they are not; and which
    chain of the machine's own may keep them from the lab's name server."""
    require_root("a network namespace")
    if lacking := guard.impossible():
        return f"not possible: {lacking}"
    there = not lab.netns or netns.stands(lab.netns)
    own = guard.blame(lab, NAMES) if there else ""
    return (
        f"tables of both families, made and gone again{f'; {own}' if 'policy drop' in own else ''}"
    )


def _try(argv: list[str], *, what: str, value: str, remedy: str) -> None:
    """Runs a program in a namespace (``what``: unshare's option) that ends with it."""
    try:
        run.run(["unshare", what, "--", *argv])
    except CommandError as error:
        said = " ".join((error.stderr or error.reason).split())
        raise MachineError(
            value, f"cannot be had: {said}", remedy, error.again, code="machine.kernel"
        ) from None
    except LabkitError as error:
        raise MachineError(
            value, str(error.reason), error.remedy, error.again, code="machine.kernel"
        ) from None
