"""Checks of the kernel, the free disk space, the ports and the network; what they make is gone when they return."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from labkit.core import daemon, probes, run
from labkit.core.files import existing, text_of
from labkit.core.journal import not_root
from labkit.display import human_bytes
from labkit.errors import CommandError, MachineError
from labkit.farm.containers import lab_namespaces
from labkit.farm.containers import overlay as overlays
from labkit.farm.network import firewall as guard
from labkit.farm.network import host
from labkit.farm.network.firewall import NAMES
from labkit.kernel import cgroups as groups
from labkit.kernel import netns
from labkit.kernel.netns import within
from labkit.kernel.users import IDS
from labkit.model.lab import Lab

#: Bytes that must be free in the folders of these keys of lab.toml: for root file systems and the wiki, and for results.
NEEDED = {"state": 3_000_000_000, "outputs": 200_000_000}
#: What may be made in a network namespace, as arguments of ``ip link add``.
LINKS = (("v0", "type", "veth", "peer", "name", "v1"), ("b0", "type", "bridge"))

#: What the kernel's filter of system calls knows to do.
FILTERS = Path("/proc/sys/kernel/seccomp/actions_avail")


def root(lab: Lab) -> str:
    """Returns for root; raises :class:`MachineError` for any other user."""
    require_root("the machine")
    return "user 0"


def require_root(what: str) -> None:
    """Raises :class:`MachineError` for anybody but root."""
    if os.geteuid():
        raise not_root(what)


def overlay(lab: Lab) -> str:
    """Mounts an overlay where the lab's would be, in a new mount namespace."""
    return f"an overlay was mounted on the file system of {overlays.require(lab)}, and unmounted"


def network(lab: Lab) -> str:
    """Makes a veth pair and a bridge in a network namespace that ends with the program that makes them."""
    require_root("a network namespace")
    for words in LINKS:
        try:
            run.run(["unshare", "--net", "--", "ip", "link", "add", *words])
        except CommandError as error:
            said = " ".join((error.stderr or error.reason).split())
            raise MachineError(
                f"a link of type {words[2]}",
                f"cannot be made: {said}",
                f"use a kernel with network namespaces and the module {words[2]}",
                error.again,
                code="machine.kernel",
            ) from None
    return "a veth pair and a bridge were made in a network namespace and removed"


def users(lab: Lab) -> str:
    """Whether each container gets a user namespace; an error only if the lab requires one."""
    require_root("a user namespace")
    if reason := lab_namespaces.why_disabled(lab):
        return f"user namespace: no, because {reason}"
    return (
        f"user namespace: yes, ids from {lab_namespaces.FIRST * IDS} on, {IDS} for each container"
    )


def system_calls(lab: Lab) -> str:
    """The actions of the kernel's filter of system calls (proc(5), seccomp(2)); refusing a call must be one."""
    known = FILTERS.read_text(encoding="utf-8").split() if FILTERS.exists() else []
    if "errno" not in known:
        raise MachineError(
            "seccomp",
            "this kernel cannot refuse individual system calls, which runc needs to start the containers",
            "use a kernel with CONFIG_SECCOMP_FILTER, such as Debian's",
            f"cat {FILTERS}",
            code="machine.no-seccomp",
        )
    return f"its actions: {', '.join(known)}"


def devices(lab: Lab) -> str:
    """Whether the device files that containers get are the kernel's devices, and open to all users."""
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
        f"tables of both families were made and removed{f'; {own}' if 'policy drop' in own else ''}"
    )


def free_space(lab: Lab, key: str) -> str:
    """The free space of the file system that holds one of the lab's folders."""
    place = existing({"state": lab.state_dir, "outputs": lab.output_dir}[key])
    free, needed = shutil.disk_usage(place).free, NEEDED[key]
    if free < needed:
        raise MachineError(
            str(place),
            f"has {human_bytes(free)} free, {human_bytes(needed)} are needed",
            f"free space, or set {key} in lab.toml to a folder on a larger file system",
            f"df -h {place}",
            code="machine.no-space",
        )
    return f"{human_bytes(free)} free in {place}"


def builds(lab: Lab) -> str:
    """Runs a program and opens a device below the state and the cache folder, as a build does."""
    require_root("a chroot")
    probes.builds(lab)
    return f"tried in {existing(lab.state_dir)} and {existing(lab.cache_dir)}, and removed"


def subnet(lab: Lab) -> str:
    """Whether no other interface has the farm's network; raises what :mod:`labkit.farm.network.host` raises."""
    if not _reachable(lab.netns):
        return f"{lab.subnet} will be in the namespace {lab.netns}, which does not exist yet"
    within(lab.netns, lambda netlink: host.refuse_taken_subnet(lab, netlink))
    return f"{lab.subnet} is free"


def free_port(lab: Lab, key: str) -> str:
    """Whether a port is free, or one of the lab's servers has it: ``proxy.port``, ``wiki.port``, or the ``DNS port``."""
    if key == "wiki.port" and lab.wiki.url:
        return "not needed: the wiki is an existing one"
    netns, address = lab.netns, str(lab.gateway.ip)
    if key == "wiki.port":
        netns, address = None, "127.0.0.1"
    port = {"wiki.port": lab.wiki.port, "proxy.port": lab.proxy.port}.get(key, 53)
    if not _reachable(netns):
        return f"port {port}: the namespace {netns} does not exist yet"
    who = daemon.listener(port, netns=netns, address=address)
    if who is None:
        return f"port {port} of {address} is free"
    if _own(who, lab):
        return f"port {port} of {address} is used by this lab's {who}"
    way = f"set {key} in lab.toml to another port"
    if "." not in key:
        way = "set host.netns in lab.toml, so that the lab gets a network namespace for itself"
    raise MachineError(
        f"{key} = {port}",
        f"the port is used by {who}",
        f"end that process, or {way}",
        f"ss -lntup 'sport = :{port}'",
        code="machine.port-taken",
    )


def _own(who: daemon.Listener, lab: Lab) -> bool:
    """Whether the command line of one of the listener's processes names a file below the lab's own folders."""
    words = (text_of(Path(f"/proc/{pid}/cmdline")) or "" for pid in who.pids)
    own = tuple(f"{folder}/" for folder in (lab.state_dir, lab.run_dir))
    return any(folder in text for text in words for folder in own)


def _reachable(netns: str | None) -> bool:
    return netns is None or Path("/run/netns", netns).exists()
