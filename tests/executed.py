"""What a stage's run leaves besides its record, for tests that keep records without running a notebook."""

from __future__ import annotations

from labkit import Lab
from labkit.core.result import drafts
from labkit.report.stages import record as records
from labkit.report.stages import signing


def add_notebook(lab: Lab, stage: str, text: str, ending: str = "ipynb", run: str = "run1") -> None:
    """The stage's run has left this executed notebook, too, and labkit has signed it."""
    part = stage if ending == "ipynb" else f"{stage}.failed"
    with signing.reading(lab) as found:
        there = found.manifest.parts.get(part)
    others = dict.fromkeys(there.files) if there else {}
    name = f"notebooks/{records.notebook_file(lab, stage, ending).name}"
    signing.commit(lab, {part: signing.New(run, {**others, name: text.encode()})})


def draw(lab: Lab, run: str, name: str, data: bytes) -> None:
    """The run has drawn a picture, which waits until its record is kept."""
    folder = drafts(lab, run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
