"""Folders to try something in, on the file system where it is going to be done; nothing is left of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labkit.journal import Journal
from labkit.lab import Lab
from labkit.undo import remove_folder


@contextmanager
def folder(lab: Lab, place: Path | None = None) -> Iterator[Path]:
    """An empty folder in ``place`` (None: in the lab's state folder), one of the lab's own folders, while
    the block runs; it is in the journal meanwhile, so that who is killed leaves nothing that is not found.

    A folder above it that was not there before is not there afterwards.
    """
    journal = Journal.of(lab)
    above = (place or lab.state_dir, lab.state_dir)
    new = [path for top in above for path in (top, *top.parents) if not path.exists()]
    made = above[0] / f".try-{secrets.token_hex(3)}"
    try:
        journal.intend("folder", path=str(made))
        made.mkdir(parents=True)
        yield made
    finally:
        if journal.path.exists():
            remove_folder(lab, path=str(made))
            journal.forget("folder", path=str(made))
            journal.clear()
        for path in new:
            with suppress(OSError):  # others have made something in it meanwhile
                path.rmdir()
