"""A whole farm that the tests of one module share: making it anew for each would take longer than they do."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas

from labkit import Lab
from labkit.checks import Check
from labkit.core import undo
from labkit.farm.reconcile import up
from labkit.farm.services import balancer, dns
from labkit.farm.traffic.measurements import Measurement, measure
from tests.conftest import CACHE


@contextmanager
def standing(**parameters: object) -> Iterator[Lab]:
    """A lab of two sites with two replicas each, all up: replicas, names and balancer."""
    folder = Path(tempfile.mkdtemp(prefix="labkit-"))
    folder.chmod(0o755)
    name = f"t{secrets.token_hex(3)}"
    given: dict[str, object] = {
        "lab_name": name,
        "netns": name,
        "sites": ["red", "blue"],
        "state": str(folder / "state"),
        "run": str(folder / "run"),
        "cache": CACHE,
        "outputs": str(folder / "outputs"),
        "requests": 200,
        "seconds": 2.0,
    }
    lab = Lab.load(None, **{**given, **parameters})
    try:
        up.replicas(lab)
        dns.up(lab)
        balancer.up(lab)
        yield lab
    finally:
        _, failed = undo.unmake_all(lab)
        left = [point for point in undo.mount_points() if point.startswith(f"{folder}/")]
        assert not failed, [str(error) for _, error in failed]
        assert not left
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Load:
    """A measured load on one site: what came of it, request by request, and its checks."""

    value: Measurement
    requests: pandas.DataFrame
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)


def send(lab: Lab, site: str, requests: int | None = None, concurrency: int | None = None) -> Load:
    """Measures one site, as the notebook's survey does each."""
    return Load(*measure(lab, site, requests, concurrency))
