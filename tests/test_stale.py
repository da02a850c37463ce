"""A stage whose lab, inputs or predecessors changed since it ran is stale, and everybody is told why."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from labkit import Check, Lab, Result
from labkit.errors import StageError
from labkit.model.config import PARAMETERS
from labkit.report.batch import notebook
from labkit.report.batch.rebuild import Rebuilt, notebooks_folder, rebuild
from labkit.report.batch.schedule import Wish
from labkit.report.page import blocks
from labkit.report.site import review
from labkit.report.stages import build_cache
from labkit.report.stages import record as records
from labkit.report.stages.assignment import STAGES, plan
from labkit.report.stages.closing import (
    closing_table,
    coverage_table,
    judged_rows,
    row_answers,
    task_states,
)
from labkit.report.stages.record import Entry, Inputs, StageRecord
from labkit.report.stages.stage import Stage
from tests import stage_notebooks
from tests.conftest import open_place
from tests.projects import files, listing, project
from tests.test_review import result

BEGIN = datetime(2024, 1, 1, 12, 0, tzinfo=UTC)


def record(stage: str, minute: int = 0, *checks: str, **other: Any) -> StageRecord:
    """A run of a stage, with the default lab but for ``parameters``."""
    given = build_cache.described(Lab.of(other.pop("parameters", {})))
    said = f"{given['replicas']} replicas in {stage}."
    made = [Check(name=name, expected="1", seen="1", holds=True) for name in checks]
    values = {
        "stage": stage, "title": plan(stage).title, "state": "passed", "closed": True, "run": f"run{minute}",
        "started": BEGIN + timedelta(minutes=minute), "seconds": 5, "lab": "lab", "parameters": given,
        "entries": (Entry(cell=1, result=result(said, checks=made)),) if checks else (),
    }  # fmt: skip
    return StageRecord.model_validate({**values, **other})


# -- pure ------------------------------------------------------------------------------------------

KNOWN = Inputs(notebook="n", given={"shown": "a"}, assignment="", labkit="l", after={"05-web": "w", "02-rootfs": "r"})  # fmt: skip
#: What is otherwise now, in the lab and in the inputs; what other stages ran since; and what is said of 06-balancer.
NOW: dict[str, tuple[dict[str, Any], dict[str, Any], list[StageRecord], str]] = {
    "nothing": ({}, {}, [], ""),
    "a number": ({"replicas": 3}, {}, [], "replicas was 2 and is 3 now"),
    "a key of a section": ({"proxy": {"port": 81}}, {}, [], "proxy.port was 80 and is 81 now"),
    "what was not set": ({"rootfs": {"suite": "trixie"}}, {}, [], "rootfs.suite was not set and is trixie now"),
    "sites": ({"sites": ["a", "b", "c"]}, {}, [], "lab.toml's sites changed"),
    "the traffic that it measures": ({"traffic": {"seconds": 1.0}}, {}, [], "traffic.seconds was 3.0 and is 1.0 now"),
    "the wiki, which it does not use": ({"wiki": {"port": 8061}}, {}, [], ""),
    "where things are": ({"state": "/x/s", "cache": "/x/c", "run": "/x/r", "offline": True}, {}, [], ""),
    "its notebook": ({}, {"notebook": "m"}, [], "its notebook changed"),
    "a notebook that is not known": ({}, {"notebook": None}, [], ""),
    "a parameter of its own": ({}, {"given": {"shown": "b"}}, [], "shown was a and is b now"),
    "one that is not given any more": ({}, {"given": {}}, [], "shown was a and is not set now"),
    "a list of its own": ({}, {"given": {"shown": [1, 2]}}, [], "shown was a and is [1, 2] now"),
    "parameters that are not known": ({}, {"given": None}, [], ""),
    "labkit": ({}, {"labkit": "k"}, [], "labkit itself changed"),
    "the assignment, which it does not use": ({}, {"assignment": "x"}, [], ""),
    "a stage before": ({}, {"after": {"05-web": "v"}}, [record("05-web", 9)], "05-web ran again since"),
    "a stage before is gone": ({}, {"after": {"05-web": ""}}, [], "05-web has no result that can be read"),
    "a stage before, with another lab": (
        {}, {"after": {"05-web": "v"}}, [record("05-web", 9, parameters={"replicas": 3})],
        "replicas was 2 and is 3 in 05-web",
    ),
    "one before that": ({}, {}, [record("04-network", 9, parameters={"replicas": 3})], "replicas was 2 and is 3 in 04-network"),
    "one that failed": (
        {}, {}, [record("05-web", 9, parameters={"replicas": 3}, state="failed")],
        "replicas was 2 and is 3 in 05-web",
    ),
    "one before that ran earlier": ({}, {}, [record("04-network", 1, parameters={"replicas": 3})], ""),
    "one before with sites of its own": (
        {}, {}, [record("04-network", 9, parameters={"sites": ["a"]})], "sites changed in 04-network",
    ),
    "a stage that does not use it": ({}, {}, [record("02-rootfs", 9, parameters={"replicas": 3})], ""),
    "the lab, and so a stage before": (
        {"replicas": 3}, {"after": {"05-web": "v"}}, [record("05-web", 9, parameters={"replicas": 3})],
        "replicas was 2 and is 3 in 05-web",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOW)
def test_what_changed_is_said_in_few_words(case: str) -> None:
    """What a stage's result depends on, and nothing else: before and after."""
    lab, other, since, said = NOW[case]
    now = KNOWN.model_copy(update=other)
    ran = record("06-balancer", 5, inputs=KNOWN)
    last = {item.stage: item for item in since}
    assert build_cache.changed(ran, now, build_cache.described(Lab.of(lab)), last.get) == said


def test_a_record_without_inputs_is_compared_as_far_as_it_goes() -> None:
    """One that an older labkit wrote."""
    ran = record("06-balancer", parameters={"replicas": 3})
    assert not build_cache.changed(ran, KNOWN, None, {}.get)
    assert "replicas" in build_cache.changed(ran, KNOWN, build_cache.described(Lab()), {}.get)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_uses_what_its_notebook_declares(stage: Any) -> None:
    """Of lab.toml's keys, but for folders: a change of one makes it stale."""
    source = notebooks_folder() / f"{stage.name}.ipynb"
    keys = {PARAMETERS[n] for n in notebook.declared(notebook.require(source)) if n in PARAMETERS}
    assert {key.split(".")[0] for key in keys} - build_cache.APART <= set(stage.uses)
    assert set(stage.uses) <= set(Lab.model_fields)


def test_a_project_that_was_renamed_is_not_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notebook that was run is where the project is now; one that is nowhere is not compared."""
    own = project(tmp_path)
    name = "02-rootfs"
    source = notebooks_folder() / f"{name}.ipynb"
    known = build_cache.Remembered(source=f"/before/notebooks/{name}.ipynb", record="r")
    monkeypatch.setattr(
        build_cache, "recall", lambda lab: build_cache.BuildCache(stages={name: known})
    )
    monkeypatch.chdir(tmp_path)
    given = build_cache.inputs_of(own.lab, plan(name), source, {})
    ran = record(name, 1, "x", inputs=given, parameters=own.lab.model_dump(mode="json"))
    assert build_cache.stale(own.lab, [ran]) == {}
    other = given.model_copy(update={"notebook": "another"})
    changed = ran.model_copy(update={"inputs": other})
    assert build_cache.stale(own.lab, [changed]) == {name: "its notebook changed"}
    monkeypatch.setattr(build_cache, "project_folder", lambda: tmp_path / "nowhere")
    assert build_cache.stale(own.lab, [changed]) == {}


def test_a_stage_of_an_engine_that_is_no_more_makes_no_other_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild skips it, and could never mend the report, which shows what it found."""
    known = build_cache.BuildCache(
        stages={
            name: build_cache.Remembered(source="", record="r")
            for name in ("07-report", "09-engine")
        }
    )
    monkeypatch.setattr(build_cache, "recall", lambda lab: known)
    lab = Lab.of({"outputs": str(tmp_path), "state": str(tmp_path)})
    engine = {"host": "unix:///run/docker.sock"}
    runs = [record("09-engine", 1, parameters={"engine": engine}), record("07-report", 2)]
    assert build_cache.stale(lab, runs) == {
        "09-engine": "engine.host was unix:///run/docker.sock and is not set now"
    }


def test_a_stage_that_the_lab_skips_is_shown_so(tmp_path: Path) -> None:
    """On the review site and on the wiki, with the reason; it is no check of the review."""
    lab = Lab.of({"outputs": str(tmp_path / "outputs"), "state": str(tmp_path / "state")})
    text = {block.name: block.text for block in blocks.stages(lab).blocks}
    assert "''Skipped: engine.host is not set.''" in text["09-engine"]
    assert "– skipped" in text["summary"]
    done = review.build(lab)
    assert done.summary.startswith("0 of 8 stages passed")
    assert "review.09-engine" not in {check.name for check in done.checks}
    page = (lab.output_dir / "review" / "index.html").read_text()
    assert re.search(
        r'class="state skipped">.*skipped</span><br><small>engine.host is not set', page
    )


def test_a_task_with_checks_of_a_stale_stage_is_stale() -> None:
    """It says why, and quotes no result of it beside those of another lab."""
    found = [record("04-network", 1, "farm.replica.a", "network.ping.a"), record("05-web", 0, "farm.replica.b")]  # fmt: skip
    more = [record("05-web", 0, *(f"farm.replica.{n}-{m}" for n in range(3) for m in (1, 2)))]
    stale = {"05-web": "04-network ran again since"}
    tasks = {task.task: task for task in task_states([*found, *more], stale)}
    farm = tasks["Run the farm's containers"]
    assert farm.state == "stale"
    assert farm.comment.startswith("05-web is stale, because 04-network ran again since. ")
    assert "2 replicas in 04-network." in farm.comment
    assert "2 replicas in 05-web." not in farm.comment
    assert tasks["Connect the network"].state == "met"


def test_the_rows_name_answers_of_stale_stages() -> None:
    """Each cell's answer for itself."""
    found = [
        record(name, 1, "x", entries=(Entry(cell=1, result=result()),))
        for name in ("04-network", "05-web")
    ]
    table = coverage_table(row_answers(found), judged_rows(found), {"05-web"})
    said = {row[3]: row[5] for row in table.rows if row[0] == "R10"}
    assert said == {"04-network": "1 of 1 hold", "05-web": "1 of 1 hold, stale"}


def test_a_stage_that_ran_by_hand_knows_what_it_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In JupyterLab: its lab and the stages before it, so that those that run afterwards make it stale."""
    monkeypatch.delenv("LABKIT_RUN", raising=False)
    lab = Lab.of({"outputs": str(tmp_path / "outputs"), "state": str(tmp_path / "state")})
    records.keep(lab, record("03-containers"))
    stage = Stage.open("04-network", lab)
    with pytest.raises(StageError):
        stage.close()
    failed = records.latest(lab)[-1]
    records.keep(lab, failed.model_copy(update={"state": "passed"}))
    assert build_cache.stale(lab) == {}
    records.keep(lab, record("03-containers", 1))
    assert build_cache.stale(lab) == {"04-network": "03-containers ran again since"}


# -- real notebooks ----------------------------------------------------------------------------------

#: The stages that have to do with the farm, and one that has not.
NAMES = ("01-wiki", "03-containers", "04-network", "05-web")


class Ran:
    """A lab whose stages ran with two replicas, and then one of them with three."""

    def __init__(self, root: Path) -> None:
        places = {name: str(root / name) for name in ("outputs", "state", "run")}
        self.lab = Lab.of({"name": "mixed", **places})
        self.more = self.lab.model_copy(update={"replicas": 3})
        self.notebooks = root / "notebooks"
        for name in NAMES:
            stage_notebooks.write(self.notebooks, name)
        self.first = self.rebuild(self.lab)
        self.fresh = self.site()
        self.one = self.rebuild(self.more, stages=("04-network",), force=True)
        self.mixed = self.site()

    def rebuild(self, lab: Lab, **wish: Any) -> Result[Rebuilt]:
        """A batch of these stages."""
        asked = {"stages": NAMES, **wish}
        return rebuild(lab, Wish.model_validate(asked), folder=self.notebooks)

    def site(self, lab: Lab | None = None) -> dict[str, str]:
        """The review site's pages, each as its text on one line."""
        review.build(lab or self.lab)
        pages = (self.lab.output_dir / "review").glob("*.html")
        return {page.name: text(page) for page in pages}


def text(page: Path) -> str:
    """A page's text, on one line."""
    body = page.read_text().partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All of it, once."""
    return Ran(tmp_path_factory.mktemp("mixed"))


def test_one_stage_with_other_parameters_makes_others_stale(ran: Ran) -> None:
    """The command, the index and the stages' pages say what was, what is, and where; what does not depend on it
    stays. A rebuild left nothing stale."""
    assert ran.first.holds
    assert not [name for name, text in ran.fresh.items() if "stale" in text]
    index, why = ran.mixed["index.html"], "stale, because replicas was 2 and is 3 in 04-network"
    assert f"05-web ↻ stale {why}" in index
    assert "04-network ↻ stale stale, because replicas was 3 and is 2 now" in index
    assert f"This run is {why}." in ran.mixed["05-web.html"]
    assert "This run is stale, because replicas was 3 and is 2 now." in ran.mixed["04-network.html"]
    for name in ("01-wiki", "03-containers"):
        assert "stale" not in ran.mixed[f"{name}.html"]
    rows = {row[0]: row for row in ran.one.tables[0].rows}
    assert rows["05-web"][1] == "stale"
    assert rows["05-web"][-1] == "because replicas was 2 and is 3 in 04-network"
    assert ran.one.summary == "1 stage: 1 passed. Stale now: 05-web."


def test_the_closing_table_and_the_wiki_mix_no_results_without_a_word(ran: Ran) -> None:
    """A task is done by what is of now alone; two numbers of replicas stand in no cell as if of one lab. The wiki
    says so at the head of the block and in the table of the stages."""
    shown = {task.task: task for task in closing_table(ran.more).value.tasks}
    assert shown["Install the wiki"].state != "stale"
    assert (shown["Connect the network"].state, "3 replicas" in shown["Connect the network"].comment) == ("met", True)  # fmt: skip
    web = shown["Serve the web sites"]
    assert "05-web is stale, because replicas was 2 and is 3 in 04-network." in web.comment
    assert "2 replicas" not in web.comment
    now = {task.task: task for task in closing_table(ran.lab).value.tasks}
    assert now["Connect the network"].state == "stale"
    assert now["Connect the network"].comment.startswith("04-network is stale, because replicas was 3 and is 2 now.")  # fmt: skip
    made = {block.name: block.text for block in blocks.stages(ran.lab).blocks}
    said = "'''↻ Stale''', because replicas was 2 and is 3 in 04-network."
    assert said in made["05-web"].split("✔")[0]
    assert "Stale" not in made["03-containers"]
    assert made["summary"].count("↻ stale") == 2


def test_the_index_is_of_the_lab_that_was_run(ran: Ran, tmp_path: Path) -> None:
    """Not of today's lab.toml; what one stage had otherwise is said. A teacher who has the outputs alone has another
    lab.toml, or none: then the runs are compared with each other."""
    index = ran.site(ran.lab.model_copy(update={"replicas": 5}))["index.html"]
    assert "3 web sites on 6 servers" in index
    assert "replicas 2; 3 in 04-network" in index
    assert "stale, because replicas was 3 and is 5 now" in index
    away = Lab.of({**ran.lab.model_dump(), "state": str(tmp_path), "replicas": 7})
    index = ran.site(away)["index.html"]
    assert index.count("↻ stale stale, because") == 1
    assert "3 web sites on 6 servers" in index


def test_a_rebuild_brings_all_to_one_state_of_affairs(ran: Ran) -> None:
    """It runs what is stale, and says why; afterwards nothing is, and nothing is written any more."""
    done = ran.rebuild(ran.lab)
    states = {ending.stage: ending.state for ending in done.value.stages}
    assert states == {"01-wiki": "unchanged", "03-containers": "unchanged", "04-network": "passed", "05-web": "passed"}  # fmt: skip
    assert not [name for name, text in ran.site().items() if "stale" in text]
    assert "Stale" not in "".join(block.text for block in blocks.stages(ran.lab).blocks)
    kept = (ran.lab.output_dir, ran.lab.state_dir)
    before = files(listing(*kept))
    assert not ran.rebuild(ran.lab).changed
    assert not review.build(ran.lab).changed
    assert files(listing(*kept)) == before


def test_what_one_more_run_left_is_not_what_others_saw(ran: Ran) -> None:
    """Also where nothing was changed but that it ran again."""
    ran.rebuild(ran.lab)
    ran.rebuild(ran.lab, stages=("03-containers",), force=True)
    index = ran.site()["index.html"]
    assert "04-network ↻ stale stale, because 03-containers ran again since" in index
    assert "05-web ↻ stale stale, because 04-network is stale" in index
    ran.rebuild(ran.lab)


# -- the commands, and a farm ------------------------------------------------------------------------

FARM = "from labkit.farm.reconcile import up\nstage.record(up.replicas(lab))"
TABLE = "from labkit.report.stages import closing_table\nstage.record(closing_table(lab))"
#: What each stage of the farm's does besides what makes it pass.
CELLS = {"04-network": [FARM], "05-web": [FARM], "06-balancer": [FARM], "07-report": [TABLE]}


@pytest.mark.root
def test_a_farm_with_other_replicas_is_told_and_made_one_lab_again() -> None:
    """One stage runs with more replicas: the index says of the others, and of it, what differs, and no cell has both
    numbers. The next rebuild takes the surplus down, runs what is stale, and then nothing is left to do."""
    with open_place() as folder:
        own = project(folder, **{"network.subnet": "10.86.0.0/24"})
        (folder / "notebooks").unlink()
        for stage in STAGES:
            cells = (*CELLS.get(stage.name, ()), "PROBE")
            stage_notebooks.write(folder / "notebooks", stage.name, *cells)
        index = own.lab.output_dir / "review" / "index.html"
        try:
            assert own.labkit("rebuild").status == 0
            assert "stale" not in text(index)
            more = own.labkit("run", "04-network", "--set", "replicas=3")
            assert more.status == 0, more.stdout + more.stderr
            assert "Stale now: 05-web, 06-balancer, 07-report." in more.stdout
            assert own.labkit("review").status == 1
            for name in ("05-web", "06-balancer"):
                assert f"{name} ↻ stale stale, because replicas was 2 and is 3 in 04-network" in text(index)  # fmt: skip
            assert "07-report ↻ stale stale, because 04-network ran again since" in text(index)
            tasks = closing_table(own.lab).value.tasks
            assert not [t for t in tasks if "9 replicas" in t.comment and "6 replicas" in t.comment]
            assert {t.task: t.state for t in tasks}["Run the farm's containers"] == "stale"
            again = own.labkit("rebuild")
            assert again.status == 0, again.stdout + again.stderr
            removed = "removed first, as this lab does not have them: site1-3, site2-3, site3-3"
            assert removed in again.stderr
            assert "9 stages: 4 unchanged, 4 passed, 1 skipped." in again.stdout
            assert "Stale" not in again.stdout
            assert "stale" not in text(index)
            table = Stage.load(own.lab, "07-report").results[0].tables[0]
            assert "stale" not in {row[1] for row in table.rows}
            assert "9 stages: 8 unchanged, 1 skipped." in own.labkit("rebuild").stdout
        finally:
            assert own.labkit("down").status == 0
