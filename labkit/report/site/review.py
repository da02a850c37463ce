"""Builds the review site: fills the templates of its index and stage pages, and signs what it wrote.

It needs no server, no script and nothing from outside its folder. All that programs wrote is
escaped; what the pages say is only what the stages' records and executed notebooks say.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from labkit import __version__, display
from labkit.checks import Check, failed
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted
from labkit.errors import StateError
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.site import discussion, hypertext, pages
from labkit.report.site.pages import Page, StageView
from labkit.report.stages import record as records
from labkit.report.stages import signing
from labkit.report.stages.assignment import ICONS, ROWS
from labkit.report.stages.closing import judged_rows, row_answers, task_states
from labkit.report.stages.signing import New
from labkit.wiki.merge import page_merge
from labkit.wiki.remarks import listing as listings
from labkit.wiki.render import wikitext

#: The table rows that a page shows before the rest is folded.
ROWS_SHOWN = 12
#: A table with more rows than the first number shows the second number of them.
LONG, FEW_SHOWN = 100, 4
#: A rest of no more than this is shown, too: to unfold it takes longer than to read it.
REST = 3


class Site(Record):
    """A review site that was built: where its index is (relative to the lab's outputs), its pages."""

    index: str
    pages: tuple[str, ...]


@action("report.review")
def build(lab: Lab) -> Outcome[Site]:
    """Makes ``outputs/LAB/review/`` hold the site of what is in the outputs now, and nothing older.

    The same outputs give the same bytes. A check for each stage says how the site shows it.
    """
    shown = pages.stages(lab)
    files = {"index.html": _index(lab, shown).encode()}
    for stage in shown:
        for page in stage.pages:
            files[page.file] = _stage(lab, shown, stage, page).encode()
            files |= {f"pictures/{item.file}": item.data for item in page.pictures if item.data}
            files |= page.files
    folder = lab.output_dir / "review"
    new = {f"review/{name}": data for name, data in files.items()}
    old = (*folder.glob("*.html"), *folder.glob("pictures/*.*"))
    strays = [str(path.relative_to(lab.output_dir)) for path in old]
    changed = signing.commit(lab, {"review": New("", new)}, strays, anew=False)
    with signing.reading(lab) as found:
        unsigned = [name for name in new if found.read(name) is None]
    wanted = [stage for stage in shown if stage.state != "skipped"]
    passed = sum(stage.state == "passed" for stage in shown)
    stale = sum(stage.state == "stale" for stage in shown)
    return Outcome(
        value=Site(index="review/index.html", pages=tuple(sorted(files))),
        subject=lab.name,
        summary=f"{passed} of {counted(len(wanted), 'stage')} passed{f', {stale} stale' if stale else ''}; the review site is {folder}/index.html.",
        changed=changed,
        checks=(*(_check(stage) for stage in wanted), *([_unsigned(unsigned)] if unsigned else [])),
    )


def _check(stage: StageView) -> Check:
    record = stage.page.record if stage.page else None
    why = f", because {stage.stale}" if stage.state == "stale" else ""
    return Check(
        name=f"review.{stage.plan.name}",
        expected="passed",
        seen="; ".join(
            [
                f"{stage.state}{why}",
                *(record.problems if record else ()),
                *filter(None, [stage.reason]),
            ]
        ),
        holds=stage.state == "passed" and not stage.reason,
        again="labkit rebuild" if why else f"labkit run {stage.plan.name}",
    )


def _unsigned(names: Sequence[str]) -> Check:
    return Check(
        name="review.signed",
        expected="its pages are signed with the lab's key",
        seen=f"{counted(len(names), 'new page')} not signed: who cannot read the key of these outputs built the site",
        holds=False,
        again="sudo labkit review",
    )


def _index(lab: Lab, shown: tuple[StageView, ...]) -> str:
    try:
        found = records.latest(lab)
    except StateError:  # the damaged stage says so itself; the tables are of the others
        found = tuple(stage.page.record for stage in shown if stage.page)
    stale = {stage.plan.name: stage.stale for stage in shown if stage.stale}
    of, parameters = pages.ran(lab, shown)
    return _TEMPLATES.get_template("index.html.j2").render(
        lab=of,
        shown=shown,
        stale=stale,
        tasks=task_states(found, stale),
        answers=row_answers(found),
        judged=judged_rows(found, stale),
        icons=ICONS,
        rows=ROWS,
        files=_files(shown),
        listing=discussion.last(lab),
        parameters=parameters,
        pictures=[(page, item) for s in shown if (page := s.page) for item in page.pictures],
    )


def _stage(lab: Lab, shown: tuple[StageView, ...], stage: StageView, page: Page) -> str:
    place = shown.index(stage)
    checks = page.record.checks
    listing = discussion.last(lab)
    return _TEMPLATES.get_template("stage.html.j2").render(
        lab=lab,
        stage=stage,
        page=page,
        record=page.record,
        files=_files(shown),
        listing=listing,
        asked=listing.about(stage.plan.name) if listing else None,
        checks=[*failed(checks), *(check for check in checks if check.holds)],
        before=next((s.page for s in reversed(shown[:place]) if s.page), None),
        after=next((s.page for s in shown[place + 1 :] if s.page), None),
    )


def _files(shown: tuple[StageView, ...]) -> dict[str, str]:
    """The page of each stage that has one."""
    return {stage.plan.name: stage.page.file for stage in shown if stage.page}


def _shown_of(table: Table) -> int:
    """How many of a table's rows are shown before the rest is folded."""
    return _head_of(table.rows, FEW_SHOWN if len(table.rows) > LONG else ROWS_SHOWN)


def _head_of(items: Sequence[object], most: int = ROWS_SHOWN) -> int:
    return len(items) if len(items) - most <= REST else most


def _is_wide(table: Table) -> bool:
    """Whether a table has cells that hold a paragraph."""
    return any(isinstance(cell, str) and len(cell) > 60 for row in table.rows for cell in row)


_TEMPLATES = Environment(
    loader=PackageLoader("labkit.report.site"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_TEMPLATES.filters |= {
    "counted": counted, "when": pages.when, "duration": display.duration, "human": display.human,
    "plain": wikitext.plain, "breakable": hypertext.breakable,
}  # fmt: skip
_TEMPLATES.globals |= {
    "altered_of": page_merge.altered_table, "vanished_of": listings.vanished, "version": __version__,
    "head_of": _head_of, "shown_of": _shown_of, "wide": _is_wide,
}  # fmt: skip
