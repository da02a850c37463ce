"""The bridge's address, where the lab's name server and its balancer answer."""

from __future__ import annotations

import socket

from labkit.errors import FarmError
from labkit.farm.containers.lab_namespaces import namespace_inode
from labkit.farm.network.netns import inside
from labkit.kernel import processes
from labkit.model.lab import Lab


def require_address(lab: Lab) -> None:
    """Raises :class:`FarmError` when the bridge's address is on no interface of the host's side."""
    if not inside(lab.netns, _has, str(lab.gateway.ip)):
        raise FarmError(
            f"{lab.gateway.ip}, the address of bridge {lab.bridge}",
            "is on no interface of the host's side, so nothing can answer there",
            "make the network first: `./lab run 04-network`",
            again(lab, "ip -brief address"),
            code="farm.no-bridge",
        )


def is_here(lab: Lab, pid: int | None) -> bool:
    """Whether a process runs, and in the network namespace that the Lab names (``host.netns``)."""
    try:
        return pid is not None and processes.namespace(pid, "net") == namespace_inode(lab.netns)
    except FileNotFoundError:  # the named namespace is gone
        return False


def whereabouts(lab: Lab, pid: int | None) -> str:
    """A server's process in words: 'running' where it is to be, 'running in another namespace', or
    'not running'."""
    if pid is None:
        return "not running"
    return "running" if is_here(lab, pid) else "running in another namespace"


def again(lab: Lab, command: str) -> str:
    """A command as a person types it, on the host's side of the lab."""
    return f"nsenter --net=/run/netns/{lab.netns} -- {command}" if lab.netns else command


def _has(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
