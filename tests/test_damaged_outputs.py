"""Files of the outputs that somebody damaged or edited: never shown as what a run has found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit import Lab
from labkit.core.result import FIGURE_MIME, RESULT_MIME
from labkit.report import Stage
from labkit.report.page import blocks
from labkit.report.site import review
from labkit.report.stages import assignment, build_cache
from labkit.report.stages import record as records
from labkit.report.stages.build_cache import BuildCache, Remembered
from labkit.report.stages.record import Entry, Inputs
from tests import executed
from tests.damage import folder, gone, junk, nowhere, null, torn
from tests.projects import project
from tests.test_review import PNG, code, figure, keep, notebook, picture, prose, result, showing

STAGE = "04-network"
Harm = Callable[[Path], None]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab with one stage that passed: its record, its executed notebook, its picture and its table."""
    made = Lab.load(project(tmp_path).file)
    shown, drawn = result("Three replies."), figure()
    for name in ("line.png", "x.svg"):
        executed.draw(made, "run1", name, PNG)
    keep(made, STAGE, Entry(cell=1, result=shown), Entry(cell=2, figure=drawn))
    notebook(
        made, STAGE, prose("# Title\n\nNarrative."),
        code("act()", showing({RESULT_MIME: shown.model_dump(mode="json"), "text/plain": "Three"})),
        code("draw()", picture(drawn), count=2),
    )  # fmt: skip
    return made


def page(lab: Lab) -> str:
    """The stage's page of the review site, built now."""
    review.build(lab)
    return (lab.output_dir / "review" / f"{STAGE}.html").read_text()


def block(lab: Lab) -> str:
    """The stage's block of the report's page on the wiki."""
    return next(item.body for item in blocks.stages(lab).blocks if item.name == STAGE)


PLACES: tuple[tuple[str | int, ...], ...] = (
    ("cells",), ("cells", 0), ("cells", 0, "source"), ("cells", 0, "metadata"), ("cells", 1, "outputs"),
    ("cells", 1, "outputs", 0), ("cells", 1, "outputs", 0, "data"), ("cells", 1, "metadata"),
    ("cells", 1, "outputs", 0, "data", RESULT_MIME), ("cells", 1, "outputs", 0, "data", RESULT_MIME, "run"),
    ("cells", 2, "outputs", 0, "data", FIGURE_MIME), ("metadata",),
)  # fmt: skip
VALUES: tuple[Any, ...] = (None, 5, "x", [5], [None], {"a": [5]})


def edited(lab: Lab, place: tuple[str | int, ...], value: Any) -> None:
    """One place of the executed notebook has another value."""
    path = records.notebook_file(lab, STAGE)
    content = json.loads(path.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place))[-40:])
def test_an_edited_notebook_is_no_reason_for_the_record_not_to_be_shown(
    lab: Lab, place: tuple[str | int, ...]
) -> None:
    """Whatever stands in any place of it: site and wiki show what the record has."""
    path = records.notebook_file(lab, STAGE)
    whole = path.read_text()
    for value in VALUES:
        edited(lab, place, value)
        assert "Three replies." in page(lab), value
        assert "Three replies." in block(lab), value
        path.write_text(whole)


EDITS = {
    "summary": (("cells", 1, "outputs", 0, "data", RESULT_MIME, "summary"), "Four replies."),
    "check": (("cells", 1, "outputs", 0, "data", RESULT_MIME, "checks", 0, "holds"), False),
    "caption": (("cells", 2, "outputs", 0, "data", FIGURE_MIME, "caption"), "Four replies."),
}


@pytest.mark.parametrize("harm", [torn, junk, null, gone, folder, nowhere, *EDITS])
def test_a_damaged_notebook_is_as_none(lab: Lab, harm: Harm | str) -> None:
    """The record is shown alone: a notebook that shows what its stage has not recorded is not that stage's."""
    assert "Narrative" in page(lab)
    assert "Narrative" in block(lab)
    if isinstance(harm, str):
        edited(lab, *EDITS[harm])
    else:
        harm(records.notebook_file(lab, STAGE))
    for text in (page(lab), block(lab)):
        assert "Three replies." in text
        assert "Narrative" not in text
        assert "Four" not in text


@pytest.mark.parametrize("harm", [torn, junk, gone, folder], ids=lambda harm: harm.__name__)
def test_a_damaged_picture_is_not_sent_to_the_wiki(lab: Lab, harm: Harm) -> None:
    """The one that the notebook holds is."""
    harm(lab.output_dir / "figures/line.png")
    (sent,) = blocks.stages(lab).uploads
    assert sent.data == PNG


def remembered(lab: Lab) -> BuildCache:
    """What a rebuild would remember of the stage."""
    stage = Remembered(source="", record=Stage.load(lab, STAGE).digest, standing=())
    return BuildCache(stages={STAGE: stage})


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("figures/line.png", junk),
        ("figures/x.svg", gone),
        (f"tables/{STAGE}/t.csv", torn),
        (f"tables/{STAGE}/t.csv", gone),
        (f"tables/{STAGE}/t.csv", folder),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_stage_whose_pictures_or_tables_were_changed_runs_again(
    lab: Lab, name: str, harm: Harm
) -> None:
    """Only its run makes them."""
    known = remembered(lab)
    assert build_cache.why_run(lab, assignment.plan(STAGE), known, Inputs(), ()) == ""
    harm(lab.output_dir / name)
    why = build_cache.why_run(lab, assignment.plan(STAGE), known, Inputs(), ())
    assert why == f"{name} is gone or was changed"


@pytest.mark.parametrize(
    "harm", [torn, junk, null, folder, nowhere], ids=lambda harm: harm.__name__
)
def test_a_damaged_memory_is_none(lab: Lab, harm: Harm) -> None:
    """Every stage runs again."""
    build_cache.write(lab, remembered(lab))
    harm(build_cache.cache_file(lab))
    assert build_cache.recall(lab) == BuildCache()
