"""Evidence that takes minutes to collect: kept beside the root file system it is about; and scratch folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from labkit.core.files import proven, write_proven
from labkit.core.journal import Journal, lock
from labkit.farm.rootfs.cache_entries import PATIENCE, discard
from labkit.model.lab import Lab
from labkit.records import Record

R = TypeVar("R", bound=Record)


def collected(lab: Lab, folder: Path, key: str, kind: type[R], collect: Callable[[], R]) -> R:
    """The record that is kept in a folder under a key; collected and written where it is missing or damaged.

    Two labkits that ask for the same evidence at a time collect it once.
    """
    kept = folder / f"{key}.json"
    with lock(lab.cache_dir / "locks", key, wait=PATIENCE):
        with suppress(ValidationError):
            return kind.model_validate_json(proven(kept) or "")
        value = collect()
        write_proven(kept, value.model_dump_json(indent=1))
        return value


@contextmanager
def scratch(lab: Lab, folder: Path) -> Iterator[Path]:
    """An empty folder that is removed after the block; the journal has it, should labkit be killed."""
    discard(lab, folder)
    journal = Journal.of(lab)
    journal.intend("folder", path=str(folder))
    try:
        folder.mkdir(parents=True)
        yield folder
    finally:
        discard(lab, folder)
        journal.forget("folder", path=str(folder))
