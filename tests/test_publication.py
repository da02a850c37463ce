"""The report's page: made from what the stages left, published on a real wiki."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pytest

from labkit import Lab
from labkit.checks import Check
from labkit.core.result import Figure, Result
from labkit.report.page import blocks, publication
from labkit.report.site import discussion
from labkit.report.stages import record as records
from labkit.report.stages.assignment import STAGES
from labkit.report.stages.record import Entry, StageRecord
from labkit.wiki.client import session, transport
from labkit.wiki.merge import fences
from labkit.wiki.remarks.listing import Remark, Remarks
from labkit.wiki.remarks.threads import Thread
from tests import executed

NAMES = tuple(stage.name for stage in STAGES)
#: A real PNG picture of one pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da63fcff1f000"
    "30301ffa51ba6c90000000049454e44ae426082"
)


def result(megabytes: int, run: str = "run-1") -> Result[None]:
    """A result with a check."""
    check = Check(
        name="rootfs.reduced", expected="less than 250 MB", seen=f"{megabytes} MB",
        holds=megabytes < 250, rows=("I2",),
    )  # fmt: skip
    return Result[None](
        action="rootfs.compare", subject="x", summary=f"It weighs {megabytes} MB.", changed=True,
        value=None, checks=(check,), run=run, started=datetime(2026, 1, 1, tzinfo=UTC), seconds=1,
    )  # fmt: skip


def ran(lab: Lab, *shown: Result[None] | Figure, stage: str = "02-rootfs", failed: str = "", run: str = "run-1") -> None:  # fmt: skip
    """A stage has run and left its record."""
    kept = [Entry(cell=n, **{"figure" if isinstance(item, Figure) else "result": item}) for n, item in enumerate(shown, 1)]  # type: ignore[arg-type]  # fmt: skip
    records.keep(
        lab,
        StageRecord(
            stage=stage, title="", state="failed" if failed else "passed", closed=True,
            problems=(failed,) if failed else (), run=run,
            started=datetime(2026, 1, 2, 3, 4, tzinfo=UTC), seconds=5, lab=lab.name, parameters={},
            entries=tuple(kept),
        ),
    )  # fmt: skip


def notebook_of(lab: Lab, shown: Result[None], stage: str = "02-rootfs") -> None:
    """The stage's executed notebook lies in the outputs."""
    data = json.loads(json.dumps(shown._repr_mimebundle_()))
    call, close = nbformat.v4.new_code_cell("act()"), nbformat.v4.new_code_cell("stage.close()")
    call.outputs = [nbformat.v4.new_output("execute_result", data=data)]
    close.outputs = [nbformat.v4.new_output("stream", name="stdout", text="closed")]
    text = nbformat.v4.new_markdown_cell("# Title\n\nNarrative, see [there](04-network.ipynb).")
    found = nbformat.v4.new_notebook(cells=[text, call, close])
    executed.add_notebook(lab, stage, nbformat.writes(found), run=shown.run)


def page_of(lab: Lab, found: Remarks | None = None) -> dict[str, str]:
    """The bodies of the report's blocks."""
    made = blocks.with_remarks(
        blocks.stages(lab), found or Remarks(page="Report", url="", remarks=())
    )
    return {block.name: block.body for block in made.blocks}


def test_before_any_run_the_structure_is_there(lab: Lab) -> None:
    """Each stage has its block, which says what it will answer; so has the closing table."""
    made = page_of(lab)
    assert tuple(made) == ("summary", *NAMES, "remarks")
    assert "''Not run yet.'' It answers:" in made["04-network"]
    assert "* '''R10''' " in made["04-network"]
    assert made["remarks"] == "There is no remark on this page."
    wanted = [stage for stage in STAGES if not stage.only_with]
    assert made["summary"].count("– not run") == len(wanted) - 1


def test_a_stage_shows_its_notebook(lab: Lab) -> None:
    """State first, then narrative and results; links to other notebooks lead to their stages. The record is what
    counts: without the notebook of its run its results are shown alone."""
    notebook_of(lab, result(250, "run-0"))
    ran(lab, result(171))
    body = page_of(lab)["02-rootfs"]
    assert "'''It weighs 171 MB.'''" in body
    assert "250 MB.'''" not in body
    notebook_of(lab, result(171))
    body = page_of(lab)["02-rootfs"]
    assert body.startswith("'''✔ Passed''': 1 of 1 check holds.")
    assert "Narrative, see [[#Network|there]]" in body
    assert "'''It weighs 171 MB.'''" in body
    assert "stage.close()" not in body


def test_a_failure_is_said_before_the_last_good_run(lab: Lab) -> None:
    """What failed is named; what is shown below is said to be older."""
    ran(lab, result(171))
    ran(lab, result(300), failed="rootfs.reduced: {{too}} large", run="run-2")
    body = page_of(lab)["02-rootfs"].split("\n")
    assert body[0].startswith("'''✘ The last run failed'''")
    assert body[1] == "* rootfs.reduced: &#123;&#123;too&#125;&#125; large"
    assert "What follows is the last run that passed." in body
    assert "'''It weighs 171 MB.'''" in body


def test_a_figure_is_read_from_the_outputs_alone(lab: Lab) -> None:
    """A figure's file is uploaded under the hash of its content; no path leads out of the outputs."""
    shown = [Figure(name="a", png=path, svg="", alt="alt", caption="c") for path in ("figures/a.png", "../../secret")]  # fmt: skip
    executed.draw(lab, "run-1", "a.png", PNG)
    (lab.output_dir.parent.parent / "secret").write_bytes(PNG)
    ran(lab, *shown)
    made = blocks.stages(lab)
    assert [item.data for item in made.uploads] == [PNG]
    body = next(block.body for block in made.blocks if block.name == "02-rootfs")
    assert f"[[File:{made.uploads[0].name}|" in body
    assert "(the picture is missing)" in body


def test_remarks_are_listed_without_what_publishing_changes(lab: Lab) -> None:
    """The list on the page says nothing of the blocks' hashes: publishing again changes nothing."""
    thread = Thread(
        number=1, line="REX> why?", block="02-rootfs", section="", text="why?", answer="", state="open"
    )  # fmt: skip
    shown = [
        page_of(lab, Remarks(page="", url="", remarks=(Remark(thread=thread, author="Teacher", written=None, stale=stale),)))["remarks"]
        for stale in (False, True)
    ]  # fmt: skip
    assert shown[0] == shown[1]
    assert "open || 02-rootfs || why?" in shown[0]


@pytest.fixture
def wiki(wiki_lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Lab:
    """A lab with the real wiki, a page and outputs of the test's own."""
    page = wiki_lab.wiki.model_copy(update={"page": request.node.name.replace("_", " ")})
    return wiki_lab.model_copy(update={"wiki": page, "outputs": str(tmp_path / "outputs")})


def written(lab: Lab, change: Callable[[str], str]) -> str:
    """A person changes the page; returns the text of before."""
    with closing((site := session.open(lab)).connection):
        now = site.read(lab.wiki.page).revision
        assert now is not None
        site.save(lab.wiki.page, change(now.text), base=now.number, summary="")
        return now.text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every request that the wiki is sent."""
    found: list[str] = []
    send = transport._sent

    def sent(pool: object, method: str, url: str, data: dict[str, str], files: None) -> object:
        found.append(" ".join(str(data[key]) for key in ("action", "meta") if key in data))
        return send(pool, method, url, data, files)

    monkeypatch.setattr(transport, "_sent", sent)
    return found


@pytest.mark.root
def test_a_report_is_written_once_and_from_what_the_bot_itself_has_read(
    wiki: Lab, asked: list[str]
) -> None:
    """The first publication makes the page; an unchanged report costs two requests: what the wiki is, and the page
    with its pictures and remarks; nobody logs in, nothing is written. A stranger may be shown less of a page: once
    something is to be written, the bot logs in and reads it again; one reading of what was saved serves the check of
    people's lines and of what is left."""
    ran(wiki, result(300))
    first = publication.publish(wiki)
    assert first.changed
    assert first.holds
    assert {row for check in first.checks for row in check.rows} == {"E1", "R12"}
    assert f"{len(STAGES) + 2} added" in first.summary
    asked.clear()
    second = publication.publish(wiki)
    assert second.holds
    assert not second.changed
    assert second.value.revision == first.value.revision
    assert asked == ["query siteinfo", "query tokens|userinfo"]
    ran(wiki, result(171))
    asked.clear()
    assert publication.publish(wiki).holds
    page = "query tokens|userinfo"
    assert asked == [
        "query siteinfo", page,
        "query tokens", "login", "query userinfo|tokens|userinfo", page,
        page, "edit", "edit", page,
    ]  # fmt: skip


@pytest.mark.root
def test_a_changed_number_is_told_wherever_the_report_is_told(wiki: Lab, asked: list[str]) -> None:
    """By the publication, at the block's head, in the listing and for the review site; also after a new run. An
    unchanged report still costs two requests."""
    ran(wiki, result(1800))
    publication.publish(wiki)
    with closing((student := session.open(wiki, student=True)).connection):
        now = student.read(wiki.wiki.page).revision
        assert now is not None
        new = now.text.replace("'''It weighs 1800 MB.'''", "'''It weighs 9900 MB.'''")
        student.save(wiki.wiki.page, new, base=now.number, summary="")
    for megabytes in (1800, 2000):
        ran(wiki, result(megabytes))
        done = publication.publish(wiki)
        assert done.holds
        assert "1 change of labkit's lines, by Student." in done.summary
        [row] = done.table("altered").rows
        assert row[:3] == ("02-rootfs", "changed", "Student")
        assert row[4:6] == (f"It weighs {megabytes} MB.", "It weighs 9900 MB.")
        kept = discussion.last(wiki)
        assert kept is not None
        assert kept.about("02-rootfs").altered == done.value.altered
        text = written(wiki, lambda text: text)
        notice = fences.parse(text, "").find("02-rootfs").notice  # type: ignore[union-attr]
        assert "Student, 20" in notice
        assert f"<code>It weighs {megabytes} MB.</code>" in notice
        asked.clear()
        assert not publication.publish(wiki).changed
        assert asked == ["query siteinfo", "query tokens|userinfo"]
    listed = discussion.remarks(wiki)
    assert listed.table("altered").rows == done.table("altered").rows
    assert "1 change of labkit's lines, by Student." in listed.summary
