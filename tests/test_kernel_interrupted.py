"""A notebook's kernel that is interrupted or restarted in the midst of an apply: the next apply goes on from there."""

from __future__ import annotations

import pytest

from labkit.core import run
from tests.own_machine import python_on_it

#: What a machine of its own takes at most, in seconds.
LONG = 300.0


@pytest.mark.root
@pytest.mark.parametrize("kind", ["interrupted", "restarted"])
def test_a_kernel_that_was_cut_off_leaves_what_apply_converges(kind: str) -> None:
    """The interrupted cell ends with KeyboardInterrupt and nothing of it goes on; the next cell's apply (of the new
    kernel, after a restart) converges, who served before serves on, and down leaves nothing."""
    done = run.run(python_on_it("tests.kernels", kind), ok=range(-64, 256), timeout=LONG)
    assert done.status == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing is left\n")
