"""Stages: what they record, how they close, and how a record is read back."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from labkit import Check, Figure, Lab, Outcome, Result, Table
from labkit.core.result import FIGURE_MIME, action, drafts, picture
from labkit.errors import ConfigError, StageError, StateError
from labkit.records import Record
from labkit.report import Stage
from labkit.report.figures import style
from labkit.report.stages import assignment
from labkit.report.stages import record as records
from labkit.report.stages.assignment import STAGES, StagePlan, problems


class Seen(Record):
    """A value of the tests' own."""

    count: int


@action("test.measure")
def measure(*, holds: bool = True, name: str = "net.ping.one") -> Outcome[Seen]:
    """A result with one check and one table."""
    check = Check(name=name, expected="3", seen="3" if holds else "2", holds=holds, rows=("R10",))
    table = Table.of("sizes", "Sizes", [{"what": "a,b", "size": 12}], units={"size": "bytes"})
    return Outcome(value=Seen(count=3), summary="Three seen.", checks=(check,), tables=(table,))


@pytest.fixture
def quiet(tmp_path: Path) -> Lab:
    """A lab that touches nothing but its outputs."""
    return Lab.of({"name": "quiet", "outputs": str(tmp_path / "outputs")})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stage, which needs a check below ``net.ping.`` and answers R10."""
    monkeypatch.delenv("LABKIT_RUN", raising=False)
    stages = (StagePlan(name="04-network", title="N", rows=("R10",), required=("net.ping.",)),)
    monkeypatch.setattr(assignment, "STAGES", stages)


def draw(lab: Lab, name: str = "line", *, end: int = 4) -> Figure:
    """A small figure."""
    with style.axes(2.0) as (canvas, axes):
        axes.plot([1, 2], [3, end])
        return style.save(lab, canvas, name=name, alt="A line from 3 to 4", caption="A line.")


def test_stages_are_ordered_and_known() -> None:
    """Each stage waits only for stages before it; a misspelt one is refused, and the nearest is named."""
    names = [stage.name for stage in STAGES]
    for place, stage in enumerate(STAGES):
        assert set(stage.after) <= set(names[:place])
    with pytest.raises(ConfigError, match="04-network"):
        Stage.open("04-netwrk", Lab())


@pytest.mark.usefixtures("small")
def test_record_survives_the_round_trip(quiet: Lab) -> None:
    """What a stage recorded is read back equal: checks, tables, figures, and the stage's state."""
    stage = Stage.open("04-network", quiet)
    given: Result[Seen] = measure()
    result = stage.record(given)
    assert result is given  # for its cell to show
    figure = stage.record(draw(quiet))
    closed = stage.close()
    loaded = Stage.load(quiet, "04-network")
    assert loaded.model_dump(mode="json") == closed.model_dump(mode="json")
    assert (loaded.state, loaded.closed, loaded.held) == ("passed", True, 1)
    assert loaded.results[0].checks == result.checks
    assert loaded.results[0].value == {"count": 3}
    assert loaded.figures[0].png == figure.png


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("recorded", "complaint"),
    [
        ([], r"no check net\.ping\.\* was made"),
        ([measure(holds=False)], r"net\.ping\.one: expected 3; seen 2"),
        ([measure(name="net.pong")], r"no check net\.ping\.\* was made"),
        ([measure(holds=False), measure()], r"net\.ping\.one: expected 3; seen 2"),
    ],
    ids=["missing", "fails", "another", "once failed"],
)
def test_close_names_what_is_missing(
    quiet: Lab, recorded: list[Result[Seen]], complaint: str
) -> None:
    """Closing raises an error that names each required check that is missing or fails."""
    stage = Stage.open("04-network", quiet)
    for result in recorded:
        stage.record(result)
    with pytest.raises(StageError, match=complaint):
        stage.close()


def test_row_without_a_check_that_holds_is_a_problem() -> None:
    """A stage that answers a row has a check that holds for it."""
    plan = StagePlan(name="x", title="X", rows=("R9",))
    assert problems(plan, measure().checks) == ("no check that holds answers row R9",)


def run_once(lab: Lab, *names: str, holds: bool, end: int) -> bytes:
    """A run of the stage that draws these figures; returns the PNG that it shows."""
    stage = Stage.open("04-network", lab)
    stage.record(measure(holds=holds))
    figures = [stage.record(draw(lab, name, end=end)) for name in names]
    with nullcontext() if holds else pytest.raises(StageError):
        stage.close()
    return figures[0]._image


@pytest.mark.usefixtures("small")
def test_failed_run_does_not_replace_the_good_one(quiet: Lab) -> None:
    """Record and figures of a failed run lie beside the good ones under names of their own; the next good run
    replaces both, and tells nothing of where on the machine the outputs are."""
    place, results = quiet.output_dir / "figures", quiet.output_dir / "results"
    good = run_once(quiet, "line", holds=True, end=4)
    record = (results / "04-network.json").read_bytes()
    bad = run_once(quiet, "line", holds=False, end=5)
    assert good != bad
    assert (results / "04-network.json").read_bytes() == record
    assert (place / "line.png").read_bytes() == good
    assert (place / "line.failed.png").read_bytes() == bad
    assert str(quiet.output_dir) not in (results / "04-network.failed.json").read_text()
    (failed,) = [record for record in records.latest(quiet) if record.state == "failed"]
    assert (failed.figures[0].png, failed.figures[0].svg) == ("figures/line.failed.png", "figures/line.failed.svg")  # fmt: skip
    assert run_once(quiet, "line", holds=True, end=5) == bad
    assert (place / "line.png").read_bytes() == bad
    assert sorted(path.name for path in place.glob("*.*") if path.is_file()) == ["line.png", "line.svg"]  # fmt: skip
    assert not (results / "04-network.failed.json").exists()


@pytest.mark.usefixtures("small")
def test_figures_that_a_stage_has_no_more_are_removed(quiet: Lab) -> None:
    """What the last good run drew and this one does not is gone; what is another stage's stays."""
    place = quiet.output_dir / "figures"
    run_once(quiet, "old", "line", holds=True, end=4)
    (place / "others.png").write_bytes(b"")
    run_once(quiet, "line", holds=True, end=4)
    assert {path.name for path in place.glob("*.png")} == {"line.png", "others.png"}


@pytest.mark.usefixtures("small")
def test_failed_cell_can_be_run_again_before_the_stage_closes_once_more(quiet: Lab) -> None:
    """After a failure the other cells' figures are still there for a second closing."""
    stage = Stage.open("04-network", quiet)
    figure = stage.record(draw(quiet))
    with pytest.raises(StageError):
        stage.close()
    stage.record(measure())
    stage.close()
    assert (quiet.output_dir / figure.png).read_bytes() == figure._image


def test_drafts_of_runs_that_ended_long_ago_are_swept_away(quiet: Lab) -> None:
    """A killed run's drafts go with the next stage that is kept, a running one's do not."""
    for name, age in (("old", 100_000), ("new", 0)):
        drafts(quiet, name).mkdir(parents=True)
        os.utime(drafts(quiet, name), (time.time() - age,) * 2)
    records.sweep_drafts(quiet)
    assert [path.name for path in (quiet.output_dir / "figures").iterdir()] == [".new"]


@pytest.mark.usefixtures("small")
def test_batch_judges_before_a_record_is_kept(quiet: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch the closing cell leaves its record for the batch and replaces nothing."""
    monkeypatch.setenv("LABKIT_RUN", "run1")
    stage = Stage.open("04-network", quiet)
    stage.record(measure())
    stage.close()
    assert [path.name for path in (quiet.output_dir / "results").iterdir()] == [
        ".04-network.run1.json"
    ]


@pytest.mark.usefixtures("small")
def test_tables_are_written_as_csv(quiet: Lab) -> None:
    """Tables land as CSV with their units; two of one name get a number; older ones go."""
    folder = quiet.output_dir / "tables" / "04-network"
    folder.mkdir(parents=True)
    (folder / "older.csv").write_text("x\n")
    stage = Stage.open("04-network", quiet)
    stage.record(measure())
    stage.record(measure(name="net.ping.two"))
    stage.close()
    assert sorted(path.name for path in folder.iterdir()) == ["sizes-2.csv", "sizes.csv"]
    assert (folder / "sizes.csv").read_text() == 'what,size (bytes)\n"a,b",12\n'


def test_missing_record_says_how_to_make_it(quiet: Lab) -> None:
    """Reading a stage that never passed says which command runs it."""
    with pytest.raises(StateError, match="labkit run 04-network"):
        Stage.load(quiet, "04-network")


def test_a_figure_is_the_same_each_time_and_shows_itself(quiet: Lab) -> None:
    """The same drawing gives the same PNG and SVG, byte for byte; a notebook gets the picture, its alt text, and
    the record that names its files."""
    first = draw(quiet)
    before = [picture(quiet, path).read_bytes() for path in (first.png, first.svg)]
    again = draw(quiet)
    assert [picture(quiet, path).read_bytes() for path in (again.png, again.svg)] == before
    data, metadata = again._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == "A line from 3 to 4"
    assert data["image/png"].startswith("iVBOR")
    assert data[FIGURE_MIME]["png"] == "figures/line.png"


@pytest.mark.parametrize(("name", "alt"), [("a/b", "x"), ("", "x"), ("ok", " ")])
def test_figure_without_name_or_alt_is_refused(quiet: Lab, name: str, alt: str) -> None:
    """A figure's name is a plain file name, and its alt text is not empty; nothing is written."""
    with style.canvas() as canvas, pytest.raises(ConfigError):
        style.save(quiet, canvas, name=name, alt=alt, caption="c")
    assert not quiet.output_dir.exists()
