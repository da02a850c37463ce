"""Network namespaces of the lab's own: the host side's, and one for each replica, which belongs to its container's user namespace."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from labkit.core.journal import Journal, other_owner
from labkit.core.link_removal import remove_link
from labkit.errors import MachineError, StateError
from labkit.farm.containers import idmap
from labkit.kernel import netns as namespaces
from labkit.kernel.links import Netlink
from labkit.model.lab import Lab, Replica


def namespace_inode(netns: str | None) -> int:
    """The inode that identifies a network namespace."""
    return (Path("/run/netns", netns) if netns else Path("/proc/self/ns/net")).stat().st_ino


def create_namespace(lab: Lab, name: str) -> bool:
    """Makes the named network namespace of the lab's own; returns whether it had to be made."""
    return bool(create_namespaces(lab, (name,)))


def create_namespaces(lab: Lab, names: Sequence[str]) -> tuple[str, ...]:
    """Makes the named network namespaces of the lab's own; returns those that had to be made.

    IPv6 is off in them: the farm has none, and its duplicate address detection makes each link wait. A
    container's belongs to the container's user namespace, where it has one, so that who enters that may
    enter it, too. A name that somebody else's namespace has is a :class:`StateError`, and none is made then.
    """
    taken, journal = refuse_taken_namespaces(lab, names), Journal.of(lab)
    new = tuple(name for name in names if name not in taken or not namespaces.stands(name))
    if new:
        journal.intend_all(("netns", {"name": name}) for name in new)
        for name in set(new) & set(taken):
            namespaces.remove(name)  # its maker was killed before the name was a namespace's
        _make(new, _ids(lab, new))
    return new


def _make(names: Sequence[str], ids: Mapping[str, int]) -> None:
    try:
        namespaces.create(names, _settle, ids)
    except OSError as error:
        if error.filename != "clone":
            raise
        raise MachineError(
            "user namespace",
            f"cannot be made: {error.strerror}",
            'raise the limit user.max_user_namespaces, or set containers.user_namespace to "off" in lab.toml',
            "sysctl user.max_user_namespaces",
            code="machine.user-namespace",
        ) from None


def replica_namespace(lab: Lab, replica: Replica) -> bool:
    """The network namespace of a container that does not serve is there, and the container's own user
    namespace is what it belongs to; whether it had to be made."""
    renew_namespaces(lab, [replica])
    return create_namespace(lab, replica.netns)


def renew_namespaces(lab: Lab, farm: Sequence[Replica], named: Collection[str] = ()) -> bool:
    """Namespaces of replicas that belong to another user namespace than their containers are to have, and those
    of the replicas ``named``, are gone with their links, where no container runs; whether there was one."""
    there = [item for item in farm if namespaces.stands(item.netns)]
    ids = _ids(lab, [item.netns for item in there])
    wrong = [
        replica
        for replica in there
        if replica.name in named
        or namespaces.owner(replica.netns, lab.state_dir) != ids[replica.netns]
    ]
    for replica in wrong:
        remove_link(lab, name=replica.link, netns=lab.host.netns)
        namespaces.remove(replica.netns)
    return bool(wrong)


def _ids(lab: Lab, names: Sequence[str]) -> dict[str, int]:
    """The first of the ids of each namespace's container by its name, 0 for those without their own."""
    own = {name: name.removeprefix(f"{lab.name}-") for name in names if name != lab.host.netns}
    given = idmap.allot(lab, list(own.values())) if own else {}
    return {name: given[container] for name, container in own.items()}


def refuse_taken_namespaces(lab: Lab, names: Sequence[str]) -> list[str]:
    """Those of the names that a network namespace of the lab's own has; :class:`StateError` for one that
    is somebody else's."""
    journal = Journal.of(lab)
    taken = [name for name in names if Path("/run/netns", name).exists()]
    for name in taken:
        if not journal.owns("netns", name=name):
            other = other_owner(lab, "netns", name=name)
            raise StateError(
                f"network namespace {name}",
                "exists already and labkit did not make it for this lab"
                + (f": it is lab {other}'s" if other else ""),
                "choose another name (lab.toml: name, host.netns)",
                "ip netns list",
                code="state.namespace-taken",
            )
    return taken


def name_again(lab: Lab, name: str, pid: int) -> None:
    """The network namespace of the lab's own that a process is in has its name again, which was removed."""
    Journal.of(lab).intend("netns", name=name)
    namespaces.name_again(name, pid)


def _settle() -> None:
    """Loopback up and IPv6 off in the new namespace that the calling thread is in."""
    for scope in ("all", "default"):
        switch = Path("/proc/sys/net/ipv6/conf", scope, "disable_ipv6")
        if switch.exists():
            switch.write_text("1", encoding="utf-8")
    with Netlink() as netlink:
        netlink.do(netlink.ipr.link("set", index=1, state="up"))
