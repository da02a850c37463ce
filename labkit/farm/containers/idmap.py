"""Which ids of the machine stand for a container's own: a range for each container, in a user namespace.

Root in a container is then nobody outside: what gets out of it may do nothing to the machine's files and
processes, nor to another container's. The ranges are out of those that no standard gives to anybody:
systemd's table of ids (UIDS-GIDS) calls 1879048192 to 2147352575 unused; below 2000200000 sssd may have
mapped a directory's accounts (sssd-ldap(5), ldap_idmap_range_max). A lab notes its containers' ranges in its
state, until it is taken down; nothing in /etc is asked for or changed, but no range is taken that is noted there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from labkit import reading
from labkit.core.files import existing, text_of, write_atomically
from labkit.core.journal import Journal, lock
from labkit.errors import MachineError
from labkit.farm.containers import overlay
from labkit.farm.containers.bundle import Spec
from labkit.farm.containers.places import folder, users_file
from labkit.kernel import mounts, netns
from labkit.kernel.users import IDS
from labkit.model.lab import Lab

#: The first range, and how many there are: the numbers of ids by 65536.
FIRST = 2_000_200_000 // IDS + 1
COUNT = 2_147_352_576 // IDS - FIRST
#: So many containers' ranges are kept, whether they are there or not.
MANY = COUNT // 4
#: Where a machine notes whose ids are whose: the second field of each line is the first id (subuid(5)), or
#: the third is the only one (passwd(5), group(5)).
NOTED = ("/etc/subuid", "/etc/subgid", "/etc/passwd", "/etc/group")
#: The place in /proc that is there to be mounted on.
EMPTY = "binfmt_misc"
#: What to do where containers cannot have ids of their own.
REMEDY = 'mend what the reason names, or set containers.user_namespace to "auto" in lab.toml'


def allot(lab: Lab, names: Sequence[str]) -> dict[str, int]:
    """Each container's first id, as noted in the lab's state from now on; all 0 where they have none of
    their own (:func:`used`). The caller holds the lab's ``farm`` lock.

    :raises MachineError: no range is left, or what :func:`used` raises.
    """
    if not used(lab):
        return dict.fromkeys(names, 0)
    if not noted(lab.state_dir).keys() >= set(names):
        with lock(lab.cache_dir / "locks", "ids"):
            known = noted(lab.state_dir)
            # one that is not there may be in the making, by another thread
            kept = (
                known
                if len(known) < MANY
                else {n: ids for n, ids in known.items() if n in names or _is_there(lab, n)}
            )
            own = chosen(names, kept, set(_taken(lab)), seed=str(lab.state_dir))
            Journal.of(lab).intend("folder", path=str(_file(lab.state_dir).parent))
            write_atomically(_file(lab.state_dir), json.dumps(own, indent=1))
    own = noted(lab.state_dir)
    return {name: own[name] for name in names}


def _is_there(lab: Lab, name: str) -> bool:
    """Whether something of a container may still have its ids."""
    return folder(lab, name).exists() or netns.path(f"{lab.name}-{name}").exists()


def foreseen(lab: Lab, names: Sequence[str]) -> dict[str, int]:
    """What :func:`allot` would say now, if no other lab had any of it; nothing is noted."""
    if not used(lab):
        return dict.fromkeys(names, 0)
    own = chosen(names, noted(lab.state_dir), (), seed=str(lab.state_dir))
    return {name: own[name] for name in names}


def given(lab: Lab, spec: Spec, first: int) -> Spec:
    """The same container with the ids from ``first`` on, or (0) the machine's. Pure.

    One in a network namespace of the lab's is in the user namespace which that belongs to.
    """
    users = str(users_file(lab, spec.name)) if first and spec.netns else ""
    return spec.model_copy(update={"ids": first, "users": users})


def chosen(
    names: Iterable[str], own: Mapping[str, int], taken: Collection[int], *, seed: str
) -> dict[str, int]:
    """``own`` with the first id of a range for each further name, none of which is in use. Pure.

    Where a name's range lies follows from it and the ``seed``, so that two labs seldom look for the same.
    """
    found = dict(own)
    busy = {*taken, *found.values()}
    for name in names:
        if name not in found:
            found[name] = _free(f"{seed}/{name}", busy)
            busy.add(found[name])
    return found


def _free(seed: str, busy: Collection[int]) -> int:
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
    for step in range(COUNT):
        first = (FIRST + (start + step) % COUNT) * IDS
        if first not in busy:
            return first
    raise MachineError(
        "user namespace",
        f"all {COUNT} ranges of ids are in use by the labs of this machine",
        'take a lab down that is not needed, or set containers.user_namespace to "off" in lab.toml',
        "ls /var/lib/labkit/*/ids",
        code="machine.no-ids-left",
    )


def noted(state: Path) -> dict[str, int]:
    """The first ids of the containers of the lab with that state folder, by name; none of a damaged note."""
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
    """The ranges of all labs that the machine shows, and those in which it has accounts."""
    for beside in (lab.state_dir.parent, lab.cache_dir / "labs"):  # labkit.core.cache
        for name in os.listdir(beside) if beside.is_dir() else ():  # noqa: PTH208 - there may be hundreds
            if os.path.exists(f"{beside}/{name}/ids/ranges.json"):  # noqa: PTH110 - as above
                yield from noted(beside / name).values()
    for name in NOTED:
        yield from accounts(text_of(Path(name)) or "", each=name.startswith("/etc/sub"))


def accounts(text: str, *, each: bool) -> Iterator[int]:
    """The ranges that ids in a file of accounts lie in: a first one and their number in a line (``each``),
    or one. Pure."""
    for line in text.splitlines():
        fields = line.split(":")
        try:
            first, count = (int(fields[1]), int(fields[2])) if each else (int(fields[2]), 1)
        except (ValueError, IndexError):
            continue
        last = min((first + count - 1) // IDS, FIRST + COUNT - 1)
        yield from (number * IDS for number in range(max(first // IDS, FIRST), last + 1))


def used(lab: Lab) -> bool:
    """Whether the lab's containers have ids of their own: as it says, and (``auto``) where that can be had.

    :raises MachineError: the lab demands it, and this machine does not have it.
    """
    asked = lab.containers.user_namespace
    if asked == "off":
        return False
    if os.geteuid():  # who may only look cannot try
        return bool(noted(lab.state_dir))
    reason = refusal(lab)
    if reason and asked == "required":
        raise MachineError(
            'containers.user_namespace = "required"',
            f"cannot be had: {reason}",
            REMEDY,
            "unshare --user true; uname -r",
            code="machine.user-namespace",
        )
    return not reason


def without(lab: Lab) -> str:
    """Why the lab's containers have no ids of their own, '' when they have; raises what :func:`used` does."""
    if used(lab):
        return ""
    asked = lab.containers.user_namespace
    return f'containers.user_namespace = "{asked}"' if asked == "off" else refusal(lab)


def refusal(lab: Lab) -> str:
    """Why containers cannot have ids of their own on this machine, '' when they can; tried once a process."""
    key = lab.state_dir, lab.cache_dir
    if key not in _tried:
        _tried[key] = _refusal(lab)
    return _tried[key]


_tried: dict[tuple[Path, Path], str] = {}


def _refusal(lab: Lab) -> str:
    for _ in range(10):
        with suppress(FileNotFoundError):  # a folder was there for a trial of another thread's
            return _refused([existing(path) for path in (lab.state_dir, lab.cache_dir)])
    return f"folders come and go in {existing(lab.state_dir)}"


def _refused(places: list[Path]) -> str:
    if places[0].stat().st_dev == places[1].stat().st_dev:
        del places[1]
    for place in (places[0], *places[0].parents):
        if not place.stat().st_mode & 0o001:
            return f"{place} is closed to others, and so to a container's root (chmod o+x {place})"
    if hidden := covered(mounts.read()):
        return f"where a part of /proc is covered the kernel gives no new one: {hidden}"
    try:
        overlay.require_shifted(*places)
    except FileNotFoundError:
        raise
    except OSError as error:
        return f"{_part(str(error.filename), places)}: {error.strerror}"
    return ""


def _part(name: str, places: Sequence[Path]) -> str:
    """What it was that the kernel refused."""
    match name:
        case "clone":
            limit = text_of(Path("/proc/sys/user/max_user_namespaces")) or "none"
            return f"no user namespace can be made (user.max_user_namespaces = {limit.strip()})"
        case "open_tree" | "mount_setattr":
            return f"the file system of {' or '.join(map(str, places))} cannot be shown with shifted owners"
    return f"overlayfs does not take folders with shifted owners (Linux {os.uname().release})"


def covered(mountinfo: str) -> str:
    """What covers a part of every /proc that mountinfo (proc(5)) tells of, '' where one shows all. Pure.

    The kernel mounts a new one in a user namespace only where a whole one is in sight (user_namespaces(7)).
    """
    there = mounts.parse(mountinfo)
    above = ""
    for own in (mount for mount in there if (mount.kind, mount.root) == ("proc", "/")):
        on = [m.place for m in there if m.parent == own.number and Path(m.place).name != EMPTY]
        if not on and "ro" not in own.options:
            return ""
        above = above or (on[0] if on else f"{own.place} (read-only)")
    return above or "no /proc is mounted"
