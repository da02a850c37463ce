"""Code inside a network namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit import Lab
from labkit.errors import FarmError
from labkit.farm.containers import lab_namespaces
from labkit.farm.network.netns import inside
from labkit.farm.services import dns


@pytest.mark.root
def test_code_is_inside_and_the_caller_stays(lab: Lab) -> None:
    """The function sees the namespace, and the calling thread does not move."""
    lab_namespaces.create_namespace(lab, lab.host.netns)
    own = Path("/proc/thread-self/ns/net").stat().st_ino

    def here() -> int:
        return Path("/proc/thread-self/ns/net").stat().st_ino

    assert inside(lab.netns, here) == lab_namespaces.namespace_inode(lab.netns)
    assert inside(None, here) == own == here()


@pytest.mark.root
def test_missing_namespace_is_told_and_not_made(lab: Lab) -> None:
    """Looking at a lab that is down makes nothing on the machine."""
    with pytest.raises(FarmError, match="does not exist"):
        inside(lab.netns, int)
    assert [check.holds for check in dns.checks(lab)] == [False]
    assert not Path("/run/netns", lab.host.netns).exists()
