"""The review site."""

from __future__ import annotations

from pathlib import Path

from labkit.lab import Lab
from labkit.result import Outcome, Record, action


class Site(Record):
    """A review site that was built: its index, below the lab's outputs."""

    index: str
    pages: tuple[str, ...]


@action("report.review")
def build(lab: Lab) -> Outcome[Site]:
    """Builds the site."""
    raise NotImplementedError


def refresh(lab: Lab, *, ran: bool) -> Path:
    """Builds the site when a stage ran or there is none yet; where its index is."""
    return lab.output_dir / "review" / "index.html"
