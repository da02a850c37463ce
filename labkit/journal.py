"""What labkit has made on this machine for one lab, and the lab's locks.

The journal is a file of JSON lines. Before a thing is made, :meth:`Journal.intend` writes what it
is and how it is unmade (a kind of :mod:`labkit.undo` and its details); after it was unmade,
:meth:`Journal.forget` writes that. A process that is killed between the two leaves an entry whose
thing may not exist, and undoing what does not exist is no error. The file is not synced to the
disk: what a power failure could lose of it (mounts, namespaces, processes) is lost by the same
power failure.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, ValidationError

from labkit.errors import LockError, MachineError, StateError
from labkit.lab import Lab
from labkit.result import Record


class Entry(Record):
    """One thing that labkit is about to make, made, or (``unmade``: that entry's number) removed."""

    seq: int
    boot: str
    kind: str = ""
    what: dict[str, str] = Field(default_factory=dict)
    unmade: int | None = None


class Journal:
    """The journal of one lab. Opening it reads nothing and makes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, lab: Lab) -> Journal:
        """The journal of a lab."""
        return cls(lab.journal_file)

    def intend(self, kind: str, **what: str) -> None:
        """Writes that a thing is about to be made; once is enough while it stands."""
        with self._locked():
            entries = self._read()
            if not any(entry.kind == kind and entry.what == what for entry in standing(entries)):
                seq = entries[-1].seq + 1 if entries else 1
                self._append(Entry(seq=seq, boot=boot_id(), kind=kind, what=what))

    def forget(self, kind: str, **what: str) -> None:
        """Writes that a thing is no more; nothing is written of a thing that the journal does not have."""
        with self._locked():
            entries = self._read()
            for entry in standing(entries):
                if entry.kind == kind and entry.what == what:
                    seq = entries[-1].seq + 1
                    self._append(Entry(seq=seq, boot=boot_id(), unmade=entry.seq))

    def owns(self, kind: str, **what: str) -> bool:
        """Whether labkit made this thing, or was about to, since the machine's last boot."""
        return any(
            entry.kind == kind and entry.what == what and entry.boot == boot_id()
            for entry in self.standing()
        )

    def standing(self) -> tuple[Entry, ...]:
        """What was made and not unmade, in the order of making."""
        return standing(self._read())

    def clear(self) -> None:
        """Starts the file anew when nothing stands; otherwise leaves it as it is."""
        with self._locked():
            if self.path.exists() and not standing(self._read()):
                self.path.unlink()

    def _read(self) -> list[Entry]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except PermissionError:
            raise not_root(str(self.path)) from None
        except OSError as error:
            raise self._unusable("cannot be read", error) from None
        return parse(text, self.path)

    def _append(self, entry: Entry) -> None:
        line = json.dumps(entry.model_dump(exclude_defaults=True)) + "\n"
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line  # the last writer was killed within its line
            file.write(line.encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
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

    def _unusable(self, what: str, error: OSError) -> StateError:
        return StateError(
            str(self.path),
            f"{what}: {error.strerror}",
            "put the journal back, a file; if nothing of the lab is left on the machine, move away "
            "what stands there",
            f"ls -la {self.path}",
        )


def parse(text: str, path: Path) -> list[Entry]:
    """The entries of a journal's text.

    A killed writer leaves at most the beginning of a line, which counts as unwritten; any other
    damage is a :class:`StateError`.
    """
    entries: list[Entry] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entries.append(Entry.model_validate(json.loads(line)))
        except ValidationError:
            raise _damaged(path, number, line) from None
        except json.JSONDecodeError:
            if not line.startswith("{") or line.count("{") <= line.count("}"):
                raise _damaged(path, number, line) from None
    return entries


def standing(entries: list[Entry]) -> tuple[Entry, ...]:
    """The entries of things that were not unmade."""
    gone = {entry.unmade for entry in entries if entry.unmade is not None}
    return tuple(entry for entry in entries if entry.unmade is None and entry.seq not in gone)


def boot_id() -> str:
    """The kernel's random id of this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@contextmanager
def lock(folder: Path, name: str, *, wait: float = 600.0) -> Iterator[None]:
    """Holds the lock ``name`` in ``folder``; waits at most ``wait`` seconds, then :class:`LockError`.

    The lock file holds its owner's pid and stays when the lock is released: the kernel ends the
    lock with the process, however that ends.
    """
    path = folder / f"{name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:
        raise not_root(str(path)) from None
    except IsADirectoryError:
        raise StateError(
            str(path), "is a folder where labkit keeps a lock", "move it away", f"ls -la {path}"
        ) from None
    try:
        _acquire(descriptor, path, wait)
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
        "call it with sudo, or from a root shell",
        "id",
    )


def _acquire(descriptor: int, path: Path, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
                raise LockError(
                    str(path),
                    f"another labkit (process {holder}) works on this lab",
                    "wait until it has ended, or give this lab another name (lab.toml: name)",
                    f"ps -fp {holder}",
                ) from None
            time.sleep(0.05)


def _damaged(path: Path, number: int, line: str) -> StateError:
    return StateError(
        f"{path}, line {number}",
        f"is no entry of labkit's journal: {line[:60]!r}",
        "restore the line or, if nothing of the lab is left on the machine, move the file away",
        f"sed -n {number}p {path}",
    )
