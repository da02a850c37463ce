"""Folders for what is only measured or tried: gone afterwards, also when labkit is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit.core.journal import Journal
from labkit.farm.rootfs.cache import discard
from labkit.model.lab import Lab


@contextmanager
def scratch(lab: Lab, folder: Path) -> Iterator[Path]:
    """An empty folder that is gone after the block; a killed one's is found by the journal."""
    discard(lab, folder)
    journal = Journal.of(lab)
    journal.intend("folder", path=str(folder))
    try:
        folder.mkdir(parents=True)
        yield folder
    finally:
        discard(lab, folder)
        journal.forget("folder", path=str(folder))
