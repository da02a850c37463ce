"""Waiting for what other processes do by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(happened: Callable[[], object], patience: float = 20.0) -> None:
    """Returns when it has happened; fails the test when it does not within ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
