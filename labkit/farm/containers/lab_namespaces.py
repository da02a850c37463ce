"""User and network namespaces of a lab's containers: which uids outside stand for a container's, and in which networks.

Each container has a range of uids and gids of the machine in a user namespace. Root in a container is then an
unprivileged user outside: who gets out of a container may do nothing to the machine's files and processes, nor to
another container's. The ranges come from those that no standard gives away: systemd's table of ids (UIDS-GIDS)
calls 1879048192 to 2147352575 unused; below 2000200000 sssd may have mapped a directory's accounts (sssd-ldap(5),
ldap_idmap_range_max). A lab records its containers' ranges in its state folder until it is taken down. Nothing in
/etc is needed or changed, but ranges that /etc gives to accounts are left out.

A replica's network namespace belongs to its container's user namespace; the host side's belongs to the machine's.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from labkit import reading
from labkit.core.files import existing, text_of, write_atomically
from labkit.core.journal import Journal, lock, other_owner
from labkit.core.network_removal import remove_link
from labkit.errors import MachineError, StateError
from labkit.farm.containers import runc
from labkit.farm.containers.bundle import Spec
from labkit.kernel import calls, netns, proc, users
from labkit.kernel.links import Netlink
from labkit.kernel.users import IDS
from labkit.model.lab import Lab, Replica

#: The first range, and how many there are: the numbers of ids by 65536.
FIRST = 2_000_200_000 // IDS + 1
COUNT = 2_147_352_576 // IDS - FIRST
#: From this number of recorded ranges on, those of containers that no longer exist are given up.
MANY = COUNT // 4
#: The first id of the range that :func:`refusal` tries: the last range below 2**31.
TRIED = 2**31 - IDS
#: Where a machine records the owners of ids: the second field of each line is the first id (subuid(5)), or
#: the third is the only one (passwd(5), group(5)).
ACCOUNTS = ("/etc/subuid", "/etc/subgid", "/etc/passwd", "/etc/group")
#: The folder of /proc that exists to be mounted on.
EMPTY = "binfmt_misc"
#: What to do where user namespaces are required and cannot be had.
REMEDY = 'mend what the reason names, or set containers.user_namespace to "auto" in lab.toml'


def allot(lab: Lab, names: Sequence[str]) -> dict[str, int]:
    """Each container's first id, recorded in the lab's state from now on; all 0 without user namespaces
    (:func:`enabled`). The caller holds the lab's ``farm`` lock.

    :raises MachineError: no range is left, or what :func:`enabled` raises.
    """
    if not enabled(lab):
        return dict.fromkeys(names, 0)
    if not recorded(lab.state_dir).keys() >= set(names):
        with lock(lab.cache_dir / "locks", "ids"):
            known = recorded(lab.state_dir)
            if len(known) >= MANY:  # a named container that does not exist may be in the making
                known = {n: ids for n, ids in known.items() if n in names or _exists(lab, n)}
            chosen = choose(names, known, set(_taken(lab)), seed=str(lab.state_dir))
            Journal.of(lab).intend("folder", path=str(_file(lab.state_dir).parent))
            write_atomically(_file(lab.state_dir), json.dumps(chosen, indent=1))
    known = recorded(lab.state_dir)
    return {name: known[name] for name in names}


def _exists(lab: Lab, name: str) -> bool:
    """Whether something of a container may still have its ids."""
    return runc.folder(lab, name).exists() or netns.path(f"{lab.name}-{name}").exists()


def preview(lab: Lab, names: Sequence[str]) -> dict[str, int]:
    """What :func:`allot` would return now if no other lab had any range; nothing is recorded."""
    if not enabled(lab):
        return dict.fromkeys(names, 0)
    chosen = choose(names, recorded(lab.state_dir), (), seed=str(lab.state_dir))
    return {name: chosen[name] for name in names}


def with_ids(lab: Lab, spec: Spec, first: int) -> Spec:
    """The same container with the ids from ``first`` on, or (0) the machine's. Pure.

    One in a network namespace of the lab's is in the user namespace which that belongs to.
    """
    place = str(runc.users_file(lab, spec.name)) if first and spec.netns else ""
    return spec.model_copy(update={"ids": first, "users": place})


def choose(
    names: Iterable[str], known: Mapping[str, int], taken: Collection[int], *, seed: str
) -> dict[str, int]:
    """``known`` with the first id of a free range for each further name. Pure.

    A name's range follows from the name and the ``seed``, so that two labs seldom look for the same.
    """
    chosen = dict(known)
    busy = {*taken, *chosen.values()}
    for name in names:
        if name not in chosen:
            chosen[name] = _free(f"{seed}/{name}", busy)
            busy.add(chosen[name])
    return chosen


def _free(seed: str, busy: Collection[int]) -> int:
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
    for step in range(COUNT):
        first = (FIRST + (start + step) % COUNT) * IDS
        if first not in busy:
            return first
    raise MachineError(
        "user namespace",
        f"all {COUNT} ranges of ids are in use by the labs of this machine",
        'take down a lab that you do not need, or set containers.user_namespace to "off" in lab.toml',
        "ls /var/lib/labkit/*/ids",
        code="machine.no-ids-left",
    )


def recorded(state: Path) -> dict[str, int]:
    """The first ids by container name, as recorded in a lab's state folder; {} if the record is damaged."""
    try:
        found = reading.parsed(text_of(_file(state)) or "{}")
        return {str(name): _sound(first) for name, first in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _sound(first: object) -> int:
    if type(first) is not int or first % IDS or not 0 <= first // IDS - FIRST < COUNT:
        raise ValueError(first)
    return first


def _file(state: Path) -> Path:
    return state / "ids" / "ranges.json"


def _taken(lab: Lab) -> Iterator[int]:
    """The ranges of all labs that can be seen, and those in which the machine has accounts."""
    for beside in (lab.state_dir.parent, lab.cache_dir / "labs"):  # labkit.core.cache
        for name in os.listdir(beside) if beside.is_dir() else ():  # noqa: PTH208 - there may be hundreds
            if os.path.exists(f"{beside}/{name}/ids/ranges.json"):  # noqa: PTH110 - as above
                yield from recorded(beside / name).values()
    for name in ACCOUNTS:
        yield from accounts(text_of(Path(name)) or "", each=name.startswith("/etc/sub"))


def accounts(text: str, *, each: bool) -> Iterator[int]:
    """The ranges in which ids of a file of accounts lie: a line has a first one and their number (``each``),
    or one id. Pure."""
    for line in text.splitlines():
        fields = line.split(":")
        try:
            first, count = (int(fields[1]), int(fields[2])) if each else (int(fields[2]), 1)
        except (ValueError, IndexError):
            continue
        last = min((first + count - 1) // IDS, FIRST + COUNT - 1)
        yield from (number * IDS for number in range(max(first // IDS, FIRST), last + 1))


def enabled(lab: Lab) -> bool:
    """Whether the lab's containers have user namespaces: as lab.toml says, and (``auto``) where it is possible.

    :raises MachineError: the lab requires it, and this machine cannot.
    """
    asked = lab.containers.user_namespace
    if asked == "off":
        return False
    if os.geteuid():  # only root can try
        return bool(recorded(lab.state_dir))
    reason = refusal(lab)
    if reason and asked == "required":
        raise MachineError(
            'containers.user_namespace = "required"',
            f"is not available: {reason}",
            REMEDY,
            "unshare --user true; uname -r",
            code="machine.user-namespace",
        )
    return not reason


def why_disabled(lab: Lab) -> str:
    """Why the lab's containers have no user namespaces, '' when they have; raises what :func:`enabled` does."""
    if enabled(lab):
        return ""
    asked = lab.containers.user_namespace
    return f'containers.user_namespace = "{asked}"' if asked == "off" else refusal(lab)


def refusal(lab: Lab) -> str:
    """Why this machine cannot give containers user namespaces, '' when it can; tried once a process."""
    return _refusal(lab.state_dir, lab.cache_dir)


@functools.cache
def _refusal(state: Path, cache: Path) -> str:
    for _ in range(10):
        with suppress(FileNotFoundError):  # a folder for another thread's trial is gone again
            return _refused([existing(path) for path in (state, cache)])
    return f"folders come and go in {existing(state)}"


def _refused(places: list[Path]) -> str:
    if places[0].stat().st_dev == places[1].stat().st_dev:
        del places[1]
    for place in (places[0], *places[0].parents):
        if not place.stat().st_mode & 0o001:
            return f"{place} is closed to others, and so to a container's root (chmod o+x {place})"
    if hidden := covered(proc.mountinfo()):
        return f"where a part of /proc is covered the kernel gives no new one: {hidden}"
    try:
        netns.alone(_try_overlay, places)
    except FileNotFoundError:
        raise
    except OSError as error:
        return f"{_part(str(error.filename), places)}: {error.strerror}"
    return ""


def _try_overlay(below: Sequence[Path]) -> None:
    """Mounts an overlay on these folders with shifted owners, in memory, in a mount namespace that ends with the
    thread; nothing is written to a disk. The :class:`OSError` names the call that failed in ``filename``."""
    calls.leave_mounts()
    with ExitStack() as opened:
        folders = []
        for place in below:
            folders.append(os.open(place, os.O_PATH | os.O_CLOEXEC))
            opened.callback(os.close, folders[-1])
        work = below[0]
        calls.mount("tmpfs", work, "tmpfs")
        namespace = opened.enter_context(users.opened(TRIED))
        lower = [work / str(number) for number in range(len(folders))]
        for folder, place in zip(folders, lower, strict=True):
            mounted = calls.mount_copied(folder)
            opened.callback(os.close, mounted)
            calls.mount_shifted(mounted, namespace)
            place.mkdir()
            calls.mount_placed(mounted, place)
        for part in ("upper", "scratch", "target"):
            (work / part).mkdir()
        options = (
            f"lowerdir={':'.join(map(str, lower))},upperdir={work}/upper,workdir={work}/scratch"
        )
        calls.mount("overlay", work / "target", "overlay", options=options)


def _part(name: str, places: Sequence[Path]) -> str:
    """Which call the kernel refused, in words."""
    match name:
        case "clone":
            limit = text_of(Path("/proc/sys/user/max_user_namespaces")) or "none"
            return f"no user namespace can be made (user.max_user_namespaces = {limit.strip()})"
        case "open_tree" | "mount_setattr":
            return f"the file system of {' or '.join(map(str, places))} cannot be shown with shifted owners"
    return f"overlayfs does not take folders with shifted owners (Linux {os.uname().release})"


def covered(mountinfo: str) -> str:
    """What covers a part of every /proc in mountinfo (proc(5)), '' if one shows all. Pure.

    The kernel mounts a new one in a user namespace only where a whole one can be seen (user_namespaces(7)).
    """
    there = proc.mounts(mountinfo)
    above = ""
    for found in (mount for mount in there if (mount.kind, mount.root) == ("proc", "/")):
        on = [m.place for m in there if m.parent == found.number and Path(m.place).name != EMPTY]
        if not on and "ro" not in found.options:
            return ""
        above = above or (on[0] if on else f"{found.place} (read-only)")
    return above or "no /proc is mounted"


def namespace_inode(name: str | None) -> int:
    """The inode that identifies a network namespace; None for the caller's."""
    return (netns.path(name) if name else Path("/proc/self/ns/net")).stat().st_ino


def create_namespace(lab: Lab, name: str) -> bool:
    """Creates one network namespace for the lab; returns whether it did not exist."""
    return bool(create_namespaces(lab, (name,)))


def create_namespaces(lab: Lab, names: Sequence[str]) -> tuple[str, ...]:
    """Creates the named network namespaces for the lab; returns those that did not exist.

    IPv6 is off in them: the farm has none, and its duplicate address detection makes each link wait. A
    container's belongs to the container's user namespace, where it has one. Raises :class:`StateError`, before any
    is created, for a name that a namespace has which labkit did not make for this lab.
    """
    taken, journal = refuse_taken_namespaces(lab, names), Journal.of(lab)
    new = tuple(name for name in names if name not in taken or not netns.stands(name))
    if new:
        journal.intend_all(("netns", {"name": name}) for name in new)
        for name in set(new) & set(taken):
            netns.remove(name)  # its maker was killed before the name was a namespace's
        try:
            netns.create(new, _set_up, _ids(lab, new))
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
    return new


def replica_namespace(lab: Lab, replica: Replica) -> bool:
    """Creates a replica's network namespace, which belongs to its container's user namespace; returns whether it
    did not exist so. The container must not run."""
    renew_namespaces(lab, [replica])
    return create_namespace(lab, replica.netns)


def renew_namespaces(lab: Lab, farm: Sequence[Replica], named: Collection[str] = ()) -> bool:
    """Removes the network namespaces, with their links, of replicas that belong to another user namespace than
    their containers will have, and of the replicas ``named``, whose containers do not run; returns whether there
    was one."""
    there = [item for item in farm if netns.stands(item.netns)]
    ids = _ids(lab, [item.netns for item in there])
    wrong = [
        replica
        for replica in there
        if replica.name in named or netns.owner(replica.netns, lab.state_dir) != ids[replica.netns]
    ]
    for replica in wrong:
        remove_link(lab, name=replica.link, netns=lab.host.netns)
        netns.remove(replica.netns)
    return bool(wrong)


def _ids(lab: Lab, names: Sequence[str]) -> dict[str, int]:
    """The first id of each network namespace's container, 0 for those without user namespaces."""
    containers = {
        name: name.removeprefix(f"{lab.name}-") for name in names if name != lab.host.netns
    }
    ids = allot(lab, list(containers.values())) if containers else {}
    return {name: ids[container] for name, container in containers.items()}


def refuse_taken_namespaces(lab: Lab, names: Sequence[str]) -> list[str]:
    """The names of which the lab has a network namespace; raises :class:`StateError` for one that labkit did not
    make for this lab."""
    journal = Journal.of(lab)
    taken = [name for name in names if netns.path(name).exists()]
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
    """Gives a process's network namespace its removed name again."""
    Journal.of(lab).intend("netns", name=name)
    netns.remove(name)  # a file alone, whose maker was killed
    netns.attach(name, pid)


def _set_up(netlink: Netlink) -> None:
    """Turns loopback on and IPv6 off in the calling thread's network namespace."""
    for scope in ("all", "default"):
        switch = Path("/proc/sys/net/ipv6/conf", scope, "disable_ipv6")
        if switch.exists():
            switch.write_text("1", encoding="utf-8")
    netlink.do(netlink.ipr.link("set", index=1, state="up"))
