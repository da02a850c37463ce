"""The remarks on the review site: on its index, and on the page of the stage that each is about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from labkit import Lab
from labkit.core.files import write_atomically
from labkit.report.site import discussion
from labkit.report.site.discussion import Listing
from labkit.report.stages.record import Entry
from labkit.wiki.merge.page_merge import Altered, Authorship
from labkit.wiki.remarks.listing import Addressed, Remark, Remarks, Vanished
from tests import test_review as site_tests
from tests.test_remarks import remark
from tests.test_review import HOSTILE, keep, result, site

lab = site_tests.lab
READ = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def listed(lab: Lab, *found: Remark, page: str = "Report") -> None:
    """The remarks were read from the wiki."""
    remarks = Remarks(page=page, url="http://127.0.0.1/wiki/Report", remarks=found, revision=3)
    kept = Listing(read=READ, run="r", remarks=remarks)
    write_atomically(discussion.file(lab), kept.model_dump_json())


def on(block: str, text: str, **other: Any) -> Remark:
    """A remark on a block."""
    made = remark(text, **other)
    return made.model_copy(update={"thread": made.thread.model_copy(update={"block": block})})


def test_each_remark_is_told_where_it_belongs(lab: Lab) -> None:
    """All on the index with what became of each; on a stage's page its own alone."""
    keep(lab, "04-network", Entry(cell=3, result=result()))
    keep(lab, "05-web", Entry(cell=3, result=result()))
    given = Addressed(
        stage="05-web", cell=3, run="r", summary="Six of six.", holds=True, started=READ
    )
    listed(
        lab,
        on("04-network", "REX> Both ways?\n: Yes &lt;both&gt;.", id="aaaa0000", stale=True, run="r1", now="r2"),
        on("05-web", "REX> All six?", id="bbbb0000", state="answered", addressed=(given,)),
        on("", "REX> Good so far.", id="cccc0000"),
    )  # fmt: skip
    pages = site(lab)
    index = pages["index.html"]
    for said in (
        "1 of 3", "remarks open", "2026-01-02 03:04 UTC", "? open", "✔ answered", "Both ways?",
        "Yes <both>.", "05-web, cell 3", ": Six of six.", "Teacher", "aaaa0000", "the page's beginning",
        "was made on run r1, block now of run r2",
    ):  # fmt: skip
        assert said in index.text, said
    assert "remark-cccc0000" in index.identifiers
    assert "Both ways?" in pages["04-network.html"].text
    assert "All six?" not in pages["04-network.html"].text
    assert "All six?" in pages["05-web.html"].text
    assert not site_tests.review.build(lab).changed  # the same remarks give the same bytes


def test_what_people_changed_is_told(lab: Lab) -> None:
    """Labkit's lines that somebody changed, remarks that others took away or called settled: on the index, and on the
    page of the stage."""
    keep(lab, "04-network", Entry(cell=3, result=result()))
    keep(lab, "05-web", Entry(cell=3, result=result()))
    by = Authorship(user="Student", time=READ)
    remarks = Remarks(
        page="Report", url="", revision=3,
        remarks=(on("04-network", "REX> Both ways?", claims=(by,), owner="Teacher", author="Student"),),
        vanished=(Vanished(line="REX> Show it.", author="Teacher", written=READ, block="05-web", section="", by=by),),
        altered=(Altered(block="05-web", ours="1,800 requests", theirs="9,900 requests", by=by),),
    )  # fmt: skip
    write_atomically(
        discussion.file(lab), Listing(read=READ, run="r", remarks=remarks).model_dump_json()
    )
    pages = site(lab)
    changed = (
        "1,800 requests",
        "9,900 requests",
        "Student",
        "2026-01-02 03:04",
        "Show it.",
        "deleted",
    )
    claimed = ("settled by Student (not the asker)", "Student, rewriting Teacher's")
    for said in (*changed, *claimed):
        assert said in pages["index.html"].text, said
    assert all(said in pages["05-web.html"].text for said in changed)
    assert all(said in pages["04-network.html"].text for said in claimed)
    assert "9,900" not in pages["04-network.html"].text


def test_no_remark_is_said_so(lab: Lab) -> None:
    """Read and none found is said; never read is not said at all."""
    keep(lab, "04-network", Entry(cell=3, result=result()))
    assert "Remarks" not in site(lab)["index.html"].text
    listed(lab)
    assert "There was no remark on it." in site(lab)["index.html"].text
    assert "Remarks" not in site(lab)["04-network.html"].text


@pytest.mark.parametrize("place", ["04-network", HOSTILE])
def test_a_hostile_remark_is_only_text(lab: Lab, place: str) -> None:
    """Nothing of a page of the wiki acts on the site, and no link leads out of it."""
    keep(lab, "04-network", Entry(cell=1, result=result()))
    (lab.output_dir / "lab.toml").touch()
    given = Addressed(stage=HOSTILE, cell=1, run="r", summary=HOSTILE, holds=True, started=READ)
    bad = on(
        place, f"REX> {HOSTILE}\n: {HOSTILE}", author=HOSTILE, stale=True, run=HOSTILE, addressed=(given,)
    )  # fmt: skip
    listed(lab, bad, page=HOSTILE)
    pages = site(lab)
    assert HOSTILE in pages["index.html"].text
    for page in pages.values():
        assert not {"script", "iframe", "img"} & {tag for tag, _ in page.elements}
        assert not [
            link for link in page.addresses if "://" in link or link.startswith("javascript")
        ]
