"""How each kind of thing in the journal is unmade.

Each function removes exactly the thing that the entry's details identify, is content when it is
already gone, and raises a :class:`~labkit.errors.LabkitError` when it cannot. Kinds whose things
end with the machine's boot (all but ``folder``) are gone when the entry is of an earlier boot.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
import zlib
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

from labkit import groups, run
from labkit.errors import LabkitError, StateError
from labkit.journal import Entry, Journal, boot_id, not_root
from labkit.kernel import netns as namespaces
from labkit.kernel import requests, seen
from labkit.kernel.netlink import Netlink, is_gone
from labkit.lab import Lab

#: How long a process may take to end by itself before it is killed, in seconds.
PATIENCE = 5.0


def unmake_all(lab: Lab) -> tuple[tuple[Entry, ...], tuple[tuple[Entry, LabkitError], ...]]:
    """Unmakes what the journal has, the last made first, going on past each failure.

    Returns the entries that were unmade, and those that could not be, with the error of each.
    """
    journal = Journal.of(lab)
    unmade: list[Entry] = []
    failed: list[tuple[Entry, LabkitError]] = []
    for entry in reversed(journal.standing()):
        try:
            unmake(entry, lab)
        except LabkitError as error:
            failed.append((entry, error))
            continue
        journal.forget(entry.kind, **entry.what)
        unmade.append(entry)
    journal.clear()
    return tuple(unmade), tuple(failed)


def unmake(entry: Entry, lab: Lab) -> None:
    """Unmakes one thing; nothing is left of it afterwards."""
    if entry.kind not in KINDS:
        raise StateError(
            str(lab.journal_file),
            f"entry {entry.seq} is of the unknown kind {entry.kind!r}",
            "use the labkit that wrote it, or remove the thing and the line by hand",
        )
    if entry.boot != boot_id() and entry.kind != "folder":
        return
    try:
        KINDS[entry.kind](lab, **entry.what)
    except LabkitError:
        raise
    except Exception as error:  # the entries before this one are unmade all the same
        raise LabkitError(
            f"{entry.kind} {entry.what}",
            f"cannot be unmade: {type(error).__name__}: {error}",
            f"remove it by hand, then its line (entry {entry.seq}) from {lab.journal_file}",
        ) from error


def unmount(lab: Lab, *, target: str) -> None:
    """Unmounts what is mounted at ``target``, however often; a busy mount is detached."""
    real = _own(target, lab)
    while str(real) in mount_points():
        run.run(["umount", "--lazy", real])


def mount_points() -> frozenset[str]:
    """Where something is mounted now (proc(5), /proc/self/mountinfo, field 5)."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return frozenset(_unescape(line.split()[4]) for line in lines)


def remove_netns(lab: Lab, *, name: str) -> None:
    """Removes a named network namespace; what still runs in it keeps it alive, without its name."""
    _plain(name, lab)
    namespaces.remove(name)


def remove_link(lab: Lab, *, name: str, netns: str) -> None:
    """Removes a network interface of ``netns`` ('' is the machine's own); a veth's peer goes with it."""
    if _is_there(netns):
        _inside(netns, lambda netlink: _remove_link(netlink, name))


def _remove_link(netlink: Netlink, name: str) -> None:
    found = seen.links(netlink).get(name)
    error = netlink.try_all([requests.no_link(found.index)])[0] if found else None
    if error is not None and not is_gone(error):  # a veth's end goes when its peer's namespace does
        raise error


def remove_route(lab: Lab, *, subnet: str, netns: str) -> None:
    """Removes the lab's own unreachable route to ``subnet``."""
    if _is_there(netns):
        _inside(netns, lambda netlink: _remove_route(netlink, IPv4Network(subnet)))


def _remove_route(netlink: Netlink, subnet: IPv4Network) -> None:
    if fenced(netlink, subnet):
        netlink.ask(requests.not_unreachable(subnet, FENCE_METRIC))


def fenced(netlink: Netlink, subnet: IPv4Network) -> bool:
    """Whether the main table has an unreachable route to exactly ``subnet`` (rtnetlink(7))."""
    return any(
        route.kind == requests.UNREACHABLE and route.network == subnet
        for route in seen.routes(netlink)
    )


def group(lab: Lab) -> int:
    """The number that the lab's links have in common (IFLA_GROUP), by which they go at once. Pure."""
    return zlib.crc32(f"labkit {lab.name}".encode()) or 1


#: The metric of the lab's unreachable route: the largest, so that any other route goes before it.
FENCE_METRIC = 4294967295


def _is_there(name: str) -> bool:
    return not name or namespaces.stands(name)


def _inside(name: str, function: Callable[[Netlink], None]) -> None:
    """``function`` with a socket of a named network namespace ('' is the machine's own)."""

    def entered() -> None:
        if name:
            namespaces.enter(name)
        with Netlink() as netlink:
            function(netlink)

    namespaces.alone(entered)


def delete_container(lab: Lab, *, root: str, container: str) -> None:
    """Kills and deletes a runC container and what runC keeps of it, half-made or damaged as it may be.

    runC knows a container by its state file alone: where that was lost, damaged or never written,
    the container's processes are found in its own control group.
    """
    _own(root, lab)
    _plain(container, lab)
    folder = Path(root, container)
    if folder.exists():
        words = ["runc", "--root", root, "delete", "--force", container]
        run.run(words, ok=range(-64, 256), timeout=30)
    groups.end(f"/labkit-{lab.name}/{container}")
    if folder.exists():
        shutil.rmtree(folder)


def end_daemon(lab: Lab, *, pidfile: str, marker: str) -> None:
    """Ends the daemon whose command line has the path ``marker``; its pid file is gone.

    The pid of a stale file may be anybody's: the process is only touched when its command line
    has ``marker``, a file of the lab's own. A daemon killed before it wrote its pid file is found
    by the same mark.
    """
    _own(marker, lab)
    _own(pidfile, lab)
    for pid in daemon_pids(marker):
        _terminate(pid, marker)
    Path(pidfile).unlink(missing_ok=True)


def daemon_pids(marker: str) -> tuple[int, ...]:
    """The processes that were given the path ``marker`` with an option, and have no terminal; parents
    first. An editor in which somebody looks at that file is none of them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_marked(int(entry.name), marker):
            found.append(int(entry.name))
    return tuple(sorted(found))


def remove_cgroup(lab: Lab, *, path: str) -> None:
    """Removes the lab's own (empty) cgroups in every hierarchy, the deepest first."""
    parts = Path(path).parts
    if ".." in parts or not any(lab.name in part for part in parts):
        raise StateError(path, f"is no cgroup of lab {lab.name}", f"correct {lab.journal_file}")
    groups.remove(path)


def remove_folder(lab: Lab, *, path: str) -> None:
    """Removes a folder of the lab's own that holds nothing of a person's; refuses one with a mount in it."""
    real = _own(path, lab)
    inner = [point for point in mount_points() if Path(point).is_relative_to(real)]
    if inner:
        raise StateError(
            path, f"something is still mounted in it: {inner[0]}", f"umount {inner[0]}"
        )
    if real.exists():
        shutil.rmtree(real)


KINDS: dict[str, Callable[..., None]] = {
    "mount": unmount,
    "netns": remove_netns,
    "link": remove_link,
    "route": remove_route,
    "container": delete_container,
    "daemon": end_daemon,
    "cgroup": remove_cgroup,
    "folder": remove_folder,
}


def _own(path: str, lab: Lab) -> Path:
    """The real path; refuses one outside the lab's own folders, whatever the journal says."""
    real = Path(path).resolve()
    owned = (folder.resolve() for folder in (lab.run_dir, lab.state_dir, lab.cache_dir))
    if not any(real.is_relative_to(folder) for folder in owned):
        raise StateError(path, "is not below the lab's own folders", f"correct {lab.journal_file}")
    return real


def _plain(name: str, lab: Lab) -> None:
    """Refuses a name that leads out of its folder."""
    if "/" in name or name in ("", ".", ".."):
        raise StateError(repr(name), "is no plain name", f"correct {lab.journal_file}")


def _is_marked(pid: int, marker: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        given = any(
            word.endswith(f"={marker}") or (before.startswith("-") and word == marker)
            for before, word in itertools.pairwise(words)
        )
        return given and _terminal(pid) == 0
    except OSError:
        return False


def _terminal(pid: int) -> int:
    """The device number of a process' terminal, 0 for none (proc(5), /proc/pid/stat, field 7)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4])


def _terminate(pid: int, marker: str) -> None:
    for sig, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, PATIENCE)):
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            return
        except PermissionError:
            raise not_root(f"process {pid}") from None
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not _is_marked(pid, marker):
                return
            time.sleep(0.01)
    raise LabkitError(f"process {pid}", "does not end, not even by SIGKILL", "", f"ps -fp {pid}")


def _unescape(text: str) -> str:
    """Octal escapes of mountinfo (``\\040`` is a space) undone."""
    return text.encode().decode("unicode_escape") if "\\" in text else text
