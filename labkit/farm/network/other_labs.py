"""The other labs whose state lies beside this one's: what their journals say that they made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from labkit.core.journal import Entry, Journal, boot_id
from labkit.errors import LabkitError
from labkit.model.lab import Lab


def owner(lab: Lab, kind: str, **what: str) -> str:
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
