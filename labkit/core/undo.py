"""Removes the things in the journal, each kind in its own way.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

from labkit import reading
from labkit.core import network_removal, run
from labkit.core.files import remove_whole
from labkit.core.journal import Entry, Journal, boot_id, not_root
from labkit.errors import LabkitError, StateError
from labkit.kernel import calls, cgroups, proc
from labkit.kernel import netns as namespaces
from labkit.model.lab import Lab

#: How long a process may take to end by itself before it is killed, in seconds.
PATIENCE = 5.0

Failure = tuple[Entry, LabkitError]


def unmake_all(lab: Lab) -> tuple[tuple[Entry, ...], tuple[Failure, ...]]:
    """Unmakes what the journal has, the last made first, going on past each failure.

    Returns the entries that were unmade, and those that could not be, with the error of each.
    """
    journal = Journal.of(lab, lenient=True)
    unmade, failed = unmake_these(lab, journal.standing())
    if not journal.damage():
        journal.clear(unmade)
    return unmade, failed


def unmake_these(
    lab: Lab, entries: Sequence[Entry]
) -> tuple[tuple[Entry, ...], tuple[Failure, ...]]:
    """The same for some of its entries.

    Neighbours of one kind (or :data:`BESIDE` each other) are unmade together, where that is faster, and then
    each is looked at by itself; what is gone is forgotten when all of them have been.
    """
    unmade: list[Entry] = []
    failed: list[Failure] = []
    alike = itertools.groupby(reversed(entries), lambda entry: BESIDE.get(entry.kind, entry.kind))
    for batch in (list(group) for _, group in alike):
        run.spread(partial(_begin, lab, batch), sorted({entry.kind for entry in batch}))
        tried = run.spread(partial(_try, lab=lab), batch, workers=4 if _are_apart(batch) else 1)
        gone = [entry for entry, error in zip(batch, tried, strict=True) if error is None]
        failed += [(entry, error) for entry, error in zip(batch, tried, strict=True) if error]
        Journal.of(lab, lenient=True).forget_if_room((entry.kind, entry.what) for entry in gone)
        unmade += gone
    return tuple(unmade), tuple(failed)


def _are_apart(batch: Sequence[Entry]) -> bool:
    """Whether things wait for the kernel and not for each other: containers, folders none of which is in
    another. Pure."""
    if batch[0].kind != "folder":
        return batch[0].kind == "container"
    paths = sorted(f"{entry.what.get('path', '')}/" for entry in batch)
    return not any(later.startswith(earlier) for earlier, later in itertools.pairwise(paths))


def _begin(lab: Lab, batch: Sequence[Entry], kind: str) -> None:
    """Does at once what can be of one kind; whatever comes of it, each thing is then unmade by itself."""
    things = [entry.what for entry in batch if entry.kind == kind and entry.boot == boot_id()]
    if kind in TOGETHER and things:
        with suppress(Exception):
            TOGETHER[kind](lab, things)


def _try(entry: Entry, lab: Lab) -> LabkitError | None:
    try:
        unmake(entry, lab)
    except LabkitError as error:
        return error
    return None


def unmake(entry: Entry, lab: Lab) -> None:
    """Unmakes one thing; nothing is left of it afterwards."""
    if entry.kind not in KINDS:
        raise StateError(
            str(lab.journal_file),
            f"entry {entry.seq} is of the unknown kind {entry.kind!r}",
            "use the version of labkit that wrote it, or remove the thing and the line by hand",
            code="state.unknown-kind",
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
            f"cannot be removed: {type(error).__name__}: {error}",
            f"remove it by hand, then its line (entry {entry.seq}) from {lab.journal_file}",
            code="machine.stays",
        ) from error


def there(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries but those whose mount, namespace, daemon or container is gone by itself: the journal says
    what was made and not unmade, and no one says when a machine's container, and all in it, was started again."""
    points = mount_points()
    seen: dict[str, Callable[[dict[str, str]], bool]] = {
        "mount": lambda what: what["target"] in points,
        "netns": lambda what: namespaces.stands(what["name"]),
        "daemon": lambda what: _serves(Path(what["pidfile"]), what["marker"]),
        "container": lambda what: bool(_runs(Path(what["root"], what["container"]))),
    }
    for entry in entries:
        if entry.kind not in seen or seen[entry.kind](entry.what):
            yield entry


def _serves(pidfile: Path, marker: str) -> bool:
    """Whether the process of a daemon's pid file runs, and is that daemon."""
    try:
        return proc.is_marked(int(pidfile.read_text(encoding="utf-8")), marker)
    except (OSError, ValueError):
        return False


def unmount(lab: Lab, *, target: str) -> None:
    """Unmounts what is mounted at ``target``, however often; a busy mount is detached."""
    calls.detach(_own(target, lab))


def _unmount_together(lab: Lab, things: Sequence[Mapping[str, str]]) -> None:
    """One list of the mounts for all, and several are waited for at once."""
    mounted = mount_points()
    places = [_own(thing["target"], lab) for thing in things]
    there = [place for place in places if str(place) in mounted]
    run.spread(partial(calls.unmount, flags=calls.MNT_DETACH), there)


def mount_points() -> frozenset[str]:
    """Where something is mounted now (proc(5), /proc/self/mountinfo, field 5)."""
    return _points(proc.mountinfo())


@lru_cache(1)  # read for each of many folders, between which nothing is mounted
def _points(text: str) -> frozenset[str]:
    return frozenset(mount.place for mount in proc.mounts(text))


def remove_netns(lab: Lab, *, name: str) -> None:
    """Removes a named network namespace; what still runs in it keeps it alive, without its name."""
    _plain(name, lab)
    namespaces.remove(name)


def delete_container(lab: Lab, *, root: str, container: str) -> None:
    """Kills and deletes a runC container and what runC keeps of it, half-made or damaged as it may be.

    Its processes are those of its own control group: what ``runc delete --force`` does besides, waiting a
    tenth of a second for each container, is left to it where the first process is in another group, or
    runC's file does not say which process that is.
    """
    _own(root, lab)
    _plain(container, lab)
    folder = Path(root, container)
    cgroups.end(_group_of(lab, container))
    if not folder.exists():
        return
    if _is_elsewhere(folder):
        words = ["runc", "--root", root, "delete", "--force", container]
        run.run(words, ok=range(-64, 256), timeout=30)
    if folder.exists():
        shutil.rmtree(folder)


def _kill_together(lab: Lab, things: Sequence[Mapping[str, str]]) -> None:
    """All end at the same time; and before them runC, which goes on making one when labkit was killed."""
    for root in {thing["root"] for thing in things}:
        _own(root, lab)
        for pid in proc.marked(root):
            _terminate(pid, root)
    for thing in things:
        _plain(thing["container"], lab)
        cgroups.kill_most(_group_of(lab, thing["container"]))


def _group_of(lab: Lab, container: str) -> str:
    return f"/labkit-{lab.name}/{container}"


def _is_elsewhere(folder: Path) -> bool:
    """Whether the container's first process may still run, in another control group than its own."""
    return _runs(folder) is not False


def _runs(folder: Path) -> bool | None:
    """Whether the first process of runC's container runs, None where its file does not say which that is."""
    try:
        known = reading.json_of(folder / "state.json")
        return proc.lives(int(known["init_process_pid"]), int(known["init_process_start"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


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
    """The processes that were given the path ``marker`` with an option, and have no terminal (as an editor
    of that file has one); parents first."""
    return proc.marked(marker)


def remove_cgroup(lab: Lab, *, path: str) -> None:
    """Removes the lab's own (empty) cgroups in every hierarchy, the deepest first."""
    parts = Path(path).parts
    if ".." in parts or not any(lab.name in part for part in parts):
        said = f"is not a cgroup of lab {lab.name}"
        raise StateError(path, said, f"correct {lab.journal_file}", code="state.not-own")
    cgroups.remove(path)


def remove_folder(lab: Lab, *, path: str) -> None:
    """Removes a folder of the lab's own; refuses one with a mount in it."""
    real = _own(path, lab)
    inner = [point for point in mount_points() if f"{point}/".startswith(f"{real}/")]
    if inner:
        said, remedy = f"something is still mounted in it: {inner[0]}", f"umount {inner[0]}"
        raise StateError(path, said, remedy, code="state.mounted")
    remove_whole(real)


KINDS: dict[str, Callable[..., None]] = {
    "mount": unmount,
    "netns": remove_netns,
    "link": network_removal.remove_link,
    "route": network_removal.remove_route,
    "table": network_removal.remove_tables,
    "container": delete_container,
    "daemon": end_daemon,
    "cgroup": remove_cgroup,
    "folder": remove_folder,
}
#: Kinds of which many are unmade at once.
TOGETHER: dict[str, Callable[[Lab, Sequence[Mapping[str, str]]], None]] = {
    "mount": _unmount_together,
    "link": network_removal.cut_together,
    "container": _kill_together,
    "table": network_removal.remove_tables_together,
}
#: Kinds that go together with those of another one: both wait for the kernel.
BESIDE = {"table": "link"}


def _own(path: str, lab: Lab) -> Path:
    """The real path; refuses one outside the lab's own folders, whatever the journal says."""
    real = os.path.realpath(path)
    owned = (os.path.realpath(folder) for folder in (lab.run_dir, lab.state_dir, lab.cache_dir))
    if not any(f"{real}/".startswith(f"{folder}/") for folder in owned):
        raise StateError(
            path,
            "is not below the lab's folders",
            f"correct {lab.journal_file}",
            code="state.not-own",
        )
    return Path(real)


def _plain(name: str, lab: Lab) -> None:
    """Refuses a name that leads out of its folder."""
    if "/" in name or name in ("", ".", ".."):
        raise StateError(
            repr(name), "is not a plain name", f"correct {lab.journal_file}", code="state.not-own"
        )


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
            if not proc.is_marked(pid, marker):
                return
            time.sleep(0.01)
    raise LabkitError(
        f"process {pid}",
        "does not end, not even after SIGKILL",
        "",
        f"ps -fp {pid}",
        code="machine.process-stays",
    )
