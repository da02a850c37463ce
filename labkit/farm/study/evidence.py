"""Keeps measurements that take minutes beside the root file system that they are about."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from labkit.core.files import proven, write_proven
from labkit.core.journal import lock
from labkit.farm.rootfs.cache_entries import PATIENCE
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
