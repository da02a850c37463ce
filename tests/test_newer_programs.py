"""Images that were made by other versions of the programs than the machine has now."""

from __future__ import annotations

import json

import pytest

from labkit.core import cache
from labkit.farm.containers import runc
from labkit.farm.images import builder
from labkit.farm.reconcile import upkeep
from tests.whole_farm import standing


@pytest.mark.root
def test_a_newer_program_is_a_step_of_the_plan() -> None:
    """The images are made again, as the plan says; the same bytes come of it, and no container is touched."""
    with standing(sites=["red"], replicas=1) as lab:
        assert upkeep.plan(lab).value.empty
        record = builder.place(lab) / "image.json"
        kept = json.loads(record.read_text())
        assert kept["tools"].startswith("umoci ")
        record.write_text(json.dumps({**kept, "tools": "umoci 0.0.1, mmdebstrap 0.0.1"}))
        cache.seal(record.parent)  # as that labkit left it
        (step,) = upkeep.plan(lab).value.steps
        assert (step.action, step.id) == ("change", "image red")
        assert step.why == f"programs: wanted {kept['tools']}, seen umoci 0.0.1, mmdebstrap 0.0.1"
        before = runc.states(lab)
        assert upkeep.apply(lab).changed
        assert runc.states(lab) == before
        assert json.loads(record.read_text()) == kept
        assert upkeep.plan(lab).value.empty
