"""The remarks seen from the report: what results address, what is kept, what the page lists."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from labkit import Check, Lab, Result
from labkit.errors import WikiError
from labkit.report import Stage
from labkit.report.site import discussion
from labkit.report.stages import record as records
from labkit.report.stages.record import Entry, StageRecord
from labkit.wiki.remarks import listing
from labkit.wiki.remarks.listing import Remarks
from tests.desks import WEB, run_stage, writers
from tests.test_remarks import remark


@pytest.fixture
def seen(tmp_path: Path) -> Lab:
    """A lab that touches nothing but its outputs."""
    return Lab.of({"name": "seen", "outputs": str(tmp_path / "outputs")})


def result(holds: bool = True) -> Result[Any]:
    """A result with a check."""
    check = Check(name="rootfs.reduced", expected="less", seen="171 MB", holds=holds)
    return Result[Any](
        action="rootfs.compare", subject="x", summary="It weighs 171 MB.", changed=False, value=None,
        checks=(check,), run="run-1", started=datetime(2026, 2, 1, tzinfo=UTC), seconds=1,
    )  # fmt: skip


def ran(lab: Lab, *entries: Entry, state: str = "passed") -> StageRecord:
    """A stage has run and left its record."""
    record = StageRecord.model_validate(
        {
            "stage": "02-rootfs", "title": "", "state": state, "closed": True, "run": "run-1",
            "started": "2026-02-01T00:00:00Z", "seconds": 5, "lab": lab.name, "parameters": {},
            "entries": entries,
        }
    )  # fmt: skip
    records.keep(lab, record)
    return record


def test_a_notebook_names_the_remark_that_its_result_addresses(seen: Lab) -> None:
    """The stage's record keeps the identifier with the result."""
    running = Stage.open("02-rootfs", seen)
    assert running.record(result(), addresses=["0badcafe"]).summary == "It weighs 171 MB."
    with pytest.raises(Exception, match="rootfs"):  # the stage lacks its other checks
        running.close()
    [record] = records.latest(seen)
    assert [entry.addresses for entry in record.entries] == [("0badcafe",)]


@pytest.mark.parametrize(
    ("holds", "state", "expected"),
    [(True, "passed", "answered"), (False, "passed", "open"), (True, "failed", "open")],
)
def test_a_result_answers_while_its_checks_and_its_stage_hold(
    seen: Lab, holds: bool, state: str, expected: str
) -> None:
    """What failed answers nothing, though it says which remark it is about."""
    record = ran(seen, Entry(cell=4, result=result(holds), addresses=("0badcafe",)), state=state)
    page = Remarks(page="Report", url="", remarks=(remark("REX> Quantify."),), revision=1)
    [found] = discussion.with_results(page, (record,)).remarks
    assert found.state == expected
    assert [(item.stage, item.cell, item.run) for item in found.addressed] == [("02-rootfs", 4, "run-1")]  # fmt: skip


def test_nothing_kept_is_nothing_shown(seen: Lab) -> None:
    """Neither before the remarks were ever read nor when the file is damaged."""
    assert discussion.last(seen) is None
    discussion.file(seen).parent.mkdir(parents=True)
    discussion.file(seen).write_text("{}")
    assert discussion.last(seen) is None


@pytest.mark.root
def test_remarks_are_read_and_kept(wiki_lab: Lab, tmp_path: Path) -> None:
    """As JSON under results, all of them, also when one state alone is asked for."""
    lab = of_its_own(wiki_lab, tmp_path, "Kept remarks")
    with writers(lab, lab.wiki.page, tmp_path / "wiki") as page:
        page.publish(run_stage(250), WEB)
        page.after("All: 250 MB.", "REX> Quantify.")
        page.after("Six pages.", "REX> Good.\nREX> settled")
    done = discussion.remarks(lab, only="open")
    assert [found.thread.text for found in done.value.remarks] == ["Quantify."]
    assert (done.changed, done.checks) == (False, ())
    assert done.summary == "2 remarks on the page Kept remarks: 1 open, 0 answered, 1 settled."
    kept = discussion.last(lab)
    assert kept is not None
    assert kept.run == done.run
    assert [found.thread.text for found in kept.about("05-web").remarks] == ["Good."]
    raw = json.loads((lab.output_dir / "results" / "remarks.json").read_text())
    assert [found["state"] for found in raw["remarks"]["remarks"]] == ["open", "settled"]


@pytest.mark.root
def test_a_result_for_a_remark_that_is_not_there_is_told(wiki_lab: Lab, tmp_path: Path) -> None:
    """A remark that was rewritten has another identifier: the check names the one that is gone."""
    lab = of_its_own(wiki_lab, tmp_path, "Addressed remarks")
    with writers(lab, lab.wiki.page, tmp_path / "wiki") as page:
        page.publish(run_stage(250))
        page.after("All: 250 MB.", "REX> Quantify.")
        [found] = page.remarks().remarks
    entry = Entry(cell=4, result=result(), addresses=(found.id, "0badcafe"))
    ran(lab, entry)
    [check] = discussion.remarks(lab).checks
    assert (check.holds, check.seen) == (False, "not on the page: 0badcafe")
    ran(lab, entry.model_copy(update={"addresses": (found.id,)}))
    assert discussion.remarks(lab).holds


@pytest.mark.root
def test_a_wiki_without_the_page_is_said_so_and_one_that_was_never_up_is_an_error(
    wiki_lab: Lab, lab: Lab, tmp_path: Path
) -> None:
    """Nothing published yet is no error; without a wiki nothing is made, nothing is waited for."""
    done = discussion.remarks(of_its_own(wiki_lab, tmp_path, "Not there"))
    assert done.summary == listing.sentence(done.value)
    assert "nothing was published there" in done.summary
    assert done.tables == ()
    with pytest.raises(WikiError, match="bring the wiki up first"):
        discussion.remarks(lab)


def of_its_own(wiki_lab: Lab, folder: Path, page: str) -> Lab:
    """The lab with the wiki that is up, and a page and outputs of the test's own."""
    wiki = wiki_lab.wiki.model_copy(update={"page": page})
    return wiki_lab.model_copy(update={"wiki": wiki, "outputs": str(folder / "outputs")})
