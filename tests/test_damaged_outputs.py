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
from tests.projects import Project, files, listing, project
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


def test_a_whole_notebook_is_shown(lab: Lab) -> None:
    """With its narrative; otherwise the other tests here would tell nothing."""
    assert "Narrative" in page(lab)
    assert "Narrative" in block(lab)


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


@pytest.mark.parametrize("harm", [torn, junk, null, gone, folder, nowhere], ids=lambda harm: harm.__name__)  # fmt: skip
def test_a_damaged_notebook_is_as_none(lab: Lab, harm: Harm) -> None:
    """The record is shown alone."""
    harm(records.notebook_file(lab, STAGE))
    for text in (page(lab), block(lab)):
        assert "Three replies." in text
        assert "Narrative" not in text


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("cells", 1, "outputs", 0, "data", RESULT_MIME, "summary"), "Four replies."),
        (("cells", 1, "outputs", 0, "data", RESULT_MIME, "checks", 0, "holds"), False),
        (("cells", 2, "outputs", 0, "data", FIGURE_MIME, "caption"), "Four replies."),
    ],
    ids=["summary", "check", "caption"],
)
def test_an_edited_result_is_not_shown(lab: Lab, place: tuple[str | int, ...], value: Any) -> None:
    """The notebook shows what its stage has not recorded: it is not that stage's any more."""
    edited(lab, place, value)
    for text in (page(lab), block(lab)):
        assert "Three replies." in text
        assert "Four" not in text
        assert "Narrative" not in text


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


def test_an_edited_page_of_the_site_is_written_anew(lab: Lab) -> None:
    """By the command, which otherwise leaves the site as it is."""
    own = project_of(lab)
    assert own.labkit("review").status == 1  # six stages have not run
    site = lab.output_dir / "review"
    before = files(listing(site))
    for name in ("index.html", f"{STAGE}.html"):
        junk(site / name)
    assert json.loads(own.labkit("review", "--json").stdout)["changed"]
    assert {path: size for path, (size, _) in files(listing(site)).items()} == {
        path: size for path, (size, _) in before.items()
    }


def test_a_damaged_record_is_told_by_the_command(lab: Lab) -> None:
    """The site says so of that stage, the exit status is 1, and no record is thrown away."""
    path = records.file(lab, STAGE)
    torn(path)
    before = listing(path.parent)
    done = project_of(lab).labkit("review")
    assert done.status == 1
    assert "Traceback" not in done.stderr
    assert "damaged" in done.stdout
    assert path.name in done.stdout
    assert listing(path.parent) == before


def project_of(lab: Lab) -> Project:
    """The project of the lab."""
    return Project(lab.output_dir.parent.parent)
