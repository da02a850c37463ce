"""The journal: a record of what labkit has made on this machine for one lab; and locks between processes.

The journal is a file of JSON lines. Before a thing is made, :meth:`Journal.intend` writes what it
is and how it is unmade (a kind of :mod:`labkit.core.undo` and its details); after it was unmade,
:meth:`Journal.forget` writes that. A process that is killed between the two leaves an entry whose
thing may not exist, and undoing what does not exist is no error. The file is not synced to the
disk: what a power failure could lose of it (mounts, namespaces, processes) is lost by the same
power failure.
"""

from __future__ import annotations

import copy
import errno
import fcntl
import functools
import json
import os
import shlex
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field

from labkit import cancellation, reading
from labkit.core.progress import Doing, doing
from labkit.errors import (
    SYSTEM,
    LabkitError,
    LockError,
    MachineError,
    StateError,
    of_system,
    typed,
    with_sudo,
)
from labkit.model.lab import Lab
from labkit.records import Record


class Entry(Record):
    """One thing that labkit is about to make, made, or (``unmade``: that entry's number) removed."""

    seq: int
    boot: str
    kind: str = ""
    what: dict[str, str] = Field(default_factory=dict)
    unmade: int | None = None


#: What others may not do with the journal's folder: list it, or write into it.
OPENED = 0o066
#: A kind of :mod:`labkit.core.undo`, and its details.
Thing = tuple[str, Mapping[str, str]]


class Journal:
    """The journal of one lab. Opening it reads nothing and makes nothing."""

    def __init__(self, path: Path, *, lenient: bool = False) -> None:
        self.path = path
        self.lenient = lenient

    @classmethod
    def of(cls, lab: Lab, *, lenient: bool = False) -> Journal:
        """The journal of a lab; a ``lenient`` one passes over lines that cannot be read, as long as one can:
        what the others say can still be unmade."""
        return cls(lab.journal_file, lenient=lenient)

    def damage(self) -> tuple[StateError, ...]:
        """The lines that cannot be read, each with what to do about it."""
        return tuple(_split(self._read(), self.path)[1])

    def intend(self, kind: str, **what: str) -> None:
        """Writes that a thing is about to be made; once is enough while it stands."""
        self.intend_all([(kind, what)])

    def intend_all(self, things: Iterable[Thing]) -> None:
        """Writes that things are about to be made, in their order, all before the first of them is."""
        wanted = {_key(kind, what): (kind, dict(what)) for kind, what in things}
        with self._locked():
            state, boot = self._state(), boot_id()
            new = [thing for key, thing in wanted.items() if not state.has(key, boot)]
            self._append(
                Entry(seq=seq, boot=boot, kind=kind, what=what)
                for seq, (kind, what) in enumerate(new, state.last + 1)
            )

    def forget(self, kind: str, **what: str) -> None:
        """Writes that a thing is no more; nothing is written of a thing that the journal does not have."""
        self.forget_all([(kind, what)])

    def forget_all(self, things: Iterable[Thing]) -> None:
        """Writes that things are no more, all after the last of them was unmade."""
        gone = dict.fromkeys(_key(kind, what) for kind, what in things)
        with self._locked():
            state, boot = self._state(), boot_id()
            numbers = [seq for key in gone for seq in state.by_key.get(key, ())]
            self._append(
                Entry(seq=seq, boot=boot, unmade=number)
                for seq, number in enumerate(numbers, state.last + 1)
            )

    def forget_if_room(self, things: Iterable[Thing]) -> None:
        """The same, but on a full disk: there they stay, which is no harm, for what is gone is unmade again
        without an error; and what is unmade next makes room."""
        try:
            self.forget_all(things)
        except LabkitError as error:
            if error.code != "machine.disk-full":
                raise

    def owns(self, kind: str, **what: str) -> bool:
        """Whether labkit made this thing, or was about to, since the machine's last boot."""
        return self._state().has(_key(kind, what), boot_id())

    def standing(self) -> tuple[Entry, ...]:
        """What was made and not unmade, in the order of making."""
        return tuple(self._state().standing.values())

    def clear(self, gone: Iterable[Entry] = ()) -> None:
        """Starts the file anew when nothing stands, apart from ``gone``; otherwise leaves it as it is."""
        with self._locked():
            known = {entry.seq for entry in gone}
            if self.path.exists() and known.issuperset(self._state().standing):
                self.path.unlink()

    def _state(self) -> _State:
        data = self._read()
        try:
            return _state_of(data, self.path)
        except StateError:
            if not self.lenient:
                raise
        entries, damage = _split(data, self.path)
        if damage and not entries:
            raise damage[0]
        state = _State()
        for entry in entries:
            state.add(entry)
        return state

    def _read(self) -> bytes:
        try:
            return reading.content(self.path)
        except FileNotFoundError:
            return b""
        except PermissionError:
            raise not_root(str(self.path)) from None
        except OSError as error:
            raise self._unusable("cannot be read", error) from None
        except ValueError as error:
            raise StateError(
                str(self.path),
                str(error),
                "restore the journal or, if nothing of the lab is left on the machine, move it away",
                f"ls -la {self.path}",
                code="state.journal-damaged",
            ) from None

    def _append(self, entries: Iterable[Entry]) -> None:
        lines = [json.dumps(entry.model_dump(exclude_defaults=True)) + "\n" for entry in entries]
        if not lines:
            return
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    lines.insert(0, "\n")  # the last writer was killed within its line
            file.write("".join(lines).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The folder is held; others may go through it, but not open it: who can open it can hold it."""
        folder = self.path.parent
        try:
            folder.mkdir(0o777 & ~OPENED, parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            if mode & OPENED and not os.geteuid():
                os.fchmod(descriptor, mode & ~OPENED)
        except PermissionError:
            raise not_root(str(folder)) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except PermissionError:
            raise not_root(str(self.path)) from None
        except OSError as error:
            raise self._unusable("cannot be written", error) from None
        finally:
            os.close(descriptor)

    def _unusable(self, what: str, error: OSError) -> LabkitError:
        if error.errno in SYSTEM and error.errno != errno.EISDIR:
            return of_system(error, str(self.path))
        return StateError(
            str(self.path),
            f"{what}: {error.strerror}",
            "restore the journal; if nothing of the lab is left on the machine, move away "
            "what is in its place",
            f"ls -la {self.path}",
            code="state.journal-unusable",
        )


class _State:
    """What a journal's lines come to, one after the other."""

    def __init__(self) -> None:
        self.read = b""  # the whole lines that it has come from
        self.lines = 0
        self.last = 0
        self.standing: dict[int, Entry] = {}
        self.by_key: dict[_Key, list[int]] = {}

    def add(self, entry: Entry) -> None:
        """Takes in the next entry."""
        self.last = entry.seq
        if entry.unmade is None:
            self.standing[entry.seq] = entry
            self.by_key.setdefault(_key(entry.kind, entry.what), []).append(entry.seq)
        elif gone := self.standing.pop(entry.unmade, None):
            self.by_key[_key(gone.kind, gone.what)].remove(gone.seq)

    def has(self, key: _Key, boot: str) -> bool:
        """Whether such a thing stands that was made since that boot."""
        return any(self.standing[seq].boot == boot for seq in self.by_key.get(key, ()))


_Key = tuple[str, tuple[tuple[str, str], ...]]
_known: dict[Path, _State] = {}
_reading = threading.Lock()


def _key(kind: str, what: Mapping[str, str]) -> _Key:
    return kind, tuple(sorted(what.items()))


def _state_of(data: bytes, path: Path) -> _State:
    """What the file's content comes to. Its beginning is compared with what was read of it before, and
    only what is new is read: others write into it, too."""
    with _reading:
        state = _known.pop(path, None)
        if state is None or not data.startswith(state.read):
            state = _State()
        text = data[len(state.read) :].decode(errors="replace")
        for entry in parse(text, path, first=state.lines + 1):
            state.add(entry)
        if data.endswith(b"\n"):  # else its last line may yet be written, or was torn
            state.read, state.lines = data, state.lines + text.count("\n")
            _known[path] = state
        return copy.copy(state)


def parse(text: str, path: Path, first: int = 1) -> list[Entry]:
    """The entries of a journal's text, whose first line has the number ``first``.

    A killed writer leaves at most the beginning of a line, which counts as unwritten; any other
    damage is a :class:`StateError`.
    """
    entries: list[Entry] = []
    for found in _lines(text, path, first):
        if isinstance(found, StateError):
            raise found
        entries.append(found)
    return entries


def _split(data: bytes, path: Path) -> tuple[list[Entry], list[StateError]]:
    """What can be read of a journal, and the errors of the lines that cannot."""
    found = list(_lines(data.decode(errors="replace"), path, 1))
    entries = [item for item in found if isinstance(item, Entry)]
    return entries, [item for item in found if isinstance(item, StateError)]


def _lines(text: str, path: Path, first: int) -> Iterator[Entry | StateError]:
    for number, line in enumerate(text.split("\n"), first):
        if not line.strip():
            continue
        try:
            yield Entry.model_validate(reading.parsed(line))
        except reading.NoJsonError:
            if not line.startswith("{") or line.count("{") <= line.count("}"):
                yield _damaged(path, number, line)
        except ValueError:
            yield _damaged(path, number, line)


@functools.cache
def boot_id() -> str:
    """The kernel's random id of this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _damaged(path: Path, number: int, line: str) -> StateError:
    return StateError(
        f"{path}, line {number}",
        f"is not an entry of labkit's journal: {line[:60]!r}",
        "restore the line or, if nothing of the lab is left on the machine, move the file away",
        f"sed -n {number}p {path}",
        code="state.journal-damaged",
    )


def other_owner(lab: Lab, kind: str, **what: str) -> str:
    """The name of the other lab that made this thing since the machine's last boot, '' for none."""
    return next((name for name, entry in _made(lab) if _is(entry, kind, what)), "")


def _is(entry: Entry, kind: str, what: dict[str, str]) -> bool:
    return entry.kind == kind and what.items() <= entry.what.items()


def _made(lab: Lab) -> Iterator[tuple[str, Entry]]:
    for path in sorted(Path(lab.state).glob(f"*/{lab.journal_file.name}")):
        if path != lab.journal_file:
            with suppress(LabkitError):  # one that nobody can read says nothing
                entries = Journal(path).standing()
                yield from ((path.parent.name, e) for e in entries if e.boot == boot_id())


#: A lock file's mode.
MODE = 0o600
#: After so many seconds of waiting it is told for whom.
SILENT = 0.5


@contextmanager
def lock(folder: Path, name: str, *, wait: float = 600.0) -> Iterator[None]:
    """Holds the lock ``name`` in ``folder``; waits at most ``wait`` seconds, then :class:`LockError`.

    While it waits it tells for which process. The lock file holds its owner's pid and stays when the lock
    is released: the kernel ends the lock with the process, however that ends. Nobody but its owner can open
    the file: who opens it can hold it.
    """
    path = folder / f"{name}.lock"
    descriptor = _opened(path)
    try:
        if not _got(descriptor):
            _await(descriptor, path, wait)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def not_root(what: str) -> MachineError:
    """The error for an action that needs root."""
    return MachineError(
        what,
        f"cannot be changed by user {os.geteuid()}: provisioning needs root",
        with_sudo(),
        "id",
        code="machine.not-root",
    )


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, MODE)
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != MODE:  # of a labkit of before
            os.fchmod(descriptor, MODE)
        return descriptor
    except PermissionError:
        raise not_root(str(path)) from None
    except IsADirectoryError:
        raise StateError(
            str(path),
            "is a folder where labkit keeps a lock",
            "move it away",
            f"ls -la {shlex.quote(str(path))}",
            code="state.folder-in-place",
        ) from None
    except OSError as error:
        raise of_system(error, str(path)) from None


def _got(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _await(descriptor: int, path: Path, wait: float) -> None:
    """The lock was got, however long somebody else has it; it is told meanwhile who that is."""
    deadline = time.monotonic() + wait
    if _polled(descriptor, min(wait, SILENT)):
        return
    with doing(f"waiting for {path.stem}") as tell:
        while (left := deadline - time.monotonic()) > 0:
            tell(Doing(what=f"waiting for {path.stem}", phase=_held(path, descriptor).reason))
            if _polled(descriptor, min(left, 1.0)):
                return
    raise _held(path, descriptor)


def _polled(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _got(descriptor):
            return True
        cancellation.pause(0.02)
    return False


def _held(path: Path, descriptor: int) -> LockError:
    """The error for a lock that somebody else has: whoever has just got it may not be in the file yet."""
    pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
    return LockError(
        str(path),
        f"another labkit (process {pid}) works on this lab{_command(pid)}",
        "wait until it has ended, or give this lab another name (lab.toml: name)",
        f"ps -fp {pid}",
        code="lock.held",
    )


def _command(pid: str) -> str:
    try:
        words = (
            Path("/proc", pid, "cmdline")
            .read_text(encoding="utf-8", errors="replace")
            .split("\0")[:-1]
        )
    except (OSError, ValueError):
        return ""
    return f": {typed(words)[:200]}" if words else ""
