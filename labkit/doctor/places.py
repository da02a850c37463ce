"""Checks for free disk space, free ports and a free network."""

from __future__ import annotations

import shutil
from pathlib import Path

from labkit.core import daemon, probes
from labkit.core.files import existing, text_of
from labkit.display import human_bytes
from labkit.doctor.kernel import require_root
from labkit.errors import MachineError
from labkit.farm.network import host
from labkit.farm.network.netns import within
from labkit.model.lab import Lab

#: Bytes that the lab's state and what runs leave may need.
STATE_BYTES = 3_000_000_000
OUTPUT_BYTES = 200_000_000


def state(lab: Lab) -> str:
    """How much is free where the lab's state is."""
    return _room(lab.state_dir, STATE_BYTES, "state")


def outputs(lab: Lab) -> str:
    """How much is free where the outputs are."""
    return _room(lab.output_dir, OUTPUT_BYTES, "outputs")


def builds(lab: Lab) -> str:
    """Programs run below the state and the cache folder as they do in a build, and open devices there."""
    require_root("a chroot")
    probes.builds(lab)
    return f"tried and gone again in {existing(lab.state_dir)} and {existing(lab.cache_dir)}"


def proxy_port(lab: Lab) -> str:
    """The balancer's port on the bridge's address is free, or the lab's own has it."""
    return _port(lab, lab.proxy.port, str(lab.gateway.ip), "proxy.port", lab.netns)


def dns_port(lab: Lab) -> str:
    """Port 53 on the bridge's address is free, or the lab's own DNS server has it."""
    return _port(lab, 53, str(lab.gateway.ip), "the DNS port", lab.netns)


def wiki_port(lab: Lab) -> str:
    """The wiki's port on loopback is free, or the lab's own wiki has it."""
    if lab.wiki.url:
        return "not needed: the wiki is an existing one"
    return _port(lab, lab.wiki.port, "127.0.0.1", "wiki.port", None)


def subnet(lab: Lab) -> str:
    """Nobody else's interface has the farm's network; raises what :mod:`labkit.farm.network.host` raises."""
    if not _reachable(lab.netns):
        return f"{lab.subnet} will be in the namespace {lab.netns}, which is yet to be made"
    within(lab.netns, lambda netlink: host.refuse_taken_subnet(lab, netlink))
    return f"{lab.subnet} is free"


def _room(path: Path, needed: int, key: str) -> str:
    place = existing(path)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise MachineError(
            str(place),
            f"has {human_bytes(free)} free, {human_bytes(needed)} are needed",
            f"make room, or set {key} in lab.toml to a folder on a larger file system",
            f"df -h {place}",
            code="machine.no-space",
        )
    return f"{human_bytes(free)} at {place}"


def _port(lab: Lab, port: int, address: str, key: str, netns: str | None) -> str:
    if not _reachable(netns):
        return f"port {port}: the namespace {netns} is yet to be made"
    who = daemon.listener(port, netns=netns, address=address)
    if who is None:
        return f"port {port} of {address} is free"
    if _own(who, lab):
        return f"port {port} of {address}: the lab's own {who}"
    raise MachineError(
        f"{key} = {port}",
        f"the port is taken by {who}",
        f"end that process, or set {key} in lab.toml to another port"
        if "." in key
        else "end that process, or set host.netns in lab.toml: the lab then has a namespace of its own",
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
