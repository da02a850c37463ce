"""The report on the wiki: published, and planned, from what the stages left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from labkit import journal
from labkit.checks import Check
from labkit.lab import Lab
from labkit.report.blocks import Pages, pages
from labkit.result import Cell, Outcome, Table, action, run_id
from labkit.wiki import publish as publishing
from labkit.wiki import remarks, server, session
from labkit.wiki.publish import Published


@action("report.publish")
def publish(lab: Lab, *, restore: Sequence[str] = ()) -> Outcome[Published]:
    """The wiki's page ``wiki.page`` shows all stages as they last ran; people's lines are kept.

    A stage that never ran has a block that says what it will answer. A block that a person deleted
    is left out unless ``restore`` names it. The lab's own wiki is brought up. Raises
    :class:`WikiError` when the wiki refuses or a fence of the page is damaged (the page stays as
    it is then), :class:`StateError` when a stage's record is damaged.
    """
    server.up(lab)
    with journal.lock(lab.run_dir, "wiki"):
        site = session.open(lab)
        with closing(site.connection):
            made = pages(lab, remarks.collect(site, lab.wiki.page, remarks.folder(lab)))
            done = publishing.apply(
                site, lab.wiki.page, made.blocks, made.uploads,
                folder=folder(lab), restore=restore, note=f"run {run_id()}",
            )  # fmt: skip
            again = publishing.plan(
                site, lab.wiki.page, made.blocks, made.uploads, folder=folder(lab)
            )
    return Outcome(
        value=done,
        subject=done.url,
        summary=sentence(done),
        changed=done.changed,
        checks=checks(done, again, made),
        tables=(table(done),),
    )


@action("report.plan")
def plan(lab: Lab, *, restore: Sequence[str] = ()) -> Outcome[publishing.Plan]:
    """What :func:`publish` would write on the page as it is now, block by block; nothing is written."""
    site = session.open(lab)
    with closing(site.connection):
        made = pages(lab, remarks.collect(site, lab.wiki.page, remarks.folder(lab)))
        found = publishing.plan(
            site, lab.wiki.page, made.blocks, made.uploads, folder=folder(lab), restore=restore
        )
    counts = Counter(change.state for change in found.changes)
    said = ", ".join(f"{number} {state}" for state, number in counts.items())
    return Outcome(
        value=found,
        subject=publishing.url(site, found.page),
        summary=f"Publishing would leave the blocks so: {said}; {len(found.missing)} pictures are missing.",
    )


def folder(lab: Lab) -> Path:
    """Where this machine keeps what labkit wrote on the wiki."""
    return lab.state_dir / "wiki" / "pristine"


def checks(done: Published, again: publishing.Plan, made: Pages) -> tuple[Check, ...]:
    """What holds of the page after the publication."""
    there = len(made.blocks) - sum(c.state in ("added", "deleted") for c in again.changes)
    left_out = f", {len(done.deleted)} deleted by people" if done.deleted else ""
    put_back = f", {len(done.put_back)} of them put back" if done.put_back else ""
    pictures = len(made.uploads) - len(again.missing)
    seen = "nothing is left to write" if not again.changed else _left(again)
    return (
        Check(
            name="publish.blocks", expected=f"{len(made.blocks)} blocks on the page",
            seen=f"{there} on it{left_out}", holds=there + len(done.deleted) == len(made.blocks),
            rows=("E1", "R12"), again=done.url,
        ),
        Check(
            name="publish.pictures", expected=f"{len(made.uploads)} pictures in the wiki",
            seen=f"{pictures} in it", holds=pictures == len(made.uploads), again=done.url,
        ),
        Check(
            name="publish.people", expected=f"{done.people} or more lines of people's on the page",
            seen=f"{again.people} on it{put_back}", holds=again.people >= done.people,
            again=f"{done.url}?action=history",
        ),
        Check(
            name="publish.unchanged", expected="nothing is left to write", seen=seen,
            holds=not again.changed, rows=("E1",), again="labkit publish",
        ),
    )  # fmt: skip


def sentence(done: Published) -> str:
    """What the publication did, in a sentence."""
    if not done.changed:
        return f"The report at {done.url} was as it should be: nothing was written."
    counts = Counter(change.state for change in done.changes)
    states = [f"{counts[state]} {state}" for state in ("added", "changed", "unchanged", "deleted") if counts[state]]  # fmt: skip
    return (
        f"The report is at {done.url}: of {len(done.changes)} blocks {', '.join(states)}; "
        f"{len(done.uploaded)} pictures uploaded, {done.people} lines of people's kept."
    )


def table(done: Published) -> Table:
    """What happened to each block."""
    rows: list[dict[str, Cell]] = [
        {"block": change.name, "state": change.state, "people's lines in it": len(change.kept)}
        for change in done.changes
    ]
    return Table.of("blocks", "Blocks of the report's page", rows)


def _left(again: publishing.Plan) -> str:
    """What a publication would still write."""
    names = [change.name for change in again.changes if change.state in ("added", "changed")]
    return ", ".join([*names, *again.missing]) or "the list of blocks"
