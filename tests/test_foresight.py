"""What `plan` tells of a rebuild: the wiki that does not run, the stages that would, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labkit import Lab
from labkit.report.batch.rebuild import foresight
from labkit.report.stages.assignment import STAGES
from labkit.report.stages.build_cache import BuildCache, Remembered, write
from tests.projects import listing, project


def rows(lab: Lab) -> dict[str, str]:
    """The table's rows: the step, and why."""
    return {str(step): str(why) for table in foresight(lab) for step, why in table.rows}


def test_of_a_lab_that_was_never_rebuilt(tmp_path: Path) -> None:
    """No wiki, no report; and telling it makes nothing."""
    own = project(tmp_path)
    before = listing(tmp_path)
    done = own.labkit("plan", "--json")
    assert done.status == 0, done.stderr
    tables = {table["name"]: table["rows"] for table in json.loads(done.stdout)["tables"]}
    steps = dict(tables["rebuild"])
    assert set(steps) == {"create wiki", "publish report"}
    assert "Connection refused" in steps["create wiki"]
    assert steps["publish report"] == "no rebuild of this lab has passed yet"
    assert listing(tmp_path) == before


def test_of_a_lab_whose_stages_have_changed(tmp_path: Path) -> None:
    """Each stage with its own reason, as a rebuild would tell it."""
    lab = project(tmp_path).lab
    kept = Remembered(source="", record="another")
    write(lab, BuildCache(stages={"01-wiki": kept}))
    found = rows(lab)
    assert found["run 01-wiki"] == "its record is gone or was changed"
    assert found["run 07-report"] == "no run of it that passed is known"
    wanted = {f"run {stage.name}" for stage in STAGES if not stage.only_with}
    assert {step for step in found if step.startswith("run ")} == wanted


@pytest.mark.root
def test_a_wiki_that_runs_is_no_step(wiki_lab: Lab) -> None:
    """Only what would be done is told."""
    assert "publish report" in rows(wiki_lab)
    assert not {"start wiki", "create wiki"} & set(rows(wiki_lab))
