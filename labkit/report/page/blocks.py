"""Makes the blocks of the report's page as wikitext, from the stages' records and executed notebooks."""

from __future__ import annotations

from collections.abc import Mapping

from labkit.core.tables import Table
from labkit.display import counted
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.site import discussion
from labkit.report.site.pages import ICONS
from labkit.report.stages import build_cache, signing
from labkit.report.stages import record as records
from labkit.report.stages.assignment import REPORT, ROWS, STAGES, StagePlan, plan, skipped
from labkit.report.stages.closing import (
    closing_of,
    coverage_table,
    judged_rows,
    row_answers,
    task_table,
)
from labkit.report.stages.record import StageRecord
from labkit.wiki.client.protocol import Features, Upload
from labkit.wiki.merge import fences
from labkit.wiki.merge.fences import Block
from labkit.wiki.remarks import listing, threads
from labkit.wiki.remarks.listing import Remarks
from labkit.wiki.render import notebook, wikitext
from labkit.wiki.render.writing import Place, Written, page_name


class Pages(Record):
    """What the report's page is made of, from these records (of each stage's last run)."""

    latest: tuple[StageRecord, ...]
    blocks: tuple[Block, ...]
    uploads: tuple[Upload, ...]


def stages(lab: Lab, features: Features | None = None) -> Pages:
    """The report's blocks and pictures, from what the stages left in the lab's outputs, for a wiki that
    has these features (all of them where none are given), without the block that lists the remarks."""
    latest = {record.stage: record for record in records.latest(lab)}
    stale = build_cache.stale(lab, tuple(latest.values()))
    uploads: dict[str, Upload] = {}
    blocks = [fences.block("summary", "", summary(lab, latest, stale))]
    for stage in STAGES:
        record = latest.get(stage.name)
        why = stale.get(stage.name, "")
        shown = (
            own(latest, stale)
            if stage.name == REPORT
            else rendered(lab, stage, record, features, why)
        )
        uploads |= {item.name: item for item in shown.uploads}
        blocks.append(fences.block(stage.name, wikitext.heading(stage.title, 2), shown.text))
    return Pages(
        latest=tuple(latest.values()), blocks=tuple(blocks), uploads=tuple(uploads.values())
    )


def with_remarks(made: Pages, found: Remarks) -> Pages:
    """These pages with the block that lists the remarks. Pure."""
    asked = discussion.with_results(found, made.latest)
    block = fences.block(threads.LIST, wikitext.heading("Remarks", 2), listed(asked))
    return made.model_copy(update={"blocks": (*made.blocks, block)})


def summary(lab: Lab, latest: Mapping[str, StageRecord], stale: Mapping[str, str]) -> str:
    """The page's beginning: what it is, the stages at a glance, how to write a remark."""
    rows = [_line(lab, s, latest.get(s.name), s.name in stale) for s in STAGES if s.name != REPORT]
    head = ["Stage", "State", "Checks that hold", "Answers", "Took", "Begun (UTC)"]
    return "\n\n".join(
        (
            "The lab writes this report itself, from what its stages measured. "
            f"The tasks and their states are in {_link(plan(REPORT), plan(REPORT).title)}.",
            wikitext.grid(head, rows),
            "'''To remark on something''', begin a line with <code>REX&gt;</code>, anywhere on this"
            " page, and end it with your signature. A line that begins with <code>:</code> directly"
            " under a remark answers it; <code>REX&gt; settled</code> there, by who asked or by a teacher, settles it."
            " What you write stays when the report is published again; what you change in labkit's own lines"
            " is told at the head of their part.",
        )
    )


def rendered(
    lab: Lab,
    stage: StagePlan,
    latest: StageRecord | None,
    features: Features | None = None,
    stale: str = "",
) -> Written:
    """A stage's block: its state, then its last passed run as its notebook shows it. ``latest`` is the
    record of its last run, if it has one; ``stale`` why that is, if it is."""
    bad = latest if latest and latest.state == "failed" else None
    good = records.read(lab, stage.name) if bad else latest
    if good is None and bad is None:
        return Written(_to_come(lab, stage))
    parts = [f"'''{ICONS['stale']} Stale''', because {wikitext.literal(stale)}."] if stale else []
    parts += [_failure(bad, good)] if bad else []
    shown = _shown(lab, stage, good, features or Features()) if good else None
    parts += [_status(stage, good), shown.text] if good and shown else []
    body = "\n\n".join(part for part in parts if part)
    return Written(body, shown.uploads if shown else ())


def own(latest: Mapping[str, StageRecord], stale: Mapping[str, str]) -> Written:
    """The closing block: the tasks, and what answers each row of the assignment.

    It says nothing of the stage that publishes, so that publishing again finds it unchanged.
    """
    result = closing_of(tuple(latest.values()), stale)
    others = [record for record in latest.values() if record.stage != REPORT]
    found, old = row_answers(others, (result,)), stale.keys() - {REPORT}
    answered = coverage_table(found, judged_rows(others, old, (result,)), old)
    parts = (
        wikitext.heading("The tasks", 3),
        f"'''{wikitext.literal(result.summary)}'''",
        wikitext.table(task_table(result.value.tasks)),
        wikitext.heading("The assignment's rows", 3),
        wikitext.table(answered, longest=100),
    )
    return Written("\n\n".join(parts))


def listed(found: Remarks) -> str:
    """The list of the remarks, a block of its own: a remark changes no stage's block.

    It says nothing of what publishing itself changes, so that publishing again finds it unchanged.
    """
    gone = [wikitext.table(listing.vanished(found.vanished), longest=100)] if found.vanished else []
    if not found.remarks:
        return "\n\n".join(["There is no remark on this page.", *gone])
    every = listing.table(found)
    names = [column.name for column in every.columns]
    rows = [dict(zip(names, row, strict=True)) for row in every.rows]
    lasting = [name for name in names if name != "since then"]
    told = Table.of(every.name, every.title, rows, columns=lasting)
    return "\n\n".join([wikitext.table(told, longest=100), *gone])


def _line(lab: Lab, stage: StagePlan, record: StageRecord | None, stale: bool) -> list[str]:
    """A stage's row in the summary."""
    name = _link(stage, stage.title)
    rows = ", ".join(stage.rows)
    if record is None:
        return [name, "– skipped" if skipped(stage, lab) else "– not run", "", rows, "", ""]
    held = f"{record.held} of {len(record.checks)}"
    begun = f"{record.started:%Y-%m-%d %H:%M}"
    took = f"<small>{record.seconds:.1f} s</small>"
    state = "stale" if stale and record.state == "passed" else record.state
    return [name, f"{ICONS[state]} {state}", held, rows, took, begun]


def _link(stage: StagePlan, text: str) -> str:
    label = wikitext.literal(text, begins=False, ends=False)
    return f"[[{page_name(f'#{stage.title}')}|{label}]]"


def _status(stage: StagePlan, record: StageRecord) -> str:
    """A run's state, in a line."""
    answers = f"Answers {', '.join(stage.rows)} · " if stage.rows else ""
    return (
        f"'''{ICONS[record.state]} {record.state.capitalize()}''': {record.held} of "
        f"{counted(len(record.checks), 'check', 'hold')}. <small>{answers}{record.started:%Y-%m-%d %H:%M} UTC"
        f" · {record.seconds:.1f} s · {_run(record)}</small>"
    )


def _run(record: StageRecord) -> str:
    """The run, as :func:`labkit.wiki.remarks.threads.run_of` reads it at the end of small print."""
    return f"run {wikitext.literal(record.run, begins=False)}"


def _failure(bad: StageRecord, good: StageRecord | None) -> str:
    """That the last run failed, why, and what is shown instead."""
    said = [f"* {wikitext.literal(problem)}" for problem in bad.problems]
    rest = ["", "What follows is the last run that passed."] if good else []
    when = f"{bad.started:%Y-%m-%d %H:%M} UTC · {_run(bad)}"
    first = f"'''✘ The last run failed''' <small>({when})</small>"
    return "\n".join([first, *said, *rest])


def _to_come(lab: Lab, stage: StagePlan) -> str:
    """What a stage that never ran will answer, or why the lab skips it."""
    if why := skipped(stage, lab):
        return f"''Skipped: {wikitext.literal(why, begins=False)}.''"
    said = [f"* '''{row}''' {wikitext.literal(ROWS[row], begins=False)}" for row in stage.rows]
    return "\n".join(["''Not run yet.'' It answers:", *said])


def _shown(lab: Lab, stage: StagePlan, record: StageRecord, features: Features) -> Written:
    """The run as its executed notebook shows it."""
    cells = records.notebook_of(lab, record)["cells"]
    cells = [cell for cell in cells if "".join(cell["source"]).strip() != "stage.close()"]
    titles = {f"{item.name}.ipynb": f"#{item.title}" for item in STAGES}
    place = Place(
        least=3, name=stage.name, link=titles.get, features=features,
        read=lambda path: signing.read(lab, path),
    )  # fmt: skip
    return notebook.render({"cells": cells}, place=place)
