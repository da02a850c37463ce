"""Other people's programs judge labkit, on the real thing: one farm that all of them look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from labkit import Lab
from tests import whole_farm


@pytest.fixture(scope="package")
def farm() -> Iterator[Lab]:
    """Two sites on two replicas each; the tests leave it as it is."""
    with whole_farm.standing() as lab:
        yield lab
