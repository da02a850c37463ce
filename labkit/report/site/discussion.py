"""Reads the remarks on the report's page from the wiki, with the results that address them, and keeps them for the site."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from labkit import reading
from labkit.checks import Check
from labkit.core.files import write_atomically
from labkit.core.result import Outcome, action, run_id
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.stages import record as records
from labkit.report.stages.record import StageRecord
from labkit.wiki.client import session
from labkit.wiki.remarks import listing
from labkit.wiki.remarks.listing import Addressed, Remarks
from labkit.wiki.remarks.threads import State


class Listing(Record):
    """The remarks as they were read at a time (UTC), in a run."""

    read: datetime
    run: str
    remarks: Remarks

    def about(self, stage: str) -> Remarks:
        """Those on a stage's block, and what was changed there."""
        found = self.remarks
        return found.model_copy(
            update={
                "remarks": tuple(one for one in found.remarks if one.thread.block == stage),
                "vanished": tuple(one for one in found.vanished if one.block == stage),
                "altered": tuple(one for one in found.altered if one.block == stage),
            }
        )


@action("report.remarks")
def remarks(lab: Lab, *, only: State | None = None) -> Outcome[Remarks]:
    """The remarks of the report's page as it is now, those in one state with ``only``; the wiki is
    asked and not changed.

    All of them are kept as ``results/remarks.json`` in the lab's outputs, where the review site finds
    them. Raises :class:`WikiError` when the wiki does not answer.
    """
    with closing(session.open(lab)) as wiki:
        collected = listing.collect(wiki, lab.wiki.page, listing.folder(lab))
    latest = records.latest(lab)
    found = keep(lab, collected, latest)
    shown = found.model_copy(update={"remarks": found.of(only)}) if only else found
    return Outcome(
        value=shown,
        subject=found.url,
        summary=listing.sentence(found),
        checks=_unknown(found, latest),
        tables=listing.tables(shown),
    )


def keep(lab: Lab, collected: Remarks, latest: Sequence[StageRecord]) -> Remarks:
    """The remarks with the results that address them, kept for the review site."""
    found = with_results(collected, latest)
    kept = Listing(read=datetime.now(UTC).replace(microsecond=0), run=run_id(), remarks=found)
    write_atomically(file(lab), kept.model_dump_json(indent=1) + "\n")
    return found


def with_results(found: Remarks, latest: Sequence[StageRecord]) -> Remarks:
    """The remarks with the results that address them, of each stage's last run. Pure."""
    given = [
        (
            identity,
            Addressed(
                stage=record.stage, cell=entry.cell, run=record.run, summary=entry.result.summary,
                holds=entry.result.holds and record.state == "passed", started=entry.result.started,
            ),
        )
        for record in latest
        for entry in record.entries
        if entry.result
        for identity in entry.addresses
    ]  # fmt: skip
    return listing.addressed(found, given)


def file(lab: Lab) -> Path:
    """Where the remarks are kept as they were last read."""
    return lab.output_dir / "results" / "remarks.json"


def last(lab: Lab) -> Listing | None:
    """The remarks as they were last read; None when they never were, or the file is damaged."""
    try:
        return Listing.model_validate_json(reading.content(file(lab)))
    except (OSError, ValueError, ValidationError):
        return None


def _unknown(found: Remarks, latest: Sequence[StageRecord]) -> tuple[Check, ...]:
    """The check that each remark that a result addresses is on the page; none when no result does."""
    named = {
        identity for record in latest for entry in record.entries for identity in entry.addresses
    }
    missing = sorted(named - {remark.id for remark in found.remarks})
    if not named:
        return ()
    seen = f"not on the page: {', '.join(missing)}" if missing else "all on the page"
    return (
        Check(
            name="remarks.addressed",
            expected=f"{len(named)} remark{'' if len(named) == 1 else 's'} that results address, on the page",
            seen=seen, holds=not missing, again="labkit remarks",
        ),
    )  # fmt: skip
